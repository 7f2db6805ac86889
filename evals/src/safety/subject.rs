//! The screen under trial, as a value.

use bytes::Bytes;

/// A screen under trial, which denies `RULES`.
pub struct Subject<'s> {
    /// Passes the pieces of a streamed answer of two choices; returns what its client gets.
    pub stream: &'s (dyn Fn(Vec<Bytes>) -> Bytes + Sync),
    /// True if it refuses a request's body; the path says of which endpoint.
    pub refuses: &'s (dyn Fn(&str, &str) -> bool + Sync),
}
