//! The extents that a fleet asks for outside at once.
//!
//! Each link from outside is shared by all that comes over it: of many extents at once, all come late, and nobody has
//! anything to swap until then. So all loads of a fleet together ask for few extents, in order, and for more only if more
//! come so. Pure.

use std::time::{Duration, Instant};

/// The extents at the start. They fill any link that carries one of them in half a second, over any distance.
const START: f64 = 5.0;

/// The extents at the start where no other member is known: nobody waits for them.
const START_ALONE: f64 = 24.0;

/// Never more than this.
const MOST: f64 = 256.0;

/// An extent that comes so soon has hardly shared its link.
const QUICK_S: f64 = 0.1;

/// Growth is kept if at least this part of it shows in the rate.
const WORTHWHILE: f64 = 0.5;

/// The rounds until growth is tried again after it brought nothing.
const REST_ROUNDS: f64 = 8.0;

/// The number of extents outside, and the search for a better one.
#[derive(Debug, Clone)]
pub(super) struct Outside {
    most: f64,
    /// The latest round: its extents, and their seconds together.
    round: (f64, f64),
    /// The smaller number that is compared with, and the mean time of an extent then.
    before: Option<(f64, f64)>,
    rests_until: Option<Instant>,
}

impl Outside {
    pub(super) fn new() -> Self {
        Self { most: START, round: (0.0, 0.0), before: None, rests_until: None }
    }

    /// No other member is known.
    pub(super) fn be_alone(&mut self) {
        self.most = self.most.max(START_ALONE);
    }

    /// The most extents.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 4 and 256")]
    pub(super) fn most(&self) -> usize {
        self.most as usize
    }

    /// An extent has come, so long after it was asked for.
    pub(super) fn took(&mut self, took: Duration, now: Instant) {
        let took_s = took.as_secs_f64();
        if took_s < QUICK_S {
            (self.most, self.round, self.before) = ((self.most + 1.0).min(MOST), (0.0, 0.0), None);
            return;
        }
        self.round = (self.round.0 + 1.0, self.round.1 + took_s);
        if self.round.0 >= self.most {
            let mean_s = self.round.1 / self.round.0;
            self.round = (0.0, 0.0);
            self.judge(mean_s, now);
        }
    }

    fn judge(&mut self, mean_s: f64, now: Instant) {
        if let Some((most, before_s)) = self.before.take() {
            let in_vain = before_s * (1.0 + (1.0 - WORTHWHILE) * (self.most / most - 1.0));
            if mean_s > in_vain {
                self.most = most;
                self.rests_until = Some(now + Duration::from_secs_f64(REST_ROUNDS * mean_s));
                return;
            }
        }
        if self.rests_until.is_none_or(|until| until <= now) {
            self.before = Some((self.most, mean_s));
            self.most = (self.most * 1.5).ceil().min(MOST);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use super::*;

    /// Plays some seconds of a link that brings `extents_s(most)` extents a second.
    fn play(seconds: f64, extents_s: impl Fn(f64) -> f64) -> Outside {
        let (begin, mut at, mut outside) = (Instant::now(), 0.0, Outside::new());
        while at < seconds {
            let rate = extents_s(outside.most);
            at += 1.0 / rate;
            outside.took(Duration::from_secs_f64(outside.most / rate), begin + Duration::from_secs_f64(at));
        }
        outside
    }

    #[test]
    fn a_link_that_is_full_is_shared_by_few() {
        let outside = play(60.0, |_| 3.0);
        assert!(outside.most() <= 6, "{outside:?}");
    }

    #[test]
    fn it_grows_while_every_connection_brings_its_own() {
        let outside = play(10.0, |most| most * 2.0);
        assert!(outside.most() >= 64, "{outside:?}");
    }

    #[test]
    fn a_fast_link_is_filled_within_a_moment() {
        let outside = play(1.0, |most| (most * 14.0).min(256.0));
        assert!((18..=48).contains(&outside.most()), "{outside:?}");
    }

    #[test]
    fn it_is_bounded() {
        assert_eq!(play(60.0, |most| most * 50.0).most(), 256);
    }
}
