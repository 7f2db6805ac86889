//! Judges whether a request is stuck or merely slow: by its progress, measured against
//! what this source has shown so far. Never by total time: a slow link is not a fault.
//!
//! Pure: time, and what others have received meanwhile, are arguments.

#![warn(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use super::config::FetchConfig;

/// The number of latest observations that count.
const KEPT: usize = 64;

/// Observations of a kind before they say something about the next one.
const ENOUGH: usize = 4;

/// Finished requests seen before "slow" means something.
const PACES_ENOUGH: usize = 8;

/// Patience never grows beyond this.
const PATIENCE_MAX: Duration = Duration::from_secs(20);

/// Over how long a crawl is measured.
const STRIDE: Duration = Duration::from_secs(1);

/// A request that receives fewer bytes than this in that time drips. 1 KiB/s is a fiftieth of the
/// slowest link over which anyone would load weights.
const DRIP_BYTES: u64 = 5 << 10;
const DRIP_WINDOW: Duration = Duration::from_secs(5);

/// The least and the longest time until a request is looked at again.
const LOOK_MIN: Duration = Duration::from_millis(25);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Requests that finish sooner are not worth a hedge.
const HEDGE_AFTER: Duration = Duration::from_millis(200);

/// The latest observations of one kind.
#[derive(Debug, Clone, Default)]
struct Recent {
    ring: Vec<f64>,
    next: usize,
}

impl Recent {
    fn push(&mut self, value: f64) {
        if self.ring.len() < KEPT {
            self.ring.push(value);
        } else {
            self.ring[self.next] = value;
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// The value that the given share of the observations does not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below 64"
    )]
    fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.ring.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

/// The observed behaviour of a source.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    first_byte_s: Recent,
    /// The longest silence within each body.
    silence_s: Recent,
    /// Seconds a byte, of requests that were read to their end.
    pace: Recent,
}

impl Observed {
    pub(super) fn first_byte(&mut self, after: Duration) {
        self.first_byte_s.push(after.as_secs_f64());
    }

    /// A body of so many bytes was read to its end.
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    pub(super) fn finished(&mut self, bytes: u64, took: Duration, longest_silence: Duration) {
        if bytes > 0 {
            self.pace.push(took.as_secs_f64() / bytes as f64);
            self.silence_s.push(longest_silence.as_secs_f64());
        }
    }

    /// A request was given up after so much silence. It counts as an observation, or only the fast
    /// would be seen: where more than one in twenty is given up, patience was too short and grows.
    pub(super) fn given_up(&mut self, stall: Stall, after: Duration) {
        match stall {
            Stall::FirstByte => self.first_byte_s.push(after.as_secs_f64()),
            Stall::Body => self.silence_s.push(after.as_secs_f64()),
        }
    }

    /// The usual time to a first byte; a guess while none has been seen.
    pub(super) fn round_trip(&self) -> Duration {
        self.first_byte_s.quantile(0.5).map_or(Duration::from_millis(100), Duration::from_secs_f64)
    }

    /// The patience for the next request; `stalls` of the same fetch so far double it each time, so that a source
    /// that has become slower is not given up again and again.
    pub(super) fn patience(&self, config: &FetchConfig, stalls: u32) -> Patience {
        let tail = |recent: &Recent| {
            let p95 = recent.quantile(0.95).filter(|_| recent.ring.len() >= ENOUGH);
            p95.map(|p95| Duration::from_secs_f64(4.0 * p95))
        };
        let doubled = |patience: Duration| patience.saturating_mul(1 << stalls.min(8)).min(PATIENCE_MAX);
        let first_byte = tail(&self.first_byte_s);
        let silence =
            first_byte.unwrap_or(config.first_byte_initial() / 4).max(tail(&self.silence_s).unwrap_or_default());
        let first_byte = first_byte.unwrap_or(config.first_byte_initial()).max(config.first_byte_floor());
        let silence = silence.max(config.silence_floor());
        let usual = (self.pace.ring.len() >= PACES_ENOUGH)
            .then(|| Some(Usual { median: self.pace.quantile(0.5)?, p95: self.pace.quantile(0.95)? }))
            .flatten();
        Patience { first_byte: doubled(first_byte), silence: doubled(silence), usual }
    }
}

