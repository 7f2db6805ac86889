//! A capability: the right of one certificate to one root, for an hour at most, signed by somebody whom the
//! configuration names. Stolen, it is of no use: the thief has not the certificate's key.
//!
//! Its text is base64url of: version 1, root (32 bytes), thumbprint (32), the last second (8, little-endian), the
//! tenant's length (1) and name, and an ECDSA P-256 signature in DER of all that before it, after a prefix of ours.

use super::Offered;
use crate::config::NAME_BYTES_MAX;
use crate::trust::oms::PublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use wire::digest::Digest;

const VERSION: u8 = 1;
/// Keeps a signature from meaning anything elsewhere.
const PREFIX: &[u8] = b"forebay capability\0";
/// The longest life from now, in seconds, whoever signed for more.
const LIFE_MAX_S: u64 = 3_600;
/// The longest text: a tenant's longest name and the longest signature are well below it.
const TEXT_BYTES_MAX: usize = 512;
/// The bytes before the tenant's name.
const HEAD_BYTES: usize = 1 + 32 + 32 + 8 + 1;

/// The right of one certificate to one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The root.
    pub root: Digest,
    /// Whose weights they are.
    pub tenant: String,
    /// The last second at which it holds, since 1970.
    pub not_after_s: u64,
    /// The SHA-256 of the certificate.
    pub thumbprint: [u8; 32],
}

impl Capability {
    /// Its text. `sign` makes a signature of the bytes that it is given, in DER; none where the tenant's name is too long.
    pub fn signed(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Option<String> {
        let mut bytes = self.to_bytes()?;
        let signature = sign(&[PREFIX, &bytes].concat());
        bytes.extend(signature);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a text that one of `issuers` signed.
    pub(super) fn verify(text: &str, issuers: &[PublicKey]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, _) = bytes.split_at_checked(HEAD_BYTES)?;
        let (signed, signature) = bytes.split_at_checked(HEAD_BYTES + usize::from(head[HEAD_BYTES - 1]))?;
        let message = [PREFIX, signed].concat();
        if !issuers.iter().any(|issuer| issuer.verifies(&message, signature)) {
            return None;
        }
        Self::from_bytes(signed)
    }

    fn to_bytes(&self) -> Option<Vec<u8>> {
        let length = u8::try_from(self.tenant.len()).ok().filter(|length| usize::from(*length) <= NAME_BYTES_MAX)?;
        let time = self.not_after_s.to_le_bytes();
        Some([&[VERSION][..], &self.root.0, &self.thumbprint, &time, &[length], self.tenant.as_bytes()].concat())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (root, rest) = rest.split_first_chunk::<32>()?;
        let (thumbprint, rest) = rest.split_first_chunk::<32>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (length, tenant) = rest.split_first()?;
        let tenant = String::from_utf8(tenant.to_vec()).ok()?;
        if *version != VERSION || usize::from(*length) != tenant.len() || tenant.len() > NAME_BYTES_MAX {
            return None;
        }
        let not_after_s = u64::from_le_bytes(*time);
        Some(Self { root: Digest(*root), tenant, not_after_s, thumbprint: *thumbprint })
    }

    /// Returns true if it is the certificate's, and holds now.
    pub(super) fn holds(&self, thumbprint: &[u8; 32], now_s: u64) -> bool {
        let is_theirs = bool::from(self.thumbprint.ct_eq(thumbprint));
        let lives = now_s <= self.not_after_s && self.not_after_s - now_s <= LIFE_MAX_S;
        is_theirs & lives
    }

    /// Returns true if it is for these weights.
    pub(super) fn covers(&self, offer: &Offered) -> bool {
        bool::from(self.root.0.ct_eq(&offer.root.0)) & (self.tenant == offer.tenant)
    }
}
