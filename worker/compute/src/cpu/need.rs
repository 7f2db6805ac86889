//! Memory of the `cpu` backend for a model, beside its mapped weights: pure.

use super::operand;
use crate::backend::Makes;
use crate::kernels::linear;
use crate::kernels::rotate::BLOCK_TOKENS;
use crate::kind::{Quantization, Rows};
use tensor::{Attention, Decoder, Format, Layer, Widths};

/// Bytes of one activation: f32.
pub(super) const ACTIVATION_BYTES: usize = 4;

/// Bytes of the activations of one step.
pub(super) fn activation_bytes(decoder: &Decoder, rows: Rows) -> u64 {
    let Rows { max_rows, max_logits_rows } = rows;
    let (hidden, Widths { queries, keys, inner, experts }) = (decoder.hidden_size, decoder.widths());
    let angles: usize = decoder.rotations.iter().map(|rotation| rotation.width).sum();
    let routed = if experts > 0 { experts + 3 * hidden } else { 0 };
    let row = 2 * hidden + 2 * queries + 2 * keys + inner + routed + angles;
    let distances = decoder.distances.as_ref().map_or(0, |distances| 2 * distances.span);
    let of_distances = distances.saturating_mul(hidden + 2 * keys) as u64;
    let logits_row = 2 * hidden + results_width(decoder);
    let numbers = (row as u64).saturating_mul(max_rows as u64);
    let numbers = numbers.saturating_add((logits_row as u64).saturating_mul(max_logits_rows as u64));
    let activations = numbers.saturating_add(of_distances).saturating_mul(ACTIVATION_BYTES as u64);
    activations.saturating_add(rounded_bytes(decoder, rows))
}

/// Numbers of a row of results: logits, or scores of classes behind the row that they are made of.
pub(super) fn results_width(decoder: &Decoder) -> usize {
    match Makes::of(decoder, |weight| weight.shape()[0]) {
        Makes::Logits => decoder.vocab_size,
        Makes::Classes(classes) => classes,
        Makes::Nothing => 0,
    }
}

/// The part of [`activation_bytes`] that holds the rows of one projection, rounded to bf16.
pub(super) fn rounded_bytes<W>(decoder: &Decoder<W>, rows: Rows) -> u64 {
    let Widths { queries, keys: _, inner, experts: _ } = decoder.widths();
    let widest = decoder.hidden_size.max(queries).max(inner);
    let distances = decoder.distances.as_ref().map_or(0, |distances| 2 * distances.span);
    let (inner, head) = (
        linear::rounded_bytes(rows.max_rows.max(distances), widest),
        linear::rounded_bytes(rows.max_logits_rows, decoder.hidden_size),
    );
    inner.max(head) as u64
}

/// Bytes of one KV block over all layers, keys and values together. Layers of an encoder take turns in one.
pub(super) fn kv_block_bytes<W>(decoder: &Decoder<W>, kv_float: Format) -> u64 {
    let widths = decoder.attentions().map(Attention::key_width);
    let numbers: usize = if decoder.is_encoder() { widths.max().unwrap_or(0) } else { widths.sum() };
    (2 * BLOCK_TOKENS * numbers * kv_float.block().bytes) as u64
}

/// Bytes of the copies that `quantization` makes of a decoder's matrices, beside the files.
pub(super) fn copies_bytes(decoder: &Decoder, quantization: Option<Quantization>) -> u64 {
    let layers = decoder.layers.iter().flat_map(Layer::tensors);
    // The embedding table stays in place; where it is the head as well, the head is a copy.
    let copied = layers.chain(decoder.last_tensors()).map(|weight| operand::copied_bytes(weight, quantization) as u64);
    copied.sum()
}
