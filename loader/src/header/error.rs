//! Errors of a header. The file's name is known to the caller, who adds it.

use thiserror::Error;

use super::{HEADER_BYTES_MAX, NAME_BYTES_MAX, RANK_MAX};

/// Errors of a header: the problem, its place and the fix.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are the tensor's name, the text at fault and the numbers in the message")]
pub enum HeaderError {
    /// Fewer than eight bytes.
    #[error("the file has {file_len} bytes, fewer than the 8 of a header's length; it is truncated, download it again")]
    FileTooShort { file_len: u64 },
    /// The header's length is zero.
    #[error("the header's length is 0; this is not a safetensors file, download it again")]
    Empty,
    /// The header's length is over the format's limit.
    #[error(
        "the header's length is {header_len} bytes, over the limit of {HEADER_BYTES_MAX}; this is not a safetensors file"
    )]
    TooLong { header_len: u64 },
    /// The header would end after the file.
    #[error(
        "the header's length is {header_len} bytes, but the file has only {file_len}; it is truncated, download it again"
    )]
    PastEnd { header_len: u64, file_len: u64 },
    /// The bytes given to the parser do not hold the whole header, though the file does.
    #[error("the header needs the first {needed_bytes} bytes of the file and only {given_bytes} were read; read more")]
    PrefixTooShort { needed_bytes: u64, given_bytes: usize },
    /// The header does not begin with a brace.
    #[error("the header does not begin with '{{'; this is not a safetensors file")]
    NotAnObject,
    /// The header is not UTF-8.
    #[error("the header is not UTF-8 at byte {offset}; the file is damaged, download it again")]
    NotUtf8 { offset: usize },
    /// The header is not JSON.
    #[error("the header is not JSON; the file is damaged, download it again")]
    Json(#[source] serde_json::Error),
    /// The header's object is followed by something else than spaces.
    #[error(
        "the header's padding holds the byte {byte:#04x} at {offset}, where only spaces may stand; write the file again"
    )]
    Padding { offset: usize, byte: u8 },
    /// A tensor's name (or `__metadata__`) is given twice.
    #[error("{key:?} is given twice; write the file again with names that differ")]
    DuplicateName { key: String },
    /// The metadata is not an object of strings.
    #[error("__metadata__ must map strings to strings{}; write the file again", at_key(.key))]
    Metadata { key: Option<String> },
    /// A metadata key is given twice.
    #[error("__metadata__ has the key {key:?} twice; write the file again")]
    DuplicateMetadata { key: String },
    /// A tensor's name is too long.
    #[error(
        "a tensor's name has {name_bytes} bytes, over the limit of {NAME_BYTES_MAX}, and begins with {start:?}; rename it"
    )]
    NameTooLong { start: String, name_bytes: usize },
    /// A tensor's entry is not an object.
    #[error("the tensor {tensor:?} is not described by an object; write the file again")]
    NotATensor { tensor: String },
    /// A field of a tensor is given twice.
    #[error("the tensor {tensor:?} has the field {field:?} twice; write the file again")]
    DuplicateField { tensor: String, field: String },
    /// A field that the format does not define.
    #[error("the tensor {tensor:?} has the field {field:?}, which the format does not define; write the file again")]
    UnknownField { tensor: String, field: String },
    /// A field is missing.
    #[error("the tensor {tensor:?} has no {field}; write the file again")]
    MissingField { tensor: String, field: &'static str },
    /// The element type is not one of the format's.
    #[error(
        "the tensor {tensor:?} has the dtype {dtype}, which is not one of safetensors 0.8; convert it, for example to BF16"
    )]
    UnknownDtype { tensor: String, dtype: String },
    /// The shape is not a list of sizes.
    #[error("the tensor {tensor:?} has a shape that is not a list of non-negative integers; write the file again")]
    Shape { tensor: String },
    /// The shape has too many dimensions.
    #[error("the tensor {tensor:?} has {rank} dimensions, over the limit of {RANK_MAX}; reshape it")]
    Rank { tensor: String, rank: usize },
    /// The shape's size cannot be counted in 64 bits.
    #[error("the tensor {tensor:?} of shape {shape:?} is larger than 64 bits can count; the file is damaged")]
    Overflow { tensor: String, shape: Vec<usize> },
    /// Elements smaller than a byte do not fill whole bytes.
    #[error("the tensor {tensor:?} ends within a byte: {bits} bits are not a multiple of 8; pad its last dimension")]
    SubByte { tensor: String, bits: usize },
    /// The offsets are not a pair of integers.
    #[error("the tensor {tensor:?} has data_offsets that are not two non-negative integers; write the file again")]
    Offsets { tensor: String },
    /// The tensor ends before it begins.
    #[error("the tensor {tensor:?} begins at {begin} and ends before that, at {end}; the file is damaged")]
    Reversed { tensor: String, begin: u64, end: u64 },
    /// Shape and offsets disagree.
    #[error(
        "the tensor {tensor:?} needs {needed_bytes} bytes by its dtype and shape, but its data_offsets span {given_bytes}; write the file again"
    )]
    Size { tensor: String, needed_bytes: u64, given_bytes: u64 },
    /// The tensor's bytes end after the file.
    #[error(
        "the tensor {tensor:?} ends at byte {end} of the data, but the file has only {data_bytes}; it is truncated, download it again"
    )]
    Truncated { tensor: String, end: u64, data_bytes: u64 },
    /// The first tensor does not begin where the data begins.
    #[error("the first tensor, {tensor:?}, begins at byte {begin} of the data instead of 0; write the file again")]
    FirstOffset { tensor: String, begin: u64 },
    /// Bytes between two tensors belong to neither.
    #[error("{gap_bytes} bytes between the tensors {before:?} and {tensor:?} belong to neither; write the file again")]
    Hole { before: String, tensor: String, gap_bytes: u64 },
    /// Two tensors share bytes.
    #[error("the tensors {before:?} and {tensor:?} share {shared_bytes} bytes; write the file again")]
    Overlap { before: String, tensor: String, shared_bytes: u64 },
    /// The file goes on after the last tensor.
    #[error(
        "{extra_bytes} bytes follow the last tensor; the file is damaged or not one safetensors file, download it again"
    )]
    TrailingBytes { extra_bytes: u64 },
}

fn at_key(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!(", and {key:?} does not")).unwrap_or_default()
}
