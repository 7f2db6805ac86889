//! One peer as a load knows it: what it has, how it has behaved, and what may be asked of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::peers::{Bitmap, Role};

use crate::fetch::config::FetchConfig;
use crate::fetch::neighbours::MemberKey;
use crate::fetch::window::Window;

/// Failures in a row after which a peer is given up. Each has cost a pause already.
const FAILURES_MAX: u32 = 3;

/// The most extents remembered that a peer refused. Beyond, the one that may be asked again soonest is forgotten.
const REFUSED_MAX: usize = 64;

/// The most claims of one peer that are heard: whoever claims everything keeps nobody for long.
const CLAIMS_MAX: usize = 64;

/// The time after which a late peer is as good as the others again.
const LATE: Duration = Duration::from_secs(30);

/// The pause after an extent that a peer had given to others; at most 32 times as long.
const TAKEN_PAUSE: Duration = Duration::from_millis(5);

/// The time in which a peer that joins says what it has, a lost packet included.
const JOINING: Duration = Duration::from_millis(500);

/// The weight of the latest extent in the mean of a peer's pace.
const WEIGHT: f64 = 0.3;

/// The state of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not said yet what it has.
    Joining,
    /// It serves.
    Here,
    /// It serves no more, or in vain.
    Gone,
    /// It sent wrong bytes.
    Banned,
}

/// One peer.
pub(super) struct Peer {
    pub(super) standing: Standing,
    pub(super) member: MemberKey,
    joined: Instant,
    has: Bitmap,
    /// Extents that it has not yet and will have soon, and since when it says so.
    claims: BTreeMap<u32, Instant>,
    is_whole: bool,
    is_loading: bool,
    /// True if it was said that nothing more is asked of it.
    pub(super) is_dismissed: bool,
    /// True if it is in our own zone.
    pub(super) is_near: bool,
    pub(super) window: Window,
    pub(super) in_flight: usize,
    failures: u32,
    rests_until: Option<Instant>,
    late_until: Option<Instant>,
    refused: BTreeMap<u32, Instant>,
    /// Extents in a row that it had given to others.
    taken: u32,
    /// The mean time from an order of one extent to its end, in seconds.
    pace: Option<f64>,
}

impl Peer {
    pub(super) fn new(extents: u32, member: MemberKey, is_near: bool, config: &FetchConfig, now: Instant) -> Self {
        Self {
            standing: Standing::Joining,
            member,
            joined: now,
            has: Bitmap::new(extents),
            claims: BTreeMap::new(),
            is_whole: false,
            is_loading: false,
            is_dismissed: false,
            is_near,
            window: Window::new(config, now),
            in_flight: 0,
            failures: 0,
            rests_until: None,
            late_until: None,
            refused: BTreeMap::new(),
            taken: 0,
            pace: None,
        }
    }

