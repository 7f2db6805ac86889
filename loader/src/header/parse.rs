//! From bytes to a checked header, in the order of the format: length, text, entries, places.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tensor::Format;

use super::{HEADER_BYTES_MAX, Header, HeaderError, LENGTH_BYTES, NAME_BYTES_MAX, RANK_MAX, TensorInfo};
use crate::json::Entries;

const METADATA: &str = "__metadata__";

/// Parses the header that `prefix`, the first bytes of a file of `file_len` bytes, begins with.
///
/// Time and memory are linear in the header's length, and nesting deeper than the format's own is
/// refused without recursion.
///
/// # Errors
/// The first thing that is wrong, see [`HeaderError`]. [`HeaderError::PrefixTooShort`] alone is
/// not the file's fault: it says how many bytes to read before calling again.
pub fn parse(prefix: &[u8], file_len: u64) -> Result<Header, HeaderError> {
    let text = header_text(prefix, file_len)?;
    let data_start = LENGTH_BYTES + text.len() as u64;
    let data_bytes = file_len - data_start;
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::new();
    for (name, raw) in header_entries(text)?.0 {
        if name == METADATA {
            metadata = parse_metadata(raw)?;
        } else {
            tensors.push(parse_tensor(name, raw, data_bytes)?);
        }
    }
    check_places(&mut tensors, data_bytes)?;
    for tensor in &mut tensors {
        tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
    }
    Ok(Header { metadata, tensors, data_start })
}

fn header_text(prefix: &[u8], file_len: u64) -> Result<&str, HeaderError> {
    let given_bytes = prefix.len();
    if file_len < LENGTH_BYTES {
        return Err(HeaderError::FileTooShort { file_len });
    }
    let Some((length, rest)) = prefix.split_first_chunk() else {
        return Err(HeaderError::PrefixTooShort { needed_bytes: LENGTH_BYTES, given_bytes });
    };
    let header_len = u64::from_le_bytes(*length);
    if header_len == 0 {
        return Err(HeaderError::Empty);
    }
    if header_len > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong { header_len });
    }
    if header_len > file_len - LENGTH_BYTES {
        return Err(HeaderError::PastEnd { header_len, file_len });
    }
    let Some(header) = rest.get(..header_len as usize) else {
        return Err(HeaderError::PrefixTooShort { needed_bytes: LENGTH_BYTES + header_len, given_bytes });
    };
    if header[0] != b'{' {
        return Err(HeaderError::NotAnObject);
    }
    std::str::from_utf8(header).map_err(|error| HeaderError::NotUtf8 { offset: error.valid_up_to() })
}

/// The header's entries with their values unread. A raw value is skipped over without recursion,
/// and what is read from it later has a fixed depth, so no nesting can exhaust the stack.
fn header_entries(text: &str) -> Result<Entries<&RawValue>, HeaderError> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Entries<&RawValue>>();
    let entries = match stream.next() {
        Some(entries) => entries.map_err(HeaderError::Json)?,
        None => return Err(HeaderError::NotAnObject),
    };
    let end = stream.byte_offset();
    if let Some(at) = text.as_bytes()[end..].iter().position(|byte| *byte != b' ') {
        return Err(HeaderError::Padding { offset: end + at, byte: text.as_bytes()[end + at] });
    }
    match entries.duplicate() {
        Some(key) => Err(HeaderError::DuplicateName { key: shortened(key) }),
        None => Ok(entries),
    }
}

fn parse_metadata(raw: &RawValue) -> Result<BTreeMap<String, String>, HeaderError> {
    let entries: Entries<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| HeaderError::Metadata { key: None })?;
    if let Some(key) = entries.duplicate() {
        return Err(HeaderError::DuplicateMetadata { key: shortened(key) });
    }
    let mut metadata = BTreeMap::new();
    for (key, raw) in entries.0 {
        match serde_json::from_str(raw.get()) {
            Ok(value) => metadata.insert(key, value),
            Err(_) => return Err(HeaderError::Metadata { key: Some(shortened(&key)) }),
        };
    }
    Ok(metadata)
}

