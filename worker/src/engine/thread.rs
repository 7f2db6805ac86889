//! The engine thread: the only owner of backend and core. It brings in what is submitted, reads the clock, computes
//! what the core has planned, and tells the meters.

use super::attempt::{self, Fault};
use super::core::{Core, Notice};
use super::doing::{Activity, Doing};
use super::meters::{Meters, add, observe, set};
use super::reader::Channel;
use super::recorder::StepRecord;
use super::scheduler::Run;
use super::sequence::Submission;
use super::shared::Shared;
use super::state::{Ask, End};
use super::{EngineOptions, FaultOptions, Message};
use compute::backend::{Backend, Generation, InstallError, Part, Revision, Segment, WantLogits};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// How long to wait for work before showing life again.
const IDLE: Duration = Duration::from_millis(100);
/// How long to rest when every sequence waits for its reader.
const PAUSED: Duration = Duration::from_millis(2);
/// How often the flight recorder is dumped at most: what makes one step fail may make many.
const DUMP_EVERY: Duration = Duration::from_secs(60);

struct Engine<'a> {
    backend: Box<dyn Backend>,
    core: Core<Channel>,
    shared: &'a Shared,
    meters: &'a Meters,
    /// How long the backend computed in this turn.
    computing: Duration,
    faults: &'a FaultOptions,
    /// The step under way, or the last one.
    record: StepRecord,
    /// When the flight recorder was last dumped.
    dumped_at: Option<Instant>,
    /// Memory for a step's segments; empty between two steps.
    segments: Vec<Segment<'static>>,
}

/// Runs until every handle is gone. A panic in a step ends the sequence at fault; one anywhere else, or a backend that
/// computes nothing any more, ends the engine, visibly.
pub(super) fn run(
    backend: Box<dyn Backend>,
    options: &EngineOptions,
    inbox: Receiver<Message>,
    shared: &Shared,
    meters: &Meters,
) {
    let mut engine = Engine::new(backend, options, shared, meters);
    let ended = catch_unwind(AssertUnwindSafe(|| engine.work(&inbox)));
    shared.is_dead.store(true, Ordering::Release);
    if let Err(panic) = ended {
        tracing::error!(panic = attempt::said(&*panic), "the engine thread panicked; liveness fails from now on");
        engine.dump("engine-panic");
    }
    engine.core.fail_all("the engine has ended");
    shared.waiting.store(0, Ordering::Release);
    // Whoever sent between the check and here is told too: dropping the inbox closes their channels.
    drop(inbox);
    engine.publish();
}

impl<'a> Engine<'a> {
    fn new(backend: Box<dyn Backend>, options: &'a EngineOptions, shared: &'a Shared, meters: &'a Meters) -> Self {
        let mut engine = Self {
            core: Core::new(options.clone(), backend.limits().clone(), Instant::now()),
            backend,
            shared,
            meters,
            computing: Duration::ZERO,
            faults: &options.faults,
            record: StepRecord::default(),
            dumped_at: None,
            segments: Vec::new(),
        };
        engine.backend.report_to(&shared.whereabouts);
        engine
    }

    fn work(&mut self, inbox: &Receiver<Message>) {
        while self.receive(inbox) {
            self.turn();
            if self.has_wholly_failed() && !self.computes() {
                tracing::error!("the backend computes not even one token any more; the engine ends");
                return;
            }
        }
    }

