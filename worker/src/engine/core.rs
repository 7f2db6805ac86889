//! The engine's core: who waits, who runs, who has which block, and what the next step computes. No clock, no thread,
//! no channel, no device: time is an argument, readers are a trait, logits are given. The thread around it (`thread`)
//! and the simulation (`core/tests`) drive it alike: plan → compute → take in → retire.

use super::EngineOptions;
use super::admission::Prospects;
use super::attempt::{Fault, are_numbers};
use super::blocks::{BlockPool, KvChange};
use super::capacity::Capacity;
use super::order::Order;
use super::prefix::BlockName;
use super::reader::Reader;
use super::scheduler::{Budget, Plan, Run, Running, schedule};
use super::sequence::Event;
use super::state::{Ask, End, Sequence};
use compute::backend::{Generation, Limits, Segment, WantLogits};
use compute::sampler::Scratch;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// What happened, for who counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Notice {
    /// A sequence runs for the first time: how long it waited, the tokens of its prompt, and how many of them were
    /// found in the cache.
    Started { waited: Duration, prompt: usize, cached: usize },
    /// Its blocks were taken; it is computed again.
    Preempted,
    /// Its first token, this long after its submission.
    First(Duration),
    /// Another token, this long after the one before.
    Next(Duration),
    /// It left, this long after its submission.
    Ended(End, Duration),
    /// Its logits were no numbers; it leaves.
    NoNumbers,
}

/// All sequences of one model.
#[derive(Debug)]
pub(super) struct Core<R> {
    options: EngineOptions,
    limits: Limits,
    capacity: Capacity,
    begun: Instant,
    arrivals: u64,
    /// In their order.
    waiting: VecDeque<Sequence<R>>,
    running: Vec<Sequence<R>>,
    pool: BlockPool,
    /// The backend's generations of weights, oldest first; at least one.
    generations: Vec<Generation>,
    // What a step needs, kept from step to step.
    plan: Plan,
    facts: Vec<Running>,
    leaders: Vec<BlockName>,
    scratch: Scratch,
    notices: Vec<Notice>,
}

impl<R: Reader> Core<R> {
    pub(super) fn new(options: EngineOptions, limits: Limits, now: Instant) -> Self {
        Self {
            pool: BlockPool::new(limits.kv_blocks),
            capacity: Capacity::of(&limits, &options),
            options,
            limits,
            begun: now,
            arrivals: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            generations: vec![Generation::default()],
            plan: Plan::default(),
            facts: Vec::new(),
            leaders: Vec::new(),
            scratch: Scratch::default(),
            notices: Vec::new(),
        }
    }

    /// Takes a sequence in, to wait for its turn.
    pub(super) fn submit(&mut self, ask: Ask<R>, now: Instant) {
        let since_begin = now.saturating_duration_since(self.begun);
        let order = Order::new(since_begin, self.arrivals, ask.priority, self.options.priority_level);
        self.arrivals += 1;
        self.enqueue(Sequence::new(ask, order, now));
    }

    fn enqueue(&mut self, sequence: Sequence<R>) {
        let at = self.waiting.partition_point(|other| other.order < sequence.order);
        self.waiting.insert(at, sequence);
    }

    /// Uses other weights for the sequences admitted from now on.
    pub(super) fn install(&mut self, generation: Generation) {
        self.generations.push(generation);
    }

    pub(super) fn newest(&self) -> Generation {
        self.generations.last().copied().unwrap_or_default()
    }

    /// Lets go of the generations that no sequence uses any more; the oldest that is left.
    pub(super) fn let_go(&mut self, mut retire: impl FnMut(Generation)) -> Generation {
        let newest = self.newest();
        let Self { generations, running, waiting, .. } = self;
        if generations.len() > 1 {
            generations.retain(|generation| {
                let is_used = |sequence: &Sequence<R>| sequence.generation == Some(*generation);
                let is_kept = *generation == newest || running.iter().any(is_used) || waiting.iter().any(is_used);
                if !is_kept {
                    retire(*generation);
                }
                is_kept
            });
        }
        self.generations.first().copied().unwrap_or(newest)
    }

    /// Ends the sequences whose reader is gone or has enough, and those whose reader has not moved for too long.
    pub(super) fn drop_unwanted(&mut self, now: Instant) {
        for sequence in &mut self.running {
            if let Some(end) = sequence.unwanted() {
                sequence.end = Some(end);
            } else if sequence.reader.reading() == super::reader::Reading::Ready {
                sequence.paused_since = None;
            } else if now.duration_since(*sequence.paused_since.get_or_insert(now)) > self.options.reader_stall {
                sequence.end = Some(End::Abandoned);
            }
        }
        self.retire(now);
        let notices = &mut self.notices;
        self.waiting.retain(|sequence| {
            let end = sequence.unwanted();
            notices.extend(end.map(|end| Notice::Ended(end, now.duration_since(sequence.queued_at))));
            end.is_none()
        });
    }

