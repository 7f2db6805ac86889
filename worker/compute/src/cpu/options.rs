//! Options of the `cpu` backend, what follows from them alone, and errors of building it.

use std::num::NonZeroUsize;

use thiserror::Error;

use crate::kernels::rotate::BLOCK_TOKENS;
use crate::kernels::tier::{Instructions, Tier};
use crate::kind::{KvCacheDtype, Quantization};
use tensor::{Decoder, Format};

/// Sizes of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the caller's among them; as many as the machine offers if none.
    pub threads: Option<NonZeroUsize>,
    /// The most rows in one step.
    pub max_rows: usize,
    /// The most rows of logits one step returns.
    pub max_logits_rows: usize,
    /// KV blocks, of [`KV_BLOCK_TOKENS`] positions each.
    pub kv_blocks: usize,
    /// The format of keys and values.
    pub kv_dtype: KvCacheDtype,
    /// The longest sequence in tokens; what the model is made for if none.
    pub max_position: Option<usize>,
    /// The instructions; the best the machine has if none.
    pub instruction_set: Option<Tier>,
    /// The format that matrices are converted to; they are read in place, as stored, if none.
    pub quantization: Option<Quantization>,
}

impl Default for CpuOptions {
    /// Enough to try a model: 512 rows, 16 rows of logits, 4096 positions.
    fn default() -> Self {
        Self {
            threads: None,
            max_rows: 512,
            max_logits_rows: 16,
            kv_blocks: 256,
            kv_dtype: KvCacheDtype::Auto,
            max_position: None,
            instruction_set: None,
            quantization: None,
        }
    }
}

/// Positions in a KV block.
pub const KV_BLOCK_TOKENS: usize = BLOCK_TOKENS;

/// Errors of building a backend.
#[derive(Debug, Error)]
pub enum CpuError {
    /// The machine lacks the instructions asked for.
    #[error("building the cpu backend: this machine has no {}; it has {}", .asked.name(), Tier::best().name())]
    NoSuchInstructions {
        /// The tier asked for.
        asked: Tier,
    },
    /// A size is zero.
    #[error("building the cpu backend: {what} must be at least 1")]
    Zero {
        /// Its name.
        what: &'static str,
    },
    /// No thread could be started.
    #[error("building the cpu backend: starting {threads} threads")]
    Threads {
        /// Number asked for.
        threads: usize,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The activations' memory could not be reserved.
    #[error("building the cpu backend: reserving the activations of {rows} rows; lower max_num_batched_tokens")]
    Arena {
        /// Number of rows asked for.
        rows: usize,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The KV storage could not be reserved.
    #[error("building the cpu backend: reserving {bytes} bytes for {blocks} KV blocks")]
    KvStorage {
        /// Its size; saturated where it exceeds what can be counted.
        bytes: usize,
        /// Number of blocks asked for.
        blocks: usize,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// The format of keys and values of a model whose matrices are stored as `stored`, on `tier`: where nobody asks for one,
/// f32 for models stored as f32, bf16 for those whose activations the tier rounds to bf16 as well, f16 for others.
pub(super) fn kv_float(asked: KvCacheDtype, stored: Format, tier: Tier) -> Format {
    match asked {
        KvCacheDtype::Auto if stored == Format::F32 => Format::F32,
        KvCacheDtype::Auto if tier.dots(stored) => Format::Bf16,
        KvCacheDtype::Auto | KvCacheDtype::F16 => Format::F16,
        KvCacheDtype::F32 => Format::F32,
        KvCacheDtype::Bf16 => Format::Bf16,
    }
}

/// The instructions that these options ask for.
pub(super) fn instructions(options: &CpuOptions) -> Result<Instructions, CpuError> {
    let asked = options.instruction_set.unwrap_or_else(Tier::best);
    Instructions::of(asked).ok_or(CpuError::NoSuchInstructions { asked })
}

/// Number of threads of a backend.
pub(super) fn threads(options: &CpuOptions) -> usize {
    let offered = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    options.threads.map_or_else(offered, NonZeroUsize::get)
}

/// The format of most of a model: that of its first query projection.
pub(super) fn stored(decoder: &Decoder) -> Format {
    decoder.attentions().next().map_or(Format::F32, |attention| attention.query.weight.format())
}
