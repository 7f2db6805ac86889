//! The progress of a load: for `/status`, the terminal and whoever waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

/// Over how long the rate is averaged: long enough to be read, short enough to follow a link.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// The phases of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing has been asked for yet.
    #[default]
    Waiting,
    /// Bytes are on their way.
    Fetching,
    /// All bytes are verified.
    Done,
    /// The load ended with an error.
    Failed,
}

/// A load at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its phase.
    pub phase: Phase,
    /// Bytes to fetch.
    pub bytes_total: u64,
    /// Bytes fetched and verified.
    pub bytes_done: u64,
    /// The same by source, in the order of the job's sources.
    pub bytes_by_source: Vec<u64>,
    /// Bytes a second, averaged over some seconds.
    pub bytes_per_second: f64,
    /// Seconds to go at that rate; none where it is not known.
    pub eta_seconds: Option<f64>,
    /// Attempts after a failure.
    pub retries: u64,
    /// Hedges of slow requests.
    pub hedges: u64,
    /// Requests that may be in flight.
    pub concurrency: usize,
    /// Bytes asked for and not yet verified.
    pub in_flight_bytes: u64,
}

/// A load's progress, to be watched. Clones share.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Snapshot>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Snapshot::default())))
    }
}

impl Progress {
    /// The latest.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.borrow().clone()
    }

    /// Tells of every change, a few a second.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.0.subscribe()
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.0.send_replace(snapshot);
    }
}

/// An exponentially weighted mean rate; knows no clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    as_of: Instant,
    bytes: u64,
    per_second: Option<f64>,
}

impl Rate {
    /// Nothing landed yet.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self { as_of: now, bytes: 0, per_second: None }
    }

    /// `bytes` have landed in all.
    pub(crate) fn observe(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.as_of).as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
        let latest = bytes.saturating_sub(self.bytes) as f64 / elapsed;
        let weight = 1.0 - (-elapsed / RATE_WINDOW.as_secs_f64()).exp();
        self.per_second = Some(self.per_second.map_or(latest, |mean| mean + weight * (latest - mean)));
        self.as_of = now;
        self.bytes = bytes;
    }

    /// Bytes a second; 0 while nothing is known.
    #[must_use]
    pub(crate) fn per_second(&self) -> f64 {
        self.per_second.unwrap_or(0.0)
    }
}

/// The best rate that was kept up for a while; knows no clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    since: Instant,
    bytes: u64,
    per_second: f64,
}

/// The time over which a rate is measured that a link is believed to carry.
const BEST_WINDOW: Duration = Duration::from_millis(500);

impl Best {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, per_second: 0.0 }
    }

    /// `bytes` have landed in all.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < BEST_WINDOW {
            return;
        }
        self.per_second = self.per_second.max(self.rate(elapsed, bytes));
        (self.since, self.bytes) = (now, bytes);
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    fn rate(&self, elapsed: Duration, bytes: u64) -> f64 {
        bytes.saturating_sub(self.bytes) as f64 / elapsed.as_secs_f64()
    }

    /// The seconds that `bytes` take at that rate; those that they took, where they took too few to measure one.
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    pub(super) fn seconds(&self, bytes: u64, took: f64) -> f64 {
        if self.per_second > 0.0 { (bytes as f64 / self.per_second).min(took) } else { took }
    }
}

/// Seconds until `left` bytes have come at this rate; none where nothing comes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
pub fn eta_seconds(left: u64, bytes_per_second: f64) -> Option<f64> {
    if left == 0 {
        return Some(0.0);
    }
    (bytes_per_second >= 1.0).then(|| left as f64 / bytes_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ideal_is_what_the_best_stretch_would_have_taken() {
        let begin = Instant::now();
        let mut best = Best::new(begin);
        assert!((best.seconds(1_000, 0.3) - 0.3).abs() < 1e-9, "too short to say");
        for (tenths, bytes) in [(5, 1_000), (10, 6_000), (15, 7_000)] {
            best.observe(begin + Duration::from_millis(100 * tenths), bytes);
        }
        assert!((best.seconds(7_000, 1.5) - 0.7).abs() < 1e-9, "{best:?}");
        assert!((best.seconds(70_000, 1.5) - 1.5).abs() < 1e-9, "never more than it took");
    }

    #[test]
    fn an_even_rate_is_found_and_a_new_one_followed() {
        let begin = Instant::now();
        let mut rate = Rate::new(begin);
        assert_eq!(eta_seconds(5, rate.per_second()), None);
        (1..=10u64).for_each(|step| rate.observe(begin + Duration::from_millis(100 * step), 1000 * step));
        assert!((rate.per_second() - 10_000.0).abs() < 1.0);
        (1..=200u64)
            .for_each(|step| rate.observe(begin + Duration::from_millis(1000 + 100 * step), 10_000 + 500 * step));
        assert!((rate.per_second() - 5_000.0).abs() < 50.0, "{}", rate.per_second());
        assert_eq!(eta_seconds(0, 0.0), Some(0.0));
        assert_eq!(eta_seconds(100, 50.0), Some(2.0));
    }
}
