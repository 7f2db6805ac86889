//! Decides whether the origin helps peers that are slow. Where the receiver's own link is full, help
//! brings nothing and costs the origin every byte; so it is tried for a moment, and goes on only if
//! more comes with it than without.

use std::time::{Duration, Instant};

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// The time for which help is tried: a round trip to the origin, and some bodies.
const TRIAL: Duration = Duration::from_secs(2);

/// The gain that makes help worth its bytes.
const WORTHWHILE: f64 = 1.25;

/// The time until help is tried again after it brought nothing; it doubles each time.
const REST: Duration = Duration::from_secs(8);
const REST_MAX: Duration = Duration::from_secs(120);

/// The time for which help goes on before it is looked at again: peers may have become faster.
const SPELL: Duration = Duration::from_secs(30);

/// Requests in flight at the origin while help is tried.
const TRIAL_REQUESTS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Until then the peers are on their own.
    Resting { until: Instant },
    /// Help is tried, against the rate without it.
    Trying { since: Instant, landed: u64, before: f64 },
    /// The origin brings what peers have no time for.
    Helping { until: Instant },
}

/// The decision whether the origin helps.
#[derive(Debug, Clone)]
pub(super) struct Help {
    mode: Mode,
    rest: Duration,
    /// The beginning of the current measurement; none before the first byte.
    window: Option<(Instant, u64)>,
    rate: Option<f64>,
    /// Bytes that have landed, and since when no more did.
    landed: (u64, Instant),
    patience: Duration,
}

impl Help {
    /// `patience`: the time after which a load that receives nothing is helped at once.
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { mode: Mode::Resting { until: now }, rest: REST, window: None, rate: None, landed: (0, now), patience }
    }

    /// `landed` bytes have come in all, from everybody; `is_wanted`: extents wait that peers have.
    pub(super) fn observe(&mut self, landed: u64, is_wanted: bool, now: Instant) {
        if landed > self.landed.0 {
            self.landed = (landed, now);
        }
        self.measure(now);
        match self.mode {
            Mode::Resting { until } if is_wanted && now >= until => self.begin(now),
            Mode::Resting { .. } if is_wanted && self.is_dry(now) => self.begin(now),
            Mode::Trying { since, landed, before } if now.saturating_duration_since(since) >= TRIAL => {
                let rate = rate(landed, self.landed.0, now.saturating_duration_since(since));
                self.judge(rate >= WORTHWHILE * before && rate > 0.0, now);
            }
            // A look at what peers do alone, for as long as a rate takes.
            Mode::Helping { until } if now >= until => {
                self.mode = Mode::Resting { until: now + WINDOW };
                (self.window, self.rate) = (None, None);
            }
            _ => {}
        }
    }

    fn measure(&mut self, now: Instant) {
        match self.window {
            // Connecting is no measure of anything.
            None if self.landed.0 > 0 => self.window = Some((now, self.landed.0)),
            Some((since, landed)) if now.saturating_duration_since(since) >= WINDOW => {
                self.rate = Some(rate(landed, self.landed.0, now.saturating_duration_since(since)));
                self.window = Some((now, self.landed.0));
            }
            _ => {}
        }
    }

    fn begin(&mut self, now: Instant) {
        let before = if self.is_dry(now) { Some(0.0) } else { self.rate };
        if let Some(before) = before {
            self.mode = Mode::Trying { since: now, landed: self.landed.0, before };
        }
    }

    fn judge(&mut self, is_worth_it: bool, now: Instant) {
        if is_worth_it {
            (self.mode, self.rest) = (Mode::Helping { until: now + SPELL }, REST);
        } else {
            self.mode = Mode::Resting { until: now + self.rest };
            self.rest = (self.rest * 2).min(REST_MAX);
            (self.window, self.rate) = (None, None);
        }
    }

    /// Returns true if nothing has come for a while.
    fn is_dry(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.landed.1) >= self.patience
    }

    /// Returns true if the origin may be asked for what peers have, beside so many requests under way.
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        match self.mode {
            Mode::Resting { .. } => false,
            Mode::Trying { .. } => in_flight < TRIAL_REQUESTS,
            Mode::Helping { .. } => true,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
fn rate(before: u64, after: u64, elapsed: Duration) -> f64 {
    after.saturating_sub(before) as f64 / elapsed.as_secs_f64()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use super::*;

    /// Plays so many seconds of a load that gets `rate(is_helped)` bytes a second, and gives the share of time with help.
    fn play(seconds: u32, rate: impl Fn(f64, bool) -> f64) -> f64 {
        let begin = Instant::now();
        let mut help = Help::new(Duration::from_secs(1), begin);
        let (mut landed, mut helped) = (0.0, 0);
        for step in 1..=seconds * 20 {
            let now = begin + Duration::from_millis(50) * step;
            landed += rate(f64::from(step) / 20.0, help.allows(0)) * 0.05;
            help.observe(landed as u64, true, now);
            helped += u32::from(help.allows(0));
        }
        f64::from(helped) / f64::from(seconds * 20)
    }

    #[test]
    fn a_link_that_is_full_is_not_crowded() {
        assert!(play(120, |_, _| 50e6) < 0.1);
    }

    #[test]
    fn slow_peers_are_helped_and_looked_at_now_and_then() {
        let share = play(120, |_, is_helped| if is_helped { 1e9 } else { 20e6 });
        assert!((0.85..0.99).contains(&share), "{share}");
    }

    #[test]
    fn a_load_that_gets_nothing_is_helped_at_once_and_again() {
        let begin = Instant::now();
        let mut help = Help::new(Duration::from_secs(1), begin);
        help.observe(0, true, begin + Duration::from_millis(900));
        assert!(!help.allows(0));
        help.observe(0, true, begin + Duration::from_secs(1));
        assert!(help.allows(3) && !help.allows(4), "a few requests at first");
        // The peers serve, help brings nothing and rests; then they stop.
        let share = play(60, |second, is_helped| match (second < 20.0, is_helped) {
            (true, _) => 100e6,
            (false, true) => 100e6,
            (false, false) => 0.0,
        });
        assert!(share > 0.5, "{share}");
    }
}
