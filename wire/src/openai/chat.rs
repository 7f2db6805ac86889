//! `POST /v1/chat/completions`: answers and stream chunks.

use super::logprobs::PromptLogprobs;
use super::tools::ToolCall;
use super::usage::Usage;
use serde::{Deserialize, Serialize};

pub use super::message::{ChatMessage, Role};
pub use super::tools::CalledFunction;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// One per choice asked for, by index.
    pub choices: Vec<ChatChoice>,
    /// The request's tokens.
    pub usage: Usage,
    /// The ids of the prompt's tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Log probabilities of the prompt's tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// One choice of a whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Its number.
    pub index: u32,
    /// The message.
    pub message: AnswerMessage,
    /// Log probabilities, where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `tool_calls`, `length` or `content_filter`.
    pub finish_reason: Option<String>,
    /// The ids of its tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The reason of the end of a choice that calls tools.
pub const CALLED: &str = "tool_calls";

/// The message of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text; `null` where it is nothing but calls.
    pub content: Option<String>,
    /// The thoughts before the text, as vLLM and DeepSeek call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same, as newer releases of vLLM call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The calls of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// One chunk of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The same on every chunk.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// Unix seconds, the same on every chunk.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// The choices that grew; empty on the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// With `include_usage`: `null` on all chunks but the last. Otherwise absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The ids of the prompt's tokens, on the first chunk, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// The growth of one choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    /// Its number.
    pub index: u32,
    /// The added text.
    pub delta: Delta,
    /// Log probabilities of the added tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    /// Set on a choice's last chunk.
    pub finish_reason: Option<String>,
    /// The ids of the added tokens, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The part of a message that a chunk adds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// On a choice's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Added text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Added thoughts, as vLLM and DeepSeek call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same, as newer releases of vLLM call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Added calls, and additions to calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<CallDelta>,
}

/// A call, or an addition to its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallDelta {
    /// The call's number in its choice.
    pub index: u32,
    /// Its id, where it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, where it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// The function and its arguments.
    pub function: FunctionDelta,
}

/// A function, or an addition to its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDelta {
    /// Its name, where the call begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Added arguments.
    pub arguments: String,
}

impl CallDelta {
    /// The beginning of a call.
    #[must_use]
    pub fn begun(index: u32, id: String, name: String) -> Self {
        let function = FunctionDelta { name: Some(name), arguments: String::new() };
        Self { index, id: Some(id), r#type: Some("function".into()), function }
    }

    /// More of its arguments.
    #[must_use]
    pub fn more(index: u32, arguments: String) -> Self {
        Self { index, id: None, r#type: None, function: FunctionDelta { name: None, arguments } }
    }
}

/// Log probabilities of a chat answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One per token.
    pub content: Vec<TokenLogprob>,
}

/// One generated token and its rivals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text; a lone part of a character is shown as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One likely token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_of_null_is_sent_and_an_absent_one_is_not() {
        let mut chunk = ChatChunk {
            id: "x".into(),
            object: "o".into(),
            created: 1,
            model: "m".into(),
            choices: vec![],
            usage: None,
            prompt_token_ids: None,
        };
        assert!(!serde_json::to_string(&chunk).expect("json").contains("usage"));
        chunk.usage = Some(None);
        assert!(serde_json::to_string(&chunk).expect("json").contains(r#""usage":null"#));
    }
}
