//! The core in simulation: no thread, no clock but its own, the scripted backend for a device.

use super::super::guide::Guide;
use super::super::options::FaultOptions;
use super::super::prefix::BlockName;
use super::super::prefix::CacheSalt;
use super::super::reader::Reading;
use super::super::sequence::{FinishReason, Pooled, SequenceParams};
use super::*;
use compute::backend::{Backend, Makes, Step};
use compute::sampler::{Mask, Params, PendingMask, splitmix64};
use compute::scripted::{ScriptedBackend, ScriptedOptions, other_script};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// A reader's events, and its state.
#[derive(Debug)]
struct Log {
    tokens: Vec<u32>,
    pooled: Vec<f32>,
    reported: usize,
    cached: usize,
    finish: Option<FinishReason>,
    has_failed: bool,
    reading: Reading,
}

#[derive(Debug, Clone)]
struct Listener(Rc<RefCell<Log>>);

impl Listener {
    fn new() -> Self {
        let (tokens, pooled, reported, cached) = (Vec::new(), Vec::new(), 0, 0);
        let (finish, has_failed, reading) = (None, false, Reading::Ready);
        Self(Rc::new(RefCell::new(Log { tokens, pooled, reported, cached, finish, has_failed, reading })))
    }

    fn set(&self, reading: Reading) {
        self.0.borrow_mut().reading = reading;
    }

    fn tokens(&self) -> Vec<u32> {
        self.0.borrow().tokens.clone()
    }

    fn is_finished(&self) -> bool {
        self.0.borrow().finish.is_some()
    }
}

impl Reader for Listener {
    fn reading(&self) -> Reading {
        self.0.borrow().reading
    }

    fn send(&mut self, event: Event) -> bool {
        let mut log = self.0.borrow_mut();
        assert!(log.finish.is_none() && !log.has_failed, "nothing comes after the end");
        match event {
            Event::Cached(tokens) => log.cached = tokens,
            Event::PromptLogprobs(entries) => log.reported += entries.len(),
            Event::PromptDone => log.finish = Some(FinishReason::Length),
            Event::Pooled(states) => {
                log.pooled = states;
                log.finish = Some(FinishReason::Stop);
            }
            Event::Failed(_) | Event::Stuck(_) => log.has_failed = true,
            Event::Token { id, finish, .. } => {
                log.tokens.push(id);
                log.finish = finish;
            }
        }
        log.reading != Reading::Gone
    }
}

const BLOCK: usize = 4;
const STEP: Duration = Duration::from_millis(100);

/// A worker in small: sizes that make everything scarce.
#[derive(Debug, Clone)]
struct Sizes {
    kv_blocks: usize,
    max_rows: usize,
    max_num_seqs: usize,
    caches: bool,
    level: Option<Duration>,
    depth: usize,
}

const ROOMY: Sizes = Sizes { kv_blocks: 400, max_rows: 64, max_num_seqs: 8, caches: true, level: None, depth: 1 };

struct Simulation {
    core: Core<Listener>,
    backend: ScriptedBackend,
    now: Instant,
    steps: u64,
    in_flight: VecDeque<(u64, Generation)>,
    rows: usize,
    preempted: usize,
    /// True if the device computes what is no number.
    is_broken: bool,
    /// True if sequences may be refused.
    may_fail: bool,
    /// Of 100 launches and collections, how many fail: the step is then computed sequence by sequence.
    faults: u64,
    /// Number of those.
    failed: usize,
    /// The weights' identity; they are identified at once.
    identity: Option<Identity>,
    /// The blocks that a reader of the events holds for cached.
    published: HashSet<BlockName>,
}

impl Simulation {
    fn new(sizes: &Sizes) -> Self {
        let limits = Limits {
            vocab_size: 37,
            max_position: 400,
            max_rows: sizes.max_rows,
            max_logits_rows: sizes.max_rows.min(sizes.max_num_seqs + 3),
            kv_block_tokens: BLOCK,
            kv_blocks: sizes.kv_blocks,
            kv_block_bytes: 16,
            hidden_size: 4,
            makes: Makes::Logits,
            is_whole: false,
            sums: true,
            depth: sizes.depth,
        };
        let options = EngineOptions {
            max_num_seqs: sizes.max_num_seqs,
            max_model_len: 400,
            beside_decodes: crate::engine::BesideDecodes {
                rows: 12,
                long_rows: 5,
                long_tokens: 40,
                positions_a_row: 50,
            },
            queue_max: usize::MAX,
            reader_stall: Duration::from_secs(20),
            enable_prefix_caching: sizes.caches,
            priority_level: sizes.level,
            faults: FaultOptions::default(),
        };
        let now = Instant::now();
        let scripted = ScriptedOptions { limits: limits.clone(), step: Duration::ZERO, row: Duration::ZERO };
        Self {
            core: Core::new(options, limits, now),
            backend: ScriptedBackend::new(scripted),
            now,
            steps: 0,
            in_flight: VecDeque::new(),
            rows: 0,
            preempted: 0,
            is_broken: false,
            may_fail: false,
            faults: 0,
            failed: 0,
            identity: None,
            published: HashSet::new(),
        }
        .identified(identity_of(0))
    }

