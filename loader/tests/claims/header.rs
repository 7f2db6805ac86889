//! Claims about any bytes that pretend to be a safetensors file. Searched here by proptest and,
//! with coverage, by the fuzz target: one list of claims for both.

use loader::header::{self, Header, HeaderError};
use safetensors::SafeTensors;

/// Parses the header of a whole file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    header::parse(bytes, bytes.len() as u64)
}

/// A file that is accepted is covered by its tensors exactly, and the reference library reads the
/// same out of it.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(header) = parse(bytes) else { return };
    let theirs = SafeTensors::deserialize(bytes).expect("what we accept, the reference library accepts");
    assert_eq!(theirs.len(), header.tensors.len());
    let mut end = header.data_start;
    for tensor in &header.tensors {
        assert_eq!(tensor.range.start, end, "no hole and no overlap");
        end = tensor.range.end;
        let view = theirs.tensor(&tensor.name).expect("both know the name");
        assert_eq!((view.dtype().to_string().as_str(), view.shape()), (tensor.format.name(), tensor.shape.as_slice()));
        assert_eq!(view.data(), &bytes[tensor.range.start as usize..tensor.range.end as usize]);
    }
    assert_eq!(end, bytes.len() as u64);
}
