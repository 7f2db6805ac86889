//! The cache's records in JSON, beside the journals: where a model came from, what a URL was
//! last found to be, and which files a finished model has.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wire::digest::{Digest, Sha256};
use wire::evidence::StoreChecksum;
use wire::proof::Proof;

use super::disk::FileIdentity;
use crate::source::{Object, Tag};

/// One object of a model as its store described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectFacts {
    name: String,
    bytes: u64,
    etag: Option<String>,
    version: Option<String>,
    modified: Option<String>,
    /// SHA-256 of the whole object, by the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
}

impl ObjectFacts {
    pub(super) fn to_object(&self) -> Object {
        let tag = Tag { etag: self.etag.clone(), version: self.version.clone(), modified: self.modified.clone() };
        let checksum = self.sha256.map(StoreChecksum::Sha256);
        Object { name: self.name.clone(), bytes: self.bytes, tag, checksum }
    }
}

impl From<&Object> for ObjectFacts {
    fn from(object: &Object) -> Self {
        let Tag { etag, version, modified } = object.tag.clone();
        let sha256 = object.checksum.map(|StoreChecksum::Sha256(digest)| digest);
        Self { name: object.name.clone(), bytes: object.bytes, etag, version, modified, sha256 }
    }
}

/// The origin of a load: beside its files from the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    pub(super) url: String,
    pub(super) key: Digest,
    pub(super) objects: Vec<ObjectFacts>,
}

impl Origin {
    pub(super) fn total_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }
}

/// A URL's content when it was last loaded or found in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    pub(super) url: String,
    /// Of the load that the model was finished by.
    pub(super) key: Digest,
    pub(super) root: Digest,
    pub(super) proof: Proof,
    pub(super) objects: Vec<ObjectFacts>,
}

/// A finished model: the files that were right when it was finished, and their identities then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) root: Digest,
    pub(super) proof: Proof,
    pub(super) files: Vec<FileRecord>,
}

/// One file of a finished model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    pub(super) name: String,
    pub(super) identity: FileIdentity,
    /// BLAKE3 of all its bytes, of a file that the manifest does not list.
    pub(super) digest: Option<Digest>,
    /// Names of the expectations that the file met as a whole.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) met: BTreeSet<Digest>,
}
