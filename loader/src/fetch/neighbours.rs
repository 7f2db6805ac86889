//! The peers of one load, as its driver meets them: who joined, what they say, and who is to go.
//!
//! How peers are found and reached is not known here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use wire::peers::Frame;

use crate::source::Source;

/// Peers beside which a job is loaded.
pub(crate) struct Neighbours {
    /// The number of each target's first extent in the manifest's order.
    pub(crate) firsts: Vec<u32>,
    /// The extents of the whole manifest.
    pub(crate) extents: u32,
    /// This process among the members, until its id is known.
    pub(crate) own: MemberKey,
    /// The bounds of what is asked of them.
    pub(crate) bounds: NeighbourBounds,
    /// Claims: the extents that others are told will be here soon.
    pub(crate) claims: Arc<Claims>,
    /// News of them, in order. When it ends, so do they.
    pub(crate) events: mpsc::Receiver<Event>,
    /// Those of which nothing more is wanted.
    pub(crate) dismissed: mpsc::Sender<Dismissed>,
}

/// A member of the fleet, by a hash of its id: the same in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberKey(pub(crate) u64);

impl MemberKey {
    pub(crate) fn of(id: &str) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

/// The extents that a load has asked for outside of the swarm, by number: they will soon be here.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<BTreeSet<u32>>);

impl Claims {
    /// Notes extents that were claimed (true), or are no longer.
    pub(crate) fn change(&self, changes: impl IntoIterator<Item = (u32, bool)>) {
        let mut claimed = self.0.lock();
        for (extent, is_claimed) in changes {
            if is_claimed {
                claimed.insert(extent)
            } else {
                claimed.remove(&extent)
            };
        }
    }

    /// The extents that are claimed now.
    pub(crate) fn current(&self) -> BTreeSet<u32> {
        self.0.lock().clone()
    }
}

/// Bounds of what is asked of peers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeighbourBounds {
    /// Requests in flight at one peer, at the start.
    pub(crate) in_flight_start: usize,
    /// The most that growing throughput raises it to.
    pub(crate) in_flight_max: usize,
    /// The time that an urgent extent waits for a peer that has it, before the origin is asked.
    pub(crate) patience: Duration,
}

/// News of a peer. The first peer that joins is 0, the next one 1, and no number is used twice.
pub(crate) enum Event {
    /// Another peer can be asked.
    Joined {
        /// Reads extents from it.
        source: Arc<dyn Source>,
        /// True if it is to be asked before those that are not near.
        is_near: bool,
        /// The member that it is.
        member: MemberKey,
    },
    /// The id of this process among the members is known.
    Own(MemberKey),
    /// The members that are no neighbours, and may load the same model for all that is known.
    Strangers(Vec<MemberKey>),
    /// All peers that can be asked at the beginning have joined.
    Looked {
        /// True if no other member is known.
        is_alone: bool,
    },
    /// A peer says what it has.
    Said {
        /// The peer.
        peer: usize,
        /// Its words.
        frame: Frame,
    },
    /// A peer refused an extent that it has given to others.
    Took {
        /// Those others, as far as they are known.
        peers: Vec<usize>,
        /// The extent, in the manifest's order.
        extent: u32,
    },
    /// A peer cannot be reached any more.
    Left {
        /// The peer.
        peer: usize,
    },
}

/// A peer of which nothing more is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dismissed {
    /// The peer.
    pub(crate) peer: usize,
    /// True if it sent wrong bytes: it is not to come back in this load.
    pub(crate) is_banned: bool,
}
