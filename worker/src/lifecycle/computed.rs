//! From a config and weights to the backend that computes with them, sized by the operator's wishes.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loader::Weights;

use super::error::ModelError;
use crate::config::{self, BackendKind, KvCacheDtype, WorkerConfig};
use compute::backend::{Backend, Limits};
use compute::candle::{CandleBackend, CandleOptions};
use compute::cpu::Pages;
use compute::cpu::{self, CpuBackend, CpuOptions, KvDtype, Quantization, Staged, Tier};
use compute::memory::machine::available_bytes;
use compute::memory::{KV_BLOCK_TOKENS, MemoryError, MemoryOptions, MemoryPlan, Need, WeightsMemory, plan, split};
use compute::scripted::{ScriptedBackend, ScriptedOptions};
use models::{Config, Decoder};
use tensor::Format;

/// The most rows of logits a step returns beyond one per sequence: what log probabilities of
/// prompts are computed in.
const PROMPT_LOGITS_ROWS: usize = 64;
/// How many positions the scripted backend has.
const SCRIPTED_POSITIONS: usize = 32_768;

/// A backend, and what there is to say of it.
pub(super) struct Computed {
    pub(super) backend: Box<dyn Backend>,
    /// What it computes with; none where there are no weights.
    pub(super) decoder: Option<Arc<Decoder>>,
    /// What of it is still to be quantized; none where nothing is.
    pub(super) staged: Option<Arc<Staged>>,
    pub(super) max_model_len: usize,
    /// How long matching and planning took.
    pub(super) took: Duration,
    /// The KV cache's memory, where it is to be taken before the model is ready.
    pub(super) kv_pages: Option<Pages>,
}

/// Builds the backend; waits for weights only where the backend copies them. Blocks.
pub(super) fn compute(
    config: &WorkerConfig,
    model: &Config,
    weights: Option<&Weights>,
    share: Share,
) -> Result<Computed, ModelError> {
    let Some(weights) = weights else { return Ok(scripted(config, model)) };
    let begun = Instant::now();
    let decoder = Arc::new(Decoder::bind(model, weights).map_err(ModelError::Bind)?);
    let wishes = wishes(config, share, cpu::stored(&decoder));
    let weights = WeightsMemory { mapped_bytes: weights.total_bytes(), copies_bytes: copies_bytes(config, &decoder) };
    let planned = plan(model, weights, &wishes).map_err(ModelError::Memory)?;
    let took = begun.elapsed();
    let staged = staged(config, &decoder)?;
    let (backend, kv_pages) = build(config, &decoder, staged.clone(), &planned, &wishes)?;
    let kv_pages = kv_pages.filter(|_| config.takes_kv_cache());
    Ok(Computed { backend, decoder: Some(decoder), staged, max_model_len: planned.max_model_len, took, kv_pages })
}

/// What of the worker's memory a model may take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// What it is to take, where the operator said so.
    budget_bytes: Option<u64>,
    /// What it may not exceed, where the machine's memory is known.
    limit_bytes: Option<u64>,
}

/// Divides the worker's memory between its models: what the operator gave it, or else what the machine has.
///
/// # Errors
/// What the models need without question exceeds it; the error has the sums.
pub(super) fn shares(config: &WorkerConfig, needs: &[Option<Need>]) -> Result<Vec<Share>, MemoryError> {
    let machine = available_bytes();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    let share_of = |whole: u64| config.gpu_memory_utilization.map(|share| (whole as f64 * share) as u64);
    let budget = config.memory_bytes.or_else(|| share_of(machine?));
    let counted: Vec<Need> = needs.iter().copied().flatten().collect();
    let divide = |whole: Option<u64>| whole.map(|whole| split(whole, &counted)).transpose();
    let (budgets, limits) = (divide(budget)?, divide(machine)?);
    let mut at = 0..;
    let shares = needs.iter().map(|need| {
        // Those that are not counted take nothing worth dividing.
        let index = need.and_then(|_| at.next());
        let of = |parts: &Option<Vec<u64>>| parts.as_ref()?.get(index?).copied();
        Share { budget_bytes: of(&budgets), limit_bytes: of(&limits) }
    });
    Ok(shares.collect())
}

/// What a model of these weights needs.
pub(super) fn need(config: &WorkerConfig, model: &Config, weights: &Weights) -> Need {
    // Weights that do not fit the config are refused when they are bound again, with the reason.
    let copies_bytes = Decoder::bind(model, weights).map_or(0, |decoder| copies_bytes(config, &decoder));
    let weights = WeightsMemory { mapped_bytes: weights.total_bytes(), copies_bytes };
    // Whether keys and values are f16 or f32 is known with the weights; to divide by, 16 bits will do.
    Need::of(model, weights, &wishes(config, Share::default(), Format::Bf16))
}

