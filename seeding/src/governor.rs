//! The rate at which weights may be sent beside requests for tokens: a pure function of how long the engine's steps
//! took with and without sending.
//!
//! Sending pauses for a tenth of the time, so that steps with it and without it are seen under one load. Each step's
//! time is divided by the usual time of steps of its shape; the harm is the ratio of the 95th percentiles. Below 2 %
//! the rate grows by a fiftieth of the link, above 4 % it falls by three tenths, and between it stays: growth is slow,
//! the fall is not, and the band keeps it from swinging. An engine without work leaves the link to the peers.

mod pools;

pub use pools::{Harm, StepSeen};

use pools::Pools;
use std::collections::VecDeque;
use std::time::Duration;

/// The interval at which [`govern`] is to be called.
pub const TICK: Duration = Duration::from_millis(100);
/// The shortest time between two changes.
const DECIDE: Duration = Duration::from_millis(250);
/// The shortest pause.
const PAUSE: Duration = Duration::from_millis(200);
/// A period's length, in pauses.
const PERIOD: u32 = 10;
/// Steps that a pause is to hold.
const PAUSE_STEPS: u32 = 4;
/// The longest pause, for engines whose steps take long: peers must not take it for a stall.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Spans of time that are remembered; a step that began before them belongs to none.
const SPANS_MAX: usize = 256;
/// Harm below which the rate grows, and above which it falls.
const HARM: (f64, f64) = (1.02, 1.04);
/// The share of steps with sending that must be slower than 19 of 20 steps without it, for harm to be more than chance.
const SLOWER: f64 = 0.1;
/// The first rate, in parts of the link.
const FIRST: f64 = 0.25;
/// Growth, in parts of the link.
const GROWTH: f64 = 0.02;
/// The new rate after harm, and after a queue that grew, in parts of the old one.
const FALL: f64 = 0.7;
const QUEUE_FALL: f64 = 0.5;
/// The time over which the least number that waits is taken: every request waits for the step under way, and only a queue
/// that stands is a sign of harm.
const QUEUE_EVERY: Duration = Duration::from_secs(1);
/// The time after which sending is tried again where none was tolerable.
const AGAIN: Duration = Duration::from_secs(5);
/// New steps with sending that a change waits for, so that it judges the rate in force.
const FRESH: usize = 16;
/// The share of the rate that must be used for it to grow: nothing is known of what nobody tried.
const USED: f64 = 0.5;
/// The weight of one call in the rate that was sent at lately.
const SMOOTHING: f64 = 0.3;
/// The least rate of the link, in bytes per second: one Gbit/s. More is found by sending.
const LINK: f64 = 125e6;

/// A rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl Rate {
    /// As fast as the link goes.
    pub const FREE: Self = Self(u64::MAX);
    /// Not at all.
    pub const NONE: Self = Self(0);
}

/// The events since the last call.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The steps that ended.
    pub steps: &'a [StepSeen],
    /// Sequences that wait now.
    pub waiting: u32,
    /// True if the engine has nothing to compute.
    pub is_idle: bool,
    /// Bytes of weights sent.
    pub sent_bytes: u64,
}

/// The memory of a governor.
#[derive(Debug, Clone)]
pub struct Governor {
    link: f64,
    rate: f64,
    pools: Pools,
    spans: VecDeque<Span>,
    called: Option<Duration>,
    /// The end of the current pause, or of the time until the next one.
    turn: Duration,
    is_pause: bool,
    /// The rate at which was sent outside of pauses lately.
    sent: f64,
    decided: Duration,
    queue: Queue,
    stopped: Option<Duration>,
}

/// The sequences that wait, however short a moment is looked at.
#[derive(Debug, Clone, Copy)]
struct Queue {
    since: Duration,
    least: u32,
    /// The least in the time before.
    before: u32,
}

impl Queue {
    fn new(before: u32, since: Duration) -> Self {
        Self { since, least: u32::MAX, before }
    }

    /// Returns true if more are left waiting than before.
    fn has_grown(&mut self, waiting: u32, now: Duration) -> bool {
        self.least = self.least.min(waiting);
        if now.saturating_sub(self.since) < QUEUE_EVERY {
            return false;
        }
        let has_grown = self.least > self.before;
        *self = Self::new(self.least, now);
        has_grown
    }
}

