//! The beginning of an answer, read before the client's head goes out: up to a stream's first event,
//! or a whole answer to its end. Until then a refusal keeps its status and another worker can try.
//!
//! Comments are no events: a worker that queues sends them to show that it lives.

use crate::offload::Offload;
use crate::outcome::Transport;
use crate::upstream::{ReadError, UpstreamBody, read_shared};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::BodyExt;
use listen::Share;
use std::time::Duration;
use wire::openai::channels::{ErrorClass, Fault, Found, Whole, read_event, read_whole};
use wire::openai::endpoint::Answers;
use wire::sse::{Decoder, Event};

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
    (is_stream, answers): (bool, Answers),
    bounds: Bounds,
    share: Share,
    offload: &Offload,
) -> Beginning {
    let is_plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Beginning::Nothing(Transport::Unreadable, "the worker compressed its answer, which was not asked for");
    }
    match kind(headers) {
        Kind::Events if is_stream => first_event(body, bounds).await,
        Kind::Json => whole(body, answers, bounds, share, offload).await,
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

async fn whole(body: UpstreamBody, answers: Answers, bounds: Bounds, share: Share, offload: &Offload) -> Beginning {
    let worker = body.worker();
    let bytes = match read_shared(body, bounds.answer_bytes_max, bounds.idle, share).await {
        Ok(bytes) => bytes,
        Err(cause) => return Beginning::Nothing(cause.transport(), why(&cause)),
    };
    let read = bytes.clone();
    match offload.run(bytes.len(), move || read_whole(&read, answers)).await {
        Ok(Whole::Error(fault)) => error(&bytes, &fault),
        Ok(_) => Beginning::Whole(UpstreamBody::whole(bytes, worker)),
        Err(_) => Beginning::Nothing(Transport::Unreadable, "invalid answer from the worker"),
    }
}

/// An error in an answer, as OpenAI's clients read it.
fn error(json: &[u8], fault: &Fault) -> Beginning {
    let body = if fault.is_openai { Bytes::copy_from_slice(json) } else { fault.to_json().into() };
    Beginning::Error(fault.class, body)
}

fn why(cause: &ReadError) -> &'static str {
    match cause {
        ReadError::TooLarge(_) => "the worker's answer exceeds this server's bound; ask for less or stream it",
        ReadError::NoMemory => "this server holds too many large answers; try again or stream it",
        ReadError::Broken(_) => "the worker broke off while it answered; try again",
        ReadError::Stalled(_) => "the worker's answer paused for too long",
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
    match read_event(&event) {
        Ok(Found::Done) => Beginning::Nothing(Transport::Unreadable, "the worker's answer ended before it began"),
        Ok(Found::Error(fault)) => error(event.data.as_bytes(), &fault),
        Ok(Found::Answer(_) | Found::Foreign) => {
            body.unread(pieces);
            Beginning::Stream(body)
        }
        Err(_) => Beginning::Nothing(Transport::Unreadable, "invalid event from the worker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
