//! The times that a load measures, and what follows from them: how far ahead it looks, and how long it waits for others.

use std::time::{Duration, Instant};

use wire::extent::EXTENT_BYTES;

/// The least time over which a rate is measured.
const LOOK: Duration = Duration::from_millis(250);

/// The weight of the latest measurement in a mean.
const WEIGHT: f64 = 0.3;

/// The window: so many seconds of the link, within bounds. Wider, a late extent is noticed late; narrower, there is
/// little to swap.
const WINDOW_S: f64 = 5.0;
const WINDOW_MIN: usize = 32;
const WINDOW_MAX: usize = 256;
/// The window before anything is known. Wider, all ask the origin at once, and nobody has anything to swap for long.
const WINDOW_START: usize = 24;

/// The time of a request to the outside before one has ended, in seconds.
const OUTSIDE_START_S: f64 = 2.0;

/// The time of an extent before one has come, in seconds.
const EXTENT_START_S: f64 = 0.02;

/// The time of an extent that is slow, in seconds.
const SLOW_S: f64 = 0.5;

/// Extents that may be on a member's link before one that it has claimed.
const QUEUED: f64 = 12.0;

/// The longest time that an extent is expected to wait in the window, in seconds.
const WAIT_MAX_S: f64 = 10.0;

/// Slack of every deadline, in seconds: news are collected, timers are coarse.
const SLACK_S: f64 = 0.1;

/// The measured times of a load.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    looked: Instant,
    landed_then: u64,
    /// The mean and the best rate, in bytes a second; none before the first.
    rate: Option<f64>,
    rate_max: f64,
    /// The mean time of a request to the outside, in seconds.
    outside_s: Option<f64>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, landed_then: 0, rate: None, rate_max: 0.0, outside_s: None }
    }

    /// So many bytes have landed in all.
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    pub(super) fn observe(&mut self, landed: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked);
        if self.landed_then == 0 {
            // Connecting is no measure of anything.
            (self.looked, self.landed_then) = (now, landed);
        } else if elapsed >= LOOK {
            let rate = landed.saturating_sub(self.landed_then) as f64 / elapsed.as_secs_f64();
            (self.looked, self.landed_then) = (now, landed);
            let mean = self.rate.map_or(rate, |mean| mean + WEIGHT * (rate - mean));
            self.rate = Some(mean);
            self.rate_max = self.rate_max.max(mean);
        }
    }

    /// A request to the origin took so long.
    pub(super) fn outside_took(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.outside_s = Some(self.outside_s.map_or(took, |mean| mean + WEIGHT * (took - mean)));
    }

    /// The extents to look ahead.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    pub(super) fn window(&self) -> usize {
        if self.rate.is_none() {
            return WINDOW_START;
        }
        ((WINDOW_S * self.rate_max / EXTENT_BYTES as f64) as usize).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    /// The extents that the link brings in so many seconds at its best; all before anything is known.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    pub(super) fn extents_in(&self, seconds: f64) -> usize {
        match self.rate {
            Some(_) => (seconds * self.rate_max / EXTENT_BYTES as f64).ceil() as usize,
            None => usize::MAX,
        }
    }

    /// Returns true if extents come far more slowly than any link of a fleet would bring them: 8 MB/s.
    pub(super) fn is_slow(&self) -> bool {
        self.extent_s() > SLOW_S
    }

    /// The time of one extent at the present rate, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "4 MiB")]
    pub(super) fn extent_s(&self) -> f64 {
        self.rate.map_or(EXTENT_START_S, |rate| EXTENT_BYTES as f64 / rate.max(1.0)).min(WINDOW_S)
    }

    /// The time of a request to the outside, in seconds; `oldest`: the age of the oldest one under way.
    fn outside_s(&self, oldest: Duration) -> f64 {
        self.outside_s.unwrap_or(OUTSIDE_START_S).max(oldest.as_secs_f64())
    }

    /// The patience with others. `oldest`: the age of the oldest request outside that is under way; `members` load
    /// together: where not all are neighbours, copies hop.
    #[expect(clippy::cast_precision_loss, reason = "at most 256")]
    pub(super) fn patience(&self, oldest: Duration, members: usize) -> Patience {
        let (outside_s, window_s) = (self.outside_s(oldest), self.window() as f64 * self.extent_s());
        let with_hops = |time_s: f64| seconds(hops(members) * (time_s + SLACK_S));
        Patience {
            outside: seconds(outside_s),
            claimed: with_hops(2.5 * outside_s + QUEUED * self.extent_s()),
            wanted: with_hops(window_s.min(WAIT_MAX_S) + 2.0 * outside_s),
            overtaken: with_hops(4.0 * self.extent_s() + 1.5 * outside_s),
        }
    }
}

/// The patience with others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The time of a request outside.
    pub(super) outside: Duration,
    /// The time that whoever claims an extent has to bring it.
    pub(super) claimed: Duration,
    /// The time in which a wanted extent comes if all goes well.
    pub(super) wanted: Duration,
    /// The time after which the first gap is overtaken by what came behind it.
    pub(super) overtaken: Duration,
}

/// A factor for fleets beyond 128 members: log2 N - 6, at least 1.
fn hops(members: usize) -> f64 {
    f64::from((usize::BITS - members.saturating_sub(1).leading_zeros()).saturating_sub(6).max(1))
}

/// At most an hour: what does not come within it never will.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3_600.0))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use super::*;

    /// Plays ten seconds at a rate.
    fn at(rate: u64) -> Pace {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        for step in 1..=200 {
            pace.observe(rate / 20 * u64::from(step), begin + Duration::from_millis(50) * step);
        }
        pace
    }

    #[test]
    fn the_window_is_five_seconds_of_the_link_within_bounds() {
        assert_eq!(Pace::new(Instant::now()).window(), WINDOW_START);
        assert!((58..=60).contains(&at(50_000_000).window()), "{}", at(50_000_000).window());
        assert_eq!((at(1_000_000).window(), at(1 << 30).window()), (WINDOW_MIN, WINDOW_MAX));
    }

    #[test]
    fn patience_grows_with_the_time_outside_and_with_the_fleet() {
        let mut pace = at(50_000_000);
        let start = pace.patience(Duration::ZERO, 16);
        pace.outside_took(Duration::from_millis(100));
        assert!(pace.patience(Duration::ZERO, 16).wanted < start.wanted);
        assert!(pace.patience(Duration::from_secs(9), 16).wanted > start.wanted, "it is slow at the moment");
        let claimed = |members| pace.patience(Duration::ZERO, members).claimed;
        assert_eq!(claimed(128), claimed(2));
        assert!(claimed(512) > claimed(128));
    }
}
