//! Decides whether the origin helps peers that are slow. Where the receiver's own link is full, help
//! brings nothing and costs the origin every byte; so it is tried with a few requests for a moment,
//! and goes on only if its bytes come on top of the peers' and not in place of them. It is looked at
//! again soon, then more and more rarely: one look may fall into a moment that is like no other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// The rates that a trial is compared with: the best of the last few, and never of a single one, as what comes in one
/// second depends on what else this machine does in it.
const RATES: std::ops::RangeInclusive<usize> = 2..=3;

/// The time for which help is tried: a round trip to the origin, and some bodies.
const TRIAL: Duration = Duration::from_secs(1);

/// Help is worth its bytes if at least this part of them is gained, and so much of what came before.
const ADDED: f64 = 0.5;
const GAIN: f64 = 0.1;

/// The time until help is tried again after it brought nothing; four times as long each time.
const REST: Duration = Duration::from_secs(24);
const REST_MAX: Duration = Duration::from_secs(128);

/// The time for which help goes on before it is looked at again: peers may have become faster. It doubles too.
const SPELL: Duration = Duration::from_secs(2);
const SPELL_MAX: Duration = Duration::from_secs(32);

/// Requests in flight at the origin while help is tried: on a full link each takes a share of it from the peers.
const TRIAL_REQUESTS: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Until then the peers are on their own.
    Resting { until: Instant },
    /// Help is tried, against the rate without it.
    Trying { since: Instant, landed: Landed, before: f64 },
    /// The origin brings what peers have no time for.
    Helping { until: Instant },
}

/// Bytes that have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Landed {
    /// From everybody.
    pub(super) all: u64,
    /// From the origin.
    pub(super) origin: u64,
}

/// The decision whether the origin helps.
#[derive(Debug, Clone)]
pub(super) struct Help {
    mode: Mode,
    /// True if help began because nothing came.
    is_for_dry: bool,
    rest: Duration,
    spell: Duration,
    /// The beginning of the current measurement; none before the first byte.
    window: Option<(Instant, u64)>,
    /// The latest rates without help.
    rates: VecDeque<f64>,
    /// Bytes that have landed, and since when no more did.
    landed: (Landed, Instant),
}

