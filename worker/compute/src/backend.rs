//! The seam between scheduler and device: what one step computes, said as values.
//!
//! A backend holds the model's weights, the paged KV storage and its arena, all sized when it is
//! built; a step allocates nothing. It knows no request, no text and no sampling: it is given
//! tokens with their KV blocks and returns logits.
//!
//! KV paging follows vLLM (Kwon et al. 2023): storage is `kv_blocks` blocks of `kv_block_tokens`
//! positions; a sequence's position `p` lives in block `blocks[p / kv_block_tokens]` at offset
//! `p % kv_block_tokens`. Which block belongs to whom is the scheduler's affair.
//!
//! A model's weights may arrive while it computes (`part`), and may be replaced: a backend holds
//! one or more generations of weights over one arena and one KV storage, and a step is computed
//! with one of them. A sequence keeps to the generation it began with, since keys and values of
//! one mean nothing to another.

use std::sync::Arc;

use crate::cpu;
use loader::LoadError;
use models::Decoder;
use thiserror::Error;

pub use tensor::{Generation, Part, Segment, WantLogits, Whereabouts};

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
    /// Weights did not arrive: the load has failed.
    #[error("waiting for the weights of {part}: tensor `{tensor}` of {object} will not arrive")]
    Weights {
        /// The part of the model that needed it.
        part: Part,
        /// The tensor.
        tensor: String,
        /// The file or object it is in.
        object: String,
        /// Why the load failed.
        #[source]
        source: Arc<LoadError>,
    },
    /// Nobody wants the step any more; it ended before its time.
    #[error("waiting for the weights of {part}: the step is not wanted any more")]
    Unwanted {
        /// What it was waiting for.
        part: Part,
    },
}

/// What to install beside the weights that a backend has.
#[derive(Debug, Clone)]
pub enum Revision {
    /// Other weights of the same shapes.
    Weights(Arc<Decoder>),
    /// The same for the `cpu` backend, made ready for it elsewhere than between two steps.
    Prepared(Arc<cpu::Staged>),
    /// Nothing to read: for backends without weights, which answer differently from then on.
    Scripted,
}

/// Why a revision was not installed. The backend is as it was.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum InstallError {
    /// The backend has one generation for its life.
    #[error("installing a revision: the {backend} backend cannot swap its weights; restart the worker instead")]
    Unsupported {
        /// Which backend.
        backend: &'static str,
    },
    /// Sizes or formats differ from what arena and KV storage were made for.
    #[error("installing a revision: {field} differs from the model being served; restart the worker with it instead")]
    Differs {
        /// What differs.
        field: &'static str,
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
    /// A broken limit, or a failed device. A step that failed, or panicked, may have written keys and
    /// values at its segments' own positions and nowhere else: the engine tries them again in smaller
    /// company, and only what was written by a step that succeeded counts.
    fn step(&mut self, segments: &[Segment<'_>]) -> Result<&[f32], StepError>;

    /// As [`Backend::step`], with the weights of `generation`. Weights may still be on their way:
    /// each part of the model is waited for before the first step that needs it, and `goes_on` is
    /// asked some ten times a second whether to go on waiting for that part.
    ///
    /// # Errors
    /// As [`Backend::step`]; or the load has failed, or `goes_on` said no.
    fn step_of(
        &mut self,
        generation: Generation,
        segments: &[Segment<'_>],
        goes_on: &mut dyn FnMut(Part) -> bool,
    ) -> Result<&[f32], StepError> {
        let _ = (generation, goes_on);
        self.step(segments)
    }

    /// Says from now on, at the beginning of each part of a step, which part it is, so that a step
    /// that never ends can be reported with where it is. Who has no parts says nothing.
    fn report_to(&mut self, whereabouts: &Arc<Whereabouts>) {
        let _ = whereabouts;
    }

    /// Adds a generation of weights, which becomes the one that [`Backend::step`] uses.
    ///
    /// # Errors
    /// See [`InstallError`].
    fn install(&mut self, revision: Revision) -> Result<Generation, InstallError> {
        drop(revision);
        Err(InstallError::Unsupported { backend: self.name() })
    }

    /// Lets go of a generation that no sequence needs any more, and of its weights.
    fn retire(&mut self, generation: Generation) {
        let _ = generation;
    }
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
