//! A writer of small GGUF files for tests: what it is told, in the format's order, right or wrong.
//!
//! It checks nothing, so that tests can write what a parser must refuse.

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9 of type 5.
    I32s(Vec<i32>),
    /// Type 9 of type 6.
    F32s(Vec<f32>),
    /// Type 9 of type 8.
    Texts(Vec<String>),
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorBytes {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The number of its kind: 0 F32, 1 F16, 8 Q8_0, 30 BF16.
    pub kind: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A file to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufFile {
    /// Metadata, in order.
    pub metadata: Vec<(String, Meta)>,
    /// Tensors, in order.
    pub tensors: Vec<TensorBytes>,
}

const ALIGNMENT: usize = 32;

impl GgufFile {
    /// Adds a value.
    pub fn meta(&mut self, key: &str, value: Meta) {
        self.metadata.push((key.into(), value));
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, shape: &[u64], kind: u32, bytes: Vec<u8>) {
        self.tensors.push(TensorBytes { name: name.into(), shape: shape.into(), kind, bytes });
    }

    /// The file's bytes: version 3, little-endian, aligned to 32.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            write(&mut out, value);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend(u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list(out: &mut Vec<u8>, kind: u32, count: usize) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

fn write(out: &mut Vec<u8>, value: &Meta) {
    let mut typed = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Meta::U32(number) => typed(4, &number.to_le_bytes()),
        Meta::I32(number) => typed(5, &number.to_le_bytes()),
        Meta::F32(number) => typed(6, &number.to_le_bytes()),
        Meta::Bool(flag) => typed(7, &[u8::from(*flag)]),
        Meta::Text(own) => {
            typed(8, &[]);
            text(out, own);
        }
        Meta::I32s(numbers) => {
            list(out, 5, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Meta::F32s(numbers) => {
            list(out, 6, numbers.len());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Meta::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|own| text(out, own));
        }
    }
}
