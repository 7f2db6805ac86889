//! Number formats: how the numbers of a tensor lie in memory.

/// Numbers in a block of Q8_0.
pub const Q8_0_NUMBERS: usize = 32;
/// Bytes of a block of Q8_0.
pub const Q8_0_BYTES: usize = 2 + Q8_0_NUMBERS;

/// The number formats that kernels read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// How kernels read a matrix in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// GGUF's Q8_0: blocks of 32 numbers of a row, each a binary16 scale and 32 signed bytes.
    Q8_0,
}

impl Format {
    /// Bytes of one row of `columns` numbers; those of Q8_0 are multiples of 32.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::F32 => 4 * columns,
            Self::F16 | Self::Bf16 => 2 * columns,
            Self::Q8_0 => columns / Q8_0_NUMBERS * Q8_0_BYTES,
        }
    }
}

impl From<Float> for Format {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::F16 => Self::F16,
            Float::Bf16 => Self::Bf16,
        }
    }
}
