//! The engine's core: the waiting and the running sequences, their blocks, and the next step. No clock, no thread,
//! no channel, no device: time is an argument, readers are a trait, results are given. The thread around it (`thread`)
//! and the simulation (`core/tests`) drive it alike: plan → launch → apply → retire.
//!
//! A step is planned while the one before may still be in flight. Its plan counts the tokens that were launched, and one
//! that is not known yet; what comes of a step moves what was computed. A sequence that ends meanwhile, or gives its blocks
//! up, wants nothing of the steps in flight, and the device computes them in order: what they write into blocks that were
//! given back is overwritten by whoever got those.

#![warn(clippy::disallowed_methods)]

use super::admission::Prospects;
use super::attempt::Fault;
use super::blocks::{BlockPool, Change};
use super::capacity::Capacity;
use super::events::KvChange;
use super::options::EngineOptions;
use super::order::Order;
use super::prefix::{Identity, Key};
use super::reader::Reader;
use super::scheduler::{Budget, Plan, Run, Running, schedule};
use super::sequence::Event;
use super::state::{End, Life, Request, Sequence};
use compute::backend::{Generation, Limits, NotFinite, Outcome, Results, Segment};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// An event to be counted.
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
    /// It left.
    Ended(End, Life),
    /// NaN or infinity was computed for it; it leaves.
    NotFinite,
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
    /// The backend's weights, oldest first; at least one.
    generations: Vec<Weights>,
    // What a step needs, kept from step to step.
    plan: Plan,
    facts: Vec<Running>,
    leaders: Vec<Key>,
    notices: Vec<Notice>,
    /// Changes of the prefix cache by published names, until they are taken.
    published: Vec<KvChange>,
}

/// Weights of the backend.
#[derive(Debug, Clone, Copy)]
struct Weights {
    generation: Generation,
    /// None until it is known: until then nothing is published of their blocks.
    identity: Option<Identity>,
}

impl<R: Reader> Core<R> {
    pub(super) fn new(options: EngineOptions, limits: Limits, now: Instant) -> Self {
        Self {
            pool: BlockPool::new(limits.kv_blocks),
            capacity: Capacity::of(&limits, &options),
            // Of a sequence that is computed at once nothing is kept.
            options: EngineOptions {
                enable_prefix_caching: options.enable_prefix_caching && !limits.is_whole,
                ..options
            },
            limits,
            begun: now,
            arrivals: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            generations: vec![Weights { generation: Generation::default(), identity: None }],
            plan: Plan::default(),
            facts: Vec::new(),
            leaders: Vec::new(),
            notices: Vec::new(),
            published: Vec::new(),
        }
    }

    /// Takes a sequence in, to wait for its turn.
    pub(super) fn submit(&mut self, ask: Request<R>, now: Instant) {
        let since_begin = now.saturating_duration_since(self.begun);
        let order = Order::new(since_begin, self.arrivals, ask.priority, self.options.priority_level);
        self.arrivals += 1;
        self.enqueue(Sequence::new(ask, order, self.capacity.positions, self.limits.is_whole, now));
    }

    fn enqueue(&mut self, sequence: Sequence<R>) {
        let at = self.waiting.partition_point(|other| other.order < sequence.order);
        self.waiting.insert(at, sequence);
    }

    /// Uses other weights for the sequences admitted from now on.
    pub(super) fn install(&mut self, generation: Generation) {
        self.generations.push(Weights { generation, identity: None });
    }

    /// Publishes the blocks of some weights by names that are rooted in this identity from now on: first those that are
    /// there. Names that are rooted in another one, of before, are taken back.
    pub(super) fn identify(&mut self, generation: Generation, identity: Identity) {
        self.publish();
        let weights = self.generations.iter_mut().find(|weights| weights.generation == generation);
        let Some(weights) = weights.filter(|weights| weights.identity != Some(identity)) else { return };
        let named = self.pool.named_of(generation);
        if let Some(before) = weights.identity.replace(identity) {
            let removed = named.iter().rev().map(|named| KvChange::of(Change::Removed(named.key), &before));
            self.published.extend(removed);
        }
        self.published.extend(named.into_iter().map(|named| KvChange::of(Change::Stored(named), &identity)));
    }

    /// Publishes what has changed in the prefix cache, as far as the weights have an identity.
    fn publish(&mut self) {
        let Self { pool, generations, published, .. } = self;
        for change in pool.changes() {
            let weights = generations.iter().find(|weights| weights.generation == change.generation());
            let identity = weights.and_then(|weights| weights.identity);
            published.extend(identity.map(|identity| KvChange::of(change, &identity)));
        }
    }

