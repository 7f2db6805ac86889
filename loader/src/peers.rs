//! Loading from peers: other processes of the fleet that have the same weights.
//!
//! The process says who its peers are and how it shows itself to them ([`Peers`]); a load joins a
//! few of them, reads what they have, and asks them for extents beside the origin. Nothing that a
//! peer says is believed: sizes, offsets and digests are those of the manifest, every extent is
//! verified as if it came from anywhere, and a root proves its manifest. How members are found, and
//! how this process serves others, is not known here.

mod choose;
mod config;
mod fleet;
mod have;
mod ledger;
mod manifest;
mod member;
mod model;
mod request;
mod session;
mod source;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use wire::digest::Digest;

use crate::remote::http::CurrentTls;

pub use config::NeighboursConfig;
pub(crate) use fleet::{Fleet, Wrong};
pub(crate) use manifest::attest;
pub use member::Member;
pub(crate) use model::PeersModel;
pub(crate) use session::join;

/// The members of the fleet at present. Asked about once a second while a load is under way.
pub type Roster = Arc<dyn Fn() -> Vec<Member> + Send + Sync>;

/// Waits until the members have been looked for once, within a bound of its own. Loads wait for it, and nobody else.
pub type Settled = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The peers of a process, and its own part among them.
#[derive(Clone)]
pub struct Peers {
    /// The members of the fleet.
    pub members: Roster,
    /// Their first list.
    pub settled: Settled,
    /// The certificate that this process shows, and the authorities that it trusts.
    pub tls: CurrentTls,
    /// This process's own id among the members, if it is known.
    pub own_id: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// The root of the model where storage cannot be asked. With several, none can be told to be a URL's, and peers are
    /// asked only after storage was.
    pub roots: Vec<Digest>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} peers", (self.members)().len())
    }
}
