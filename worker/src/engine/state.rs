//! One sequence in the engine's core: its tokens, its blocks, how far it was launched and computed, and what the results
//! of a step do to it.

use super::blocks::Named;
use super::order::Order;
use super::prefix::{CacheSalt, Key, Prefix};
use super::reader::{Reader, Reading};
use super::scheduler::{Rows, Running};
use super::sequence::{Event, FinishReason, Pooled, SequenceParams};
use compute::backend::{DEPTH_MAX, Generation, Input, Outcome, Pooling, Segment, Want};
use compute::sampler::{Choice, Chosen, History, Logprobs, PendingMask};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A sequence to generate, as the core gets it.
#[derive(Debug)]
pub(super) struct Request<R> {
    pub(super) prompt: Vec<u32>,
    pub(super) params: SequenceParams,
    pub(super) priority: i64,
    pub(super) salt: CacheSalt,
    pub(super) reader: R,
}

/// One sequence.
#[derive(Debug)]
pub(super) struct Sequence<R> {
    pub(super) reader: R,
    params: SequenceParams,
    /// True if it is computed in one step.
    is_whole: bool,
    /// The states that were computed of it so far, pooled.
    pooled: Vec<f32>,
    /// The mask of the next token, of a sequence with a guide that was admitted.
    mask: Option<PendingMask>,
    salt: CacheSalt,
    pub(super) order: Order,
    /// The prompt's tokens, then those generated.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_tokens: usize,
    pub(super) blocks: Vec<u32>,
    /// The prefixes that its full blocks end, as far as they were worked out.
    prefixes: Vec<Prefix>,
    /// Number of its blocks that are registered by name, or equal another's of that name.
    pub(super) registered: usize,
    /// The weights it is computed with; decided when it is first admitted.
    pub(super) generation: Option<Generation>,
    /// Tokens whose keys and values are in the blocks.
    pub(super) computed: usize,
    /// Tokens whose keys and values will be, when the steps in flight are collected; at least as many.
    pub(super) launched: usize,
    /// Its part of the steps in flight, oldest first.
    flights: VecDeque<InFlight>,
    /// The longest that it may become.
    length_max: usize,
    /// The part of those that was cached when it was admitted.
    pub(super) found: usize,
    /// Prompt positions whose log probabilities were reported; a preemption does not repeat them.
    reported: usize,
    pub(super) queued_at: Instant,
    /// When it first took part in a step.
    pub(super) started_at: Option<Instant>,
    pub(super) first_token_at: Option<Instant>,
    pub(super) last_token_at: Option<Instant>,
    pub(super) paused_since: Option<Instant>,
    pub(super) end: Option<End>,
}

/// A sequence's part of a step in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    step: u64,
    /// Index of its segment in the step.
    pub(super) segment: usize,
    /// Number of tokens computed.
    pub(super) tokens: usize,
    /// True if the step chooses a token for it.
    chooses: bool,
}

/// Reasons for a sequence to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished(FinishReason),
    Abandoned,
    Failed,
}

/// Times and tokens of a sequence that left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Life {
    /// From its submission to its end.
    pub(super) total: Duration,
    /// From its first step to its first token, and from there to its last one; none where no token came.
    pub(super) inference: Option<(Duration, Duration)>,
    /// Number of its tokens that were sampled.
    pub(super) generated: usize,
}

impl<R: Reader> Sequence<R> {
    pub(super) fn new(ask: Request<R>, order: Order, length_max: usize, is_whole: bool, now: Instant) -> Self {
        Self {
            is_whole,
            pooled: Vec::new(),
            reader: ask.reader,
            params: ask.params,
            mask: None,
            salt: ask.salt,
            order,
            prompt_tokens: ask.prompt.len(),
            tokens: ask.prompt,
            blocks: Vec::new(),
            prefixes: Vec::new(),
            registered: 0,
            generation: None,
            computed: 0,
            launched: 0,
            flights: VecDeque::with_capacity(DEPTH_MAX),
            length_max,
            found: 0,
            reported: 0,
            queued_at: now,
            started_at: None,
            first_token_at: None,
            last_token_at: None,
            paused_since: None,
            end: None,
        }
    }

    /// Its times and tokens, at its end.
    pub(super) fn life(&self, now: Instant) -> Life {
        let times = self.started_at.zip(self.first_token_at).zip(self.last_token_at);
        let inference =
            times.map(|((started, first), last)| (first.duration_since(started), last.duration_since(first)));
        Life { total: now.duration_since(self.queued_at), inference, generated: self.generated().len() }
    }