fn copies_bytes(config: &WorkerConfig, decoder: &Decoder) -> u64 {
    cpu::copies_bytes(decoder, config.quantization.map(quantization))
}

fn quantization(configured: config::Quantization) -> Quantization {
    match configured {
        config::Quantization::Q8_0 => Quantization::Q8_0,
    }
}

/// A revision's weights that are to be quantized; none where they are computed with in place.
pub(super) fn staged(config: &WorkerConfig, decoder: &Arc<Decoder>) -> Result<Option<Arc<Staged>>, ModelError> {
    let Some(configured) = config.quantization else { return Ok(None) };
    let options = CpuOptions { quantization: Some(quantization(configured)), ..CpuOptions::default() };
    let staged = Staged::of(Arc::clone(decoder), &options).map_err(|cause| ModelError::Backend(cause.into()))?;
    Ok(Some(Arc::new(staged)))
}

/// How many threads compute.
pub(super) fn threads(config: &WorkerConfig) -> usize {
    let threads = config.threads.and_then(NonZeroUsize::new);
    cpu::threads(&CpuOptions { threads, ..CpuOptions::default() })
}

fn wishes(config: &WorkerConfig, share: Share, stored: Format) -> MemoryOptions {
    MemoryOptions {
        budget_bytes: share.budget_bytes,
        limit_bytes: share.limit_bytes,
        kv_cache_bytes: config.kv_cache_memory_bytes,
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_rows: config.max_num_batched_tokens,
        max_logits_rows: logits_rows(config),
        kv_float: kv_dtype(config.kv_cache_dtype).float(stored, Tier::best()),
    }
}

fn logits_rows(config: &WorkerConfig) -> usize {
    (config.max_num_seqs + PROMPT_LOGITS_ROWS).min(config.max_num_seqs.max(config.max_num_batched_tokens))
}

fn kv_dtype(configured: KvCacheDtype) -> KvDtype {
    match configured {
        KvCacheDtype::Auto => KvDtype::Auto,
        KvCacheDtype::F32 => KvDtype::F32,
        KvCacheDtype::F16 => KvDtype::F16,
        KvCacheDtype::Bf16 => KvDtype::Bf16,
    }
}

fn build(
    config: &WorkerConfig,
    decoder: &Arc<Decoder>,
    staged: Option<Arc<Staged>>,
    planned: &MemoryPlan,
    wishes: &MemoryOptions,
) -> Result<(Box<dyn Backend>, Option<Pages>), ModelError> {
    let (max_rows, max_logits_rows) = (wishes.max_rows, wishes.max_logits_rows);
    let max_position = Some(planned.max_model_len);
    if config.backend == BackendKind::Candle {
        let options = CandleOptions { max_rows, max_logits_rows, kv_blocks: planned.kv_blocks, max_position };
        let backend = CandleBackend::new(decoder, &options).map_err(|cause| ModelError::Backend(cause.into()))?;
        return Ok((Box::new(backend), None));
    }
    let options = CpuOptions {
        threads: config.threads.and_then(NonZeroUsize::new),
        max_rows,
        max_logits_rows,
        kv_blocks: planned.kv_blocks,
        kv_dtype: kv_dtype(config.kv_cache_dtype),
        max_position,
        instruction_set: None,
        quantization: config.quantization.map(quantization),
    };
    let backend = match staged {
        Some(staged) => CpuBackend::over(staged, &options),
        None => CpuBackend::new(decoder, &options),
    };
    let backend = backend.map_err(|cause| ModelError::Backend(cause.into()))?;
    let pages = backend.kv_pages();
    Ok((Box::new(backend), Some(pages)))
}

fn scripted(config: &WorkerConfig, model: &Config) -> Computed {
    let max_model_len = config.max_model_len.unwrap_or(SCRIPTED_POSITIONS);
    let kv_blocks = (max_model_len * config.max_num_seqs).div_ceil(KV_BLOCK_TOKENS);
    let limits = Limits {
        vocab_size: model.vocab_size,
        max_position: max_model_len,
        max_rows: config.max_num_batched_tokens,
        max_logits_rows: logits_rows(config),
        kv_block_tokens: KV_BLOCK_TOKENS,
        kv_blocks: config
            .kv_cache_memory_bytes
            .map_or(kv_blocks, |bytes| (bytes as usize / (KV_BLOCK_TOKENS * 4)).max(1)),
        kv_block_bytes: KV_BLOCK_TOKENS * 4,
    };
    let max_model_len = max_model_len.min(limits.kv_blocks * KV_BLOCK_TOKENS);
    let step = Duration::from_millis(config.scripted_step_ms);
    let backend = ScriptedBackend::new(ScriptedOptions { limits, step, row: Duration::ZERO });
    let backend = Box::new(backend);
    Computed { backend, decoder: None, staged: None, max_model_len, took: Duration::ZERO, kv_pages: None }
}
