//! The `scripted` backend: no weights, no arithmetic. Its logits are a hash of the sequence's own
//! tokens, so fleets can be simulated and the engine tested at thousands of sequences.
//!
//! It keeps every position's token in the KV blocks it is given and reads its history back from
//! them: a scheduler that mixes blocks up gets different text, not silence.

use crate::backend::{
    Backend, Generation, InstallError, Limits, Part, Revision, Segment, StepError, WantLogits, check,
};
use crate::sampler::splitmix64;
use std::time::Duration;

/// How a scripted model behaves.
#[derive(Debug, Clone)]
pub struct ScriptedOptions {
    /// What it was sized for.
    pub limits: Limits,
    /// How long a step takes, whatever it computes.
    pub step: Duration,
    /// How much each row adds to that.
    pub row: Duration,
}

/// A backend without weights.
#[derive(Debug)]
pub struct ScriptedBackend {
    options: ScriptedOptions,
    /// The token at each position of each block.
    memory: Vec<u32>,
    logits: Vec<f32>,
    /// The generations there are, oldest first; each answers differently.
    generations: Vec<Generation>,
}

impl ScriptedBackend {
    /// Allocates the memory for the limits given.
    #[must_use]
    pub fn new(options: ScriptedOptions) -> Self {
        let limits = &options.limits;
        let memory = vec![0; limits.kv_blocks * limits.kv_block_tokens];
        let logits = vec![0.0; limits.max_logits_rows * limits.vocab_size];
        Self { options, memory, logits, generations: vec![Generation::default()] }
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
}

impl Backend for ScriptedBackend {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn limits(&self) -> &Limits {
        &self.options.limits
    }

    fn step(&mut self, segments: &[Segment<'_>]) -> Result<&[f32], StepError> {
        let newest = self.generations.last().copied().unwrap_or_default();
        self.step_of(newest, segments, &mut |_| true)
    }

    fn step_of(
        &mut self,
        generation: Generation,
        segments: &[Segment<'_>],
        _goes_on: &mut dyn FnMut(Part) -> bool,
    ) -> Result<&[f32], StepError> {
        check(&self.options.limits, segments)?;
        if !self.generations.contains(&generation) {
            return Err(StepError::Contract(format!("there is no {generation:?}")));
        }
        let rows: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        let pause = self.options.step + self.options.row * u32::try_from(rows).unwrap_or(u32::MAX);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let vocabulary = self.options.limits.vocab_size;
        let mut row = 0;
        for segment in segments {
            for (offset, &token) in segment.tokens.iter().enumerate() {
                let position = segment.start + offset;
                let slot = self.slot(segment, position);
                self.memory[slot] = token;
                let is_last = offset + 1 == segment.tokens.len();
                if segment.want == WantLogits::All || (segment.want == WantLogits::Last && is_last) {
                    let hash = self.history(generation, segment, position);
                    fill(&mut self.logits[row * vocabulary..(row + 1) * vocabulary], hash);
                    row += 1;
                }
            }
        }
        Ok(&self.logits[..row * vocabulary])
    }

    fn install(&mut self, _revision: Revision) -> Result<Generation, InstallError> {
        let newest = self.generations.last().copied().unwrap_or_default();
        let generation = Generation(newest.0 + 1);
        self.generations.push(generation);
        Ok(generation)
    }

    fn retire(&mut self, generation: Generation) {
        self.generations.retain(|own| *own != generation);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> ScriptedBackend {
        ScriptedBackend::new(ScriptedOptions {
            limits: Limits {
                vocab_size: 50,
                max_position: 64,
                max_rows: 32,
                max_logits_rows: 32,
                kv_block_tokens: 4,
                kv_blocks: 16,
                kv_block_bytes: 16,
            },
            step: Duration::ZERO,
            row: Duration::ZERO,
        })
    }

    fn segment<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Segment<'a> {
        Segment { tokens, start, blocks, want: WantLogits::Last }
    }

    #[test]
    fn chunks_and_company_change_nothing() {
        let mut whole = backend();
        let expected = whole.step(&[segment(&[1, 2, 3, 4, 5, 6], 0, &[7, 2])]).expect("steps").to_vec();
        let mut cut = backend();
        cut.step(&[segment(&[9; 3], 0, &[0]), segment(&[1, 2, 3, 4, 5], 0, &[3, 1])]).expect("steps");
        let found = cut.step(&[segment(&[9], 3, &[0]), segment(&[6], 5, &[3, 1])]).expect("steps");
        assert_eq!(&found[50..], expected);
    }

    #[test]
    fn its_text_does_not_run_in_circles() {
        let mut backend = backend();
        let blocks: Vec<u32> = (0..16).collect();
        let mut tokens = vec![1];
        while tokens.len() < 60 {
            let logits =
                backend.step(&[segment(&tokens[tokens.len() - 1..], tokens.len() - 1, &blocks)]).expect("steps");
            let best =
                (0..logits.len()).max_by(|&left, &right| logits[left].total_cmp(&logits[right])).expect("logits");
            tokens.push(u32::try_from(best).expect("small"));
        }
        let distinct: std::collections::BTreeSet<u32> = tokens.iter().copied().collect();
        assert!(distinct.len() > 20, "{tokens:?}");
    }

    #[test]
    fn mixed_up_blocks_show() {
        let mut backend = backend();
        backend.step(&[segment(&[1, 2, 3, 4], 0, &[0])]).expect("steps");
        backend.step(&[segment(&[8, 8, 8, 8], 0, &[5])]).expect("steps");
        let right = backend.step(&[segment(&[5], 4, &[0, 1])]).expect("steps").to_vec();
        let wrong = backend.step(&[segment(&[5], 4, &[5, 1])]).expect("steps").to_vec();
        assert_ne!(right, wrong);
    }
}
