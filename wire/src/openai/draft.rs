//! A request under construction, as the fields of a body fill it in.

use super::message::ChatMessage;
use super::prompt::Prompt;
use super::sampling::Sampling;
use serde_json::{Map, Value};

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Output {
    /// Streamed, rather than whole.
    pub stream: bool,
    /// End a stream with a usage chunk.
    pub include_usage: bool,
    /// Begin with the prompt (and its log probabilities).
    pub echo: bool,
}

/// A request under construction; the setters of [`Field`](super::endpoint::Field) fill it.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) model: Option<String>,
    pub(super) messages: Option<Vec<ChatMessage>>,
    pub(super) prompts: Option<Vec<Prompt>>,
    pub(super) variables: Map<String, Value>,
    pub(super) reasoning_effort: Option<String>,
    pub(super) sampling: Sampling,
    pub(super) max_completion_tokens: Option<u32>,
    /// Chat's `logprobs`, which says whether, and `top_logprobs`, which says how many.
    pub(super) wants_logprobs: bool,
    pub(super) top_logprobs: Option<u32>,
    pub(super) best_of: Option<u32>,
    pub(super) has_stream_options: bool,
    pub(super) output: Output,
}
