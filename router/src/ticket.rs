//! One request at one worker: the place it holds, and the verdict over it.

use crate::breaker::Reaction;
use crate::core::Core;
use crate::fleet::{Member, Picked, Why};
use crate::outcome::{Evidence, Outcome, Phase, Transport, outcome};
use crate::probe;
use crate::upstream::Call;
use crate::worker::Worker;
use rand::Rng;
use std::sync::Arc;
use wire::openai::channels::ErrorClass;

/// A try. Dropping it frees its place at the worker; a try that was not judged by then counts as
/// one whose client left.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) worker: Arc<Worker>,
    pub(crate) why: Why,
    member: Member,
    path: &'static str,
    load: u32,
    model: String,
    core: Arc<Core>,
    gauge: prometheus::Gauge,
    phase: Phase,
    is_judged: bool,
}

impl Ticket {
    pub(crate) fn take(core: &Arc<Core>, Picked { member, why }: Picked, model: &str, call: &Call) -> Self {
        let gauge = core.metrics.worker_in_flight(&member.worker);
        member.hold(call.load);
        gauge.inc();
        Self {
            worker: Arc::clone(&member.worker),
            why,
            member,
            path: call.path,
            load: call.load,
            model: model.to_owned(),
            core: Arc::clone(core),
            gauge,
            phase: Phase::NotBegun,
            is_judged: false,
        }
    }

    /// Records the progress of the try.
    pub(crate) fn reached(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Judges the try and records the outcome. Only the first verdict counts.
    pub(crate) fn judge(&mut self, evidence: &Evidence<'_>) -> Outcome {
        self.phase = evidence.phase;
        let outcome = outcome(evidence);
        self.note(outcome);
        outcome
    }

    /// A stream reached its terminal event, or its end by policy.
    pub(crate) fn succeeded(&mut self) {
        self.note(Outcome::Success);
    }

    /// A stream that the client has begun to read could not go on.
    pub(crate) fn broke(&mut self, transport: Transport) {
        self.judge(&Evidence { phase: Phase::After, transport: Some(transport), head: None, error: None });
    }

    /// The worker reported an error in a stream that the client has begun to read.
    pub(crate) fn reported(&mut self, error: ErrorClass) {
        let evidence = Evidence { phase: Phase::After, transport: None, head: None, error: Some(error) };
        self.judge(&evidence);
    }

    fn note(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_judged, true) {
            return;
        }
        self.count(outcome);
        let core = &self.core;
        match self.member.pair.heard(outcome, core.now(), rand::rng().random()) {
            Reaction::None | Reaction::Rest(_) => {}
            Reaction::RestWorker(until) => self.worker.rest(until),
            Reaction::Probe | Reaction::EjectAndProbe => {
                core.fleet.touch();
                probe::begin(core, &self.member, &self.model, self.path);
            }
            Reaction::WorkerDown => {
                core.metrics.worker_up(&self.worker).set(0.0);
                if self.worker.mark_down() {
                    core.fleet.touch();
                }
            }
        }
    }

    /// Counts a try that ended otherwise than this ticket, such as one on a stale connection.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.core.metrics.tries.with_label_values(&[outcome.label(), self.phase.label()]).inc();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let transport = Some(Transport::ClientLeft);
        self.judge(&Evidence { phase: self.phase, transport, head: None, error: None });
        self.member.let_go(self.load);
        self.gauge.dec();
    }
}
