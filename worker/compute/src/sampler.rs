//! Choosing a token: a pure function of logits, parameters, history and a number.
//!
//! Randomness is stateless: the draw for a sequence's k-th token depends on its seed and k alone,
//! so batching, preemption and company change nothing. The order of the steps is vLLM's: mask, bans
//! and biases, penalties, temperature, then min-p, top-k and top-p. It knows no request and no text.

mod mask;
mod rank;
mod weigh;

pub use mask::{Mask, PendingMask};

use rank::{Candidate, Histogram, Reached, by_rank};
use weigh::Scale;

/// So many of the largest are looked at before the whole vocabulary is: a nucleus is rarely larger.
const FEW: usize = 256;

/// Sampling parameters, all defaults resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// 0 is greedy.
    pub temperature: f32,
    /// In (0, 1]; 1 keeps everything.
    pub top_p: f32,
    /// 0 keeps everything.
    pub top_k: usize,
    /// In [0, 1], relative to the likeliest token; 0 keeps everything.
    pub min_p: f32,
    /// The stream of draws.
    pub seed: u64,
    /// Subtracted from the logits of tokens already generated.
    pub presence_penalty: f32,
    /// The same, times the number of occurrences.
    pub frequency_penalty: f32,
    /// Divides (positive) or multiplies (negative) the logits of tokens of prompt and completion
    /// (Keskar et al. 2019); 1 is none.
    pub repetition_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Number of the likeliest tokens to report; `None` reports no log probability at all.
    pub logprobs: Option<usize>,
}

impl Params {
    /// Every logit as it is, and every token possible.
    const fn at(temperature: f32) -> Self {
        Self {
            temperature,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::at(1.0)
    }
}

/// The tokens before a choice, and restrictions on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// The prompt.
    pub prompt: &'a [u32],
    /// The tokens generated so far, as far as they are known to whoever asks.
    pub generated: &'a [u32],
    /// The token after those, where a backend that runs ahead knows it first.
    pub previous: Option<u32>,
    /// Number of this draw: how many tokens were generated before it.
    pub draw: u64,
    /// Tokens that may not come now (`min_tokens`).
    pub banned: &'a [u32],
    /// The only tokens that may come; all if none. A mask that cannot be had allows all: whoever asked for the choice
    /// looks before it takes the token.
    pub mask: Option<&'a PendingMask>,
}

impl<'a> History<'a> {
    /// Every token generated so far.
    fn generated(self) -> impl Iterator<Item = u32> + use<'a> {
        self.generated.iter().copied().chain(self.previous)
    }
}

/// The choice of one token: everything that chance, penalties and bans depend on.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The request's parameters.
    pub params: &'a Params,
    /// The sequence so far.
    pub history: History<'a>,
}

impl Choice<'static> {
    /// The likeliest token, whatever came before.
    #[must_use]
    pub fn greedy() -> Self {
        static GREEDY: Params = Params::at(0.0);
        Self { params: &GREEDY, history: History::default() }
    }
}

impl Choice<'_> {
    /// The same choice after a token that was not known when it was made.
    #[must_use]
    pub fn after(mut self, previous: u32) -> Self {
        self.history.previous = Some(previous);
        self
    }

    /// Chooses the next token from `logits` (one per vocabulary entry).
    pub fn make(&self, logits: &[f32], scratch: &mut Scratch) -> Chosen {
        let id = sample(logits, self.params, self.history, scratch);
        let logprobs = self.params.logprobs.map(|top| logprobs(logits, id, top, scratch));
        Chosen { id, logprobs }
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The token.
    pub id: u32,
    /// Its log probabilities, where they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Log probabilities at one place, of the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the token's probability.
    pub chosen: f32,
    /// The likeliest tokens, in falling order; equal ones by id.
    pub top: Vec<(u32, f32)>,
}

/// Reused memory: a token costs no allocation once the vocabulary has been seen.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    histogram: Histogram,
    /// Occurrences of each token; all zero between calls.
    counts: Vec<u32>,
    maxima: Vec<f32>,
    sums: Vec<f64>,
}

impl Scratch {
    /// Room for whatever a vocabulary of this size may need, so that no distribution is the first of its kind.
    fn make_room(&mut self, vocabulary: usize) {
        self.candidates.clear();
        self.candidates.reserve(vocabulary);
        self.histogram.make_room();
    }
}

/// Chooses the next token from `logits` (one per vocabulary entry).
pub fn sample(logits: &[f32], params: &Params, history: History<'_>, scratch: &mut Scratch) -> u32 {
    scratch.make_room(logits.len());
    if is_raw(params, history) {
        return draw(logits, params, history, scratch);
    }
    let mut adjusted = std::mem::take(&mut scratch.logits);
    adjusted.clear();
    adjusted.extend_from_slice(logits);
    adjust(&mut adjusted, params, history, &mut scratch.counts);
    let id = draw(&adjusted, params, history, scratch);
    scratch.logits = adjusted;
    id
}

/// The log probability of `token` and of the `top` likeliest, from raw logits.
#[must_use]
pub fn logprobs(logits: &[f32], token: u32, top: usize, scratch: &mut Scratch) -> Logprobs {
    let scale = Scale { largest: weigh::largest(logits), temperature: 1.0, floor: 0.0 };
    let sum = scale.sum_up(logits, &mut scratch.sums);
    #[expect(clippy::cast_possible_truncation, reason = "a log probability needs no more than f32")]
    let log_sum = scale.largest + sum.ln() as f32;
    scratch.candidates.clear();
    if top > 0 {
        take_largest(logits, top, scratch);
        scratch.candidates.sort_unstable_by(by_rank);
    }
    Logprobs {
        chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| logit - log_sum),
        top: scratch.candidates.iter().map(|&(logit, id)| (id, logit - log_sum)).collect(),
    }
}

