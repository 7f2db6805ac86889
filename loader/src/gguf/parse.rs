//! From bytes to a checked header, in the order of the format: counts, values, descriptions, places.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{
    ALIGNMENT, ALIGNMENT_MAX, ELEMENTS_MAX, Gguf, GgufError, GgufTensor, HEADER_BYTES_MAX, KEY_BYTES_MAX,
    NAME_BYTES_MAX, RANK_MAX, TENSORS_MAX, VALUES_MAX, Value, ids,
};

const MAGIC: &[u8; 4] = b"GGUF";
/// The type of lists; the others are scalars and text.
const LIST: u32 = 9;
const TEXT: u32 = 8;
/// The largest tensor: what no file system holds, far from where sums of 64 bits overflow.
const TENSOR_BYTES_MAX: u64 = 1 << 50;

/// Parses the header that `prefix`, the first bytes of a file of `file_len` bytes, begins with.
///
/// Time and memory are linear in the header's length.
///
/// # Errors
/// The first thing that is wrong, see [`GgufError`]. [`GgufError::PrefixTooShort`] alone is not the
/// file's fault: it says how many bytes are needed at least before calling again.
pub fn parse(prefix: &[u8], file_len: u64) -> Result<Gguf, GgufError> {
    let mut reader = Reader { bytes: prefix, at: 0, file_len, elements: 0 };
    if reader.take(4)? != MAGIC {
        return Err(GgufError::Magic);
    }
    match reader.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() < 16 && version != 0 => return Err(GgufError::BigEndian),
        version => return Err(GgufError::Version { version }),
    }
    let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
    if tensor_count > TENSORS_MAX {
        return Err(GgufError::TooManyTensors { count: tensor_count });
    }
    if value_count > VALUES_MAX {
        return Err(GgufError::TooManyValues { count: value_count });
    }
    let mut metadata = BTreeMap::new();
    for _ in 0..value_count {
        let key = reader.text("a metadata key", KEY_BYTES_MAX as u64)?;
        let value = reader.value(&key)?;
        match metadata.entry(key) {
            Entry::Vacant(place) => place.insert(value),
            Entry::Occupied(place) => return Err(GgufError::DuplicateKey { key: place.key().clone() }),
        };
    }
    let alignment = alignment(&metadata)?;
    // Not reserved by the count: a small file may claim many.
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(reader.tensor(alignment)?);
    }
    let data_start = reader.at.next_multiple_of(alignment);
    // The padding before the data is part of the header: what precedes the tensors is read whole.
    reader.need(data_start)?;
    place(&mut tensors, data_start, alignment, file_len)?;
    Ok(Gguf { metadata, tensors, data_start })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    let fits = |alignment: &u64| alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(alignment);
    value.as_u64().filter(fits).ok_or(GgufError::Alignment)
}

/// Sorts tensors by place and checks that they cover the data but for padding. Ranges were relative to
/// the data; they become the file's.
fn place(tensors: &mut [GgufTensor], data_start: u64, alignment: u64, file_len: u64) -> Result<(), GgufError> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(GgufError::DuplicateTensor { tensor: twice[0].to_owned() });
    }
    tensors.sort_by_key(|tensor| tensor.range.start);
    let mut end = data_start;
    let mut before: Option<&str> = None;
    for tensor in tensors.iter_mut() {
        let name = || tensor.name.clone();
        // Offsets and sizes are bounded by `tensor`, so that no sum overflows.
        let range = tensor.range.start + data_start..tensor.range.end + data_start;
        if let Some(before) = before.filter(|_| range.start < end) {
            return Err(GgufError::Overlap { before: before.to_owned(), tensor: name() });
        }
        if range.end > file_len {
            return Err(GgufError::Truncated { tensor: name(), end: range.end, file_len });
        }
        let gap_bytes = range.start - end;
        if gap_bytes >= alignment {
            return Err(GgufError::Hole { tensor: name(), gap_bytes });
        }
        end = range.end;
        tensor.range = range;
        before = Some(&tensor.name);
    }
    let extra_bytes = file_len.saturating_sub(end);
    if extra_bytes >= alignment {
        return Err(GgufError::TrailingBytes { extra_bytes });
    }
    Ok(())
}

