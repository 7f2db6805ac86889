//! Choosing a token: a pure function of logits, parameters, history and a number.
//!
//! Randomness is stateless: the draw for a sequence's k-th token depends on its seed and k alone,
//! so batching, preemption and company change nothing. The order of the steps is vLLM's: bans and
//! biases, penalties, temperature, then min-p, top-k and top-p. It knows no request and no text.

mod weigh;

use std::cmp::Ordering;
use weigh::Scale;

/// How to choose, all defaults resolved.
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
    /// How many of the likeliest tokens to report; `None` reports no log probability at all.
    pub logprobs: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 1.0,
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

/// What came before the token.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// The prompt.
    pub prompt: &'a [u32],
    /// The tokens generated so far.
    pub generated: &'a [u32],
    /// Tokens that may not come now (`min_tokens`).
    pub banned: &'a [u32],
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
    candidates: Vec<(f32, u32)>,
    /// How often each token occurred; all zero between calls.
    counts: Vec<u32>,
    maxima: Vec<f32>,
    sums: Vec<f64>,
}

/// Chooses the next token from `logits` (one per vocabulary entry).
pub fn sample(logits: &[f32], params: &Params, history: History<'_>, scratch: &mut Scratch) -> u32 {
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
    let uniform = uniform(params.seed, history.generated.len() as u64);
    // p ≥ min_p × p_max, and p_max weighs 1.
    let (largest, temperature, floor) = (weigh::largest(logits), params.temperature, params.min_p);
    let scale = Scale { largest, temperature, floor };
    if params.top_k > 0 && params.top_k < logits.len() {
        take_largest(logits, params.top_k, scratch);
        let total = scratch.candidates.iter().map(|&(logit, _)| f64::from(scale.weight(logit))).sum();
        keep_nucleus(&mut scratch.candidates, scale, total, params.top_p);
        return pick(&scratch.candidates, scale, uniform);
    }
    let total = scale.sum_up(logits, &mut scratch.sums);
    if params.top_p < 1.0 {
        take_nucleus(logits, scale, total, params.top_p, scratch);
        return pick(&scratch.candidates, scale, uniform);
    }
    scale.reach(logits, &scratch.sums, uniform * total)
}

/// Whether the logits are taken as they are.
fn is_raw(params: &Params, history: History<'_>) -> bool {
    params.logit_bias.is_empty()
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0
        && params.repetition_penalty == 1.0
        && history.banned.is_empty()
}

fn adjust(logits: &mut [f32], params: &Params, history: History<'_>, counts: &mut Vec<u32>) {
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
        penalise_occurrence(logits, params, history.generated, counts);
    }
}

/// Each token of prompt and completion once, however often it occurred.
fn penalise_repetition(logits: &mut [f32], factor: f32, history: History<'_>, counts: &mut [u32]) {
    let vocabulary = logits.len();
    let all = || history.prompt.iter().chain(history.generated);
    let seen = || all().map(|&token| token as usize).filter(|&token| token < vocabulary);
    for token in seen() {
        if std::mem::replace(&mut counts[token], 1) == 0 {
            let logit = &mut logits[token];
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
        }
    }
    seen().for_each(|token| counts[token] = 0);
}

fn penalise_occurrence(logits: &mut [f32], params: &Params, generated: &[u32], counts: &mut [u32]) {
    let vocabulary = logits.len();
    let known = || generated.iter().map(|&token| token as usize).filter(|&token| token < vocabulary);
    known().for_each(|token| counts[token] += 1);
    for token in known() {
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^24")]
        let count = std::mem::take(&mut counts[token]) as f32;
        if count > 0.0 {
            logits[token] -= params.frequency_penalty * count + params.presence_penalty;
        }
    }
}

/// Falling logits, then rising ids.
fn by_rank(left: &(f32, u32), right: &(f32, u32)) -> Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}

/// Makes the `count` largest the candidates, in rank order.
fn take_largest(logits: &[f32], count: usize, scratch: &mut Scratch) {
    let candidates = &mut scratch.candidates;
    candidates.clear();
    weigh::gather(logits, weigh::threshold(logits, count, &mut scratch.maxima), candidates);
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_rank);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Makes the smallest set of the largest whose weights reach `top_p` of `total` the candidates, in rank order. Takes
/// only as many as that needs, fourfold each time.
fn take_nucleus(logits: &[f32], scale: Scale, total: f64, top_p: f32, scratch: &mut Scratch) {
    let mut count = 256.min(logits.len());
    loop {
        take_largest(logits, count, scratch);
        if keep_nucleus(&mut scratch.candidates, scale, total, top_p) || count == logits.len() {
            return;
        }
        count = (count * 4).min(logits.len());
    }
}

/// Cuts ranked candidates to the smallest set whose weights reach `top_p` of `total`; false where all of them do not.
fn keep_nucleus(candidates: &mut Vec<(f32, u32)>, scale: Scale, total: f64, top_p: f32) -> bool {
    let goal = total * f64::from(top_p);
    let mut sum = 0.0;
    let end = candidates.iter().position(|&(logit, _)| {
        sum += f64::from(scale.weight(logit));
        sum >= goal
    });
    if let Some(last) = end {
        candidates.truncate(last + 1);
    }
    end.is_some()
}

