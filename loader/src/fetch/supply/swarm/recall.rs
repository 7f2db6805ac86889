//! Takes work back from the slow: an order that takes several times as long as another peer would
//! need is broken off and given out anew. What had come of its extent is lost, so it must pay.

use std::time::{Duration, Instant};

use super::Swarm;
use super::work::{AGE_MAX, Running};

/// The least age at which an order is taken back. Below, the waste is more than the gain.
const AGE_MIN: Duration = Duration::from_millis(250);

/// The least age of an origin's order: its first byte alone may take that long.
const AGE_MIN_ORIGIN: Duration = Duration::from_secs(2);

/// The time for which an extent is kept for whom it was taken back for.
const KEPT: Duration = Duration::from_secs(2);

/// The times that one extent is taken back for another peer. Peers that serve now and then must not take it from each other
/// for ever.
const RECALLS_MAX: u32 = 4;

/// The times that another peer would need, after which an order is taken back: if the other is idle, and if it has work.
const IDLE: f64 = 2.0;
const BUSY: f64 = 4.0;

impl Swarm {
    /// An order to break off, if another source would be much sooner. Its extents are kept for that one.
    pub(super) fn recall(&mut self, now: Instant) -> Option<u64> {
        let waiting = self.running.iter().filter(|(_, running)| !running.is_recalled && !running.waits);
        let (id, favoured) = waiting.filter_map(|(id, running)| Some((*id, self.favoured(running, now)?))).next()?;
        let running = self.running.get_mut(&id)?;
        running.is_recalled = true;
        for &place in &running.places {
            self.work.get_mut(place).keep_for(favoured, now + KEPT);
        }
        Some(id)
    }

    /// The source that would bring an order's extents much sooner.
    fn favoured(&self, running: &Running, now: Instant) -> Option<usize> {
        let at_origin = running.source < self.origin.count;
        let age = now.saturating_duration_since(running.began);
        // Beside others that load, all wait in queues.
        let patience = if self.swaps() { self.patience.wanted / 2 } else { Duration::ZERO };
        if age < patience.min(AGE_MAX).max(if at_origin { AGE_MIN_ORIGIN } else { AGE_MIN }) {
            return None;
        }
        let extents = || running.places.iter().map(|&place| self.work.get(place));
        // Who holds an extent for so long is blamed for it, so that this ends as well.
        let is_too_long = age >= AGE_MAX;
        if (is_too_long || extents().all(|extent| extent.recalls < RECALLS_MAX))
            && let Some(peer) = (0..self.peers.len()).find(|&at| self.is_sooner(at, running, age, now))
        {
            return Some(self.origin.count + peer);
        }
        let for_origin = !at_origin && is_too_long && self.origin.count > 0;
        (for_origin && extents().all(|extent| !extent.is_lost)).then_some(0)
    }

    fn is_sooner(&self, at: usize, running: &Running, age: Duration, now: Instant) -> bool {
        let other = &self.peers[at];
        let mut numbers = running.places.iter().map(|&place| self.work.get(place).number);
        let can = self.origin.count + at != running.source
            && !other.is_late(now)
            && other.rests(now).is_none()
            && numbers.any(|number| other.may_give(number, now));
        // What a late peer has was not urgent: it is taken back when nothing else is left to do.
        let is_late = self.peer(running.source).is_some_and(|peer| peer.is_late(now));
        let is_idle = other.has_room(now) && self.work.missing_count() == 0;
        let times = if is_idle { IDLE } else { BUSY };
        can && (is_idle || !is_late) && other.pace().is_some_and(|pace| age.as_secs_f64() > times * pace)
    }
}
