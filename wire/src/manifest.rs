//! The manifest: a model's files with the digest of every extent and tensor, as published in
//! `forebay.manifest.json` beside them. `docs/manifest.md` describes the format.
//!
//! A value of this type is always valid, and its root names exactly its content. Nothing here
//! reads a file or hashes one: the digests are the caller's.

mod check;
mod error;
mod file;
mod json;
mod root;

pub use check::{FILES_MAX, MANIFEST_NAME, NAME_BYTES_MAX, SIGNATURE_NAME, TENSORS_MAX, check_name};
pub use error::ManifestError;
pub use file::{ManifestFile, TensorDigest};
pub use json::JSON_BYTES_MAX;

use crate::digest::Digest;

/// A model's files and what they hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    files: Vec<ManifestFile>,
    root: Digest,
}

impl Manifest {
    /// Builds a manifest; files and tensors may come in any order and are sorted by name.
    ///
    /// # Errors
    /// A name is no plain relative path or is given twice, the number of extents does not fit a
    /// size, or there are more files or tensors than a manifest may have.
    pub fn new(mut files: Vec<ManifestFile>) -> Result<Self, ManifestError> {
        files.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        for file in &mut files {
            file.tensors.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        }
        check::check(&files)?;
        let root = root::of(&files);
        Ok(Self { files, root })
    }

    /// Reads `forebay.manifest.json`. Strict: what is not exactly a manifest is refused.
    ///
    /// # Errors
    /// The text is longer than [`JSON_BYTES_MAX`], is not JSON, has an unknown, repeated or wrong
    /// field, breaks a rule of [`Manifest::new`], is not sorted, or states another root than its
    /// content has.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let (stated, files) = json::read(json)?;
        check::check(&files)?;
        let root = root::of(&files);
        if root != stated {
            return Err(ManifestError::Root { stated, computed: root });
        }
        Ok(Self { files, root })
    }

    /// The text of `forebay.manifest.json`: the same for the same content, one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json::write(&self.root, &self.files)
    }

    /// The digest that names this content: no other files, sizes or digests have the same.
    #[must_use]
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// The files, sorted by name.
    #[must_use]
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The file of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&ManifestFile> {
        let index = self.files.binary_search_by(|file| file.name.as_str().cmp(name)).ok()?;
        self.files.get(index)
    }

    /// The size of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        // The check bounds it: every 4 MiB has a digest in memory.
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[cfg(test)]
mod tests;
