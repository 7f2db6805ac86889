//! The engine thread: the only owner of backend and core. It brings in what is submitted, reads the clock, has the
//! backend compute what the core has planned, and updates the meters.

use super::activity::{Activity, Stage};
use super::attempt::{self, Fault};
use super::core::{Core, Notice};
use super::message::Message;
use super::meters::{Meters, add, observe, set};
use super::options::{EngineOptions, FaultOptions};
use super::reader::Channel;
use super::recorder::StepRecord;
use super::scheduler::Run;
use super::sequence::Submission;
use super::shared::Shared;
use super::state::{End, Request};
use compute::backend::{
    Backend, DEPTH_MAX, Generation, Input, InstallError, Outcome, Part, Prepared, Results, Segment, Step, Want,
};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// Longest wait for work before the next sign of life.
const IDLE: Duration = Duration::from_millis(100);
/// Pause when every sequence waits for its reader.
const PAUSED: Duration = Duration::from_millis(2);
/// Shortest time between two dumps of the flight recorder: the cause of one failure may cause many.
const DUMP_EVERY: Duration = Duration::from_secs(60);

struct Engine<'a> {
    backend: Box<dyn Backend>,
    core: Core<Channel>,
    shared: &'a Shared,
    meters: &'a Meters,
    /// Time in the model in this turn.
    computing: Duration,
    faults: &'a FaultOptions,
    /// Sequences admitted, and sequences preempted, since the last step was launched.
    moved: (usize, usize),
    /// Number of steps launched.
    steps: u64,
    /// The most steps in flight.
    depth: usize,
    /// Those that are, oldest first.
    in_flight: VecDeque<InFlight>,
    /// True if every sequence of a step failed in this turn.
    has_wholly_failed: bool,
    /// When the flight recorder was last dumped.
    dumped_at: Option<Instant>,
    // Memory of a step, empty between two steps.
    segments: Vec<Segment<'static>>,
    runs: Vec<Run>,
    results: Results,
}

