//! Steps by shape, with and without sending, and what they say of harm.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Steps that are compared: the newest of each pool, and the fewest that say anything.
const STEPS_MAX: usize = 128;
const STEPS_MIN: usize = 64;
/// Steps without sending that the usual time of a shape is taken from, and the fewest.
const USUAL_MAX: usize = 32;
const USUAL_MIN: usize = 4;
/// The percentile compared.
const PERCENTILE: f64 = 0.95;

/// A step of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSeen {
    /// The engine, by any number: steps of one shape take longer in one than in another.
    pub engine: u32,
    /// When it ended, on the clock that the governor is given.
    pub ended: Duration,
    /// How long it took.
    pub took: Duration,
    /// Tokens of sequences that generate.
    pub decode_tokens: u32,
    /// Tokens of prompts.
    pub prompt_tokens: u32,
}

/// The difference that sending makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Harm {
    /// The 95th percentile with sending, divided by that without.
    pub ratio: f64,
    /// The share of steps with sending that were slower than the latter; 0.05 where sending changes nothing.
    pub slower: f64,
}

/// The steps seen lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Pools {
    /// Times of steps without sending, by shape; shapes are powers of two, so there are few.
    usual: BTreeMap<Shape, VecDeque<f64>>,
    decode: Pool,
    prompt: Pool,
    /// Steps with sending since a decision.
    fresh: usize,
}

/// The engine, and tokens that generate and tokens of prompts, each as a power of two.
type Shape = (u32, u32, u32);

/// Times divided by the usual ones of their shapes.
#[derive(Debug, Clone, Default)]
struct Pool {
    with: VecDeque<f64>,
    without: VecDeque<f64>,
}

impl Pools {
    /// Notes a step, unless nothing is known of its shape.
    pub(super) fn add(&mut self, step: &StepSeen, with: bool) {
        let shape = (step.engine, bits(step.decode_tokens), bits(step.prompt_tokens));
        let took = step.took.as_secs_f64();
        let usual = self.usual.entry(shape).or_default();
        if !with {
            push(usual, took, USUAL_MAX);
        }
        let Some(usual) = median(usual).filter(|usual| *usual > 0.0) else { return };
        let pool = if step.prompt_tokens == 0 { &mut self.decode } else { &mut self.prompt };
        push(if with { &mut pool.with } else { &mut pool.without }, took / usual, STEPS_MAX);
        self.fresh += usize::from(with);
    }

    /// The worse of both kinds of steps.
    pub(super) fn harm(&self) -> Option<Harm> {
        let (decode, prompt) = (self.decode.harm(), self.prompt.harm());
        match (decode, prompt) {
            (Some(decode), Some(prompt)) => Some(if prompt.ratio > decode.ratio { prompt } else { decode }),
            (decode, prompt) => decode.or(prompt),
        }
    }

    /// Steps with sending since [`Pools::judge`].
    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Begins to count fresh steps.
    pub(super) fn judge(&mut self) {
        self.fresh = 0;
    }

    /// Forgets the steps with sending.
    pub(super) fn forget_with(&mut self) {
        self.decode.with.clear();
        self.prompt.with.clear();
        self.fresh = 0;
    }

    /// The usual time of the slowest shape.
    pub(super) fn usual_step(&self) -> Duration {
        let slowest = self.usual.values().filter_map(median).fold(0.0, f64::max);
        Duration::try_from_secs_f64(slowest).unwrap_or_default()
    }
}

impl Pool {
    fn harm(&self) -> Option<Harm> {
        if self.with.len() < STEPS_MIN || self.without.len() < STEPS_MIN {
            return None;
        }
        let (with, without) = (percentile(&self.with), percentile(&self.without));
        let slower = self.with.iter().filter(|time| **time > without).count();
        #[expect(clippy::cast_precision_loss, reason = "numbers of steps")]
        let slower = slower as f64 / self.with.len() as f64;
        Some(Harm { ratio: with / without, slower })
    }
}

fn push(times: &mut VecDeque<f64>, time: f64, most: usize) {
    if times.len() == most {
        times.pop_front();
    }
    times.push_back(time);
}

fn sorted(times: &VecDeque<f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = times.iter().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn median(times: &VecDeque<f64>) -> Option<f64> {
    (times.len() >= USUAL_MIN).then(|| sorted(times)[times.len() / 2])
}

/// Of a pool that is not empty.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place among few"
)]
fn percentile(times: &VecDeque<f64>) -> f64 {
    let place = (times.len() as f64 * PERCENTILE) as usize;
    sorted(times)[place.min(times.len() - 1)]
}

/// The number of bits of a number.
const fn bits(number: u32) -> u32 {
    u32::BITS - number.leading_zeros()
}
