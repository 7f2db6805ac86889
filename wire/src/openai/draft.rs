//! A request under construction, as the fields of a body fill it in.

use super::error::ApiError;
use super::given::Given;
use super::message::ChatMessage;
use super::prompt::Prompt;
use super::sampling::Sampling;
use super::structure::Structure;
use super::tools::{Chosen, Tool};
use serde_json::{Map, Value};

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Output {
    /// Streamed, rather than whole.
    pub stream: bool,
    /// End a stream with a usage chunk.
    pub include_usage: bool,
    /// The tokens so far on every chunk, with `include_usage`.
    pub continuous_usage: bool,
    /// Begin with the prompt (and its log probabilities).
    pub echo: bool,
    /// The ids of the tokens, too.
    pub token_ids: bool,
}

/// Thoughts before an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// They are left out of the answer.
    pub is_hidden: bool,
    /// They stay in the text, as the model wrote them.
    pub is_raw: bool,
    /// The most tokens of them.
    pub budget: Option<u32>,
}

/// The end of a conversation, from which an answer is generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Opening {
    /// An answer is begun.
    #[default]
    Answer,
    /// Nothing is begun.
    Nothing,
    /// The last message is continued.
    Continue,
}

/// The most numbers of an embedding.
pub(super) const DIMENSIONS_MAX: u32 = 1 << 17;

/// The form of numbers in an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian binary32 in base64.
    Base64,
}

impl Encoding {
    pub(super) fn read(given: Given<'_>) -> Result<Self, ApiError> {
        match given.json::<String>()?.as_str() {
            "float" => Ok(Self::Float),
            "base64" => Ok(Self::Base64),
            _ => Err(given.wrong("\"float\" or \"base64\"")),
        }
    }
}

/// A request under construction; the setters of [`Field`](super::endpoint::Field) fill it.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) model: Option<String>,
    pub(super) messages: Option<Vec<ChatMessage>>,
    pub(super) prompts: Option<Vec<Prompt>>,
    pub(super) variables: Map<String, Value>,
    pub(super) reasoning_effort: Option<String>,
    pub(super) reasoning: Reasoning,
    pub(super) add_generation_prompt: Option<bool>,
    pub(super) continue_final_message: bool,
    pub(super) truncate_prompt_tokens: Option<u32>,
    pub(super) tier_priority: i64,
    pub(super) sampling: Sampling,
    pub(super) structure: Option<Structure>,
    pub(super) tools: Vec<Tool>,
    pub(super) tool_choice: Option<Chosen>,
    pub(super) parallel_tool_calls: Option<bool>,
    pub(super) max_completion_tokens: Option<u32>,
    /// Chat's `logprobs`, which says whether, and `top_logprobs`, which says how many.
    pub(super) wants_logprobs: bool,
    pub(super) top_logprobs: Option<u32>,
    pub(super) best_of: Option<u32>,
    pub(super) has_stream_options: bool,
    /// The form of numbers of an embedding, and how many.
    pub(super) encoding: Encoding,
    pub(super) dimensions: Option<u32>,
    pub(super) has_no_special_tokens: bool,
    pub(super) output: Output,
}

impl Draft {
    /// Sets the form of the answer's text, where one is asked for.
    pub(super) fn set_structure(&mut self, structure: Option<Structure>) -> Result<(), ApiError> {
        self.structure = Structure::one_of(self.structure.take(), structure)?;
        Ok(())
    }
}
