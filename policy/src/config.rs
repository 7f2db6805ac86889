//! What an operator writes, and what is wrong with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most tenants: each has a limiter in memory, and requests are few beside it.
pub(crate) const TENANTS_MAX: usize = 1_024;
/// The most keys over all tenants: a request's key is compared with each of them, about 30 ns each.
pub(crate) const KEYS_MAX: usize = 4_096;
/// The longest tenant name, in bytes: it is a label in logs.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// The most deny-list phrases; the automaton of so many takes a few MiB.
pub(crate) const PHRASES_MAX: usize = 20_000;
/// The longest phrase, in bytes after folding: the most that a stream is ever held back by.
pub(crate) const PHRASE_BYTES_MAX: usize = 256;

/// Everything policy is told at start. The default lets anybody in and screens nothing: right for
/// a server on loopback, which is where a server without configuration listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Who may ask. Empty by default: then there is only the anonymous tenant.
    pub tenants: Vec<TenantConfig>,
    /// What applies to requests without a key.
    pub anonymous: AnonymousConfig,
    /// Phrases that may neither be asked nor answered. Empty by default: text is relayed untouched.
    pub deny_list: DenyListConfig,
}

/// One tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Its name in logs: ASCII letters, digits, `-`, `_` and `.`, at most 64.
    pub name: String,
    /// SHA-256 digests of its API keys, 64 hexadecimal digits each. Keys themselves are not
    /// configuration: a file that leaks must not open the door.
    #[schemars(extend("writeOnly" = true))]
    pub key_sha256: Vec<String>,
    /// How many requests it may make per minute; unlimited where absent. A bucket of that size
    /// which refills evenly: any window of `w` seconds grants at most `limit × (1 + w / 60)`.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
}

/// Requests that carry no key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnonymousConfig {
    /// Whether they are let in. Where absent: only if no tenant has a key, so that configuring the
    /// first key closes the door.
    pub allowed: Option<bool>,
    /// How many of them per minute, all clients together; unlimited where absent.
    pub requests_per_minute: Option<u32>,
}

/// Phrases that may neither be asked nor answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DenyListConfig {
    /// The phrases, compared without regard to case, white space, invisible characters, and
    /// matched as whole words: `ass` does not block `class`. At most 20,000, 256 bytes each.
    #[schemars(extend("writeOnly" = true))]
    pub phrases: Vec<String>,
}

/// Why a configuration is refused: the field, and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("checking the policy: `{field}` {problem}")]
pub struct ConfigError {
    /// The field's path, e.g. `tenants[2].key_sha256[0]`.
    pub field: String,
    /// What is wrong with it and how to mend it.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_errors() {
        let error = serde_json::from_str::<PolicyConfig>(r#"{"tenant":[]}"#).expect_err("refused");
        assert!(error.to_string().contains("tenant"), "{error}");
        serde_json::from_str::<PolicyConfig>("{}").expect("all fields have defaults");
    }
}
