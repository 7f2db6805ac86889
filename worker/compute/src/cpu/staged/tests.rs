//! The loss of quantizing is measured; nothing is quantized twice.

use loader::{Proof, Region, Weights, header};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::super::need::copies_bytes;
use super::*;
use crate::kernels::tier::Tier;
use crate::kind::Quantization;
use models::{Config, bind, describe};
use tensor::Slot;

fn config() -> Config {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 96, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "tie_word_embeddings": true, "max_position_embeddings": 64,
    });
    Config::parse(config.to_string().as_bytes()).expect("a config")
}

/// Numbers of a normal distribution (Box and Muller 1958) over those of splitmix64.
fn normal(mut state: u64) -> impl Iterator<Item = f32> {
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    std::iter::repeat_with(move || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        (0.02 * radius * (std::f64::consts::TAU * uniform()).cos()) as f32
    })
}

/// A model of normal numbers; `change` may make others of one tensor.
fn decoder(dtype: Dtype, change: impl Fn(&str, Vec<f32>) -> Vec<f32>) -> Decoder {
    let described = describe(&config());
    let stored = |numbers: Vec<f32>| -> Vec<u8> {
        let bytes = numbers.into_iter().map(|number| match dtype {
            Dtype::F32 => number.to_le_bytes().to_vec(),
            Dtype::F16 => half::f16::from_f32(number).to_le_bytes().to_vec(),
            _ => half::bf16::from_f32(number).to_le_bytes().to_vec(),
        });
        bytes.flatten().collect()
    };
    let tensors: Vec<(&Slot, Vec<u8>)> = described
        .tensors()
        .into_iter()
        .zip(1..)
        .map(|(slot, seed)| (slot, stored(change(&slot.name, normal(seed).take(slot.elements()).collect()))))
        .collect();
    let views = tensors
        .iter()
        .map(|(slot, bytes)| (&slot.name, TensorView::new(dtype, slot.shape.clone(), bytes).expect("sizes fit")));
    let bytes = safetensors::serialize(views, None).expect("serialises");
    let region = Region::anonymous("normal", bytes.len() as u64).expect("memory");
    let header = header::parse(&bytes, bytes.len() as u64).expect("a header");
    assert!(region.fill_extent(0, &bytes));
    let weights = Weights::over([(&region, &header)], Proof::Trusted).expect("weights");
    bind(&config(), &weights).expect("a model")
}

fn staged(source: Decoder, tier: Tier, quantization: Quantization) -> Staged {
    let (instruction_set, quantization) = (Some(tier), Some(quantization));
    let options = CpuOptions { instruction_set, quantization, ..CpuOptions::default() };
    Staged::of(Arc::new(source), &options).expect("the machine has the instructions")
}

fn unchanged(_: &str, numbers: Vec<f32>) -> Vec<f32> {
    numbers
}

/// The loss of normal numbers in each format. Of Q8_0 a block's largest of 32 numbers is 2.4 deviations on average: steps of
/// 2.4 / 127, and 1 / √12 of a step. Of Q4_K 32 numbers span 4.1 deviations on average: fifteen steps, and 1 / √12 of one, less
/// what the choice of steps gains.
const LOSSES: [(Quantization, [f64; 2]); 2] =
    [(Quantization::Q8_0, [0.005, 0.006]), (Quantization::Q4K, [0.07, 0.073])];

#[test]
fn normal_numbers_lose_half_a_hundredth_in_eight_bits_and_seven_in_four() {
    for (dtype, (quantization, [least, most])) in
        [Dtype::BF16, Dtype::F16, Dtype::F32].into_iter().flat_map(|dtype| LOSSES.map(|losses| (dtype, losses)))
    {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            let staged = staged(decoder(dtype, unchanged), tier, quantization);
            assert_eq!(staged.loss(), QuantizationLoss::default(), "nothing is done before it is asked for");
            staged.complete(3, None, &|| true).expect("all is there");
            let loss = staged.loss();
            println!(
                "{dtype:?} {quantization:?} {}: mean {:.5}, max {:.5} of {}",
                tier.name(),
                loss.mean,
                loss.max,
                loss.worst
            );
            assert_eq!(loss.matrices, 2 * 7 + 1, "the projections, and the head that is tied to the embeddings");
            assert_eq!(loss.bytes, copies_bytes(&staged.source, Some(quantization)));
            assert!(loss.mean > least && loss.mean <= loss.max && loss.max < most, "{quantization:?}: {loss:?}");
        }
    }
}

#[test]
fn the_worst_matrix_is_named_and_one_of_zeros_loses_nothing() {
    // One large number in every block leaves the others of it a few steps.
    let spiked = |name: &str, mut numbers: Vec<f32>| {
        if name.contains("layers.1.mlp.up_proj") {
            numbers.iter_mut().step_by(32).for_each(|number| *number = 1.0);
        }
        if name.contains("layers.0.mlp.down_proj") {
            numbers.fill(0.0);
        }
        numbers
    };
    let staged = staged(decoder(Dtype::BF16, spiked), Tier::best(), Quantization::Q8_0);
    staged.complete(1, None, &|| true).expect("all is there");
    let loss = staged.loss();
    assert_eq!(loss.worst, "model.layers.1.mlp.up_proj.weight");
    assert!(loss.max > 0.01 && loss.mean < 0.006, "{loss:?}");
    let zeros = staged.copies()[&("model.layers.0.mlp.down_proj.weight", 0)].1;
    assert_eq!(zeros.relative_error, 0.0);
}

#[test]
fn what_is_no_number_is_said_to_be_lost() {
    let infinite = |name: &str, mut numbers: Vec<f32>| {
        if name.contains("layers.0.mlp.down_proj") {
            numbers[5] = f32::INFINITY;
        }
        numbers
    };
    let staged = staged(decoder(Dtype::F32, infinite), Tier::best(), Quantization::Q8_0);
    staged.complete(1, None, &|| true).expect("all is there");
    assert_eq!(staged.loss().max, 1.0);
}

#[test]
fn a_revision_shares_the_copies_of_what_it_shares() {
    let source = decoder(Dtype::BF16, unchanged);
    let (old, same) =
        (staged(source.clone(), Tier::best(), Quantization::Q8_0), staged(source, Tier::best(), Quantization::Q8_0));
    old.complete(2, None, &|| true).expect("all is there");
    same.complete(2, Some(&old), &|| true).expect("all is there");
    let (mine, theirs) = (same.copies(), old.copies());
    assert!(mine.iter().all(|(name, (_, copy))| Arc::ptr_eq(copy, theirs[name].1)));
    let other = staged(decoder(Dtype::BF16, unchanged), Tier::best(), Quantization::Q8_0);
    other.complete(2, Some(&old), &|| true).expect("all is there");
    let of_others = other.copies();
    assert!(of_others.iter().all(|(name, (_, copy))| !Arc::ptr_eq(copy, theirs[name].1)), "other bytes, other copies");
}

#[test]
fn who_is_not_wanted_any_more_stops() {
    let staged = staged(decoder(Dtype::BF16, unchanged), Tier::best(), Quantization::Q8_0);
    assert!(matches!(staged.complete(2, None, &|| false), Err(StepError::Unwanted { .. })));
    assert_eq!(staged.loss().matrices, 0);
}
