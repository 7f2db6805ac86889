//! Limits of use: requests and tokens over time, and requests at a time; of a tenant, of each of its keys, and of
//! models it asks. Made of the configuration, told the time.
//!
//! Tokens are reserved by an estimate and settled by what was used. Limits live in this process: several routers grant
//! several times as much.

mod bucket;

pub use bucket::Rest;

use crate::config::{ConfigError, LimitsConfig, MODELS_MAX, PolicyConfig};
use crate::moment::Moment;
use crate::usage::Use;
use bucket::{Bucket, Exceeded};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// When it is worth asking again where too many requests are being answered at a time.
const CONCURRENT_RETRY: Duration = Duration::from_secs(1);

/// The tokens that a request may come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens of its prompts.
    pub prompt: u64,
    /// The most tokens of its completions, all together.
    pub completion: u64,
}

/// Whose use is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A tenant's.
    Tenant,
    /// One of its keys'.
    Key,
    /// A tenant's of one model.
    Model,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tenant => "",
            Self::Key => " of this key",
            Self::Model => " of this model",
        })
    }
}

/// A limit that a request would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The kind of use.
    pub r#use: Use,
    /// Whose it is.
    pub of: Of,
    /// The limit.
    pub limit: u64,
    /// How much of it the request needs.
    pub amount: u64,
    /// When as much is there; `None` for more than there ever is.
    pub retry_after: Option<Duration>,
}

/// The rest of what a caller may use: of each unit the limit of which the least remains. Budgets are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute; `None` where they are unlimited.
    pub requests: Option<Rest>,
    /// Tokens per minute; `None` where they are unlimited.
    pub tokens: Option<Rest>,
}

impl Limits {
    fn note(&mut self, r#use: Use, rest: Rest) {
        let place = match r#use {
            Use::RequestsPerMinute => &mut self.requests,
            Use::TokensPerMinute => &mut self.tokens,
            _ => return,
        };
        if place.is_none_or(|least| rest.remaining < least.remaining) {
            *place = Some(rest);
        }
    }
}

/// One limit.
#[derive(Debug)]
struct Limit {
    r#use: Use,
    of: Of,
    holds: Holds,
}

#[derive(Debug)]
enum Holds {
    Bucket(Bucket),
    Places { max: u32, used: AtomicU32 },
}

