//! Draws, against the definitions.

use super::*;
use proptest::prelude::*;

const NONE: History<'static> =
    History { prompt: &[], generated: &[], previous: None, draw: 0, banned: &[], mask: None };

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
    let of = |generated: &'static [u32]| History { prompt: &[9, 2], generated, ..NONE };
    assert_eq!(sample(&logits, &harsh, of(&[0]), &mut scratch), 0);
    assert_eq!(sample(&logits, &harsh, of(&[0, 7, 0]), &mut scratch), 1);
    assert_eq!(sample(&logits, &harsh, of(&[2, 2, 2]), &mut scratch), 0);
    assert!(scratch.counts.iter().all(|&count| count == 0));
}

#[test]
fn a_mask_leaves_only_what_it_allows() {
    let mut mask = Mask::none(3);
    mask.allow(2);
    let mask = PendingMask::ready(mask);
    let masked = History { mask: Some(&mask), ..NONE };
    for seed in 0..50 {
        assert_eq!(chosen(&[9.0, 8.0, -3.0], &Params { seed, ..Params::default() }, masked), 2);
    }
    // A bias does not bring back what the mask took away.
    let biased = Params { temperature: 0.0, logit_bias: vec![(0, 100.0)], ..Params::default() };
    assert_eq!(chosen(&[9.0, 8.0, -3.0], &biased, masked), 2);
}

proptest! {
    #[test]
    fn a_token_that_a_backend_knows_first_counts_like_any_other(
        logits in prop::collection::vec(-5.0_f32..5.0, 8),
        generated in prop::collection::vec(0_u32..8, 1..6),
        seed in any::<u64>(),
    ) {
        let params = Params {
            seed, frequency_penalty: 0.7, presence_penalty: 0.4, repetition_penalty: 1.3, ..Params::default()
        };
        let known = History { generated: &generated, draw: generated.len() as u64, ..NONE };
        let (last, before) = generated.split_last().expect("at least one");
        let ahead = Choice { params: &params, history: History { generated: before, ..known } }.after(*last);
        let made = ahead.make(&logits, &mut Scratch::default());
        prop_assert_eq!(made.id, chosen(&logits, &params, known));
    }
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

/// The kept tokens, in rank order, and the drawn one, by the definition: sort everything, cut, add up from the front.
fn by_sorting(logits: &[f32], params: &Params) -> (Vec<u32>, Option<u32>) {
    let scale = Scale { largest: weigh::largest(logits), temperature: params.temperature, floor: params.min_p };
    let mut ranked: Vec<Candidate> = logits.iter().copied().zip(0..).collect();
    ranked.sort_by(by_rank);
    ranked.truncate(if params.top_k == 0 { ranked.len() } else { params.top_k });
    let masses: Vec<f64> = ranked.iter().map(|&(logit, _)| scale.mass(logit)).collect();
    let first = |is_enough: &dyn Fn(f64) -> bool| {
        let sums = masses.iter().scan(0.0, |sum, mass| {
            *sum += mass;
            Some(*sum)
        });
        sums.enumerate().find(|&(_, sum)| is_enough(sum))
    };
    let total: f64 = masses.iter().sum();
    // What the masses of all are to reach is told by the sum of the weights, whose shape is fixed.
    let all =
        if params.top_k == 0 || params.top_k >= logits.len() { scale.sum_up(logits, &mut Vec::new()) } else { total };
    let goal = (all * f64::from(params.top_p)).min(total);
    let Some((end, kept)) = first(&|sum| sum > 0.0 && sum >= goal) else { return (Vec::new(), None) };
    let draw = uniform(params.seed, 0) * kept;
    let drawn = first(&|sum| sum > draw).map(|(at, _)| ranked[at].1);
    (ranked[..=end].iter().map(|&(_, id)| id).collect(), drawn)
}

/// Logits of a shape: a flat vocabulary, one or few peaks above it, many equal ones, some that are banned.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let flat = |spread: f32| prop::collection::vec(-spread..spread, 1..2500);
    prop_oneof![
        flat(0.001),
        flat(0.5),
        flat(8.0),
        flat(60.0),
        Just(vec![1.5; 1200]),
        // A few values only, so that most are equal, and the end of a nucleus is among equal ones.
        prop::collection::vec((-3_i8..3).prop_map(f32::from), 1..2500),
        (flat(0.2), prop::collection::vec((0_usize..2500, 2.0_f32..12.0), 1..5)).prop_map(|(mut logits, peaks)| {
            let length = logits.len();
            peaks.into_iter().for_each(|(at, height)| logits[at % length] += height);
            logits
        }),
        prop::collection::vec(prop_oneof![2 => -4.0_f32..4.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(0.0)], 1..2500),
    ]
}

