//! The number of requests in flight: more while that gives more bytes, half as many when the store
//! asks for less, a pause when it says so twice.
//!
//! The window climbs: it grows by half, and keeps what it gained only if throughput rose by at
//! least a quarter of that. So a link that eight connections fill is not crowded by thirty-two,
//! while a store that serves each connection slowly gets as many as are allowed. Time is an
//! argument.

#![warn(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use super::config::FetchConfig;

/// The time that a size is tried before its throughput is judged: several round trips, and several
/// bodies at any speed worth growing for.
const TRIAL: Duration = Duration::from_millis(200);

/// The time that a size that could not be bettered is kept before growth is tried again.
const REST: Duration = Duration::from_secs(4);

/// The share of the proportional gain that makes growth worth keeping.
const WORTHWHILE: f64 = 0.25;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Measuring the current size, to compare a larger one with.
    Measuring,
    /// Trying a larger size than the one that gave this many bytes a second.
    Trying { before: f64, rate_before: f64 },
    /// Nothing is gained by more, until then.
    Resting { until: Instant },
}

/// The number of requests that may be in flight.
#[derive(Debug, Clone)]
pub(super) struct Window {
    size: f64,
    least: f64,
    most: f64,
    mode: Mode,
    trial_began: Instant,
    landed_then: u64,
    halved_at: Option<Instant>,
    /// Its size before it was halved.
    recover_to: f64,
    /// Throttled answers since the last success.
    refusals: u32,
    paused_until: Option<Instant>,
}

impl Window {
    #[expect(clippy::cast_precision_loss, reason = "a few requests")]
    pub(super) fn new(config: &FetchConfig, now: Instant) -> Self {
        let (least, most) = (config.concurrency_min.max(1) as f64, config.concurrency_max.max(1) as f64);
        Self {
            size: (config.concurrency_start as f64).clamp(least.min(most), most),
            least: least.min(most),
            most,
            mode: Mode::Measuring,
            trial_began: now,
            landed_then: 0,
            halved_at: None,
            recover_to: 0.0,
            refusals: 0,
            paused_until: None,
        }
    }

    /// The number of requests that may be in flight.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the most")]
    pub(super) fn size(&self) -> usize {
        self.size as usize
    }

