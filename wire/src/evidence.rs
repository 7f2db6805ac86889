//! Evidence and verdict: the facts about a model before any of its weights are read, and the checks
//! that the loader must make.
//!
//! The loader gathers evidence and believes none of it; policy decides without reading a byte; the
//! loader carries the verdict out. Evidence alone says which objects a load reads ([`Role`]): nobody
//! else lists them, or guesses by a name.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::digest::{AnyDigest, Digest, Sha256};
use crate::manifest::Manifest;
use crate::proof::Proof;

/// Everything known of a model from a first look.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Its location.
    pub origin: Origin,
    /// The objects that were found, in any order, each name once. Names are relative to the model.
    pub objects: Vec<ObjectEvidence>,
    /// The names that were looked for and do not exist.
    pub absent: Vec<String>,
    /// The published manifest, parsed.
    pub manifest: Option<Manifest>,
    /// Of the manifest's file, byte for byte as published: what a signature covers.
    pub manifest_sha256: Option<Sha256>,
    /// The bytes of `model.sig`.
    pub signature: Option<Vec<u8>>,
    /// The digests that an earlier load from here found.
    pub pinned: Option<Pinned>,
}

/// The location of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A directory of this machine.
    Local {
        /// Its path, for messages.
        directory: String,
    },
    /// Anything behind a network.
    Remote {
        /// Its URL without user, query or anything else that could be secret.
        url: String,
    },
}

/// One object as its store describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEvidence {
    /// Its name relative to the model, as in a manifest.
    pub name: String,
    /// The use that a load makes of it.
    pub role: Role,
    /// Its size.
    pub bytes: u64,
    /// Its entity tag, as the store writes it (quotes included if it writes them).
    pub etag: Option<String>,
    /// The store's version id.
    pub version: Option<String>,
    /// A checksum of the whole object by the store.
    pub checksum: Option<StoreChecksum>,
}

/// The use that a load makes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A file of weights, mapped and computed with.
    Weights,
    /// A file that decides how the weights are run or prompted: sizes, tokenizer, templates, index.
    Settings,
    /// A file that other tools need beside the weights: kept with the model, never interpreted.
    Companion,
    /// A file of weights that lies beside those of the model and is left alone.
    Unread,
}

impl Role {
    /// Returns true if the answers of the model depend on the object's bytes.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Weights | Self::Settings)
    }
}

/// Returns true if a file of this name holds weights in a format that is read.
#[must_use]
pub fn is_weights_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// A store's checksum over a whole object. Checksums of parts are none of the object, and MD5
/// (Azure's `Content-MD5`) proves nothing: different bytes of equal MD5 are made in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreChecksum {
    /// Hugging Face's `x-linked-etag` of a file in LFS, S3's `x-amz-checksum-sha256` of type
    /// `FULL_OBJECT`.
    Sha256(Sha256),
}

/// The digests that an earlier load of the same URL computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The root of the manifest that was computed then.
    pub root: Digest,
    /// The digests of each object.
    pub objects: Vec<PinnedObject>,
}

/// The digests that an earlier load computed of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedObject {
    /// Its name.
    pub name: String,
    /// Its size then.
    pub bytes: u64,
    /// Its entity tag then; without one nothing ties the digests to the object.
    pub etag: Option<String>,
    /// The digest of each extent, all of them.
    pub extents: Vec<Digest>,
}

/// Policy's decision: the checks that the loader must make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The proof of the load once everything in `expected` was checked.
    pub proof: Proof,
    /// The expectations by object name; ask with [`Verdict::expected`].
    pub expected: BTreeMap<String, Expected>,
    /// True if `expected` names all that may be read: a manifest or a signature decided.
    pub is_exhaustive: bool,
    /// The root of the manifest that `expected` is from, where a manifest decided.
    pub root: Option<Digest>,
    /// The reasons, for people: one sentence each.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// The expectation of this object.
    #[must_use]
    pub fn expected(&self, name: &str) -> &Expected {
        let other = if self.is_exhaustive { &Expected::NotCovered } else { &Expected::Unknown };
        self.expected.get(name).unwrap_or(other)
    }

    /// The verdict over a directory or embedded bytes that nothing is known of.
    #[must_use]
    pub fn trusted(reason: impl Into<String>) -> Self {
        let reasons = vec![reason.into()];
        Self { proof: Proof::Trusted, expected: BTreeMap::new(), is_exhaustive: false, root: None, reasons }
    }
}

/// The expectation of an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The BLAKE3 digest of every extent, in order, as many as the object has. An extent may be
    /// read by a kernel as soon as it was found right.
    Extents(Vec<Digest>),
    /// A digest of the whole object: no byte may be read by a kernel before the last was hashed.
    Whole(AnyDigest),
    /// Digests of ranges that tile the object, in order; an empty object has none. A range's bytes
    /// may be read by a kernel once it was hashed whole.
    Shards(Vec<ShardDigest>),
    /// Nobody says. Digests are computed and, for a remote object with an ETag, pinned.
    Unknown,
    /// A manifest or signature decides and does not list this object: it must not be read.
    NotCovered,
}

/// The digest of one range of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardDigest {
    /// The bytes that were hashed; any length, not aligned to extents.
    pub range: Range<u64>,
    /// Their digest.
    pub digest: AnyDigest,
}
