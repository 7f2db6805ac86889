//! This machine, and the needs of a model that is not loaded, by its headers alone.
//!
//! It reads no weights, and knows no command.

use crate::config::WorkerConfig;
use compute::cpu::Tier;
use compute::memory::machine::available_bytes;
use compute::{BackendKind, KindOptions, Model, Quantization, Rows};
use loader::TensorInfo;
use loader::header::HeaderError;
use loader::probe::Probe;
use models::demo;
use models::gguf::GgufModelError;
use models::{BindError, Config, ConfigError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;
use tensor::{Body, Decoder, Dense, Experts, Layer, Linear, Weight};
use thiserror::Error;

/// Bytes that threads read together to measure memory: beyond the caches of most machines.
const READ_BYTES: usize = 1 << 30;
/// Tokens of context that are of any use.
const CONTEXT_MIN: u64 = 512;

/// The reason why a model does not run.
#[derive(Debug, Error)]
pub enum Unfit {
    /// It is no model.
    #[error("the model has neither a config.json nor a GGUF file")]
    NoConfig,
    /// A GGUF file whose metadata nothing here computes.
    #[error(transparent)]
    Gguf(GgufModelError),
    /// A config that nothing here computes.
    #[error(transparent)]
    Config(ConfigError),
    /// Tensors that do not fit together, or are stored as nothing here reads them.
    #[error(transparent)]
    Bind(BindError),
    /// A broken build.
    #[error("reading the bundled model")]
    Demo(#[source] HeaderError),
}

/// This machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The fastest instructions that kernels have for it.
    pub instruction_set: &'static str,
    /// Threads that compute.
    pub threads: usize,
    /// Memory that this process may use; none where nothing says so.
    pub memory_bytes: Option<u64>,
    /// Bytes a second that all threads read together.
    pub read_bytes_per_s: f64,
}

/// A model's needs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Needs {
    /// The name of its architecture.
    pub architecture: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Bytes of its tensors by the format that they are stored in.
    pub bytes_by_format: BTreeMap<String, u64>,
    /// Bytes of its weight files, on disk and mapped.
    pub weights_bytes: u64,
    /// Bytes of quantized copies beside them.
    pub copies_bytes: u64,
    /// Bytes of the largest step's activations.
    pub activations_bytes: u64,
    /// Bytes of keys and values of a token.
    pub kv_bytes_per_token: u64,
    /// The longest sequence that it is made for.
    pub context_tokens: usize,
    /// Bytes of weights that a token of one sequence reads.
    pub bytes_per_token: u64,
    /// Tokens a second of one sequence, if memory is the bound and the text is short.
    pub tokens_per_s: f64,
}

impl Machine {
    /// Looks at this machine; reads some memory to see how fast that is.
    #[must_use]
    pub fn look(config: &WorkerConfig) -> Self {
        let offered = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = config.threads.unwrap_or_else(offered);
        Self {
            instruction_set: Tier::best().name(),
            threads,
            memory_bytes: available_bytes(),
            read_bytes_per_s: read_bytes_per_s(threads),
        }
    }

    /// The bytes that a model needs and those that there are, where the former are more.
    #[must_use]
    pub fn lacks(&self, needs: &Needs) -> Option<(u64, u64)> {
        let weights = needs.weights_bytes + needs.copies_bytes;
        let least = weights + needs.activations_bytes + needs.kv_bytes_per_token * CONTEXT_MIN;
        self.memory_bytes.filter(|memory| least > *memory).map(|memory| (least, memory))
    }
}

/// Reads memory with all threads, twice, and takes the faster time.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn read_bytes_per_s(threads: usize) -> f64 {
    let pass = |numbers: &[Vec<u64>]| {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for numbers in numbers {
                scope.spawn(move || std::hint::black_box(numbers.iter().fold(0_u64, |sum, it| sum.wrapping_add(*it))));
            }
        });
        READ_BYTES as f64 / begun.elapsed().as_secs_f64().max(1e-9)
    };
    let numbers: Vec<Vec<u64>> =
        (0..threads as u64).map(|thread| vec![thread | 1; READ_BYTES / 8 / threads.max(1)]).collect();
    pass(&numbers).max(pass(&numbers))
}