/// Draws one of the candidates by their weights.
fn pick(candidates: &[(f32, u32)], scale: Scale, uniform: f64) -> u32 {
    let weights = || candidates.iter().map(|&(logit, id)| (f64::from(scale.weight(logit)), id));
    let total: f64 = weights().map(|(weight, _)| weight).sum();
    let mut left = uniform * total;
    let found = weights().find(|(weight, _)| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a crumb: it belongs to the last that weighs anything.
    found.or_else(|| weights().rfind(|(weight, _)| *weight > 0.0)).map_or(0, |(_, id)| id)
}

/// A number in [0, 1) from a seed and a counter: two rounds of splitmix64 (Steele et al. 2014).
#[must_use]
pub fn uniform(seed: u64, counter: u64) -> f64 {
    let mixed = splitmix64(splitmix64(seed) ^ counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exactly a double's")]
    let numerator = (mixed >> 11) as f64;
    numerator / (1_u64 << 53) as f64
}

/// One step of splitmix64 (Steele et al. 2014): every bit of the result depends on every bit of `state`.
pub(crate) const fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: History<'static> = History { prompt: &[], generated: &[], banned: &[] };

    fn chosen(logits: &[f32], params: &Params, history: History<'_>) -> u32 {
        sample(logits, params, history, &mut Scratch::default())
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens_and_never_nan() {
        let params = Params { temperature: 0.0, ..Params::default() };
        assert_eq!(chosen(&[1.0, 3.0, 3.0, f32::NAN], &params, NONE), 1);
    }

    #[test]
    fn banned_tokens_do_not_come() {
        let params = Params { temperature: 0.0, ..Params::default() };
        assert_eq!(chosen(&[1.0, 3.0, 2.0], &params, History { banned: &[1], ..NONE }), 2);
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let logits = [2.0, 1.9, -1.0];
        let greedy = Params { temperature: 0.0, ..Params::default() };
        let seen = History { generated: &[0], ..NONE };
        assert_eq!(chosen(&logits, &greedy, seen), 0);
        assert_eq!(chosen(&logits, &Params { presence_penalty: 0.2, ..greedy.clone() }, seen), 1);
        assert_eq!(chosen(&logits, &Params { frequency_penalty: 0.2, ..greedy.clone() }, seen), 1);
        assert_eq!(chosen(&logits, &Params { repetition_penalty: 1.2, ..greedy.clone() }, seen), 1);
        let prompted = History { prompt: &[0], ..NONE };
        assert_eq!(chosen(&logits, &Params { presence_penalty: 2.0, ..greedy.clone() }, prompted), 0);
        assert_eq!(chosen(&logits, &Params { repetition_penalty: 1.2, ..greedy.clone() }, prompted), 1);
        assert_eq!(chosen(&logits, &Params { logit_bias: vec![(2, 10.0)], ..greedy }, NONE), 2);
    }

    #[test]
    fn penalties_count_a_tokens_occurrences_and_leave_nothing_behind() {
        let greedy = Params { temperature: 0.0, ..Params::default() };
        let harsh = Params { frequency_penalty: 0.3, repetition_penalty: 1.05, ..greedy };
        let mut scratch = Scratch::default();
        // 4.0 falls to 4.0 / 1.05 - 0.3 * count: below 3.3 with the second occurrence, not with the first.
        let logits = [4.0, 3.3, 0.0];
        let of = |generated: &'static [u32]| History { prompt: &[9, 2], generated, banned: &[] };
        assert_eq!(sample(&logits, &harsh, of(&[0]), &mut scratch), 0);
        assert_eq!(sample(&logits, &harsh, of(&[0, 7, 0]), &mut scratch), 1);
        assert_eq!(sample(&logits, &harsh, of(&[2, 2, 2]), &mut scratch), 0);
        assert!(scratch.counts.iter().all(|&count| count == 0));
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let mut counts = [0_u32; 3];
        for seed in 0..20_000 {
            counts[chosen(&logits, &Params { seed, ..Params::default() }, NONE) as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([10_000.0, 6_000.0, 4_000.0]) {
            assert!((f64::from(*count) - expected).abs() < 300.0, "{counts:?}");
        }
    }

    #[test]
    fn log_probabilities_are_of_the_raw_distribution() {
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let found = logprobs(&logits, 2, 2, &mut Scratch::default());
        assert!((found.chosen - 0.2_f32.ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1]);
    }

    proptest! {
        #[test]
        fn only_what_the_filters_leave_is_drawn(
            logits in prop::collection::vec(-8.0_f32..8.0, 1..700),
            top_k in 0_usize..20,
            top_p in 0.05_f32..=1.0,
            min_p in 0.0_f32..0.5,
            seed in any::<u64>(),
        ) {
            let params = Params { top_k, top_p, min_p, seed, ..Params::default() };
            let token = chosen(&logits, &params, NONE);
            prop_assert_eq!(token, chosen(&logits, &params, NONE));
            // The reference: sort everything, filter, renormalise, filter.
            let mut ranked: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            ranked.sort_by(by_rank);
            let largest = ranked[0].0;
            ranked.retain(|&(logit, _)| logit >= largest + min_p.ln());
            if top_k > 0 {
                ranked.truncate(top_k);
            }
            let weights: Vec<f64> = ranked.iter().map(|&(logit, _)| f64::from(logit - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sum = 0.0;
            // One beyond the exact nucleus is forgiven: sums in another order round otherwise.
            let kept = weights.iter().take_while(|weight| { let go = sum < total * (f64::from(top_p) + 1e-6); sum += **weight; go }).count();
            prop_assert!(ranked[..kept].iter().any(|&(_, id)| id == token));
        }
    }
}
