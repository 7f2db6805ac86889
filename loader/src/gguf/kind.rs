//! The ways in which GGML stores a tensor's elements.

use std::fmt;

/// One way: its number in files, its name, and how many bytes a block of how many elements takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Its number in files.
    pub id: u32,
    /// Its name, as GGML spells it.
    pub name: &'static str,
    /// Elements of a block; a row is a whole number of blocks.
    pub block: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

const fn kind(id: u32, name: &'static str, block: usize, block_bytes: usize) -> Kind {
    Kind { id, name, block, block_bytes }
}

/// All that files may hold today (`ggml_type` of ggml.h; the numbers that are missing were withdrawn).
const KINDS: [Kind; 31] = [
    kind(0, "F32", 1, 4),
    kind(1, "F16", 1, 2),
    kind(2, "Q4_0", 32, 18),
    kind(3, "Q4_1", 32, 20),
    kind(6, "Q5_0", 32, 22),
    kind(7, "Q5_1", 32, 24),
    kind(8, "Q8_0", 32, 34),
    kind(9, "Q8_1", 32, 36),
    kind(10, "Q2_K", 256, 84),
    kind(11, "Q3_K", 256, 110),
    kind(12, "Q4_K", 256, 144),
    kind(13, "Q5_K", 256, 176),
    kind(14, "Q6_K", 256, 210),
    kind(16, "IQ2_XXS", 256, 66),
    kind(17, "IQ2_XS", 256, 74),
    kind(18, "IQ3_XXS", 256, 98),
    kind(19, "IQ1_S", 256, 50),
    kind(20, "IQ4_NL", 32, 18),
    kind(21, "IQ3_S", 256, 110),
    kind(22, "IQ2_S", 256, 82),
    kind(23, "IQ4_XS", 256, 136),
    kind(24, "I8", 1, 1),
    kind(25, "I16", 1, 2),
    kind(26, "I32", 1, 4),
    kind(27, "I64", 1, 8),
    kind(28, "F64", 1, 8),
    kind(29, "IQ1_M", 256, 56),
    kind(30, "BF16", 1, 2),
    kind(34, "TQ1_0", 256, 54),
    kind(35, "TQ2_0", 256, 66),
    kind(39, "MXFP4", 32, 17),
];

impl Kind {
    /// The kind of this number.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.id == id)
    }

    /// Bytes of a row of `elements`; `None` where they are no whole number of blocks or too many.
    #[must_use]
    pub fn row_bytes(self, elements: usize) -> Option<u64> {
        if !elements.is_multiple_of(self.block) {
            return None;
        }
        (elements / self.block).checked_mul(self.block_bytes).map(|bytes| bytes as u64)
    }
}