    /// Decides on the next step and moves sequences and blocks accordingly. False: there is nothing to compute and
    /// nobody was moved.
    pub(super) fn plan(&mut self, now: Instant) -> bool {
        if !self.running.is_sorted_by_key(|sequence| sequence.order) {
            self.running.sort_by_key(|sequence| sequence.order);
        }
        self.facts.clear();
        self.facts.extend(self.running.iter().map(Sequence::facts));
        let budget = self.budget();
        let newest = self.newest();
        let Self { running, waiting, pool, plan, facts, leaders, options, limits, .. } = self;
        let caches = options.enable_prefix_caching.then_some(limits.kv_block_tokens);
        let prospects = Prospects::new(running, waiting, pool, newest, caches, budget.seats, leaders);
        schedule(facts, prospects, freed_by(running, pool), budget, plan);
        let is_something = !(plan.runs.is_empty() && plan.preempted.is_empty() && plan.refused.is_empty());
        if is_something {
            self.apply(now);
        }
        is_something
    }

    fn budget(&self) -> Budget {
        let limits = &self.limits;
        Budget {
            rows: limits.max_rows,
            beside_decodes: self.options.beside_decodes,
            logits_rows: limits.max_logits_rows,
            free_blocks: self.pool.free(),
            whole: self.capacity,
            seats: self.options.max_num_seqs.saturating_sub(self.running.len() - self.paused()),
            runs: self.options.max_num_seqs,
        }
    }

