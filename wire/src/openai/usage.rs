//! Token accounting, as the API reports it.

use serde::{Deserialize, Serialize};

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
    /// Details of the prompt's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Details of the generated tokens, where there were thoughts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// Details of generated tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionTokensDetails {
    /// Tokens of thoughts.
    #[serde(default)]
    pub reasoning_tokens: u32,
}

/// Details of a prompt's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Tokens that were found in the prefix cache and not computed.
    #[serde(default)]
    pub cached_tokens: u32,
}

impl Usage {
    /// Sums up a request.
    #[must_use]
    pub const fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        let total_tokens = prompt_tokens + completion_tokens;
        let (prompt_tokens_details, completion_tokens_details) = (None, None);
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details, completion_tokens_details }
    }

    /// The same, with how many of the prompt's tokens were cached.
    #[must_use]
    pub const fn with_cached(self, cached_tokens: u32) -> Self {
        Self { prompt_tokens_details: Some(PromptTokensDetails { cached_tokens }), ..self }
    }

    /// The same, with how many of the generated tokens were thoughts; nothing is said of none.
    #[must_use]
    pub const fn with_reasoning(self, reasoning_tokens: u32) -> Self {
        if reasoning_tokens == 0 {
            return self;
        }
        Self { completion_tokens_details: Some(CompletionTokensDetails { reasoning_tokens }), ..self }
    }
}
