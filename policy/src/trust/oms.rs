//! OpenSSF Model Signing 1.0 (`model.sig`): from a bundle's bytes to signed digests.
//!
//! Supported: bundles that `model_signing sign key` writes, with keys of the curve P-256 and with
//! SHA-256 or BLAKE3 digests, of whole files or of shards. Certificates and Sigstore's keyless
//! identities are refused by name: they need a time and a transparency log to mean anything.
//! Nothing of a bundle's content is believed, or even read, before its signature holds.

mod bundle;
mod error;
mod key;
mod statement;

pub use bundle::{BUNDLE_BYTES_MAX, Bundle};
pub use error::OmsError;
pub use key::PublicKey;
pub use statement::Statement;

use std::collections::BTreeMap;

use wire::evidence::Expected;

/// A statement that a trusted key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    statement: Statement,
    key: String,
}

impl Signed {
    /// Checks a bundle against the keys, one of which must have signed it.
    ///
    /// # Errors
    /// The bundle is malformed or of an unsupported kind, none of the keys signed it, or what was
    /// signed is no statement about a model.
    pub fn verify(bundle: &[u8], keys: &[PublicKey]) -> Result<Self, OmsError> {
        let bundle = Bundle::parse(bundle)?;
        let message = bundle.signed_message();
        let Some(key) = keys.iter().find(|key| key.verifies(&message, &bundle.signature)) else {
            return Err(OmsError::WrongSignature { hint: bundle.hint });
        };
        Ok(Self { statement: Statement::parse(&bundle.payload)?, key: key.id().to_owned() })
    }

    /// The expectation of this file's bytes; `None` if it is not listed.
    #[must_use]
    pub fn expected(&self, name: &str) -> Option<&Expected> {
        self.statement.files.get(name)
    }

    /// The expectation of each listed file's bytes: [`Expected::Whole`] or [`Expected::Shards`].
    #[must_use]
    pub fn all(&self) -> &BTreeMap<String, Expected> {
        &self.statement.files
    }

    /// Returns true if files were cut into shards, of which an empty file has none.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.statement.is_sharded
    }

    /// Which key it was: the SHA-256 of its PEM in hexadecimal, as bundles name it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

#[cfg(test)]
mod tests;
