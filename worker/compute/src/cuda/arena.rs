//! The memory of a step on a device: where each list of activations begins, from a model's sizes alone.

use super::device::Address;
use super::layout::{INPUTS_UNIT, head_room};
use crate::kind::Rows;
use tensor::{Attention, Decoder, Widths};

/// One token's keys are split among at most so many blocks.
pub(crate) const SPLITS: usize = 16;
/// The likeliest tokens that a row reports from the device; rows that want more are sampled on the host.
pub(crate) const TOP_MAX: usize = 20;
/// Where a list begins.
const ALIGNMENT: u64 = 256;

/// Where each list begins, relative to the arena. `R` is `max_rows`, `L` is `max_logits_rows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arena {
    /// The residual stream: f32 (R, hidden).
    pub(crate) stream: u64,
    /// The stream, normalised: bf16 (max(R, L), padded hidden).
    pub(crate) normed: u64,
    /// Queries, keys and values as projected: f32 (R, all).
    pub(crate) projected: u64,
    /// Queries, rotated: bf16 (R, heads, room).
    pub(crate) queries: u64,
    /// The result of attention: bf16 (R, padded).
    pub(crate) mixed: u64,
    /// Inside the feed-forward part: bf16 (R, padded).
    pub(crate) inner: u64,
    /// Of each rotation, cosines and sines: f32 (R, width).
    pub(crate) angles: Vec<u64>,
    /// Of each rotation: f32 (width / 2).
    pub(crate) frequencies: Vec<u64>,
    /// Splits of single tokens: f32 (L, heads, SPLITS, room + 2).
    pub(crate) partial: u64,
    /// The picked rows in full: f32 (L, hidden).
    pub(crate) wide: u64,
    /// f32 (L, vocabulary).
    pub(crate) logits: u64,
    /// u32 (L): chosen tokens, which the next step reads.
    pub(crate) tokens: u64,
    /// 16 bytes each (L): sum, largest, is it finite.
    pub(crate) found: u64,
    /// f32 (L): logits of tokens that were asked about.
    pub(crate) own: u64,
    /// u32 (L, TOP_MAX), and their logits.
    pub(crate) top_ids: u64,
    pub(crate) top_logits: u64,
    /// All of them together.
    pub(crate) bytes: u64,
}

/// Bytes of what `choose` finds of a row.
pub(crate) const FOUND_BYTES: usize = 16;

impl Arena {
    /// The lists for a model's largest step.
    pub(crate) fn of<W>(decoder: &Decoder<W>, Rows { max_rows, max_logits_rows }: Rows) -> Self {
        let mut at = 0_u64;
        let mut list = |rows: usize, row_bytes: usize| {
            let begin = at.next_multiple_of(ALIGNMENT);
            at = begin.saturating_add((rows as u64).saturating_mul(row_bytes as u64));
            begin
        };
        let (hidden, Widths { queries, keys, inner, experts: _ }) = (decoder.hidden_size, decoder.widths());
        let (rows, logits_rows) = (max_rows, max_logits_rows);
        let padded = |width: usize| width.next_multiple_of(INPUTS_UNIT);
        let rooms = |of: fn(&Attention<W>) -> usize| {
            let rooms = decoder.attentions().map(|body| of(body) * head_room(body.head_dim).unwrap_or(body.head_dim));
            rooms.max().unwrap_or(0)
        };
        let parts = decoder.attentions().map(|body| body.heads * (head_room(body.head_dim).unwrap_or(0) + 2));
        let parts = parts.max().unwrap_or(0) * SPLITS;
        Self {
            stream: list(rows, hidden * 4),
            normed: list(rows.max(logits_rows), padded(hidden) * 2),
            projected: list(rows, (queries + 2 * keys) * 4),
            queries: list(rows, rooms(|body| body.heads) * 2),
            mixed: list(rows, padded(queries) * 2),
            inner: list(rows, padded(inner) * 2),
            angles: decoder.rotations.iter().map(|rotation| list(rows, rotation.width * 4)).collect(),
            frequencies: decoder.rotations.iter().map(|rotation| list(1, rotation.width * 2)).collect(),
            partial: list(logits_rows, parts * 4),
            wide: list(logits_rows, hidden * 4),
            logits: list(logits_rows, decoder.vocab_size * 4),
            tokens: list(logits_rows, 4),
            found: list(logits_rows, FOUND_BYTES),
            own: list(logits_rows, 4),
            top_ids: list(logits_rows, TOP_MAX * 4),
            top_logits: list(logits_rows, TOP_MAX * 4),
            bytes: at,
        }
    }
}

/// Bytes of one KV block over all layers, keys and values together.
pub(crate) fn kv_block_bytes<W>(decoder: &Decoder<W>, block_tokens: usize) -> u64 {
    decoder.attentions().map(|body| 2 * layer_bytes(body, block_tokens)).sum()
}

/// Bytes of one layer's keys in a block; its values take as many.
pub(crate) fn layer_bytes<W>(body: &Attention<W>, block_tokens: usize) -> u64 {
    (block_tokens * body.kv_heads * head_room(body.head_dim).unwrap_or(body.head_dim) * 2) as u64
}

/// An arena that is somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base(pub(crate) Address);

impl Base {
    /// The address of a list.
    pub(crate) fn at(self, list: u64) -> Address {
        self.0.plus(list)
    }
}
