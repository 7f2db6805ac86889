//! Errors of a GGUF header. The file's name is known to the caller, who adds it.

use tensor::Format;
use thiserror::Error;

use super::{ALIGNMENT_MAX, ELEMENTS_MAX, HEADER_BYTES_MAX, RANK_MAX, TENSORS_MAX, VALUES_MAX};

/// Errors of a header: the problem, its place and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the fields are the name, the text at fault and the numbers in the message")]
pub enum GgufError {
    /// The bytes given to the parser do not hold the whole header, though the file may.
    #[error(
        "the header needs at least the first {needed_bytes} bytes of the file and {given_bytes} were read; read more"
    )]
    PrefixTooShort { needed_bytes: u64, given_bytes: u64 },
    /// The file ends within its header.
    #[error(
        "the header needs at least {needed_bytes} bytes and the file has {file_len}; it is truncated, download it again"
    )]
    FileTooShort { needed_bytes: u64, file_len: u64 },
    /// The header goes on beyond the limit.
    #[error("the header is longer than the limit of {HEADER_BYTES_MAX} bytes; this is hardly a GGUF file")]
    TooLong,
    /// Another magic number.
    #[error("the file does not begin with `GGUF`; this is not a GGUF file")]
    Magic,
    /// A version that is not read.
    #[error("the file has version {version}; 2 and 3 are read, write it again with today's tools")]
    Version { version: u32 },
    /// Written for machines of the other byte order.
    #[error("the file is big-endian; convert it to little-endian with gguf_convert_endian.py")]
    BigEndian,
    /// More values than the limit.
    #[error("the file states {count} metadata values, over the limit of {VALUES_MAX}; it is damaged")]
    TooManyValues { count: u64 },
    /// More tensors than the limit.
    #[error("the file states {count} tensors, over the limit of {TENSORS_MAX}; it is damaged")]
    TooManyTensors { count: u64 },
    /// More list elements than the limit.
    #[error("the lists of the metadata have more than {ELEMENTS_MAX} elements with `{key}`; the file is damaged")]
    TooManyElements { key: String },
    /// A text is longer than it may be.
    #[error("{what} has {bytes} bytes, over the limit of {limit}; the file is damaged")]
    TextTooLong { what: &'static str, bytes: u64, limit: u64 },
    /// A text is not UTF-8.
    #[error("{what} at byte {offset} is not UTF-8; the file is damaged")]
    NotUtf8 { what: &'static str, offset: u64 },
    /// A key or a name is empty.
    #[error("{what} is empty; the file is damaged")]
    Unnamed { what: &'static str },
    /// A key is given twice.
    #[error("the metadata has the key `{key}` twice; write the file again")]
    DuplicateKey { key: String },
    /// A value's type is none of the format's.
    #[error("the value `{key}` is of type {id}, which the format does not define; write the file again")]
    UnknownValueType { key: String, id: u32 },
    /// A list of lists.
    #[error("the value `{key}` is a list of lists, which nothing here reads; write the file again")]
    NestedList { key: String },
    /// A truth value that is neither 0 nor 1.
    #[error("the value `{key}` is a truth value of {byte}, neither 0 nor 1; the file is damaged")]
    NotBool { key: String, byte: u8 },
    /// An alignment that is none.
    #[error(
        "general.alignment must be a power of two, a multiple of 8 and at most {ALIGNMENT_MAX}; write the file again"
    )]
    Alignment,
    /// A tensor's name is given twice.
    #[error("the tensor `{tensor}` is described twice; write the file again")]
    DuplicateTensor { tensor: String },
    /// A file of several says that it is another.
    #[error(
        "`{key}` is {found} and should be {expected}: the files beside it are those of another model, or it is not under its own name"
    )]
    Part {
        /// The key of the metadata.
        key: &'static str,
        /// The number there.
        found: u64,
        /// The number that the files have.
        expected: u64,
    },
    /// Too many dimensions, or none.
    #[error("the tensor `{tensor}` has {rank} dimensions; 1 to {RANK_MAX} are possible")]
    Rank { tensor: String, rank: u32 },
    /// A dimension is zero.
    #[error("the tensor `{tensor}` has a dimension of 0; the file is damaged")]
    ZeroDimension { tensor: String },
    /// A tensor's size cannot be counted in 64 bits.
    #[error("the tensor `{tensor}` is larger than 64 bits can count; the file is damaged")]
    Overflow { tensor: String },
    /// A number that stands for no format.
    #[error(
        "the tensor `{tensor}` is stored in format {id}, which is not known; write the file again with F16 or BF16"
    )]
    UnknownKind { tensor: String, id: u32 },
    /// A row is no whole number of blocks.
    #[error("the tensor `{tensor}` has rows of {row}, no multiple of the {block} numbers of a block of {format}")]
    PartialBlock { tensor: String, row: usize, block: usize, format: Format },
    /// A tensor does not begin at a multiple of the alignment.
    #[error(
        "the tensor `{tensor}` begins at byte {offset} of the data, no multiple of {alignment}; write the file again"
    )]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    /// A tensor's bytes end after the file.
    #[error("the tensor `{tensor}` ends at byte {end} and the file has {file_len}; it is truncated, download it again")]
    Truncated { tensor: String, end: u64, file_len: u64 },
    /// Two tensors share bytes.
    #[error("the tensors `{before}` and `{tensor}` share bytes; the file is damaged")]
    Overlap { before: String, tensor: String },
    /// More than padding lies before a tensor.
    #[error("{gap_bytes} bytes before the tensor `{tensor}` belong to nothing; write the file again")]
    Hole { tensor: String, gap_bytes: u64 },
    /// The file goes on after the last tensor.
    #[error("{extra_bytes} bytes follow the last tensor; the file is damaged or not one GGUF file, download it again")]
    TrailingBytes { extra_bytes: u64 },
}
