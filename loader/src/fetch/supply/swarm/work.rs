//! The extents of a load in the order in which they are wanted, and the state of each.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::fetch::decide::History;
use crate::plan::Fetch;

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
    /// The time at which it could first be asked for outside.
    pub(super) open_since: Option<Instant>,
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
    /// The time for which it has been at the front.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        self.wanted_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The time for which it could be asked for outside.
    pub(super) fn was_open(&self, now: Instant) -> Duration {
        self.open_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

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
    /// True if its extents are claimed: others are to take them from here.
    pub(super) is_claimed: bool,
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
    /// Since when that is so.
    first_since: Instant,
    /// Everything before is at the front or has landed.
    front_end: usize,
    in_front: usize,
    /// The number of extents that are wanted next: of those, no gap is left to chance.
    window: usize,
    left: usize,
    missing: usize,
}

impl Work {
    /// `firsts` has the number of each file's first extent in the manifest's order; `window` extents are the front.
    pub(super) fn new(fetches: &[Fetch], firsts: &[u32], window: usize, now: Instant) -> Self {
        let of = |fetch: &Fetch| {
            let (file, first) = (fetch.file, firsts[fetch.file]);
            fetch.extents.clone().map(move |index| Extent {
                file,
                index,
                number: first + u32::try_from(index).expect("extents are numbered"),
                state: State::Missing,
                wanted_since: None,
                open_since: None,
                is_lost: false,
                history: History::default(),
                recalls: 0,
                kept_for: None,
            })
        };
        let extents: Vec<Extent> = fetches.iter().flat_map(of).collect();
        let places = extents.iter().enumerate().map(|(place, extent)| ((extent.file, extent.index), place)).collect();
        let count = extents.len();
        let mut work = Self {
            extents,
            places,
            first: 0,
            first_since: now,
            front_end: 0,
            in_front: 0,
            window,
            left: count,
            missing: count,
        };
        work.move_front(now);
        work
    }

    /// Looks so many extents ahead from now on.
    pub(super) fn look_ahead(&mut self, window: usize, now: Instant) {
        self.window = window;
        self.move_front(now);
    }

    /// The number of extents at the front.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The place of the first extent that has not landed, and since when it is the first; none at the end.
    pub(super) fn first_gap(&self) -> Option<(usize, Instant)> {
        (self.first < self.extents.len()).then_some((self.first, self.first_since))
    }

    /// The first gap is looked at anew.
    pub(super) fn forgive_first_gap(&mut self, now: Instant) {
        self.first_since = now;
    }

    /// Extents at the front, behind the first gap, that have landed.
    pub(super) fn landed_ahead(&self) -> usize {
        self.front_end - self.first - self.in_front
    }

    /// The distance of a place from the first gap.
    pub(super) fn distance(&self, place: usize) -> usize {
        place.saturating_sub(self.first)
    }

    /// The number of all extents.
    pub(super) fn end(&self) -> usize {
        self.extents.len()
    }

    /// The places of the front, whatever their state.
    pub(super) fn front(&self) -> Range<usize> {
        self.first..self.front_end
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

    /// The number of extents that have not landed.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The memory of it, in bytes.
    pub(super) fn state_bytes(&self) -> usize {
        self.extents.len() * (size_of::<Extent>() + 2 * size_of::<((usize, u64), usize)>())
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
            self.first_since = now;
        }
        self.front_end = self.front_end.max(self.first);
        while self.in_front < self.window && self.front_end < self.extents.len() {
            let extent = &mut self.extents[self.front_end];
            if extent.state != State::Landed {
                extent.wanted_since = Some(now);
                self.in_front += 1;
            }
            self.front_end += 1;
        }
    }
}