impl Needs {
    /// The needs of the model that `probe` has looked at.
    ///
    /// # Errors
    /// The reason why no machine runs it.
    pub fn of(probe: &mut Probe, config: &WorkerConfig, machine: &Machine) -> Result<Self, Unfit> {
        let text = models::gguf::config_of(probe).map_err(Unfit::Gguf)?.ok_or(Unfit::NoConfig)?;
        let tensors: Vec<&TensorInfo> = probe.shards().iter().flat_map(|shard| &shard.header.tensors).collect();
        Self::described(&text, &tensors, config, machine)
    }

    /// The needs of the bundled model.
    ///
    /// # Errors
    /// A broken build.
    pub fn of_demo(config: &WorkerConfig, machine: &Machine) -> Result<Self, Unfit> {
        let header = demo::header().map_err(Unfit::Demo)?;
        Self::described(demo::CONFIG, &header.tensors.iter().collect::<Vec<_>>(), config, machine)
    }

    /// The needs of a model with this `config.json` and these tensors.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn described(
        text: &[u8],
        tensors: &[&TensorInfo],
        config: &WorkerConfig,
        machine: &Machine,
    ) -> Result<Self, Unfit> {
        let model = Config::parse(text).map_err(Unfit::Config)?;
        let decoder = Arc::new(models::fit(&model, tensors.iter().copied()).map_err(Unfit::Bind)?);
        let mut needs = Self {
            architecture: model.family.architecture.to_owned(),
            context_tokens: decoder.max_position,
            ..Self::default()
        };
        for info in tensors {
            let bytes = info.range.end - info.range.start;
            needs.parameters += info.shape.iter().product::<usize>() as u64;
            *needs.bytes_by_format.entry(info.format.to_string()).or_default() += bytes;
            needs.weights_bytes += bytes;
        }
        let options = KindOptions {
            threads: config.threads.and_then(NonZeroUsize::new),
            kv_cache_dtype: config.kv_cache_dtype,
            quantization: config.quantization,
            ..KindOptions::default()
        };
        needs.bytes_per_token = bytes_per_token(&decoder, config.quantization);
        needs.tokens_per_s = machine.read_bytes_per_s / needs.bytes_per_token.max(1) as f64;
        let rows = Rows { max_rows: config.max_num_batched_tokens, max_logits_rows: config.max_num_seqs };
        let model = Model { vocab_size: decoder.vocab_size, decoder: Some(decoder) };
        let need = BackendKind::Cpu.configured(&options).need(&model, rows);
        needs.copies_bytes = need.copies_bytes;
        needs.activations_bytes = need.activation_bytes;
        needs.kv_bytes_per_token = need.kv_block_bytes / need.kv_block_tokens.max(1) as u64;
        Ok(needs)
    }
}

/// Bytes of weights that a token of one sequence reads: every layer's, of experts those that are chosen, and the head; as
/// they are after `quantization`.
#[must_use]
pub fn bytes_per_token(decoder: &Decoder, quantization: Option<Quantization>) -> u64 {
    let bytes = |weight: &Weight| {
        let numbers = weight.shape().last().copied().unwrap_or(1);
        let rows = weight.shape().iter().rev().skip(1).product::<usize>() as u64;
        let is_copied = weight.shape().len() == 2 && !weight.format().is_blocks();
        let copy = quantization.filter(|_| is_copied).and_then(|quantization| quantization.of_rows(numbers));
        copy.unwrap_or(weight.format()).row_bytes(numbers).unwrap_or_default().saturating_mul(rows)
    };
    let of_layer = |layer: &Layer<Weight>| {
        let all: u64 = layer.tensors().into_iter().map(bytes).sum();
        let unread = layer.branches.iter().map(|branch| match &branch.body {
            Body::Experts(Experts { chosen, each, .. }) => {
                let of = |linear: &Linear<Weight>| bytes(&linear.weight);
                let one =
                    |Dense { gate, up, down, .. }: &Dense<Weight>| gate.iter().chain([up, down]).map(of).sum::<u64>();
                each.iter().skip(*chosen).map(one).sum()
            }
            Body::Attention(_) | Body::Dense(_) => 0,
        });
        all - unread.sum::<u64>()
    };
    decoder.layers.iter().map(of_layer).sum::<u64>() + decoder.last_tensors().into_iter().map(bytes).sum::<u64>()
}
