//! Plans a model's memory: a pure function of the backend's needs and the operator's wishes.
//!
//! Weights are mapped, not allocated: their bytes count once a node however many read them. Their quantized
//! copies, the arena and the KV storage are ours. `split` divides one budget between the models of a worker, `machine`
//! says what there is, `take` takes it before it is needed. It knows no device and allocates nothing.

pub mod machine;
mod split;
pub mod take;

pub use split::{Demand, split};

use tensor::Decoder;
use thiserror::Error;

/// The KV storage where nobody asks for a size: what vLLM takes on CPUs.
pub(crate) const KV_BYTES_DEFAULT: u64 = 4 << 30;

/// A backend's memory for a model, beside the mapped weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of copies of weights.
    pub copies_bytes: u64,
    /// Bytes of the activations of the largest step.
    pub activation_bytes: u64,
    /// Bytes of one KV block over all layers, keys and values together.
    pub kv_block_bytes: u64,
    /// Positions in a KV block.
    pub kv_block_tokens: usize,
    /// The longest sequence the model was made for, in tokens.
    pub positions: usize,
    /// The KV blocks beyond which more are of no use, where a step alone uses them.
    pub kv_blocks_max: Option<u64>,
}

impl Need {
    /// KV blocks of a sequence of so many tokens.
    fn blocks_of(&self, tokens: usize) -> u64 {
        tokens.div_ceil(self.kv_block_tokens.max(1)) as u64
    }
}

/// The longest sequence of a model in steps of such a size: one that is computed at once is no longer than a step.
pub(crate) fn positions<W>(decoder: &Decoder<W>, max_rows: usize) -> usize {
    if decoder.is_encoder() { decoder.max_position.min(max_rows) } else { decoder.max_position }
}

/// The KV blocks beyond which more are of no use: of an encoder those of the largest step, so many sequences that each may
/// leave a part of its last one empty.
pub(crate) fn kv_blocks_max<W>(
    decoder: &Decoder<W>,
    max_rows: usize,
    sequences: usize,
    block_tokens: usize,
) -> Option<u64> {
    decoder.is_encoder().then(|| (max_rows.div_ceil(block_tokens) + sequences) as u64)
}

/// Memory of a model's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightsMemory {
    /// Bytes of the mapped files.
    pub mapped_bytes: u64,
    /// Bytes of the quantized copies beside them.
    pub copies_bytes: u64,
}

impl WeightsMemory {
    /// Both together.
    #[must_use]
    pub fn total_bytes(self) -> u64 {
        self.mapped_bytes.saturating_add(self.copies_bytes)
    }
}

/// The operator's wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Memory that weights, arena and KV storage are to take together: the KV storage gets what the others leave.
    pub budget_bytes: Option<u64>,
    /// Upper bound by the machine's memory; unknown if none.
    pub limit_bytes: Option<u64>,
    /// The size of the KV storage (`--kv-cache-memory-bytes`); the rest of the budget, or derived, if none.
    pub kv_cache_bytes: Option<u64>,
    /// The longest sequence in tokens (`--max-model-len`); what the model and the KV storage allow
    /// if none.
    pub max_model_len: Option<usize>,
    /// The most sequences at a time (`--max-num-seqs`).
    pub max_num_seqs: usize,
}

/// A plan of a model's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Mapped weights and their copies.
    pub weights: WeightsMemory,
    /// Activations.
    pub arena_bytes: u64,
    /// One KV block over all layers.
    pub kv_block_bytes: u64,
    /// KV blocks.
    pub kv_blocks: usize,
    /// All of them.
    pub kv_bytes: u64,
    /// The longest sequence.
    pub max_model_len: usize,
}

impl MemoryPlan {
    /// Everything together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weights.total_bytes() + self.arena_bytes + self.kv_bytes
    }
}

