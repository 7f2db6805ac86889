//! The proof of a model's bytes, in one word.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reasons to believe that bytes are what their publisher meant, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// A manifest, a signature or the store's own checksum says what they must be.
    Proven,
    /// Nothing says what they must be. Digests were computed at the first load and tied to the
    /// objects' ETags: later loads get the same bytes or none.
    Pinned,
    /// A local directory or bytes in the binary, taken as immutable and believed without proof.
    Trusted,
}

impl fmt::Display for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Proven => "proven",
            Self::Pinned => "pinned",
            Self::Trusted => "trusted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_text_are_the_same_word() {
        for proof in [Proof::Proven, Proof::Pinned, Proof::Trusted] {
            assert_eq!(serde_json::to_string(&proof).expect("a string"), format!("\"{proof}\""));
        }
    }
}
