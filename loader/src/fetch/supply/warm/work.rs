//! The extents of a load in the order in which they are wanted, and the state of each.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::fetch::decide::History;
use crate::plan::Fetch;

/// The number of extents that are wanted next: of those, no gap is left to chance. 64 are 256 MiB, a quarter of a
/// second of a fast link.
pub(super) const FRONT: usize = 64;

/// One extent.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) file: usize,
    pub(super) index: u64,
    /// Its number in the manifest's order.
    pub(super) number: u32,
    pub(super) state: State,
    /// The time at which it came to the front.
    pub(super) wanted_since: Option<Instant>,
    /// True if the origin will not bring it.
    pub(super) is_lost: bool,
    /// The failures of the origin so far.
    pub(super) history: History,
    /// The times that it was taken back from somebody.
    pub(super) recalls: u32,
    /// The source that it was taken back for, and until when it is kept for it.
    kept_for: Option<(usize, Instant)>,
}

impl Extent {
    /// Returns true if this source may have it: it is kept for nobody else.
    pub(super) fn is_free_for(&self, source: usize, now: Instant) -> bool {
        self.kept_for.is_none_or(|(kept_for, until)| kept_for == source || until <= now)
    }

    /// Returns true if it was taken back for this source.
    pub(super) fn is_kept_for(&self, source: usize, now: Instant) -> bool {
        self.kept_for.is_some_and(|(kept_for, until)| kept_for == source && until > now)
    }

    /// Keeps it for a source for a while.
    pub(super) fn keep_for(&mut self, source: usize, until: Instant) {
        self.recalls += 1;
        self.kept_for = Some((source, until));
    }

    /// Gives it to whoever comes first.
    pub(super) fn keep_for_nobody(&mut self) {
        self.kept_for = None;
    }
}

/// The state of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Missing,
    /// Part of the order of this id.
    Ordered(u64),
    Landed,
}

/// An order that was given out.
pub(super) struct Running {
    pub(super) source: usize,
    pub(super) places: Vec<usize>,
    pub(super) began: Instant,
    /// True while it waits for another try: nobody is at work who could be told to stop.
    pub(super) waits: bool,
    pub(super) is_recalled: bool,
}

/// The age at which an order of a peer is taken back for whoever else is sooner, however often that was done before, or
/// for the origin. A link that takes longer for an extent carries 400 KB/s.
pub(super) const AGE_MAX: Duration = Duration::from_secs(10);

/// The extents, the most urgent first.
pub(super) struct Work {
    extents: Vec<Extent>,
    places: HashMap<(usize, u64), usize>,
    /// Everything before has landed.
    first: usize,
    /// Everything before is at the front or has landed.
    front_end: usize,
    in_front: usize,
    left: usize,
    missing: usize,
}

impl Work {
    /// `firsts` has the number of each file's first extent in the manifest's order.
    pub(super) fn new(fetches: &[Fetch], firsts: &[u32], now: Instant) -> Self {
        let of = |fetch: &Fetch| {
            let (file, first) = (fetch.file, firsts[fetch.file]);
            fetch.extents.clone().map(move |index| Extent {
                file,
                index,
                number: first + u32::try_from(index).expect("extents are numbered"),
                state: State::Missing,
                wanted_since: None,
                is_lost: false,
                history: History::default(),
                recalls: 0,
                kept_for: None,
            })
        };
        let extents: Vec<Extent> = fetches.iter().flat_map(of).collect();
        let places = extents.iter().enumerate().map(|(place, extent)| ((extent.file, extent.index), place)).collect();
        let count = extents.len();
        let mut work = Self { extents, places, first: 0, front_end: 0, in_front: 0, left: count, missing: count };
        work.move_front(now);
        work
    }

    pub(super) fn get(&self, place: usize) -> &Extent {
        &self.extents[place]
    }

    pub(super) fn get_mut(&mut self, place: usize) -> &mut Extent {
        &mut self.extents[place]
    }

    /// The places of an order's extents.
    pub(super) fn places(&self, file: usize, extents: &Range<u64>) -> Vec<usize> {
        extents.clone().filter_map(|index| self.places.get(&(file, index)).copied()).collect()
    }

    /// Places of missing extents, the most urgent first.
    pub(super) fn missing(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        (self.first..self.extents.len()).filter(|&place| self.extents[place].state == State::Missing)
    }

    /// Places of missing extents at the front.
    pub(super) fn missing_at_front(&self) -> impl Iterator<Item = usize> + '_ {
        (self.first..self.front_end).filter(|&place| self.extents[place].state == State::Missing)
    }

    /// Places of extents that have not landed, ordered or not.
    pub(super) fn awaited(&self) -> impl Iterator<Item = usize> + '_ {
        (self.first..self.extents.len()).filter(|&place| self.extents[place].state != State::Landed)
    }

    /// Those of them at the front.
    pub(super) fn awaited_at_front(&self) -> impl Iterator<Item = usize> + '_ {
        (self.first..self.front_end).filter(|&place| self.extents[place].state != State::Landed)
    }

    pub(super) fn missing_count(&self) -> usize {
        self.missing
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Notes the state of an extent.
    pub(super) fn set(&mut self, place: usize, state: State, now: Instant) {
        let before = std::mem::replace(&mut self.extents[place].state, state);
        self.missing -= usize::from(before == State::Missing);
        self.missing += usize::from(state == State::Missing);
        if state == State::Landed && before != State::Landed {
            self.left -= 1;
            self.in_front -= usize::from(place < self.front_end);
            self.move_front(now);
        }
    }

    fn move_front(&mut self, now: Instant) {
        let has_landed = |extent: Option<&Extent>| extent.is_some_and(|extent| extent.state == State::Landed);
        while has_landed(self.extents.get(self.first)) {
            self.first += 1;
        }
        while self.in_front < FRONT && self.front_end < self.extents.len() {
            let extent = &mut self.extents[self.front_end];
            if extent.state != State::Landed {
                extent.wanted_since = Some(now);
                self.in_front += 1;
            }
            self.front_end += 1;
        }
    }
}
