//! Errors of landed bytes.

use std::ops::Range;

use thiserror::Error;

/// Errors of landed bytes.
#[derive(Debug, Error)]
pub enum LandingError {
    /// An extent's digest is not what the manifest says.
    #[error("`{object}`, bytes {}..{}, read from {source_url}: digest {found} instead of {expected}", .range.start, .range.end)]
    Corrupt {
        /// The object.
        object: String,
        /// Which bytes of it.
        range: Range<u64>,
        /// The source's URL.
        source_url: String,
        /// BLAKE3 of what came, in hexadecimal.
        found: String,
        /// The digest in the manifest.
        expected: String,
    },
    /// The extent could not be noted or kept.
    #[error("keeping bytes of `{object}`: {problem}")]
    Keep {
        /// The object.
        object: String,
        /// The system's error.
        problem: String,
    },
}
