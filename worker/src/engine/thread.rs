//! The engine thread: the only owner of backend and core. It brings in what is submitted, reads the clock, computes
//! what the core has planned, and tells the meters.

use super::core::{Core, Notice};
use super::meters::{Meters, add, observe, set};
use super::reader::Channel;
use super::scheduler::Run;
use super::sequence::Submission;
use super::shared::Shared;
use super::state::{Ask, End};
use super::{EngineOptions, Message};
use crate::backend::{Backend, Generation, InstallError, Part, Revision, Segment, StepError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// How long to wait for work before showing life again.
const IDLE: Duration = Duration::from_millis(100);
/// How long to rest when every sequence waits for its reader.
const PAUSED: Duration = Duration::from_millis(2);

struct Engine<'a> {
    backend: Box<dyn Backend>,
    core: Core<Channel>,
    shared: &'a Shared,
    meters: &'a Meters,
    /// How long the backend computed in this turn.
    computing: Duration,
}

/// Runs until every handle is gone. A panic in a step ends the engine, visibly.
pub(super) fn run(
    backend: Box<dyn Backend>,
    options: &EngineOptions,
    inbox: Receiver<Message>,
    shared: &Shared,
    meters: &Meters,
) {
    let core = Core::new(options.clone(), backend.limits().clone(), Instant::now());
    let mut engine = Engine { backend, core, shared, meters, computing: Duration::ZERO };
    let ended = catch_unwind(AssertUnwindSafe(|| engine.work(&inbox)));
    shared.is_dead.store(true, Ordering::Release);
    if ended.is_err() {
        tracing::error!("the engine thread panicked; liveness fails from now on");
    }
    engine.core.fail_all("the engine has ended");
    shared.waiting.store(0, Ordering::Release);
    // Whoever sent between the check and here is told too: dropping the inbox closes their channels.
    drop(inbox);
    engine.publish();
}

