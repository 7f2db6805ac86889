//! One model at one worker: its load, its rest and whether it is ejected. It outlives snapshots of the fleet.

use crate::breaker::{Breaker, Reaction};
use crate::load::LOAD_OF_ONE;
use crate::outcome::{Fault, Outcome};
use crate::pick::Look;
use parking_lot::Mutex;
use policy::Moment;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long the load of a try that the worker refused stays, to about a twentieth.
const PRESSURE_FADES: Duration = Duration::from_secs(2);
/// How long the load of a try that failed stays: a worker that fails fast must not look idle.
const FAULT_FADES: Duration = Duration::from_secs(10);

/// One model at one worker.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The load of requests of ours for this model at this worker.
    held: AtomicU32,
    /// Sequences the worker says are waiting; 0 where it does not say.
    waiting: AtomicU32,
    rests_until_ms: AtomicU64,
    pressure: Fading,
    faults: Fading,
    is_suspect: AtomicBool,
    refuses_key: AtomicBool,
    /// The endpoints that are not there, by `Call::endpoint_bit`.
    gone: AtomicU8,
    is_probed: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self {
            held: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
            pressure: Fading::over(PRESSURE_FADES),
            faults: Fading::over(FAULT_FADES),
            is_suspect: AtomicBool::new(false),
            refuses_key: AtomicBool::new(false),
            gone: AtomicU8::new(0),
            is_probed: AtomicBool::new(false),
            breaker: Mutex::new(Breaker::default()),
        }
    }

    /// The load of requests of ours for this model at this worker.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts the load of a request that is at this worker from now on.
    pub(crate) fn hold(&self, load: u32) {
        self.held.fetch_add(load, Ordering::Relaxed);
    }

    /// Undoes [`hold`](Self::hold).
    pub(crate) fn let_go(&self, load: u32) {
        self.held.fetch_sub(load, Ordering::Relaxed);
    }

    pub(crate) fn set_waiting(&self, waiting: u32) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How it looks to a request for one of its endpoints; `held` is the load that its worker has of ours.
    pub(crate) fn look(&self, endpoint_bit: u8, held: u32, now: Moment) -> Look {
        let wait = until(&self.rests_until_ms, now);
        if !wait.is_zero() {
            return Look::Resting { wait };
        }
        let load = held.saturating_add(self.waiting().saturating_mul(LOAD_OF_ONE));
        let load = load.saturating_add(self.pressure.at(now)).saturating_add(self.faults.at(now));
        if self.refuses_key.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed) & endpoint_bit != 0 {
            Look::Refusing { load }
        } else if self.is_suspect.load(Ordering::Relaxed) {
            Look::Suspect { load }
        } else {
            Look::Usable { load }
        }
    }

    /// Records the outcome of a try. The caller carries out a reaction that concerns the worker.
    pub(crate) fn heard(&self, outcome: Outcome, now: Moment, jitter: f64) -> Reaction {
        match outcome {
            Outcome::BackPressure { .. } => self.pressure.add(now),
            // A worker that is down is out anyway.
            Outcome::WorkerFault(fault) if fault != Fault::Down => self.faults.add(now),
            _ => {}
        }
        let reaction = self.breaker.lock().heard(outcome, now, jitter);
        match reaction {
            Reaction::Rest(until) => rest(&self.rests_until_ms, until),
            Reaction::EjectAndProbe => self.refuses_key.store(true, Ordering::Relaxed),
            Reaction::None | Reaction::RestWorker(_) | Reaction::Probe | Reaction::WorkerDown => {}
        }
        reaction
    }

    /// True if it is ejected on a suspicion.
    pub(crate) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
    }

    /// True if requests of any kind go elsewhere.
    pub(crate) fn is_ejected(&self) -> bool {
        self.is_suspect() || self.refuses_key.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed) != 0
    }

    /// How many successes it had so far.
    pub(crate) fn successes(&self) -> u64 {
        self.breaker.lock().successes()
    }

    /// Ejects it after a failed probe.
    pub(crate) fn eject(&self, fault: Fault, endpoint_bit: u8) {
        match fault {
            Fault::Key => self.refuses_key.store(true, Ordering::Relaxed),
            Fault::Gone => {
                self.gone.fetch_or(endpoint_bit, Ordering::Relaxed);
            }
            _ => self.is_suspect.store(true, Ordering::Relaxed),
        }
    }

    /// Readmits it after a good probe. A rest that the worker asked for goes on: one token says nothing about room for more.
    pub(crate) fn readmit(&self, endpoint_bit: u8) {
        self.breaker.lock().clear();
        self.is_suspect.store(false, Ordering::Relaxed);
        self.refuses_key.store(false, Ordering::Relaxed);
        self.gone.fetch_and(!endpoint_bit, Ordering::Relaxed);
    }

    /// Reserves the one probe that may run; false if one runs already.
    pub(crate) fn begin_probe(&self) -> bool {
        !self.is_probed.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_probe(&self) {
        self.is_probed.store(false, Ordering::Relaxed);
    }
}