    /// The same with weights of another identity; none leaves them without.
    fn identified(mut self, identity: Option<Identity>) -> Self {
        self.identity = identity;
        self
    }

    /// Says what the newest weights are known by.
    fn identify(&mut self) {
        if let Some(identity) = self.identity {
            self.core.identify(self.core.newest(), identity);
        }
    }

    fn submit(&mut self, ask: Request<Listener>) -> Listener {
        let listener = ask.reader.clone();
        self.core.submit(ask, self.now);
        listener
    }

    fn install(&mut self) {
        let generation = self.backend.install(&other_script(37)).expect("installs");
        self.core.install(generation);
        self.identity = self.identity.and(identity_of(u8::try_from(generation.0).expect("few")));
    }

    /// One turn, as the thread takes it, with everything checked that must always be so. False: nothing was done.
    fn turn(&mut self) -> bool {
        self.now += STEP;
        self.identify();
        self.core.drop_unwanted(self.now);
        let backend = &mut self.backend;
        self.core.retire_unused(|generation| backend.retire(generation));
        let is_planned = self.core.plan(self.now);
        check(&self.core);
        let mut planned = self.core.take_runs();
        self.core.group(&mut planned);
        let rows: usize = planned.iter().map(|run| run.tokens).sum();
        assert!(rows <= self.core.limits.max_rows, "{rows} rows");
        let mut rest = &planned[..];
        while let Some(first) = rest.first() {
            let generation = self.core.generation_of(first);
            let count = rest.iter().take_while(|run| self.core.generation_of(run) == generation).count();
            let part;
            (part, rest) = rest.split_at(count);
            while self.is_full() {
                self.collect();
            }
            let mut runs = part.to_vec();
            self.core.drop_outdated(&mut runs);
            if !runs.is_empty() {
                self.launch(generation, runs);
            }
        }
        let has_collected = (planned.is_empty() || self.is_full()) && self.collect();
        self.core.keep(planned);
        self.core.retire(self.now);
        check(&self.core);
        for notice in self.core.notices() {
            self.preempted += usize::from(notice == Notice::Preempted);
            let is_failure = matches!(notice, Notice::NotFinite | Notice::Ended(End::Failed, _));
            assert!(self.is_broken || self.may_fail || !is_failure);
        }
        self.follow();
        is_planned || has_collected
    }

    /// Follows the events, as a router does.
    fn follow(&mut self) {
        for change in self.core.changes() {
            match change {
                KvChange::Stored { block, .. } => assert!(self.published.insert(block), "{block} is stored twice"),
                KvChange::Removed { block } => assert!(self.published.remove(&block), "{block} was not there"),
            }
        }
        let known = if self.identity.is_some() { self.core.blocks_cached() } else { 0 };
        assert_eq!(self.published.len(), known, "the reader knows the cache");
    }

    fn is_full(&self) -> bool {
        self.in_flight.len() >= self.core.limits.depth
    }

    /// The backend checks the rows of logits, the blocks and the positions.
    fn launch(&mut self, generation: Generation, mut runs: Vec<Run>) {
        self.steps += 1;
        if self.has_fault() {
            while self.collect() {}
            self.core.drop_outdated(&mut runs);
            return self.compute_apart(generation, &runs);
        }
        self.rows += runs.iter().map(|run| run.tokens).sum::<usize>();
        let segments: Vec<Segment<'_>> = runs.iter().map(|run| self.core.segment(run)).collect();
        let step = Step { generation, segments: &segments };
        self.backend.launch(&step, &mut |_| true).expect("a step within its limits");
        self.core.launch(self.steps, &runs);
        self.in_flight.push_back((self.steps, generation));
    }

    fn collect(&mut self) -> bool {
        let Some((step, generation)) = self.in_flight.pop_front() else { return false };
        if self.has_fault() {
            self.backend.abandon();
            self.in_flight.clear();
            let runs = self.core.withdraw(step);
            self.compute_apart(generation, &runs);
            return true;
        }
        let mut results = Results::default();
        self.backend.collect(&mut results).expect("a step is in flight");
        if self.is_broken {
            results.outcomes.iter_mut().for_each(|outcome| *outcome = Err(NotFinite));
        }
        self.core.apply(step, &mut results, self.now);
        true
    }

