//! The header of a safetensors file, parsed strictly.
//!
//! A file is eight bytes of length N (little-endian), N bytes of JSON, and the tensors' bytes.
//! The JSON maps each tensor's name to its type, shape and place; places must cover the data
//! exactly, without hole or overlap. Format: <https://github.com/huggingface/safetensors#format>.
//!
//! The reference library accepts every file that this parser accepts; the parser refuses more (a key given
//! twice, a field nobody defined), because a file that two readers understand differently must
//! not be served. It works on the first bytes of a file and its length, so that a header can be
//! read from far storage without the data. It opens no file.

mod error;
mod parse;

use std::collections::BTreeMap;
use std::ops::Range;

use tensor::Format;

pub use error::HeaderError;
pub use parse::parse;

/// The longest header that the format allows.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The most dimensions a tensor may have. Weights in the wild have at most five.
pub(crate) const RANK_MAX: usize = 16;

/// The longest name a tensor may have. Names in the wild stay under two hundred bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// The length of the field at the start of a file that holds the header's length.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// A checked header: what the file holds and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The free-form `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes. Their ranges follow each other without a gap from
    /// `data_start` to the end of the file.
    pub tensors: Vec<TensorInfo>,
    /// The offset of the tensors' bytes in the file.
    pub data_start: u64,
}

/// The header's entry of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name, unique in the file.
    pub name: String,
    /// How its numbers lie.
    pub format: Format,
    /// The dimensions in numbers, outermost first.
    pub shape: Vec<usize>,
    /// The tensor's bytes in the file (not in the data part, as the header's text has it).
    pub range: Range<u64>,
}

#[cfg(test)]
mod tests;
