//! Claims about any bytes that pretend to be a GGUF file. Searched here by proptest and, with
//! coverage, by the fuzz target: one list of claims for both.

use loader::gguf::{self, Gguf, GgufError};

/// Parses the header of a whole file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
    gguf::parse(bytes, bytes.len() as u64)
}

/// A file that is accepted is covered by its tensors but for padding, and every tensor has the bytes
/// that its format and shape take. A prefix of it gives the same or asks for more, never anything else.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(gguf) = parse(bytes) else { return };
    let mut end = gguf.data_start;
    for tensor in &gguf.tensors {
        assert!(tensor.range.start >= end, "no two share bytes");
        assert!(tensor.range.start - end < gguf::ALIGNMENT_MAX, "no hole");
        end = tensor.range.end;
        assert!(end <= bytes.len() as u64);
        let elements: usize = tensor.shape.iter().product();
        assert!(elements > 0);
        assert_eq!(tensor.format.row_bytes(elements), Some(tensor.range.end - tensor.range.start));
        let row = tensor.shape[tensor.shape.len() - 1];
        assert!(tensor.format.row_bytes(row).is_some(), "rows are whole blocks");
    }
    assert!(bytes.len() as u64 - end < gguf::ALIGNMENT_MAX);
    for cut in [0, 4, 23, bytes.len() / 2, bytes.len()] {
        match gguf::parse(&bytes[..cut.min(bytes.len())], bytes.len() as u64) {
            // Compared by their text: NaN in the metadata is not equal to itself.
            Ok(part) => assert_eq!(format!("{part:?}"), format!("{gguf:?}")),
            Err(GgufError::PrefixTooShort { needed_bytes, given_bytes }) => {
                assert!(needed_bytes > given_bytes && needed_bytes <= gguf.data_start);
            }
            Err(other) => panic!("a prefix is refused where the whole is not: {other}"),
        }
    }
    assert_eq!(gguf.header().tensors.len(), gguf.tensors.len());
}
