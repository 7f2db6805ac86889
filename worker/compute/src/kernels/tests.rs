//! Every kernel on every tier of this machine against plain f64 arithmetic, and the one tree.

use proptest::prelude::*;

use super::attention::{Attention, attend};
use super::formats::widen;
use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::linear::{Inputs, Matrix, Projection, Then, project, project_gated, rounded_bytes};
use super::norm::{RowNorm, add_normed, norm, norm_in_place};
use super::pool::Pool;
use super::quantize::quantize;
use super::rotate::{BLOCK_TOKENS, Heads, Rotation, Row, rotate_and_store};
use super::tier::{Instructions, Tier};
use crate::candle::blocks;
use crate::step::{Input, Segment, Want};
use tensor::{Activation, Format, Normed, Sees};

const FLOATS: [Format; 3] = Format::VECTORS;
const FORMATS: &[Format] = &Format::MATRICES;

fn instructions() -> Vec<Instructions> {
    Tier::ALL.into_iter().filter_map(Instructions::of).collect()
}

/// Numbers in -1 to 1 from a seed.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Where the binary16 numbers of a block are, and the size that keeps the block's numbers near one.
fn scales(format: Format) -> (&'static [usize], f32) {
    match format {
        Format::Q4_0 | Format::Q5_0 => (&[0], 0.1),
        Format::Q4_1 | Format::Q5_1 => (&[0, 2], 0.1),
        Format::Q2K => (&[80, 82], 0.05),
        Format::Q3K => (&[108], 0.01),
        Format::Q4K | Format::Q5K => (&[0, 2], 1e-3),
        Format::Q6K => (&[208], 3e-4),
        Format::Iq4Nl => (&[0], 0.01),
        Format::Iq4Xs => (&[0], 3e-4),
        other => panic!("no {other} here"),
    }
}

/// Blocks of bytes made up from numbers, with scales of some size.
fn made_up(format: Format, numbers: &[f32]) -> Vec<u8> {
    let (places, size) = scales(format);
    let mut out = Vec::new();
    for block in numbers.chunks_exact(format.block().numbers) {
        let mut bytes: Vec<u8> = block.iter().map(|number| (number.to_bits() >> 9) as u8).collect();
        bytes.resize(format.block().bytes, bytes[0]);
        for (place, number) in places.iter().zip(block) {
            bytes[*place..place + 2].copy_from_slice(&half::f16::from_f32(size * number).to_le_bytes());
        }
        out.extend(bytes);
    }
    out
}

/// Stored bytes, shifted by one byte so that nothing is aligned, and the numbers they stand for.
fn stored(format: Format, numbers: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0u8];
    match format {
        Format::F32 => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Format::F16 => bytes.extend(numbers.iter().flat_map(|number| half::f16::from_f32(*number).to_le_bytes())),
        Format::Bf16 => bytes.extend(numbers.iter().flat_map(|number| half::bf16::from_f32(*number).to_le_bytes())),
        Format::Q8_0 => {
            quantize(Instructions::of(Tier::Portable).expect("every machine has it"), format, numbers, &mut bytes)
        }
        other => bytes.extend(made_up(other, numbers)),
    }
    let meant = match format {
        Format::F32 => numbers.to_vec(),
        Format::F16 => numbers.iter().map(|number| half::f16::from_f32(*number).to_f32()).collect(),
        Format::Bf16 => numbers.iter().map(|number| half::bf16::from_f32(*number).to_f32()).collect(),
        other => blocks::numbers(other, &bytes[1..]).expect("blocks"),
    };
    (bytes, meant)
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// A product's value and how much rounding it may carry.
fn dot(w: &[f32], x: &[f32]) -> (f64, f64) {
    let terms = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
    (sum, size * 1e-6 + 1e-7)
}

