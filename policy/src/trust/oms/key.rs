//! A signer's public key.

use std::fmt;

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{DerSignature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use sha2::{Digest as _, Sha256};

/// A public key of the curve P-256 for ECDSA with SHA-256 (FIPS 186-5).
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: String,
}

impl PublicKey {
    /// Reads a key in PEM (RFC 7468, `SubjectPublicKeyInfo`).
    ///
    /// # Errors
    /// The problem, as the end of a sentence that begins with its place.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let problem = |cause: &dyn fmt::Display| {
            format!(
                "is not a public key of the curve P-256 in PEM ({cause}); `openssl ec -in KEY -pubout` writes one, and \
                 `openssl ecparam -name prime256v1 -genkey -noout` makes the key"
            )
        };
        let key = VerifyingKey::from_public_key_pem(pem.trim()).map_err(|cause| problem(&cause))?;
        let canonical = key.to_public_key_pem(LineEnding::LF).map_err(|cause| problem(&cause))?;
        let id = Sha256::digest(canonical.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { key, id })
    }

    /// The SHA-256 of its PEM in hexadecimal, as bundles name it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if this is a signature of this message by this key, encoded in DER.
    #[must_use]
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        DerSignature::from_bytes(signature).is_ok_and(|signature| self.key.verify(message, &signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", self.id)
    }
}
