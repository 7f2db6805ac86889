//! The right to weights: which peer may have which root. Decided from the peer's certificate, by rules or by a
//! capability that is bound to that certificate; knowing a digest grants nothing.
//!
//! A root that is not here, one that is here and not for this peer, and one that must not be shared are the same
//! answer, after the same work: neither the answer nor its time tells which weights a server has.

mod capability;

pub use capability::Capability;

use crate::config::{ConfigError, NAME_BYTES_MAX};
use crate::trust::oms::PublicKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use wire::digest::Digest;
use wire::proof::Proof;

/// The most rules.
const RULES_MAX: usize = 1_024;
/// The most names and tenants of one rule.
const NAMES_MAX: usize = 1_024;
/// The most keys that capabilities may be signed with; checking a signature takes a tenth of a millisecond.
const KEYS_MAX: usize = 8;
/// Stands for every tenant.
const EVERY: &str = "*";

/// The peers that may have weights from this machine. The default lets nobody have any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeersConfig {
    /// Rules by the names in peers' certificates.
    pub allow: Vec<PeerRule>,
    /// Public keys in PEM, of the curve P-256, of those who may sign capabilities.
    pub capability_issuers: Vec<String>,
    /// Shares weights that are only pinned, too: digests computed here, which nobody vouches for.
    pub seed_pinned: bool,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerRule {
    /// DNS names (`*.example` for all hosts of a domain) and URIs; a certificate needs one of them.
    pub identities: Vec<String>,
    /// The tenants whose weights these peers may have; `*` for all.
    pub tenants: Vec<String>,
}

/// A peer that asks, as its verified certificate has it.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The DNS names in the certificate, in lower case.
    pub dns: &'a [String],
    /// The URIs in it.
    pub uris: &'a [String],
    /// Its SHA-256.
    pub thumbprint: [u8; 32],
    /// The capability that came with the request.
    pub capability: Option<&'a str>,
}

/// Weights that are here.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'a> {
    /// Their root.
    pub root: Digest,
    /// Whose they are.
    pub tenant: &'a str,
    /// How far they are proven.
    pub proof: Proof,
}

/// The rights of peers.
#[derive(Debug)]
pub struct Peers {
    rules: Vec<PeerRule>,
    issuers: Vec<PublicKey>,
    seed_pinned: bool,
}

impl Peers {
    /// Checks the configuration.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn new(config: &PeersConfig) -> Result<Self, ConfigError> {
        if config.allow.len() > RULES_MAX {
            return Err(ConfigError::new("allow", format!("has more than {RULES_MAX} entries")));
        }
        for (index, rule) in config.allow.iter().enumerate() {
            check_rule(rule, &format!("allow[{index}]"))?;
        }
        if config.capability_issuers.len() > KEYS_MAX {
            return Err(ConfigError::new("capability_issuers", format!("has more than {KEYS_MAX} entries")));
        }
        let key = |(index, pem): (usize, &String)| {
            PublicKey::from_pem(pem)
                .map_err(|problem| ConfigError::new(format!("capability_issuers[{index}]"), problem))
        };
        let issuers = config.capability_issuers.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        Ok(Self { rules: config.allow.clone(), issuers, seed_pinned: config.seed_pinned })
    }

    /// The place in `offers` of the weights under `root`, if `asker` may have them. `now_s` is the time in seconds
    /// since 1970.
    ///
    /// Every offer is judged and compared, whatever is found: the time depends on the rules, on the asker and on how
    /// many offers there are, not on `root`.
    #[must_use]
    pub fn decide(&self, asker: &Asker, root: Digest, offers: &[Offered], now_s: u64) -> Option<usize> {
        let rules: Vec<&PeerRule> = self.rules.iter().filter(|rule| rule.names(asker)).collect();
        let capability = asker.capability.and_then(|text| Capability::verify(text, &self.issuers));
        let capability = capability.filter(|capability| capability.holds(&asker.thumbprint, now_s));
        let (mut found, mut place) = (Choice::from(0), 0_u64);
        for (index, offer) in (0_u64..).zip(offers) {
            let by_rule = rules.iter().fold(false, |any, rule| any | rule.covers(offer.tenant));
            let by_capability = capability.as_ref().is_some_and(|capability| capability.covers(offer));
            let may = Choice::from(u8::from(self.shares(offer.proof) & (by_rule | by_capability)));
            let is_it = offer.root.0.ct_eq(&root.0) & may;
            place.conditional_assign(&index, is_it);
            found |= is_it;
        }
        bool::from(found).then(|| usize::try_from(place).ok()).flatten()
    }

    const fn shares(&self, proof: Proof) -> bool {
        match proof {
            Proof::Proven => true,
            Proof::Pinned => self.seed_pinned,
            Proof::Trusted => false,
        }
    }
}

impl PeerRule {
    fn names(&self, asker: &Asker) -> bool {
        // A certificate may hold a host's name as a URI, which makes its owner no host.
        let is_named = |identity: &String| match identity.contains(':') {
            true => asker.uris.contains(identity),
            false => asker.dns.iter().any(|name| matches_dns(identity, name)),
        };
        self.identities.iter().any(is_named)
    }

    fn covers(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|known| known == EVERY || known == tenant)
    }
}

/// Returns true if a name is the pattern, or one label below the domain of a pattern with `*`.
fn matches_dns(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern == name,
        Some(domain) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
    }
}

fn check_rule(rule: &PeerRule, at: &str) -> Result<(), ConfigError> {
    for (field, names) in [("identities", &rule.identities), ("tenants", &rule.tenants)] {
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(ConfigError::new(format!("{at}.{field}"), format!("must have 1 to {NAMES_MAX} entries")));
        }
    }
    for (index, identity) in rule.identities.iter().enumerate() {
        if let Some(problem) = identity_problem(identity) {
            return Err(ConfigError::new(format!("{at}.identities[{index}]"), problem));
        }
    }
    let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
    match rule.tenants.iter().position(|name| !is_name(name)) {
        Some(index) => Err(ConfigError::new(format!("{at}.tenants[{index}]"), "must have 1 to 64 bytes")),
        None => Ok(()),
    }
}

/// Says why a text names nobody's certificate.
fn identity_problem(identity: &str) -> Option<&'static str> {
    if identity.is_empty() || !identity.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("must be a DNS name or a URI");
    }
    // A URI is compared as it is.
    if identity.contains(':') {
        return identity.contains('*').then_some("is a URI, in which `*` stands for itself; list the URIs");
    }
    let domain = identity.strip_prefix("*.").unwrap_or(identity);
    if domain.contains('*') || domain.is_empty() {
        return Some("may have `*` only as its first label, as in `*.example`");
    }
    identity.bytes().any(|byte| byte.is_ascii_uppercase()).then_some("must be in lower case, as names are compared")
}

#[cfg(test)]
mod tests;