/// The rest of a header.
struct Reader<'a> {
    bytes: &'a [u8],
    at: u64,
    file_len: u64,
    /// List elements so far.
    elements: u64,
}

impl<'a> Reader<'a> {
    /// Checks that the header may go on up to `end` and that these bytes are there.
    fn need(&self, end: u64) -> Result<(), GgufError> {
        if end > self.file_len {
            return Err(GgufError::FileTooShort { needed_bytes: end, file_len: self.file_len });
        }
        if end > HEADER_BYTES_MAX {
            return Err(GgufError::TooLong);
        }
        let given_bytes = self.bytes.len() as u64;
        if end > given_bytes {
            return Err(GgufError::PrefixTooShort { needed_bytes: end, given_bytes });
        }
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        let end = self.at.saturating_add(count);
        self.need(end)?;
        // Both are within the slice.
        let taken = &self.bytes[self.at as usize..end as usize];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text that is a name of something.
    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let text = self.any_text(what, limit)?;
        if text.is_empty() { Err(GgufError::Unnamed { what }) } else { Ok(text) }
    }

    fn any_text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let bytes = self.u64()?;
        if bytes > limit {
            return Err(GgufError::TextTooLong { what, bytes, limit });
        }
        let offset = self.at;
        let text = std::str::from_utf8(self.take(bytes)?).map_err(|_| GgufError::NotUtf8 { what, offset })?;
        Ok(text.to_owned())
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let id = self.u32()?;
        if id != LIST {
            return self.scalar(key, id);
        }
        let (id, count) = (self.u32()?, self.u64()?);
        if id == LIST {
            return Err(GgufError::NestedList { key: short(key) });
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX {
            return Err(GgufError::TooManyElements { key: short(key) });
        }
        // Each element takes a byte at least: a claim beyond the file is refused before it costs anything.
        self.need(self.at.saturating_add(count))?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.scalar(key, id)?);
        }
        Ok(Value::List(values))
    }

    fn scalar(&mut self, key: &str, id: u32) -> Result<Value, GgufError> {
        Ok(match id {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [byte] => return Err(GgufError::NotBool { key: short(key), byte }),
            },
            TEXT => Value::Text(self.any_text("a text of the metadata", HEADER_BYTES_MAX)?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(GgufError::UnknownValueType { key: short(key), id }),
        })
    }

    /// One tensor, its range relative to the data.
    fn tensor(&mut self, alignment: u64) -> Result<GgufTensor, GgufError> {
        let tensor = self.text("a tensor's name", NAME_BYTES_MAX as u64)?;
        let rank = self.u32()?;
        if rank == 0 || rank as usize > RANK_MAX {
            return Err(GgufError::Rank { tensor, rank });
        }
        let mut shape = Vec::with_capacity(RANK_MAX);
        for _ in 0..rank {
            let Ok(size) = usize::try_from(self.u64()?) else { return Err(GgufError::Overflow { tensor }) };
            if size == 0 {
                return Err(GgufError::ZeroDimension { tensor });
            }
            shape.push(size);
        }
        let (id, offset) = (self.u32()?, self.u64()?);
        let Some(format) = ids::format(id) else { return Err(GgufError::UnknownKind { tensor, id }) };
        let row = shape[0];
        let block = format.block().numbers;
        if !row.is_multiple_of(block) {
            return Err(GgufError::PartialBlock { tensor, row, block, format });
        }
        let size =
            |row_bytes| shape[1..].iter().try_fold(row_bytes, |bytes: u64, &size| bytes.checked_mul(size as u64));
        let bytes = format.row_bytes(row).and_then(size).filter(|bytes| *bytes <= TENSOR_BYTES_MAX);
        let (Some(bytes), true) = (bytes, offset <= TENSOR_BYTES_MAX) else {
            return Err(GgufError::Overflow { tensor });
        };
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { tensor, offset, alignment });
        }
        // The file lists the innermost dimension first.
        shape.reverse();
        Ok(GgufTensor { name: tensor, format, shape, range: offset..offset + bytes })
    }
}

/// A key for a message: no longer than a line.
fn short(key: &str) -> String {
    key.chars().take(80).collect()
}