/// A step that was launched.
struct InFlight {
    number: u64,
    generation: Generation,
    /// When the turn began that launched it.
    begun: Instant,
    record: StepRecord,
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
        tracing::error!(panic = attempt::message(&*panic), "the engine thread panicked; liveness fails from now on");
        engine.dump("engine-panic");
    }
    engine.core.fail_all("the engine has ended");
    shared.waiting.store(0, Ordering::Release);
    // Submissions sent between the check and here end, too: dropping the inbox closes their channels.
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
            moved: (0, 0),
            steps: 0,
            depth: 1,
            in_flight: VecDeque::with_capacity(DEPTH_MAX),
            has_wholly_failed: false,
            dumped_at: None,
            segments: Vec::new(),
            runs: Vec::new(),
            results: Results::default(),
        };
        engine.depth = engine.backend.limits().depth.clamp(1, DEPTH_MAX);
        engine.backend.report_to(&shared.location);
        engine
    }

    fn work(&mut self, inbox: &Receiver<Message>) {
        while self.receive(inbox) {
            self.turn();
            if self.has_wholly_failed && !self.computes() {
                tracing::error!("the backend computes not even one token any more; the engine ends");
                return;
            }
        }
    }

    /// Receives submissions; waits a moment when there is nothing to do. False if no handle is left.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        self.shared.beat();
        self.shared.set_stage(Stage::Idle);
        if self.core.is_idle() && self.in_flight.is_empty() {
            match inbox.recv_timeout(IDLE) {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(message) => self.handle(message),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !(self.core.is_idle() && self.in_flight.is_empty()),
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit(sequences) => {
                let now = Instant::now();
                sequences.into_iter().for_each(|sequence| self.core.submit(ask(sequence), now));
            }
            Message::Identify(generation, identity) => {
                self.core.identify(generation, identity);
                self.shared.set_identity(self.core.identity());
            }
            Message::Install(weights, reply) => {
                self.shared.set_stage(Stage::Installing);
                let installed = self.install(&weights);
                // The caller may be gone; the weights stay installed.
                let _ = reply.send(installed);
            }
        }
    }

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        let generation = self.backend.install(weights)?;
        self.core.install(generation);
        self.shared.set_identity(None);
        Ok(generation)
    }

    /// One turn: sequences leave and start, a step is launched, and the oldest is collected once as many are in flight as
    /// the backend takes, or nothing can be planned without its results.
    fn turn(&mut self) {
        let begun = Instant::now();
        (self.computing, self.has_wholly_failed) = (Duration::ZERO, false);
        let waiting = self.core.waiting();
        self.core.drop_unwanted(begun);
        self.retire_unused();
        let is_planned = self.core.plan(begun);
        self.count_waiting(waiting);
        // Before the step: a reader of a token finds its sequence counted.
        self.publish();
        let has_launched = is_planned && self.launch(begun);
        let has_collected = (!has_launched || self.is_full()) && self.collect();
        if is_planned || has_collected {
            self.core.retire(Instant::now());
            self.publish();
            self.meters.overhead_s.observe(begun.elapsed().saturating_sub(self.computing).as_secs_f64());
        } else if !self.core.is_idle() {
            std::thread::sleep(PAUSED);
        }
    }

    /// True if no further step can be launched.
    fn is_full(&self) -> bool {
        self.in_flight.len() >= self.depth
    }

    fn retire_unused(&mut self) {
        let backend = &mut self.backend;
        let oldest = self.core.retire_unused(|generation| backend.retire(generation));
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

    /// Launches what was planned: a step for each generation of weights that its sequences use. False: there was nothing
    /// to launch.
    fn launch(&mut self, begun: Instant) -> bool {
        let mut planned = self.core.take_runs();
        self.core.group(&mut planned);
        let mut runs = std::mem::take(&mut self.runs);
        let (admitted, preempted) = self.core.moved();
        self.moved = (self.moved.0 + admitted, self.moved.1 + preempted);
        let mut rest = &planned[..];
        while let Some(first) = rest.first() {
            let generation = self.core.generation_of(first);
            let count = rest.iter().take_while(|run| self.core.generation_of(run) == generation).count();
            let part;
            (part, rest) = rest.split_at(count);
            while self.is_full() {
                self.collect();
            }
            // What was collected since the step was planned may have ended some of them.
            runs.clear();
            runs.extend_from_slice(part);
            self.core.drop_outdated(&mut runs);
            if !runs.is_empty() {
                self.launch_step(generation, &mut runs, begun);
            }
        }
        let has_launched = !planned.is_empty();
        self.core.keep(planned);
        self.runs = runs;
        has_launched
    }

    /// Launches one step. One that cannot be launched is tried again in parts, after those in flight were collected.
    fn launch_step(&mut self, generation: Generation, runs: &mut Vec<Run>, begun: Instant) {
        self.steps += 1;
        let record = self.describe(runs);
        let mut step = InFlight { number: self.steps, generation, begun, record };
        let mut segments: Vec<Segment<'_>> = std::mem::take(&mut self.segments);
        let Self { backend, core, shared, .. } = self;
        segments.extend(runs.iter().map(|run| core.segment(run)));
        shared.set_stage(Stage::Computing);
        let computed = Step { generation, segments: &segments };
        let launched = attempt::launch(&mut **backend, &computed, &mut wanted(shared, core, runs));
        self.segments = emptied(segments);
        match launched {
            Ok(()) => {
                self.core.launch(step.number, runs);
                self.in_flight.push_back(step);
            }
            Err(first) => {
                while self.collect() {}
                // A panic may have left a part of the step behind.
                attempt::abandon(&mut *self.backend);
                self.core.drop_outdated(runs);
                self.compute_apart(&mut step, runs, first);
                self.keep_record(step);
            }
        }
    }

    /// Collects the oldest step in flight and applies its results. False: none is in flight.
    fn collect(&mut self) -> bool {
        let Some(mut step) = self.in_flight.pop_front() else { return false };
        self.shared.set_stage(Stage::Computing);
        match attempt::collect(&mut *self.backend, &mut self.results) {
            Ok(times) => {
                self.computing += times.compute;
                step.record.backend_us = microseconds(times.compute);
                self.meters.step_s.observe(times.compute.as_secs_f64());
                self.shared.leave_the_model();
                self.shared.set_stage(Stage::Answering);
                let failed = self.core.apply(step.number, &mut self.results, Instant::now());
                step.record.failed += narrow(failed);
            }
            Err(first) => {
                // What was launched after it may continue with tokens that it did not choose.
                attempt::abandon(&mut *self.backend);
                while let Some(later) = self.in_flight.pop_front() {
                    self.keep_record(later);
                }
                let runs = self.core.withdraw(step.number);
                self.compute_apart(&mut step, &runs, first);
            }
        }
        self.keep_record(step);
        true
    }

    /// Finds out which sequences are at fault for a step that failed, and computes the others. Nothing is in flight.
    fn compute_apart(&mut self, step: &mut InFlight, runs: &[Run], first: Fault) {
        if first != Fault::Unwanted {
            tracing::error!(fault = ?first, sequences = runs.len(), "a step failed; whose fault it was is looked for");
        }
        let is_panic = matches!(first, Fault::Panic(_));
        let begun = Instant::now();
        let mut segments: Vec<Segment<'_>> = std::mem::take(&mut self.segments);
        let Self { backend, core, shared, .. } = self;
        segments.extend(runs.iter().map(|run| core.segment(run)));
        shared.set_stage(Stage::Retrying);
        let (tries_max, beat) = (self.faults.step_retries_max, || shared.beat());
        let failed = Step { generation: step.generation, segments: &segments };
        let parts = attempt::apart(&mut **backend, &failed, first, tries_max, &mut wanted(shared, core, runs), &beat);
        self.segments = emptied(segments);
        shared.leave_the_model();
        self.computing += begun.elapsed();
        step.record.backend_us = step.record.backend_us.saturating_add(microseconds(begun.elapsed()));
        step.record.retries += narrow(parts.tries);
        self.meters.step_retries.inc_by(parts.tries as u64);
        for (run, outcome) in runs.iter().zip(parts.outcomes) {
            step.record.failed += u32::from(!self.settle(run, outcome));
        }
        if is_panic {
            self.dump("panic");
        }
    }

    /// Applies one sequence's part of a step that failed: it continues, or ends by itself. False: it ended.
    fn settle(&mut self, run: &Run, outcome: Result<Outcome, Fault>) -> bool {
        let fault = match outcome {
            Ok(outcome) => {
                self.core.apply_one(run.index, run.tokens, outcome, Instant::now());
                return true;
            }
            // It is found abandoned or cancelled before the next step.
            Err(Fault::Unwanted) => return true,
            Err(Fault::NotFinite) => {
                self.core.fail_not_finite(run.index);
                return false;
            }
            Err(fault) => fault,
        };
        if let Fault::Weights(why) = &fault {
            self.shared.set_fault(why);
        }
        let segment = self.core.segment(run);
        let (position, tokens) = (segment.start, segment.rows());
        tracing::error!(?fault, position, tokens, "a sequence ends by a failure of its own");
        self.meters.step_fault(fault.kind());
        self.core.fail(run, &fault.message());
        false
    }

    /// Describes a step that is about to be launched, for the recorder and for those who find that it does not end.
    fn describe(&mut self, runs: &[Run]) -> StepRecord {
        let mut record = StepRecord { step: self.steps, began_ms: self.shared.now_ms(), ..StepRecord::default() };
        record.sequences = narrow(runs.len());
        for run in runs {
            let tokens = if self.core.is_decode(run) { &mut record.decode_tokens } else { &mut record.prefill_tokens };
            *tokens += narrow(run.tokens);
        }
        let (admitted, preempted) = std::mem::take(&mut self.moved);
        (record.admitted, record.preempted) = (narrow(admitted), narrow(preempted));
        (record.waiting, record.running) = (narrow(self.core.waiting()), narrow(self.core.running()));
        record.kv_blocks_used = narrow(self.core.blocks_used());
        self.shared.set_activity(Activity {
            stage: Stage::Planning,
            step: record.step,
            sequences: record.sequences,
            prefill_tokens: record.prefill_tokens,
            decode_tokens: record.decode_tokens,
        });
        record
    }

    /// Keeps the record of a step that is over.
    fn keep_record(&mut self, step: InFlight) {
        let mut record = step.record;
        record.took_us = microseconds(step.begun.elapsed());
        self.has_wholly_failed |= record.failed > 0 && record.failed == record.sequences;
        self.meters.step_tokens.observe(f64::from(record.prefill_tokens) + f64::from(record.decode_tokens));
        let kept = self.shared.record(record);
        self.meters.recorder_steps.set(f64::from(narrow(kept)));
    }

    /// Checks that the backend still computes anything: one token, in a block without a holder.
    fn computes(&mut self) -> bool {
        // What failed was not the backend, or there is no room to see: the next step will tell.
        if self.shared.fault().is_some() || !self.in_flight.is_empty() {
            return true;
        }
        let Some(blocks) = self.core.borrow_block() else { return true };
        let segment = Segment { input: Input::Tokens(&[0]), start: 0, blocks: &blocks, want: Want::Nothing };
        let step = Step { generation: self.core.newest(), segments: &[segment] };
        let computed = attempt::compute(&mut *self.backend, &step, &mut |_| false, &mut self.results).map(drop);
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

    /// Updates gauges and counters.
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
            report(notice, self.meters, self.shared);
        }
        if let Some(kept) = self.shared.kv_changes.extend(self.core.changes()) {
            self.meters.kv_events.set(f64::from(narrow(kept)));
        }
        self.meters.in_flight.set(f64::from(narrow(self.in_flight.len())));
    }
}

