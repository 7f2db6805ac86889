//! Number formats: how the numbers of a stored tensor lie in memory.
//!
//! One noun for every file: safetensors' types and GGML's, by their files' own names. A format says how large a row
//! is; it does not know how to read one.

use std::fmt;

/// The unit of a row: so many numbers lie together in so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// Numbers in a block.
    pub numbers: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

/// Declares the formats and the tables of their names and blocks, one row each.
macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $numbers:literal in $bytes:literal;)*) => {
        /// The layout of a stored tensor's numbers in memory. All are little-endian.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Format {
            $($(#[$doc])* $variant,)*
        }

        impl Format {
            /// Every format.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the files that have it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The unit of a row.
            #[must_use]
            pub const fn block(self) -> Block {
                match self { $(Self::$variant => Block { numbers: $numbers, bytes: $bytes },)* }
            }
        }
    };
}

formats! {
    /// A truth value in a byte.
    Bool, "BOOL", 1 in 1;
    /// Four bits: OCP's E2M1 in safetensors, two numbers to a byte.
    F4, "F4", 2 in 1;
    /// Six bits: two of exponent, three of mantissa.
    F6E2M3, "F6_E2M3", 4 in 3;
    /// Six bits: three of exponent, two of mantissa.
    F6E3M2, "F6_E3M2", 4 in 3;
    /// An unsigned byte.
    U8, "U8", 1 in 1;
    /// A signed byte.
    I8, "I8", 1 in 1;
    /// Eight bits: five of exponent, two of mantissa.
    F8E5M2, "F8_E5M2", 1 in 1;
    /// Eight bits: four of exponent, three of mantissa.
    F8E4M3, "F8_E4M3", 1 in 1;
    /// A power of two in eight bits: a scale.
    F8E8M0, "F8_E8M0", 1 in 1;
    /// E4M3 without infinities and without a negative zero.
    F8E4M3Fnuz, "F8_E4M3FNUZ", 1 in 1;
    /// E5M2 without infinities and without a negative zero.
    F8E5M2Fnuz, "F8_E5M2FNUZ", 1 in 1;
    /// Sixteen bits, signed.
    I16, "I16", 1 in 2;
    /// Sixteen bits, unsigned.
    U16, "U16", 1 in 2;
    /// IEEE 754 binary16.
    F16, "F16", 1 in 2;
    /// The upper half of a binary32.
    Bf16, "BF16", 1 in 2;
    /// Thirty-two bits, signed.
    I32, "I32", 1 in 4;
    /// Thirty-two bits, unsigned.
    U32, "U32", 1 in 4;
    /// IEEE 754 binary32.
    F32, "F32", 1 in 4;
    /// Two binary32: a complex number.
    C64, "C64", 1 in 8;
    /// IEEE 754 binary64.
    F64, "F64", 1 in 8;
    /// Sixty-four bits, signed.
    I64, "I64", 1 in 8;
    /// Sixty-four bits, unsigned.
    U64, "U64", 1 in 8;
    /// GGML: 4 bits, a scale.
    Q4_0, "Q4_0", 32 in 18;
    /// GGML: 4 bits, a scale and an offset.
    Q4_1, "Q4_1", 32 in 20;
    /// GGML: 5 bits, a scale.
    Q5_0, "Q5_0", 32 in 22;
    /// GGML: 5 bits, a scale and an offset.
    Q5_1, "Q5_1", 32 in 24;
    /// GGML: a binary16 scale and 32 signed bytes.
    Q8_0, "Q8_0", 32 in 34;
    /// GGML: 8 bits, a scale and a sum.
    Q8_1, "Q8_1", 32 in 36;
    /// GGML: 2 bits, scales in two levels.
    Q2K, "Q2_K", 256 in 84;
    /// GGML: 3 bits, scales in two levels.
    Q3K, "Q3_K", 256 in 110;
    /// GGML: 4 bits, scales in two levels.
    Q4K, "Q4_K", 256 in 144;
    /// GGML: 5 bits, scales in two levels.
    Q5K, "Q5_K", 256 in 176;
    /// GGML: 6 bits, scales in two levels.
    Q6K, "Q6_K", 256 in 210;
    /// GGML: 2.06 bits from a grid.
    Iq2Xxs, "IQ2_XXS", 256 in 66;
    /// GGML: 2.31 bits from a grid.
    Iq2Xs, "IQ2_XS", 256 in 74;
    /// GGML: 3.06 bits from a grid.
    Iq3Xxs, "IQ3_XXS", 256 in 98;
    /// GGML: 1.56 bits from a grid.
    Iq1S, "IQ1_S", 256 in 50;
    /// GGML: 4 bits by a table that is not linear.
    Iq4Nl, "IQ4_NL", 32 in 18;
    /// GGML: 3.44 bits from a grid.
    Iq3S, "IQ3_S", 256 in 110;
    /// GGML: 2.56 bits from a grid.
    Iq2S, "IQ2_S", 256 in 82;
    /// GGML: 4 bits by a table that is not linear, scales in two levels.
    Iq4Xs, "IQ4_XS", 256 in 136;
    /// GGML: 1.75 bits from a grid.
    Iq1M, "IQ1_M", 256 in 56;
    /// GGML: three values, five to a byte.
    Tq1_0, "TQ1_0", 256 in 54;
    /// GGML: three values, four to a byte.
    Tq2_0, "TQ2_0", 256 in 66;
    /// GGML: OCP's MXFP4, a power of two and 32 numbers of four bits.
    Mxfp4, "MXFP4", 32 in 17;
}

impl Format {
    /// The formats that a matrix may be stored in.
    pub const MATRICES: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];
    /// The formats that a norm or a bias may be stored in.
    pub const VECTORS: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The format of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// True if it is one of GGML's: blocks of numbers that share scales.
    #[must_use]
    pub const fn is_blocks(self) -> bool {
        self.block().numbers >= 32
    }

    /// Bytes of a row of so many numbers; `None` where they are no whole number of blocks, or more than can be
    /// counted.
    #[inline]
    #[must_use]
    pub const fn row_bytes(self, numbers: usize) -> Option<u64> {
        let block = self.block();
        if !numbers.is_multiple_of(block.numbers) {
            return None;
        }
        match (numbers / block.numbers).checked_mul(block.bytes) {
            Some(bytes) => Some(bytes as u64),
            None => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_of_one_format() {
        for &format in Format::ALL {
            assert_eq!(Format::of_name(format.name()), Some(format));
            assert!(format.block().numbers > 0 && format.block().bytes > 0, "{format}");
        }
        assert_eq!((Format::of_name("Q8_2"), Format::of_name("f32")), (None, None));
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Bf16.row_bytes(3), Some(6));
        assert_eq!((Format::F4.row_bytes(3), Format::F4.row_bytes(4)), (None, Some(2)));
        assert_eq!((Format::F6E2M3.row_bytes(6), Format::F6E2M3.row_bytes(8)), (None, Some(6)));
        assert_eq!((Format::Q8_0.row_bytes(48), Format::Q8_0.row_bytes(64)), (None, Some(68)));
        assert_eq!((Format::Q4K.row_bytes(0), Format::F64.row_bytes(usize::MAX)), (Some(0), None));
    }
}