/// Errors of a plan: the wishes do not fit.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum MemoryError {
    /// A wish for nothing.
    #[error("planning memory: {0} must be at least 1")]
    Zero(&'static str),
    /// A longer sequence than the model was made for.
    #[error("planning memory: max_model_len {asked} exceeds the {available} positions of the model")]
    TooLong {
        /// The wish.
        asked: usize,
        /// The length that the model was made for.
        available: usize,
    },
    /// The KV storage does not hold one sequence of the length asked for.
    #[error(
        "planning memory: a sequence of {tokens} tokens needs {needed_bytes} bytes of KV storage, and there are \
         {available_bytes}; lower max_model_len or raise kv_cache_memory_bytes"
    )]
    KvTooSmall {
        /// The length that does not fit.
        tokens: usize,
        /// Bytes that it takes.
        needed_bytes: u64,
        /// Bytes that there are.
        available_bytes: u64,
    },
    /// Everything together exceeds the budget.
    #[error(
        "planning memory: weights {}{}, activations {arena_bytes} and KV storage {kv_bytes} bytes exceed \
         the budget of {budget_bytes} bytes; lower kv_cache_memory_bytes, max_model_len or max_num_batched_tokens{}",
        .weights.mapped_bytes, copies(*.weights), without_copies(*.weights)
    )]
    OverBudget {
        /// Mapped weights and their copies.
        weights: WeightsMemory,
        /// Activations.
        arena_bytes: u64,
        /// The KV storage asked for, or the least that is of use.
        kv_bytes: u64,
        /// Bytes that there are.
        budget_bytes: u64,
    },
}

fn copies(weights: WeightsMemory) -> String {
    let bytes = weights.copies_bytes;
    if bytes == 0 { String::new() } else { format!(", their quantized copies {bytes}") }
}

fn without_copies(weights: WeightsMemory) -> &'static str {
    let has_none = weights.copies_bytes == 0;
    if has_none { "" } else { ", or serve a GGUF file of Q8_0, which is read in place" }
}

/// Plans a model's memory.
///
/// The KV storage is what was asked for; else what the budget leaves, to the block; else, without a budget, enough
/// for `max_num_seqs` sequences of the longest kind, at most `KV_BYTES_DEFAULT` and at most what the limit leaves.
/// Where no `max_model_len` was asked for, it is cut to what the storage holds.
///
/// # Errors
/// The wishes exceed the model, the KV storage or the budget; the error has the numbers.
pub fn plan(need: &Need, mapped_bytes: u64, options: &MemoryOptions) -> Result<MemoryPlan, MemoryError> {
    let sizes = [("max_num_seqs", options.max_num_seqs), ("max_model_len", options.max_model_len.unwrap_or(1))];
    if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
        return Err(MemoryError::Zero(what));
    }
    let available = need.positions;
    if let Some(asked) = options.max_model_len.filter(|&asked| asked > available) {
        return Err(MemoryError::TooLong { asked, available });
    }
    let weights = WeightsMemory { mapped_bytes, copies_bytes: need.copies_bytes };
    let (arena_bytes, block_bytes) = (need.activation_bytes, need.kv_block_bytes.max(1));
    let wanted_len = options.max_model_len.unwrap_or(available);
    let sequence_bytes = need.blocks_of(wanted_len).saturating_mul(block_bytes);
    let bound = options.budget_bytes.into_iter().chain(options.limit_bytes).min();
    let left = bound.map(|bound| bound.saturating_sub(weights.total_bytes()).saturating_sub(arena_bytes));
    let derived = sequence_bytes.saturating_mul(options.max_num_seqs as u64).min(KV_BYTES_DEFAULT.max(block_bytes));
    let wanted = if options.budget_bytes.is_some() { u64::MAX } else { derived };
    let kv_bytes = options.kv_cache_bytes.unwrap_or_else(|| wanted.min(left.unwrap_or(u64::MAX)));
    let useful = need.kv_blocks_max.unwrap_or(u64::MAX).min(u32::MAX.into());
    let kv_blocks = usize::try_from((kv_bytes / block_bytes).min(useful)).unwrap_or(usize::MAX);
    let kv_bytes = kv_blocks as u64 * block_bytes;
    if let Some(budget_bytes) = bound.filter(|_| left.is_some_and(|left| kv_bytes.max(1) > left)) {
        return Err(MemoryError::OverBudget { weights, arena_bytes, kv_bytes, budget_bytes });
    }
    let max_model_len = wanted_len.min(kv_blocks.saturating_mul(need.kv_block_tokens));
    if max_model_len == 0 || options.max_model_len.is_some_and(|asked| asked > max_model_len) {
        let (tokens, needed_bytes) = (wanted_len, sequence_bytes);
        return Err(MemoryError::KvTooSmall { tokens, needed_bytes, available_bytes: kv_bytes });
    }
    Ok(MemoryPlan { weights, arena_bytes, kv_block_bytes: block_bytes, kv_blocks, kv_bytes, max_model_len })
}

#[cfg(test)]
mod tests;