/// Asks whether anybody still wants the results of `runs`, while the backend waits for a part's weights: a sign of life.
fn wanted<'a>(shared: &'a Shared, core: &'a Core<Channel>, runs: &'a [Run]) -> impl FnMut(Part) -> bool + use<'a> {
    move |part| {
        shared.beat();
        shared.set_waiting_for(part);
        runs.iter().any(|run| core.is_wanted(run))
    }
}

/// The memory of a list whose borrows end: what is collected in place stays where it was.
#[expect(clippy::unnecessary_filter_map, reason = "a filter would keep the lifetime in the type of what it yields")]
fn emptied(segments: Vec<Segment<'_>>) -> Vec<Segment<'static>> {
    segments.into_iter().filter_map(|_| None).collect()
}

fn ask(submission: Submission) -> Request<Channel> {
    let Submission { prompt, params, index, priority, salt, events, cancel } = submission;
    Request { prompt, params, priority, salt, reader: Channel { events, index, cancel } }
}

fn report(notice: Notice, meters: &Meters, shared: &Shared) {
    match notice {
        Notice::Started { waited, prompt, cached } => {
            observe(&meters.queue_s, waited.as_secs_f64());
            meters.prompt_lengths.observe(f64::from(narrow(prompt)));
            meters.prefill_lengths.observe(f64::from(narrow(prompt - cached)));
            add(&meters.prompt_tokens, prompt);
            add(&meters.prompt_computed, prompt - cached);
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
        Notice::NotFinite => {
            tracing::error!("a sequence ends: what was computed of it is no number");
            meters.step_fault(Fault::NotFinite.kind());
            meters.corrupted.inc();
        }
        Notice::Ended(end, life) => {
            let reason = match end {
                End::Finished(reason) => {
                    meters.lived(life);
                    shared.note_pace(life.total);
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