    fn has_fault(&mut self) -> bool {
        let is_now = splitmix64(self.steps ^ (self.failed as u64) << 32) % 100 < self.faults;
        self.failed += usize::from(is_now);
        is_now
    }

    /// Each sequence of a step that failed, alone.
    fn compute_apart(&mut self, generation: Generation, runs: &[Run]) {
        for run in runs {
            let segments = [self.core.segment(run)];
            self.backend.launch(&Step { generation, segments: &segments }, &mut |_| true).expect("alone it works");
            let mut results = Results::default();
            self.backend.collect(&mut results).expect("a step is in flight");
            let outcome = results.outcomes.remove(0).expect("finite");
            self.core.apply_one(run.index, run.tokens, outcome, self.now);
        }
    }

    /// Until everybody is served; who must not wait for a reader.
    fn finish(&mut self) {
        let mut idle = 0;
        while !self.core.is_idle() {
            idle = if self.turn() { 0 } else { idle + 1 };
            // A paused reader is given up after its 20 seconds.
            assert!(idle < 300, "nothing moves: {} wait, {} run", self.core.waiting(), self.core.running());
        }
        while self.collect() {}
        assert_eq!(self.core.blocks_used(), 0, "every block came back");
    }
}

/// An identity for each generation.
fn identity_of(generation: u8) -> Option<Identity> {
    Some(Identity::of(&[generation; 32], b"a model", "stored"))
}

/// Invariants between any two actions: blocks are held exactly as often as sequences hold them, seats and order kept.
fn check(core: &Core<Listener>) {
    let mut holders = vec![0_u32; core.limits.kv_blocks];
    for sequence in &core.running {
        sequence.blocks.iter().for_each(|&block| holders[block as usize] += 1);
        assert!(sequence.blocks.len() * BLOCK >= sequence.launched && sequence.launched >= sequence.computed);
        assert!(sequence.computed < sequence.tokens.len(), "there is always a token to compute");
    }
    for (block, &count) in (0..).zip(&holders) {
        assert_eq!(core.pool.holders(block), count, "block {block}");
    }
    assert_eq!(core.pool.used(), holders.iter().filter(|&&count| count > 0).count());
    assert!(core.waiting.iter().all(|sequence| sequence.blocks.is_empty() && sequence.computed == 0));
    assert!(core.waiting.iter().is_sorted_by_key(|sequence| sequence.order));
    assert!(core.plan.runs.len() <= core.options.max_num_seqs);
}

/// A guide that allows some seventh of the tokens, by all of those that came before.
#[derive(Debug)]
struct Some7th(u64);

impl Some7th {
    fn allows(&self, token: u32) -> bool {
        token == 36 || splitmix64(self.0 ^ u64::from(token) << 32).is_multiple_of(7)
    }

    fn see(&mut self, token: u32) {
        self.0 = splitmix64(self.0 ^ u64::from(token));
    }
}

impl Guide for Some7th {
    fn next(&mut self, previous: Option<u32>) -> Option<PendingMask> {
        previous.into_iter().for_each(|token| self.see(token));
        let mut mask = Mask::none(37);
        (0..37).filter(|&token| self.allows(token)).for_each(|token| mask.allow(token));
        Some(PendingMask::ready(mask))
    }
}

/// Checks that a sequence of this seed said what its guide allows.
fn check_guided(seed: u64, said: &[u32]) {
    let mut guide = Some7th(seed);
    for &token in said.iter().filter(|_| seed.is_multiple_of(4)) {
        assert!(guide.allows(token), "{token} of {said:?}");
        guide.see(token);
    }
}

/// A prompt: `shared` tokens that all of its group have, then its own.
fn prompt(group: u64, shared: usize, own: usize, seed: u64) -> Vec<u32> {
    let token = |stream: u64, at: usize| (splitmix64(stream ^ ((at as u64) << 20)) % 37) as u32;
    (0..shared).map(|at| token(group, at)).chain((0..own).map(|at| token(seed | 1 << 60, at))).collect()
}

fn ask(prompt: Vec<u32>, seed: u64, max_tokens: usize) -> Request<Listener> {
    let params = SequenceParams {
        sampling: Params { seed, temperature: 1.5, ..Params::default() },
        max_tokens,
        min_tokens: 0,
        stop_ids: vec![],
        guide: seed.is_multiple_of(4).then(|| Box::new(Some7th(seed)) as Box<dyn Guide>),
        prompt_logprobs: None,
        pooled: None,
    };
    Request { prompt, params, priority: 0, salt: CacheSalt::default(), reader: Listener::new() }
}

