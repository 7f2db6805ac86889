//! `POST /v1/completions`: request, response and stream chunks (one form serves both).

use super::error::ApiError;
use super::fields::{StreamOptions, include_usage, refuse_unsupported, required};
use super::parse::{OneOrMany, Parsed, from_json};
use super::sampling::{RawSampling, Sampling};
use super::usage::Usage;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The most alternatives per token here. OpenAI's bound is 5; vLLM and the evaluation harnesses
/// that use this endpoint go to 20.
const LOGPROBS_MAX: u32 = 20;
/// The most prompts in one request: each is a sequence.
const PROMPTS_MAX: usize = 64;

/// A validated completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model asked for.
    pub model: String,
    /// One or more prompts; choices are numbered prompt by prompt.
    pub prompts: Vec<Prompt>,
    /// How tokens are chosen. `max_tokens` is 16 where the request said nothing, as OpenAI has it.
    pub sampling: Sampling,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a usage chunk.
    pub include_usage: bool,
    /// Whether the answer begins with the prompt (and its log probabilities).
    pub echo: bool,
}

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, yet to be tokenised.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
struct RawPrompt(Vec<Prompt>);

enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = PromptItem;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.into()))
            }

            fn visit_u64<E: serde::de::Error>(self, token: u64) -> Result<PromptItem, E> {
                u32::try_from(token).map(PromptItem::Token).map_err(|_| E::custom("a token id fits 32 bits"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptItem, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(PromptItem::Tokens(tokens))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

impl<'de> Deserialize<'de> for RawPrompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = RawPrompt;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids, or a list of such lists")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawPrompt, E> {
                Ok(RawPrompt(vec![Prompt::Text(text.into())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawPrompt, A::Error> {
                let mut prompts = Vec::new();
                let mut loose = Vec::new();
                while let Some(item) = seq.next_element()? {
                    match item {
                        PromptItem::Text(text) => prompts.push(Prompt::Text(text)),
                        PromptItem::Tokens(tokens) => prompts.push(Prompt::Tokens(tokens)),
                        PromptItem::Token(token) => loose.push(token),
                    }
                }
                match (prompts.is_empty(), loose.is_empty()) {
                    (_, true) => Ok(RawPrompt(prompts)),
                    (true, false) => Ok(RawPrompt(vec![Prompt::Tokens(loose)])),
                    (false, false) => {
                        Err(serde::de::Error::custom("a prompt list mixes token ids with texts or lists"))
                    }
                }
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

#[derive(Deserialize)]
struct RawCompletion {
    model: Option<String>,
    prompt: Option<RawPrompt>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    echo: Option<bool>,
    logprobs: Option<u32>,
    #[serde(rename = "user")]
    _user: Option<String>,
    // Known, and not done here yet.
    suffix: Option<Value>,
    best_of: Option<u32>,
    prompt_logprobs: Option<Value>,
    response_format: Option<Value>,
    structured_outputs: Option<Value>,
    // Shared with chat.
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    seed: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    logit_bias: Option<BTreeMap<String, f64>>,
    n: Option<u32>,
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    stop: Option<OneOrMany>,
    stop_token_ids: Option<Vec<u32>>,
    priority: Option<i64>,
    cache_salt: Option<String>,
}

impl CompletionRequest {
    /// Parses and validates a request body.
    ///
    /// # Errors
    /// 400, naming the field that is missing, mistyped, out of range or not supported.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, ApiError> {
        let Parsed { request: raw, ignored } = from_json::<RawCompletion>(body)?;
        Ok(Parsed { request: Self::validate(raw)?, ignored })
    }

    fn validate(raw: RawCompletion) -> Result<Self, ApiError> {
        refuse_unsupported(&[
            ("suffix", &raw.suffix),
            ("prompt_logprobs", &raw.prompt_logprobs),
            ("response_format", &raw.response_format),
            ("structured_outputs", &raw.structured_outputs),
        ])?;
        if raw.best_of.is_some_and(|best_of| best_of != raw.n.unwrap_or(1)) {
            return Err(ApiError::unsupported("best_of", "`best_of` other than `n` is not supported"));
        }
        let model = required("model", raw.model)?;
        let prompts = required("prompt", raw.prompt)?.0;
        if prompts.is_empty() || prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(ids) if ids.is_empty())) {
            return Err(ApiError::invalid("prompt", "`prompt` must not be an empty list"));
        }
        if prompts.len() > PROMPTS_MAX {
            return Err(ApiError::invalid("prompt", format!("at most {PROMPTS_MAX} prompts in one request")));
        }
        if raw.logprobs.is_some_and(|count| count > LOGPROBS_MAX) {
            return Err(ApiError::invalid("logprobs", format!("`logprobs` must be between 0 and {LOGPROBS_MAX}")));
        }
        let sampling = RawSampling {
            temperature: raw.temperature,
            top_p: raw.top_p,
            top_k: raw.top_k,
            min_p: raw.min_p,
            seed: raw.seed,
            presence_penalty: raw.presence_penalty,
            frequency_penalty: raw.frequency_penalty,
            repetition_penalty: raw.repetition_penalty,
            logit_bias: raw.logit_bias,
            n: raw.n,
            max_tokens: Some(raw.max_tokens.unwrap_or(16)),
            min_tokens: raw.min_tokens,
            ignore_eos: raw.ignore_eos,
            stop: raw.stop,
            stop_token_ids: raw.stop_token_ids,
            priority: raw.priority,
            cache_salt: raw.cache_salt,
        };
        let stream = raw.stream.unwrap_or(false);
        Ok(Self {
            model,
            prompts,
            sampling: sampling.validate(raw.logprobs)?,
            stream,
            include_usage: include_usage(stream, raw.stream_options)?,
            echo: raw.echo.unwrap_or(false),
        })
    }
}

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
    /// Which one.
    pub index: u32,
    /// Log probabilities, where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop`, `length` or `content_filter`.
    pub finish_reason: Option<String>,
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
    /// Where each token begins, in characters of the text.
    pub text_offset: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(json.as_bytes()).map(|parsed| parsed.request)
    }

    #[test]
    fn reads_the_four_forms_of_a_prompt() {
        let text = |text: &str| Prompt::Text(text.into());
        let cases = [
            (r#""a""#, vec![text("a")]),
            (r#"["a","b"]"#, vec![text("a"), text("b")]),
            ("[1,2]", vec![Prompt::Tokens(vec![1, 2])]),
            ("[[1],[2,3]]", vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]),
        ];
        for (json, expected) in cases {
            let request = parse(&format!(r#"{{"model":"m","prompt":{json}}}"#)).expect(json);
            assert_eq!(request.prompts, expected);
            assert_eq!(request.sampling.max_tokens, Some(16));
        }
    }

    #[test]
    fn refuses_prompts_that_are_none() {
        for prompt in ["[]", "[[]]", r#"[1,"a"]"#, "[-1]", "7", r#"{"a":1}"#] {
            let error = parse(&format!(r#"{{"model":"m","prompt":{prompt}}}"#)).expect_err(prompt);
            assert!(error.param.expect("a field").starts_with("prompt"), "{prompt}");
        }
    }
}
