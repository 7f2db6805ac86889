//! The `scripted` backend: no weights, no arithmetic. Its logits are a hash of the sequence's own
//! tokens, so fleets can be simulated and the engine tested at thousands of sequences, one step at a time or two.
//!
//! It keeps every position's token in the KV blocks it is given and reads its history back from
//! them: a scheduler that mixes blocks up gets different text, not silence.

use crate::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, Makes, Part, Pooling, Prepared, QuantizationLoss,
    Segment, Step, StepError, Want, check,
};
use crate::kind::{BuildError, Built, Kind, Model, Rows, Sizes};
use crate::memory::Need;
use crate::results::{self, NotFinite, Outbox, Outcome, Results, StepTimes};
use crate::sampler::{Scratch, splitmix64};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Positions in a KV block.
const BLOCK_TOKENS: usize = 16;
/// The longest sequence, where nobody asks for a length.
const POSITIONS: usize = 32_768;
/// Numbers of a hidden state.
const HIDDEN_SIZE: usize = 64;

/// The kind: backends that invent text.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    step: Duration,
}

/// The weights of this kind: none.
#[derive(Debug, Clone, Copy)]
struct Nothing {
    vocab_size: usize,
}

impl Scripted {
    pub(crate) fn new(step: Duration) -> Self {
        Self { step }
    }
}

impl Kind for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn reads_weights(&self) -> bool {
        false
    }

    fn preparation(&self) -> &'static str {
        "scripted"
    }

    fn kv_layout(&self, _model: &Model) -> String {
        format!("scripted 1; {BLOCK_TOKENS} tokens")
    }

    fn device_bytes(&self) -> Option<u64> {
        None
    }

    fn need(&self, _model: &Model, _rows: Rows) -> Need {
        Need {
            copies_bytes: 0,
            activation_bytes: 0,
            kv_block_bytes: (BLOCK_TOKENS * size_of::<u32>()) as u64,
            kv_block_tokens: BLOCK_TOKENS,
            positions: POSITIONS,
            kv_blocks_max: None,
        }
    }

    fn prepare(&self, model: &Model) -> Result<Arc<dyn Prepared>, BuildError> {
        Ok(Arc::new(Nothing { vocab_size: model.vocab_size }))
    }

    fn build(&self, weights: &Arc<dyn Prepared>, sizes: &Sizes) -> Result<Built, BuildError> {
        let weights = (&**weights as &dyn Any).downcast_ref::<Nothing>();
        let weights = weights.ok_or_else(|| BuildError::other_weights("scripted"))?;
        let limits = Limits {
            vocab_size: weights.vocab_size,
            max_position: sizes.max_position,
            max_rows: sizes.rows.max_rows,
            max_logits_rows: sizes.rows.max_logits_rows,
            kv_block_tokens: BLOCK_TOKENS,
            kv_blocks: sizes.kv_blocks,
            kv_block_bytes: BLOCK_TOKENS * size_of::<u32>(),
            hidden_size: HIDDEN_SIZE,
            makes: Makes::Logits,
            is_whole: false,
            sums: true,
            depth: 1,
        };
        let options = ScriptedOptions { limits, step: self.step, row: Duration::ZERO };
        Ok(Built { backend: Box::new(ScriptedBackend::new(options)), kv_pages: None })
    }
}

impl Prepared for Nothing {
    fn has_work(&self) -> bool {
        false
    }

    fn complete(&self, _base: Option<&dyn Prepared>, _wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), StepError> {
        Ok(())
    }

    fn loss(&self) -> QuantizationLoss {
        QuantizationLoss::default()
    }
}

/// Weights to install in a scripted backend, which answers differently from then on.
#[must_use]
pub fn other_script(vocab_size: usize) -> Arc<dyn Prepared> {
    Arc::new(Nothing { vocab_size })
}

