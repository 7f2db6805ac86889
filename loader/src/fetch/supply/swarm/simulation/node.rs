//! One process of a simulated fleet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::SeedableRng;
use tokio::sync::mpsc;

use super::link::Link;
use super::*;
use crate::fetch::neighbours::Claims;

/// The nature of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Honest,
    Warm,
    Slow,
    Lying,
    Claiming,
    Refusing,
}

/// An order under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) order: Order,
    /// Of this attempt, to know its arrivals by.
    pub(super) attempt: u64,
    pub(super) brought: u64,
}

/// One process.
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) supply: Swarm,
    pub(super) member: MemberKey,
    pub(super) is_on: bool,
    pub(super) is_alive: bool,
    pub(super) rate: f64,
    pub(super) has: Bitmap,
    pub(super) count: u32,
    /// News that were not told yet.
    pub(super) added: Vec<u32>,
    pub(super) claims: BTreeSet<u32>,
    pub(super) changed: BTreeSet<u32>,
    pub(super) tells: bool,
    pub(super) up: Link,
    /// The time at which what has been sent to it is received.
    pub(super) down: u64,
    pub(super) given: Bitmap,
    /// The peers by source, and the sources of those that are heard.
    pub(super) sources: Vec<usize>,
    pub(super) source_of: HashMap<usize, usize>,
    pub(super) listeners: BTreeSet<usize>,
    pub(super) flying: BTreeMap<u64, Flight>,
    pub(super) bytes: Vec<u64>,
    pub(super) random: StdRng,
    pub(super) began: u64,
    pub(super) wakes: u64,
    /// The first extent that is not there.
    pub(super) first: u32,
    pub(super) quarter: Option<u64>,
    pub(super) done: Option<u64>,
    pub(super) failed: Option<String>,
    pub(super) state_bytes: usize,
}

impl Node {
    pub(super) fn new(at: usize, kind: Kind, rate: f64, setup: &Setup, begin: Instant) -> Self {
        let fetches: Vec<Fetch> = (0..u64::from(setup.extents))
            .step_by(2)
            .map(|at| Fetch { file: 0, extents: at..(at + 2).min(u64::from(setup.extents)), first_tensor: 0 })
            .collect();
        let (_, events) = mpsc::channel(1);
        let (dismissed, _) = mpsc::channel(1);
        let member = MemberKey::of(&format!("worker-{at} of {}", setup.seed));
        let neighbours = Neighbours {
            firsts: vec![0],
            extents: setup.extents,
            own: member,
            bounds: NeighbourBounds { in_flight_start: 2, in_flight_max: 8, patience: Duration::from_secs(1) },
            claims: std::sync::Arc::new(Claims::default()),
            events,
            dismissed,
        };
        let origin_count = usize::from(setup.origin.is_some());
        let is_whole = matches!(kind, Kind::Warm | Kind::Lying);
        let mut has = Bitmap::new(setup.extents);
        for extent in 0..if is_whole { setup.extents } else { 0 } {
            has.insert(extent);
        }
        Self {
            kind,
            supply: Swarm::new(&fetches, &neighbours, origin_count, &FetchConfig::default(), begin),
            member,
            is_on: false,
            is_alive: true,
            rate,
            count: has.count(),
            has,
            added: Vec::new(),
            claims: BTreeSet::new(),
            changed: BTreeSet::new(),
            tells: false,
            up: Link::new(rate, f64::INFINITY, false),
            down: 0,
            given: Bitmap::new(setup.extents),
            sources: Vec::new(),
            source_of: HashMap::new(),
            listeners: BTreeSet::new(),
            flying: BTreeMap::new(),
            bytes: vec![0; origin_count],
            random: StdRng::seed_from_u64(setup.seed ^ (at as u64) << 32),
            began: 0,
            wakes: 0,
            first: 0,
            quarter: None,
            done: None,
            failed: None,
            state_bytes: 0,
        }
    }

    /// Returns true if it loads, and its load is to end well.
    pub(super) fn loads(&self) -> bool {
        matches!(self.kind, Kind::Honest | Kind::Slow | Kind::Refusing)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.is_on && self.is_alive && self.loads() && self.done.is_none() && self.failed.is_none()
    }

    pub(super) fn role(&self) -> Role {
        if self.kind == Kind::Warm || self.done.is_some() { Role::Serving } else { Role::Loading }
    }

    /// Returns true if an extent may be sent to a peer now, as the seeder's queue has it.
    /// `all`: extents under way from here; `own`: those to this peer.
    pub(super) fn has_room(&self, (all, own): (usize, usize), extent: u32, queue: usize) -> bool {
        let half = queue.div_ceil(2);
        all < if self.given.contains(extent) { half } else { queue } && own < half
    }
}
