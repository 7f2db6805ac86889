//! Memory of the `cpu` backend for a model, beside its mapped weights: pure.

use super::KV_BLOCK_TOKENS;
use super::operand;
use crate::kernels::linear;
use crate::kind::{Quantization, Rows};
use models::{Config, Decoder, Layer};
use tensor::Format;

/// Bytes of one activation: f32.
pub(super) const ACTIVATION_BYTES: usize = 4;

/// Bytes of the activations of one step.
pub(super) fn activation_bytes(config: &Config, rows: Rows) -> u64 {
    let Rows { max_rows, max_logits_rows } = rows;
    let (hidden, head_dim) = (config.hidden_size, config.head_dim);
    let row = 2 * hidden + 2 * config.query_width() + 2 * config.kv_width() + config.intermediate_size + head_dim;
    let logits_row = 2 * hidden + config.vocab_size;
    let numbers = (row as u64).saturating_mul(max_rows as u64);
    let numbers = numbers.saturating_add((logits_row as u64).saturating_mul(max_logits_rows as u64));
    let activations = numbers.saturating_add(head_dim as u64 / 2).saturating_mul(ACTIVATION_BYTES as u64);
    activations.saturating_add(rounded_bytes(config, rows))
}

/// The part of [`activation_bytes`] that holds the rows of one projection, rounded to bf16.
pub(super) fn rounded_bytes(config: &Config, rows: Rows) -> u64 {
    let widest = config.hidden_size.max(config.query_width()).max(config.intermediate_size);
    let (inner, head) =
        (linear::rounded_bytes(rows.max_rows, widest), linear::rounded_bytes(rows.max_logits_rows, config.hidden_size));
    inner.max(head) as u64
}

/// Bytes of one KV block over all layers, keys and values together.
pub(super) fn kv_block_bytes(config: &Config, kv_float: Format) -> u64 {
    (2 * KV_BLOCK_TOKENS * config.kv_width() * config.layers * kv_float.block().bytes) as u64
}

/// Bytes of the copies that `quantization` makes of a decoder's matrices, beside the files.
pub(super) fn copies_bytes(decoder: &Decoder, quantization: Option<Quantization>) -> u64 {
    let layers = decoder.layers.iter().flat_map(Layer::tensors);
    // The embedding table stays in place; where it is the head as well, the head is a copy.
    let copied = layers.chain([decoder.head()]).map(|weight| operand::copied_bytes(weight, quantization) as u64);
    copied.sum()
}
