//! The header of a GGUF file, parsed strictly.
//!
//! A file is a magic number, a version, two counts, the metadata (named values, among them sizes and
//! tokenizer), the tensors' descriptions, and, from the next multiple of the alignment on, the tensors'
//! bytes. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3,
//! little-endian.
//!
//! As for safetensors, this parser refuses more than others do (holes, trailing bytes, a key given twice):
//! a file that two readers understand differently must not be served. It works on the first bytes of a
//! file and its length, and it opens no file. What the values and names mean is the worker's business.

mod error;
mod ids;
mod parse;
pub(crate) mod split;

use std::collections::BTreeMap;
use std::ops::Range;

use tensor::Format;

use crate::header::{Header, TensorInfo};

pub use error::GgufError;
pub use parse::parse;

/// The longest header that is read. Metadata with the largest published tokenizers have some twenty
/// million bytes.
pub const HEADER_BYTES_MAX: u64 = 128 << 20;
/// The most named values. Published files have some fifty.
pub(crate) const VALUES_MAX: u64 = 4096;
/// The most elements of all lists together: four times the largest vocabulary with its merges. What
/// they take of memory is thereby bounded, however small they are in the file.
pub(crate) const ELEMENTS_MAX: u64 = 1 << 22;
/// The most tensors. Mixtures of experts have some thousands.
pub const TENSORS_MAX: u64 = 1 << 17;
/// The most dimensions of a tensor, the format's own limit.
pub(crate) const RANK_MAX: usize = 4;
/// The longest name of a tensor. The format says 64; published files keep to it.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest key, the format's own limit.
pub(crate) const KEY_BYTES_MAX: usize = 65_535;
/// The alignment of tensors where the file does not say.
pub const ALIGNMENT: u64 = 32;
/// The largest alignment: a large page.
pub const ALIGNMENT_MAX: u64 = 2 << 20;

/// A checked header: what the file says and holds, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The metadata.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the order of their bytes, file by file; between two there is padding at most.
    pub tensors: Vec<GgufTensor>,
    /// The offset of the tensors' bytes in the file.
    pub data_start: u64,
}

/// The header's entry of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// The tensor's name, unique in the file.
    pub name: String,
    /// How its numbers lie.
    pub format: Format,
    /// The dimensions in numbers, outermost first: the reverse of the file's own order.
    pub shape: Vec<usize>,
    /// The tensor's bytes in the file.
    pub range: Range<u64>,
}

/// A value of the metadata; widths that hold the same numbers are one.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of one type, not of lists.
    List(Vec<Value>),
}

impl Value {
    /// As a whole number that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// As a whole number.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(number) => i64::try_from(*number).ok(),
            Self::Signed(number) => Some(*number),
            _ => None,
        }
    }

    /// As a float; whole numbers are not.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Float(number) = self { Some(*number) } else { None }
    }

    /// As a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// As a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(values) = self { Some(values) } else { None }
    }
}

impl Gguf {
    /// The tensors as everything downstream that plans, fetches and maps has them.
    #[must_use]
    pub fn header(&self) -> Header {
        let info = |tensor: &GgufTensor| TensorInfo {
            name: tensor.name.clone(),
            format: tensor.format,
            shape: tensor.shape.clone(),
            range: tensor.range.clone(),
        };
        Header {
            metadata: BTreeMap::new(),
            tensors: self.tensors.iter().map(info).collect(),
            data_start: self.data_start,
        }
    }
}

#[cfg(test)]
mod tests;