    pub(super) fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_tokens..]
    }

    /// True if positions from here on are still to be scored.
    fn is_scored(&self) -> bool {
        let scored = self.reported.max(self.launched);
        self.params.prompt_logprobs.is_some() && scored + 1 < self.prompt_tokens
    }

    pub(super) fn facts(&self) -> Running {
        Running {
            pending: self.pending(),
            computed: self.launched,
            to_compute: self.tokens.len() - self.found,
            blocks: self.blocks.len(),
            revived: 0,
            results: match self.params.pooled {
                Some(Pooled::First | Pooled::Mean | Pooled::Classes) => Rows::Each,
                None if self.is_scored() => Rows::Every,
                Some(Pooled::Last) | None => Rows::Last,
            },
            is_whole: self.is_whole,
            is_paused: self.paused_since.is_some(),
        }
    }

    /// Works out the prefixes that its full blocks end.
    pub(super) fn hash_blocks(&mut self, block_tokens: usize) {
        for block in self.tokens[self.prefixes.len() * block_tokens..].chunks_exact(block_tokens) {
            let before = self.prefixes.last().copied().unwrap_or_else(|| Prefix::root(&self.salt));
            self.prefixes.push(before.then(block));
        }
    }

    /// Number of blocks that it may take from the cache, at most: the last token is always computed,
    /// since something follows from it, and so is a prompt of which every position counts.
    pub(super) fn skippable(&self, block_tokens: usize) -> usize {
        if self.is_scored() || self.params.pooled.is_some_and(|pooled| pooled != Pooled::Last) {
            return 0;
        }
        (self.tokens.len().saturating_sub(1) / block_tokens).min(self.prefixes.len())
    }

    /// The key of its `at`th block among those of some weights, once it was hashed.
    pub(super) fn key(&self, at: usize, generation: Generation) -> Option<Key> {
        self.prefixes.get(at).map(|&prefix| Key { generation, prefix })
    }

    /// The name of its `at`th block, with its place in the chain.
    pub(super) fn named(&self, at: usize) -> Option<Named> {
        let key = self.key(at, self.generation.unwrap_or_default())?;
        let parent = at.checked_sub(1).map(|before| self.prefixes[before]);
        Some(Named { key, parent, depth: u32::try_from(at).unwrap_or(u32::MAX) })
    }

    /// The segment of its next `tokens`: known ones, or the one that a step in flight chooses.
    pub(super) fn segment(&self, tokens: usize) -> Segment<'_> {
        let (start, end) = (self.launched, self.launched + tokens);
        let input = match self.flights.back() {
            Some(flight) if end > self.tokens.len() => Input::Previous(flight.segment),
            _ => Input::Tokens(&self.tokens[start..end]),
        };
        Segment { input, start, blocks: &self.blocks, want: self.want(tokens) }
    }

    /// The result wanted of its next `tokens`.
    fn want(&self, tokens: usize) -> Want<'_> {
        let end = self.launched + tokens;
        if let Some(pooled) = self.params.pooled {
            return match pooled {
                Pooled::Mean => Want::Hidden(Pooling::Sum),
                Pooled::First if self.launched == 0 => Want::Hidden(Pooling::First),
                Pooled::Last if end == self.tokens.len() => Want::Hidden(Pooling::Last),
                Pooled::Classes => Want::Classes,
                Pooled::First | Pooled::Last => Want::Nothing,
            };
        }
        let choice = (end == self.length()).then(|| self.choice());
        match (self.params.prompt_logprobs, choice) {
            (Some(top), then) if self.is_scored() => {
                // The row of a position says how likely the token after it was; the prompt's last has none to score.
                let next = &self.tokens[self.launched + 1..self.prompt_tokens.min(end + 1)];
                Want::Scores { next, top, then }
            }
            (_, Some(choice)) => Want::Token(choice),
            (_, None) => Want::Nothing,
        }
    }

    /// The choice of the token after all of its tokens, those in flight among them.
    fn choice(&self) -> Choice<'_> {
        let (params, mask) = (&self.params, self.mask.as_ref());
        let (prompt, generated) = self.tokens.split_at(self.prompt_tokens);
        let draw = self.length() - self.prompt_tokens;
        let banned: &[u32] = if draw < params.min_tokens { &params.stop_ids } else { &[] };
        let history = History { prompt, generated, previous: None, draw: draw as u64, banned, mask };
        Choice { params: &params.sampling, history }
    }

    /// Its length once the steps in flight are collected.
    fn length(&self) -> usize {
        self.tokens.len() + self.flights.iter().filter(|flight| flight.chooses).count()
    }

    /// Number of tokens still to compute, those that steps in flight choose among them. Zero if such a token is known to
    /// be the last: that one is never computed. Zero as well if a guide must see it first.
    pub(super) fn pending(&self) -> usize {
        let length = self.length();
        let is_unknown = length > self.tokens.len();
        let waits = is_unknown && (self.params.guide.is_some() || self.is_full(length));
        if waits { 0 } else { length - self.launched }
    }

    /// Asks its guide for the first mask, when it is admitted for the first time.
    pub(super) fn begin_guide(&mut self) {
        self.mask = self.params.guide.as_mut().and_then(|guide| guide.next(None));
    }

    /// Notes that its next `tokens` are computed by a step that was launched.
    pub(super) fn launch(&mut self, step: u64, segment: usize, tokens: usize) {
        let chooses = self.launched + tokens == self.length() && self.params.max_tokens > 0;
        self.flights.push_back(InFlight { step, segment, tokens, chooses });
        self.launched += tokens;
    }

    /// The segment of a step that computes it: the step it was launched in first, of those in flight.
    pub(super) fn land(&mut self, step: u64) -> Option<InFlight> {
        self.flights.pop_front_if(|flight| flight.step == step)
    }

    /// Forgets what is in flight: it is computed again. How many tokens a step has of it, which was the oldest.
    pub(super) fn withdraw(&mut self, step: u64) -> Option<usize> {
        let tokens = self.land(step).map(|flight| flight.tokens);
        self.flights.clear();
        self.launched = self.computed;
        tokens
    }

    /// Gives its blocks up, and what was computed and is in flight with them.
    pub(super) fn preempt(&mut self) {
        self.flights.clear();
        (self.launched, self.computed, self.found, self.registered) = (0, 0, 0, 0);
        self.pooled.clear();
    }

    /// The reason to end it, if its reader wants no more.
    pub(super) fn unwanted(&self) -> Option<End> {
        match self.reader.reading() {
            Reading::Satisfied => Some(End::Finished(FinishReason::Stop)),
            Reading::Gone => Some(End::Abandoned),
            Reading::Ready | Reading::Full => None,
        }
    }

    pub(super) fn send(&mut self, event: Event) {
        // Room was checked before the sequence was scheduled, so this fails where the reader is gone: with all it
        // wanted, or in the middle.
        if !self.reader.send(event) {
            self.end = self.end.or(self.unwanted()).or(Some(End::Abandoned));
        }
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.send(Event::Failed(why.into()));
        self.end = Some(End::Failed);
    }

    /// Adds what was computed of its next `tokens`: reports on the prompt, takes the token that was chosen, decides on the
    /// end. True where a token came.
    pub(super) fn advance(&mut self, tokens: usize, outcome: Outcome) -> bool {
        let first = self.computed;
        self.computed += tokens;
        self.launched = self.launched.max(self.computed);
        if self.params.pooled.is_some() {
            self.pool(outcome.hidden);
            return false;
        }
        if !outcome.scores.is_empty() {
            self.report_prompt(first, outcome.scores);
        }
        let (Some(chosen), true) = (outcome.token, self.computed == self.tokens.len()) else { return false };
        if self.params.max_tokens == 0 {
            self.send(Event::PromptDone);
            self.end = self.end.or(Some(End::Finished(FinishReason::Length)));
            return false;
        }
        if let Some(Err(why)) = self.mask.as_ref().map(PendingMask::wait) {
            let stuck = Event::Stuck(why.to_owned());
            self.send(stuck);
            self.end = Some(End::Failed);
            return false;
        }
        let Chosen { id, logprobs } = chosen;
        self.tokens.push(id);
        let finish = self.finish(id);
        if finish.is_none() {
            self.mask = self.params.guide.as_mut().and_then(|guide| guide.next(Some(id)));
        }
        self.send(Event::Token { id, logprobs, finish });
        self.end = self.end.or(finish.map(End::Finished));
        true
    }

    /// Adds the states of a part of the prompt; sends what has become of them when all of it was computed.
    fn pool(&mut self, states: Vec<f32>) {
        if self.pooled.is_empty() {
            self.pooled = states;
        } else {
            self.pooled.iter_mut().zip(states).for_each(|(sum, state)| *sum += state);
        }
        if self.computed < self.tokens.len() {
            return;
        }
        let mut pooled = std::mem::take(&mut self.pooled);
        if self.params.pooled == Some(Pooled::Mean) {
            #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
            let count = self.tokens.len() as f32;
            pooled.iter_mut().for_each(|number| *number /= count);
        }
        self.send(Event::Pooled(pooled));
        self.end = self.end.or(Some(End::Finished(FinishReason::Stop)));
    }

    /// Reports how likely the tokens of the prompt were that follow the positions from `first` on.
    fn report_prompt(&mut self, first: usize, scores: Vec<Logprobs>) {
        // Computed again after a preemption: what was reported is not repeated.
        let already = self.reported.saturating_sub(first);
        let entries: Vec<Logprobs> = scores.into_iter().skip(already).collect();
        self.reported += entries.len();
        if !entries.is_empty() {
            self.send(Event::PromptLogprobs(entries));
        }
    }

    fn finish(&self, id: u32) -> Option<FinishReason> {
        let (params, generated) = (&self.params, self.generated().len());
        if params.stop_ids.contains(&id) && generated > params.min_tokens {
            return Some(FinishReason::Stop);
        }
        self.is_full(self.tokens.len()).then_some(FinishReason::Length)
    }

    /// True if it ends at this length.
    fn is_full(&self, length: usize) -> bool {
        length - self.prompt_tokens >= self.params.max_tokens || length >= self.length_max
    }
}
