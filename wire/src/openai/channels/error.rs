//! Errors in the shapes that servers publish, in a stream, in a body, and beside choices:
//! `{"error":{…}}` and `{"error":"…"}` (OpenAI, llama.cpp, TGI), `{"object":"error",…}` (vLLM,
//! SGLang), `{"type":"error","error":{…}}` (Anthropic), `{"detail":…}` (FastAPI, RFC 9457),
//! `{"message":…}` (gateways), and anything in an event named `error`.

use crate::openai::scan::lexer::{Leaf, Lexer};
use crate::openai::scan::{Span, unescape};
use serde_json::{Map, Value, json};

/// The deepest nesting of an error that is looked into.
const DEPTH_MAX: u16 = 64;

/// An error of a server, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The words.
    pub message: String,
    /// True if OpenAI's clients see that it is an error: it has a member `error`.
    pub is_openai: bool,
    /// Whose fault it is.
    pub class: ErrorClass,
}

/// The class of an error in an answer of status 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong.
    Request,
    /// The server is full or starting.
    Overloaded,
    /// The server failed.
    Server,
}

impl Fault {
    /// The error as an OpenAI client reads it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let error = json!({"message": self.message, "type": "server_error", "param": null, "code": null});
        json!({ "error": error }).to_string()
    }
}

/// An error that is no JSON.
pub(super) fn fault_of_text(text: &str) -> Fault {
    Fault { message: error_message(text.as_bytes()), is_openai: false, class: ErrorClass::Server }
}

/// Signs of an error in a document.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clues {
    /// A member `error` that says something, of the document or of a choice.
    has_error: bool,
    /// It is the document's.
    is_openai: bool,
    /// `object` or `type` is `error`.
    is_named: bool,
    /// A member that only errors have, unless there are choices.
    has_words: bool,
    pub(super) has_choices: bool,
}

impl Clues {
    /// Notes the `error` of a choice.
    pub(super) fn note_choice(&mut self, value: &[u8]) {
        self.has_error |= says_something(value);
    }

    /// Notes a member of the document.
    pub(super) fn note(&mut self, name: &str, value: &[u8]) {
        let says_something = says_something(value);
        match name {
            "error" => {
                self.has_error |= says_something;
                self.is_openai |= says_something;
            }
            "object" | "type" => self.is_named |= value == b"\"error\"",
            "detail" | "message" | "errors" => self.has_words |= says_something,
            _ => {}
        }
    }

    pub(super) fn is_error(self) -> bool {
        self.has_error || self.is_named || (self.has_words && !self.has_choices)
    }

    pub(super) fn fault(self, json: &[u8]) -> Fault {
        Fault { message: error_message(json), is_openai: self.is_openai, class: class(json) }
    }
}

/// True if a value is one that JavaScript and Python take for true.
fn says_something(value: &[u8]) -> bool {
    !matches!(value, b"null" | b"false" | b"0" | b"\"\"" | b"{}" | b"[]")
}

