//! API keys: which bytes are one, how a request presents one, and its digest. It knows the values
//! of headers, and no HTTP library.
//!
//! A key is visible ASCII, with spaces only inside it, so that every client can send it and no
//! hop changes it. A header that should carry a key and does not is a wrong key, never an absent
//! one: a typing error must not turn a request into somebody else's.

use crate::guesses::NO_KEY;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// The header whose value names a scheme before the key.
const AUTHORIZATION: &str = "authorization";
/// The longest run of white space whose digest a configuration may not hold.
const BLANK_BYTES_MAX: usize = 4;

/// The key that a request presents.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// No header that carries keys is there.
    Nothing,
    /// One key; where several headers carry one, they agree.
    Key(&'a str),
    /// A header is there that carries no key, another one, or a second value.
    Invalid,
}

impl<'a> Presented<'a> {
    /// Reads the headers that carry keys, each value with its header's name in lower case:
    /// `authorization` holds `Bearer KEY`, the others hold `KEY`.
    ///
    /// ```
    /// use policy::Presented;
    /// let read = |value: &'static str| Presented::read([("authorization", value.as_bytes())]);
    /// assert_eq!(read("bearer sk-demo"), Presented::Key("sk-demo"));
    /// assert_eq!(read("Bearer "), Presented::Invalid);
    /// assert_eq!(Presented::read([]), Presented::Nothing);
    /// ```
    pub fn read(values: impl IntoIterator<Item = (&'static str, &'a [u8])>) -> Self {
        let mut presented = Self::Nothing;
        let mut last_name = "";
        for (name, value) in values {
            // Hops disagree on which of two values of one header counts.
            let is_second = std::mem::replace(&mut last_name, name) == name;
            let key = if name == AUTHORIZATION { bearer(value) } else { key(value) };
            let one = key.filter(|_| !is_second).map_or(Self::Invalid, Self::Key);
            presented = presented.and(one);
        }
        presented
    }

    /// A number that tells presented keys apart, for counting those that are wrong; never shown.
    pub(crate) fn fingerprint(self) -> u64 {
        match self {
            Self::Key(key) => {
                let KeyDigest([a, b, c, d, e, f, g, h, ..]) = KeyDigest::of(key);
                u64::from_be_bytes([a, b, c, d, e, f, g, h])
            }
            Self::Nothing | Self::Invalid => NO_KEY,
        }
    }

    /// Both at once: headers that carry keys have to agree.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Key(one), Self::Key(other)) if one == other => Self::Key(one),
            _ => Self::Invalid,
        }
    }
}

/// Never shows the key.
impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Key(_) => "Key([redacted])",
            Self::Invalid => "Invalid",
        })
    }
}

fn bearer(value: &[u8]) -> Option<&str> {
    let value = value.trim_ascii();
    let end = value.iter().position(u8::is_ascii_whitespace)?;
    let (scheme, rest) = value.split_at(end);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| key(rest)).flatten()
}

fn key(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    problem(value).is_none().then_some(value)
}

/// The problem that keeps `key` from being one; `None` if there is none.
pub(crate) fn problem(key: &str) -> Option<&'static str> {
    if key.trim().is_empty() {
        return Some("is empty; leave it out, or set a key");
    }
    if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Some("holds a character that is not visible ASCII, which no header may hold; choose another key");
    }
    let is_trimmed = key.trim_ascii().len() == key.len();
    (!is_trimmed).then_some("begins or ends with a space, which HTTP removes; choose another key")
}