/// The time between two calls.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: Duration,
    end: Duration,
    has_sent: bool,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            link: LINK,
            rate: LINK * FIRST,
            pools: Pools::default(),
            spans: VecDeque::new(),
            called: None,
            turn: Duration::ZERO,
            is_pause: false,
            sent: 0.0,
            decided: Duration::ZERO,
            queue: Queue::new(0, Duration::ZERO),
            stopped: None,
        }
    }
}

impl Governor {
    /// The harm found lately, the worse of steps that decode and steps with prompts; none before there were enough.
    #[must_use]
    pub fn harm(&self) -> Option<Harm> {
        self.pools.harm()
    }

    /// The rate outside of pauses, while the engine has work.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate(to_bytes(self.rate))
    }
}

/// The rate from `now` on, a time since any fixed moment.
pub fn govern(state: &mut Governor, seen: &Seen, now: Duration) -> Rate {
    state.note(seen, now);
    if seen.is_idle {
        (state.is_pause, state.turn) = (false, now);
        state.queue = Queue::new(seen.waiting, now);
        return Rate::FREE;
    }
    let has_grown = state.queue.has_grown(seen.waiting, now);
    state.decide(has_grown, now);
    state.take_turns(now);
    if state.is_pause { Rate::NONE } else { state.rate() }
}

impl Governor {
    /// Sorts the steps by whether weights were sent meanwhile.
    fn note(&mut self, seen: &Seen, now: Duration) {
        let start = self.called.replace(now).unwrap_or(now);
        if now > start {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let sent = seen.sent_bytes as f64 / (now - start).as_secs_f64();
            self.link = self.link.max(sent);
            if !self.is_pause {
                self.sent += (sent - self.sent) * SMOOTHING;
            }
            if self.spans.len() == SPANS_MAX {
                self.spans.pop_front();
            }
            self.spans.push_back(Span { start, end: now, has_sent: seen.sent_bytes > 0 });
        }
        for step in seen.steps {
            if let Some(with) = self.was_sent(step) {
                self.pools.add(step, with);
            }
        }
    }

    /// Returns true if weights were sent all through a step, false if none were; none where it is not known.
    fn was_sent(&self, step: &StepSeen) -> Option<bool> {
        let begun = step.ended.checked_sub(step.took)?;
        if self.spans.front()?.start > begun {
            return None;
        }
        let mut during = self.spans.iter().filter(|span| span.end > begun && span.start < step.ended);
        let first = during.next()?.has_sent;
        during.all(|span| span.has_sent == first).then_some(first)
    }

    fn decide(&mut self, queue_has_grown: bool, now: Duration) {
        if let Some(since) = self.stopped {
            if now.saturating_sub(since) >= AGAIN {
                (self.stopped, self.rate) = (None, self.link * GROWTH);
                self.pools.forget_with();
            }
            return;
        }
        if queue_has_grown {
            return self.fall(QUEUE_FALL, now);
        }
        if now.saturating_sub(self.decided) < DECIDE || self.pools.fresh() < FRESH {
            return;
        }
        let Some(harm) = self.pools.harm() else { return };
        self.decided = now;
        self.pools.judge();
        if harm.ratio > HARM.1 && harm.slower >= SLOWER {
            self.fall(FALL, now);
        } else if (harm.ratio <= HARM.0 || harm.slower < SLOWER) && self.sent >= self.rate * USED {
            self.rate = (self.rate + self.link * GROWTH).min(self.link);
        }
    }

    fn fall(&mut self, part: f64, now: Duration) {
        self.rate *= part;
        // What was seen at the old rate says nothing of the new one.
        self.pools.forget_with();
        if self.rate < self.link * GROWTH / 2.0 {
            (self.rate, self.stopped) = (0.0, Some(now));
        }
    }

    /// Begins and ends pauses. A pause is long enough for some steps.
    fn take_turns(&mut self, now: Duration) {
        if now < self.turn {
            return;
        }
        let pause = (self.pools.usual_step() * PAUSE_STEPS).clamp(PAUSE, PAUSE_MAX);
        self.is_pause = !self.is_pause;
        self.turn = now + if self.is_pause { pause } else { pause * (PERIOD - 1) };
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, never negative")]
fn to_bytes(rate: f64) -> u64 {
    rate.max(0.0) as u64
}

#[cfg(test)]
mod tests;
