//! Numbers into GGML's blocks: Q8_0 and Q4_K.
//!
//! Blocks are those of the published formats, read in place as a file's are. How the steps are found is ours.

use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::tier::Instructions;
use tensor::Format;

/// Numbers in a block of Q8_0, and of a run of Q4_K, which has a scale and a minimum of its own.
const RUN: usize = Format::Q8_0.block().numbers;
/// Runs in a block of Q4_K.
const RUNS: usize = Format::Q4K.block().numbers / RUN;
/// The largest code of Q4_K.
const CODE_MAX: f32 = 15.0;
/// The largest scale or minimum of Q4_K's second level.
const SCALE_MAX: f32 = 63.0;
/// Steps that are tried for a run: the width over so many codes.
const WIDTHS: [f32; 10] = [13.5, 14.0, 14.3, 14.6, 14.8, 15.0, 15.2, 15.5, 16.0, 16.5];

/// Appends `numbers`, whole blocks, to `out` as `format`.
///
/// # Panics
/// `numbers` are not whole blocks, or nothing here writes the format.
pub(crate) fn quantize(on: Instructions, format: Format, numbers: &[f32], out: &mut Vec<u8>) {
    assert!(numbers.len().is_multiple_of(format.block().numbers), "whole blocks of {format}");
    let (runs, _) = numbers.as_chunks::<RUN>();
    match format {
        Format::Q8_0 => on.run(ToQ8_0 { runs, out }),
        Format::Q4K => on.run(ToQ4K { blocks: runs.as_chunks::<RUNS>().0, out }),
        other => unreachable!("nothing here writes {other}"),
    }
}

/// A block's scale is its largest magnitude over 127, in binary16, and bytes are to the nearest.
struct ToQ8_0<'a> {
    runs: &'a [[f32; RUN]],
    out: &'a mut Vec<u8>,
}

impl Kernel for ToQ8_0<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for block in self.runs {
            // SAFETY: a block holds two times sixteen numbers.
            let (low, high) = unsafe { (V::load(block.as_ptr()), V::load(block.as_ptr().add(LANES))) };
            // SAFETY: the caller vouches for the tier.
            let largest = unsafe {
                let magnitude = |lanes: V| lanes.max(V::zero().sub(lanes));
                magnitude(low).max(magnitude(high)).largest()
            };
            let scale = half::f16::from_f32(largest / 127.0);
            let step = scale.to_f32();
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            self.out.extend(scale.to_bits().to_le_bytes());
            // `as` saturates: a scale that binary16 rounded down would else make 128 of the largest.
            self.out.extend(block.map(|number| ((number * inverse).round_ties_even() as i8).max(-127).cast_unsigned()));
        }
    }
}

/// Every run gets the step and the minimum of the least squared error among those tried; both are then rounded to six
/// bits of the block's largest.
struct ToQ4K<'a> {
    blocks: &'a [[[f32; RUN]; RUNS]],
    out: &'a mut Vec<u8>,
}

impl Kernel for ToQ4K<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for block in self.blocks {
            // Codes times the step, less the minimum.
            let (mut steps, mut minimums) = ([0.0_f32; RUNS], [0.0_f32; RUNS]);
            for (at, run) in block.iter().enumerate() {
                // SAFETY: the caller vouches for the tier.
                (steps[at], minimums[at]) = unsafe { fit::<V>(run) };
            }
            let (scale, scales) = second_level(&steps);
            let (least, minimums) = second_level(&minimums);
            self.out.extend(scale.to_bits().to_le_bytes());
            self.out.extend(least.to_bits().to_le_bytes());
            self.out.extend(packed(&scales, &minimums));
            for (pair, runs) in block.as_chunks::<2>().0.iter().enumerate() {
                let code = |side: usize, at: usize| {
                    let (run, number) = (2 * pair + side, runs[side][at]);
                    let step = scale.to_f32() * f32::from(scales[run]);
                    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
                    let above = number + least.to_f32() * f32::from(minimums[run]);
                    (above * inverse).round_ties_even().clamp(0.0, CODE_MAX) as u8
                };
                self.out.extend(std::array::from_fn::<u8, RUN, _>(|at| code(0, at) | code(1, at) << 4));
            }
        }
    }
}

/// The step and the minimum by which `step · code − minimum` comes closest to a run's numbers.
///
/// For each width that is tried, codes are to the nearest, and step and minimum are then the least squares' for these codes.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn fit<V: Lanes>(run: &[f32; RUN]) -> (f32, f32) {
    // SAFETY: the caller vouches for the tier; a run holds two times sixteen numbers.
    unsafe {
        let (one, two) = (V::load(run.as_ptr()), V::load(run.as_ptr().add(LANES)));
        let highest = one.max(two).largest();
        let lowest = -V::zero().sub(one.min(two)).largest();
        let lowest = lowest.min(0.0);
        let width = highest - lowest;
        // Not a number, or all alike: a minimum alone is exact.
        if width.is_nan() || width <= 0.0 {
            return (0.0, -lowest);
        }
        let sum = |lanes: V, others: V| lanes.add(others).sum();
        let numbers = sum(one, two);
        let mut best = (f32::INFINITY, width / CODE_MAX, -lowest);
        for codes in WIDTHS {
            let code = |lanes: V| {
                let code = lanes.sub(V::splat(lowest)).mul(V::splat(codes / width)).round();
                V::splat(0.0).max(V::splat(CODE_MAX).min(code))
            };
            let (first, second) = (code(one), code(two));
            let (codes, codes_squared) = (sum(first, second), sum(first.mul(first), second.mul(second)));
            let products = sum(first.mul(one), second.mul(two));
            let spread = RUN as f32 * codes_squared - codes * codes;
            if spread <= 0.0 {
                continue;
            }
            let mut step = (RUN as f32 * products - codes * numbers) / spread;
            let mut base = (codes_squared * numbers - codes * products) / spread;
            if base > 0.0 {
                // A base is never above zero.
                (step, base) = (products / codes_squared, 0.0);
            }
            let rest = |lanes: V, code: V| {
                let rest = code.mul_add(V::splat(step), V::splat(base)).sub(lanes);
                rest.mul(rest)
            };
            let error = sum(rest(one, first), rest(two, second));
            if step >= 0.0 && error < best.0 {
                best = (error, step, -base);
            }
        }
        (best.1, best.2)
    }
}

/// The factor, in binary16, that makes numbers of at most six bits of eight that are not negative, and those.
#[inline(always)]
fn second_level(numbers: &[f32; RUNS]) -> (half::f16, [u8; RUNS]) {
    let largest = numbers.iter().fold(0.0_f32, |largest, number| largest.max(*number));
    let factor = half::f16::from_f32(largest / SCALE_MAX);
    let inverse = if factor.to_f32() > 0.0 { 1.0 / factor.to_f32() } else { 0.0 };
    (factor, numbers.map(|number| (number * inverse).round_ties_even().clamp(0.0, SCALE_MAX) as u8))
}

/// Eight scales and eight minimums of six bits each: of the first four of either all six; of the others four in the last
/// four bytes, and two above the first ones.
#[inline(always)]
fn packed(scales: &[u8; RUNS], minimums: &[u8; RUNS]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for at in 0..4 {
        bytes[at] = scales[at] | scales[at + 4] >> 4 << 6;
        bytes[at + 4] = minimums[at] | minimums[at + 4] >> 4 << 6;
        bytes[at + 8] = scales[at + 4] & 15 | (minimums[at + 4] & 15) << 4;
    }
    bytes
}
