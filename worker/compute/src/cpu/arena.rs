//! The memory of a step: every activation, allocated once.

use std::io;

use super::need;
use crate::backend::Limits;
use crate::kernels::buffer::Buffer;
use crate::kernels::rotate::Row;
use crate::kind::Rows;
use crate::routing::Routing;
use tensor::{Decoder, Widths};

/// A row's way to an expert.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) expert: usize,
    pub(super) row: usize,
    /// The factor of the expert's result.
    pub(super) share: f32,
}

/// Activations of one step. `R` is `max_rows`, `L` is `max_logits_rows`.
pub(super) struct Arena {
    /// The rows of the current step.
    pub(super) rows: Vec<Row>,
    /// Those of them that want logits.
    pub(super) wanted: Vec<usize>,
    /// The residual stream, (R, hidden).
    pub(super) stream: Vec<f32>,
    /// The stream, normalised, (R, hidden).
    pub(super) normed: Vec<f32>,
    /// (R, heads · head_dim).
    pub(super) queries: Vec<f32>,
    /// (R, kv_heads · head_dim).
    pub(super) keys: Vec<f32>,
    /// (R, kv_heads · head_dim).
    pub(super) values: Vec<f32>,
    /// Result of attention, (R, heads · head_dim).
    pub(super) mixed: Vec<f32>,
    /// Inside the feed-forward part, (R, intermediate).
    pub(super) inner: Vec<f32>,
    /// Scores of experts, (R, experts); of a decoder without them this and what follows is empty.
    pub(super) scores: Vec<f32>,
    /// The rows that go to one expert, (R, hidden).
    pub(super) gathered: Vec<f32>,
    /// Its results, (R, hidden).
    pub(super) results: Vec<f32>,
    /// Every row's sum of results, (R, hidden).
    pub(super) sum: Vec<f32>,
    /// The experts that rows go to.
    pub(super) routes: Vec<Route>,
    /// Scratch memory of routing.
    pub(super) routing: Routing,
    /// Of each of the decoder's rotations: cosines and sines, (R, 2, width / 2).
    pub(super) angles: Vec<Vec<f32>>,
    /// Embeddings of distances, normed, (rows, hidden).
    pub(super) distances: Vec<f32>,
    /// A layer's keys and queries of them, (rows, kv_heads · head_dim) each.
    pub(super) distance_keys: Vec<f32>,
    pub(super) distance_queries: Vec<f32>,
    /// The wanted rows of the stream, (L, hidden).
    pub(super) picked: Vec<f32>,
    /// The same, normalised, (L, hidden).
    pub(super) normed_picked: Vec<f32>,
    /// Logits, (L, vocab), or scores of classes, (L, classes).
    pub(super) logits: Vec<f32>,
    /// Room for the rows of any projection rounded to bf16, where the tier wants that.
    pub(super) rounded: Buffer,
    /// Per KV block: the last step that wrote it.
    written: Vec<u64>,
    /// The number of this step.
    step: u64,
}

impl Arena {
    /// Room for the largest step.
    ///
    /// # Errors
    /// The system has no address space to give.
    pub(super) fn new(decoder: &Decoder, limits: &Limits) -> io::Result<Self> {
        let (rows, logits_rows) = (limits.max_rows, limits.max_logits_rows);
        let zeros = |rows: usize, width: usize| vec![0f32; rows * width];
        let (hidden, Widths { queries, keys, inner, experts }) = (decoder.hidden_size, decoder.widths());
        let routed = if experts > 0 { hidden } else { 0 };
        let distances = decoder.distances.as_ref().map_or(0, |distances| 2 * distances.span);
        let largest = Rows { max_rows: rows, max_logits_rows: logits_rows };
        let rounded = need::rounded_bytes(decoder, largest);
        Ok(Self {
            rows: Vec::with_capacity(rows),
            wanted: Vec::with_capacity(logits_rows),
            stream: zeros(rows, hidden),
            normed: zeros(rows, hidden),
            queries: zeros(rows, queries),
            keys: zeros(rows, keys),
            values: zeros(rows, keys),
            mixed: zeros(rows, queries),
            inner: zeros(rows, inner),
            scores: zeros(rows, experts),
            gathered: zeros(rows, routed),
            results: zeros(rows, routed),
            sum: zeros(rows, routed),
            routes: Vec::new(),
            routing: Routing::default(),
            angles: decoder.rotations.iter().map(|rotation| zeros(rows, rotation.width)).collect(),
            distances: zeros(distances, hidden),
            distance_keys: zeros(distances, keys),
            distance_queries: zeros(distances, keys),
            picked: zeros(logits_rows, hidden),
            normed_picked: zeros(logits_rows, hidden),
            logits: zeros(logits_rows, need::results_width(decoder)),
            rounded: Buffer::zeroed(usize::try_from(rounded).unwrap_or(usize::MAX))?,
            written: vec![0; limits.kv_blocks],
            step: 0,
        })
    }

    /// Forgets the last step.
    pub(super) fn begin(&mut self) {
        self.rows.clear();
        self.wanted.clear();
        self.step += 1;
    }

    /// Claims a block for one segment's writing; false if another has it in this step.
    pub(super) fn claim(&mut self, block: u32) -> bool {
        let written = &mut self.written[block as usize];
        std::mem::replace(written, self.step) != self.step
    }

    /// Bytes of its activations: what [`need::activation_bytes`] says they are.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let rounded = self.rounded.bytes();
        let Self {
            rows: _,
            wanted: _,
            stream,
            normed,
            queries,
            keys,
            values,
            mixed,
            inner,
            scores,
            gathered,
            results,
            sum,
            routes: _,
            routing: _,
            angles,
            distances,
            distance_keys,
            distance_queries,
            picked,
            normed_picked,
            logits,
            rounded: _,
            written: _,
            step: _,
        } = self;
        let alone = [stream, normed, queries, keys, values, mixed, inner, picked, normed_picked, logits];
        let of_experts = [scores, gathered, results, sum, distances, distance_keys, distance_queries];
        let numbers = alone.into_iter().chain(of_experts).chain(angles).map(Vec::len);
        numbers.sum::<usize>() * need::ACTIVATION_BYTES + rounded
    }
}