impl Help {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            mode: Mode::Resting { until: now },
            is_for_dry: false,
            rest: REST,
            spell: SPELL,
            window: None,
            rates: VecDeque::new(),
            landed: (Landed::default(), now),
        }
    }

    /// `is_wanted`: extents wait that peers have; `is_slow`: help may be tried. `patience`: the time after which a load that receives nothing is helped at
    /// once.
    pub(super) fn observe(&mut self, landed: Landed, is_wanted: bool, is_slow: bool, patience: Duration, now: Instant) {
        if landed.all > self.landed.0.all {
            self.landed = (landed, now);
        }
        self.measure(now);
        let is_dry = now.saturating_duration_since(self.landed.1) >= patience;
        match self.mode {
            Mode::Resting { until } if is_wanted && (is_dry || (is_slow && now >= until)) => self.begin(is_dry, now),
            Mode::Trying { since, landed, before } if now.saturating_duration_since(since) >= TRIAL => {
                let (elapsed, come) = (now.saturating_duration_since(since), self.landed.0);
                let helped = rate(landed.origin, come.origin, elapsed);
                let gain = rate(landed.all, come.all, elapsed) - before;
                self.judge(gain > 0.0 && gain >= ADDED * helped && gain >= GAIN * before, now);
            }
            // A look at what peers do alone, for as long as a rate takes.
            Mode::Helping { until } if now >= until => {
                self.rest_until(now + WINDOW);
            }
            _ => {}
        }
    }

    fn measure(&mut self, now: Instant) {
        match self.window {
            // Connecting is no measure of anything.
            None if self.landed.0.all > 0 => self.window = Some((now, self.landed.0.all)),
            Some((since, landed)) if now.saturating_duration_since(since) >= WINDOW => {
                if self.rates.len() == *RATES.end() {
                    self.rates.pop_front();
                }
                self.rates.push_back(rate(landed, self.landed.0.all, now.saturating_duration_since(since)));
                self.window = Some((now, self.landed.0.all));
            }
            _ => {}
        }
    }

    fn begin(&mut self, is_dry: bool, now: Instant) {
        let best = self.rates.iter().copied().fold(0.0, f64::max);
        let before = if is_dry { Some(0.0) } else { RATES.contains(&self.rates.len()).then_some(best) };
        if let Some(before) = before {
            self.is_for_dry = is_dry;
            self.mode = Mode::Trying { since: now, landed: self.landed.0, before };
        }
    }

    fn judge(&mut self, is_worth_it: bool, now: Instant) {
        if is_worth_it {
            (self.mode, self.rest) = (Mode::Helping { until: now + self.spell }, REST);
            self.spell = (self.spell * 2).min(SPELL_MAX);
        } else {
            self.rest_until(now + self.rest);
            (self.rest, self.spell) = ((self.rest * 4).min(REST_MAX), SPELL);
        }
    }

    fn rest_until(&mut self, until: Instant) {
        self.mode = Mode::Resting { until };
        self.window = None;
        self.rates.clear();
    }

    /// Returns true if the origin may be asked for what peers have, beside so many requests under way.
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        match self.mode {
            Mode::Resting { .. } => false,
            Mode::Trying { .. } => in_flight < TRIAL_REQUESTS,
            Mode::Helping { .. } => true,
        }
    }

    /// Returns true if help is being tried.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.mode, Mode::Trying { .. })
    }

    /// Returns true if help is for a load that received nothing.
    pub(super) fn is_for_dry(&self) -> bool {
        self.is_for_dry
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

    const PATIENCE: Duration = Duration::from_secs(1);

    /// Plays so many seconds of a load whose peers bring `peers(second)` bytes a second, and its origin `origin` when it
    /// helps, through a link of 50 MB/s. Gives the share of time with help.
    fn play(seconds: u32, peers: impl Fn(f64) -> f64, origin: f64) -> f64 {
        let begin = Instant::now();
        let mut help = Help::new(begin);
        let (mut all, mut from_origin, mut helped) = (0.0, 0.0, 0);
        for step in 1..=seconds * 20 {
            let now = begin + Duration::from_millis(50) * step;
            let wanted = (peers(f64::from(step) / 20.0), if help.allows(0) { origin } else { 0.0 });
            let share = (50e6 / (wanted.0 + wanted.1)).min(1.0);
            all += share * (wanted.0 + wanted.1) * 0.05;
            from_origin += share * wanted.1 * 0.05;
            help.observe(Landed { all: all as u64, origin: from_origin as u64 }, true, true, PATIENCE, now);
            helped += u32::from(help.allows(0));
        }
        f64::from(helped) / f64::from(seconds * 20)
    }

    #[test]
    fn a_link_that_is_full_is_not_crowded() {
        assert!(play(24, |_| 50e6, 50e6) < 0.1);
        assert!(play(120, |_| 50e6, 50e6) < 0.03);
    }

    #[test]
    fn a_slow_beginning_brings_no_lasting_help() {
        let share = play(24, |second| if second < 1.2 { 25e6 } else { 50e6 }, 50e6);
        assert!(share < 0.1, "{share}");
    }

    #[test]
    fn slow_peers_are_helped_and_looked_at_now_and_then() {
        let share = play(120, |_| 20e6, 30e6);
        assert!((0.8..0.99).contains(&share), "{share}");
    }

    #[test]
    fn help_that_brings_little_is_given_up() {
        assert!(play(120, |_| 40e6, 1e6) < 0.03);
    }

    #[test]
    fn a_load_that_gets_nothing_is_helped_at_once_and_again() {
        let begin = Instant::now();
        let mut help = Help::new(begin);
        help.observe(Landed::default(), true, true, PATIENCE, begin + Duration::from_millis(900));
        assert!(!help.allows(0));
        help.observe(Landed::default(), true, true, PATIENCE, begin + Duration::from_secs(1));
        assert!(help.allows(0) && !help.allows(1), "one request at first");
        // The peers serve, help brings nothing and rests; then they stop.
        let share = play(60, |second| if second < 20.0 { 50e6 } else { 0.0 }, 50e6);
        assert!(share > 0.5, "{share}");
    }
}
