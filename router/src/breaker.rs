//! Back-off and suspicion of one (worker, model) pair. Pure: time is an argument.
//!
//! A fault that a request can provoke ejects nobody. Many faults raise a *suspicion*: the router
//! sends a small request of its own (`probe`), which decides.

#![warn(clippy::disallowed_methods)]

use crate::outcome::{Fault, Outcome, Scope};
use policy::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// The last outcomes that a suspicion is drawn from.
const WINDOW: usize = 16;
/// How long an outcome counts.
const WINDOW_AGE: Duration = Duration::from_secs(60);
/// The fewest faults in the window, and more than half of it, that raise a suspicion.
const FAULTS_MIN: usize = 5;
/// The back-off after the first refusal without a hint; it doubles with each.
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// The longest back-off without a hint.
const BACK_OFF_MAX: Duration = Duration::from_secs(8);

/// The consequence of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Nothing.
    None,
    /// The pair rests until then.
    Rest(Moment),
    /// The whole worker rests until then.
    RestWorker(Moment),
    /// The router asks for itself.
    Probe,
    /// The pair is out at once, and the router asks for itself when it may come back.
    EjectAndProbe,
    /// The worker is out until a health check reaches it.
    WorkerDown,
}

/// The recent outcomes of one pair.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    window: VecDeque<(Moment, bool)>,
    refusals: u32,
    successes: u64,
}

impl Breaker {
    /// Notes an outcome. `jitter` is in 0 to 1: routers that were refused together do not come
    /// back together.
    pub(crate) fn heard(&mut self, outcome: Outcome, now: Moment, jitter: f64) -> Reaction {
        match outcome {
            Outcome::Success => {
                self.refusals = 0;
                self.successes += 1;
                self.note(now, false);
                Reaction::None
            }
            Outcome::BackPressure { scope, wait } => self.refused(scope, wait, now, jitter),
            Outcome::WorkerFault(fault) => self.faulted(fault, now),
            // An orderly refusal is a sign of life.
            Outcome::RequestFault => {
                self.note(now, false);
                Reaction::None
            }
            Outcome::Stale | Outcome::Ours | Outcome::ClientLeft => Reaction::None,
        }
    }

    /// How many successes were noted so far: a probe that timed out says nothing of a worker that
    /// answered others meanwhile.
    pub(crate) const fn successes(&self) -> u64 {
        self.successes
    }

    /// Forgets the faults: a probe went well.
    pub(crate) fn clear(&mut self) {
        self.window.clear();
        self.refusals = 0;
    }

    fn refused(&mut self, scope: Scope, hint: Option<Duration>, now: Moment, jitter: f64) -> Reaction {
        let wait = hint.unwrap_or_else(|| {
            let doubled = BACK_OFF_MIN.saturating_mul(1 << self.refusals.min(5));
            doubled.min(BACK_OFF_MAX).mul_f64(1.0 - jitter / 4.0)
        });
        self.refusals = self.refusals.saturating_add(1);
        let until = Moment(now.0 + wait);
        match scope {
            _ if wait.is_zero() => Reaction::None,
            Scope::Model => Reaction::Rest(until),
            Scope::Worker => Reaction::RestWorker(until),
        }
    }

    fn faulted(&mut self, fault: Fault, now: Moment) -> Reaction {
        match fault {
            Fault::Down => Reaction::WorkerDown,
            Fault::Key => Reaction::EjectAndProbe,
            // A probe tells a model that is gone from a request that was refused.
            Fault::Gone => Reaction::Probe,
            Fault::Broke | Fault::Stuck | Fault::Slow | Fault::Garbage | Fault::Failed => {
                self.note(now, true);
                if self.is_suspicious() { Reaction::Probe } else { Reaction::None }
            }
        }
    }

    fn note(&mut self, now: Moment, is_fault: bool) {
        let since = now.0.saturating_sub(WINDOW_AGE);
        while self.window.front().is_some_and(|(at, _)| at.0 < since) || self.window.len() >= WINDOW {
            self.window.pop_front();
        }
        self.window.push_back((now, is_fault));
    }

    fn is_suspicious(&self) -> bool {
        let faults = self.window.iter().filter(|(_, is_fault)| *is_fault).count();
        faults >= FAULTS_MIN && faults * 2 > self.window.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAILED: Outcome = Outcome::WorkerFault(Fault::Failed);

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn five_faults_over_half_of_the_window_raise_a_suspicion() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert_eq!(breaker.heard(FAILED, at(1), 0.0), Reaction::None);
        }
        assert_eq!(breaker.heard(FAILED, at(1), 0.0), Reaction::Probe);
        breaker.clear();
        for round in 0..40 {
            assert_eq!(breaker.heard(Outcome::Success, at(round), 0.0), Reaction::None);
            assert_eq!(breaker.heard(FAILED, at(round), 0.0), Reaction::None, "half of them are well");
        }
    }

    #[test]
    fn faults_are_forgotten_with_time() {
        let mut breaker = Breaker::default();
        for round in 0..20 {
            assert_eq!(breaker.heard(FAILED, at(round * 16_000), 0.0), Reaction::None, "four a minute");
        }
    }

    #[test]
    fn back_off_doubles_without_a_hint_and_ends_with_a_success() {
        let mut breaker = Breaker::default();
        let full = Outcome::BackPressure { scope: Scope::Model, wait: None };
        for wait in [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000] {
            assert_eq!(breaker.heard(full, at(5), 0.0), Reaction::Rest(at(5 + wait)));
        }
        breaker.heard(Outcome::Success, at(6), 0.0);
        assert_eq!(breaker.heard(full, at(7), 0.0), Reaction::Rest(at(257)));
        let hinted = Outcome::BackPressure { scope: Scope::Worker, wait: Some(Duration::from_secs(3)) };
        assert_eq!(breaker.heard(hinted, at(0), 0.9), Reaction::RestWorker(at(3_000)));
        let now = Outcome::BackPressure { scope: Scope::Model, wait: Some(Duration::ZERO) };
        assert_eq!(breaker.heard(now, at(0), 0.0), Reaction::None);
    }

    proptest! {
        #[test]
        fn refusals_of_requests_never_raise_a_suspicion(
            faults in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut breaker = Breaker::default();
            for is_left in faults {
                let outcome = if is_left { Outcome::ClientLeft } else { Outcome::RequestFault };
                prop_assert_eq!(breaker.heard(outcome, at(1), 0.5), Reaction::None);
            }
        }

        #[test]
        fn no_request_ejects_by_what_it_provokes(faults in prop::collection::vec(0_usize..6, 0..60)) {
            let provoked = [Fault::Broke, Fault::Stuck, Fault::Slow, Fault::Garbage, Fault::Failed, Fault::Gone];
            let mut breaker = Breaker::default();
            for fault in faults {
                let reaction = breaker.heard(Outcome::WorkerFault(provoked[fault]), at(1), 0.5);
                let is_harmless = matches!(reaction, Reaction::None | Reaction::Probe);
                prop_assert!(is_harmless, "{:?}", reaction);
            }
        }
    }
}
