//! Choosing a token: a pure function of logits, parameters, history and a number.
//!
//! Randomness is stateless: the draw for a sequence's k-th token depends on its seed and k alone,
//! so batching, preemption and company change nothing. The order of the steps is vLLM's: bans and
//! biases, penalties, temperature, then min-p, top-k and top-p. It knows no request and no text.

use std::cmp::Ordering;

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
}

/// Chooses the next token from `logits` (one per vocabulary entry).
pub fn sample(logits: &[f32], params: &Params, history: History<'_>, scratch: &mut Scratch) -> u32 {
    if is_plain(params, history) {
        return argmax(logits);
    }
    scratch.logits.clear();
    scratch.logits.extend_from_slice(logits);
    adjust(&mut scratch.logits, params, history, &mut scratch.counts);
    if params.temperature == 0.0 {
        return argmax(&scratch.logits);
    }
    let draw = uniform(params.seed, history.generated.len() as u64);
    scratch.candidates.clear();
    collect(&scratch.logits, params, &mut scratch.candidates);
    pick(&mut scratch.candidates, params, draw)
}

/// The log probability of `token` and of the `top` likeliest, from raw logits.
#[must_use]
pub fn logprobs(logits: &[f32], token: u32, top: usize, scratch: &mut Scratch) -> Logprobs {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a log probability needs no more than f32")]
    let log_sum = largest + sum.ln() as f32;
    let candidates = &mut scratch.candidates;
    candidates.clear();
    if top > 0 {
        candidates.extend(logits.iter().copied().zip(0..));
        keep_largest(candidates, top);
    }
    Logprobs {
        chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| logit - log_sum),
        top: candidates.iter().map(|&(logit, id)| (id, logit - log_sum)).collect(),
    }
}

fn is_plain(params: &Params, history: History<'_>) -> bool {
    params.temperature == 0.0
        && params.logit_bias.is_empty()
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0
        && params.repetition_penalty == 1.0
        && history.banned.is_empty()
}

/// The lowest id among the largest logits; a NaN never wins.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&logit, id) in logits.iter().zip(0..) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
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

/// The candidates left by min-p, their logits divided by the temperature.
fn collect(logits: &[f32], params: &Params, out: &mut Vec<(f32, u32)>) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // p ≥ min_p × p_max, in logits; ln 0 is −∞ and keeps everything.
    let floor = largest / params.temperature + params.min_p.ln();
    let scaled = logits.iter().zip(0..).map(|(&logit, id)| (logit / params.temperature, id));
    out.extend(scaled.filter(|&(logit, _)| logit >= floor && logit > f32::NEG_INFINITY));
}

fn pick(candidates: &mut Vec<(f32, u32)>, params: &Params, draw: f64) -> u32 {
    let Some(largest) = candidates.iter().map(|&(logit, _)| logit).reduce(f32::max) else { return 0 };
    if params.top_k > 0 && params.top_k < candidates.len() {
        keep_largest(candidates, params.top_k);
    }
    let weight = |logit: f32| f64::from(logit - largest).exp();
    if params.top_p < 1.0 {
        let total: f64 = candidates.iter().map(|&(logit, _)| weight(logit)).sum();
        keep_nucleus(candidates, total * f64::from(params.top_p), weight);
    }
    let total: f64 = candidates.iter().map(|&(logit, _)| weight(logit)).sum();
    let mut left = draw * total;
    for &(logit, id) in candidates.iter() {
        left -= weight(logit);
        if left < 0.0 {
            return id;
        }
    }
    // Rounding may leave a crumb: it belongs to the last.
    candidates.last().map_or(0, |&(_, id)| id)
}

/// Falling logits, then rising ids.
fn by_rank(left: &(f32, u32), right: &(f32, u32)) -> Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}

/// Keeps the `count` largest, in rank order.
fn keep_largest(candidates: &mut Vec<(f32, u32)>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_rank);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Keeps the smallest set of the largest whose weights reach `goal`, in rank order. Sorts only as
/// much as that takes, doubling.
fn keep_nucleus(candidates: &mut Vec<(f32, u32)>, goal: f64, weight: impl Fn(f32) -> f64) {
    let mut sorted = 256.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, by_rank);
        }
        candidates[..sorted].sort_unstable_by(by_rank);
        let mut sum = 0.0;
        let end = candidates[..sorted].iter().position(|&(logit, _)| {
            sum += weight(logit);
            sum >= goal
        });
        match end {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted == candidates.len() => return,
            None => sorted = (sorted * 4).min(candidates.len()),
        }
    }
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

    fn draw(logits: &[f32], params: &Params, history: History<'_>) -> u32 {
        sample(logits, params, history, &mut Scratch::default())
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens_and_never_nan() {
        let params = Params { temperature: 0.0, ..Params::default() };
        assert_eq!(draw(&[1.0, 3.0, 3.0, f32::NAN], &params, NONE), 1);
    }

    #[test]
    fn banned_tokens_do_not_come() {
        let params = Params { temperature: 0.0, ..Params::default() };
        assert_eq!(draw(&[1.0, 3.0, 2.0], &params, History { banned: &[1], ..NONE }), 2);
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let logits = [2.0, 1.9, -1.0];
        let greedy = Params { temperature: 0.0, ..Params::default() };
        let seen = History { generated: &[0], ..NONE };
        assert_eq!(draw(&logits, &greedy, seen), 0);
        assert_eq!(draw(&logits, &Params { presence_penalty: 0.2, ..greedy.clone() }, seen), 1);
        assert_eq!(draw(&logits, &Params { frequency_penalty: 0.2, ..greedy.clone() }, seen), 1);
        assert_eq!(draw(&logits, &Params { repetition_penalty: 1.2, ..greedy.clone() }, seen), 1);
        let prompted = History { prompt: &[0], ..NONE };
        assert_eq!(draw(&logits, &Params { presence_penalty: 2.0, ..greedy.clone() }, prompted), 0);
        assert_eq!(draw(&logits, &Params { repetition_penalty: 1.2, ..greedy.clone() }, prompted), 1);
        assert_eq!(draw(&logits, &Params { logit_bias: vec![(2, 10.0)], ..greedy }, NONE), 2);
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
            counts[draw(&logits, &Params { seed, ..Params::default() }, NONE) as usize] += 1;
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
            let token = draw(&logits, &params, NONE);
            prop_assert_eq!(token, draw(&logits, &params, NONE));
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
