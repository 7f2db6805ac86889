//! Headers that are refused, each for its own reason.

use super::*;

/// A header, byte by byte.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(tensors: u64, values: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(values.to_le_bytes());
        Self(bytes)
    }

    fn text(mut self, text: &[u8]) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text);
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    fn tensor(self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Self {
        let rank = u32::try_from(sizes.len()).expect("few");
        let bytes = self.text(name.as_bytes()).u32(rank);
        sizes.iter().fold(bytes, |bytes, size| bytes.u64(*size)).u32(kind).u64(offset)
    }

    /// Pads the header and adds `count` bytes of data.
    fn data(mut self, count: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 0);
        self
    }

    fn parse(&self) -> Result<Gguf, GgufError> {
        parse(&self.0, self.0.len() as u64)
    }

    fn refused(&self) -> GgufError {
        self.parse().expect_err("refused")
    }
}

#[test]
fn a_small_file_is_read() {
    let bytes = Bytes::new(2, 1).text(b"general.architecture").u32(8).text(b"llama");
    let bytes = bytes.tensor("b", &[3, 2], 30, 32).tensor("a", &[4], 0, 0).data(32 + 12);
    let gguf = bytes.parse().expect("valid");
    assert_eq!(gguf.metadata["general.architecture"], Value::Text("llama".into()));
    let [a, b] = &gguf.tensors[..] else { panic!("two: {gguf:?}") };
    assert_eq!(
        (a.name.as_str(), &a.shape[..], a.range.clone()),
        ("a", &[4][..], gguf.data_start..gguf.data_start + 16)
    );
    assert_eq!((b.name.as_str(), &b.shape[..]), ("b", &[2, 3][..]));
    let header = gguf.header();
    assert_eq!((header.tensors[1].format, header.data_start), (Format::Bf16, gguf.data_start));
}

#[test]
fn what_is_no_gguf_of_today_is_named() {
    assert_eq!(parse(b"GGML....", 8), Err(GgufError::Magic));
    let version = |bytes: [u8; 4]| parse(&[b"GGUF".as_slice(), &bytes].concat(), 100);
    assert_eq!(version([1, 0, 0, 0]), Err(GgufError::Version { version: 1 }));
    assert_eq!(version([0, 0, 0, 3]), Err(GgufError::BigEndian));
    assert_eq!(parse(b"", 0), Err(GgufError::FileTooShort { needed_bytes: 4, file_len: 0 }));
}

#[test]
fn claims_beyond_the_bounds_cost_nothing() {
    assert!(matches!(Bytes::new(u64::MAX, 0).refused(), GgufError::TooManyTensors { .. }));
    assert!(matches!(Bytes::new(0, u64::MAX).refused(), GgufError::TooManyValues { .. }));
    let list = |count| Bytes::new(0, 1).text(b"k").u32(9).u32(0).u64(count);
    assert!(matches!(list(u64::MAX).refused(), GgufError::TooManyElements { .. }));
    assert!(matches!(list(ELEMENTS_MAX).refused(), GgufError::FileTooShort { .. }));
    let long = Bytes::new(0, 1).u64(u64::MAX);
    assert!(matches!(long.refused(), GgufError::TextTooLong { what: "a metadata key", .. }));
    let long = Bytes::new(0, 1).text(b"k").u32(8).u64(u64::MAX);
    assert!(matches!(long.refused(), GgufError::TextTooLong { .. }));
    assert_eq!(parse(&Bytes::new(0, 1).text(b"k").u32(8).u64(HEADER_BYTES_MAX).0, u64::MAX), Err(GgufError::TooLong));
}

#[test]
fn values_are_what_the_format_defines() {
    let key = |key: &[u8]| Bytes::new(0, 1).text(key);
    assert_eq!(key(b"").refused(), GgufError::Unnamed { what: "a metadata key" });
    assert!(matches!(key(b"\xff").refused(), GgufError::NotUtf8 { .. }));
    assert_eq!(key(b"k").u32(13).refused(), GgufError::UnknownValueType { key: "k".into(), id: 13 });
    assert_eq!(key(b"k").u32(7).byte(2).refused(), GgufError::NotBool { key: "k".into(), byte: 2 });
    assert_eq!(key(b"k").u32(9).u32(9).u64(0).refused(), GgufError::NestedList { key: "k".into() });
    let twice = Bytes::new(0, 2).text(b"k").u32(7).byte(0).text(b"k").u32(7).byte(0);
    assert_eq!(twice.refused(), GgufError::DuplicateKey { key: "k".into() });
    for alignment in [0, 4, 33, 4 << 20] {
        assert_eq!(key(b"general.alignment").u32(4).u32(alignment).refused(), GgufError::Alignment);
    }
    assert_eq!(key(b"general.alignment").u32(8).text(b"32").refused(), GgufError::Alignment);
}