    /// Until when no new request is to be made.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Judges the current size if it has been tried long enough. `landed` counts all bytes so far;
    /// `full`: there was work for more requests than were allowed.
    pub(super) fn observe(&mut self, now: Instant, landed: u64, full: bool) {
        let elapsed = now.saturating_duration_since(self.trial_began);
        if self.landed_then == 0 {
            // Connecting is no measure of anything: the first trial begins with the first byte.
            return self.begin_trial(now, landed);
        }
        if elapsed < TRIAL {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
        let rate = landed.saturating_sub(self.landed_then) as f64 / elapsed.as_secs_f64();
        self.begin_trial(now, landed);
        if full {
            self.judge(now, rate);
        }
    }

    fn judge(&mut self, now: Instant, rate: f64) {
        match self.mode {
            Mode::Resting { until } if now < until => {}
            Mode::Resting { .. } | Mode::Measuring => self.grow(rate),
            Mode::Trying { before, rate_before } => {
                let proportional = self.size / before - 1.0;
                if rate >= rate_before * (1.0 + WORTHWHILE * proportional) {
                    self.grow(rate);
                } else {
                    self.size = before;
                    self.mode = Mode::Resting { until: now + REST };
                }
            }
        }
    }

    fn grow(&mut self, rate: f64) {
        let before = self.size;
        // After a halving, one by one: the store has said where its limit is.
        let recovering = before < self.recover_to;
        let wanted = if recovering { before + 1.0 } else { (before * 1.5).ceil() };
        self.size = wanted.min(self.most);
        let compare = !recovering && self.size > before;
        self.mode = if compare { Mode::Trying { before, rate_before: rate } } else { Mode::Measuring };
    }

    fn begin_trial(&mut self, now: Instant, landed: u64) {
        self.trial_began = now;
        self.landed_then = landed;
    }

    /// A request was answered as wished.
    pub(super) fn succeeded(&mut self) {
        self.refusals = 0;
    }

    /// Halves the window, at most once in a round trip: what is in flight was sent before the
    /// store could see us slow down.
    pub(super) fn slow_down(&mut self, now: Instant, round_trip: Duration, landed: u64) {
        let patience = round_trip.max(Duration::from_millis(50));
        if self.halved_at.is_some_and(|at| now.saturating_duration_since(at) < patience) {
            return;
        }
        self.halved_at = Some(now);
        self.recover_to = self.recover_to.max(self.size);
        self.size = (self.size / 2.0).floor().max(self.least);
        self.mode = Mode::Measuring;
        self.begin_trial(now, landed);
    }

    /// The store asked us to slow down. One refusal concerns one request, which waits as told; a
    /// second one without a success between concerns us all.
    pub(super) fn throttled(&mut self, now: Instant, round_trip: Duration, landed: u64, wait: Duration) {
        self.slow_down(now, round_trip, landed);
        self.refusals += 1;
        if self.refusals > 1 {
            self.paused_until = self.paused_until.max(Some(now + wait));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a window for `seconds` against a store that gives `rate(size)` bytes a second.
    fn climb(window: &mut Window, begin: Instant, seconds: u64, rate: impl Fn(usize) -> f64) {
        let mut landed = 0.0;
        for step in 1..=seconds * 20 {
            landed += rate(window.size()) * 0.05;
            window.observe(begin + Duration::from_millis(50 * step), landed as u64, true);
        }
    }

    fn fresh(begin: Instant) -> Window {
        Window::new(&FetchConfig::default(), begin)
    }

    #[test]
    fn it_grows_while_each_connection_brings_its_own() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        climb(&mut window, begin, 2, |size| size as f64 * 96e6);
        assert_eq!(window.size(), 32);
    }

    #[test]
    fn it_does_not_crowd_a_link_that_is_full() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        climb(&mut window, begin, 3, |_| 1e9);
        assert_eq!(window.size(), FetchConfig::default().concurrency_start);
    }

    #[test]
    fn it_stops_where_the_link_ends() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        climb(&mut window, begin, 3, |size| (size as f64 * 96e6).min(1.7e9));
        assert!((18..=27).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn a_burst_of_refusals_halves_it_once_and_pauses() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        let round_trip = Duration::from_millis(100);
        for millis in 0..20 {
            window.throttled(begin + Duration::from_millis(millis), round_trip, 0, Duration::from_secs(2));
        }
        assert_eq!(window.size(), 6);
        let until = window.paused_until(begin).expect("it pauses");
        assert_eq!(until, begin + Duration::from_millis(2019));
        assert_eq!(window.paused_until(until), None);
        window.slow_down(begin + Duration::from_millis(100), round_trip, 0);
        assert_eq!(window.size(), 4, "never below the least");
    }

    #[test]
    fn a_lone_refusal_pauses_nobody_else() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        window.throttled(begin, Duration::ZERO, 0, Duration::from_secs(2));
        window.succeeded();
        window.throttled(begin + Duration::from_secs(1), Duration::ZERO, 0, Duration::from_secs(2));
        assert_eq!(window.paused_until(begin), None);
    }

    #[test]
    fn after_a_refusal_it_recovers_one_by_one() {
        let begin = Instant::now();
        let mut window = fresh(begin);
        window.slow_down(begin, Duration::ZERO, 1);
        let mut sizes = vec![window.size()];
        for step in 1..=6 {
            window.observe(begin + TRIAL * step, u64::from(step) * 1000, true);
            sizes.push(window.size());
        }
        assert_eq!(sizes, [6, 7, 8, 9, 10, 11, 12]);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            events in prop::collection::vec((0u8..4, 0u64..500, 0u64..1_000_000_000), 0..300),
        ) {
            let begin = Instant::now();
            let mut window = fresh(begin);
            let (mut now, mut landed) = (begin, 0);
            for (kind, millis, bytes) in events {
                now += Duration::from_millis(millis);
                landed += bytes;
                match kind {
                    0 => window.slow_down(now, Duration::from_millis(20), landed),
                    1 => window.throttled(now, Duration::from_millis(20), landed, Duration::from_millis(bytes % 1000)),
                    2 => window.succeeded(),
                    _ => window.observe(now, landed, bytes % 2 == 0),
                }
                prop_assert!((4..=32).contains(&window.size()));
            }
        }
    }
}