/// How long until the moment that is stored.
pub(crate) fn until(until_ms: &AtomicU64, now: Moment) -> Duration {
    Duration::from_millis(until_ms.load(Ordering::Relaxed)).saturating_sub(now.0)
}

/// Stores a moment, unless a later one is stored.
pub(crate) fn rest(until_ms: &AtomicU64, until: Moment) {
    until_ms.fetch_max(u64::try_from(until.0.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// A load that fades exponentially. Two writers at once may lose one addition; it is a hint.
#[derive(Debug)]
struct Fading {
    /// The value (`f32`) above, milliseconds of when it was so below.
    state: AtomicU64,
    /// The time in which a value shrinks to 1/e.
    scale_ms: f32,
}

impl Fading {
    /// Fades to a twentieth within `time`.
    fn over(time: Duration) -> Self {
        Self { state: AtomicU64::new(0), scale_ms: time.as_secs_f32() * 1e3 / 3.0 }
    }

    fn value(&self, now_ms: u32) -> f32 {
        let state = self.state.load(Ordering::Relaxed);
        let (value, at_ms) = (f32::from_bits((state >> 32) as u32), state as u32);
        let passed = now_ms.wrapping_sub(at_ms);
        if value == 0.0 { 0.0 } else { value * (-(passed as f32) / self.scale_ms).exp() }
    }

    fn add(&self, now: Moment) {
        let now_ms = now.0.as_millis() as u32;
        let value = self.value(now_ms) + LOAD_OF_ONE as f32;
        self.state.store((u64::from(value.to_bits()) << 32) | u64::from(now_ms), Ordering::Relaxed);
    }

    fn at(&self, now: Moment) -> u32 {
        self.value(now.0.as_millis() as u32).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Scope;

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    const FAILED: Outcome = Outcome::WorkerFault(Fault::Failed);

    #[test]
    fn a_failure_stays_as_load_and_fades() {
        let pair = Pair::new();
        let load = |ms| match pair.look(1, 0, at(ms)) {
            Look::Usable { load } => load,
            other => panic!("{other:?}"),
        };
        assert_eq!(load(1_000), 0);
        pair.heard(FAILED, at(1_000), 0.0);
        pair.heard(FAILED, at(1_000), 0.0);
        assert_eq!(load(1_000), 2 * LOAD_OF_ONE);
        assert!((1..LOAD_OF_ONE / 2).contains(&load(11_000)), "{}", load(11_000));
        assert_eq!(load(60_000), 0);
        pair.heard(Outcome::Success, at(60_000), 0.0);
        pair.heard(Outcome::RequestFault, at(60_000), 0.0);
        assert_eq!(load(60_000), 0);
    }

    #[test]
    fn a_refusal_concerns_one_pair_and_ends() {
        let (one, two) = (Pair::new(), Pair::new());
        let full = Outcome::BackPressure { scope: Scope::Model, wait: Some(Duration::from_secs(2)) };
        one.heard(full, at(0), 0.0);
        assert_eq!(one.look(1, 0, at(500)), Look::Resting { wait: Duration::from_millis(1_500) });
        assert_eq!(two.look(1, 0, at(500)), Look::Usable { load: 0 });
        assert!(matches!(one.look(1, 0, at(2_000)), Look::Usable { .. }));
    }

    #[test]
    fn a_good_probe_does_not_end_a_rest_that_the_worker_asked_for() {
        let pair = Pair::new();
        pair.eject(Fault::Failed, 1);
        pair.heard(Outcome::BackPressure { scope: Scope::Model, wait: Some(Duration::from_secs(2)) }, at(0), 0.0);
        pair.readmit(1);
        assert!(!pair.is_ejected());
        assert_eq!(pair.look(1, 0, at(500)), Look::Resting { wait: Duration::from_millis(1_500) });
    }

    #[test]
    fn what_is_gone_is_gone_for_its_endpoint_alone() {
        let pair = Pair::new();
        pair.eject(Fault::Gone, 2);
        assert_eq!(pair.look(2, 0, at(0)), Look::Refusing { load: 0 });
        assert_eq!(pair.look(1, 0, at(0)), Look::Usable { load: 0 });
        pair.readmit(2);
        assert!(!pair.is_ejected());
        pair.eject(Fault::Failed, 1);
        assert_eq!(pair.look(1, 0, at(0)), Look::Suspect { load: 0 });
    }
}
