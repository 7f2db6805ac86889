//! The engine thread: the only owner of backend, blocks and sequences.

use super::blocks::BlockPool;
use super::meters::{Meters, add, observe, set};
use super::scheduler::{Budget, Plan, Run, Running, schedule};
use super::sequence::{Event, FinishReason, Submission};
use super::shared::Shared;
use super::{EngineOptions, Message};
use crate::backend::{Backend, Generation, InstallError, Part, Revision, Segment, StepError, WantLogits};
use crate::sampler::{self, History, Logprobs, Scratch};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// How long to wait for work before showing life again.
const IDLE: Duration = Duration::from_millis(100);
/// How long to rest when every sequence waits for its reader.
const PAUSED: Duration = Duration::from_millis(2);

/// One sequence in the engine.
struct Sequence {
    ask: Submission,
    generated: Vec<u32>,
    blocks: Vec<u32>,
    /// Which weights it is computed with; decided when it is first admitted.
    generation: Option<Generation>,
    /// Tokens whose keys and values are in the blocks.
    computed: usize,
    /// Prompt positions whose log probabilities were reported; a preemption does not repeat them.
    reported: usize,
    queued_at: Instant,
    started_at: Option<Instant>,
    last_token_at: Option<Instant>,
    paused_since: Option<Instant>,
    end: Option<End>,
}

/// Why a sequence leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished(FinishReason),
    Abandoned,
    Failed,
}

impl Sequence {
    fn new(ask: Submission) -> Self {
        Self {
            ask,
            generated: Vec::new(),
            blocks: Vec::new(),
            generation: None,
            computed: 0,
            reported: 0,
            queued_at: Instant::now(),
            started_at: None,
            last_token_at: None,
            paused_since: None,
            end: None,
        }
    }

    fn len(&self) -> usize {
        self.ask.prompt.len() + self.generated.len()
    }

    fn wants_prompt_logprobs(&self) -> bool {
        self.ask.params.prompt_logprobs.is_some() && self.reported + 1 < self.ask.prompt.len()
    }

    fn facts(&self) -> Running {
        Running {
            pending: self.len() - self.computed,
            computed: self.computed,
            blocks: self.blocks.len(),
            all_logits: self.wants_prompt_logprobs(),
            is_paused: self.paused_since.is_some(),
        }
    }

    /// Why it leaves, where its reader wants no more of it.
    fn unwanted(&self) -> Option<End> {
        if self.ask.cancel.is_cancelled() {
            return Some(End::Finished(FinishReason::Stop));
        }
        self.ask.events.is_closed().then_some(End::Abandoned)
    }

    /// A step sends at most two events per sequence of the request.
    fn reader_is_full(&self) -> bool {
        let sender = &self.ask.events;
        sender.capacity() < (sender.max_capacity() / 4).max(2)
    }

    fn send(&mut self, event: Event) {
        // Room was checked before the sequence was scheduled, so this fails where the reader is gone: with all it
        // wanted, or in the middle.
        if self.ask.events.try_send((self.ask.index, event)).is_err() {
            self.end = self.end.or(self.unwanted()).or(Some(End::Abandoned));
        }
    }

    fn fail(&mut self, why: &str) {
        self.send(Event::Failed(why.into()));
        self.end = Some(End::Failed);
    }
}

struct Engine<'a> {
    backend: Box<dyn Backend>,
    options: &'a EngineOptions,
    shared: &'a Shared,
    meters: &'a Meters,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    scratch: Scratch,
    /// The backend's generations of weights, oldest first; at least one.
    generations: Vec<Generation>,
}

/// Runs until every handle is gone. A panic in a step ends the engine, visibly.
pub(super) fn run(
    backend: Box<dyn Backend>,
    options: &EngineOptions,
    inbox: Receiver<Message>,
    shared: &Shared,
    meters: &Meters,
) {
    let pool = BlockPool::new(backend.limits().kv_blocks);
    let mut engine = Engine {
        backend,
        options,
        shared,
        meters,
        pool,
        waiting: VecDeque::new(),
        running: Vec::new(),
        scratch: Scratch::default(),
        generations: vec![Generation::default()],
    };
    let ended = catch_unwind(AssertUnwindSafe(|| engine.work(&inbox)));
    shared.is_dead.store(true, Ordering::Release);
    if ended.is_err() {
        tracing::error!("the engine thread panicked; liveness fails from now on");
    }
    engine.fail_all("the engine has ended");
    // Whoever sent between the check and here is told too: dropping the inbox closes their channels.
    drop(inbox);
    engine.publish();
}

