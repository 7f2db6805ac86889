//! Decisions as pure functions of facts and time: who may ask, how often, what may be
//! said, and which weights to believe.
//!
//! This room is synchronous. It does no I/O, starts no task and reads no clock: the caller says
//! what time it is (`Moment`). It knows HTTP only as far as the words of an error, and it emits no
//! metric; the router does, from the verdicts.

#![warn(clippy::disallowed_methods)]

mod access;
mod bundle;
mod config;
mod explain;
mod guesses;
mod key;
mod limits;
mod moment;
mod peers;
mod policy;
mod rules;
mod screen;
mod secret;
pub mod trust;
mod usage;
mod version;

pub use access::Identified;
pub use bundle::{Bundle, BundleError, Case, Expect};
pub use config::{
    AnnotateConfig, AnonymousConfig, CandidateConfig, ConfigError, DenyListConfig, LimitsConfig, ModelLimitsConfig,
    PolicyConfig, ReadingsConfig, RedactListConfig, TenantConfig, WrongKeysConfig,
};
pub use explain::{Hit, Reading};
pub use guesses::Client;
pub use key::{KeyDigest, Presented, hash_key};
pub use limits::{Cost, Limits, Needs, Of, Reached, Reservation, Rest};
pub use moment::Moment;
pub use peers::{Asker, Capability, Offered, PeerRule, Peers, PeersConfig};
pub use policy::{Admitted, Facts, Obligation, Policy, Rejection};
pub use screen::{DenyList, DenyMatch, OutputScreen, PromptScreen, Release};
pub use secret::Secret;
pub use trust::{Trust, TrustConfig};
pub use usage::Use;
pub use version::BundleId;
