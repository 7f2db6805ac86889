//! Sources of bytes: one small trait for every kind of far storage, and what an object is.
//!
//! A source knows how to find an object and how to read a range of it into its destination
//! ([`Landing`]). It does not know what the bytes mean, where they land, how many others read at
//! the same time, or when to try again: that is `fetch`'s business.

mod error;

use std::fmt;

use async_trait::async_trait;

use crate::landing::Landing;

pub use error::SourceError;

/// One object of a model, as it was when it was first looked at. Every later read is conditional
/// on it: an object that changes meanwhile is an error, never a mix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name relative to the model's URL, such as `model-00001-of-00002.safetensors`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The tag that pins its content.
    pub tag: Tag,
    /// A digest of the whole object that the store itself vouches for.
    pub checksum: Option<wire::evidence::StoreChecksum>,
}

/// The identity of an object, as its store describes it. At least one of `etag` and `version` is there for
/// every store that can change an object under a reader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tag {
    /// The entity tag, quotes included, as `If-Match` wants it back.
    pub etag: Option<String>,
    /// The store's version id or the repository's commit.
    pub version: Option<String>,
    /// `Last-Modified` as sent, or a file's modification time and inode: the weakest pin.
    pub modified: Option<String>,
}

/// Options of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Use a connection of its own rather than one from the pool: for the hedge of a range
    /// whose first connection may be the slow part.
    pub fresh_connection: bool,
}

/// Far storage that holds one model's objects.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// The model's URL, never with a secret in it: for messages, logs and the cache's key.
    fn url(&self) -> &str;

    /// The account that requests are charged to and throttled by: a storage account, a bucket's endpoint, a
    /// host. Sources of one account share its request budget.
    fn account(&self) -> &str;

    /// The region that it lies in, where its cloud has regions and one is known.
    fn region(&self) -> Option<&str> {
        None
    }

    /// Gets the credentials that requests need, if any, so that how long that takes is not counted as
    /// an object's answer.
    ///
    /// # Errors
    /// There are none.
    async fn authenticate(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Looks an object up. [`SourceError::NotFound`] is an answer, not a failure.
    ///
    /// # Errors
    /// See [`SourceError`].
    async fn stat(&self, name: &str) -> Result<Object, SourceError>;

    /// Reads `landing`'s range of `object`, from its position to its end, into it, on condition
    /// that the object is still what it was. One request; no retry. After an error the landing
    /// keeps what arrived, and another call goes on from there.
    ///
    /// # Errors
    /// See [`SourceError`].
    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError>;
}