/// The largest root-mean-square error of numbers that are evenly spread, in Q4_K, over their own: fifteen steps over the
/// range lose 2/15/√12 of 1/√3, and scales of six bits a little more.
const FOUR_BITS_ERROR: f64 = 0.07;

#[test]
fn four_bits_hold_what_has_few_values() {
    let on = Instructions::of(Tier::best()).expect("this machine's");
    for values in [[0.0_f32; 4], [3.0; 4], [-3.0; 4], [-1.0, 0.0, 0.0, 1.0], [0.0, 5.0, 10.0, 15.0]] {
        let numbers: Vec<f32> = (0..256).map(|at| values[at % 4]).collect();
        let mut bytes = Vec::new();
        quantize(on, Format::Q4K, &numbers, &mut bytes);
        let meant = blocks::numbers(Format::Q4K, &bytes).expect("blocks");
        for (number, meant) in numbers.iter().zip(meant) {
            assert!((number - meant).abs() <= number.abs() * 2e-3 + 1e-3, "{number} became {meant} of {values:?}");
        }
    }
}

struct OneLane<'a>(f32, &'a mut [f32; 2]);

impl Kernel for OneLane<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let mut lanes = [0f32; LANES];
        // SAFETY: the array holds sixteen.
        unsafe {
            V::splat(self.0).exp().store(lanes.as_mut_ptr());
            self.1[0] = lanes[LANES - 1];
            V::splat(self.0).silu().store(lanes.as_mut_ptr());
            self.1[1] = lanes[LANES - 1];
        }
    }
}

#[test]
fn exp_and_silu_are_within_rounding_of_f64() {
    for on in instructions() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let mut found = [0.0; 2];
            on.run(OneLane(x, &mut found));
            let (exp, silu) = (f64::from(x).exp(), f64::from(x) / (1.0 + f64::from(-x).exp()));
            assert!((f64::from(found[0]) / exp - 1.0).abs() < 3e-7, "{on:?}: e^{x} = {} not {exp}", found[0]);
            assert!((f64::from(found[1]) - silu).abs() <= silu.abs() * 4e-7 + 1e-37, "{on:?}: silu({x})");
        }
        let mut found = [0.0; 2];
        on.run(OneLane(f32::NAN, &mut found));
        assert!(found[0].is_nan(), "{on:?} hides what is not a number");
    }
}

#[test]
fn large_numbers_saturate_when_stored_as_f16() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 2, float: Format::F16 };
    for on in instructions() {
        let mut pool = Pool::new(1).expect("no thread to start");
        let mut storage = vec![0u8; heads.block_bytes()];
        let segments = [Segment { input: Input::Tokens(&[0]), start: 0, blocks: &[0], want: Want::Nothing }];
        let rotation = Rotation {
            heads,
            query_norm: None,
            key_norm: None,
            scale: 1.0,
            growth: None,
            width: 2,
            angles: &[1.0, 0.0],
            rows: &[Row { segment: 0, position: 0 }],
            segments: &segments,
        };
        let (mut query, mut key) = ([0.0; 2], [1e6, -1e6]);
        rotate_and_store(&mut pool, on, &rotation, &mut query, &mut key, &[7e4, 1.0], &mut storage);
        let at = |index: usize| half::f16::from_le_bytes([storage[2 * index], storage[2 * index + 1]]).to_f32();
        assert_eq!([at(0), at(BLOCK_TOKENS)], [65504.0, -65504.0], "{on:?}: keys");
        assert_eq!([at(2 * BLOCK_TOKENS), at(2 * BLOCK_TOKENS + 1)], [65504.0, 1.0], "{on:?}: values");
    }
}

#[test]
fn every_finite_half_is_widened_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for on in instructions() {
        let mut found = vec![0.0; 1 << 16];
        widen(on, &all, Format::F16, &mut found);
        for (bits, found) in found.iter().enumerate() {
            let meant = half::f16::from_bits(bits as u16).to_f32();
            assert!(found.to_bits() == meant.to_bits() || (found.is_nan() && meant.is_nan()), "{on:?}: {bits:04x}");
        }
        widen(on, &all, Format::Bf16, &mut found);
        for (bits, found) in found.iter().enumerate() {
            assert_eq!(found.to_bits(), (bits as u32) << 16, "{on:?}");
        }
    }
}

