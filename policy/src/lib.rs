//! Decisions as pure functions of facts and time: who may ask, how often, what may be
//! said, and which weights to believe.
//!
//! This room is synchronous. It does no I/O, starts no task and reads no clock: the caller says
//! what time it is (`Moment`). It knows HTTP only as far as the words of an error, and it emits no
//! metric; the router does, from the verdicts.

#![warn(clippy::disallowed_methods)]

mod access;
mod config;
mod guesses;
mod key;
mod peers;
mod policy;
mod quota;
mod screen;
mod secret;
pub mod trust;

pub use access::Identified;
pub use config::{
    AnnotateConfig, AnonymousConfig, ConfigError, DenyListConfig, PolicyConfig, RedactListConfig, TenantConfig,
    WrongKeysConfig,
};
pub use guesses::Client;
pub use key::{KeyDigest, Presented, hash_key};
pub use peers::{Asker, Capability, Offered, PeerRule, Peers, PeersConfig};
pub use policy::{Admitted, BucketId, Facts, LeaseNeed, Needs, Obligation, Policy, Rejection, Reservation};
pub use quota::{Limits, Moment};
pub use screen::{DenyList, DenyMatch, OutputScreen, PromptScreen, Release};
pub use secret::Secret;
pub use trust::{Trust, TrustConfig};