    /// Sequences that wait for their reader. They keep their blocks while nobody needs them, and no seat: who does
    /// not read must not keep others from being served.
    fn paused(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.paused_since.is_some()).count()
    }

    fn apply(&mut self, now: Instant) {
        let plan = std::mem::take(&mut self.plan);
        for &index in &plan.preempted {
            let mut sequence = self.running.remove(index);
            self.pool.give_back(&mut sequence.blocks);
            (sequence.computed, sequence.found, sequence.registered) = (0, 0, 0);
            self.notices.push(Notice::Preempted);
            self.enqueue(sequence);
        }
        for (index, misfit) in &plan.refused {
            self.waiting[*index].fail(&misfit.to_string());
        }
        for (already, &index) in plan.admitted.iter().enumerate() {
            // Those before it have left the queue.
            if let Some(sequence) = self.waiting.remove(index - already) {
                self.admit(sequence, now);
            }
        }
        if !plan.refused.is_empty() {
            self.drop_refused(now);
        }
        for run in &plan.runs {
            self.pool.take(run.new_blocks, &mut self.running[run.index].blocks);
        }
        self.plan = plan;
    }

    /// Takes those out of the queue that were told that they can never be computed.
    fn drop_refused(&mut self, now: Instant) {
        let notices = &mut self.notices;
        self.waiting.retain(|sequence| {
            let end = sequence.end;
            notices.extend(end.map(|end| Notice::Ended(end, now.duration_since(sequence.queued_at))));
            end.is_none()
        });
    }

    fn admit(&mut self, mut sequence: Sequence<R>, now: Instant) {
        let block_tokens = self.limits.kv_block_tokens;
        let mut blocks = std::mem::take(&mut sequence.blocks);
        for name in sequence.skippable(block_tokens) {
            let Some(block) = self.pool.find(name) else { break };
            self.pool.hold(block, &mut blocks);
        }
        sequence.blocks = blocks;
        sequence.registered = sequence.blocks.len();
        sequence.computed = sequence.registered * block_tokens;
        sequence.found = sequence.computed;
        if sequence.generation.is_none() {
            sequence.generation = Some(self.newest());
            let (waited, cached) = (now.duration_since(sequence.queued_at), sequence.computed);
            self.notices.push(Notice::Started { waited, prompt: sequence.prompt_tokens, cached });
            if cached > 0 {
                sequence.send(Event::Cached(cached));
            }
        }
        self.running.push(sequence);
    }

    /// How many the step planned admits, and how many give their blocks back.
    pub(super) fn moved(&self) -> (usize, usize) {
        (self.plan.admitted.len(), self.plan.preempted.len())
    }

    /// Whether a run generates, rather than computing a prompt or what was computed before.
    pub(super) fn is_decode(&self, run: &Run) -> bool {
        let sequence = &self.running[run.index];
        sequence.tokens.len() - sequence.computed == 1
    }

    /// A block that nobody holds, for a moment: none where there is none. To be given back at once.
    pub(super) fn borrow_block(&mut self) -> Option<Vec<u32>> {
        let mut blocks = Vec::new();
        (self.pool.free() > 0).then(|| self.pool.take(1, &mut blocks))?;
        Some(blocks)
    }

    /// Gives a borrowed block back.
    pub(super) fn give_back(&mut self, mut blocks: Vec<u32>) {
        self.pool.give_back(&mut blocks);
    }

    /// What the step planned computes, to be given back by [`Core::keep`].
    pub(super) fn take_runs(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.plan.runs)
    }

    /// Keeps the memory of a step's runs for the next one.
    pub(super) fn keep(&mut self, runs: Vec<Run>) {
        self.plan.runs = runs;
    }

    /// Brings a step's runs into an order in which those of one generation of weights are side by side.
    pub(super) fn group(&self, runs: &mut [Run]) {
        if self.generations.len() > 1 {
            runs.sort_by_key(|run| (self.running[run.index].generation, run.index));
        }
    }

    /// The weights that a run is computed with.
    pub(super) fn generation_of(&self, run: &Run) -> Generation {
        // Everybody who runs was admitted.
        self.running[run.index].generation.unwrap_or_default()
    }

    /// What the backend computes for a run.
    pub(super) fn segment(&self, run: &Run) -> Segment<'_> {
        let sequence = &self.running[run.index];
        let start = sequence.computed;
        Segment {
            tokens: &sequence.tokens[start..start + run.tokens],
            start,
            blocks: &sequence.blocks,
            want: sequence.wants(run.tokens),
        }
    }

    /// Whether anybody still wants a run's result.
    pub(super) fn is_wanted(&self, run: &Run) -> bool {
        self.running[run.index].reader.is_wanted()
    }

    /// Takes in what was computed for `runs`: their logits, in their order.
    pub(super) fn take_in(&mut self, runs: &[Run], logits: &[f32], now: Instant) {
        let vocabulary = self.limits.vocab_size;
        let mut rest = logits;
        for run in runs {
            let sequence = &mut self.running[run.index];
            let rows = match sequence.wants(run.tokens) {
                WantLogits::None => 0,
                WantLogits::Last => 1,
                WantLogits::All => run.tokens,
            };
            let own;
            (own, rest) = rest.split_at(rows * vocabulary);
            if !are_numbers(own) {
                sequence.fail(&Fault::Logits.told());
                // Keys and values that are no numbers may be in any of its blocks, those of steps before without
                // logits to tell among them: nobody is to find them.
                self.pool.forget(&sequence.blocks);
                self.notices.push(Notice::NoNumbers);
                continue;
            }
            let own = own.chunks_exact(vocabulary);
            let has_token = sequence.advance(run.tokens, own, self.capacity.positions, &mut self.scratch);
            if has_token {
                self.notices.push(match sequence.last_token_at.replace(now) {
                    None => Notice::First(now.duration_since(sequence.queued_at)),
                    Some(last) => Notice::Next(now.duration_since(last)),
                });
            }
            self.register(run.index);
        }
    }

    /// Makes the blocks that a sequence has filled known by their names.
    fn register(&mut self, index: usize) {
        let block_tokens = self.limits.kv_block_tokens;
        let sequence = &mut self.running[index];
        let full = sequence.computed / block_tokens;
        if !self.options.enable_prefix_caching || sequence.registered >= full {
            return;
        }
        sequence.name_blocks(sequence.generation.unwrap_or_default(), block_tokens);
        for at in sequence.registered..full {
            let parent = at.checked_sub(1).map(|before| sequence.names[before]);
            self.pool.name(sequence.blocks[at], sequence.names[at], parent);
        }
        sequence.registered = full;
    }

    /// Ends the sequences of `runs`, and tells them why.
    pub(super) fn fail(&mut self, runs: &[Run], why: &str) {
        runs.iter().for_each(|run| self.running[run.index].fail(why));
    }

    /// Ends everybody.
    pub(super) fn fail_all(&mut self, why: &str) {
        for mut sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            sequence.fail(why);
            self.pool.give_back(&mut sequence.blocks);
        }
    }

    /// Takes ended sequences out and their blocks back.
    pub(super) fn retire(&mut self, now: Instant) {
        for index in (0..self.running.len()).rev() {
            let Some(end) = self.running[index].end else { continue };
            let mut sequence = self.running.remove(index);
            self.pool.give_back(&mut sequence.blocks);
            self.notices.push(Notice::Ended(end, now.duration_since(sequence.queued_at)));
        }
    }

    /// What has happened since this was asked the last time.
    pub(super) fn notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// What has changed in the prefix cache since this was asked the last time.
    pub(super) fn changes(&mut self) -> std::vec::Drain<'_, KvChange> {
        self.pool.changes()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// How many blocks somebody holds.
    pub(super) fn blocks_used(&self) -> usize {
        self.pool.used()
    }

    /// How many blocks can be found by their names.
    pub(super) fn blocks_cached(&self) -> usize {
        self.pool.named()
    }

    /// Whether there is nobody.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

/// How many blocks become free when a running sequence gives its own back, after those asked about before: a shared
/// block when its last holder does.
fn freed_by<R: Reader>(running: &[Sequence<R>], pool: &BlockPool) -> impl FnMut(usize) -> usize {
    let mut given_back: HashMap<u32, u32> = HashMap::new();
    move |index| {
        let mut freed = 0;
        for &block in &running[index].blocks {
            let times = given_back.entry(block).or_default();
            *times += 1;
            freed += usize::from(*times == pool.holders(block));
        }
        freed
    }
}

#[cfg(test)]
mod tests;