/// One tensor, its range still relative to the data part of `data_bytes` bytes.
fn parse_tensor(tensor: String, raw: &RawValue, data_bytes: u64) -> Result<TensorInfo, HeaderError> {
    if tensor.len() > NAME_BYTES_MAX {
        return Err(HeaderError::NameTooLong { start: shortened(&tensor), name_bytes: tensor.len() });
    }
    let fields = Fields::read(&tensor, raw)?;
    let Some(format) = format_of(fields.dtype.get()) else {
        return Err(HeaderError::UnknownDtype { tensor, dtype: shortened(fields.dtype.get()) });
    };
    let Ok(shape) = serde_json::from_str::<Vec<usize>>(fields.shape.get()) else {
        return Err(HeaderError::Shape { tensor });
    };
    let needed_bytes = tensor_bytes(&tensor, format, &shape)?;
    let Ok((begin, end)) = serde_json::from_str::<(u64, u64)>(fields.data_offsets.get()) else {
        return Err(HeaderError::Offsets { tensor });
    };
    if begin > end {
        return Err(HeaderError::Reversed { tensor, begin, end });
    }
    if end - begin != needed_bytes {
        return Err(HeaderError::Size { tensor, needed_bytes, given_bytes: end - begin });
    }
    if end > data_bytes {
        return Err(HeaderError::Truncated { tensor, end, data_bytes });
    }
    Ok(TensorInfo { name: tensor, format, shape, range: begin..end })
}

/// The three fields of a tensor's entry, unread.
struct Fields<'a> {
    dtype: &'a RawValue,
    shape: &'a RawValue,
    data_offsets: &'a RawValue,
}

impl<'a> Fields<'a> {
    fn read(tensor: &str, raw: &'a RawValue) -> Result<Self, HeaderError> {
        let tensor = || tensor.to_owned();
        let entries: Entries<&RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| HeaderError::NotATensor { tensor: tensor() })?;
        if let Some(field) = entries.duplicate() {
            return Err(HeaderError::DuplicateField { tensor: tensor(), field: shortened(field) });
        }
        let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
        for (field, value) in entries.0 {
            match field.as_str() {
                "dtype" => dtype = Some(value),
                "shape" => shape = Some(value),
                "data_offsets" => data_offsets = Some(value),
                _ => return Err(HeaderError::UnknownField { tensor: tensor(), field: shortened(&field) }),
            }
        }
        let missing = |field| HeaderError::MissingField { tensor: tensor(), field };
        Ok(Self {
            dtype: dtype.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            data_offsets: data_offsets.ok_or_else(|| missing("data_offsets"))?,
        })
    }
}

/// The format of this JSON text, if it is one of safetensors' own names: GGML's blocks are not theirs.
fn format_of(dtype: &str) -> Option<Format> {
    let dtype: safetensors::Dtype = serde_json::from_str(dtype).ok()?;
    Format::of_name(&dtype.to_string())
}

fn tensor_bytes(tensor: &str, format: Format, shape: &[usize]) -> Result<u64, HeaderError> {
    let tensor = || tensor.to_owned();
    if shape.len() > RANK_MAX {
        return Err(HeaderError::Rank { tensor: tensor(), rank: shape.len() });
    }
    // A dimension of 0 makes the product 0 only if what stands before it has not overflowed; the
    // reference library multiplies in the same order, so both refuse the same shapes.
    let elements = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let Some(bits) = elements.and_then(|elements| elements.checked_mul(bits_of_a_number(format))) else {
        return Err(HeaderError::Overflow { tensor: tensor(), shape: shape.to_vec() });
    };
    if bits % 8 != 0 {
        return Err(HeaderError::SubByte { tensor: tensor(), bits });
    }
    Ok((bits / 8) as u64)
}

/// Bits of a number: a whole number of them in every format of safetensors.
fn bits_of_a_number(format: Format) -> usize {
    let block = format.block();
    8 * block.bytes / block.numbers
}

/// Sorts the tensors by place and checks that they cover the data part exactly.
fn check_places(tensors: &mut [TensorInfo], data_bytes: u64) -> Result<(), HeaderError> {
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    if let Some(first) = tensors.first()
        && first.range.start != 0
    {
        return Err(HeaderError::FirstOffset { tensor: first.name.clone(), begin: first.range.start });
    }
    for pair in tensors.windows(2) {
        let (end, begin) = (pair[0].range.end, pair[1].range.start);
        let (before, tensor) = (pair[0].name.clone(), pair[1].name.clone());
        if end < begin {
            return Err(HeaderError::Hole { before, tensor, gap_bytes: begin - end });
        }
        if begin < end {
            return Err(HeaderError::Overlap { before, tensor, shared_bytes: end.min(pair[1].range.end) - begin });
        }
    }
    let covered_bytes = tensors.last().map_or(0, |last| last.range.end);
    if covered_bytes < data_bytes {
        return Err(HeaderError::TrailingBytes { extra_bytes: data_bytes - covered_bytes });
    }
    Ok(())
}

/// Text of a file quoted in an error: the start of it, so that a hostile file cannot fill a log.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