/// The words of an error in any published shape; the body itself where it has none.
#[must_use]
pub fn error_message(body: &[u8]) -> String {
    let words = serde_json::from_slice::<Value>(body).ok().and_then(|value| words(&value));
    words.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let all: Vec<String> = items.iter().filter_map(words).collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
        Value::Object(members) => {
            // FastAPI's list of problems has `msg`.
            let names = ["error", "message", "detail", "msg", "errors", "title", "error_message"];
            let found = names.iter().find_map(|name| words(members.get(*name)?));
            found.or_else(|| members.get("choices")?.as_array()?.iter().find_map(|choice| words(choice.get("error")?)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The class of an error in any published shape: a number anywhere it may stand, else the words of OpenAI, vLLM and
/// Anthropic.
fn class(json: &[u8]) -> ErrorClass {
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(json) else { return ErrorClass::Server };
    let of_choice = || object.get("choices")?.as_array()?.iter().find_map(|choice| choice.get("error")?.as_object());
    let nested = object.get("error").and_then(Value::as_object).or_else(of_choice);
    let members = || nested.into_iter().chain([&object]);
    let number = |name| members().find_map(|object| object.get(name).and_then(Value::as_u64));
    match ["code", "status", "status_code"].into_iter().find_map(number) {
        Some(429 | 503 | 529) => return ErrorClass::Overloaded,
        Some(400..500) => return ErrorClass::Request,
        Some(500..600) => return ErrorClass::Server,
        _ => {}
    }
    let words = members().flat_map(|object| ["code", "type"].map(|name| object.get(name).and_then(Value::as_str)));
    words.flatten().find_map(class_of_word).unwrap_or(ErrorClass::Server)
}

fn class_of_word(word: &str) -> Option<ErrorClass> {
    let word = word.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
    if has(&["overloaded", "rate_limit", "ratelimit", "unavailable"]) {
        return Some(ErrorClass::Overloaded);
    }
    let of_request = ["invalid_request", "badrequest", "context_length", "content_filter", "not_found", "unsupported"];
    has(&of_request).then_some(ErrorClass::Request)
}

/// Every text in a document, decoded: each name and string on its own, in order. A body that is
/// not JSON is one text.
#[must_use]
pub fn all_texts(body: &[u8]) -> Vec<String> {
    let mut spans: Vec<Span> = Vec::new();
    let mut lexer = Lexer::lenient(body, DEPTH_MAX);
    let walked = lexer.walk(|leaf, raw| {
        if leaf != Leaf::Number {
            spans.push(raw);
        }
        Ok(())
    });
    if walked.is_err() || lexer.end().is_err() {
        return vec![String::from_utf8_lossy(body).into_owned()];
    }
    spans.into_iter().map(|raw| unescape(raw.of(body)).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::channels::{Whole, read_whole};
    use crate::openai::endpoint::Answers;

    #[test]
    fn an_errors_class_is_read_from_any_published_shape() {
        for (error, expected) in [
            (
                json!({"error": {"message": "m", "type": "BadRequestError", "param": null, "code": 400}}),
                ErrorClass::Request,
            ),
            (json!({"error": {"message": "m", "type": "server_error", "code": null}}), ErrorClass::Server),
            (json!({"error": {"message": "m", "code": "rate_limit_exceeded"}}), ErrorClass::Overloaded),
            (json!({"error": {"message": "m", "type": "overloaded_error"}, "type": "error"}), ErrorClass::Overloaded),
            (
                json!({"object": "error", "message": "m", "type": "InternalServerError", "code": 500}),
                ErrorClass::Server,
            ),
            (json!({"object": "error", "message": "m", "code": 503}), ErrorClass::Overloaded),
            (json!({"error": "out of memory"}), ErrorClass::Server),
            (json!({"error": {"code": "context_length_exceeded"}}), ErrorClass::Request),
            (json!({"choices": [{"index": 0, "error": {"code": 429, "message": "m"}}]}), ErrorClass::Overloaded),
        ] {
            let found = read_whole(error.to_string().as_bytes(), Answers::Choices);
            assert!(matches!(&found, Ok(Whole::Error(fault)) if fault.class == expected), "{error}: {found:?}");
        }
    }

    #[test]
    fn every_published_shape_has_words() {
        for (body, expected) in [
            (r#"{"error":{"message":"m","type":"t"}}"#, "m"),
            (r#"{"error":"m"}"#, "m"),
            (r#"{"error":{"error":{"message":"m"}}}"#, "m"),
            (r#"{"object":"error","message":"m","code":400}"#, "m"),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#, "m"),
            (r#"{"detail":"m"}"#, "m"),
            (r#"{"detail":[{"loc":["body"],"msg":"one"},{"msg":"two"}]}"#, "one; two"),
            (r#"{"message":"m"}"#, "m"),
            (r#"{"errors":["m"]}"#, "m"),
            (r#"{"choices":[{"error":{"message":"m"}}]}"#, "m"),
            (" <html>m</html>\n", "<html>m</html>"),
            (r#"{"code":7}"#, r#"{"code":7}"#),
            ("\u{feff}", "\u{feff}"),
        ] {
            assert_eq!(error_message(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn texts_of_errors_are_decoded() {
        assert_eq!(all_texts(br#"{"error":{"red\u0020but":["ton",7]}}"#), ["error", "red but", "ton"]);
        assert_eq!(all_texts(b"<p>red&#32;button</p>"), ["<p>red&#32;button</p>"]);
        assert_eq!(all_texts(br#"{"a":"b"} tail"#), [r#"{"a":"b"} tail"#]);
    }
}