/// Chooses from logits that are what they are to be.
fn draw(logits: &[f32], params: &Params, history: History<'_>, scratch: &mut Scratch) -> u32 {
    if params.temperature == 0.0 {
        return weigh::argmax(logits);
    }
    let uniform = uniform(params.seed, history.draw);
    // p ≥ min_p × p_max, and p_max weighs 1.
    let (largest, temperature, floor) = (weigh::largest(logits), params.temperature, params.min_p);
    let scale = Scale { largest, temperature, floor };
    let narrowed = if params.top_k > 0 && params.top_k < logits.len() {
        take_largest(logits, params.top_k, scratch);
        let total = rank::total(&scratch.candidates, scale);
        draw_among(&mut scratch.candidates, scale, total * f64::from(params.top_p), uniform)
    } else if params.top_p < 1.0 {
        draw_from_nucleus(logits, scale, params.top_p, uniform, scratch)
    } else {
        let total = scale.sum_up(logits, &mut scratch.sums);
        return scale.reach(logits, &scratch.sums, uniform * total);
    };
    // Nothing weighs anything: numbers that are none, or too large to be divided.
    narrowed.unwrap_or_else(|| weigh::argmax(logits))
}

/// Draws from the smallest set of the likeliest tokens whose masses reach `top_p` of all.
fn draw_from_nucleus(logits: &[f32], scale: Scale, top_p: f32, uniform: f64, scratch: &mut Scratch) -> Option<u32> {
    let goal = scale.sum_up(logits, &mut scratch.sums) * f64::from(top_p);
    take_largest(logits, FEW, scratch);
    let Scratch { candidates, histogram, .. } = scratch;
    if rank::total(candidates, scale) >= goal {
        return draw_among(candidates, scale, goal, uniform);
    }
    histogram.fill(logits, scale);
    // All of the masses may be less than all of the weights, by their rounding.
    draw_up_to(goal.min(histogram.total()), uniform, |is_enough| histogram.reach(logits, scale, is_enough, candidates))
}

/// Draws from the first of the candidates, in rank order, whose masses reach `goal`.
fn draw_among(candidates: &mut [Candidate], scale: Scale, goal: f64, uniform: f64) -> Option<u32> {
    draw_up_to(goal, uniform, |is_enough| rank::reach(candidates, scale, 0.0, is_enough))
}

/// Draws from the first tokens whose masses reach `goal`, by their masses. `reach` finds the first token at which the
/// running sum is enough.
fn draw_up_to(goal: f64, uniform: f64, mut reach: impl FnMut(&dyn Fn(f64) -> bool) -> Option<Reached>) -> Option<u32> {
    let nucleus = reach(&|sum| sum > 0.0 && sum >= goal)?;
    let draw = uniform * nucleus.sum;
    // The product may be rounded up to the whole sum.
    let drawn = reach(&|sum| sum > draw || sum >= nucleus.sum)?;
    Some(drawn.id)
}

/// True if the logits are taken as they are.
pub(crate) fn is_raw(params: &Params, history: History<'_>) -> bool {
    params.logit_bias.is_empty()
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0
        && params.repetition_penalty == 1.0
        && history.banned.is_empty()
        && history.mask.is_none()
}

fn adjust(logits: &mut [f32], params: &Params, history: History<'_>, counts: &mut Vec<u32>) {
    if let Some(Ok(mask)) = history.mask.map(PendingMask::wait) {
        mask.apply(logits);
    }
    for &token in history.banned {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    counts.resize(logits.len(), 0);
    if params.repetition_penalty != 1.0 {
        penalise_repetition(logits, params.repetition_penalty, history, counts);
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        penalise_occurrence(logits, params, history, counts);
    }
}

/// Each token of prompt and completion once, however often it occurred.
fn penalise_repetition(logits: &mut [f32], factor: f32, history: History<'_>, counts: &mut [u32]) {
    let vocabulary = logits.len();
    let all = || history.prompt.iter().copied().chain(history.generated());
    let seen = || all().map(|token| token as usize).filter(|&token| token < vocabulary);
    for token in seen() {
        if std::mem::replace(&mut counts[token], 1) == 0 {
            let logit = &mut logits[token];
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
        }
    }
    seen().for_each(|token| counts[token] = 0);
}

fn penalise_occurrence(logits: &mut [f32], params: &Params, history: History<'_>, counts: &mut [u32]) {
    let vocabulary = logits.len();
    let known = || history.generated().map(|token| token as usize).filter(|&token| token < vocabulary);
    known().for_each(|token| counts[token] += 1);
    for token in known() {
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^24")]
        let count = std::mem::take(&mut counts[token]) as f32;
        if count > 0.0 {
            logits[token] -= params.frequency_penalty * count + params.presence_penalty;
        }
    }
}

/// Makes the `count` largest the candidates, in no order; of equal ones those with the lowest ids.
fn take_largest(logits: &[f32], count: usize, scratch: &mut Scratch) {
    let candidates = &mut scratch.candidates;
    candidates.clear();
    weigh::gather(logits, weigh::threshold(logits, count, &mut scratch.maxima), candidates);
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_rank);
        candidates.truncate(count);
    }
}

/// A number in [0, 1) from a seed and a counter: two rounds of splitmix64 (Steele et al. 2014).
#[must_use]
pub(crate) fn uniform(seed: u64, counter: u64) -> f64 {
    let mixed = splitmix64(splitmix64(seed) ^ counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exactly a double's")]
    let numerator = (mixed >> 11) as f64;
    numerator / (1_u64 << 53) as f64
}

/// One step of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of `state`.
pub const fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
