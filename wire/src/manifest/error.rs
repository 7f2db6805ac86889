//! Errors of a manifest.

use thiserror::Error;

use crate::digest::Digest;

/// Errors of a manifest: the problem, its place and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// More text than is ever read.
    #[error("the manifest has {bytes} bytes; {limit} are the most, enough for 3 TiB of weights")]
    TooLarge {
        /// The number found.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The text is not JSON.
    #[error("the manifest is not JSON ({cause}); write it again with `forebay manifest MODEL --write`")]
    Syntax {
        /// The place and the problem.
        cause: String,
    },
    /// A field is wrong.
    #[error("the manifest's `{field}` {problem}; write it again with `forebay manifest MODEL --write`")]
    Field {
        /// Its path, e.g. `files[2].extents`.
        field: String,
        /// The problem.
        problem: String,
    },
    /// The content was changed after the root was computed, or the root was.
    #[error(
        "the manifest states the root {stated} and its content has {computed}: it was changed after it was written; \
         fetch it again or write it again with `forebay manifest MODEL --write`"
    )]
    Root {
        /// The value that was found.
        stated: Digest,
        /// The value that it must have.
        computed: Digest,
    },
}

impl ManifestError {
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}
