//! Why bytes are no manifest.

use thiserror::Error;

use crate::digest::Digest;

/// Why a manifest is refused: what is wrong where, and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// More text than is ever read.
    #[error("the manifest has {bytes} bytes; {limit} are the most, enough for 3 TiB of weights")]
    TooLarge {
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
    /// The text is not JSON.
    #[error("the manifest is not JSON ({cause}); write it again with `forebay manifest MODEL --write`")]
    Syntax {
        /// Where and why.
        cause: String,
    },
    /// A field is wrong.
    #[error("the manifest's `{field}` {problem}; write it again with `forebay manifest MODEL --write`")]
    Field {
        /// Its path, e.g. `files[2].extents`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The content was changed after the root was computed, or the root was.
    #[error(
        "the manifest states the root {stated} and its content has {computed}: it was changed after it was written; \
         fetch it again or write it again with `forebay manifest MODEL --write`"
    )]
    Root {
        /// What it says.
        stated: Digest,
        /// What it should say.
        computed: Digest,
    },
}

impl ManifestError {
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}