/// Behaviour of a scripted model.
#[derive(Debug, Clone)]
pub struct ScriptedOptions {
    /// Its sizes.
    pub limits: Limits,
    /// Duration of a step, whatever it computes.
    pub step: Duration,
    /// Duration that each row adds.
    pub row: Duration,
}

/// A backend without weights.
#[derive(Debug)]
pub struct ScriptedBackend {
    options: ScriptedOptions,
    /// The token at each position of each block.
    memory: Vec<u32>,
    /// The rows of one segment.
    rows: Vec<f32>,
    /// The generations there are, oldest first; each answers differently.
    generations: Vec<Generation>,
    outbox: Outbox,
    /// When each step in flight is over, oldest first.
    ends: VecDeque<Instant>,
    scratch: Scratch,
}

impl ScriptedBackend {
    /// Allocates the memory for the limits given.
    #[must_use]
    pub fn new(options: ScriptedOptions) -> Self {
        let limits = &options.limits;
        let memory = vec![0; limits.kv_blocks * limits.kv_block_tokens];
        Self {
            options,
            memory,
            rows: Vec::new(),
            generations: vec![Generation::default()],
            outbox: Outbox::default(),
            ends: VecDeque::new(),
            scratch: Scratch::default(),
        }
    }

    fn slot(&self, segment: &Segment<'_>, position: usize) -> usize {
        let size = self.options.limits.kv_block_tokens;
        segment.blocks[position / size] as usize * size + position % size
    }

    /// A hash of the tokens at `0..=position`, as the blocks have them, different in each generation.
    fn history(&self, generation: Generation, segment: &Segment<'_>, position: usize) -> u64 {
        let begin = 0xCBF2_9CE4_8422_2325 ^ u64::from(generation.0);
        let hash = (0..=position).fold(begin, |hash: u64, at| {
            (hash ^ u64::from(self.memory[self.slot(segment, at)]) ^ ((at as u64) << 32))
                .wrapping_mul(0x0000_0100_0000_01B3)
        });
        // Mixed once more: the low bits of the fold alone have short cycles, and text would too.
        splitmix64(hash)
    }

    /// Writes a segment's tokens into its blocks, and answers.
    fn segment(
        &mut self,
        generation: Generation,
        segment: &Segment<'_>,
    ) -> Result<Result<Outcome, NotFinite>, StepError> {
        let previous = match segment.input {
            Input::Tokens(_) => None,
            Input::Previous(of) => Some(self.outbox.previous(of)?),
        };
        let tokens = match (&segment.input, &previous) {
            (Input::Tokens(tokens), _) => *tokens,
            (Input::Previous(_), previous) => previous.as_slice(),
        };
        let is_hidden = results::wants_hidden(segment);
        let width = if is_hidden { self.options.limits.hidden_size } else { self.options.limits.vocab_size };
        let picked = segment.picked();
        let is_sum = matches!(segment.want, Want::Hidden(Pooling::Sum));
        self.rows.clear();
        for (row, &token) in tokens.iter().enumerate() {
            let position = segment.start + row;
            let slot = self.slot(segment, position);
            self.memory[slot] = token;
            if is_sum || picked.contains(row, tokens.len()) {
                let hash = self.history(generation, segment, position);
                let begin = self.rows.len();
                self.rows.resize(begin + width, 0.0);
                if is_hidden { spread(&mut self.rows[begin..], hash) } else { fill(&mut self.rows[begin..], hash) }
            }
        }
        let vocabulary = self.options.limits.vocab_size;
        if is_sum {
            self.rows = sums(&self.rows, width);
        }
        Ok(if is_hidden {
            results::hidden(&self.rows)
        } else {
            results::outcome(segment, previous, &self.rows, vocabulary, &mut self.scratch)
        })
    }

    /// Notes when a step of so many rows is over: after those before it.
    fn schedule(&mut self, rows: usize) -> Duration {
        let pause = self.options.step + self.options.row * u32::try_from(rows).unwrap_or(u32::MAX);
        let now = Instant::now();
        let begin = self.ends.back().map_or(now, |end| now.max(*end));
        self.ends.push_back(begin + pause);
        pause
    }
}