/// The SHA-256 of a key. Compared in constant time, and never shown: a short key's digest is the key.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of `key`.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }

    /// True if this is what `presented` hashes to.
    #[must_use]
    pub fn opens_for(&self, presented: Presented<'_>) -> bool {
        matches!(presented, Presented::Key(key) if self.ct_eq(&Self::of(key)).into())
    }

    /// True if it is the digest of nothing or of a few characters of white space: what
    /// `sha256sum` says of an unset variable, with `echo` or without.
    pub(crate) fn is_of_blank(&self) -> bool {
        let mut blanks = vec![String::new()];
        for _ in 0..BLANK_BYTES_MAX {
            if blanks.iter().any(|blank| self.ct_eq(&Self::of(blank)).into()) {
                return true;
            }
            let longer = blanks.iter().flat_map(|blank| [' ', '\t', '\n', '\r'].map(|end| format!("{blank}{end}")));
            blanks = longer.collect();
        }
        blanks.iter().any(|blank| self.ct_eq(&Self::of(blank)).into())
    }
}

impl ConstantTimeEq for KeyDigest {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The SHA-256 of an API key in hexadecimal, as `key_sha256` wants it.
///
/// ```
/// assert!(policy::hash_key("sk-demo").starts_with("f77894fd"));
/// assert_eq!(policy::hash_key("sk-demo").len(), 64);
/// ```
#[must_use]
pub fn hash_key(key: &str) -> String {
    KeyDigest::of(key).0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_there_is_never_no_key() {
        for value in [
            "",
            " ",
            "\t",
            "Bearer",
            "Bearer ",
            "Bearer \t ",
            "bearer",
            "Basic a2V5",
            "sk-demo",
            "Token sk-demo",
            "BearerX sk-demo",
            "Bearer sk\u{e9}",
            "Bearer \u{a0}",
            "Bearer a\tb",
            "Bearer \0",
            "Digest x",
            ":",
            ",",
        ] {
            assert_eq!(Presented::read([("authorization", value.as_bytes())]), Presented::Invalid, "{value:?}");
        }
        for value in [b"".as_slice(), b" ", b"\t", b"\xff", b"sk-\xe9", b"a\0b", b"\xc3\xa9", b"\xe2\x80\x8b"] {
            for name in ["api-key", "x-api-key"] {
                assert_eq!(Presented::read([(name, value)]), Presented::Invalid, "{name} {value:?}");
            }
        }
    }

    #[test]
    fn headers_that_disagree_are_wrong_and_those_that_agree_are_one() {
        let good: (&'static str, &[u8]) = ("authorization", b"Bearer k");
        for (values, expected) in [
            (vec![good], Presented::Key("k")),
            (vec![("authorization", b"bEARER  k ".as_slice())], Presented::Key("k")),
            (vec![("x-api-key", b" k ")], Presented::Key("k")),
            (vec![good, ("api-key", b"k"), ("x-api-key", b"k")], Presented::Key("k")),
            (vec![good, good], Presented::Invalid),
            (vec![good, ("authorization", b"Bearer other")], Presented::Invalid),
            (vec![("authorization", b"Basic x"), good], Presented::Invalid),
            (vec![good, ("x-api-key", b"other")], Presented::Invalid),
            (vec![good, ("api-key", b"")], Presented::Invalid),
            (vec![("authorization", b""), ("api-key", b"k")], Presented::Invalid),
            (vec![("api-key", b"k"), ("api-key", b"k")], Presented::Invalid),
        ] {
            assert_eq!(Presented::read(values.clone()), expected, "{values:?}");
        }
    }

    #[test]
    fn digests_of_blanks_are_known() {
        for blank in ["", " ", "\n", "\r\n", "  ", "\t", " \n", "    "] {
            assert!(KeyDigest::of(blank).is_of_blank(), "{blank:?}");
        }
        assert!(!KeyDigest::of("k").is_of_blank());
    }

    #[test]
    fn keys_and_their_digests_are_never_shown() {
        let shown = format!("{:?} {:?}", Presented::Key("hush"), KeyDigest::of("hush"));
        assert!(!shown.contains("hush") && !shown.contains(&hash_key("hush")[..8]), "{shown}");
    }

    #[test]
    fn a_key_survives_every_header() {
        assert_eq!(problem("sk-demo with spaces"), None);
        for key in ["", " ", " k", "k ", "k\n", "\u{e9}", "\0"] {
            assert!(problem(key).is_some(), "{key:?}");
        }
    }
}
