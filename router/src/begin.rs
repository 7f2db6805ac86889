//! The beginning of an answer, read before the client's head goes out: up to a stream's first event,
//! or a whole answer to its end. Until then a refusal keeps its status and another worker can try.
//!
//! Comments are no events: a worker that queues sends them to show that it lives.

use crate::memory::Share;
use crate::outcome::{ErrorClass, Transport};
use crate::upstream::{ReadError, UpstreamBody, read_shared};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use std::time::Duration;
use wire::sse::{DONE, Decoder, Event};

/// Answers above this are read on another thread: the others' streams go on meanwhile.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Bounds for what is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) event_bytes_max: usize,
    pub(crate) answer_bytes_max: usize,
    /// How long a stream may be silent before its first event, comments aside.
    pub(crate) first_event: Duration,
    /// How long a whole answer may pause.
    pub(crate) idle: Duration,
}

/// The beginning of an answer of status 200.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// A stream whose first event is here.
    Stream(UpstreamBody),
    /// A whole answer.
    Whole(UpstreamBody),
    /// An error, as JSON.
    Error(ErrorClass, Bytes),
    /// None: it is no answer, or it did not come.
    Nothing(Transport, &'static str),
}

/// Reads the beginning of an answer of status 200.
pub(crate) async fn begin(
    headers: &HeaderMap,
    body: UpstreamBody,
    is_stream: bool,
    bounds: Bounds,
    share: Share,
) -> Beginning {
    let is_plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Beginning::Nothing(Transport::Unreadable, "the worker compressed its answer, which was not asked for");
    }
    match kind(headers) {
        Kind::Events if is_stream => first_event(body, bounds).await,
        Kind::Json => whole(body, bounds, share).await,
        Kind::Events => Beginning::Nothing(Transport::Unreadable, "the worker streamed an answer that was not to be"),
        Kind::Other => Beginning::Nothing(Transport::Unreadable, "the worker's answer is neither JSON nor a stream"),
    }
}

/// The form that a content type announces. An answer without one is read as JSON.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Events,
    Json,
    Other,
}

fn kind(headers: &HeaderMap) -> Kind {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Kind::Json };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/event-stream" => Kind::Events,
        "application/json" => Kind::Json,
        other if other.starts_with("application/") && other.ends_with("+json") => Kind::Json,
        _ => Kind::Other,
    }
}

async fn whole(body: UpstreamBody, bounds: Bounds, share: Share) -> Beginning {
    let worker = body.worker();
    let bytes = match read_shared(body, bounds.answer_bytes_max, bounds.idle, share).await {
        Ok(bytes) => bytes,
        Err(cause) => return Beginning::Nothing(cause.transport(), why(&cause)),
    };
    let read = bytes.clone();
    let verdict = if bytes.len() > INLINE_BYTES_MAX {
        tokio::task::spawn_blocking(move || read_whole(&read)).await.unwrap_or(Err(NotAnAnswer))
    } else {
        read_whole(&read)
    };
    match verdict {
        Ok(None) => Beginning::Whole(UpstreamBody::whole(bytes, worker)),
        Ok(Some(class)) => Beginning::Error(class, bytes),
        Err(NotAnAnswer) => Beginning::Nothing(Transport::Unreadable, "the worker's answer is not a JSON object"),
    }
}

/// A body that is no answer.
struct NotAnAnswer;

/// The class of the error that an answer is, if it is one. No tree is built of one that is none.
fn read_whole(bytes: &[u8]) -> Result<Option<ErrorClass>, NotAnAnswer> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // Serde would read a struct from an array too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(NotAnAnswer);
    }
    let outline: Outline = serde_json::from_slice(bytes).map_err(|_| NotAnAnswer)?;
    if !outline.is_error() {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(|object| Some(class(&object))).map_err(|_| NotAnAnswer)
}

fn why(cause: &ReadError) -> &'static str {
    match cause {
        ReadError::TooLarge(_) => "the worker's answer exceeds this server's bound; ask for less or stream it",
        ReadError::NoMemory => "this server holds too many large answers; try again or stream it",
        ReadError::Broken(_) => "the worker broke off while it answered; try again",
        ReadError::Stalled(_) => "the worker's answer paused for too long",
    }
}

/// The members that tell an error from an answer.
#[derive(serde::Deserialize)]
struct Outline {
    #[serde(default)]
    error: Present,
    #[serde(default)]
    object: Option<Box<serde_json::value::RawValue>>,
}

impl Outline {
    fn is_error(&self) -> bool {
        self.error.0 || self.object.as_ref().is_some_and(|object| object.get() == "\"error\"")
    }
}

/// True where a member is present and not null.
#[derive(Default)]
struct Present(bool);

impl<'de> serde::Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<serde::de::IgnoredAny>::deserialize(deserializer).map(|value| Self(value.is_some()))
    }
}

