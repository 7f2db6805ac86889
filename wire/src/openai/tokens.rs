//! `POST /tokenize` and `/detokenize`, as vLLM has them: what they have beside the requests that generate, and their
//! answers.

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
