//! From a worker's answer to the client's: headers, whole answers, errors; streams in `stream`.

mod stream;

use crate::dispatch::Answer;
use crate::meter::{Meter, Slot};
use crate::screened::{Garbage, Gate, Screened};
use crate::upstream::{ReadError, read_all};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
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

/// What a relayed answer is made from. Everything it holds is freed when its body ends or drops.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) answer: Answer,
    pub(crate) gate: Gate,
    pub(crate) meter: Meter,
    pub(crate) slot: Slot,
    pub(crate) bounds: Bounds,
    pub(crate) span: tracing::Span,
}

impl Relay {
    /// The client's response. Only a stream is relayed as it comes; anything else is read as a
    /// whole first, so that half of it never goes out.
    pub(crate) async fn respond(mut self) -> Response {
        let (mut parts, body) = self.answer.response.into_parts();
        let headers = &mut parts.headers;
        // The layers around us set ours.
        headers.remove(REQUEST_ID);
        if let Ok(name) = HeaderValue::from_str(&self.answer.ticket.worker.name) {
            headers.insert(WORKER, name);
        }
        if headers.contains_key(CONTENT_ENCODING) {
            return refuse(&mut self.meter, "encoded", "the worker compressed its answer, which was not asked for");
        }
        if parts.status == StatusCode::OK && is_event_stream(headers) {
            headers.remove(CONTENT_LENGTH);
            let ticket = self.answer.ticket;
            let body = stream::Stream::new(body, self.gate, self.meter, (ticket, self.slot), self.bounds, self.span);
            return Response::from_parts(parts, Body::new(body));
        }
        let bytes_max = if parts.status.is_success() { self.bounds.answer_bytes_max } else { ERROR_BYTES_MAX };
        let body = match read_all(body, bytes_max, self.bounds.idle).await {
            Ok(body) => body,
            Err(cause) => {
                tracing::warn!(worker = self.answer.ticket.worker.name, cause = %Chain(&cause), "reading an answer");
                return unreadable(&mut self.meter, &cause);
            }
        };
        let screened = if parts.status.is_success() { self.gate.whole(body) } else { self.gate.error_body(body) };
        self.meter.metrics.output_blocks.inc_by(self.gate.blocks() as u64);
        match screened {
            Ok(screened) => {
                self.meter.ended(parts.status.as_u16());
                parts.headers.remove(CONTENT_LENGTH);
                Response::from_parts(parts, whole_body(screened, self.slot))
            }
            Err(Garbage) => refuse(&mut self.meter, "garbage", "the worker's answer was not one; try again"),
        }
    }
}

/// A whole answer. The request's place goes with the bytes: it is free once they are written.
fn whole_body(screened: Screened, slot: Slot) -> Body {
    Body::from(Bytes::from_owner(Placed { bytes: screened.into_bytes(), _slot: slot }))
}

struct Placed {
    bytes: Bytes,
    _slot: Slot,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
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
