//! The configuration of trust.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wire::digest::Digest;

use super::oms::PublicKey;
use crate::ConfigError;

/// The most keys: a signature is tried with each, about 0.3 ms a try.
const KEYS_MAX: usize = 32;
/// The most accepted roots; each load compares its root with all of them.
const ROOTS_MAX: usize = 4_096;

/// Whose models are loaded (`[trust]`). By default anyone's: bytes are checked against whatever
/// digests there are, and `/status` says which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// Load only what is proven: by a manifest, a signature or the store's own checksum. Off by
    /// default: most published models have none of them.
    pub require_proof: bool,
    /// Load only what is signed with one of `keys`.
    pub require_signature: bool,
    /// Load only models whose manifest has one of these roots (`blake3:` and 64 hexadecimal
    /// digits, as `forebay manifest` prints them). Empty by default: any root. At most 4,096.
    #[schemars(with = "Vec<String>")]
    pub roots: Vec<Digest>,
    /// Public keys in PEM (`-----BEGIN PUBLIC KEY-----`), of the curve P-256, that sign models by
    /// OpenSSF Model Signing. Where there are any, a `model.sig` must be of one of them. At most 32.
    pub keys: Vec<String>,
}

impl TrustConfig {
    pub(super) fn parse_keys(&self) -> Result<Vec<PublicKey>, ConfigError> {
        if self.keys.len() > KEYS_MAX {
            return Err(ConfigError::new("trust.keys", format!("has more than {KEYS_MAX} entries")));
        }
        if self.roots.len() > ROOTS_MAX {
            return Err(ConfigError::new("trust.roots", format!("has more than {ROOTS_MAX} entries")));
        }
        if self.require_signature && self.keys.is_empty() {
            let problem = "is set and `trust.keys` is empty: nothing could be loaded; add a public key";
            return Err(ConfigError::new("trust.require_signature", problem));
        }
        let parse = |(index, pem): (usize, &String)| {
            PublicKey::from_pem(pem).map_err(|problem| ConfigError::new(format!("trust.keys[{index}]"), problem))
        };
        self.keys.iter().enumerate().map(parse).collect()
    }
}
