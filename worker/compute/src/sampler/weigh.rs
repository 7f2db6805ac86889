//! Arithmetic over a whole vocabulary, written so that the compiler makes vectors of it: some hundred thousand numbers
//! a token are a good part of what a step costs beside its kernels. Every function gives the same bits on every
//! machine: sums have a fixed shape, and nothing is contracted.

/// Numbers that are looked at together.
pub(super) const CHUNK: usize = 64;
/// Partial sums side by side.
const LANES: usize = 16;

/// The largest number; −∞ where there is none. A NaN is never it.
pub(super) fn largest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (most, &logit) in lanes.iter_mut().zip(chunk) {
            *most = if logit > *most { logit } else { *most };
        }
    }
    lanes
        .iter()
        .chain(chunks.remainder())
        .fold(f32::NEG_INFINITY, |most, &logit| if logit > most { logit } else { most })
}

/// The smallest finite number; +∞ where there is none.
pub(super) fn smallest(logits: &[f32]) -> f32 {
    let lesser = |least: f32, logit: f32| if logit < least && logit > f32::NEG_INFINITY { logit } else { least };
    let mut lanes = [f32::INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (least, &logit) in lanes.iter_mut().zip(chunk) {
            *least = lesser(*least, logit);
        }
    }
    lanes.iter().chain(chunks.remainder()).fold(f32::INFINITY, |least, &logit| lesser(least, logit))
}

/// The lowest id among the largest numbers; 0 where there is none. A NaN never wins.
pub(super) fn argmax(logits: &[f32]) -> u32 {
    const BLOCK: usize = 16 * CHUNK; // Folding its lanes costs little beside reading it.
    let (mut most, mut begin) = (f32::NEG_INFINITY, 0);
    for (block, numbers) in logits.chunks(BLOCK).enumerate() {
        let here = largest(numbers);
        if here > most {
            (most, begin) = (here, block * BLOCK);
        }
    }
    let at = logits[begin..].iter().position(|&logit| logit == most).unwrap_or(0);
    u32::try_from(begin + at).unwrap_or(0)
}

/// e to the power of a number that is at most 0: within 2⁻²² of it, and 0 from −87 on, where binary32 ends. A NaN
/// weighs nothing.
///
/// The power of two goes into the exponent, the rest through a polynomial (Cody and Waite 1980).
#[inline]
pub(super) fn exp(power: f32) -> f32 {
    /// Adding it leaves a whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = power * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = power - whole * LN_2_HIGH - whole * LN_2_LOW;
    let tail = 1.0 / 24.0 + rest * (1.0 / 120.0 + rest * (1.0 / 720.0));
    let value = 1.0 + rest * (1.0 + rest * (0.5 + rest * (1.0 / 6.0 + rest * tail)));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if power > -87.0 { value * f32::from_bits(exponent) } else { 0.0 }
}

/// Weights of logits beside the largest one, whose weight is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// The largest logit.
    pub(super) largest: f32,
    /// Divisor of differences.
    pub(super) temperature: f32,
    /// Weights below it count as none.
    pub(super) floor: f32,
}

impl Scale {
    /// The weight of a logit, 0 to 1.
    #[inline]
    pub(super) fn weight(self, logit: f32) -> f32 {
        let weight = exp((logit - self.largest) / self.temperature);
        if weight >= self.floor { weight } else { 0.0 }
    }

    /// The weight as a multiple of 2⁻³⁴: the sum of up to 2¹⁹ masses is exact, and the same in any order.
    #[inline]
    pub(super) fn mass(self, logit: f32) -> f64 {
        /// The last bit of a number that is a little larger is worth 2⁻³⁴.
        const ROUND: f64 = 262_144.0;
        (f64::from(self.weight(logit)) + ROUND) - ROUND
    }

    /// The sum of the weights of each 64 logits, into `sums`; the sum of those.
    pub(super) fn sum_up(self, logits: &[f32], sums: &mut Vec<f64>) -> f64 {
        sums.clear();
        sums.extend(logits.chunks(CHUNK).map(|chunk| {
            let mut lanes = [0.0_f32; LANES];
            let mut rows = chunk.chunks_exact(LANES);
            for row in &mut rows {
                for (sum, &logit) in lanes.iter_mut().zip(row) {
                    *sum += self.weight(logit);
                }
            }
            let rest: f32 = rows.remainder().iter().map(|&logit| self.weight(logit)).sum();
            f64::from(lanes.iter().sum::<f32>() + rest)
        }));
        sums.iter().sum()
    }

