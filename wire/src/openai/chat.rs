//! `POST /v1/chat/completions`: request, response and stream chunks.

use super::error::ApiError;
use super::fields::{StreamOptions, include_usage, refuse_unsupported, required};
use super::parse::{OneOrMany, Parsed, from_json};
use super::sampling::{RawSampling, Sampling, TOP_LOGPROBS_MAX};
use super::usage::Usage;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A validated chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for.
    pub model: String,
    /// The conversation; never empty.
    pub messages: Vec<ChatMessage>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a usage chunk.
    pub include_usage: bool,
    /// vLLM's extra variables for the chat template, e.g. `enable_thinking`.
    pub template_variables: Map<String, Value>,
}

/// One message of a conversation, its content parts joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator's instructions.
    System,
    /// OpenAI's newer word for `system`; templates know only the older.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word a chat template expects.
    #[must_use]
    pub const fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

#[derive(Deserialize)]
struct RawMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Value>,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = Content;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of content parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

#[derive(Deserialize)]
struct RawChat {
    model: Option<String>,
    messages: Option<Vec<RawMessage>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_completion_tokens: Option<u32>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    chat_template_kwargs: Option<Map<String, Value>>,
    #[serde(rename = "user")]
    _user: Option<String>,
    // Known, and not done here yet.
    tools: Option<Value>,
    tool_choice: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    response_format: Option<Value>,
    structured_outputs: Option<Value>,
    audio: Option<Value>,
    modalities: Option<Value>,
    prompt_logprobs: Option<Value>,
    // Shared with completions.
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

impl ChatRequest {
    /// Parses and validates a request body.
    ///
    /// # Errors
    /// 400, naming the field that is missing, mistyped, out of range or not supported.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, ApiError> {
        let Parsed { request: raw, ignored } = from_json::<RawChat>(body)?;
        Ok(Parsed { request: Self::validate(raw)?, ignored })
    }

    fn validate(raw: RawChat) -> Result<Self, ApiError> {
        refuse_unsupported(&[
            ("tools", &raw.tools),
            ("tool_choice", &raw.tool_choice),
            ("functions", &raw.functions),
            ("function_call", &raw.function_call),
            ("response_format", &raw.response_format),
            ("structured_outputs", &raw.structured_outputs),
            ("audio", &raw.audio),
            ("modalities", &raw.modalities),
            ("prompt_logprobs", &raw.prompt_logprobs),
        ])?;
        let model = required("model", raw.model)?;
        let raw_messages = required("messages", raw.messages)?;
        if raw_messages.is_empty() {
            return Err(ApiError::invalid("messages", "`messages` must hold at least one message"));
        }
        let messages = raw_messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
        let logprobs = logprobs(raw.logprobs.unwrap_or(false), raw.top_logprobs)?;
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
            max_tokens: raw.max_completion_tokens.or(raw.max_tokens),
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
            messages,
            sampling: sampling.validate(logprobs)?,
            stream,
            include_usage: include_usage(stream, raw.stream_options)?,
            template_variables: raw.chat_template_kwargs.unwrap_or_default(),
        })
    }
}

fn logprobs(wanted: bool, top: Option<u32>) -> Result<Option<u32>, ApiError> {
    match (wanted, top) {
        (true, top) if top.unwrap_or(0) <= TOP_LOGPROBS_MAX => Ok(Some(top.unwrap_or(0))),
        (true, _) => {
            Err(ApiError::invalid("top_logprobs", format!("`top_logprobs` must be between 0 and {TOP_LOGPROBS_MAX}")))
        }
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
    }
}

fn message((index, raw): (usize, RawMessage)) -> Result<ChatMessage, ApiError> {
    let at = format!("messages[{index}]");
    let role = match raw.role.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => {
            return Err(ApiError::unsupported(format!("{at}.role"), "tool messages are not supported yet"));
        }
        other => {
            let message = format!("unknown role `{other}`; use system, developer, user or assistant");
            return Err(ApiError::invalid(format!("{at}.role"), message));
        }
    };
    if raw.tool_calls.as_ref().is_some_and(|calls| !calls.is_null() && calls != &Value::Array(Vec::new())) {
        return Err(ApiError::unsupported(format!("{at}.tool_calls"), "tool calls are not supported yet"));
    }
    let content = match raw.content {
        None => return Err(ApiError::invalid(format!("{at}.content"), format!("`{at}.content` is required"))),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            parts.into_iter().enumerate().map(|part| part_text(&at, part)).collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    Ok(ChatMessage { role, content })
}

