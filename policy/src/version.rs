//! The version of a bundle.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A bundle's version: a digest of its files. It tells of secret lists, so it is for operators, not for clients.
#[derive(Clone, PartialEq, Eq)]
pub struct BundleId(Arc<str>);

impl BundleId {
    /// The digest of files, by their paths.
    pub(crate) fn of(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            // With its length, so that no two bundles are the same bytes.
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        for (path, content) in files {
            part(path.as_bytes());
            part(content);
        }
        let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(hex.into())
    }

    /// The digest, in hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleId({})", self.0)
    }
}