/// The times to wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Patience {
    first_byte: Duration,
    silence: Duration,
    usual: Option<Usual>,
}

impl Patience {
    /// The time to wait for the first byte of an answer.
    pub(super) fn first_byte(&self) -> Duration {
        self.first_byte
    }
}

/// Seconds a byte of whole requests.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usual {
    median: f64,
    p95: f64,
}

/// The rest of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Others {
    /// True if other requests are being read.
    pub(super) active: bool,
    /// Bytes that have landed in the whole load.
    pub(super) landed: u64,
}

/// The ways a request is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// No answer.
    FirstByte,
    /// No more bytes, or hardly any.
    Body,
}

/// The judgement of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing to be said before this time.
    Fine(Instant),
    /// Slower than nearly all others, and a hedge would likely end sooner.
    Slow,
    /// Stuck: give this connection up.
    Stalled(Stall),
}

/// The progress of one request.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    wanted: u64,
    began: Instant,
    landed: u64,
    first_byte_at: Option<Instant>,
    last_byte_at: Instant,
    longest_silence: Duration,
    /// The bytes of the whole load that had landed when our last byte came.
    all_landed_then: u64,
    /// The beginning of the current stride: its time, our bytes, and everybody's.
    stride: (Instant, u64, u64),
    /// The beginning of the current drip: its time, and our bytes.
    drip: (Instant, u64),
}

impl Pulse {
    /// A request for `wanted` bytes, made now.
    pub(super) fn new(now: Instant, wanted: u64, others: Others) -> Self {
        Self {
            wanted,
            began: now,
            landed: 0,
            first_byte_at: None,
            last_byte_at: now,
            longest_silence: Duration::ZERO,
            all_landed_then: others.landed,
            stride: (now, 0, others.landed),
            drip: (now, 0),
        }
    }

    /// `landed` bytes have come in all, `others` included.
    pub(super) fn note(&mut self, now: Instant, landed: u64, all_landed: u64) {
        if landed == self.landed {
            return;
        }
        self.landed = landed;
        if self.first_byte_at.is_some() {
            self.longest_silence = self.longest_silence.max(self.silent_for(now));
        }
        self.first_byte_at.get_or_insert(now);
        self.last_byte_at = now;
        self.all_landed_then = all_landed;
    }

    /// Restarts the silence: the bytes wait for us, and not we for them.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.last_byte_at = now;
        self.drip = (now, self.landed);
    }

    pub(super) fn landed(&self) -> u64 {
        self.landed
    }

    /// The time that the first byte took.
    pub(super) fn first_byte_after(&self) -> Option<Duration> {
        self.first_byte_at.map(|at| at.saturating_duration_since(self.began))
    }

    /// Since the last byte, or since the request was made.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_byte_at)
    }

    /// The longest time between two bytes.
    pub(super) fn longest_silence(&self) -> Duration {
        self.longest_silence
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Judges the request.
    pub(super) fn health(&mut self, now: Instant, patience: &Patience, others: Others) -> Health {
        let (kind, limit) = match self.first_byte_at {
            None => (Stall::FirstByte, patience.first_byte),
            Some(_) => (Stall::Body, patience.silence),
        };
        // When nobody receives anything, giving this one up would not help it.
        let alone_in_silence = !others.active || others.landed > self.all_landed_then;
        let limit = if alone_in_silence { limit } else { limit * 4 };
        let silent_until = self.last_byte_at + limit;
        if now >= silent_until {
            return Health::Stalled(kind);
        }
        if self.crawls(now, others) || self.drips(now) {
            return Health::Stalled(Stall::Body);
        }
        let slow_from = patience.usual.map(|usual| self.slow_from(now, &usual));
        if slow_from.is_some_and(|from| now >= from) {
            return Health::Slow;
        }
        // What is known of the source changes meanwhile, so it looks again soon.
        let next = silent_until.min(self.stride.0 + STRIDE).clamp(now + LOOK_MIN, now + LOOK_MAX).min(silent_until);
        Health::Fine(slow_from.map_or(next, |from| from.min(next)))
    }

    /// The time from which the request counts as slow: past what nearly all take, or at a third of the pace that
    /// nearly all keep; and so slow that a usual one would bring what is left in half the time.
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    fn slow_from(&self, now: Instant, usual: &Usual) -> Instant {
        let late = Duration::from_secs_f64((2.0 * usual.p95 * self.wanted as f64).min(3600.0)).max(HEDGE_AFTER);
        let Some(first_byte_at) = self.first_byte_at else { return self.began + late };
        let own_pace = now.saturating_duration_since(first_byte_at).as_secs_f64() / self.landed as f64;
        let patience = if own_pace > 3.0 * usual.p95 { HEDGE_AFTER } else { late };
        let worth_it = own_pace > 2.0 * usual.median;
        if worth_it { first_byte_at + patience } else { now.max(first_byte_at + patience) + HEDGE_AFTER }
    }

    /// Returns true if it received less than a tenth of the others' mean over a whole stride.
    fn crawls(&mut self, now: Instant, others: Others) -> bool {
        let (began, landed_then, all_then) = self.stride;
        if now.saturating_duration_since(began) < STRIDE {
            return false;
        }
        let own = self.landed - landed_then;
        let all = others.landed.saturating_sub(all_then);
        self.stride = (now, self.landed, others.landed);
        self.first_byte_at.is_some() && others.active && own.saturating_mul(CRAWL) < all
    }
}

