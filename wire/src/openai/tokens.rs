//! `POST /tokenize`, `/detokenize` and `/render`, as vLLM has them: what they have beside the requests that generate, and
//! their answers.

use super::error::{ApiError, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Options of a request to tokenize. Its prompt or conversation is read as a request that generates is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenize {
    /// It has messages, rather than a prompt.
    pub is_conversation: bool,
    /// The tokens' texts are wanted, too.
    pub wants_texts: bool,
}

#[derive(Deserialize)]
struct Options<'b> {
    #[serde(borrow)]
    messages: Option<&'b RawValue>,
    return_token_strs: Option<bool>,
}

impl Tokenize {
    /// Reads the options.
    ///
    /// # Errors
    /// 400: the body is no JSON object, or an option has the wrong type.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let options: Options<'_> = serde_json::from_slice(body).map_err(unreadable)?;
        let (is_conversation, wants_texts) = (options.messages.is_some(), options.return_token_strs == Some(true));
        Ok(Self { is_conversation, wants_texts })
    }
}

fn unreadable(cause: serde_json::Error) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("the body is no such request: {cause}"))
}

/// The answer to a request to tokenize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tokenized {
    /// Number of tokens.
    pub count: usize,
    /// The most that the model takes.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, where asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The answer to a request to render: what the engine would be asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rendered {
    /// The request's id.
    pub request_id: String,
    /// The model.
    pub model: String,
    /// The prompt.
    pub token_ids: Vec<u32>,
    /// The choice of tokens.
    pub sampling_params: RenderedSampling,
    /// True if the answer would be a stream.
    pub stream: bool,
}

/// The choice of tokens, as far as the request says it; the model's defaults are in the places of `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RenderedSampling {
    /// The number of choices.
    pub n: u32,
    /// The most tokens of each.
    pub max_tokens: usize,
    /// The fewest.
    pub min_tokens: u32,
    /// The temperature.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// The most candidates.
    pub top_k: Option<u32>,
    /// The seed.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// A request to put tokens together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Detokenize {
    /// The model asked for; `None` where the request names none.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<u32>,
}

impl Detokenize {
    /// Reads the request.
    ///
    /// # Errors
    /// 400: the body is no such request.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(unreadable)
    }
}

/// The answer to a request to put tokens together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detokenized {
    /// Their text.
    pub prompt: String,
}
