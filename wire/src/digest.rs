//! Digests as values: what a hash found, with its name. Hashing itself is done where the bytes are.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The length of both kinds of digest, in bytes.
pub(crate) const DIGEST_BYTES: usize = 32;

/// A BLAKE3 digest, written `blake3:` and 64 lower-case hexadecimal digits. It is what we compute
/// ourselves: of extents, of tensors, of manifests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits. It is what others
/// publish: stores of their objects, signers of their files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; DIGEST_BYTES]);

/// A digest of a stranger's choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnyDigest {
    /// By BLAKE3.
    Blake3(Digest),
    /// By SHA-256.
    Sha256(Sha256),
}

impl fmt::Display for AnyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(digest) => digest.fmt(formatter),
            Self::Sha256(digest) => digest.fmt(formatter),
        }
    }
}

/// Errors of a digest's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DigestError {
    /// It begins with the name of another hash, or none.
    #[error("a digest must begin with `{wanted}`")]
    Prefix {
        /// The prefix that it must have.
        wanted: &'static str,
    },
    /// The rest is not 32 bytes in hexadecimal.
    #[error("a digest must have exactly 64 hexadecimal digits, in lower case")]
    Digits,
}

macro_rules! digest {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// The prefix of its text.
            pub const PREFIX: &str = $prefix;

            /// Its bytes in lower-case hexadecimal, without the prefix.
            #[must_use]
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }

            /// Reads 64 lower-case hexadecimal digits without a prefix.
            ///
            /// # Errors
            /// The text is anything else.
            pub fn from_hex(text: &str) -> Result<Self, DigestError> {
                parse_hex(text).map(Self).ok_or(DigestError::Digits)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}{}", Self::PREFIX, self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                let digits = text.strip_prefix(Self::PREFIX).ok_or(DigestError::Prefix { wanted: Self::PREFIX })?;
                Self::from_hex(digits)
            }
        }

        impl From<[u8; DIGEST_BYTES]> for $name {
            fn from(bytes: [u8; DIGEST_BYTES]) -> Self {
                Self(bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

digest!(Digest, "blake3:");
digest!(Sha256, "sha256:");

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Lower case only: one digest has one spelling, so texts can be compared and searched.
fn parse_hex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    let digits: &[u8; 2 * DIGEST_BYTES] = text.as_bytes().try_into().ok()?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_digest_survives_its_text(bytes: [u8; DIGEST_BYTES]) {
            prop_assert_eq!(Digest(bytes).to_string().parse(), Ok(Digest(bytes)));
            prop_assert_eq!(Sha256(bytes).to_string().parse(), Ok(Sha256(bytes)));
            let json = serde_json::to_string(&Digest(bytes)).expect("a string");
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).expect("as written"), Digest(bytes));
        }
    }

    #[test]
    fn only_one_spelling_is_read() {
        let text = Digest([0xab; DIGEST_BYTES]).to_string();
        assert_eq!(text, format!("blake3:{}", "ab".repeat(32)));
        let short = &text[..text.len() - 1];
        let upper = format!("blake3:{}", "AB".repeat(32));
        for wrong in [short, &format!("{text}0"), &upper, &format!("blake3:{}", "é".repeat(32))] {
            assert_eq!(wrong.parse::<Digest>(), Err(DigestError::Digits), "{wrong}");
        }
        assert_eq!(text.parse::<Sha256>(), Err(DigestError::Prefix { wanted: "sha256:" }));
    }
}
