//! The peers of one load, as its driver meets them: who joined, what they say, and who is to go.
//!
//! How peers are found and reached is not known here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wire::peers::Frame;

use crate::source::Source;

/// Peers beside which a job is loaded.
pub(crate) struct Neighbours {
    /// The number of each target's first extent in the manifest's order.
    pub(crate) firsts: Vec<u32>,
    /// The extents of the whole manifest.
    pub(crate) extents: u32,
    /// The bounds of what is asked of them.
    pub(crate) bounds: NeighbourBounds,
    /// News of them, in order. When it ends, so do they.
    pub(crate) events: mpsc::Receiver<Event>,
    /// Those of which nothing more is wanted.
    pub(crate) dismissed: mpsc::Sender<Dismissed>,
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
    },
    /// All peers that can be asked at the beginning have joined.
    Looked,
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
