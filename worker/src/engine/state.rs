//! One sequence in the engine's core: its tokens, its blocks, how far it is, and what a step's logits do to it.

use super::order::Order;
use super::prefix::{BlockName, CacheSalt};
use super::reader::{Reader, Reading};
use super::scheduler::Running;
use super::sequence::{Event, FinishReason, SequenceParams};
use compute::backend::{Generation, WantLogits};
use compute::sampler::{self, History, Logprobs, Scratch};
use std::time::Instant;

/// What the core is asked.
#[derive(Debug)]
pub(super) struct Ask<R> {
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
    salt: CacheSalt,
    pub(super) order: Order,
    /// The prompt's tokens, then those generated.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_tokens: usize,
    pub(super) blocks: Vec<u32>,
    /// The names of its full blocks, as far as they were worked out, for the weights of `named_for`.
    pub(super) names: Vec<BlockName>,
    named_for: Generation,
    /// How many of its blocks are known by their names, or are another's of that name.
    pub(super) registered: usize,
    /// Which weights it is computed with; decided when it is first admitted.
    pub(super) generation: Option<Generation>,
    /// Tokens whose keys and values are in the blocks.
    pub(super) computed: usize,
    /// How many of those were found when it was admitted.
    pub(super) found: usize,
    /// Prompt positions whose log probabilities were reported; a preemption does not repeat them.
    reported: usize,
    pub(super) queued_at: Instant,
    pub(super) last_token_at: Option<Instant>,
    pub(super) paused_since: Option<Instant>,
    pub(super) end: Option<End>,
}

/// Why a sequence leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished(FinishReason),
    Abandoned,
    Failed,
}

impl<R: Reader> Sequence<R> {
    pub(super) fn new(ask: Ask<R>, order: Order, now: Instant) -> Self {
        Self {
            reader: ask.reader,
            params: ask.params,
            salt: ask.salt,
            order,
            prompt_tokens: ask.prompt.len(),
            tokens: ask.prompt,
            blocks: Vec::new(),
            names: Vec::new(),
            named_for: Generation::default(),
            registered: 0,
            generation: None,
            computed: 0,
            found: 0,
            reported: 0,
            queued_at: now,
            last_token_at: None,
            paused_since: None,
            end: None,
        }
    }

    pub(super) fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_tokens..]
    }

    fn wants_prompt_logprobs(&self) -> bool {
        self.params.prompt_logprobs.is_some() && self.reported + 1 < self.prompt_tokens
    }

    pub(super) fn facts(&self) -> Running {
        Running {
            pending: self.tokens.len() - self.computed,
            computed: self.computed,
            to_compute: self.tokens.len() - self.found,
            blocks: self.blocks.len(),
            revived: 0,
            all_logits: self.wants_prompt_logprobs(),
            is_paused: self.paused_since.is_some(),
        }
    }

    /// Works out the names of its full blocks, with the weights of `generation`.
    pub(super) fn name_blocks(&mut self, generation: Generation, block_tokens: usize) {
        if self.named_for != generation {
            self.names.clear();
            self.named_for = generation;
        }
        for block in self.tokens[self.names.len() * block_tokens..].chunks_exact(block_tokens) {
            let before = self.names.last().copied();
            let before = before.unwrap_or_else(|| BlockName::root(&self.salt, generation));
            self.names.push(before.then(block));
        }
    }

    /// The names of blocks that need not be computed where they are found: the last token is always computed, since
    /// its logits are wanted, and so is a prompt of which every position's are.
    pub(super) fn skippable(&self, block_tokens: usize) -> &[BlockName] {
        if self.wants_prompt_logprobs() {
            return &[];
        }
        let most = self.tokens.len().saturating_sub(1) / block_tokens;
        &self.names[..most.min(self.names.len())]
    }

    /// Which logits it wants of its next `tokens`.
    pub(super) fn wants(&self, tokens: usize) -> WantLogits {
        if self.wants_prompt_logprobs() {
            WantLogits::All
        } else if self.computed + tokens == self.tokens.len() {
            WantLogits::Last
        } else {
            WantLogits::None
        }
    }

    /// Why it leaves, where its reader wants no more of it.
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

    /// Takes in the logits of its next `tokens`, `rows` of them: reports on the prompt, samples, decides on the end.
    /// True where a token was sampled.
    pub(super) fn advance<'a>(
        &mut self,
        tokens: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone,
        max_model_len: usize,
        scratch: &mut Scratch,
    ) -> bool {
        let first = self.computed;
        self.computed += tokens;
        if let Some(top) = self.params.prompt_logprobs.filter(|_| self.wants_prompt_logprobs()) {
            self.report_prompt(first, rows.clone(), top, scratch);
        }
        let (Some(row), true) = (rows.last(), self.computed == self.tokens.len()) else { return false };
        if self.params.max_tokens == 0 {
            self.send(Event::PromptDone);
            self.end = self.end.or(Some(End::Finished(FinishReason::Length)));
            return false;
        }
        let (id, logprobs) = self.choose(row, scratch);
        self.tokens.push(id);
        let finish = self.finish(id, max_model_len);
        self.send(Event::Token { id, logprobs, finish });
        self.end = self.end.or(finish.map(End::Finished));
        true
    }

    /// Logits at position p say how likely token p + 1 was.
    fn report_prompt<'a>(
        &mut self,
        first: usize,
        rows: impl Iterator<Item = &'a [f32]>,
        top: usize,
        scratch: &mut Scratch,
    ) {
        let prompt = &self.tokens[..self.prompt_tokens];
        let entries: Vec<Logprobs> = rows
            .zip(first + 1..prompt.len())
            // Computed again after a preemption: what was reported is not repeated.
            .filter(|(_, position)| *position > self.reported)
            .map(|(row, position)| sampler::logprobs(row, prompt[position], top, scratch))
            .collect();
        self.reported += entries.len();
        if !entries.is_empty() {
            self.send(Event::PromptLogprobs(entries));
        }
    }

    fn choose(&self, row: &[f32], scratch: &mut Scratch) -> (u32, Option<Logprobs>) {
        let params = &self.params;
        let (prompt, generated) = self.tokens.split_at(self.prompt_tokens);
        let is_early = generated.len() < params.min_tokens;
        let history = History { prompt, generated, banned: if is_early { &params.stop_ids } else { &[] } };
        let id = sampler::sample(row, &params.sampling, history, scratch);
        let logprobs = params.sampling.logprobs.map(|top| sampler::logprobs(row, id, top, scratch));
        (id, logprobs)
    }

    fn finish(&self, id: u32, max_model_len: usize) -> Option<FinishReason> {
        let (params, generated) = (&self.params, self.generated().len());
        if params.stop_ids.contains(&id) && generated > params.min_tokens {
            return Some(FinishReason::Stop);
        }
        let is_full = generated >= params.max_tokens || self.tokens.len() >= max_model_len;
        is_full.then_some(FinishReason::Length)
    }
}
