//! `POST /v1/completions`: answers and stream chunks (one form serves both).

use super::logprobs::PromptLogprobs;
use super::usage::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole answer, or one chunk of a streamed one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// `cmpl-…`.
    pub id: String,
    /// Always `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// One per choice; empty on the usage chunk.
    pub choices: Vec<CompletionChoice>,
    /// Set on a whole answer; on chunks as in `ChatChunk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// The text, or what was added to it.
    pub text: String,
    /// Its number.
    pub index: u32,
    /// Log probabilities, where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop`, `length` or `content_filter`.
    pub finish_reason: Option<String>,
    /// The ids of its tokens, or of those that were added, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The ids of its prompt's tokens, on a stream's first chunk, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Log probabilities of its prompt's tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// Log probabilities of a completion: parallel lists, one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Natural logarithms of their probabilities; `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at each place; `null` where unknown.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// The start of each token, in characters of the text.
    pub text_offset: Vec<u32>,
}
