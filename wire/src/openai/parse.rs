//! From bytes to typed requests, with errors that name the field.

use super::error::{ApiError, ErrorKind};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

/// The most ignored fields we name; the rest are counted by nobody.
const IGNORED_MAX: usize = 32;

/// A request, and the fields in it that nobody knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    /// The request.
    pub request: T,
    /// Paths of unknown fields, at most 32, for `x-forebay-ignored`.
    pub ignored: Vec<String>,
}

/// Reads JSON into `T`.
///
/// # Errors
/// 400 with the path of the field whose type is wrong, or the line and column of the syntax error.
pub(super) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<Parsed<T>, ApiError> {
    // Serde would read a struct from an array too; a request is an object.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new(ErrorKind::InvalidRequest, "the body is not a JSON object"));
    }
    let mut ignored = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| {
        if ignored.len() < IGNORED_MAX {
            ignored.push(path.to_string());
        }
    });
    let request = match result {
        Ok(request) => request,
        Err(cause) => return Err(json_error(&cause, &track.path().to_string())),
    };
    json.end().map_err(|cause| json_error(&cause, "."))?;
    Ok(Parsed { request, ignored })
}

fn json_error(cause: &serde_json::Error, path: &str) -> ApiError {
    if !cause.is_data() {
        return ApiError::new(ErrorKind::InvalidRequest, format!("the body is not valid JSON: {cause}"));
    }
    if path.is_empty() || path == "." {
        return ApiError::new(ErrorKind::InvalidRequest, format!("the body is not a request: {cause}"));
    }
    ApiError::invalid(path, format!("`{path}`: {cause}"))
}

/// A string or a list of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expect;
        impl<'de> Visitor<'de> for Expect {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany::Many(texts))
            }
        }
        deserializer.deserialize_any(Expect)
    }
}

/// What the router reads of a request it otherwise relays untouched: enough to pick a worker and
/// to screen the prompt, and no more, so that requests of tomorrow pass through.
#[derive(Debug, Clone, PartialEq)]
pub struct Peek {
    /// The model asked for; `None` where the field is absent.
    pub model: Option<String>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// How many choices per prompt.
    pub n: u32,
    /// How many prompts: the elements of a `prompt` that is a list of texts or of lists of token
    /// ids, otherwise 1.
    pub prompts: usize,
    /// The prompt's texts, as a model would read them: one per message or prompt.
    pub texts: Vec<String>,
    /// Whether part of the prompt is token ids, which no text screen can read.
    pub has_token_ids: bool,
}

#[derive(Deserialize)]
struct RawPeek {
    model: Option<String>,
    stream: Option<bool>,
    n: Option<u32>,
    messages: Option<Value>,
    prompt: Option<Value>,
    input: Option<Value>,
    instructions: Option<Value>,
    suffix: Option<Value>,
    chat_template_kwargs: Option<Value>,
}

impl Peek {
    /// Reads the few fields the router needs.
    ///
    /// # Errors
    /// 400 where the body is not a JSON object or one of these fields has the wrong type.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let raw = from_json::<RawPeek>(body)?.request;
        let mut peek = Self {
            model: raw.model,
            stream: raw.stream.unwrap_or(false),
            n: raw.n.unwrap_or(1),
            prompts: raw.prompt.as_ref().map_or(1, count_prompts),
            texts: Vec::new(),
            has_token_ids: false,
        };
        for value in [raw.messages, raw.prompt, raw.input, raw.instructions, raw.suffix].into_iter().flatten() {
            match value {
                Value::Array(items) => {
                    peek.has_token_ids |= items.iter().any(holds_number);
                    peek.texts.extend(items.iter().flat_map(item_texts));
                }
                other => peek.texts.push(joined_text(&other, &STRUCTURE)),
            }
        }
        // A chat template may place any of its variables in the prompt, whatever their names.
        if let Some(Value::Object(variables)) = raw.chat_template_kwargs {
            peek.texts.extend(variables.values().map(|value| joined_text(value, &[])));
        }
        peek.texts.retain(|text| !text.is_empty());
        Ok(peek)
    }
}

fn count_prompts(prompt: &Value) -> usize {
    match prompt {
        Value::Array(items) if !items.iter().any(Value::is_number) => items.len().max(1),
        _ => 1,
    }
}

