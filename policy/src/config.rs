//! The configuration of policy, and its errors.

use crate::usage::Use;
use crate::version::BundleId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// The most tenants: each has a limiter in memory, and requests are few beside it.
pub(crate) const TENANTS_MAX: usize = 1_024;
/// The most keys over all tenants: a request's key is compared with each of them, about 30 ns each.
pub(crate) const KEYS_MAX: usize = 4_096;
/// The most models of one tenant that are listed.
pub(crate) const MODELS_MAX: usize = 256;
/// The longest name of a tenant or label, in bytes: it stands in logs.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// The most phrases. An automaton takes six bytes for each of theirs, so at most 200 MB; of such lists as are in use, a few.
pub(crate) const PHRASES_MAX: usize = 131_072;
/// The longest phrase, in bytes after folding: the most that a stream is ever held back by.
pub(crate) const PHRASE_BYTES_MAX: usize = 256;

/// Everything policy is told at start. The default lets anybody in and screens nothing: right for
/// a server on loopback, which is where a server without configuration listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The tenants that may ask. Empty by default: then there is only the anonymous tenant.
    pub tenants: Vec<TenantConfig>,
    /// Rules for requests without a key.
    pub anonymous: AnonymousConfig,
    /// How many tokens a completion is reserved, where limits count tokens and a request names no bound of its own. What
    /// it does not use it gets back.
    pub assumed_max_tokens: u32,
    /// How many wrong keys a client may send.
    pub wrong_keys: WrongKeysConfig,
    /// Phrases that may neither be asked nor answered. Empty by default: text is relayed untouched.
    pub deny_list: DenyListConfig,
    /// Phrases that are replaced in prompts. Empty by default: bodies go on as they came.
    pub redact_list: RedactListConfig,
    /// Phrases whose presence in a prompt is noted, by label; at most 32 lists. Empty by default.
    pub annotate_lists: Vec<AnnotateConfig>,
    /// Readings of a text besides the plain one, for all lists.
    pub readings: ReadingsConfig,
    /// Says in answers what the lists found, as Azure does: `prompt_filter_results`, and `content_filter_results` beside each
    /// choice; where a deny list is active. Off by default: answers stay as workers wrote them.
    pub filter_results: bool,
    /// A directory with the lists and readings, in place of those here (`forebay policy check` looks at one). Absent by
    /// default.
    pub bundle: Option<String>,
    /// A bundle on trial, which decides over a share of requests.
    pub candidate: CandidateConfig,
    /// The version of the bundle that the lists came from.
    #[serde(skip)]
    pub version: Option<BundleId>,
}

/// A bundle on trial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CandidateConfig {
    /// Its directory. Absent by default: the lists that are there decide over all.
    pub bundle: Option<String>,
    /// The share of requests, from 0 to 1, that it decides over in place of the others. A request that is sent again is
    /// decided over by the same one. 0 by default.
    pub share: f64,
    /// Its rules, once it was read.
    #[serde(skip)]
    pub rules: Option<Box<PolicyConfig>>,
}

/// Readings of a text besides the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadingsConfig {
    /// Letters of other scripts as those of ASCII that they look like, and unseen characters as the ASCII that they
    /// spell; in prompts and answers. On: a few Cyrillic letters get by any list of words otherwise. Off where a list has
    /// short words and texts are of scripts that share letters with Latin: the Russian `сор` is the English `cop`.
    pub lookalikes: bool,
    /// Digits and signs as letters, in words that have letters too: `b0mb`, `$p4ce`; in prompts. On: it costs nothing where
    /// no such word stands.
    pub leetspeak: bool,
    /// Base64, hexadecimal, and escapes of URLs, JSON, C and HTML as what they stand for, two layers deep; in prompts. On:
    /// models read them.
    pub encodings: bool,
}

impl Default for ReadingsConfig {
    fn default() -> Self {
        Self { lookalikes: true, leetspeak: true, encodings: true }
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            tenants: Vec::new(),
            anonymous: AnonymousConfig::default(),
            assumed_max_tokens: 1_024,
            wrong_keys: WrongKeysConfig::default(),
            deny_list: DenyListConfig::default(),
            redact_list: RedactListConfig::default(),
            annotate_lists: Vec::new(),
            readings: ReadingsConfig::default(),
            filter_results: false,
            bundle: None,
            candidate: CandidateConfig::default(),
            version: None,
        }
    }
}