#[test]
fn tensors_are_named_bounded_and_of_a_known_kind() {
    let one = |sizes: &[u64], kind, offset| Bytes::new(1, 0).tensor("t", sizes, kind, offset).data(64).refused();
    let tensor = || "t".to_owned();
    assert_eq!(one(&[], 0, 0), GgufError::Rank { tensor: tensor(), rank: 0 });
    assert_eq!(one(&[1; 5], 0, 0), GgufError::Rank { tensor: tensor(), rank: 5 });
    assert_eq!(one(&[4, 0], 0, 0), GgufError::ZeroDimension { tensor: tensor() });
    assert_eq!(one(&[1 << 40, 1 << 40], 0, 0), GgufError::Overflow { tensor: tensor() });
    assert_eq!(one(&[u64::MAX], 0, 0), GgufError::Overflow { tensor: tensor() });
    assert_eq!(one(&[4], 0, u64::MAX - 31), GgufError::Overflow { tensor: tensor() });
    // Numbers of kinds that were withdrawn are as unknown as those of the future.
    for id in [4, 5, 31, 99] {
        assert_eq!(one(&[4], id, 0), GgufError::UnknownKind { tensor: tensor(), id });
    }
    assert!(matches!(one(&[33], 8, 0), GgufError::PartialBlock { row: 33, block: 32, .. }));
    assert!(matches!(one(&[4], 0, 8), GgufError::Misaligned { offset: 8, alignment: 32, .. }));
    let named = |name: &[u8]| Bytes::new(1, 0).text(name).u32(1).u64(4).u32(0).u64(0).data(16).refused();
    assert_eq!(named(b""), GgufError::Unnamed { what: "a tensor's name" });
    assert!(matches!(named(&[b'n'; 65]), GgufError::TextTooLong { .. }));
}

#[test]
fn a_tensor_keeps_its_format_and_its_numbers() {
    let gguf = Bytes::new(1, 0).tensor("t", &[64, 3], 8, 0).data(3 * 68).parse().expect("well formed");
    let tensor = gguf.header().tensors.remove(0);
    assert_eq!((tensor.format, &tensor.shape[..]), (Format::Q8_0, &[3, 64][..]));
    assert_eq!(tensor.range.end - tensor.range.start, 3 * 68);
    let blocks = Bytes::new(1, 0).tensor("blk.0.ffn_up.weight", &[256], 12, 0).data(144).parse().expect("well formed");
    assert_eq!(blocks.header().tensors[0].format, Format::Q4K, "who computes refuses it, by name");
}

#[test]
fn tensors_cover_the_data_but_for_padding() {
    let two = |first, second, data| {
        Bytes::new(2, 0).tensor("a", &[9], 0, first).tensor("b", &[4], 0, second).data(data).parse().map(drop)
    };
    assert_eq!(two(0, 64, 80), Ok(()));
    assert_eq!(two(0, 64, 96), Ok(()), "padding at the end");
    assert!(matches!(two(0, 32, 80), Err(GgufError::Overlap { .. })), "36 bytes from 0 reach beyond 32");
    assert!(matches!(two(0, 0, 80), Err(GgufError::Overlap { .. })));
    assert_eq!(two(0, 96, 112), Err(GgufError::Hole { tensor: "b".into(), gap_bytes: 60 }));
    assert_eq!(two(32, 96, 112), Err(GgufError::Hole { tensor: "a".into(), gap_bytes: 32 }));
    assert!(matches!(two(0, 64, 79), Err(GgufError::Truncated { .. })));
    assert_eq!(two(0, 64, 80 + 32), Err(GgufError::TrailingBytes { extra_bytes: 32 }));
    let twice = Bytes::new(2, 0).tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64).refused();
    assert_eq!(twice, GgufError::DuplicateTensor { tensor: "a".into() });
}

#[test]
fn a_prefix_asks_for_more() {
    let bytes = Bytes::new(1, 1).text(b"k").u32(8).text(b"a text").tensor("t", &[8], 0, 0).data(32).0;
    let data_start = parse(&bytes, bytes.len() as u64).expect("whole").data_start;
    for cut in 0..data_start {
        let refused = parse(&bytes[..cut as usize], bytes.len() as u64).expect_err("cut");
        let GgufError::PrefixTooShort { needed_bytes, given_bytes } = refused else { panic!("{refused}") };
        assert!(given_bytes == cut && needed_bytes > cut && needed_bytes <= data_start);
    }
    assert!(parse(&bytes[..data_start as usize], bytes.len() as u64).is_ok(), "no byte of data is needed");
}