impl Engine<'_> {
    fn work(&mut self, inbox: &Receiver<Message>) {
        while self.receive(inbox) {
            self.turn();
        }
    }

    /// Takes what was submitted; waits a moment when there is nothing to do. False: no handle is left.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        self.shared.beat();
        if self.core.is_idle() {
            match inbox.recv_timeout(IDLE) {
                Ok(message) => self.heed(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(message) => self.heed(message),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.core.is_idle(),
            }
        }
    }

    fn heed(&mut self, message: Message) {
        match message {
            Message::Submit(sequences) => {
                let now = Instant::now();
                sequences.into_iter().for_each(|sequence| self.core.submit(ask(sequence), now));
            }
            Message::Install(revision, reply) => {
                let installed = self.install(revision);
                // Who asked may be gone; what was installed stays.
                let _ = reply.send(installed);
            }
        }
    }

    fn install(&mut self, revision: Revision) -> Result<Generation, InstallError> {
        let generation = self.backend.install(revision)?;
        self.core.install(generation);
        Ok(generation)
    }

    /// One turn: who leaves, what is computed, what came of it.
    fn turn(&mut self) {
        let begun = Instant::now();
        self.computing = Duration::ZERO;
        let waiting = self.core.waiting();
        self.core.drop_unwanted(begun);
        self.let_go();
        let is_step = self.core.plan(begun);
        self.count_waiting(waiting);
        // Before the step, so that who reads a token finds its sequence counted.
        self.publish();
        if is_step {
            self.step();
            self.core.retire(Instant::now());
            self.publish();
            self.meters.overhead_s.observe(begun.elapsed().saturating_sub(self.computing).as_secs_f64());
        } else if !self.core.is_idle() {
            std::thread::sleep(PAUSED);
        }
    }

    fn let_go(&mut self) {
        let backend = &mut self.backend;
        let oldest = self.core.let_go(|generation| backend.retire(generation));
        self.shared.set_oldest(oldest);
    }

    /// Handles add to `waiting` when they submit; what the core did to its queue since it had `before` is added here.
    fn count_waiting(&self, before: usize) {
        let now = self.core.waiting();
        if now >= before {
            self.shared.waiting.fetch_add(narrow(now - before), Ordering::AcqRel);
        } else {
            self.shared.waiting.fetch_sub(narrow(before - now), Ordering::AcqRel);
        }
    }

    /// One step: a part of it for each generation of weights that its sequences use.
    fn step(&mut self) {
        let mut runs = self.core.take_runs();
        self.core.group(&mut runs);
        let mut rest = &runs[..];
        while let Some(first) = rest.first() {
            let generation = self.core.generation_of(first);
            let count = rest.iter().take_while(|run| self.core.generation_of(run) == generation).count();
            let (part, others) = rest.split_at(count);
            self.step_of(generation, part);
            rest = others;
        }
        self.core.keep(runs);
    }

    fn step_of(&mut self, generation: Generation, runs: &[Run]) {
        let Self { backend, core, shared, .. } = self;
        let segments: Vec<Segment<'_>> = runs.iter().map(|run| core.segment(run)).collect();
        let mut goes_on = |part: Part| {
            shared.beat();
            shared.set_waiting_for(Some(part));
            runs.iter().any(|run| core.is_wanted(run))
        };
        let begun = Instant::now();
        let computed = backend.step_of(generation, &segments, &mut goes_on);
        let now = Instant::now();
        drop(segments);
        shared.set_waiting_for(None);
        self.computing += now.duration_since(begun);
        match computed {
            Ok(logits) => {
                self.meters.step_s.observe(now.duration_since(begun).as_secs_f64());
                core.take_in(runs, logits, now);
            }
            Err(error) => self.end_all(runs, &error),
        }
    }

    /// Ends the sequences of a step that failed.
    fn end_all(&mut self, runs: &[Run], error: &StepError) {
        if matches!(error, StepError::Unwanted { .. }) {
            // Every one of them is found abandoned or cancelled before the next step.
            return;
        }
        let why = describe(error);
        if matches!(error, StepError::Weights { .. }) {
            self.shared.set_fault(&why);
        }
        tracing::error!(%why, sequences = runs.len(), "a step failed; its sequences end");
        self.core.fail(runs, &why);
    }

    /// Tells gauges and counters how things are and what has happened.
    fn publish(&mut self) {
        let running = narrow(self.core.running());
        let used = narrow(self.core.blocks_used());
        self.shared.running.store(running, Ordering::Relaxed);
        self.shared.blocks_used.store(used, Ordering::Relaxed);
        set(&self.meters.running, f64::from(running));
        set(&self.meters.waiting, f64::from(self.shared.waiting.load(Ordering::Relaxed)));
        let total = narrow(self.backend.limits().kv_blocks).max(1);
        set(&self.meters.kv_usage, f64::from(used) / f64::from(total));
        self.meters.cached_blocks.set(f64::from(narrow(self.core.blocks_cached())));
        self.core.notices().for_each(|notice| tell(notice, self.meters, self.shared));
        self.shared.kv_changes.extend(self.core.changes());
    }
}

fn ask(submission: Submission) -> Ask<Channel> {
    let Submission { prompt, params, index, priority, salt, events, cancel } = submission;
    Ask { prompt, params, priority, salt, reader: Channel { events, index, cancel } }
}

fn tell(notice: Notice, meters: &Meters, shared: &Shared) {
    match notice {
        Notice::Started { waited, prompt, cached } => {
            meters.queue_s.observe(waited.as_secs_f64());
            add(&meters.prompt_tokens, prompt);
            add(&meters.prefix_queries, prompt);
            add(&meters.prefix_hits, cached);
        }
        Notice::Preempted => add(&meters.preemptions, 1),
        Notice::First(after) => {
            observe(&meters.ttft_s, after.as_secs_f64());
            add(&meters.generation_tokens, 1);
        }
        Notice::Next(after) => {
            observe(&meters.itl_s, after.as_secs_f64());
            add(&meters.generation_tokens, 1);
        }
        Notice::Ended(end, took) => {
            let reason = match end {
                End::Finished(reason) => {
                    observe(&meters.e2e_s, took.as_secs_f64());
                    shared.note_pace(took);
                    reason.as_str()
                }
                End::Abandoned => "abort",
                End::Failed => "error",
            };
            meters.finished(reason);
        }
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn describe(error: &StepError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