    /// The first token at which the running sum of weights exceeds `goal`, given their sums by [`Scale::sum_up`].
    pub(super) fn reach(self, logits: &[f32], sums: &[f64], goal: f64) -> u32 {
        let mut left = goal;
        let mut last = 0;
        for (at, (chunk, &sum)) in logits.chunks(CHUNK).zip(sums).enumerate() {
            if sum == 0.0 {
                continue;
            }
            let weights = || (at * CHUNK..).zip(chunk).map(|(id, &logit)| (id, f64::from(self.weight(logit))));
            // Rounding may leave a crumb: it belongs to the last that weighs anything.
            last = weights().filter(|(_, weight)| *weight > 0.0).last().map_or(last, |(id, _)| id);
            if left < sum {
                let mut inner = left;
                let found = weights().find(|(_, weight)| {
                    inner -= weight;
                    inner < 0.0
                });
                return u32::try_from(found.map_or(last, |(id, _)| id)).unwrap_or(0);
            }
            left -= sum;
        }
        u32::try_from(last).unwrap_or(0)
    }
}

/// A number that at least `count` logits reach, and not many more: the `count`th largest of the chunks' largest.
pub(super) fn threshold(logits: &[f32], count: usize, maxima: &mut Vec<f32>) -> f32 {
    maxima.clear();
    maxima.extend(logits.chunks(CHUNK).map(largest));
    if count == 0 || count > maxima.len() {
        return f32::NEG_INFINITY;
    }
    *maxima.select_nth_unstable_by(count - 1, |left, right| right.total_cmp(left)).1
}

/// Adds the logits that reach `threshold`, with their ids. NaN and −∞ never do.
pub(super) fn gather(logits: &[f32], threshold: f32, out: &mut Vec<(f32, u32)>) {
    let reaches = |logit: f32| logit >= threshold && logit > f32::NEG_INFINITY;
    for (at, chunk) in (0..).step_by(CHUNK).zip(logits.chunks(CHUNK)) {
        if chunk.iter().fold(false, |found, &logit| found | reaches(logit)) {
            out.extend(chunk.iter().copied().zip(at..).filter(|&(logit, _)| reaches(logit)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_exponential_is_exact_to_a_few_bits() {
        for step in 0..87_000 {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let power = -(step as f32) / 1000.0;
            let (found, expected) = (f64::from(exp(power)), f64::from(power).exp());
            assert!((found / expected - 1.0).abs() < 2.4e-7, "{power}: {found} {expected}");
        }
        assert_eq!((exp(0.0), exp(-87.5), exp(f32::NEG_INFINITY), exp(f32::NAN)), (1.0, 0.0, 0.0, 0.0));
    }

    proptest! {
        #[test]
        fn chunks_change_nothing(logits in prop::collection::vec(-9.0_f32..9.0, 0..300), count in 1_usize..9) {
            let naive = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(largest(&logits), naive);
            prop_assert_eq!(argmax(&logits) as usize, logits.iter().position(|&logit| logit == naive).unwrap_or(0));
            let mut found = Vec::new();
            gather(&logits, threshold(&logits, count, &mut Vec::new()), &mut found);
            prop_assert!(found.len() >= count.min(logits.len()));
            let least = found.iter().map(|found| found.0).fold(f32::INFINITY, f32::min);
            prop_assert_eq!(logits.iter().filter(|&&logit| logit >= least).count(), found.len());
        }

        #[test]
        fn the_walk_ends_where_the_running_sum_does(
            logits in prop::collection::vec(-9.0_f32..9.0, 1..300), draw in 0.0_f64..1.0,
        ) {
            let scale = Scale { largest: largest(&logits), temperature: 0.7, floor: 1e-3 };
            let mut sums = Vec::new();
            let total = scale.sum_up(&logits, &mut sums);
            let naive: f64 = logits.iter().map(|&logit| f64::from(scale.weight(logit))).sum();
            prop_assert!((total / naive - 1.0).abs() < 1e-6);
            let found = scale.reach(&logits, &sums, draw * total) as usize;
            let upto = |end: usize| logits[..end].iter().map(|&logit| f64::from(scale.weight(logit))).sum::<f64>();
            prop_assert!(scale.weight(logits[found]) > 0.0);
            prop_assert!(upto(found) <= draw * total + 1e-5 * total && draw * total <= upto(found + 1) + 1e-5 * total);
        }
    }
}