    /// The identity of the newest weights, once it is known.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.generations.last().and_then(|weights| weights.identity)
    }

    pub(super) fn newest(&self) -> Generation {
        self.generations.last().map_or_else(Generation::default, |weights| weights.generation)
    }

    /// Retires the generations that no sequence uses any more; returns the oldest that is left.
    pub(super) fn retire_unused(&mut self, mut retire: impl FnMut(Generation)) -> Generation {
        let newest = self.newest();
        while let Some(at) = self.unused(newest) {
            let generation = self.generations[at].generation;
            self.pool.forget_all(generation);
            self.publish();
            self.generations.remove(at);
            retire(generation);
        }
        self.generations.first().map_or(newest, |weights| weights.generation)
    }

    /// Weights that no sequence uses and no new one will.
    fn unused(&self, newest: Generation) -> Option<usize> {
        let is_used = |generation| {
            let uses = |sequence: &Sequence<R>| sequence.generation == Some(generation);
            generation == newest || self.running.iter().any(uses) || self.waiting.iter().any(uses)
        };
        self.generations.iter().position(|weights| !is_used(weights.generation))
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
            notices.extend(end.map(|end| Notice::Ended(end, sequence.life(now))));
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
        // A plan without runs may still move sequences.
        let is_something = !(plan.runs.is_empty() && plan.preempted.is_empty() && plan.refused.is_empty());
        if is_something {
            self.carry_out(now);
        }
        is_something
    }

    fn budget(&self) -> Budget {
        let limits = &self.limits;
        // Sequences that are over in one step take no seat for longer.
        let seqs = if limits.is_whole { limits.max_logits_rows } else { self.options.max_num_seqs };
        Budget {
            rows: limits.max_rows,
            beside_decodes: self.options.beside_decodes,
            logits_rows: limits.max_logits_rows,
            free_blocks: self.pool.free(),
            whole: self.capacity,
            seats: seqs.saturating_sub(self.running.len() - self.paused()),
            runs: seqs,
        }
    }

    /// Sequences that wait for their reader. They keep their blocks while nobody needs them, and no seat: who does
    /// not read must not keep others from being served.
    fn paused(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.paused_since.is_some()).count()
    }

    /// Moves sequences and blocks as planned.
    fn carry_out(&mut self, now: Instant) {
        let plan = std::mem::take(&mut self.plan);
        // By falling index, so that those to come keep theirs.
        for &index in &plan.preempted {
            let mut sequence = self.running.remove(index);
            self.pool.give_back(&mut sequence.blocks);
            sequence.preempt();
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
        // Blocks are taken last: preempted sequences have given theirs back, and admitted ones hold what was cached.
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
            notices.extend(end.map(|end| Notice::Ended(end, sequence.life(now))));
            end.is_none()
        });
    }

    fn admit(&mut self, mut sequence: Sequence<R>, now: Instant) {
        let block_tokens = self.limits.kv_block_tokens;
        let mut blocks = std::mem::take(&mut sequence.blocks);
        let generation = sequence.generation.unwrap_or_else(|| self.newest());
        for at in 0..sequence.skippable(block_tokens) {
            let found = sequence.key(at, generation).and_then(|key| self.pool.find(&key));
            let Some(block) = found else { break };
            self.pool.hold(block, &mut blocks);
        }
        sequence.blocks = blocks;
        sequence.registered = sequence.blocks.len();
        sequence.computed = sequence.registered * block_tokens;
        (sequence.found, sequence.launched) = (sequence.computed, sequence.computed);
        if sequence.generation.is_none() {
            sequence.generation = Some(generation);
            sequence.begin_guide();
            let (waited, cached) = (now.duration_since(sequence.queued_at), sequence.computed);
            sequence.started_at = Some(now);
            self.notices.push(Notice::Started { waited, prompt: sequence.prompt_tokens, cached });
            if cached > 0 {
                sequence.send(Event::Cached(cached));
            }
        }
        self.running.push(sequence);
    }

    /// Number of sequences that the planned step admits, and of those that give their blocks back.
    pub(super) fn moved(&self) -> (usize, usize) {
        (self.plan.admitted.len(), self.plan.preempted.len())
    }

    /// True if a run generates, rather than computing a prompt or recomputing.
    pub(super) fn is_decode(&self, run: &Run) -> bool {
        self.running[run.index].pending() == 1
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

    /// Takes the runs of the planned step, to be given back by [`Core::keep`].
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
        // A running sequence was admitted.
        self.running[run.index].generation.unwrap_or_default()
    }

    /// The segment that computes a run.
    pub(super) fn segment(&self, run: &Run) -> Segment<'_> {
        self.running[run.index].segment(run.tokens)
    }

    /// True if anybody still wants a run's result.
    pub(super) fn is_wanted(&self, run: &Run) -> bool {
        self.running[run.index].reader.is_wanted()
    }

    /// Drops the runs that are out of date: a step in flight found their sequence's end, or was withdrawn.
    pub(super) fn drop_outdated(&self, runs: &mut Vec<Run>) {
        runs.retain(|run| {
            let sequence = &self.running[run.index];
            sequence.end.is_none() && sequence.pending() >= run.tokens
        });
    }

    /// Notes that `runs` are computed by the step of this number, in their order.
    pub(super) fn launch(&mut self, step: u64, runs: &[Run]) {
        for (segment, run) in runs.iter().enumerate() {
            self.running[run.index].launch(step, segment, run.tokens);
        }
    }

    /// Takes back what is in flight, the step of this number being the oldest: what that step computed, to be tried
    /// again. What later steps computed is planned anew.
    pub(super) fn withdraw(&mut self, step: u64) -> Vec<Run> {
        let taken = self.running.iter_mut().enumerate().filter_map(|(index, sequence)| {
            let tokens = sequence.withdraw(step)?;
            sequence.end.is_none().then_some(Run { index, tokens, new_blocks: 0 })
        });
        taken.collect()
    }

    /// Applies the results of the oldest step in flight. Sequences that have left since, or gave their blocks up, want
    /// nothing of it. Returns how many sequences failed.
    pub(super) fn apply(&mut self, step: u64, results: &mut Results, now: Instant) -> usize {
        let mut failed = 0;
        for index in 0..self.running.len() {
            let Some(part) = self.running[index].land(step) else { continue };
            // It ended in a step before that was collected in the same turn.
            if self.running[index].end.is_some() {
                continue;
            }
            let outcome = results.outcomes.get_mut(part.segment);
            match outcome.map_or(Err(NotFinite), |outcome| std::mem::replace(outcome, Err(NotFinite))) {
                Ok(outcome) => self.apply_one(index, part.tokens, outcome, now),
                Err(NotFinite) => {
                    self.fail_not_finite(index);
                    failed += 1;
                }
            }
        }
        failed
    }

    /// Ends a sequence of which something was computed that is no number.
    pub(super) fn fail_not_finite(&mut self, index: usize) {
        let sequence = &mut self.running[index];
        sequence.fail(&Fault::NotFinite.message());
        // NaN may be in the keys and values of any of its blocks, since chunks of a prompt without logits show nothing:
        // nobody is to find them.
        self.pool.forget(&sequence.blocks);
        self.notices.push(Notice::NotFinite);
    }

    /// Applies what was computed of the next `tokens` of one sequence.
    pub(super) fn apply_one(&mut self, index: usize, tokens: usize, outcome: Outcome, now: Instant) {
        let sequence = &mut self.running[index];
        if sequence.advance(tokens, outcome) {
            self.notices.push(match sequence.last_token_at.replace(now) {
                None => {
                    sequence.first_token_at = Some(now);
                    Notice::First(now.duration_since(sequence.queued_at))
                }
                Some(last) => Notice::Next(now.duration_since(last)),
            });
        }
        self.register(index);
    }

    /// Makes the blocks that a sequence has filled known by their names.
    fn register(&mut self, index: usize) {
        let block_tokens = self.limits.kv_block_tokens;
        let sequence = &mut self.running[index];
        let full = sequence.computed / block_tokens;
        if !self.options.enable_prefix_caching || sequence.registered >= full {
            return;
        }
        sequence.hash_blocks(block_tokens);
        for at in sequence.registered..full {
            if let Some(named) = sequence.named(at) {
                self.pool.name(sequence.blocks[at], named);
            }
        }
        sequence.registered = full;
    }

    /// Ends a run's sequence, and tells it why.
    pub(super) fn fail(&mut self, run: &Run, why: &str) {
        self.running[run.index].fail(why);
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
            self.notices.push(Notice::Ended(end, sequence.life(now)));
        }
    }

    /// Takes the events since the last call.
    pub(super) fn notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// Takes the changes of the prefix cache since the last call, by published names.
    pub(super) fn changes(&mut self) -> std::vec::Drain<'_, KvChange> {
        self.publish();
        self.published.drain(..)
    }

    /// Number of waiting sequences.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of running sequences.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of blocks with a holder.
    pub(super) fn blocks_used(&self) -> usize {
        self.pool.used()
    }

    /// Number of blocks that can be found by their names.
    pub(super) fn blocks_cached(&self) -> usize {
        self.pool.named()
    }

    /// True if there is no sequence.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

/// Counts the blocks that become free when a running sequence gives its own back, after those asked about before: a shared
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
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests;
