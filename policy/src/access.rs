//! From an API key to a tenant. Keys are held as digests and compared in constant time.

use crate::config::{ConfigError, KEYS_MAX, NAME_BYTES_MAX, PolicyConfig, TENANTS_MAX};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// The name of the tenant that requests without a key belong to.
const ANONYMOUS: &str = "anonymous";
/// Its place among the tenants.
const ANONYMOUS_INDEX: u32 = 0;

/// A caller whose key was checked, or who needs none. Made only by `Policy::identify`.
#[derive(Debug, Clone)]
pub struct Identified {
    pub(crate) tenant: Arc<str>,
    pub(crate) index: usize,
}

impl Identified {
    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
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
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why nobody was identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unidentified {
    MissingKey,
    WrongKey,
}

/// The doors and their keys.
#[derive(Debug)]
pub(crate) struct Access {
    /// Anonymous first, then as configured.
    names: Vec<Arc<str>>,
    keys: Vec<([u8; 32], u32)>,
    anonymous: bool,
}

impl Access {
    pub(crate) fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        if config.tenants.len() > TENANTS_MAX {
            return Err(ConfigError::new("tenants", format!("has more than {TENANTS_MAX} entries")));
        }
        let mut names: Vec<Arc<str>> = vec![ANONYMOUS.into()];
        let mut keys: Vec<([u8; 32], u32)> = Vec::new();
        for (index, tenant) in config.tenants.iter().enumerate() {
            let at = format!("tenants[{index}]");
            check_name(&tenant.name, &names).map_err(|problem| ConfigError::new(format!("{at}.name"), problem))?;
            names.push(tenant.name.as_str().into());
            for (place, hex) in tenant.key_sha256.iter().enumerate() {
                let at = format!("{at}.key_sha256[{place}]");
                let digest = parse_digest(hex).ok_or_else(|| {
                    ConfigError::new(&at, "is not 64 hexadecimal digits; `printf %s KEY | sha256sum` makes them")
                })?;
                if keys.iter().any(|(known, _)| known == &digest) {
                    return Err(ConfigError::new(at, "is listed twice; a key belongs to one tenant"));
                }
                #[expect(clippy::cast_possible_truncation, reason = "at most TENANTS_MAX")]
                keys.push((digest, index as u32 + 1));
            }
        }
        if keys.len() > KEYS_MAX {
            return Err(ConfigError::new("tenants", format!("hold more than {KEYS_MAX} keys together")));
        }
        let anonymous = config.anonymous.allowed.unwrap_or(keys.is_empty());
        if keys.is_empty() && !anonymous {
            return Err(ConfigError::new("anonymous.allowed", "is false and no tenant has a key: nobody could ask"));
        }
        Ok(Self { names, keys, anonymous })
    }

    /// Whose key it is. Without any configured key a presented one is ignored: OpenAI's clients
    /// always send one. Where there are keys a wrong one is refused even if anonymous requests
    /// are allowed, or a typing error would silently change the tenant.
    pub(crate) fn identify(&self, key: Option<&str>) -> Result<Identified, Unidentified> {
        let index = match key {
            Some(key) if !self.keys.is_empty() => self.tenant_of(key).ok_or(Unidentified::WrongKey)?,
            _ if self.anonymous => ANONYMOUS_INDEX,
            _ => return Err(Unidentified::MissingKey),
        } as usize;
        Ok(Identified { tenant: Arc::clone(&self.names[index]), index })
    }

    /// Compares with every key whatever matched, so that time tells nothing of which.
    fn tenant_of(&self, key: &str) -> Option<u32> {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = ANONYMOUS_INDEX;
        for (known, tenant) in &self.keys {
            found.conditional_assign(tenant, known.ct_eq(&digest));
        }
        (found != ANONYMOUS_INDEX).then_some(found)
    }
}

fn check_name(name: &str, taken: &[Arc<str>]) -> Result<(), String> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(sane) {
        return Err(format!("is {name:?}; use 1 to {NAME_BYTES_MAX} ASCII letters, digits, `-`, `_` or `.`"));
    }
    if taken.iter().any(|other| &**other == name) {
        return Err(format!("is {name:?}, which is taken"));
    }
    Ok(())
}

fn parse_digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TenantConfig;

    fn tenant(name: &str, keys: &[&str]) -> TenantConfig {
        let key_sha256 = keys.iter().map(|key| hash_key(key)).collect();
        TenantConfig { name: name.into(), key_sha256, requests_per_minute: None }
    }

    fn two_tenants() -> PolicyConfig {
        PolicyConfig { tenants: vec![tenant("red", &["r1", "r2"]), tenant("blue", &["b"])], ..PolicyConfig::default() }
    }

    #[test]
    fn a_key_opens_its_own_tenant_only() {
        let access = Access::new(&two_tenants()).expect("valid");
        for (key, name) in [("r1", "red"), ("r2", "red"), ("b", "blue")] {
            assert_eq!(access.identify(Some(key)).expect(key).tenant(), name);
        }
        assert_eq!(access.identify(Some("R1")).expect_err("wrong"), Unidentified::WrongKey);
        assert_eq!(access.identify(None).expect_err("missing"), Unidentified::MissingKey);
    }

    #[test]
    fn without_keys_everybody_is_anonymous_whatever_key_they_send() {
        let access = Access::new(&PolicyConfig::default()).expect("valid");
        for key in [None, Some("EMPTY")] {
            assert_eq!(access.identify(key).expect("let in").tenant(), "anonymous");
        }
    }

    #[test]
    fn a_wrong_key_is_not_anonymous() {
        let mut config = two_tenants();
        config.anonymous.allowed = Some(true);
        let access = Access::new(&config).expect("valid");
        assert_eq!(access.identify(None).expect("let in").tenant(), "anonymous");
        assert_eq!(access.identify(Some("x")).expect_err("wrong"), Unidentified::WrongKey);
    }

    #[test]
    fn errors_name_the_field() {
        let with = |tenants| PolicyConfig { tenants, ..PolicyConfig::default() };
        let bad_key = TenantConfig { name: "a".into(), key_sha256: vec!["sk-plain".into()], ..TenantConfig::default() };
        let mut closed = PolicyConfig::default();
        closed.anonymous.allowed = Some(false);
        for (config, field) in [
            (with(vec![tenant("a", &["k"]), tenant("a", &[])]), "tenants[1].name"),
            (with(vec![tenant("anonymous", &[])]), "tenants[0].name"),
            (with(vec![tenant("a b", &[])]), "tenants[0].name"),
            (with(vec![tenant("a", &["k"]), tenant("b", &["k"])]), "tenants[1].key_sha256[0]"),
            (with(vec![bad_key]), "tenants[0].key_sha256[0]"),
            (closed, "anonymous.allowed"),
        ] {
            assert_eq!(Access::new(&config).expect_err(field).field, field);
        }
    }
}
