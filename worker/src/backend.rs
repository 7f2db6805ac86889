//! The seam between scheduler and device: what one step computes, said as values.
//!
//! A backend holds the model's weights, the paged KV storage and its arena, all sized when it is
//! built; a step allocates nothing. It knows no request, no text and no sampling: it is given
//! tokens with their KV blocks and returns logits.
//!
//! KV paging follows vLLM (Kwon et al. 2023): storage is `kv_blocks` blocks of `kv_block_tokens`
//! positions; a sequence's position `p` lives in block `blocks[p / kv_block_tokens]` at offset
//! `p % kv_block_tokens`. Which block belongs to whom is the scheduler's affair.

pub mod candle;
pub mod cpu;
pub mod scripted;

use thiserror::Error;

/// What a backend can do and was sized for. Constant over its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Logits per row.
    pub vocab_size: usize,
    /// The longest sequence the model was made for, in tokens.
    pub max_position: usize,
    /// The most rows (tokens of all segments together) in one step.
    pub max_rows: usize,
    /// The most rows of logits one step returns.
    pub max_logits_rows: usize,
    /// Positions per KV block.
    pub kv_block_tokens: usize,
    /// KV blocks there are.
    pub kv_blocks: usize,
    /// Bytes of one KV block, over all layers, keys and values together.
    pub kv_block_bytes: usize,
}

/// Which rows of a segment return logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantLogits {
    /// None: more of the prompt follows.
    None,
    /// The last row: the next token is to be sampled.
    Last,
    /// Every row: the prompt's own log probabilities were asked for.
    All,
}

/// A run of consecutive tokens of one sequence: a chunk of a prompt, or one decoded token.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// The first one's position: how many tokens of this sequence the KV blocks already hold.
    pub start: usize,
    /// The sequence's KV blocks, enough for `start + tokens.len()` positions.
    pub blocks: &'a [u32],
    /// Which logits come back.
    pub want: WantLogits,
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// The caller broke a limit; a bug of ours.
    #[error("running a step: {0}")]
    Contract(String),
    /// The device failed.
    #[error("running a step on the {backend} backend")]
    Device {
        /// Which backend.
        backend: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One model on one device.
///
/// Implementers: `cpu` (our kernels over mapped weights), `candle` (the portable f32 reference),
/// `scripted` (no weights: simulation).
pub trait Backend: Send {
    /// `cpu`, `candle` or `scripted`.
    fn name(&self) -> &'static str;

    /// What it was sized for.
    fn limits(&self) -> &Limits;

    /// Computes every segment and writes its keys and values into its blocks. Returns the wanted
    /// logits: rows of `vocab_size` f32, in the order of segments and of their tokens.
    ///
    /// A row's result depends on its own sequence alone: not on the other segments of the step,
    /// nor on how a prompt was cut into chunks.
    ///
    /// # Errors
    /// A broken limit, or a failed device. The step's sequences are then to be ended.
    fn step(&mut self, segments: &[Segment<'_>]) -> Result<&[f32], StepError>;
}

/// Checks a step against the limits: every backend calls it first.
///
/// # Errors
/// `StepError::Contract`, saying which limit was broken.
pub fn check(limits: &Limits, segments: &[Segment<'_>]) -> Result<(), StepError> {
    let mut rows = 0;
    let mut logits_rows = 0;
    for segment in segments {
        let end = segment.start + segment.tokens.len();
        let capacity = segment.blocks.len() * limits.kv_block_tokens;
        if segment.tokens.is_empty() {
            return Err(StepError::Contract("a segment without tokens".into()));
        }
        if end > limits.max_position || end > capacity {
            let message =
                format!("position {end} exceeds the model's {} or the blocks' {capacity}", limits.max_position);
            return Err(StepError::Contract(message));
        }
        if let Some(block) = segment.blocks.iter().find(|&&block| block as usize >= limits.kv_blocks) {
            return Err(StepError::Contract(format!("block {block} of {}", limits.kv_blocks)));
        }
        if let Some(token) = segment.tokens.iter().find(|&&token| token as usize >= limits.vocab_size) {
            return Err(StepError::Contract(format!("token {token} of {}", limits.vocab_size)));
        }
        rows += segment.tokens.len();
        logits_rows += match segment.want {
            WantLogits::None => 0,
            WantLogits::Last => 1,
            WantLogits::All => segment.tokens.len(),
        };
    }
    if rows > limits.max_rows || logits_rows > limits.max_logits_rows {
        let message =
            format!("{rows} rows of {}, {logits_rows} rows of logits of {}", limits.max_rows, limits.max_logits_rows);
        return Err(StepError::Contract(message));
    }
    Ok(())
}
