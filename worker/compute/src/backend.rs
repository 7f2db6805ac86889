//! The seam between scheduler and device: what one step computes and what comes of it, as values.
//!
//! A backend holds the model's weights, the paged KV storage and its arena, all sized when it is
//! built; a step allocates nothing. It is given tokens with their KV blocks, and how each next token
//! is to be chosen; logits stay behind the seam. It knows no request and no text.
//!
//! Steps are launched and collected in the same order. A backend of depth 2 computes one step while
//! the next one is prepared: the next one then continues with tokens that its caller does not know
//! yet ([`Input::Previous`]).
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

pub use crate::error::{InstallError, StepError};
pub use crate::prepared::{Prepared, QuantizationLoss};
pub use crate::results::{NotFinite, Outcome, Results, StepTimes};
pub use crate::step::{Input, Picked, Pooling, Segment, Step, Want};
use tensor::{Decoder, Head};
pub use tensor::{Generation, Location, Part};

/// A backend's sizes. Constant over its life.
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
    /// Numbers of a hidden state.
    pub hidden_size: usize,
    /// Results that the model makes beside hidden states.
    pub makes: Makes,
    /// True if a sequence is computed in one step, and nothing is kept of it: its blocks are room for that step.
    pub is_whole: bool,
    /// True if it sums hidden states.
    pub sums: bool,
    /// Number of steps that may be in flight: 1, or [`DEPTH_MAX`].
    pub depth: usize,
}

/// Results of a model beside hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Makes {
    /// Logits of every row: it generates.
    Logits,
    /// Scores of so many classes.
    Classes(usize),
    /// Nothing.
    Nothing,
}

impl Makes {
    /// The results of a model.
    #[must_use]
    pub fn of<W>(model: &Decoder<W>, outputs: impl Fn(&W) -> usize) -> Self {
        match &model.head {
            Head::Tied | Head::Own(_) => Self::Logits,
            Head::Nothing => Self::Nothing,
            Head::Classes(classes) => Self::Classes(outputs(&classes.output.weight)),
        }
    }
}

/// The most steps in flight: one that is computed and one that waits for it. Only the token that a sequence chooses
/// last may be unknown, and a stop token wastes one row.
pub const DEPTH_MAX: usize = 2;

/// One model on one device. No method has a default body: a backend that ignores an argument says so itself.
///
/// Implementers: `cpu` (our kernels over mapped weights), `candle` (the portable f32 reference),
/// `scripted` (no weights: simulation).
pub trait Backend: Send {
    /// Its kind's name.
    fn name(&self) -> &'static str;

    /// Its sizes.
    fn limits(&self) -> &Limits;

    /// Begins to compute a step with the weights of its generation, and to write the keys and values of every segment
    /// into its blocks. Fewer than `limits().depth` steps are in flight.
    ///
    /// A row's result depends on its own sequence alone: not on the other segments of the step, nor on how a prompt was
    /// cut into chunks, nor on how many steps are in flight.
    ///
    /// Weights may still be on their way: each part of the model is waited for before the first step that needs it, and
    /// `wanted` is asked some tens of times a second whether to go on waiting for that part.
    ///
    /// # Errors
    /// A broken limit, a failed load, a failed device, or `wanted` said no: the step is not in flight, those launched
    /// before are. A step that failed, or panicked, may have written keys and values at its segments' own positions and
    /// nowhere else: the engine tries them again in smaller company, and only what was written by a step that succeeded
    /// counts.
    fn launch(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError>;

    /// Waits for the oldest step in flight and puts what its segments wanted into `results`, in their order.
    ///
    /// # Errors
    /// No step is in flight, or the device failed: that step is over, those after it are in flight.
    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError>;

    /// Forgets the steps in flight. What they have written counts as never written.
    fn abandon(&mut self);

    /// Reports from now on, at the beginning of each part of a step, which part it is, so that a step that never ends can
    /// be reported with where it is. Backends without parts do nothing.
    fn report_to(&mut self, location: &Arc<Location>);

    /// Adds a generation of weights.
    ///
    /// # Errors
    /// See [`InstallError`].
    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError>;

    /// Frees a generation that no sequence needs any more, and its weights, once no step in flight uses it. The newest
    /// stays.
    fn retire(&mut self, generation: Generation);
}

/// Backends whose logits can be read, for references and benchmarks that compare numbers rather than tokens.
pub trait Logits: Backend {
    /// Computes a step with the newest weights while nothing is in flight, and returns the logits of the rows that
    /// something is wanted of, in the order of segments and of their tokens. Nothing is chosen or collected.
    ///
    /// # Errors
    /// As [`Backend::launch`].
    fn logits(&mut self, segments: &[Segment<'_>], wanted: &mut dyn FnMut(Part) -> bool) -> Result<&[f32], StepError>;
}

/// Checks a step against the limits: every backend calls it first, with the number of steps in flight.
///
/// # Errors
/// `StepError::Contract`, saying which limit was broken.
pub fn check(limits: &Limits, in_flight: usize, segments: &[Segment<'_>]) -> Result<(), StepError> {
    if in_flight >= limits.depth {
        return Err(StepError::Contract(format!("{in_flight} steps are in flight, of {}", limits.depth)));
    }
    let (mut rows, mut logits_rows) = (0, 0);
    for segment in segments {
        check_segment(limits, segment)?;
        rows += segment.rows();
        logits_rows += segment.picked().count();
    }
    if rows > limits.max_rows || logits_rows > limits.max_logits_rows {
        let message =
            format!("{rows} rows of {}, {logits_rows} rows of logits of {}", limits.max_rows, limits.max_logits_rows);
        return Err(StepError::Contract(message));
    }
    Ok(())
}

fn check_segment(limits: &Limits, segment: &Segment<'_>) -> Result<(), StepError> {
    let broken = |message: String| Err(StepError::Contract(message));
    let (end, capacity) = (segment.end(), segment.blocks.len() * limits.kv_block_tokens);
    if segment.rows() == 0 {
        return broken("a segment without tokens".into());
    }
    if end > limits.max_position || end > capacity {
        return broken(format!("position {end} exceeds the model's {} or the blocks' {capacity}", limits.max_position));
    }
    if let Some(block) = segment.blocks.iter().find(|&&block| block as usize >= limits.kv_blocks) {
        return broken(format!("block {block} of {}", limits.kv_blocks));
    }
    if let Input::Tokens(tokens) = segment.input
        && let Some(token) = tokens.iter().find(|&&token| token as usize >= limits.vocab_size)
    {
        return broken(format!("token {token} of {}", limits.vocab_size));
    }
    let is_made = match segment.want {
        Want::Hidden(Pooling::Sum) => limits.sums,
        Want::Nothing | Want::Hidden(_) => true,
        Want::Token(_) | Want::Scores { .. } => limits.makes == Makes::Logits,
        Want::Classes => matches!(limits.makes, Makes::Classes(_)),
    };
    if !is_made {
        return broken(format!("results that the model does not make: it makes {:?}", limits.makes));
    }
    if limits.is_whole && segment.start > 0 {
        return broken(format!("a sequence in parts, from position {} on", segment.start));
    }
    if segment.picked().scored > segment.rows() {
        return broken(format!("scores of {} rows of {}", segment.picked().scored, segment.rows()));
    }
    Ok(())
}