/// The tokens of a sequence that is alone, with nothing cached.
fn alone(prompt: Vec<u32>, seed: u64, max_tokens: usize) -> Vec<u32> {
    alone_with(Generation(0), ask(prompt, seed, max_tokens))
}

/// The same with other weights.
fn alone_with(generation: Generation, asked: Request<Listener>) -> Vec<u32> {
    let mut simulation = Simulation::new(&Sizes { caches: false, ..ROOMY });
    (0..generation.0).for_each(|_| simulation.install());
    let listener = simulation.submit(asked);
    simulation.finish();
    listener.tokens()
}

#[derive(Debug, Clone)]
struct Arrival {
    /// Turns before it comes.
    after: usize,
    group: u64,
    shared: usize,
    own: usize,
    max_tokens: usize,
    seed: u64,
    priority: i64,
    salt: u8,
    scores_prompt: bool,
    fate: Fate,
}

/// Its reader's behaviour.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Reads,
    /// Leaves after so many tokens.
    Leaves(usize),
    /// Has enough after so many tokens.
    Cancels(usize),
    /// Rests for so many turns after its first token.
    Rests(usize),
}

fn arrivals(most: usize) -> impl Strategy<Value = Vec<Arrival>> {
    let fate = prop_oneof![
        6 => Just(Fate::Reads),
        1 => (0_usize..12).prop_map(Fate::Leaves),
        1 => (0_usize..12).prop_map(Fate::Cancels),
        1 => (1_usize..20).prop_map(Fate::Rests),
    ];
    let sizes = (0_usize..4, 0_u64..3, 0_usize..40, 1_usize..24, 0_usize..30);
    let rest = (0_u64..1000, -3_i64..4, 0_u8..2, prop::bool::weighted(0.15), fate);
    let arrival = (sizes, rest).prop_map(|((after, group, shared, own, max_tokens), rest)| {
        let (seed, priority, salt, scores_prompt, fate) = rest;
        Arrival { after, group, shared, own, max_tokens, seed, priority, salt, scores_prompt, fate }
    });
    prop::collection::vec(arrival, 1..most)
}

fn live_on(listener: &Listener, fate: Fate, age: usize) {
    let said = listener.tokens().len();
    match fate {
        Fate::Leaves(after) if said >= after => listener.set(Reading::Gone),
        Fate::Cancels(after) if said >= after => listener.set(Reading::Satisfied),
        Fate::Rests(turns) if said == 1 && age < 40 + turns => listener.set(Reading::Full),
        Fate::Rests(_) => listener.set(Reading::Ready),
        _ => {}
    }
}

