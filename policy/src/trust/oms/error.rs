//! Errors of a signature bundle.

use thiserror::Error;

/// Errors of a `model.sig`, each with its fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OmsError {
    /// More bytes than are ever read.
    #[error("the bundle has {bytes} bytes; {limit} are the most: sign with larger shards, or whole files")]
    TooLarge {
        /// The number found.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It is not what its format says.
    #[error("{part} is malformed: {problem}; sign the model again")]
    Malformed {
        /// Which layer of the bundle.
        part: &'static str,
        /// The problem.
        problem: String,
    },
    /// It may be right, and we cannot tell.
    #[error(
        "{feature} is not supported; supported are bundles of `model_signing sign key` with a P-256 key and SHA-256 \
         or BLAKE3 digests"
    )]
    Unsupported {
        /// The kind that it uses.
        feature: String,
    },
    /// None of the keys signed this.
    #[error(
        "none of the configured keys signed it ({}); it was changed after signing, or the signer's public key is \
         missing in `trust.keys`",
        hint.as_ref().map_or_else(|| "it names no key".to_owned(), |hint| format!("it names the key {hint}"))
    )]
    WrongSignature {
        /// The key that the bundle says it was signed with: not authenticated, for people only.
        hint: Option<String>,
    },
}

impl OmsError {
    pub(super) fn malformed(part: &'static str, problem: impl Into<String>) -> Self {
        Self::Malformed { part, problem: problem.into() }
    }

    pub(super) fn unsupported(feature: impl Into<String>) -> Self {
        Self::Unsupported { feature: feature.into() }
    }
}