/// Every block of every format, whatever its scales are: zeros of either sign, subnormal, infinite or no number.
#[test]
fn numbers_of_blocks_are_those_of_the_reference_bit_for_bit() {
    for &format in FORMATS.iter().filter(|format| format.is_blocks()) {
        let noise = noise(format as u64 + 1, 512 * format.block().bytes);
        let mut bytes: Vec<u8> = noise.iter().map(|number| (number.to_bits() >> 9) as u8).collect();
        let unusual = [0u16, 0x8000, 1, 0x83ff, 0x7bff, 0x7c00, 0xfc00, 0x7e00];
        for (block, scale) in bytes.chunks_exact_mut(format.block().bytes).zip(unusual) {
            let places = if format == Format::Q8_0 { &[0][..] } else { scales(format).0 };
            places.iter().for_each(|&place| block[place..place + 2].copy_from_slice(&scale.to_le_bytes()));
        }
        let expected = blocks::numbers(format, &bytes).expect("blocks");
        for on in instructions() {
            let mut found = vec![0.0; expected.len()];
            widen(on, &bytes, format, &mut found);
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{on:?}: number {at} of {format} is {found}, not {expected}");
            }
        }
    }
}

/// `fixtures/blocks.py` writes down what the Python package of the format's makers reads.
#[test]
fn the_reference_reads_blocks_as_their_makers_do() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/blocks.safetensors")).expect("reads");
    let file = safetensors::SafeTensors::deserialize(&file).expect("safetensors");
    for &format in FORMATS.iter().filter(|format| format.is_blocks()) {
        let tensor = |part: &str| file.tensor(&format!("{format}.{part}")).expect("a tensor").data().to_vec();
        let expected: Vec<f32> = tensor("numbers").as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let found = blocks::numbers(format, &tensor("bytes")).expect("blocks");
        assert!(expected.len() >= 64 && bits(&found) == bits(&expected), "{format}");
    }
}

/// `silu(gate · x) · (up · x)` or a plain product, with bias and addition, by every tier.
fn run_project(on: Instructions, threads: usize, case: &Case, rows: usize, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut pool = Pool::new(threads).expect("threads start");
    let (bytes, _) = stored(case.format, &case.weights);
    let matrix = Matrix::new(&bytes[1..], case.format, case.outputs, case.inputs);
    let mut out = vec![0.5; rows * case.outputs];
    let projection = Projection { matrix, bias: Some(&case.bias), out: &mut out, then: Then::Add };
    let mut room = vec![0xff; rounded_bytes(rows, case.inputs)];
    let mut inputs = Inputs { x, rows, room: &mut room };
    project(&mut pool, on, &mut inputs, &mut [projection]);
    let mut gated = vec![0.0; rows * case.outputs];
    let (gate, up) = ((matrix, Some(case.bias.as_slice())), (matrix, None));
    project_gated(&mut pool, on, &mut inputs, gate, up, Activation::Silu, &mut gated);
    (out, gated)
}