impl Limit {
    fn new(r#use: Use, of: Of, amount: u64) -> Self {
        let holds = match r#use {
            Use::Concurrent => {
                Holds::Places { max: u32::try_from(amount).unwrap_or(u32::MAX), used: AtomicU32::new(0) }
            }
            _ => Holds::Bucket(Bucket::new(amount, r#use.window())),
        };
        Self { r#use, of, holds }
    }

    /// The same limit of another amount, with what is used of it.
    fn resized(self: &Arc<Self>, amount: u64) -> Arc<Self> {
        let holds = match &self.holds {
            Holds::Bucket(bucket) if bucket.limit() != amount => Holds::Bucket(bucket.resized(amount)),
            // Places that are taken come back here; whoever asks anew finds the new bound.
            Holds::Places { max, .. } if u64::from(*max) != amount => {
                return Arc::new(Self::new(self.r#use, self.of, amount));
            }
            _ => return Arc::clone(self),
        };
        Arc::new(Self { r#use: self.r#use, of: self.of, holds })
    }

    fn take(self: &Arc<Self>, amount: u64, now: Moment, limits: &mut Limits) -> Result<Lease, Reached> {
        let reached = |limit, retry_after| Reached { r#use: self.r#use, of: self.of, limit, amount, retry_after };
        let serial = match &self.holds {
            Holds::Bucket(bucket) => match bucket.take(amount, now) {
                Ok((serial, rest)) => {
                    limits.note(self.r#use, rest);
                    serial
                }
                Err(Exceeded { rest, retry_after }) => {
                    limits.note(self.r#use, rest);
                    return Err(reached(rest.limit, retry_after));
                }
            },
            Holds::Places { max, used } => {
                let more = |used| (used < *max).then_some(used + 1);
                used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                    .map_err(|_| reached(u64::from(*max), Some(CONCURRENT_RETRY)))?;
                0
            }
        };
        Ok(Lease { limit: Arc::clone(self), serial, amount })
    }

    fn rest(&self, now: Moment) -> Option<Rest> {
        match &self.holds {
            Holds::Bucket(bucket) => Some(bucket.rest(now)),
            Holds::Places { .. } => None,
        }
    }
}

/// A request's share of one limit.
#[derive(Debug)]
struct Lease {
    limit: Arc<Limit>,
    serial: u64,
    amount: u64,
}

impl Lease {
    /// Corrects it to what was used, and frees its place.
    fn end(self, used: u64, now: Moment, limits: &mut Limits) {
        match &self.limit.holds {
            Holds::Bucket(bucket) => {
                limits.note(self.limit.r#use, bucket.settle(self.serial, self.amount, used, now));
            }
            Holds::Places { used, .. } => _ = used.fetch_sub(1, Ordering::Relaxed),
        }
    }
}

/// A request's shares of its caller's limits. It rides with the answer: dropped, the request is spent, and of tokens what
/// was seen of them; its place is free.
#[derive(Debug)]
#[must_use = "what is dropped at once is spent"]
pub struct Reservation {
    leases: Vec<Lease>,
    limits: Limits,
    tokens: u64,
    at: Moment,
}

impl Reservation {
    fn new(now: Moment) -> Self {
        Self { leases: Vec::new(), limits: Limits::default(), tokens: 0, at: now }
    }

    /// The rest of the caller's limits, the request counted.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Records how many tokens were used until now, all in all.
    pub fn saw(&mut self, tokens: u64, now: Moment) {
        (self.tokens, self.at) = (tokens, now);
    }

    /// Gives everything back, because the request failed for no fault of the client's; returns what the caller may use then.
    pub fn refund(mut self, now: Moment) -> Limits {
        let mut limits = Limits::default();
        for lease in self.leases.drain(..) {
            lease.end(0, now, &mut limits);
        }
        limits
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for lease in self.leases.drain(..) {
            let used = if lease.limit.r#use.is_of_tokens() { self.tokens } else { lease.amount };
            lease.end(used, self.at, &mut Limits::default());
        }
    }
}

/// The limits that a request has to hold shares of.
#[derive(Debug)]
pub struct Needs(Vec<(Arc<Limit>, u64)>);

impl Needs {
    /// True if tokens are limited, so that they have to be counted.
    #[must_use]
    pub fn counts_tokens(&self) -> bool {
        self.0.iter().any(|(limit, _)| limit.r#use.is_of_tokens())
    }

    /// Takes all of it or nothing.
    pub(crate) fn lease(&self, now: Moment) -> Result<Reservation, (Reached, Limits)> {
        let mut reservation = Reservation::new(now);
        for (limit, amount) in &self.0 {
            match limit.take(*amount, now, &mut reservation.limits) {
                Ok(lease) => reservation.leases.push(lease),
                Err(reached) => {
                    reservation.refund(now);
                    return Err((reached, self.rest(now)));
                }
            }
        }
        Ok(reservation)
    }

    pub(crate) fn rest(&self, now: Moment) -> Limits {
        let mut limits = Limits::default();
        for (limit, _) in &self.0 {
            if let Some(rest) = limit.rest(now) {
                limits.note(limit.r#use, rest);
            }
        }
        limits
    }
}

/// A limit's name: of which tenant, of which of its keys or models, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    tenant: Arc<str>,
    /// The key's digest or the model's name; empty for the tenant itself.
    part: Box<str>,
    of_key: bool,
    r#use: Use,
}

/// The limits of one tenant.
#[derive(Debug, Default)]
struct Tenant {
    own: Vec<Arc<Limit>>,
    /// By the place of the key.
    keys: Vec<Vec<Arc<Limit>>>,
    models: HashMap<Box<str>, Vec<Arc<Limit>>>,
}

/// The limits of all tenants, by their place: the anonymous one first.
#[derive(Debug, Default)]
pub(crate) struct AllLimits {
    tenants: Vec<Tenant>,
    names: HashMap<Name, Arc<Limit>>,
}

impl AllLimits {
    /// The limits of a configuration. Those that `before` had by the same name keep what is used of them.
    pub(crate) fn new(config: &PolicyConfig, before: Option<&Self>) -> Result<Self, ConfigError> {
        let mut made = Making { before, names: HashMap::new() };
        let anonymous = made.scope("anonymous", "anonymous", Part::Tenant, &config.anonymous.limits())?;
        let mut tenants = vec![Tenant { own: anonymous, ..Tenant::default() }];
        for (index, tenant) in config.tenants.iter().enumerate() {
            let (at, name) = (format!("tenants[{index}]"), tenant.name.as_str());
            if tenant.per_model.len() > MODELS_MAX {
                let problem = format!("has more than {MODELS_MAX} entries");
                return Err(ConfigError::new(format!("{at}.per_model"), problem));
            }
            let own = made.scope(&at, name, Part::Tenant, &tenant.limits())?;
            let key = |digest: &String| {
                let part = digest.to_ascii_lowercase();
                made.scope(&format!("{at}.per_key"), name, Part::Key(&part), &tenant.per_key.limits())
            };
            let keys = tenant.key_sha256.iter().map(key).collect::<Result<_, _>>()?;
            let mut models = HashMap::new();
            for (place, of_model) in tenant.per_model.iter().enumerate() {
                let at = format!("{at}.per_model[{place}]");
                let limits = made.scope(&at, name, Part::Model(&of_model.model), &of_model.limits())?;
                if models.insert(of_model.model.as_str().into(), limits).is_some() {
                    return Err(ConfigError::new(format!("{at}.model"), "is listed twice"));
                }
            }
            tenants.push(Tenant { own, keys, models });
        }
        Ok(Self { tenants, names: made.names })
    }

    /// The limits of a request: of the caller's tenant and key, and of the model.
    pub(crate) fn needs(&self, tenant: usize, key: Option<usize>, model: &str, cost: Cost) -> Needs {
        let Some(tenant) = self.tenants.get(tenant) else { return Needs(Vec::new()) };
        let of_key = key.and_then(|key| tenant.keys.get(key));
        let limits = tenant.own.iter().chain(of_key.into_iter().flatten());
        let limits = limits.chain(tenant.models.get(model).into_iter().flatten());
        let amount = |limit: &Arc<Limit>| match limit.r#use {
            Use::RequestsPerMinute | Use::Concurrent => 1,
            _ => cost.prompt.saturating_add(cost.completion),
        };
        Needs(limits.map(|limit| (Arc::clone(limit), amount(limit))).collect())
    }
}

/// A part of a tenant that has limits of its own.
#[derive(Clone, Copy)]
enum Part<'a> {
    Tenant,
    Key(&'a str),
    Model(&'a str),
}

/// Limits being made.
struct Making<'a> {
    before: Option<&'a AllLimits>,
    names: HashMap<Name, Arc<Limit>>,
}

impl Making<'_> {
    fn scope(
        &mut self,
        at: &str,
        tenant: &str,
        part: Part<'_>,
        config: &LimitsConfig,
    ) -> Result<Vec<Arc<Limit>>, ConfigError> {
        let (of, part, of_key) = match part {
            Part::Tenant => (Of::Tenant, "", false),
            Part::Key(digest) => (Of::Key, digest, true),
            Part::Model(name) => (Of::Model, name, false),
        };
        let mut limits = Vec::new();
        for (field, r#use, amount) in config.each() {
            let Some(amount) = amount else { continue };
            if amount == 0 {
                let problem = "is 0, which lets nothing in; leave it out for no limit, or remove the keys";
                return Err(ConfigError::new(format!("{at}.{field}"), problem));
            }
            let name = Name { tenant: tenant.into(), part: part.into(), of_key, r#use };
            let before = self.before.and_then(|before| before.names.get(&name));
            let limit = match before {
                Some(before) => before.resized(amount),
                None => Arc::new(Limit::new(r#use, of, amount)),
            };
            self.names.insert(name, Arc::clone(&limit));
            limits.push(limit);
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests;
