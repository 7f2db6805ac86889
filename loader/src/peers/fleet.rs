//! The fleet, as the loads of one process meet it: its members, the way to them, and what they did.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus::IntCounterVec;
use telemetry::metrics::Registry;
use telemetry::names;
use wire::status::SourcePeer;

use super::ledger::Ledger;
use super::member::Member;
use super::request::{Asked, Asking};
use super::{NeighboursConfig, Peers};
use crate::remote::http::{Client, HttpConfig};

/// The reasons of bans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It sent bytes that are not those of their proven digest.
    Sent,
    /// It attested digests that were found wrong.
    Attested,
}

/// The fleet of a process. Clones are of the same one.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(super) peers: Peers,
    pub(super) config: NeighboursConfig,
    pub(super) ledger: Arc<Ledger>,
    bans: IntCounterVec,
    client: Client,
    /// The bounds of connections to one peer.
    http: HttpConfig,
}

impl Fleet {
    pub(crate) fn new(
        peers: Peers,
        config: &NeighboursConfig,
        (client, http): (&Client, &HttpConfig),
        registry: &Registry,
    ) -> Self {
        registry.begin(&names::LOADER_PEER_BANS, &[]);
        let (ledger, bans) = (Ledger::new(config.ban()), registry.counter(&names::LOADER_PEER_BANS));
        let http = config.http(http);
        Self { peers, ledger: Arc::new(ledger), bans, http, config: config.clone(), client: client.clone() }
    }

    /// The roots of the process's models, where they are known before storage is asked.
    pub(crate) fn roots(&self) -> &[wire::digest::Digest] {
        &self.peers.roots
    }

    /// The members now, and this process's own id among them.
    pub(super) fn members(&self) -> (Vec<Member>, Option<String>) {
        ((self.peers.members)(), (self.peers.own_id)())
    }

    /// Waits for the first list of members.
    pub(super) async fn settled(&self) {
        (self.peers.settled)().await;
    }

    /// The peers that loads had to do with, for people.
    pub(crate) fn status(&self) -> Vec<SourcePeer> {
        self.ledger.list(now())
    }

    /// Leaves a member alone for a while.
    pub(crate) fn ban(&self, id: &str, wrong: Wrong) {
        let (label, reason) = match wrong {
            Wrong::Sent => ("sent", "sent wrong bytes"),
            Wrong::Attested => ("attested", "attested wrong digests"),
        };
        tracing::warn!(member = id, reason, "a peer is asked nothing for a while");
        self.bans.with_label_values(&[label]).inc();
        self.ledger.ban(id, reason, now());
    }

    pub(super) fn is_banned(&self, member: &Member) -> bool {
        self.ledger.is_banned(&member.id, now())
    }

    /// A member as it can be asked; none if its address is none.
    pub(super) fn asked(&self, member: &Member, asking: &Asking) -> Option<Asked> {
        Asked::new(member, asking, &self.peers, &self.client, &self.http)
    }
}

fn now() -> Instant {
    Instant::now()
}

impl fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peers.fmt(formatter)
    }
}
