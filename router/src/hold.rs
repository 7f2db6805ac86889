//! A streamed answer whose head is held: until the first event is here or `interval` has passed.
//!
//! A refusal that comes within the hold keeps its status. After it the head is out, the client gets
//! a comment whenever nothing else came for `interval`, and a refusal becomes an error event. The
//! same comments go out in the middle of an answer while its worker is silent.

use crate::screened::Screened;
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use listen::Drain;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use wire::openai::ApiError;
use wire::sse::encode_data;

/// A comment, which every reader of server-sent events skips.
const COMMENT: &[u8] = b":\n\n";
/// The `retry-after` during a shutdown: about one step of a rolling restart.
pub(crate) const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(2);

type Work = Pin<Box<dyn Future<Output = Response> + Send>>;
type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for the answer, at most until the drain cuts what is left.
pub(crate) async fn whole(work: Work, drain: &Drain) -> Response {
    tokio::select! {
        biased;
        response = work => response,
        () = drain.cut() => listen::error_response(&shutting_down()),
    }
}

/// Waits for the answer as long as its head is held; then answers with a stream of its own, in
/// which the answer follows.
pub(crate) async fn stream(mut work: Work, interval: Duration, drain: &Drain) -> Response {
    let held = tokio::select! {
        biased;
        response = &mut work => Some(response),
        () = drain.cut() => return listen::error_response(&shutting_down()),
        () = sleep(interval) => None,
    };
    let cut = {
        let drain = drain.clone();
        Box::pin(async move { drain.cut().await })
    };
    match held {
        Some(response) if !is_stream(&response) => response,
        Some(response) => response.map(|body| Body::new(Held::new(State::Streaming(body), interval, cut))),
        None => {
            let mut response = Response::new(Body::new(Held::new(State::Working(work), interval, cut).with_comment()));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    response.status().is_success() && kind.to_ascii_lowercase().starts_with("text/event-stream")
}

/// The error of what a shutdown cuts.
pub(crate) fn shutting_down() -> ApiError {
    ApiError::overloaded("this server is shutting down; try again", DRAIN_RETRY_AFTER)
}

enum State {
    /// The answer has not begun.
    Working(Work),
    /// The answer's events.
    Streaming(Body),
    /// An error in place of an answer, being read: it is in memory.
    Failing(Body, BytesMut),
    Ended,
}

/// A body that is never silent for long.
struct Held {
    state: State,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    cut: Cut,
    /// True if a comment goes out before anything else.
    owes_comment: bool,
}

impl Held {
    fn new(state: State, interval: Duration, cut: Cut) -> Self {
        Self { state, interval, timer: Box::pin(sleep(interval)), cut, owes_comment: false }
    }

    /// Sends a comment at once: proxies hold a head back until a body begins.
    fn with_comment(self) -> Self {
        Self { owes_comment: true, ..self }
    }

    /// The next bytes of the answer, `None` at its end.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Working(work) => {
                    let Poll::Ready(response) = work.as_mut().poll(cx) else { return Poll::Pending };
                    self.state = if is_stream(&response) {
                        State::Streaming(response.into_body())
                    } else {
                        State::Failing(response.into_body(), BytesMut::new())
                    };
                }
                State::Streaming(body) => match poll_bytes(body, cx) {
                    Poll::Ready(None) => self.state = State::Ended,
                    other => return other,
                },
                State::Failing(body, read) => match poll_bytes(body, cx) {
                    Poll::Ready(Some(bytes)) => read.extend_from_slice(&bytes),
                    Poll::Ready(None) => {
                        let event = error_event(read);
                        self.state = State::Ended;
                        return Poll::Ready(Some(event));
                    }
                    Poll::Pending => return Poll::Pending,
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }

    fn out(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.timer.as_mut().reset(Instant::now() + self.interval);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// Bodies of ours do not fail; one that did would end here.
fn poll_bytes(body: &mut Body, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
    loop {
        match http_body::Body::poll_frame(Pin::new(&mut *body), cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Some(data));
                }
            }
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
        }
    }
}

/// A JSON error as one event, on one line.
fn error_event(body: &[u8]) -> Bytes {
    let Ok(error) = serde_json::from_slice::<Value>(body) else {
        let error = ApiError::new(wire::openai::ErrorKind::BadGateway, "the worker's answer was not one; try again");
        return Screened::error_event(&error).into_bytes();
    };
    let mut out = Vec::new();
    encode_data(&mut out, &error.to_string());
    out.into()
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::take(&mut self.owes_comment) {
            return self.out(Bytes::from_static(COMMENT));
        }
        match self.poll_answer(cx) {
            Poll::Ready(Some(bytes)) => return self.out(bytes),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            // Frees the worker's connection, its place and ours.
            self.state = State::Ended;
            return self.out(Screened::error_event(&shutting_down()).into_bytes());
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return self.out(Bytes::from_static(COMMENT));
        }
        Poll::Pending
    }
}
