//! From a worker's answer to the client's: headers, whole answers, errors; streams in `stream`.

mod screening;
mod stream;

use crate::account::Account;
use crate::cost::BYTES_OF_TOKEN;
use crate::dispatch::Answer;
use crate::meter::{Meter, Slot};
use crate::offload::Offload;
use crate::screened::{Garbage, Gate, Screened, Whole};
use crate::upstream::{ReadError, read_all};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use screening::Screening;
use std::sync::Arc;
use std::time::Duration;
use wire::Chain;
use wire::headers::{REQUEST_ID, WORKER};
use wire::openai::{ApiError, ErrorKind};

/// The largest error body of a worker that is relayed.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// The bounds of a relay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) idle: Duration,
    pub(crate) event_bytes_max: usize,
    pub(crate) answer_bytes_max: usize,
}

/// The parts of a relayed answer. Everything it holds is freed when its body ends or drops.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) answer: Answer,
    pub(crate) gate: Gate,
    pub(crate) meter: Meter,
    pub(crate) slot: Slot,
    pub(crate) account: Account,
    pub(crate) bounds: Bounds,
    pub(crate) offload: Arc<Offload>,
    /// True if the client asked for a stream.
    pub(crate) is_stream: bool,
    pub(crate) span: tracing::Span,
}

impl Relay {
    /// The client's response. Only a stream is relayed as it comes; anything else is read as a
    /// whole first, so that half of it never goes out. The account goes with an answer, and comes back with an error.
    pub(crate) async fn respond(mut self) -> (Response, Option<Account>) {
        let (mut parts, body) = self.answer.response.into_parts();
        let headers = &mut parts.headers;
        // The layers around us set ours.
        headers.remove(REQUEST_ID);
        if let Ok(name) = HeaderValue::from_str(&self.answer.ticket.worker.name) {
            headers.insert(WORKER, name);
        }
        if headers.contains_key(CONTENT_ENCODING) {
            let message = "the worker compressed its answer, which was not asked for";
            return (refuse(&mut self.meter, "encoded", message), Some(self.account));
        }
        let status = parts.status;
        let is_answer = status == StatusCode::OK;
        if status.as_u16() < 400 && !(is_answer && is_right_kind(headers, self.is_stream)) {
            return (refuse(&mut self.meter, "garbage", NO_ANSWER), Some(self.account));
        }
        if is_answer && self.is_stream {
            headers.remove(CONTENT_LENGTH);
            let ticket = self.answer.ticket;
            let screening = Screening::new(self.gate, self.offload);
            let held = (self.account, ticket, self.slot);
            let body = stream::Stream::new(body, screening, self.meter, held, self.bounds, self.span);
            return (Response::from_parts(parts, Body::new(body)), None);
        }
        let bytes_max = if is_answer { self.bounds.answer_bytes_max } else { ERROR_BYTES_MAX };
        let body = match read_all(body, bytes_max, self.bounds.idle).await {
            Ok(body) => body,
            Err(cause) => {
                tracing::warn!(worker = self.answer.ticket.worker.name, cause = %Chain(&cause), "reading an answer");
                return (unreadable(&mut self.meter, &cause), Some(self.account));
            }
        };
        let length = body.len();
        let mut gate = self.gate;
        let work = move || {
            let screened = if is_answer { gate.whole(body) } else { gate.error_body(body) };
            (screened, gate.blocks())
        };
        let (screened, blocks) = self.offload.run(length, work).await;
        self.meter.metrics.output_blocks.inc_by(blocks as u64);
        match screened {
            Ok(Whole { bytes, usage, text_bytes }) => {
                self.meter.ended(status.as_u16());
                parts.headers.remove(CONTENT_LENGTH);
                if !is_answer {
                    return (Response::from_parts(parts, whole_body(bytes, self.slot, None)), Some(self.account));
                }
                self.account.ended(status.as_u16());
                self.account.counted(usage);
                self.account.pieces(text_bytes.div_ceil(BYTES_OF_TOKEN) as u64);
                (Response::from_parts(parts, whole_body(bytes, self.slot, Some(self.account))), None)
            }
            Err(Garbage) if is_answer => (refuse(&mut self.meter, "garbage", NO_ANSWER), Some(self.account)),
            Err(Garbage) => (withheld(&mut self.meter, parts), Some(self.account)),
        }
    }
}

/// True if the content type is what was asked for: a stream, or JSON. One that says nothing is
/// believed.
fn is_right_kind(headers: &HeaderMap, is_stream: bool) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if is_stream {
        return essence == "text/event-stream";
    }
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The message to a client where a worker's answer is none.
const NO_ANSWER: &str = "the worker's answer was not one; try again";

/// A worker's error that quotes a denied phrase: its status stays, its words do not.
fn withheld(meter: &mut Meter, mut parts: http::response::Parts) -> Response {
    let status = parts.status.as_u16();
    let kind = match status {
        429 => ErrorKind::RateLimitExceeded,
        400..=499 => ErrorKind::InvalidRequest,
        503 => ErrorKind::Overloaded,
        _ => ErrorKind::BadGateway,
    };
    meter.upstream_error("withheld");
    meter.ended(status);
    let error = ApiError::new(kind, "the worker refused the request in words that this server's content policy keeps");
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(error.to_json()))
}

/// A whole answer. The request's places go with the bytes: they are free once those are written.
fn whole_body(screened: Screened, slot: Slot, account: Option<Account>) -> Body {
    Body::from(Bytes::from_owner(Placed { bytes: screened.into_bytes(), _account: account, _slot: slot }))
}

struct Placed {
    bytes: Bytes,
    _account: Option<Account>,
    _slot: Slot,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn unreadable(meter: &mut Meter, cause: &ReadError) -> Response {
    match cause {
        ReadError::TooLarge(max) => {
            refuse(meter, "too_large", &format!("the worker's answer exceeds {max} bytes; ask for less or stream it"))
        }
        ReadError::NoMemory => refuse(meter, "too_large", "this server holds too many large answers; try again"),
        ReadError::Broken(_) => refuse(meter, "broken_mid_answer", "the worker broke off while it answered; try again"),
        ReadError::Stalled(after) => {
            meter.upstream_error("stalled");
            let message = format!("the worker's answer paused for more than {} s", after.as_secs());
            respond_error(meter, &ApiError::new(ErrorKind::UpstreamTimeout, message))
        }
    }
}

fn refuse(meter: &mut Meter, kind: &'static str, message: &str) -> Response {
    meter.upstream_error(kind);
    respond_error(meter, &ApiError::new(ErrorKind::BadGateway, message))
}

fn respond_error(meter: &mut Meter, error: &ApiError) -> Response {
    meter.ended(error.kind.status());
    listen::error_response(error)
}
