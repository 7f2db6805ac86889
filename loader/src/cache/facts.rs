//! What the cache remembers in JSON, beside the journals: where a model came from, what a URL was
//! last found to be, and which files a finished model has.

use serde::{Deserialize, Serialize};
use wire::digest::Digest;
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
}

impl ObjectFacts {
    pub(super) fn to_object(&self) -> Object {
        let tag = Tag { etag: self.etag.clone(), version: self.version.clone(), modified: self.modified.clone() };
        Object { name: self.name.clone(), bytes: self.bytes, tag, checksum: None }
    }
}

impl From<&Object> for ObjectFacts {
    fn from(object: &Object) -> Self {
        let Tag { etag, version, modified } = object.tag.clone();
        Self { name: object.name.clone(), bytes: object.bytes, etag, version, modified }
    }
}

/// What a load is from: beside its files from the beginning.
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

/// What a URL was when it was last loaded or found in the cache.
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
}
