//! Submissions to the engine, and the events it answers with.

use super::guide::Guide;
use super::prefix::CacheSalt;
use compute::sampler::{Logprobs, Params};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// One sequence to generate.
#[derive(Debug)]
pub struct Submission {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// Parameters of the generation.
    pub params: SequenceParams,
    /// Index within the request; comes back with every event.
    pub index: u32,
    /// Lower goes first (vLLM's `priority`); counts where the engine has a priority level.
    pub priority: i64,
    /// Whose prefixes it shares: those of the same salt.
    pub salt: CacheSalt,
    /// Sender of events, shared by a request's sequences. They end when its receiver is dropped.
    pub events: mpsc::Sender<(u32, Event)>,
    /// Ends this sequence alone: its reader has all it wants (a stop string was found).
    pub cancel: Cancel,
}

/// When to stop, and how to choose.
#[derive(Debug)]
pub struct SequenceParams {
    /// Sampling parameters.
    pub sampling: Params,
    /// The most tokens to generate; 0 computes the prompt alone.
    pub max_tokens: usize,
    /// The fewest tokens before an end is allowed.
    pub min_tokens: usize,
    /// Tokens that end the sequence (`ignore_eos` leaves the model's own out).
    pub stop_ids: Vec<u32>,
    /// Restricts the tokens that may be generated, one by one; all may if none.
    pub guide: Option<Box<dyn Guide>>,
    /// Number of alternatives to report for each token of the prompt; `None` for no report.
    pub prompt_logprobs: Option<usize>,
    /// States of the prompt that are wanted, rather than tokens after it.
    pub pooled: Option<Pooled>,
}

/// The use of the states of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooled {
    /// That of the first token.
    First,
    /// That of the last one.
    Last,
    /// The mean of all.
    Mean,
    /// Scores of the model's classes.
    Classes,
}

/// A flag that ends one sequence within a step; it counts as finished, not as abandoned.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the sequence.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// An event of a sequence, for its reader.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// So many tokens of the prompt were found in the prefix cache. Comes first, and only where there were any.
    Cached(usize),
    /// Log probabilities of prompt tokens from the second on; the first has none.
    PromptLogprobs(Vec<Logprobs>),
    /// A generated token.
    Token {
        /// Its id.
        id: u32,
        /// Its log probabilities, where asked for.
        logprobs: Option<Logprobs>,
        /// Set on the last one. After `Stop` the token is not part of the text.
        finish: Option<FinishReason>,
    },
    /// The end of a sequence that generates nothing (`max_tokens` 0).
    PromptDone,
    /// States of the whole prompt, pooled; the end of a sequence that wants them.
    Pooled(Vec<f32>),
    /// The sequence was ended by a failure; the text says which.
    Failed(String),
    /// No token is left that the request allows; the text says why.
    Stuck(String),
}

/// Reasons for a sequence's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A token of `stop_ids`.
    Stop,
    /// `max_tokens`, or the model's length.
    Length,
}

impl FinishReason {
    /// The API's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}