/// Makes a struct with the fields of limits beside its own.
macro_rules! limited {
    ($(#[$of:meta])* $vis:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$of])*
        $vis struct $name {
            $($own)*
            /// How many requests per minute; unlimited where absent. A bucket of that size which refills evenly: any
            /// window of `w` seconds grants at most `limit × (1 + w / 60)`. So are all limits over time.
            pub requests_per_minute: Option<u32>,
            /// How many tokens per minute, of prompts and completions; unlimited where absent. A request reserves its
            /// prompt and the most that it may generate, and gets back what it does not use.
            pub tokens_per_minute: Option<u64>,
            /// How many tokens per day; unlimited where absent. Until the bucket has refilled, a request is refused as
            /// one that is not worth sending again.
            pub tokens_per_day: Option<u64>,
            /// How many tokens per 30 days; unlimited where absent.
            pub tokens_per_month: Option<u64>,
            /// How many requests may be answered at a time; unlimited where absent.
            pub concurrent_requests: Option<u32>,
        }

        impl $name {
            /// Its limits alone.
            pub(crate) fn limits(&self) -> LimitsConfig {
                LimitsConfig {
                    requests_per_minute: self.requests_per_minute,
                    tokens_per_minute: self.tokens_per_minute,
                    tokens_per_day: self.tokens_per_day,
                    tokens_per_month: self.tokens_per_month,
                    concurrent_requests: self.concurrent_requests,
                }
            }
        }
    };
}

limited! {
    /// One tenant.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct TenantConfig {
        /// Its name in logs: ASCII letters, digits, `-`, `_` and `.`, at most 64.
        pub name: String,
        /// SHA-256 digests of its API keys, 64 hexadecimal digits each. Keys themselves are not
        /// configuration: a file that leaks must not open the door. While a key is replaced both are listed.
        #[schemars(extend("writeOnly" = true))]
        pub key_sha256: Vec<String>,
        /// The models that it may ask for, at most 256; all where the list is empty. Others do not exist for it.
        #[serde(default)]
        pub models: Vec<String>,
        /// Limits of each of its keys, besides those of the tenant.
        #[serde(default)]
        pub per_key: LimitsConfig,
        /// Limits of single models, besides those of the tenant; at most 256.
        #[serde(default)]
        pub per_model: Vec<ModelLimitsConfig>,
    }
}

limited! {
    /// Limits of a tenant for one model.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct ModelLimitsConfig {
        /// The model's name, as requests give it.
        pub model: String,
    }
}

limited! {
    /// Limits.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    pub struct LimitsConfig {}
}

impl LimitsConfig {
    /// Each limit with its field's name.
    pub(crate) fn each(&self) -> [(&'static str, Use, Option<u64>); 5] {
        [
            ("concurrent_requests", Use::Concurrent, self.concurrent_requests.map(u64::from)),
            ("requests_per_minute", Use::RequestsPerMinute, self.requests_per_minute.map(u64::from)),
            ("tokens_per_minute", Use::TokensPerMinute, self.tokens_per_minute),
            ("tokens_per_day", Use::TokensPerDay, self.tokens_per_day),
            ("tokens_per_month", Use::TokensPerMonth, self.tokens_per_month),
        ]
    }
}

limited! {
    /// Requests that carry no key. Their limits are for all clients together.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    pub struct AnonymousConfig {
        /// True to let them in. Where absent: only if no tenant has a key, so that configuring the
        /// first key closes the door.
        pub allowed: Option<bool>,
    }
}

/// How many wrong keys a client may send before it has to wait. Clients are told apart by their
/// addresses: IPv4 addresses, and networks of 64 bits of IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WrongKeysConfig {
    /// How many different wrong keys per minute; 0 for no limit. A client that sent more gets 429, whatever key it
    /// brings, until one of them has come back. 60: no typing error gets there, and a search for a key gets nowhere. A
    /// wrong key that is only repeated counts once: a program with an old key does not lock out others at its address.
    pub per_minute: u32,
    /// The addresses and networks of balancers and proxies in front of this server. Of what comes from one of them the
    /// client is the last address in `x-forwarded-for` that is none of them; where there is no such address nothing is
    /// counted, or one client's wrong keys would lock out all. By default all networks that are not public.
    pub proxies: Vec<String>,
    /// The most addresses that are remembered, at most 65,536, of some 80 bytes each; beyond it those that may guess
    /// again are forgotten, and where there are none, all.
    pub addresses_max: usize,
}

impl Default for WrongKeysConfig {
    fn default() -> Self {
        let proxies = [
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ];
        Self { per_minute: 60, proxies: proxies.map(String::from).into(), addresses_max: 16_384 }
    }
}

/// Phrases that may neither be asked nor answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DenyListConfig {
    /// The phrases, compared without regard to case, white space, invisible characters, and
    /// matched as whole words: `ass` does not block `class`. At most 131,072, 256 bytes each.
    #[schemars(extend("writeOnly" = true))]
    pub phrases: Vec<String>,
}

/// Phrases that are replaced in prompts before a worker sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedactListConfig {
    /// The phrases, compared as those of the deny list. A request with one where it cannot be replaced is refused: over
    /// two texts, in the name of a member, in a number, or hidden by an escape in the arguments of a tool call.
    #[schemars(extend("writeOnly" = true))]
    pub phrases: Vec<String>,
    /// The text in their place, with a letter or digit and at most 64 bytes.
    pub replacement: String,
}

impl Default for RedactListConfig {
    fn default() -> Self {
        Self { phrases: Vec::new(), replacement: "[redacted]".into() }
    }
}

/// Phrases whose presence in a prompt is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnotateConfig {
    /// The note: a word in `x-forebay-annotations` of the answer, in the request's span and in metrics. ASCII letters,
    /// digits, `-`, `_` and `.`, at most 64.
    pub label: String,
    /// The phrases, compared as those of the deny list.
    #[schemars(extend("writeOnly" = true))]
    pub phrases: Vec<String>,
}

/// Checks a name that is shown: of a tenant, of a label.
pub(crate) fn check_name(name: &str, taken: &[Arc<str>]) -> Result<(), String> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(sane) {
        return Err(format!("is {name:?}; use 1 to {NAME_BYTES_MAX} ASCII letters, digits, `-`, `_` or `.`"));
    }
    if taken.iter().any(|other| &**other == name) {
        return Err(format!("is {name:?}, which is taken"));
    }
    Ok(())
}

/// The fault of a refused configuration: the field, and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("checking the policy: `{field}` {problem}")]
pub struct ConfigError {
    /// The field's path, e.g. `tenants[2].key_sha256[0]`.
    pub field: String,
    /// The fault, and how to mend it.
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