    /// Takes what was submitted; waits a moment when there is nothing to do. False: no handle is left.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        self.shared.beat();
        self.shared.go_on_with(Activity::Idle);
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
                self.shared.go_on_with(Activity::Installing);
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
        self.record = StepRecord { step: self.record.step, began_ms: self.shared.now_ms(), ..StepRecord::default() };
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
            self.keep_record(begun);
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
        self.note(&runs);
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
        let mut segments: Vec<Segment<'_>> = std::mem::take(&mut self.segments);
        let Self { backend, core, shared, .. } = self;
        segments.extend(runs.iter().map(|run| core.segment(run)));
        let mut goes_on = |part: Part| {
            shared.beat();
            shared.set_waiting_for(part);
            runs.iter().any(|run| core.is_wanted(run))
        };
        shared.go_on_with(Activity::Computing);
        let begun = Instant::now();
        let computed = attempt::guarded(&mut **backend, generation, &segments, &mut goes_on);
        let now = Instant::now();
        self.computing += now.duration_since(begun);
        match computed {
            Ok(logits) => {
                self.segments = emptied(segments);
                shared.leave_the_model();
                shared.go_on_with(Activity::Sampling);
                self.meters.step_s.observe(now.duration_since(begun).as_secs_f64());
                core.take_in(runs, logits, now);
            }
            Err(first) => {
                let is_panic = matches!(first, Fault::Panic(_));
                tracing::error!(fault = ?first, sequences = runs.len(), "a step failed; whose fault it was is looked for");
                shared.go_on_with(Activity::Retrying);
                let (tries_max, beat) = (self.faults.step_retries_max, || shared.beat());
                let parts =
                    attempt::apart(&mut **backend, generation, &segments, first, tries_max, &mut goes_on, &beat);
                self.segments = emptied(segments);
                shared.leave_the_model();
                self.computing += now.elapsed();
                self.record.retries += narrow(parts.tries);
                self.meters.step_retries.inc_by(parts.tries as u64);
                for (run, outcome) in runs.iter().zip(parts.outcomes) {
                    self.take_apart(run, outcome);
                }
                if is_panic {
                    self.dump("panic");
                }
            }
        }
    }

    /// Takes in one sequence's part of a step that failed: it goes on or ends by itself.
    fn take_apart(&mut self, run: &Run, outcome: Result<Vec<f32>, Fault>) {
        let own = std::slice::from_ref(run);
        let fault = match outcome {
            Ok(logits) => return self.core.take_in(own, &logits, Instant::now()),
            // It is found abandoned or cancelled before the next step.
            Err(Fault::Unwanted) => return,
            Err(fault) => fault,
        };
        if let Fault::Weights(why) = &fault {
            self.shared.set_fault(why);
        }
        let Segment { tokens, start, .. } = self.core.segment(run);
        tracing::error!(?fault, position = start, tokens = tokens.len(), "a sequence ends by a failure of its own");
        self.meters.step_fault(fault.kind());
        self.record.failed += 1;
        self.core.fail(own, &fault.told());
    }

    /// Says what is about to be computed.
    fn note(&mut self, runs: &[Run]) {
        let record = &mut self.record;
        record.step += 1;
        record.sequences = narrow(runs.len());
        for run in runs {
            let tokens = if self.core.is_decode(run) { &mut record.decode_tokens } else { &mut record.prefill_tokens };
            *tokens += narrow(run.tokens);
        }
        let (admitted, preempted) = self.core.moved();
        (record.admitted, record.preempted) = (narrow(admitted), narrow(preempted));
        (record.waiting, record.running) = (narrow(self.core.waiting()), narrow(self.core.running()));
        record.kv_blocks_used = narrow(self.core.blocks_used());
        self.shared.turn_to(Doing {
            activity: Activity::Planning,
            step: record.step,
            sequences: record.sequences,
            prefill_tokens: record.prefill_tokens,
            decode_tokens: record.decode_tokens,
        });
    }

    fn keep_record(&mut self, begun: Instant) {
        self.record.backend_us = microseconds(self.computing);
        self.record.took_us = microseconds(begun.elapsed());
        let kept = self.shared.record(self.record);
        self.meters.recorder_steps.set(f64::from(narrow(kept)));
    }

    /// Whether every sequence of the last turn's step ended by a failure.
    fn has_wholly_failed(&self) -> bool {
        self.record.failed > 0 && self.record.failed == self.record.sequences
    }

    /// Whether the backend still computes anything: one token, in a block that nobody holds.
    fn computes(&mut self) -> bool {
        // What failed was not the backend, or there is no room to see: the next step will tell.
        if self.shared.fault().is_some() {
            return true;
        }
        let Some(blocks) = self.core.borrow_block() else { return true };
        let segment = Segment { tokens: &[0], start: 0, blocks: &blocks, want: WantLogits::None };
        let newest = self.core.newest();
        let computed = attempt::guarded(&mut *self.backend, newest, &[segment], &mut |_| false).map(drop);
        self.core.give_back(blocks);
        matches!(computed, Ok(()) | Err(Fault::Unwanted | Fault::Weights(_)))
    }

    /// Dumps the flight recorder, unless that was done a moment ago.
    fn dump(&mut self, cause: &str) {
        let now = Instant::now();
        if self.dumped_at.is_none_or(|last| now.duration_since(last) >= DUMP_EVERY) {
            self.dumped_at = Some(now);
            self.shared.flight(usize::MAX).dump(cause, self.faults.recorder_dir.as_deref());
        }
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
        for notice in self.core.notices() {
            self.record.failed += u32::from(notice == Notice::NoNumbers);
            tell(notice, self.meters, self.shared);
        }
        self.shared.kv_changes.extend(self.core.changes());
    }
}

/// The memory of a list whose borrows end: what is collected in place stays where it was.
#[expect(clippy::unnecessary_filter_map, reason = "a filter would keep the lifetime in the type of what it yields")]
fn emptied(segments: Vec<Segment<'_>>) -> Vec<Segment<'static>> {
    segments.into_iter().filter_map(|_| None).collect()
}

fn ask(submission: Submission) -> Ask<Channel> {
    let Submission { prompt, params, index, priority, salt, events, cancel } = submission;
    Ask { prompt, params, priority, salt, reader: Channel { events, index, cancel } }
}

fn tell(notice: Notice, meters: &Meters, shared: &Shared) {
    match notice {
        Notice::Started { waited, prompt, cached } => {
            observe(&meters.queue_s, waited.as_secs_f64());
            meters.prompt_lengths.observe(f64::from(narrow(prompt)));
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
        Notice::NoNumbers => {
            tracing::error!("a sequence ends: its logits are no numbers");
            meters.step_fault(Fault::Logits.kind());
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

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