impl Engine<'_> {
    fn work(&mut self, inbox: &Receiver<Message>) {
        loop {
            self.shared.beat();
            if !self.receive(inbox) {
                return;
            }
            self.drop_abandoned();
            self.let_go();
            let plan = self.plan();
            if plan.runs.is_empty() && plan.preempted.is_empty() {
                if !(self.running.is_empty() && self.waiting.is_empty()) {
                    std::thread::sleep(PAUSED);
                }
            } else {
                self.apply(&plan);
                // Before the step, so that who reads a token finds its sequence counted.
                self.publish();
                self.step(&plan.runs);
                self.retire();
            }
            self.publish();
        }
    }

    /// Takes what was submitted; waits a moment when there is nothing to do. False: no handle is left.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
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
                Err(TryRecvError::Disconnected) => return !(self.running.is_empty() && self.waiting.is_empty()),
            }
        }
    }

    fn heed(&mut self, message: Message) {
        match message {
            Message::Submit(sequences) => self.waiting.extend(sequences.into_iter().map(Sequence::new)),
            Message::Install(revision, reply) => {
                let installed = self.install(revision);
                // Who asked may be gone; what was installed stays.
                let _ = reply.send(installed);
            }
        }
    }

    fn install(&mut self, revision: Revision) -> Result<Generation, InstallError> {
        let generation = self.backend.install(revision)?;
        self.generations.push(generation);
        Ok(generation)
    }

    fn newest(&self) -> Generation {
        self.generations.last().copied().unwrap_or_default()
    }

    /// Lets go of the generations that no sequence uses any more.
    fn let_go(&mut self) {
        if self.generations.len() == 1 {
            return;
        }
        let newest = self.newest();
        let sequences = || self.running.iter().chain(&self.waiting);
        let (kept, unused): (Vec<_>, Vec<_>) = self.generations.iter().partition(|generation| {
            **generation == newest || sequences().any(|sequence| sequence.generation == Some(**generation))
        });
        unused.into_iter().for_each(|generation| self.backend.retire(generation));
        self.generations = kept;
        self.shared.set_oldest(self.generations.first().copied().unwrap_or(newest));
    }

    /// Ends the sequences whose reader is gone or has enough, and those whose reader has not moved for too long.
    fn drop_abandoned(&mut self) {
        let now = Instant::now();
        for sequence in &mut self.running {
            if let Some(end) = sequence.unwanted() {
                sequence.end = Some(end);
            } else if !sequence.reader_is_full() {
                sequence.paused_since = None;
            } else if now.duration_since(*sequence.paused_since.get_or_insert(now)) > self.options.reader_stall {
                sequence.end = Some(End::Abandoned);
            }
        }
        self.retire();
        for index in (0..self.waiting.len()).rev() {
            let Some(end) = self.waiting[index].unwanted() else { continue };
            if let Some(sequence) = self.waiting.remove(index) {
                self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                self.count(&sequence, end);
            }
        }
    }

    /// Sequences that wait for their reader. They keep their blocks while nobody needs them, and no seat: who does
    /// not read must not keep others from being served.
    fn paused(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.paused_since.is_some()).count()
    }

    fn plan(&self) -> Plan {
        let limits = self.backend.limits();
        let budget = Budget {
            rows: limits.max_rows,
            logits_rows: limits.max_logits_rows,
            free_blocks: self.pool.free(),
            total_blocks: limits.kv_blocks,
            block_tokens: limits.kv_block_tokens,
            seats: self.options.max_num_seqs.saturating_sub(self.running.len() - self.paused()),
        };
        let running: Vec<Running> = self.running.iter().map(Sequence::facts).collect();
        let waiting: Vec<Running> = self.waiting.iter().take(budget.seats).map(Sequence::facts).collect();
        schedule(&running, &waiting, budget)
    }

    fn apply(&mut self, plan: &Plan) {
        for &index in &plan.preempted {
            let mut sequence = self.running.remove(index);
            self.pool.give_back(&mut sequence.blocks);
            sequence.computed = 0;
            add(&self.meters.preemptions, 1);
            self.shared.waiting.fetch_add(1, Ordering::AcqRel);
            self.waiting.push_front(sequence);
        }
        let (now, newest) = (Instant::now(), self.newest());
        for _ in 0..plan.admitted {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            if sequence.started_at.is_none() {
                self.meters.queue_s.observe(now.duration_since(sequence.queued_at).as_secs_f64());
                add(&self.meters.prompt_tokens, sequence.ask.prompt.len());
                sequence.started_at = Some(now);
                sequence.generation = Some(newest);
            }
            self.running.push(sequence);
        }
        for run in &plan.runs {
            self.pool.take(run.new_blocks, &mut self.running[run.index].blocks);
        }
    }

    /// One step: a part of it for each generation of weights that its sequences use.
    fn step(&mut self, runs: &[Run]) {
        let generation_of = |run: &Run| self.running[run.index].generation;
        if let [only] = self.generations[..] {
            return self.step_of(only, runs);
        }
        let parts: Vec<(Generation, Vec<Run>)> = self
            .generations
            .iter()
            .map(|&generation| {
                (generation, runs.iter().copied().filter(|run| generation_of(run) == Some(generation)).collect())
            })
            .collect();
        for (generation, runs) in parts.iter().filter(|(_, runs): &&(_, Vec<Run>)| !runs.is_empty()) {
            self.step_of(*generation, runs);
        }
    }

    fn step_of(&mut self, generation: Generation, runs: &[Run]) {
        let begun = Instant::now();
        let chunks: Vec<Vec<u32>> = runs.iter().map(|run| pending(&self.running[run.index], run.tokens)).collect();
        let wants: Vec<WantLogits> = runs.iter().map(|run| want(&self.running[run.index], run.tokens)).collect();
        let segments: Vec<Segment<'_>> = runs
            .iter()
            .zip(&chunks)
            .zip(&wants)
            .map(|((run, tokens), &want)| {
                let sequence = &self.running[run.index];
                Segment { tokens, start: sequence.computed, blocks: &sequence.blocks, want }
            })
            .collect();
        let vocabulary = self.backend.limits().vocab_size;
        let (shared, running) = (self.shared, &self.running);
        let mut goes_on = |part: Part| {
            shared.beat();
            shared.set_waiting_for(Some(part));
            runs.iter().any(|run| running[run.index].unwanted().is_none())
        };
        let computed = self.backend.step_of(generation, &segments, &mut goes_on);
        shared.set_waiting_for(None);
        match computed {
            Ok(logits) => {
                self.meters.step_s.observe(begun.elapsed().as_secs_f64());
                let mut rows = logits.chunks_exact(vocabulary);
                for (run, &want) in runs.iter().zip(&wants) {
                    let count = match want {
                        WantLogits::None => 0,
                        WantLogits::Last => 1,
                        WantLogits::All => run.tokens,
                    };
                    let own: Vec<&[f32]> = rows.by_ref().take(count).collect();
                    let sequence = &mut self.running[run.index];
                    advance(sequence, run.tokens, &own, self.options.max_model_len, self.meters, &mut self.scratch);
                }
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
        runs.iter().for_each(|run| self.running[run.index].fail(&why));
    }

    /// Takes ended sequences out and their blocks back.
    fn retire(&mut self) {
        for index in (0..self.running.len()).rev() {
            let Some(end) = self.running[index].end else { continue };
            let mut sequence = self.running.remove(index);
            self.pool.give_back(&mut sequence.blocks);
            self.count(&sequence, end);
            // A running mean over about eight sequences.
            let pace = u64::try_from(sequence.queued_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            let old = self.shared.sequence_ms.load(Ordering::Relaxed);
            self.shared.sequence_ms.store(old - old / 8 + pace / 8, Ordering::Relaxed);
        }
    }

    fn count(&self, sequence: &Sequence, end: End) {
        match end {
            End::Finished(reason) => {
                observe(&self.meters.e2e_s, sequence.queued_at.elapsed().as_secs_f64());
                self.meters.finished(reason.as_str());
            }
            End::Abandoned => self.meters.finished("abort"),
            End::Failed => self.meters.finished("error"),
        }
    }

    fn fail_all(&mut self, why: &str) {
        let mut sequences: Vec<Sequence> = self.running.drain(..).chain(self.waiting.drain(..)).collect();
        sequences.iter_mut().for_each(|sequence| sequence.fail(why));
        self.shared.waiting.store(0, Ordering::Release);
    }

    fn publish(&self) {
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let running = narrow(self.running.len());
        let used = narrow(self.pool.used());
        self.shared.running.store(running, Ordering::Relaxed);
        self.shared.blocks_used.store(used, Ordering::Relaxed);
        set(&self.meters.running, f64::from(running));
        set(&self.meters.waiting, f64::from(self.shared.waiting.load(Ordering::Relaxed)));
        let total = narrow(self.backend.limits().kv_blocks).max(1);
        set(&self.meters.kv_usage, f64::from(used) / f64::from(total));
    }
}

/// The next `count` tokens whose keys and values are missing.
fn pending(sequence: &Sequence, count: usize) -> Vec<u32> {
    let all = sequence.ask.prompt.iter().chain(&sequence.generated);
    all.skip(sequence.computed).take(count).copied().collect()
}

fn want(sequence: &Sequence, tokens: usize) -> WantLogits {
    if sequence.wants_prompt_logprobs() {
        WantLogits::All
    } else if sequence.computed + tokens == sequence.len() {
        WantLogits::Last
    } else {
        WantLogits::None
    }
}

/// Takes in one sequence's part of a step: reports on the prompt, samples, decides on the end.
fn advance(
    sequence: &mut Sequence,
    tokens: usize,
    logits: &[&[f32]],
    max_model_len: usize,
    meters: &Meters,
    scratch: &mut Scratch,
) {
    let first = sequence.computed;
    sequence.computed += tokens;
    if let Some(top) = sequence.ask.params.prompt_logprobs.filter(|_| sequence.wants_prompt_logprobs()) {
        report_prompt(sequence, first, logits, top, scratch);
    }
    let (Some(row), true) = (logits.last(), sequence.computed == sequence.len()) else { return };
    if sequence.ask.params.max_tokens == 0 {
        sequence.send(Event::PromptDone);
        sequence.end = sequence.end.or(Some(End::Finished(FinishReason::Length)));
        return;
    }
    let (id, logprobs) = choose(sequence, row, scratch);
    let now = Instant::now();
    match sequence.last_token_at.replace(now) {
        None => observe(&meters.ttft_s, now.duration_since(sequence.queued_at).as_secs_f64()),
        Some(last) => observe(&meters.itl_s, now.duration_since(last).as_secs_f64()),
    }
    add(&meters.generation_tokens, 1);
    sequence.generated.push(id);
    let finish = finish(sequence, id, max_model_len);
    sequence.send(Event::Token { id, logprobs, finish });
    sequence.end = sequence.end.or(finish.map(End::Finished));
}

/// Logits at position p say how likely token p + 1 was.
fn report_prompt(sequence: &mut Sequence, first: usize, logits: &[&[f32]], top: usize, scratch: &mut Scratch) {
    let prompt = &sequence.ask.prompt;
    let entries: Vec<Logprobs> = logits
        .iter()
        .zip(first + 1..prompt.len())
        // Computed again after a preemption: what was reported is not repeated.
        .filter(|(_, position)| *position > sequence.reported)
        .map(|(row, position)| sampler::logprobs(row, prompt[position], top, scratch))
        .collect();
    sequence.reported += entries.len();
    if !entries.is_empty() {
        sequence.send(Event::PromptLogprobs(entries));
    }
}

fn choose(sequence: &Sequence, row: &[f32], scratch: &mut Scratch) -> (u32, Option<Logprobs>) {
    let params = &sequence.ask.params;
    let is_early = sequence.generated.len() < params.min_tokens;
    let history = History {
        prompt: &sequence.ask.prompt,
        generated: &sequence.generated,
        banned: if is_early { &params.stop_ids } else { &[] },
    };
    let id = sampler::sample(row, &params.sampling, history, scratch);
    let logprobs = params.sampling.logprobs.map(|top| sampler::logprobs(row, id, top, scratch));
    (id, logprobs)
}

fn finish(sequence: &Sequence, id: u32, max_model_len: usize) -> Option<FinishReason> {
    let params = &sequence.ask.params;
    if params.stop_ids.contains(&id) && sequence.generated.len() > params.min_tokens {
        return Some(FinishReason::Stop);
    }
    let is_full = sequence.generated.len() >= params.max_tokens || sequence.len() >= max_model_len;
    is_full.then_some(FinishReason::Length)
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