#[derive(Debug, Clone)]
struct Case {
    format: Format,
    outputs: usize,
    inputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

fn case() -> impl Strategy<Value = Case> {
    (0..FORMATS.len(), 1..150usize, 1..140usize, any::<u64>()).prop_map(|(format, outputs, inputs, seed)| {
        let format = FORMATS[format];
        let block = format.block().numbers;
        let inputs = if block == 256 { inputs.div_ceil(64) * block } else { inputs.next_multiple_of(block) };
        let (weights, bias) = (noise(seed, outputs * inputs), noise(seed ^ 1, outputs));
        Case { format, outputs, inputs, weights, bias }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_match_f64_on_every_tier(case in case(), rows in 1..40usize, seed in any::<u64>()) {
        let x = noise(seed, rows * case.inputs);
        let (_, meant) = stored(case.format, &case.weights);
        for on in instructions() {
            let rounded = |numbers: &[f32]| if on.dots(case.format) { stored(Format::Bf16, numbers).1 } else { numbers.to_vec() };
            let (meant, x) = (rounded(&meant), rounded(&x));
            let (out, gated) = run_project(on, 2, &case, rows, &x);
            for row in 0..rows {
                let x = &x[row * case.inputs..][..case.inputs];
                for n in 0..case.outputs {
                    let (product, error) = dot(&meant[n * case.inputs..][..case.inputs], x);
                    let biased = product + f64::from(case.bias[n]);
                    let found = f64::from(out[row * case.outputs + n]);
                    prop_assert!((found - biased - 0.5).abs() <= error + 1e-6, "{:?}: {} not {}", on, found, biased);
                    let silu = biased / (1.0 + (-biased).exp()) * product;
                    let found = f64::from(gated[row * case.outputs + n]);
                    let error = error * (2.0 + 2.0 * product.abs() + biased.abs()) + 1e-6;
                    prop_assert!((found - silu).abs() <= error, "{:?}: gated {} not {}", on, found, silu);
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_company(case in case(), rows in 2..40usize, seed in any::<u64>()) {
        let x = noise(seed, rows * case.inputs);
        for on in instructions() {
            let (together, gated_together) = run_project(on, 2, &case, rows, &x);
            for row in 0..rows {
                let (alone, gated_alone) = run_project(on, 1, &case, 1, &x[row * case.inputs..][..case.inputs]);
                let range = row * case.outputs..(row + 1) * case.outputs;
                prop_assert_eq!(bits(&alone), bits(&together[range.clone()]));
                prop_assert_eq!(bits(&gated_alone), bits(&gated_together[range]));
            }
        }
    }

    #[test]
    fn neither_panels_nor_blocks_of_rows_change_a_bit(
        format in 0..FORMATS.len(), outputs in 1..9usize, inputs in 4..12usize, rows in 1..120usize, seed in any::<u64>(),
    ) {
        let (format, inputs) = (FORMATS[format], inputs * 256);
        let (weights, bias) = (noise(seed, outputs * inputs), noise(seed ^ 1, outputs));
        let case = Case { format, outputs, inputs, weights, bias };
        let x = noise(seed ^ 2, rows * inputs);
        for on in instructions().into_iter().filter(|on| on.tier() == Tier::best()) {
            let (together, gated_together) = run_project(on, 2, &case, rows, &x);
            for row in [0, rows / 2, rows - 1] {
                let (alone, gated_alone) = run_project(on, 1, &case, 1, &x[row * inputs..][..inputs]);
                let range = row * outputs..(row + 1) * outputs;
                prop_assert_eq!(bits(&alone), bits(&together[range.clone()]));
                prop_assert_eq!(bits(&gated_alone), bits(&gated_together[range]));
            }
        }
    }

    #[test]
    fn a_gate_of_one_format_and_an_up_of_another_keep_a_rows_bits(
        formats in (0..FORMATS.len(), 0..FORMATS.len()), outputs in 1..9usize, rows in 1..60usize, seed in any::<u64>(),
    ) {
        const INPUTS: usize = 256;
        let (formats, weights) = ([FORMATS[formats.0], FORMATS[formats.1]], noise(seed, outputs * INPUTS));
        let bytes = formats.map(|format| stored(format, &weights).0);
        let x = noise(seed ^ 1, rows * INPUTS);
        for on in instructions() {
            let gated = |x: &[f32]| {
                let side = |at: usize| (Matrix::new(&bytes[at][1..], formats[at], outputs, INPUTS), None);
                let rows = x.len() / INPUTS;
                let (mut out, mut room) = (vec![0.0; rows * outputs], vec![0xff; rounded_bytes(rows, INPUTS)]);
                let mut pool = Pool::new(2).expect("threads start");
                let mut inputs = Inputs { x, rows, room: &mut room };
                project_gated(&mut pool, on, &mut inputs, side(0), side(1), Activation::Silu, &mut out);
                out
            };
            let together = gated(&x);
            for row in 0..rows {
                let alone = gated(&x[row * INPUTS..][..INPUTS]);
                prop_assert_eq!(bits(&alone), bits(&together[row * outputs..][..outputs]), "{:?}", on);
            }
        }
    }

    #[test]
    fn quantized_numbers_are_within_half_a_step(blocks in 1..9usize, exponent in -30..30i32, seed in any::<u64>()) {
        let numbers: Vec<f32> = noise(seed, 32 * blocks).iter().map(|it| it * 2f32.powi(exponent)).collect();
        let (_, meant) = stored(Format::Q8_0, &numbers);
        for (block, meant) in numbers.chunks(32).zip(meant.chunks(32)) {
            let largest = block.iter().fold(0f32, |largest, number| largest.max(number.abs()));
            // Half a step, the scale's own rounding, and below that binary16's smallest number.
            let allowed = largest / 127.0 * 0.57 + if largest < 8e-3 { 127.0 * 6e-8 } else { 0.0 };
            prop_assume!(largest / 127.0 < 6e4);
            for (number, meant) in block.iter().zip(meant) {
                prop_assert!((number - meant).abs() <= allowed, "{} became {} of {}", number, meant, largest);
            }
        }
    }

    #[test]
    fn four_bits_are_the_same_on_every_tier_and_close(blocks in 1..5usize, exponent in -12..12i32, seed in any::<u64>()) {
        let numbers: Vec<f32> = noise(seed, 256 * blocks).iter().map(|it| it * 2f32.powi(exponent)).collect();
        let of = |on: Instructions| {
            let mut bytes = Vec::new();
            quantize(on, Format::Q4K, &numbers, &mut bytes);
            bytes
        };
        let fused: Vec<_> = instructions().into_iter().filter(|on| on.tier() != Tier::Portable).map(of).collect();
        prop_assert!(fused.windows(2).all(|pair| pair[0] == pair[1]));
        for bytes in fused.into_iter().chain([of(Instructions::of(Tier::Portable).expect("every machine has it"))]) {
            let meant = blocks::numbers(Format::Q4K, &bytes).expect("blocks");
            let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|it| f64::from(it * it)).sum::<f64>();
            let lost = sum(&mut numbers.iter().zip(&meant).map(|(number, meant)| number - meant));
            let error = (lost / sum(&mut numbers.iter().copied())).sqrt();
            prop_assert!(error < FOUR_BITS_ERROR, "an error of {}", error);
        }
    }

    #[test]
    fn fused_tiers_agree_to_the_last_bit(case in case(), rows in 1..15usize, seed in any::<u64>()) {
        let x = noise(seed, rows * case.inputs);
        let fused = |on: &Instructions| on.tier() != Tier::Portable && !on.dots(case.format);
        let fused: Vec<_> = instructions().into_iter().filter(fused).collect();
        if let [first, others @ ..] = fused.as_slice() {
            let (out, gated) = run_project(*first, 1, &case, rows, &x);
            for other in others {
                let (other_out, other_gated) = run_project(*other, 1, &case, rows, &x);
                prop_assert_eq!(bits(&out), bits(&other_out));
                prop_assert_eq!(bits(&gated), bits(&other_gated));
            }
        }
    }

    #[test]
    fn norms_match_f64_on_every_tier(
        width in 1..100usize, rows in 1..20usize, of_differences: bool, has_bias: bool, seed in any::<u64>(),
    ) {
        let (x, weight, bias) = (noise(seed, rows * width), noise(seed ^ 1, width), noise(seed ^ 2, width));
        let of = if of_differences { Normed::Differences } else { Normed::Row };
        let by = RowNorm { of, weight: &weight, bias: has_bias.then_some(&bias), eps: 1e-5 };
        for on in instructions() {
            let mut pool = Pool::new(2).expect("threads start");
            let mut out = vec![0.0; rows * width];
            norm(&mut pool, on, by, &x, &mut out);
            let mut in_place = x.clone();
            norm_in_place(&mut pool, on, by, &mut in_place);
            prop_assert_eq!(bits(&in_place), bits(&out));
            let mut added = x.clone();
            add_normed(&mut pool, on, by, &x, &mut added);
            for ((x, out), added) in x.chunks(width).zip(out.chunks(width)).zip(added.chunks(width)) {
                let mean = if of_differences { x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64 } else { 0.0 };
                let apart = |x: f32| f64::from(x) - mean;
                let square = x.iter().map(|&x| apart(x) * apart(x)).sum::<f64>() / width as f64;
                for at in 0..width {
                    let bias = if has_bias { f64::from(bias[at]) } else { 0.0 };
                    let scaled = f64::from(weight[at]) / (square + 1e-5).sqrt();
                    let expected = apart(x[at]) * scaled + bias;
                    // A difference is off by the rounding of the numbers and of their mean.
                    let allowed = expected.abs() * 1e-6 + scaled.abs() * 3e-7 + 3e-7;
                    prop_assert!((f64::from(out[at]) - expected).abs() <= allowed, "{} not {}", out[at], expected);
                    prop_assert!((f64::from(added[at]) - f64::from(x[at]) - expected).abs() <= allowed + 1e-6);
                }
            }
        }
    }

    #[test]
    fn functions_match_f64_on_every_tier(width in 1..40usize, scale in 0.1..8f32, seed in any::<u64>()) {
        let numbers: Vec<f32> = noise(seed, width).iter().map(|number| number * scale).collect();
        // A matrix that changes nothing but the function.
        let unit: Vec<f32> = (0..width * width).map(|at| if at / width == at % width { 1.0 } else { 0.0 }).collect();
        let bytes: Vec<u8> = unit.iter().flat_map(|number| number.to_le_bytes()).collect();
        for on in instructions() {
            for (activation, expected) in FUNCTIONS {
                let mut out = vec![0.0; width];
                let matrix = Matrix::new(&bytes, Format::F32, width, width);
                let mut room = vec![0; rounded_bytes(1, width)];
                let mut inputs = Inputs { x: &numbers, rows: 1, room: &mut room };
                let then = Then::Activate(activation);
                let projection = Projection { matrix, bias: None, out: &mut out, then };
                project(&mut Pool::new(1).expect("no thread to start"), on, &mut inputs, &mut [projection]);
                for (x, found) in numbers.iter().zip(&out) {
                    let expected = expected(f64::from(*x));
                    prop_assert!((f64::from(*found) - expected).abs() <= 1e-6 * (1.0 + x.abs() as f64), "{:?} of {}: {} not {}", activation, x, found, expected);
                }
            }
        }
    }

    #[test]
    fn attention_matches_f64_on_every_tier(
        float in 0..3usize, shape in 0..5usize, start in 0..40usize, rows in 1..20usize,
        sees in sight(), seed in any::<u64>(),
    ) {
        let (heads, kv_heads, head_dim) = [(4, 2, 16), (3, 1, 20), (5, 5, 6), (7, 1, 64), (8, 1, 32)][shape];
        let sizes = Heads { heads, kv_heads, head_dim, float: FLOATS[float] };
        for on in instructions() {
            let filled = Filled::new(on, sizes, start + rows, seed);
            let in_pairs = on.dots(Format::Bf16) && sizes.float == Format::Bf16;
            // A share rounded to bf16 is off by one part in 2^9 at most, and values are below one.
            let (allowed, meant) = match in_pairs {
                true => (1.0 / 512.0 + 1e-4, stored(Format::Bf16, &filled.queries).1),
                false => (2e-6, filled.queries.clone()),
            };
            let queries = &meant[start * heads * head_dim..];
            let mut pool = Pool::new(2).expect("threads start");
            let found = filled.attend(&mut pool, on, start, rows, sees);
            for row in 0..rows {
                for head in 0..heads {
                    let at = (row * heads + head) * head_dim;
                    let expected = filled.naive(&queries[at..][..head_dim], start + row, head, sees);
                    for (found, expected) in found[at..][..head_dim].iter().zip(expected) {
                        prop_assert!((f64::from(*found) - expected).abs() < allowed, "{:?}: {} not {}", on, found, expected);
                    }
                }
            }
            let alone = filled.attend(&mut pool, on, start + rows - 1, 1, sees);
            prop_assert_eq!(bits(&alone), bits(&found[(rows - 1) * heads * head_dim..]));
        }
    }
}

/// Products of every format, a norm and attention: this is how processors of two kinds are compared.
#[test]
fn fused_tiers_have_these_bits_on_every_kind_of_processor() {
    const FINGERPRINT: &str = "ad9911fd5a1ff2588c8d084bff99b94ee62d77224d13a06389ba96c3b3e35e1b";
    let is_fused = |on: &Instructions| on.tier() != Tier::Portable && !on.dots(Format::Bf16);
    for on in instructions().into_iter().filter(is_fused) {
        let mut hasher = blake3::Hasher::new();
        let mut take = |numbers: &[f32]| {
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
        };
        let (outputs, inputs, rows) = (21, 512, 7);
        for (seed, &format) in (0..).zip(FORMATS) {
            let (weights, bias) = (noise(seed, outputs * inputs), noise(seed ^ 1, outputs));
            let case = Case { format, outputs, inputs, weights, bias };
            let (out, gated) = run_project(on, 2, &case, rows, &noise(seed ^ 2, rows * inputs));
            take(&out);
            take(&gated);
        }
        let mut normed = vec![0.0; rows * inputs];
        let mut pool = Pool::new(2).expect("threads start");
        let by = RowNorm { of: Normed::Row, weight: &noise(4, inputs), bias: None, eps: 1e-5 };
        norm(&mut pool, on, by, &noise(3, rows * inputs), &mut normed);
        take(&normed);
        for float in FLOATS {
            let sizes = Heads { heads: 4, kv_heads: 2, head_dim: 20, float };
            take(&Filled::new(on, sizes, 45, 5).attend(&mut pool, on, 30, 15, Sees::Window(35)));
        }
        assert_eq!(hasher.finalize().to_hex().as_str(), FINGERPRINT, "{on:?}");
    }
}

/// A function of single numbers, in f64.
type Function = fn(f64) -> f64;

const FUNCTIONS: [(Activation, Function); 5] = [
    (Activation::Silu, |x| x / (1.0 + (-x).exp())),
    (Activation::Gelu, |x| x / 2.0 * (1.0 + erf(x / 2f64.sqrt()))),
    (Activation::GeluTanh, |x| {
        x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }),
    (Activation::Relu, |x| x.max(0.0)),
    (Activation::Tanh, f64::tanh),
];

/// The error function by a series whose terms all have one sign.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp()
}

fn sight() -> impl Strategy<Value = Sees> {
    prop_oneof![
        Just(Sees::All),
        (1..40usize).prop_map(Sees::Window),
        Just(Sees::BothWays),
        (0..30usize).prop_map(Sees::Around),
    ]
}

/// One layer's storage with some positions written (the rest is not a number), unrotated.
struct Filled {
    sizes: Heads,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    storage: Vec<u8>,
    blocks: Vec<u32>,
}

impl Filled {
    fn new(on: Instructions, sizes: Heads, positions: usize, seed: u64) -> Self {
        let width = sizes.kv_heads * sizes.head_dim;
        let count = positions.div_ceil(BLOCK_TOKENS);
        let blocks: Vec<u32> = (0..count as u32).rev().collect();
        let mut filled = Self {
            sizes,
            queries: noise(seed, positions * sizes.heads * sizes.head_dim),
            keys: noise(seed ^ 1, positions * width),
            values: noise(seed ^ 2, positions * width),
            storage: vec![0xff; count * sizes.block_bytes()],
            blocks,
        };
        filled.store(on, positions);
        filled
    }

    fn store(&mut self, on: Instructions, positions: usize) {
        let tokens = vec![0; positions];
        let segments = [Segment { input: Input::Tokens(&tokens), start: 0, blocks: &self.blocks, want: Want::Nothing }];
        let half = self.sizes.head_dim / 2;
        let angles: Vec<f32> = (0..positions * 2 * half).map(|at| f32::from((at / half).is_multiple_of(2))).collect();
        let rows: Vec<Row> = (0..positions).map(|position| Row { segment: 0, position }).collect();
        let rotation = Rotation {
            heads: self.sizes,
            query_norm: None,
            key_norm: None,
            scale: 1.0 / (self.sizes.head_dim as f32).sqrt(),
            growth: None,
            width: self.sizes.head_dim,
            angles: &angles,
            rows: &rows,
            segments: &segments,
        };
        let mut pool = Pool::new(1).expect("no thread to start");
        let (queries, keys) = (&mut self.queries, &mut self.keys);
        rotate_and_store(&mut pool, on, &rotation, queries, keys, &self.values, &mut self.storage);
        // The stored numbers are those that count.
        self.keys = stored(self.sizes.float, &self.keys).1;
        self.values = stored(self.sizes.float, &self.values).1;
    }

    fn attend(&self, pool: &mut Pool, on: Instructions, start: usize, rows: usize, sees: Sees) -> Vec<f32> {
        let width = self.sizes.heads * self.sizes.head_dim;
        let tokens = vec![0; rows];
        let segments = [Segment { input: Input::Tokens(&tokens), start, blocks: &self.blocks, want: Want::Nothing }];
        let rows: Vec<Row> = (start..start + rows).map(|position| Row { segment: 0, position }).collect();
        let mut out = vec![f32::NAN; rows.len() * width];
        let attention = Attention {
            heads: self.sizes,
            sees,
            soft_cap: None,
            rows: &rows,
            segments: &segments,
            queries: &self.queries[start * width..][..rows.len() * width],
            storage: &self.storage,
        };
        attend(pool, on, &attention, &mut out);
        out
    }

    fn naive(&self, query: &[f32], position: usize, head: usize, sees: Sees) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim, .. } = self.sizes;
        let kv_head = head / (heads / kv_heads);
        let end = self.keys.len() / (kv_heads * head_dim);
        let seen = match sees {
            Sees::All => 0..position + 1,
            Sees::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Sees::BothWays => 0..end,
            Sees::Around(away) => position.saturating_sub(away)..end.min(position + away + 1),
        };
        let at = |numbers: &[f32], position: usize| -> Vec<f64> {
            let offset = (position * kv_heads + kv_head) * head_dim;
            numbers[offset..][..head_dim].iter().map(|&number| f64::from(number)).collect()
        };
        let score = |position| -> f64 {
            query.iter().zip(at(&self.keys, position)).map(|(&q, k)| f64::from(q) * k).sum::<f64>().exp()
        };
        let total: f64 = seen.clone().map(score).sum();
        let mut mixed = vec![0.0; head_dim];
        for position in seen {
            let share = score(position) / total;
            for (mixed, value) in mixed.iter_mut().zip(at(&self.values, position)) {
                *mixed += share * value;
            }
        }
        mixed
    }
}
