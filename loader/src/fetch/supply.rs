//! Decides who serves which extent, and how many requests each source gets at once: one pure value
//! that a load asks.
//!
//! The driver starts an attempt for each [`Order`], says how it ended, and passes on what it hears
//! of sources. Time and randomness are arguments, so every course of a load can be played through
//! in a test. It knows no network, no region and no digest.

#![warn(clippy::disallowed_methods)]

mod origin;
mod swarm;

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use wire::peers::{Bitmap, Role};

use super::decide::{Ended, History};
use super::error::FetchError;
use super::neighbours::MemberKey;
use crate::source::SourceError;

pub(super) use origin::OriginOnly;
pub(super) use swarm::Swarm;

/// Extents to bring from one source.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The same for all attempts that share one destination.
    pub(super) id: u64,
    pub(super) file: usize,
    pub(super) extents: Range<u64>,
    /// True if another attempt may go on in the middle of an extent: its halves may then come from
    /// two connections, so only where no blame depends on it.
    pub(super) resumes: bool,
    pub(super) history: History,
}

impl Order {
    /// The source to ask.
    pub(super) fn source(&self) -> usize {
        self.history.source
    }
}

/// The load as it is when an order is wanted.
pub(super) struct Room<'a> {
    /// Returns true if an extent of a file need not be fetched any more.
    pub(super) is_there: &'a dyn Fn(usize, u64) -> bool,
}

/// The next step of a load.
#[derive(Debug)]
pub(super) enum Next {
    /// An attempt to start.
    Order(Order),
    /// An order to break off: its extents are given out anew when it has ended.
    Recall(u64),
    /// The load fails.
    Fail(FetchError),
    /// Nothing for now, see [`Supply::due`].
    Wait,
}

/// The circumstances in which an attempt ended.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) now: Instant,
    pub(super) object: &'a str,
    /// The URL of the attempt's source.
    pub(super) url: &'a str,
    /// The bytes of the order that are still missing.
    pub(super) missing: Range<u64>,
    /// Bytes that the attempt landed.
    pub(super) brought: u64,
    /// The usual time to the source's first byte.
    pub(super) round_trip: Duration,
    /// Bytes that have landed so far, by source.
    pub(super) landed: &'a [u64],
}

/// The consequence of an ended attempt.
#[derive(Debug)]
pub(super) enum After {
    /// All of the order has come.
    Done,
    /// The order comes again under its id; what has landed of it is kept for then.
    Keep,
    /// The missing part of the order is given out anew.
    Release,
    /// The load fails.
    Fail(FetchError),
}

/// Why nothing more is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// It sent wrong bytes.
    Banned,
    /// It failed several times in a row.
    Failing,
    /// It will give us nothing.
    Useless,
}

/// News of sources.
#[derive(Debug)]
pub(super) enum News<'a> {
    /// A peer has become the next source. Nothing is known yet of what it has.
    Joined {
        /// True if it is in our own zone.
        is_near: bool,
        /// The member that it is.
        member: MemberKey,
    },
    /// The member that this load is.
    Own(MemberKey),
    /// The members that are no neighbours, and may load the same model for all that is known.
    Strangers(&'a [MemberKey]),
    /// The peers that are there at the beginning have joined.
    Looked {
        /// True if no other member is known.
        is_alone: bool,
    },
    /// The extents that a peer has.
    Full { source: usize, bitmap: Bitmap },
    /// Extents that a peer has now.
    Added { source: usize, numbers: &'a [u32] },
    /// Extents that a peer will have soon.
    Claimed { source: usize, numbers: &'a [u32] },
    /// Extents that it will not have soon.
    Unclaimed { source: usize, numbers: &'a [u32] },
    /// A peer's business.
    Role { source: usize, role: Role },
    /// A peer serves no more.
    Left { source: usize },
    /// A hedge failed.
    HedgeFailed {
        /// The source that was asked.
        source: usize,
        /// Its failure.
        problem: &'a SourceError,
    },
}

/// Decides who serves which extent. What it gives out comes back: every order ends in
/// [`Supply::ended`] or [`Supply::put_back`].
pub(super) trait Supply: Send {
    /// The next step. Asked again and again until it says to wait.
    fn next(&mut self, room: &Room<'_>, now: Instant, random: &mut StdRng) -> Next;

    /// The time at which it wants to be asked again, if nothing happens before. It may have passed.
    fn due(&self, now: Instant) -> Option<Instant>;

    /// Takes back an order for whose bytes there was no room.
    fn put_back(&mut self, order: Order);

    /// Takes back an order whose attempt has ended.
    fn ended(&mut self, order: Order, ended: Ended, facts: &Facts<'_>, random: &mut StdRng) -> After;

    /// A source for a hedge of one extent of an order that is slow; none if nobody else has it.
    fn hedge(&self, order: &Order, extent: u64, now: Instant) -> Option<usize>;

    /// Hears of a source.
    fn heard(&mut self, news: News<'_>, now: Instant);

    /// Looks at what has landed so far, by source; called a few times a second.
    fn observe(&mut self, landed: &[u64], now: Instant);

    /// Sources of which nothing more is asked, since this was asked the last time.
    fn departed(&mut self) -> Vec<(usize, Departure)> {
        Vec::new()
    }

    /// Extents that will soon be here (true) or will not, by number, since this was asked the last time.
    fn claims(&mut self) -> Vec<(u32, bool)> {
        Vec::new()
    }

    /// The memory of what is known of extents, peers and members, in bytes.
    fn state_bytes(&self) -> usize {
        0
    }

    /// The number of peers that serve.
    fn neighbours(&self) -> usize {
        0
    }

    /// Returns true if nothing is left to give out and nothing is to come again.
    fn is_done(&self) -> bool;

    /// The number of requests that may be in flight.
    fn concurrency(&self) -> usize;
}