impl Backend for ScriptedBackend {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn limits(&self) -> &Limits {
        &self.options.limits
    }

    /// There are no weights to wait for.
    fn launch(&mut self, step: &Step<'_>, _wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        check(&self.options.limits, self.outbox.len(), step.segments)?;
        if !self.generations.contains(&step.generation) {
            return Err(StepError::Contract(format!("there is no {:?}", step.generation)));
        }
        let begun = Instant::now();
        let mut results = self.outbox.begin();
        for segment in step.segments {
            results.outcomes.push(self.segment(step.generation, segment)?);
        }
        let compute = begun.elapsed() + self.schedule(step.segments.iter().map(Segment::rows).sum());
        self.outbox.push(results, StepTimes { compute, choose: Duration::ZERO });
        Ok(())
    }

    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        if let Some(end) = self.ends.pop_front() {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        self.outbox.collect(results)
    }

    fn abandon(&mut self) {
        self.outbox.clear();
        self.ends.clear();
    }

    /// It has no parts.
    fn report_to(&mut self, _location: &Arc<Location>) {}

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        let Some(weights) = (&**weights as &dyn Any).downcast_ref::<Nothing>() else {
            return Err(InstallError::Unsupported { backend: self.name() });
        };
        if weights.vocab_size != self.options.limits.vocab_size {
            return Err(InstallError::Differs { field: "vocab_size" });
        }
        let newest = self.generations.last().copied().unwrap_or_default();
        let generation = Generation(newest.0 + 1);
        self.generations.push(generation);
        Ok(generation)
    }

    fn retire(&mut self, generation: Generation) {
        let newest = self.generations.last().copied();
        self.generations.retain(|own| *own != generation || Some(*own) == newest);
    }
}

/// A peaked distribution: one token far ahead, a few behind it, the rest low.
fn fill(logits: &mut [f32], hash: u64) {
    logits.fill(-10.0);
    for (rank, shift) in [0, 16, 32, 48].into_iter().enumerate() {
        let token = (hash.rotate_right(shift) % logits.len() as u64) as usize;
        #[expect(clippy::cast_precision_loss, reason = "ranks below four")]
        let height = 5.0 - rank as f32;
        logits[token] = logits[token].max(height);
    }
}

/// The sum of rows.
fn sums(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
    }
    sum
}

