//! From an API key to a tenant. Keys are held as digests and compared in constant time.

use crate::config::{ConfigError, KEYS_MAX, MODELS_MAX, PolicyConfig, TENANTS_MAX, check_name};
use crate::key::{KeyDigest, Presented, hash_key};
use std::collections::HashSet;
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
    /// The place of its key among the tenant's.
    pub(crate) key: Option<usize>,
    salt: Arc<str>,
}

impl Identified {
    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// A digest of the tenant's name, in hexadecimal: what workers tell prefix caches apart by.
    #[must_use]
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// True if no key was brought, or none was wanted.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.index == ANONYMOUS_INDEX as usize
    }
}

/// The reason why nobody was identified.
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
    salts: Vec<Arc<str>>,
    keys: Vec<(KeyDigest, Owner)>,
    /// The models of each tenant; all where there are none.
    models: Vec<HashSet<Box<str>>>,
    anonymous: bool,
}

/// Whose key it is: the tenant's place, and the key's place there.
#[derive(Debug, Clone, Copy)]
struct Owner {
    tenant: u32,
    key: u32,
}

impl Access {
    pub(crate) fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        if config.tenants.len() > TENANTS_MAX {
            return Err(ConfigError::new("tenants", format!("has more than {TENANTS_MAX} entries")));
        }
        let mut names: Vec<Arc<str>> = vec![ANONYMOUS.into()];
        let mut keys: Vec<(KeyDigest, Owner)> = Vec::new();
        let mut models = vec![HashSet::new()];
        for (index, tenant) in config.tenants.iter().enumerate() {
            let at = format!("tenants[{index}]");
            check_name(&tenant.name, &names).map_err(|problem| ConfigError::new(format!("{at}.name"), problem))?;
            names.push(tenant.name.as_str().into());
            if tenant.models.len() > MODELS_MAX {
                return Err(ConfigError::new(format!("{at}.models"), format!("has more than {MODELS_MAX} entries")));
            }
            models.push(tenant.models.iter().map(|model| model.as_str().into()).collect());
            for (place, hex) in tenant.key_sha256.iter().enumerate() {
                let at = format!("{at}.key_sha256[{place}]");
                let digest = parse_digest(hex).map_err(|problem| ConfigError::new(&at, problem))?;
                if keys.iter().any(|(known, _)| known.ct_eq(&digest).into()) {
                    return Err(ConfigError::new(at, "is listed twice; a key belongs to one tenant"));
                }
                #[expect(clippy::cast_possible_truncation, reason = "at most TENANTS_MAX, and what a file holds")]
                keys.push((digest, Owner { tenant: index as u32 + 1, key: place as u32 }));
            }
        }
        if keys.len() > KEYS_MAX {
            return Err(ConfigError::new("tenants", format!("hold more than {KEYS_MAX} keys together")));
        }
        let anonymous = config.anonymous.allowed.unwrap_or(keys.is_empty());
        if keys.is_empty() && !anonymous {
            return Err(ConfigError::new("anonymous.allowed", "is false and no tenant has a key: nobody could ask"));
        }
        let salts = names.iter().map(|name| hash_key(name).into()).collect();
        Ok(Self { names, salts, keys, models, anonymous })
    }

    /// True if somebody has a key.
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The tenant of a presented key. Without any configured key what is presented is ignored:
    /// OpenAI's clients always send one. Where there are keys a wrong one is refused even if
    /// anonymous requests are allowed, or a typing error would silently change the tenant.
    pub(crate) fn identify(&self, presented: Presented<'_>) -> Result<Identified, Unidentified> {
        let owner = match presented {
            Presented::Key(key) if !self.keys.is_empty() => Some(self.owner_of(key).ok_or(Unidentified::WrongKey)?),
            Presented::Invalid if !self.keys.is_empty() => return Err(Unidentified::WrongKey),
            _ if self.anonymous => None,
            _ => return Err(Unidentified::MissingKey),
        };
        let index = owner.map_or(ANONYMOUS_INDEX, |owner| owner.tenant) as usize;
        let key = owner.map(|owner| owner.key as usize);
        let (tenant, salt) = (Arc::clone(&self.names[index]), Arc::clone(&self.salts[index]));
        Ok(Identified { tenant, index, key, salt })
    }

    /// True if a tenant may ask for a model.
    pub(crate) fn may_use(&self, tenant: usize, model: &str) -> bool {
        self.models.get(tenant).is_some_and(|models| models.is_empty() || models.contains(model))
    }

    /// Compares with every key whatever matched, so that time tells nothing of which.
    fn owner_of(&self, key: &str) -> Option<Owner> {
        let digest = KeyDigest::of(key);
        let mut found = Owner { tenant: ANONYMOUS_INDEX, key: 0 };
        for (known, owner) in &self.keys {
            let is_it = known.ct_eq(&digest);
            found.tenant.conditional_assign(&owner.tenant, is_it);
            found.key.conditional_assign(&owner.key, is_it);
        }
        (found.tenant != ANONYMOUS_INDEX).then_some(found)
    }
}