    /// Returns true if it may yet serve.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Joining | Standing::Here)
    }

    /// Returns true if it has just joined, and may soon say that it has an extent.
    pub(super) fn is_about_to_say(&self, now: Instant) -> bool {
        self.standing == Standing::Joining && now.saturating_duration_since(self.joined) < JOINING
    }

    /// Returns true if it has an extent and serves, now or later.
    pub(super) fn holds(&self, number: u32) -> bool {
        self.standing == Standing::Here && self.has.contains(number)
    }

    /// Returns true if it has an extent, or will have it soon.
    pub(super) fn holds_or_claims(&self, number: u32) -> bool {
        self.standing == Standing::Here && (self.has.contains(number) || self.claims.contains_key(&number))
    }

    /// Returns true if it serves and loads itself, so that it takes and gives.
    pub(super) fn swaps(&self) -> bool {
        self.standing == Standing::Here && self.is_loading && !self.is_whole
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.late_until.is_some_and(|until| until > now)
    }

    /// Returns true if another request may be made of it now.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let size = if self.is_late(now) { 1 } else { self.window.size() };
        self.standing == Standing::Here && self.rests(now).is_none() && self.in_flight < size
    }

    /// The time until which nothing is asked of it.
    pub(super) fn rests(&self, now: Instant) -> Option<Instant> {
        self.window.paused_until(now).max(self.rests_until.filter(|until| *until > now))
    }

    /// Returns true if it has an extent and has not just refused it.
    pub(super) fn may_give(&self, number: u32, now: Instant) -> bool {
        self.holds(number) && self.refused.get(&number).is_none_or(|until| *until <= now)
    }

    /// The next time after `now` at which a refused extent may be asked for again.
    pub(super) fn next_refused(&self, now: Instant) -> Option<Instant> {
        self.refused.values().copied().filter(|until| *until > now).min()
    }

    /// The expected time of one more extent, in seconds; short while nothing is known.
    #[expect(clippy::cast_precision_loss, reason = "a few requests")]
    pub(super) fn expected_s(&self) -> f64 {
        self.pace.unwrap_or(1e-3) * (self.in_flight + 1) as f64 / self.window.size().max(1) as f64
    }

    pub(super) fn pace(&self) -> Option<f64> {
        self.pace
    }

    pub(super) fn hear_full(&mut self, bitmap: Bitmap) {
        if self.standing == Standing::Joining {
            self.standing = Standing::Here;
        }
        self.has = bitmap;
        self.claims.retain(|number, _| !self.has.contains(*number));
        self.is_whole = self.has.count() == self.has.extents();
    }

    /// Returns the ages of the claims that it has kept.
    pub(super) fn hear_added(&mut self, numbers: &[u32], now: Instant) -> Vec<Duration> {
        let mut kept = Vec::new();
        for number in numbers {
            self.has.insert(*number);
            kept.extend(self.claims.remove(number).map(|since| now.saturating_duration_since(since)));
        }
        self.is_whole = self.has.count() == self.has.extents();
        kept
    }

    /// The number of its claims.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    pub(super) fn hear_role(&mut self, role: Role) {
        self.is_loading = role == Role::Loading;
        if role == Role::Draining {
            self.leave();
        }
    }

    pub(super) fn hear_claims(&mut self, numbers: &[u32], now: Instant) {
        for &number in numbers {
            if !self.has.contains(number) && self.claims.len() < CLAIMS_MAX {
                self.claims.entry(number).or_insert(now);
            }
        }
    }

    pub(super) fn hear_unclaims(&mut self, numbers: &[u32]) {
        self.claims.retain(|number, _| !numbers.contains(number));
    }

    /// Forgets claims that are older than `patience`. Returns true if there were any.
    pub(super) fn forget_old_claims(&mut self, patience: Duration, now: Instant) -> bool {
        let before = self.claims.len();
        self.claims.retain(|_, since| now.saturating_duration_since(*since) <= patience);
        self.claims.len() < before
    }

    /// It is asked nothing for a while.
    pub(super) fn rest(&mut self, pause: Duration, now: Instant) {
        self.rests_until = self.rests_until.max(Some(now + pause));
    }

    /// The memory of it, in bytes.
    pub(super) fn state_bytes(&self) -> usize {
        let entry = 2 * size_of::<(u32, Instant)>();
        size_of::<Self>() + self.has.as_bytes().len() + (self.claims.len() + self.refused.len()) * entry
    }

    /// An extent has come whole and right.
    pub(super) fn succeeded(&mut self, seconds: f64) {
        (self.failures, self.taken) = (0, 0);
        self.pace = Some(self.pace.map_or(seconds, |mean| mean + WEIGHT * (seconds - mean)));
    }

    /// It refused an extent for a while.
    pub(super) fn refuse(&mut self, number: u32, until: Instant) {
        self.refused.insert(number, until);
        if self.refused.len() > REFUSED_MAX
            && let Some(soonest) = self.refused.iter().min_by_key(|(_, until)| **until).map(|(number, _)| *number)
        {
            self.refused.remove(&soonest);
        }
    }

    /// It had given an extent to others: it is asked for another one, after a moment that doubles each time.
    pub(super) fn be_refused(&mut self, now: Instant) {
        self.rests_until = Some(now + TAKEN_PAUSE * (1 << self.taken.min(5)));
        self.taken += 1;
    }

    /// It failed, and rests for `pause`; after a few failures in a row it is given up. Returns true then.
    pub(super) fn failed(&mut self, pause: Duration, now: Instant) -> bool {
        self.failures += 1;
        self.rests_until = Some(now + pause);
        let is_hopeless = self.failures >= FAILURES_MAX && self.is_live();
        if is_hopeless {
            self.leave();
        }
        is_hopeless
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// It was so slow that its work was given to another.
    pub(super) fn be_late(&mut self, now: Instant) {
        self.late_until = Some(now + LATE);
    }

    pub(super) fn ban(&mut self) {
        self.standing = Standing::Banned;
        self.forget();
    }

    pub(super) fn leave(&mut self) {
        if self.standing != Standing::Banned {
            self.standing = Standing::Gone;
        }
        self.forget();
    }

    /// Frees the memory of what it had.
    fn forget(&mut self) {
        self.has = Bitmap::new(0);
        (self.claims, self.refused) = (BTreeMap::new(), BTreeMap::new());
    }
}