fn part_text(at: &str, (index, part): (usize, Part)) -> Result<String, ApiError> {
    let path = format!("{at}.content[{index}]");
    if part.r#type != "text" {
        let message = format!("content parts of type `{}` are not supported; only `text` is", part.r#type);
        return Err(ApiError::unsupported(format!("{path}.type"), message));
    }
    required(&format!("{path}.text"), part.text)
}

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
}

/// One choice of a whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Which one.
    pub index: u32,
    /// What the model said.
    pub message: AnswerMessage,
    /// Log probabilities, where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `content_filter`.
    pub finish_reason: Option<String>,
}

/// The message of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
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
}

/// How one choice grew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    /// Which one.
    pub index: u32,
    /// What was added.
    pub delta: Delta,
    /// Log probabilities of the added tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    /// Set on a choice's last chunk.
    pub finish_reason: Option<String>,
}

/// What a chunk adds to a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// On a choice's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Added text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
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

    fn parse(json: &str) -> Result<Parsed<ChatRequest>, ApiError> {
        ChatRequest::parse(json.as_bytes())
    }

    fn with(fields: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{fields}}}"#)
    }

    #[test]
    fn reads_a_plain_request_and_names_what_it_ignores() {
        let parsed =
            parse(&with(r#","max_completion_tokens":5,"max_tokens":9,"novelty":1,"temperature":1"#)).expect("valid");
        assert_eq!(parsed.ignored, ["novelty"]);
        assert_eq!(parsed.request.sampling.max_tokens, Some(5));
        assert_eq!(parsed.request.sampling.temperature, Some(1.0));
        assert_eq!(parsed.request.messages[0].content, "hi");
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (r#"{"messages":[]}"#.to_owned(), "model"),
            (r#"{"model":"m"}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[]}"#.to_owned(), "messages"),
            (r#"{"model":"m","messages":[{"role":"owner","content":"x"}]}"#.to_owned(), "messages[0].role"),
            (r#"{"model":"m","messages":[{"role":"user"}]}"#.to_owned(), "messages[0].content"),
            (r#"{"model":"m","messages":[{"role":"user","content":7}]}"#.to_owned(), "messages[0].content"),
            (
                r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#.to_owned(),
                "messages[0].content[0].type",
            ),
            (with(r#","temperature":"hot""#), "temperature"),
            (with(r#","temperature":2.5"#), "temperature"),
            (with(r#","top_p":0"#), "top_p"),
            (with(r#","top_k":-2"#), "top_k"),
            (with(r#","n":0"#), "n"),
            (with(r#","n":17"#), "n"),
            (with(r#","n":-1"#), "n"),
            (with(r#","stop":["a",""]"#), "stop[1]"),
            (with(r#","stop":5"#), "stop"),
            (with(r#","logit_bias":{"x":1}"#), "logit_bias.x"),
            (with(r#","logit_bias":{"1":101}"#), "logit_bias.1"),
            (with(r#","top_logprobs":2"#), "top_logprobs"),
            (with(r#","logprobs":true,"top_logprobs":21"#), "top_logprobs"),
            (with(r#","stream_options":{"include_usage":true}"#), "stream_options"),
            (with(r#","tools":[{"type":"function"}]"#), "tools"),
            (with(r#","response_format":{"type":"json_object"}"#), "response_format"),
            (with(r#","min_tokens":9,"max_tokens":3"#), "min_tokens"),
        ];
        for (json, param) in cases {
            let error = parse(&json).expect_err(&json);
            assert_eq!(error.kind.status(), 400, "{json}");
            assert_eq!(error.param.as_deref(), Some(param), "{json}: {}", error.message);
        }
    }

    #[test]
    fn nan_and_infinity_are_not_numbers() {
        for number in ["NaN", "Infinity", "-Infinity", "1e999"] {
            let error = parse(&with(&format!(r#","temperature":{number}"#))).expect_err(number);
            assert_eq!(error.kind.status(), 400, "{number}");
        }
    }

    #[test]
    fn harmless_forms_of_unsupported_fields_pass() {
        let json = with(
            r#","tools":[],"tool_choice":"none","response_format":{"type":"text"},"modalities":["text"],"audio":null"#,
        );
        assert_eq!(parse(&json).expect("valid").ignored, Vec::<String>::new());
    }

    #[test]
    fn a_usage_of_null_is_sent_and_an_absent_one_is_not() {
        let mut chunk = ChatChunk {
            id: "x".into(),
            object: "o".into(),
            created: 1,
            model: "m".into(),
            choices: vec![],
            usage: None,
        };
        assert!(!serde_json::to_string(&chunk).expect("json").contains("usage"));
        chunk.usage = Some(None);
        assert!(serde_json::to_string(&chunk).expect("json").contains(r#""usage":null"#));
    }
}