/// Reads a digest that a key can have.
fn parse_digest(hex: &str) -> Result<KeyDigest, &'static str> {
    let digest =
        KeyDigest::from_hex(hex).ok_or("is not 64 hexadecimal digits; `forebay policy hash-key` makes them")?;
    if digest.is_of_blank() {
        return Err("is the digest of an empty or blank key; make it from the key with `forebay policy hash-key`");
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TenantConfig;

    fn tenant(name: &str, keys: &[&str]) -> TenantConfig {
        let key_sha256 = keys.iter().map(|key| hash_key(key)).collect();
        TenantConfig { name: name.into(), key_sha256, ..TenantConfig::default() }
    }

    fn two_tenants() -> PolicyConfig {
        PolicyConfig { tenants: vec![tenant("red", &["r1", "r2"]), tenant("blue", &["b"])], ..PolicyConfig::default() }
    }

    #[test]
    fn a_key_opens_its_own_tenant_only() {
        let access = Access::new(&two_tenants()).expect("valid");
        for (key, name) in [("r1", "red"), ("r2", "red"), ("b", "blue")] {
            assert_eq!(access.identify(Presented::Key(key)).expect(key).tenant(), name);
        }
        assert_eq!(access.identify(Presented::Key("R1")).expect_err("wrong"), Unidentified::WrongKey);
        assert_eq!(access.identify(Presented::Nothing).expect_err("missing"), Unidentified::MissingKey);
    }

    #[test]
    fn a_tenant_with_a_list_of_models_may_ask_for_no_other() {
        let mut config = two_tenants();
        config.tenants[0].models = vec!["m".into(), "org/n".into()];
        let access = Access::new(&config).expect("valid");
        let may = |key, model| {
            let who = access.identify(Presented::Key(key)).expect(key);
            access.may_use(who.index, model)
        };
        assert!(may("r1", "m") && may("r2", "org/n") && !may("r1", "n") && !may("r1", ""));
        assert!(may("b", "m") && may("b", "anything"));
    }

    #[test]
    fn without_keys_everybody_is_anonymous_whatever_key_they_send() {
        let access = Access::new(&PolicyConfig::default()).expect("valid");
        for presented in [Presented::Nothing, Presented::Key("EMPTY"), Presented::Invalid] {
            assert_eq!(access.identify(presented).expect("let in").tenant(), "anonymous");
        }
    }

    #[test]
    fn a_wrong_key_is_not_anonymous() {
        let mut config = two_tenants();
        config.anonymous.allowed = Some(true);
        let access = Access::new(&config).expect("valid");
        assert_eq!(access.identify(Presented::Nothing).expect("let in").tenant(), "anonymous");
        assert_eq!(access.identify(Presented::Key("x")).expect_err("wrong"), Unidentified::WrongKey);
        assert_eq!(access.identify(Presented::Invalid).expect_err("invalid"), Unidentified::WrongKey);
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
            (with(vec![tenant("a", &["k", ""])]), "tenants[0].key_sha256[1]"),
            (with(vec![tenant("a", &["\n"])]), "tenants[0].key_sha256[0]"),
            (closed, "anonymous.allowed"),
        ] {
            assert_eq!(Access::new(&config).expect_err(field).field, field);
        }
    }
}
