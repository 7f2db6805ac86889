//! From a model to the backend that computes it, sized by the operator's wishes. It names no kind of backend.

use super::error::ModelError;
use crate::config::WorkerConfig;
use compute::backend::{Backend, Prepared};
use compute::cpu::Pages;
use compute::memory::machine::available_bytes;
use compute::memory::{Demand, MemoryError, MemoryOptions, plan, split};
use compute::{Kind, KindOptions, Model, Rows, Sizes};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most rows of logits a step returns beyond one per sequence: what log probabilities of
/// prompts are computed in.
const PROMPT_LOGITS_ROWS: usize = 64;

/// A backend, and what there is to say of it.
pub(super) struct Computed {
    pub(super) backend: Box<dyn Backend>,
    /// The weights it computes with.
    pub(super) prepared: Arc<dyn Prepared>,
    pub(super) max_model_len: usize,
    /// Duration of planning and building.
    pub(super) took: Duration,
    /// The KV cache's memory, where it is to be taken before the model is ready.
    pub(super) kv_pages: Option<Pages>,
}

/// The kind of backend that a worker is configured to compute with.
pub(super) fn kind(config: &WorkerConfig) -> Arc<dyn Kind> {
    config.backend.configured(&KindOptions {
        threads: config.threads.and_then(NonZeroUsize::new),
        kv_cache_dtype: config.kv_cache_dtype,
        quantization: config.quantization,
        scripted_step: Duration::from_millis(config.scripted_step_ms),
    })
}

/// Builds the backend; waits for weights only where the backend copies them. Blocks.
pub(super) fn compute(
    kind: &dyn Kind,
    config: &WorkerConfig,
    model: &Model,
    mapped_bytes: u64,
    share: Share,
) -> Result<Computed, ModelError> {
    let begun = Instant::now();
    let rows = rows(config);
    let planned = plan(&kind.need(model, rows), mapped_bytes, &wishes(config, share)).map_err(ModelError::Memory)?;
    let prepared = kind.prepare(model).map_err(ModelError::Backend)?;
    let sizes = Sizes { rows, kv_blocks: planned.kv_blocks, max_position: planned.max_model_len };
    let built = kind.build(&prepared, &sizes).map_err(ModelError::Backend)?;
    let kv_pages = built.kv_pages.filter(|_| config.takes_kv_cache());
    let took = begun.elapsed();
    Ok(Computed { backend: built.backend, prepared, max_model_len: planned.max_model_len, took, kv_pages })
}

/// A model's share of the worker's memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// Memory to fill, if the operator gave a budget.
    budget_bytes: Option<u64>,
    /// Upper bound, if the machine's memory is known.
    limit_bytes: Option<u64>,
}

/// Divides the worker's memory between its models: what the operator gave it, or else what the machine has.
///
/// # Errors
/// The models' least needs exceed it; the error has the sums.
pub(super) fn shares(config: &WorkerConfig, demands: &[Option<Demand>]) -> Result<Vec<Share>, MemoryError> {
    let machine = available_bytes();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    let share_of = |whole: u64| config.gpu_memory_utilization.map(|share| (whole as f64 * share) as u64);
    let budget = config.memory_bytes.or_else(|| share_of(machine?));
    let counted: Vec<Demand> = demands.iter().copied().flatten().collect();
    let divide = |whole: Option<u64>| whole.map(|whole| split(whole, &counted)).transpose();
    let (budgets, limits) = (divide(budget)?, divide(machine)?);
    let mut at = 0..;
    let shares = demands.iter().map(|demand| {
        // Those that are not counted take nothing worth dividing.
        let index = demand.and_then(|_| at.next());
        let of = |parts: &Option<Vec<u64>>| parts.as_ref()?.get(index?).copied();
        Share { budget_bytes: of(&budgets), limit_bytes: of(&limits) }
    });
    Ok(shares.collect())
}

/// A model's demand on the worker's memory.
pub(super) fn demand(kind: &dyn Kind, config: &WorkerConfig, model: &Model, mapped_bytes: u64) -> Demand {
    Demand::of(&kind.need(model, rows(config)), mapped_bytes, &wishes(config, Share::default()))
}

fn wishes(config: &WorkerConfig, share: Share) -> MemoryOptions {
    MemoryOptions {
        budget_bytes: share.budget_bytes,
        limit_bytes: share.limit_bytes,
        kv_cache_bytes: config.kv_cache_memory_bytes,
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
    }
}

fn rows(config: &WorkerConfig) -> Rows {
    let (seqs, max_rows) = (config.max_num_seqs, config.max_num_batched_tokens);
    Rows { max_rows, max_logits_rows: (seqs + PROMPT_LOGITS_ROWS).min(seqs.max(max_rows)) }
}