impl Pulse {
    /// Returns true if hardly anything came for a while. Whoever sends a byte now and then is never silent,
    /// and would hold a request for ever.
    fn drips(&mut self, now: Instant) -> bool {
        let (began, landed_then) = self.drip;
        if now.saturating_duration_since(began) < DRIP_WINDOW {
            return false;
        }
        self.drip = (now, self.landed);
        self.first_byte_at.is_some() && self.landed - landed_then < DRIP_BYTES
    }
}

/// Beside this many times what a request receives, it crawls: a tenth of an even share among the
/// most requests there may be.
const CRAWL: u64 = 320;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALONE: Others = Others { active: false, landed: 0 };
    const MEBIBYTE: u64 = 1 << 20;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A source whose first bytes take 10 ms and whose requests of 8 MiB take 80 ms.
    fn observed() -> Observed {
        let mut observed = Observed::default();
        for _ in 0..20 {
            observed.first_byte(millis(10));
            observed.finished(8 * MEBIBYTE, millis(80), millis(5));
        }
        observed
    }

    fn patience(stalls: u32) -> Patience {
        observed().patience(&FetchConfig::default(), stalls)
    }

    #[test]
    fn a_drip_is_a_stall_however_steady_it_is() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin, MEBIBYTE, ALONE);
        let stalled_at = (1..1_000).find(|tenth| {
            let now = begin + millis(100 * tenth);
            pulse.note(now, *tenth, *tenth);
            matches!(pulse.health(now, &patience(0), ALONE), Health::Stalled(Stall::Body))
        });
        assert_eq!(stalled_at, Some(50));
        let mut slow = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        for tenth in 1..1_000 {
            let now = begin + millis(100 * tenth);
            slow.note(now, tenth * 200, tenth * 200);
            assert!(!matches!(slow.health(now, &patience(0), ALONE), Health::Stalled(_)), "{tenth}");
        }
    }

    #[test]
    fn silence_is_a_stall_once_patience_ends_and_patience_doubles() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        assert!(matches!(pulse.health(begin + millis(149), &patience(0), ALONE), Health::Fine(_)));
        assert_eq!(pulse.health(begin + millis(150), &patience(0), ALONE), Health::Stalled(Stall::FirstByte));
        assert!(!matches!(pulse.health(begin + millis(299), &patience(1), ALONE), Health::Stalled(_)));
        pulse.note(begin + millis(150), 1, 1);
        assert!(!matches!(pulse.health(begin + millis(399), &patience(0), ALONE), Health::Stalled(_)));
        assert_eq!(pulse.health(begin + millis(400), &patience(0), ALONE), Health::Stalled(Stall::Body));
    }

    #[test]
    fn giving_up_now_and_then_changes_nothing_and_giving_up_often_makes_patient() {
        let limit = |observed: &Observed| observed.patience(&FetchConfig::default(), 0);
        let mut observed = observed();
        observed.given_up(Stall::FirstByte, millis(150));
        observed.given_up(Stall::Body, millis(250));
        assert_eq!(limit(&observed), patience(0));
        observed.given_up(Stall::FirstByte, millis(150));
        observed.given_up(Stall::Body, millis(250));
        assert_eq!((limit(&observed).first_byte, limit(&observed).silence), (millis(600), millis(1000)));
    }

    #[test]
    fn where_nobody_receives_anything_it_waits_longer() {
        let begin = Instant::now();
        let silent = Others { active: true, landed: 500 };
        let mut pulse = Pulse::new(begin, 8 * MEBIBYTE, silent);
        assert!(!matches!(pulse.health(begin + millis(300), &patience(0), silent), Health::Stalled(_)));
        let busy = Others { active: true, landed: 501 };
        assert!(matches!(pulse.health(begin + millis(300), &patience(0), busy), Health::Stalled(_)));
        assert!(matches!(pulse.health(begin + millis(600), &patience(0), silent), Health::Stalled(_)));
    }

    #[test]
    fn nothing_is_slow_while_nothing_is_known() {
        let begin = Instant::now();
        let unknown = Observed::default().patience(&FetchConfig::default(), 0);
        let mut pulse = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        pulse.note(begin + millis(990), 1, 1);
        assert!(matches!(pulse.health(begin + millis(999), &unknown, ALONE), Health::Fine(_)));
    }

    #[test]
    fn a_request_far_behind_is_slow_and_one_at_the_usual_pace_is_not() {
        let begin = Instant::now();
        let mut behind = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        behind.note(begin + millis(10), 1000, 1000);
        behind.note(begin + millis(190), MEBIBYTE, MEBIBYTE);
        assert!(matches!(behind.health(begin + millis(209), &patience(0), ALONE), Health::Fine(_)));
        assert_eq!(behind.health(begin + millis(210), &patience(0), ALONE), Health::Slow);
        let mut usual = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        usual.note(begin + millis(140), 1000, 1000);
        usual.note(begin + millis(230), 7 * MEBIBYTE, 7 * MEBIBYTE);
        assert!(matches!(usual.health(begin + millis(240), &patience(0), ALONE), Health::Fine(_)));
    }

    #[test]
    fn a_crawl_beside_others_is_a_stall() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(begin, 8 * MEBIBYTE, ALONE);
        let unknown = Observed::default().patience(&FetchConfig::default(), 0);
        for tenth in 1..=9 {
            pulse.note(begin + millis(100 * tenth), 1000 * tenth, 50_000_000 * tenth);
        }
        let others = Others { active: true, landed: 500_000_000 };
        assert_eq!(pulse.health(begin + millis(1000), &unknown, others), Health::Stalled(Stall::Body));
    }

    proptest! {
        /// A request that receives bytes at an even pace, however slow the whole link, is never
        /// given up, and is looked at again within a bounded time.
        #[test]
        fn an_even_pace_is_never_a_stall(per_step in 1u64..1_000_000, step_ms in 1u64..200, sharers in 1u64..32) {
            let begin = Instant::now();
            let others = |landed| Others { active: sharers > 1, landed };
            let mut pulse = Pulse::new(begin, u64::MAX >> 20, others(0));
            for step in 1..100u64 {
                let now = begin + millis(step * step_ms);
                let all = per_step * step * sharers;
                match pulse.health(now, &patience(0), others(all)) {
                    Health::Stalled(_) if step * step_ms < 150 || step > 1 => prop_assert!(false, "at step {}", step),
                    Health::Fine(again) => prop_assert!(again >= now && again <= now + PATIENCE_MAX),
                    _ => {}
                }
                pulse.note(now, per_step * step, all);
            }
        }

        #[test]
        fn quantiles_are_ordered_and_observed(values in prop::collection::vec(0.0f64..10.0, 1..200)) {
            let mut recent = Recent::default();
            values.iter().for_each(|value| recent.push(*value));
            let (half, most) = (recent.quantile(0.5).expect("some"), recent.quantile(0.95).expect("some"));
            prop_assert!(half <= most);
            let latest = &values[values.len().saturating_sub(KEPT)..];
            prop_assert!(latest.contains(&half) && latest.contains(&most));
        }
    }
}
