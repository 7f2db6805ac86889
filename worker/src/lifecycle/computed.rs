//! From a model to the backend that computes it, sized by the operator's wishes. It names no kind of backend.

use super::error::ModelError;
use crate::config::WorkerConfig;
use compute::backend::{Backend, Prepared};
use compute::cpu::Pages;
use compute::memory::machine::available_bytes;
use compute::memory::{Demand, MemoryError, MemoryOptions, plan, split};
use compute::{BackendKind, DeviceChoice, DeviceError, Kind, KindOptions, KvCacheDtype, Model, Rows, Sizes};
use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most rows of logits a step returns beyond one per sequence: what log probabilities of
/// prompts are computed in.
const PROMPT_LOGITS_ROWS: usize = 64;

/// The share of a device's free memory that is taken where nobody asks for one: what vLLM takes.
const DEVICE_SHARE: f64 = 0.9;

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
///
/// # Errors
/// The device asked for is not there.
pub(super) fn kind(config: &WorkerConfig) -> Result<Arc<dyn Kind>, DeviceError> {
    let is_stored = matches!(config.kv_cache_dtype, KvCacheDtype::Auto | KvCacheDtype::Bf16);
    // What a GPU does not do is refused where one is asked for by name, and otherwise the CPU does it.
    if config.backend == BackendKind::Cpu && config.quantization.is_none() && is_stored {
        let cache = config.kernel_cache_dir.clone().or_else(default_kernel_cache);
        match (config.device, config.device.open(cache.as_deref())) {
            (_, Ok(Some(kind))) => return Ok(kind),
            (_, Ok(None)) => {}
            (DeviceChoice::Auto, Err(error)) => tracing::info!("computing on the CPU: {error}"),
            (_, Err(error)) => return Err(error),
        }
    }
    Ok(config.backend.configured(&KindOptions {
        threads: config.threads.and_then(NonZeroUsize::new),
        kv_cache_dtype: config.kv_cache_dtype,
        quantization: config.quantization,
        scripted_step: Duration::from_millis(config.scripted_step_ms),
    }))
}

/// Where compiled kernels are kept unless somebody says otherwise.
fn default_kernel_cache() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("forebay").join("kernels"))
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
    let planned = plan(&kind.need(model, rows), beside(kind, mapped_bytes), &wishes(config, share))
        .map_err(ModelError::Memory)?;
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
pub(super) fn shares(
    kind: &dyn Kind,
    config: &WorkerConfig,
    demands: &[Option<Demand>],
) -> Result<Vec<Share>, MemoryError> {
    let device = kind.device_bytes();
    let machine = device.or_else(available_bytes);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    let share_of = |whole: u64| {
        // A device's memory is nobody else's.
        let share = config.gpu_memory_utilization.or(device.map(|_| DEVICE_SHARE));
        share.map(|share| (whole as f64 * share) as u64)
    };
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
    let mapped_bytes = beside(kind, mapped_bytes);
    Demand::of(&kind.need(model, rows(config)), mapped_bytes, &wishes(config, Share::default()))
}

/// Bytes of mapped weights in the memory that a kind computes in: a device has copies of its own.
fn beside(kind: &dyn Kind, mapped_bytes: u64) -> u64 {
    if kind.device_bytes().is_some() { 0 } else { mapped_bytes }
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