async fn first_event(mut body: UpstreamBody, bounds: Bounds) -> Beginning {
    let mut decoder = Decoder::new(bounds.event_bytes_max);
    let (mut pieces, mut kept) = (Vec::new(), 0);
    loop {
        let piece = match tokio::time::timeout(bounds.first_event, body.frame()).await {
            Err(_) => return Beginning::Nothing(Transport::TimedOut, "the worker's first token did not come in time"),
            Ok(None) => return Beginning::Nothing(Transport::Unreadable, "the worker's answer ended before it began"),
            Ok(Some(Err(cause))) => {
                let transport = ReadError::Broken(cause).transport();
                return Beginning::Nothing(transport, "the worker broke off before it answered; try again");
            }
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        let mut first = None;
        let pushed = decoder.push(&piece, |event| {
            first.get_or_insert(event);
        });
        if pushed.is_err() && first.is_none() {
            return Beginning::Nothing(Transport::Unreadable, "invalid event from the worker");
        }
        kept += piece.len();
        pieces.push(piece);
        if let Some(event) = first {
            return judge(body, pieces, event);
        }
        if !decoder.is_mid_event() {
            // Only comments so far: they show life and are not kept.
            pieces.clear();
            kept = 0;
        } else if kept / 2 > bounds.event_bytes_max {
            return Beginning::Nothing(Transport::Unreadable, "invalid event from the worker");
        }
    }
}

fn judge(mut body: UpstreamBody, pieces: Vec<Bytes>, event: Event) -> Beginning {
    if event.data == DONE {
        return Beginning::Nothing(Transport::Unreadable, "the worker's answer ended before it began");
    }
    let object = match serde_json::from_str::<Map<String, Value>>(&event.data) {
        Ok(object) => object,
        // Some servers send the message of an error as plain text.
        Err(_) if event.event == "error" => return Beginning::Error(ErrorClass::Server, Bytes::new()),
        Err(_) => return Beginning::Nothing(Transport::Unreadable, "invalid event from the worker"),
    };
    if event.event == "error" || is_error(&object) {
        return Beginning::Error(class(&object), event.data.into());
    }
    body.unread(pieces);
    Beginning::Stream(body)
}

fn is_error(object: &Map<String, Value>) -> bool {
    let is = |name: &str, value: &str| object.get(name).and_then(Value::as_str) == Some(value);
    object.get("error").is_some_and(|error| !error.is_null())
        || is("object", "error")
        || is("type", "error")
        || is("type", "response.failed")
}

/// The class of an error in any of the shapes that servers publish: a number anywhere it may stand,
/// else the words of OpenAI, vLLM and Anthropic.
fn class(object: &Map<String, Value>) -> ErrorClass {
    let nested = object.get("error").and_then(Value::as_object);
    let members = || nested.into_iter().chain([object]);
    let number = |name| members().find_map(|object| object.get(name).and_then(Value::as_u64));
    let code = ["code", "status", "status_code"].into_iter().find_map(number);
    match code {
        Some(429 | 503 | 529) => return ErrorClass::Overloaded,
        Some(400..500) => return ErrorClass::Request,
        Some(500..600) => return ErrorClass::Server,
        _ => {}
    }
    let words = members().flat_map(|object| ["code", "type"].map(|name| object.get(name).and_then(Value::as_str)));
    for word in words.flatten().map(str::to_ascii_lowercase) {
        if ["overloaded", "rate_limit", "ratelimit", "unavailable"].iter().any(|part| word.contains(part)) {
            return ErrorClass::Overloaded;
        }
        let of_request =
            ["invalid_request", "badrequest", "context_length", "content_filter", "not_found", "unsupported"];
        if of_request.iter().any(|part| word.contains(part)) {
            return ErrorClass::Request;
        }
    }
    ErrorClass::Server
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        ] {
            let object = error.as_object().expect("an object");
            assert!(is_error(object), "{error}");
            assert_eq!(class(object), expected, "{error}");
            let outline: Outline = serde_json::from_value(error.clone()).expect("an object");
            assert!(outline.is_error(), "{error}");
        }
        let answer = json!({"object": "chat.completion", "choices": [], "error": null});
        assert!(!serde_json::from_value::<Outline>(answer.clone()).expect("an object").is_error());
        assert!(!is_error(answer.as_object().expect("an object")));
    }

    #[test]
    fn a_whole_answer_is_one_json_object() {
        for (bytes, is_answer) in [
            (&b"{}"[..], true),
            (&b" \n{\"choices\":[]} "[..], true),
            (&b"\xef\xbb\xbf{\"choices\":[]}"[..], true),
            (&b""[..], false),
            (&b"[]"[..], false),
            (&b"[null,null]"[..], false),
            (&b"null"[..], false),
            (&b"{} {}"[..], false),
            (&b"{\"choices\":[{\"ind"[..], false),
            (&b"<html>"[..], false),
        ] {
            assert_eq!(read_whole(bytes).is_ok(), is_answer, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_content_type_is_read_leniently_and_another_is_no_answer() {
        for (value, expected) in [
            (Some("text/event-stream"), Kind::Events),
            (Some("Text/Event-Stream; charset=utf-8"), Kind::Events),
            (Some("application/json"), Kind::Json),
            (Some("application/problem+json;charset=UTF-8"), Kind::Json),
            (Some("text/html"), Kind::Other),
            (Some("text/plain"), Kind::Other),
            (None, Kind::Json),
        ] {
            let headers = value.map(|value| (CONTENT_TYPE, value.parse().expect("a value"))).into_iter().collect();
            assert_eq!(kind(&headers), expected, "{value:?}");
        }
    }
}
