//! Takes work back from the slow: an order that takes several times as long as another peer would
//! need is broken off and given out anew. What had come of its extent is lost, so it must pay.

use std::time::{Duration, Instant};

use super::Warm;
use super::work::Running;

/// The least age at which an order is taken back. Below, the waste is more than the gain.
const AGE_MIN: Duration = Duration::from_millis(250);

/// The least age of an origin's order: its first byte alone may take that long.
const AGE_MIN_ORIGIN: Duration = Duration::from_secs(2);

/// The times that another peer would need, after which an order is taken back: if the other is idle, and if it has work.
const IDLE: f64 = 2.0;
const BUSY: f64 = 4.0;

impl Warm {
    /// An order to break off, if another peer would be much sooner.
    pub(super) fn recall(&mut self, now: Instant) -> Option<u64> {
        let found = self.running.iter().find(|(_, running)| !running.is_recalled && self.is_overdue(running, now));
        let id = *found?.0;
        self.running.get_mut(&id)?.is_recalled = true;
        Some(id)
    }

    fn is_overdue(&self, running: &Running, now: Instant) -> bool {
        let at_origin = running.source < self.origin.count;
        let age = now.saturating_duration_since(running.began);
        if age < if at_origin { AGE_MIN_ORIGIN } else { AGE_MIN } {
            return false;
        }
        let is_late = self.peer(running.source).is_some_and(|peer| peer.is_late(now));
        let numbers: Vec<u32> = running.places.iter().map(|&place| self.work.get(place).number).collect();
        self.peers.iter().enumerate().any(|(at, other)| {
            let can = self.origin.count + at != running.source
                && !other.is_late(now)
                && other.rests(now).is_none()
                && numbers.iter().any(|&number| other.may_give(number, now));
            // What a late peer has was not urgent: it is taken back when nothing else is left to do.
            let is_idle = other.has_room(now) && self.work.missing_count() == 0;
            let times = if is_idle { IDLE } else { BUSY };
            can && (is_idle || !is_late) && other.pace().is_some_and(|pace| age.as_secs_f64() > times * pace)
        })
    }
}
