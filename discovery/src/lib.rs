//! The members of a fleet, as a value that is replaced when it changes.
//!
//! Sources are static lists, files, DNS, a router's fleet view, and EndpointSlices of Kubernetes. Each sends words
//! (`source.rs`); `roster.rs`, pure, makes one list of them; `run.rs` publishes it. While a source does not answer, what it
//! said last stands. Nothing here knows what a member does, and nothing elsewhere knows Kubernetes.

mod address;
mod config;
mod dns;
mod file;
mod http;
mod kubernetes;
mod member;
mod members;
mod meter;
mod roster;
mod router;
mod run;
mod source;
mod view;

pub use config::{ConfigError, DiscoveryConfig};
pub use kubernetes::read_slices;
pub use member::{AddressError, Member};
pub use members::{MEMBERS_MAX, Members};
pub use run::{Means, start};
pub use view::read_view;