fn holds_number(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::Array(items) => items.iter().any(holds_number),
        _ => false,
    }
}

/// The texts of one message or prompt: everything in it, and its parts as a worker reads them.
/// Workers read a part's `text` and nothing else; what else a part holds is screened with the whole
/// message, but must not come between two texts that the model reads as one.
fn item_texts(item: &Value) -> impl Iterator<Item = String> {
    let everything = joined_text(item, &STRUCTURE);
    let parts = item.get("content").and_then(Value::as_array);
    let read = parts.map(|parts| parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<String>());
    [read.filter(|read| !everything.contains(read.as_str())), Some(everything)].into_iter().flatten()
}

/// The members whose strings name a structure and are not text.
const STRUCTURE: [&str; 4] = ["role", "type", "id", "tool_call_id"];

/// Every string below `value` in order, except members of these names, joined as chat templates
/// join the parts of a message: without a separator, so that a phrase cut in two parts is still
/// one phrase.
fn joined_text(value: &Value, except: &[&str]) -> String {
    fn visit(value: &Value, except: &[&str], out: &mut String) {
        match value {
            Value::String(text) => out.push_str(text),
            Value::Array(items) => items.iter().for_each(|item| visit(item, except, out)),
            Value::Object(members) => members
                .iter()
                .filter(|(key, _)| !except.contains(&key.as_str()))
                .for_each(|(_, member)| visit(member, except, out)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut out = String::new();
    visit(value, except, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peek_joins_the_parts_of_a_message() {
        let body = br#"{"model":"m","stream":true,"novelty":{"x":1},"messages":[
            {"role":"user","content":[{"type":"text","text":"for"},{"type":"text","text":"bidden"}]},
            {"role":"assistant","content":"yes"}]}"#;
        let peek = Peek::parse(body).expect("parses");
        assert_eq!(peek.texts, ["forbidden", "yes"]);
        assert!(peek.stream && !peek.has_token_ids);
        assert_eq!(peek.model.as_deref(), Some("m"));
    }

    #[test]
    fn peek_reads_parts_as_the_model_does_whatever_else_they_hold() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"text","text":"for","note":"x"},{"note":"y","type":"text","text":"bidden"}]}]}"#;
        let peek = Peek::parse(body).expect("parses");
        assert!(peek.texts.iter().any(|text| text == "forbidden"), "{:?}", peek.texts);
        assert!(peek.texts.iter().any(|text| text.contains('x') && text.contains('y')), "{:?}", peek.texts);
    }

    #[test]
    fn peek_reads_the_variables_of_the_chat_template() {
        let body =
            br#"{"model":"m","messages":[],"chat_template_kwargs":{"id":"a","flag":true,"list":[{"type":"b"}]}}"#;
        assert_eq!(Peek::parse(body).expect("parses").texts, ["a", "b"]);
    }

    #[test]
    fn peek_notices_token_ids() {
        for prompt in ["[1,2]", "[[1],[2]]"] {
            let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
            assert!(Peek::parse(body.as_bytes()).expect("parses").has_token_ids, "{prompt}");
        }
    }

    #[test]
    fn peek_counts_prompts() {
        for (prompt, count) in [(r#""a""#, 1), (r#"["a",""]"#, 2), ("[1,2]", 1), ("[[1],[2],[3]]", 3), ("[]", 1)] {
            let body = format!(r#"{{"model":"m","prompt":{prompt}}}"#);
            assert_eq!(Peek::parse(body.as_bytes()).expect("parses").prompts, count, "{prompt}");
        }
    }

    #[test]
    fn peek_names_the_field_of_a_wrong_type() {
        let error = Peek::parse(br#"{"model":3}"#).expect_err("refused");
        assert_eq!(error.param.as_deref(), Some("model"));
        assert_eq!(error.kind.status(), 400);
    }

    #[test]
    fn malformed_json_says_where() {
        for body in ["", "{", "[1]", "{} x", "nul"] {
            let error = Peek::parse(body.as_bytes()).expect_err(body);
            assert_eq!(error.kind.status(), 400, "{body}");
            assert!(error.message.contains("the body is not"), "{}", error.message);
        }
    }
}
