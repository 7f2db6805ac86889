//! One file of a manifest.

use crate::digest::Digest;

/// One file: its size and what it hashes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path relative to the model, with `/` between components.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 digest of every extent, in order; none for an empty file.
    pub extents: Vec<Digest>,
    /// Of a safetensors file: its tensors, sorted by name. Otherwise empty.
    pub tensors: Vec<TensorDigest>,
}

/// The digest of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDigest {
    /// Its name in the safetensors header.
    pub name: String,
    /// The BLAKE3 digest of its data bytes alone. Type and shape are in the header, which the
    /// extents cover.
    pub digest: Digest,
}

impl ManifestFile {
    /// The digest of this extent; `None` beyond the file's end.
    #[must_use]
    pub fn extent(&self, index: u64) -> Option<Digest> {
        self.extents.get(usize::try_from(index).ok()?).copied()
    }

    /// The digest of this tensor's data bytes.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Digest> {
        let index = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(index).map(|tensor| tensor.digest)
    }
}