/// A hidden state: numbers from 0 to 1.
fn spread(state: &mut [f32], hash: u64) {
    for (at, number) in (0_u64..).zip(state) {
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exactly an f32's")]
        let numerator = (splitmix64(hash ^ at) >> 40) as f32;
        *number = numerator / 16_777_216.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Choice;

    fn deep(depth: usize) -> ScriptedBackend {
        let limits = Limits {
            vocab_size: 50,
            max_position: 64,
            max_rows: 32,
            max_logits_rows: 32,
            kv_block_tokens: 4,
            kv_blocks: 16,
            kv_block_bytes: 16,
            hidden_size: 8,
            makes: Makes::Logits,
            is_whole: false,
            sums: true,
            depth,
        };
        ScriptedBackend::new(ScriptedOptions { limits, step: Duration::ZERO, row: Duration::ZERO })
    }

    fn segment<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Segment<'a> {
        Segment { input: Input::Tokens(tokens), start, blocks, want: Want::Token(Choice::greedy()) }
    }

    fn launch(backend: &mut ScriptedBackend, segments: &[Segment<'_>]) {
        let step = Step { generation: Generation(0), segments };
        backend.launch(&step, &mut |_| true).expect("within the limits");
    }

    fn collect(backend: &mut ScriptedBackend) -> Vec<Outcome> {
        let mut results = Results::default();
        backend.collect(&mut results).expect("a step");
        results.outcomes.into_iter().map(|outcome| outcome.expect("finite")).collect()
    }

    fn steps(backend: &mut ScriptedBackend, segments: &[Segment<'_>]) -> Vec<Outcome> {
        launch(backend, segments);
        collect(backend)
    }

    fn token(outcome: &Outcome) -> u32 {
        outcome.token.as_ref().expect("a token").id
    }

    #[test]
    fn chunks_and_company_change_nothing() {
        let expected = steps(&mut deep(1), &[segment(&[1, 2, 3, 4, 5, 6], 0, &[7, 2])]);
        let mut cut = deep(1);
        steps(&mut cut, &[segment(&[9; 3], 0, &[0]), segment(&[1, 2, 3, 4, 5], 0, &[3, 1])]);
        let found = steps(&mut cut, &[segment(&[9], 3, &[0]), segment(&[6], 5, &[3, 1])]);
        assert_eq!(found[1], expected[0]);
    }

    #[test]
    fn its_text_does_not_run_in_circles() {
        let mut backend = deep(1);
        let blocks: Vec<u32> = (0..16).collect();
        let mut tokens = vec![1];
        while tokens.len() < 60 {
            let last = tokens.len() - 1;
            let found = steps(&mut backend, &[segment(&tokens[last..], last, &blocks)]);
            tokens.push(token(&found[0]));
        }
        let distinct: std::collections::BTreeSet<u32> = tokens.iter().copied().collect();
        assert!(distinct.len() > 20, "{tokens:?}");
    }

    #[test]
    fn mixed_up_blocks_show() {
        let hidden = |blocks| Segment { want: Want::Hidden(Pooling::Last), ..segment(&[5], 4, blocks) };
        let mut backend = deep(1);
        steps(&mut backend, &[segment(&[1, 2, 3, 4], 0, &[0])]);
        steps(&mut backend, &[segment(&[8, 8, 8, 8], 0, &[5])]);
        let right = steps(&mut backend, &[hidden(&[0, 1])]);
        let wrong = steps(&mut backend, &[hidden(&[5, 1])]);
        assert_ne!(right, wrong);
        assert_eq!(right[0].hidden.len(), 8);
    }

    #[test]
    fn a_step_may_continue_with_a_token_that_nobody_has_seen() {
        let (mut one, mut two) = (deep(1), deep(2));
        let first = steps(&mut one, &[segment(&[1, 2], 0, &[3])]);
        let next = [token(&first[0])];
        let second = steps(&mut one, &[segment(&next, 2, &[3])]);
        let ahead = Segment { input: Input::Previous(1), ..segment(&[], 2, &[3]) };
        launch(&mut two, &[segment(&[7], 0, &[4]), segment(&[1, 2], 0, &[3])]);
        launch(&mut two, &[ahead]);
        let step = Step { generation: Generation(0), segments: &[ahead] };
        assert!(matches!(two.launch(&step, &mut |_| true), Err(StepError::Contract(_))), "two are in flight");
        assert_eq!(collect(&mut two)[1], first[0]);
        assert_eq!(collect(&mut two), second);
        assert!(matches!(two.launch(&step, &mut |_| true), Err(StepError::Contract(_))), "nothing came before");
        assert!(two.collect(&mut Results::default()).is_err());
    }

    #[test]
    fn scores_are_of_the_tokens_asked_about() {
        let tokens = [1, 2, 3, 4];
        let want = Want::Scores { next: &tokens[1..], top: 2, then: Some(Choice::greedy()) };
        let whole = steps(&mut deep(1), &[Segment { want, ..segment(&tokens, 0, &[0]) }]);
        assert_eq!((whole[0].scores.len(), whole[0].scores[0].top.len()), (3, 2));
        let last = steps(&mut deep(1), &[segment(&tokens, 0, &[0])]);
        assert_eq!(token(&whole[0]), token(&last[0]));
    }
}