impl Arrival {
    fn ask(&self) -> Request<Listener> {
        let mut asked = ask(prompt(self.group, self.shared, self.own, self.seed), self.seed, self.max_tokens);
        asked.priority = self.priority;
        asked.salt = CacheSalt::new(&self.salt.to_string(), "");
        asked.params.prompt_logprobs = self.scores_prompt.then_some(1);
        asked.params.sampling.logprobs = self.scores_prompt.then_some(2);
        // Some stop early, and some may not.
        asked.params.stop_ids = vec![1, 2, 3];
        asked.params.min_tokens = (self.seed % 5) as usize;
        asked.params.sampling.frequency_penalty = f32::from(self.seed.is_multiple_of(2));
        // Of the whole prompt, cached or not.
        asked.params.sampling.repetition_penalty = if self.seed.is_multiple_of(3) { 1.5 } else { 1.0 };
        asked
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_company_shortage_cache_faults_and_depth_do_a_sequences_text_is_its_own(
        asks in arrivals(30),
        kv_blocks in 24_usize..60,
        max_rows in 3_usize..40,
        max_num_seqs in 1_usize..6,
        caches in prop::bool::weighted(0.8),
        swap_at in 0_usize..200,
        depth in 1_usize..=2,
        faults in prop_oneof![Just(0_u64), 0_u64..30],
    ) {
        let max_rows = max_rows.max(max_num_seqs);
        let level = Some(Duration::from_secs(1));
        let mut simulation = Simulation::new(&Sizes { kv_blocks, max_rows, max_num_seqs, caches, level, depth });
        simulation.faults = faults;
        let mut listeners: Vec<(Listener, usize)> = Vec::new();
        let mut turn = 0;
        for arrival in &asks {
            for _ in 0..arrival.after {
                turn += 1;
                if turn == swap_at {
                    simulation.install();
                }
                simulation.turn();
                listeners.iter().zip(&asks).for_each(|((one, since), ask)| live_on(one, ask.fate, turn - since));
            }
            listeners.push((simulation.submit(arrival.ask()), turn));
        }
        while !simulation.core.is_idle() {
            turn += 1;
            prop_assert!(turn < 20_000, "it does not end");
            if turn == swap_at {
                simulation.install();
            }
            simulation.turn();
            listeners.iter().zip(&asks).for_each(|((one, since), ask)| live_on(one, ask.fate, turn - since));
        }
        prop_assert_eq!(simulation.core.blocks_used(), 0);
        for ((listener, _), arrival) in listeners.iter().zip(&asks) {
            if arrival.scores_prompt {
                prop_assert_eq!(listener.0.borrow().cached, 0);
                if listener.is_finished() {
                    prop_assert_eq!(listener.0.borrow().reported, arrival.shared + arrival.own - 1);
                }
            }
            // It ends with the weights it began with, whichever those were.
            let generations: &[u32] = if turn < swap_at { &[0] } else { &[0, 1] };
            let said = listener.tokens();
            check_guided(arrival.seed, &said);
            let is_as_alone = generations.iter().any(|&generation| {
                let expected = alone_with(Generation(generation), arrival.ask());
                expected.starts_with(&said) && (!listener.is_finished() || said.len() == expected.len())
            });
            prop_assert!(is_as_alone, "{:?} said {:?}", arrival, said);
            if matches!(arrival.fate, Fate::Reads) {
                prop_assert!(listener.is_finished());
            }
        }
    }

    #[test]
    fn cached_and_uncached_give_the_same_text(
        asks in arrivals(20), kv_blocks in 24_usize..200, depth in 1_usize..=2,
    ) {
        let texts = [true, false].map(|caches| {
            let mut simulation = Simulation::new(&Sizes { kv_blocks, caches, depth, ..ROOMY });
            let listeners: Vec<Listener> = asks.iter().map(|arrival| {
                (0..arrival.after).for_each(|_| _ = simulation.turn());
                let tokens = prompt(arrival.group, arrival.shared, arrival.own, arrival.seed);
                simulation.submit(ask(tokens, arrival.seed, arrival.max_tokens))
            }).collect();
            simulation.finish();
            listeners.iter().map(Listener::tokens).collect::<Vec<_>>()
        });
        prop_assert_eq!(&texts[0], &texts[1]);
    }
}

/// A guide that has no mask.
#[derive(Debug)]
struct Lost;

impl Guide for Lost {
    fn next(&mut self, previous: Option<u32>) -> Option<PendingMask> {
        let mask = PendingMask::default();
        mask.settle(if previous.is_none() { Ok(Mask::from_words(&[!0, !0])) } else { Err("lost".into()) });
        Some(mask)
    }
}

#[test]
fn a_sequence_whose_guide_fails_ends_before_a_token_that_nobody_allowed() {
    for depth in 1..=2 {
        let mut simulation = Simulation::new(&Sizes { depth, ..ROOMY });
        simulation.may_fail = true;
        let mut asked = ask(vec![1, 2], 1, 9);
        asked.params.guide = Some(Box::new(Lost));
        let (lost, other) = (simulation.submit(asked), simulation.submit(ask(vec![1, 2], 1, 9)));
        simulation.finish();
        assert!(lost.0.borrow().has_failed && lost.tokens().len() == 1, "{:?}", lost.tokens());
        assert_eq!(other.tokens(), alone(vec![1, 2], 1, 9));
    }
}

/// A prompt whose states are wanted.
fn pooled(prompt: Vec<u32>, pooled: Pooled) -> Request<Listener> {
    let mut asked = ask(prompt, 1, 0);
    asked.params.pooled = Some(pooled);
    asked
}

#[test]
fn pooled_states_are_their_own_in_any_company_and_shortage_and_whatever_was_cached() {
    let kinds = [Pooled::First, Pooled::Last, Pooled::Mean];
    for (kv_blocks, depth) in [(400, 1), (60, 1), (60, 2)] {
        let mut simulation = Simulation::new(&Sizes { kv_blocks, max_rows: 16, depth, ..ROOMY });
        let mut all = Vec::new();
        for number in 0..40_u64 {
            let prompt = prompt(number % 3, 30, 40, number);
            let kind = kinds[number as usize % 3];
            all.push((prompt.clone(), kind, simulation.submit(pooled(prompt.clone(), kind))));
            simulation.submit(ask(prompt, number, 30));
            simulation.turn();
        }
        simulation.finish();
        for (prompt, kind, found) in all {
            let mut simulation = Simulation::new(&Sizes { caches: false, max_rows: 400, ..ROOMY });
            let alone = simulation.submit(pooled(prompt, kind));
            simulation.finish();
            let (found, alone) = (found.0.borrow().pooled.clone(), alone.0.borrow().pooled.clone());
            assert_eq!(found.len(), 4, "{kind:?}");
            let apart = found.iter().zip(&alone).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            // A mean's sum goes by the parts that the prompt was computed in.
            let allowed = if kind == Pooled::Mean { 1e-6 } else { 0.0 };
            assert!(apart <= allowed, "{kind:?}: {found:?} not {alone:?}");
        }
    }
}

#[test]
fn thousands_of_sequences_in_little_memory_all_say_what_they_would_alone() {
    for depth in 1..=2 {
        thousands(depth);
    }
}

fn thousands(depth: usize) {
    let sizes = Sizes { kv_blocks: 60, max_rows: 48, max_num_seqs: 16, depth, ..ROOMY };
    let mut simulation = Simulation::new(&sizes);
    simulation.faults = 3;
    let mut listeners = Vec::new();
    for at in 0..4000_u64 {
        let random = splitmix64(at);
        let (shared, own, tokens) =
            (random as usize % 60, 1 + (random >> 8) as usize % 30, (random >> 16) as usize % 24);
        let mut asked = ask(prompt(random % 7, shared, own, at), at, tokens);
        asked.priority = (random >> 24) as i64 % 5;
        listeners.push((simulation.submit(asked), shared, own, tokens, random % 7));
        if at.is_multiple_of(3) {
            simulation.turn();
        }
    }
    simulation.finish();
    assert!(simulation.preempted > 20, "only {} preemptions: not scarce enough to tell", simulation.preempted);
    let cached = listeners.iter().map(|(listener, ..)| listener.0.borrow().cached).sum::<usize>();
    assert!(cached > 10_000, "only {cached} tokens were cached");
    for (at, (listener, shared, own, tokens, group)) in (0..).zip(&listeners).step_by(40) {
        assert!(listener.is_finished());
        assert_eq!(listener.tokens(), alone(prompt(*group, *shared, *own, at), at, *tokens), "sequence {at}");
    }
}

#[test]
fn a_step_ahead_costs_at_most_one_row_after_a_stop() {
    let rows = |depth| {
        let mut simulation = Simulation::new(&Sizes { depth, caches: false, ..ROOMY });
        let lengths = [0, 1, 2, 9, 30].map(|max_tokens| {
            let mut asked = ask(prompt(1, 20, 0, 0), 3, max_tokens);
            asked.params.sampling.temperature = 0.0;
            let listener = simulation.submit(asked);
            simulation.finish();
            listener.tokens().len()
        });
        assert_eq!(lengths, [0, 1, 2, 9, 30]);
        let known = simulation.rows;
        let mut asked = ask(prompt(1, 20, 0, 0), 3, 30);
        asked.params.stop_ids = (0..37).collect();
        asked.params.min_tokens = 4;
        let listener = simulation.submit(asked);
        simulation.finish();
        // A ban of every token leaves one all the same.
        assert_eq!(listener.tokens().len(), 5);
        (known, simulation.rows - known)
    };
    let (one, two) = (rows(1), rows(2));
    assert_eq!(one.0, two.0, "the end by length is known ahead");
    assert_eq!(two.1, one.1 + 1, "a stop token is not");
}

#[test]
fn a_conversation_pays_for_its_new_tokens_only() {
    let mut simulation = Simulation::new(&ROOMY);
    let first = simulation.submit(ask(prompt(1, 50, 10, 0), 1, 20));
    simulation.finish();
    assert_eq!(simulation.rows, 60 + 19);
    let mut next = prompt(1, 50, 10, 0);
    next.extend(first.tokens());
    next.extend([5; 9]);
    let second = simulation.submit(ask(next.clone(), 2, 1));
    simulation.finish();
    // Of 80 tokens the last was sampled and never computed: 79, of which 76 fill blocks.
    assert_eq!(second.0.borrow().cached, 76);
    assert_eq!(simulation.rows, 79 + next.len() - 76);
}

#[test]
fn the_choices_of_a_request_compute_its_prompt_once() {
    // With the rows of a step for less than one of them, and for all of them.
    for max_rows in [20, 500] {
        let mut simulation = Simulation::new(&Sizes { max_rows, ..ROOMY });
        for seed in 0..5 {
            simulation.submit(ask(prompt(1, 90, 0, 0), seed, 1));
        }
        simulation.finish();
        // 88 of 90 tokens fill blocks.
        assert_eq!(simulation.rows, 90 + 4 * 2);
    }
}

#[test]
fn one_token_is_always_computed() {
    let mut simulation = Simulation::new(&ROOMY);
    for seed in 0..2 {
        let listener = simulation.submit(ask(prompt(1, 8 * BLOCK, 0, 0), seed, 3));
        simulation.finish();
        assert_eq!(listener.0.borrow().cached, if seed == 0 { 0 } else { 7 * BLOCK });
    }
}

#[test]
fn neither_tenants_nor_weights_share() {
    let mut simulation = Simulation::new(&ROOMY);
    let mut cached_of = |tenant: &str, swaps: bool| {
        if swaps {
            simulation.install();
        }
        let asked = Request { salt: CacheSalt::new(tenant, ""), ..ask(prompt(1, 30, 0, 0), 1, 2) };
        let listener = simulation.submit(asked);
        simulation.finish();
        listener.0.borrow().cached
    };
    assert_eq!(
        [("a", false), ("b", false), ("a", false), ("a", true), ("a", false)]
            .map(|(tenant, swaps)| cached_of(tenant, swaps)),
        [0, 0, 28, 0, 28]
    );
}

#[test]
fn what_can_never_be_computed_is_refused_at_its_turn_and_the_next_is_served() {
    // The cache holds 96 positions and the model 400.
    let mut simulation = Simulation::new(&Sizes { kv_blocks: 24, max_num_seqs: 2, ..ROOMY });
    let scored = |tokens: Vec<u32>, max_tokens| {
        let mut asked = ask(tokens, 1, max_tokens);
        asked.params.prompt_logprobs = Some(1);
        asked
    };
    let never = [
        ask(prompt(1, 97, 0, 0), 1, 0),
        ask(prompt(1, 401, 0, 0), 1, 5),
        ask(prompt(2, 40_000, 0, 0), 1, 0),
        scored(prompt(3, 97, 0, 0), 0),
        scored(prompt(3, 4000, 0, 0), 3),
        ask(Vec::new(), 1, 0),
    ];
    let never = never.map(|asked| simulation.submit(asked));
    let behind = (0..4).map(|seed| simulation.submit(ask(prompt(1, 40, 0, 0), seed, 6))).collect::<Vec<_>>();
    simulation.may_fail = true;
    simulation.finish();
    assert!(never.iter().all(|one| one.0.borrow().has_failed && one.tokens().is_empty()));
    for (seed, one) in (0..).zip(&behind) {
        assert_eq!(one.tokens(), alone(prompt(1, 40, 0, 0), seed, 6));
    }
}

#[test]
fn a_prompt_exactly_at_the_limit_is_computed_whatever_it_wants() {
    for scores in [false, true] {
        for (max_tokens, said) in [(0, 0), (1, 1), (50, 1)] {
            let mut simulation = Simulation::new(&Sizes { kv_blocks: 24, ..ROOMY });
            let asks: Vec<Listener> = (0..3)
                .map(|seed| {
                    let mut asked = ask(prompt(1, 24 * BLOCK, 0, 0), seed, max_tokens);
                    asked.params.prompt_logprobs = scores.then_some(1);
                    simulation.submit(asked)
                })
                .collect();
            simulation.finish();
            for one in asks {
                assert!(one.is_finished());
                assert_eq!(one.tokens().len(), said, "of {max_tokens}");
                assert_eq!(one.0.borrow().reported, if scores { 24 * BLOCK - 1 } else { 0 });
            }
        }
    }
}

#[test]
fn sequences_that_outgrow_the_cache_together_give_way_and_all_reach_the_limit() {
    let mut simulation = Simulation::new(&Sizes { kv_blocks: 24, max_num_seqs: 6, ..ROOMY });
    let asks: Vec<Listener> = (0..6).map(|seed| simulation.submit(ask(prompt(1, 8, 2, seed), seed, 1000))).collect();
    simulation.finish();
    assert!(simulation.preempted > 5, "only {} preemptions", simulation.preempted);
    // The last token is said and never computed.
    assert!(asks.iter().all(|one| one.tokens().len() == 24 * BLOCK - 10));
}

#[test]
fn events_wait_for_the_identity_and_begin_with_what_is_there() {
    let mut late = Simulation::new(&ROOMY).identified(None);
    let mut early = Simulation::new(&ROOMY);
    for simulation in [&mut late, &mut early] {
        simulation.submit(ask(prompt(1, 40, 0, 0), 1, 9));
        simulation.finish();
    }
    assert!(late.published.is_empty() && early.published.len() > 10);
    late.identity = identity_of(0);
    late.turn();
    assert_eq!(late.published, early.published, "equal weights, equal names");
    let mut other = Simulation::new(&ROOMY).identified(identity_of(1));
    other.submit(ask(prompt(1, 40, 0, 0), 1, 9));
    other.finish();
    assert!(other.published.is_disjoint(&early.published), "other weights, other names");
    // After a swap the old names are gone, and the same prompt has others.
    early.install();
    early.turn();
    assert!(early.published.is_empty());
    early.submit(ask(prompt(1, 40, 0, 0), 1, 1));
    early.finish();
    assert!(early.published.is_subset(&other.published) && !early.published.is_empty());
}

#[test]
fn a_second_name_of_the_same_weights_takes_the_first_ones_back() {
    let mut simulation = Simulation::new(&ROOMY);
    simulation.submit(ask(prompt(1, 40, 0, 0), 1, 9));
    simulation.finish();
    let before = simulation.published.clone();
    simulation.identity = identity_of(1);
    // Who follows the events knows the cache at every turn.
    simulation.turn();
    let mut other = Simulation::new(&ROOMY).identified(identity_of(1));
    other.submit(ask(prompt(1, 40, 0, 0), 1, 9));
    other.finish();
    assert_eq!(simulation.published, other.published);
    assert!(simulation.published.is_disjoint(&before) && !before.is_empty());
}

#[test]
fn what_is_stored_and_removed_before_there_is_a_name_is_published_once_or_never() {
    let mut simulation = Simulation::new(&Sizes { kv_blocks: 24, ..ROOMY }).identified(None);
    for seed in 0..4 {
        simulation.submit(ask(prompt(seed, 60, 0, 0), seed, 3));
        simulation.finish();
    }
    // A change that nobody asked for yet is among the blocks that are there.
    simulation.submit(ask(prompt(9, 60, 0, 0), 9, 30));
    simulation.turn();
    simulation.identity = identity_of(0);
    simulation.finish();
    assert!(!simulation.published.is_empty());
}

#[test]
fn the_urgent_go_first_and_nobody_starves() {
    let level = Duration::from_secs(2);
    let mut simulation = Simulation::new(&Sizes { max_num_seqs: 2, level: Some(level), ..ROOMY });
    let patient = Request { priority: 3, ..ask(prompt(9, 0, 8, 9), 9, 4) };
    (0..8).for_each(|seed| drop(simulation.submit(ask(prompt(1, 0, 8, seed), seed, 12))));
    let patient = simulation.submit(patient);
    let mut waited = Duration::ZERO;
    // More of the urgent than can be served, for ever.
    for seed in 100.. {
        drop(simulation.submit(ask(prompt(1, 0, 8, seed), seed, 12)));
        (0..6).for_each(|_| _ = simulation.turn());
        waited += STEP * 6;
        if !patient.tokens().is_empty() {
            break;
        }
        assert!(waited < level * 3 + Duration::from_secs(15), "it starves");
    }
    assert!(waited >= level * 3, "three levels are worth six seconds, and it was served after {waited:?}");
}

#[test]
fn what_may_be_no_number_is_found_by_nobody() {
    let mut simulation = Simulation::new(&Sizes { max_rows: 12, ..ROOMY });
    let whole = || prompt(1, 40, 0, 0);
    // The blocks of this conversation are sound, and those that both have are the first's.
    let sound = simulation.submit(ask(prompt(1, 12, 4, 7), 1, 2));
    simulation.finish();
    let before = simulation.core.blocks_cached();
    let victim = simulation.submit(ask(whole(), 1, 5));
    while simulation.core.blocks_cached() < before + 4 {
        simulation.turn();
    }
    assert!(!victim.0.borrow().has_failed, "a chunk that wants no logits shows nothing");
    simulation.is_broken = true;
    simulation.finish();
    simulation.is_broken = false;
    assert!(victim.0.borrow().has_failed);
    assert_eq!(simulation.core.blocks_cached(), before - 3, "its own, and the three it shared");
    let next = simulation.submit(ask(whole(), 1, 5));
    simulation.finish();
    assert_eq!((next.0.borrow().cached, next.tokens()), (0, alone(whole(), 1, 5)));
    assert!(sound.is_finished());
}

#[test]
fn who_shares_blocks_that_may_be_no_numbers_keeps_them_alone() {
    let mut simulation = Simulation::new(&ROOMY);
    let first = simulation.submit(ask(prompt(1, 40, 0, 0), 1, 200));
    (0..3).for_each(|_| _ = simulation.turn());
    let second = simulation.submit(ask(prompt(1, 40, 0, 0), 2, 200));
    (0..3).for_each(|_| _ = simulation.turn());
    assert_eq!(second.0.borrow().cached, 36);
    first.set(Reading::Full);
    simulation.turn();
    // Only the second computes.
    simulation.is_broken = true;
    simulation.turn();
    simulation.is_broken = false;
    first.set(Reading::Ready);
    assert!(second.0.borrow().has_failed && !first.0.borrow().has_failed);
    let third = simulation.submit(ask(prompt(1, 40, 0, 0), 3, 2));
    simulation.finish();
    assert_eq!((third.0.borrow().cached, first.tokens()), (0, alone(prompt(1, 40, 0, 0), 1, 200)));
}