#[test]
fn a_vocabulary_of_equal_tokens_is_cut_by_their_ids() {
    let logits = vec![0.25; 4096];
    let mut drawn: Vec<u32> =
        (0..400).map(|seed| chosen(&logits, &Params { top_p: 0.25, seed, ..Params::default() }, NONE)).collect();
    drawn.sort_unstable();
    assert!(drawn[0] < 100 && drawn[399] < 1024 && drawn[399] > 924, "{drawn:?}");
}

#[test]
fn numbers_that_weigh_nothing_are_no_panic() {
    for logits in [vec![f32::NEG_INFINITY; 700], vec![f32::NAN; 700], vec![f32::INFINITY; 700], vec![f32::MAX; 700]] {
        for (top_k, top_p) in [(0, 0.5), (5, 0.5), (5, 1.0), (0, 1.0)] {
            assert!(chosen(&logits, &Params { top_k, top_p, ..Params::default() }, NONE) < 700);
        }
    }
}

#[test]
fn whatever_the_distribution_nothing_is_allocated_once_the_vocabulary_was_seen() {
    let flat: Vec<f32> = (0..5000_u16).map(|id| f32::from(id % 977) * 1e-4).collect();
    let mut peaked = flat.clone();
    peaked[77] = 30.0;
    let nucleus = Params { top_p: 0.95, ..Params::default() };
    let all = [
        nucleus.clone(),
        Params { top_k: 3000, ..nucleus.clone() },
        Params { top_k: 40, ..Params::default() },
        Params { min_p: 0.1, presence_penalty: 0.5, ..nucleus.clone() },
        Params::default(),
    ];
    let mut scratch = Scratch::default();
    for params in &all {
        let _ = sample(&peaked, params, NONE, &mut scratch);
    }
    let count = crate::kernels::allocations::count(|| {
        for params in &all {
            std::hint::black_box(sample(&flat, params, NONE, &mut scratch));
        }
    });
    assert_eq!(count, 0);
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

    #[test]
    fn what_is_kept_and_drawn_is_what_sorting_would_keep_and_draw(
        logits in any_logits(),
        top_k in prop_oneof![Just(0_usize), 1_usize..3000],
        top_p in prop_oneof![3 => 0.01_f32..1.0, 1 => Just(0.999_99)],
        min_p in prop_oneof![Just(0.0_f32), 0.0_f32..0.6],
        temperature in prop_oneof![Just(1.0_f32), 0.05_f32..3.0],
        seed in any::<u64>(),
    ) {
        let params = Params { top_k, top_p, min_p, temperature, seed, ..Params::default() };
        let mut scratch = Scratch::default();
        for draw in 0..8 {
            let params = Params { seed: seed.wrapping_add(draw), ..params.clone() };
            let (kept, drawn) = by_sorting(&logits, &params);
            prop_assert_eq!(sample(&logits, &params, NONE, &mut scratch), drawn.unwrap_or_else(|| weigh::argmax(&logits)));
            prop_assert!(drawn.is_none_or(|id| kept.contains(&id)));
        }
        // Every place: the end of what is kept included.
        let scale = Scale { largest: weigh::largest(&logits), temperature, floor: min_p };
        let (kept, _) = by_sorting(&logits, &Params { top_k: 0, ..params });
        let mut histogram = Histogram::default();
        histogram.fill(&logits, scale);
        let goal = (scale.sum_up(&logits, &mut Vec::new()) * f64::from(top_p)).min(histogram.total());
        let is_enough = |sum: f64| sum > 0.0 && sum >= goal;
        let by_buckets = histogram.reach(&logits, scale, &is_enough, &mut scratch.candidates);
        let mut all: Vec<Candidate> = logits.iter().copied().zip(0..).collect();
        let by_halves = rank::reach(&mut all, scale, 0.0, &is_enough);
        prop_assert_eq!(by_buckets, by_halves);
        prop_assert_eq!(by_buckets.map(|reached| reached.id), kept.last().copied());
    }
}
