//! A streamed answer on its way: decoded, screened, measured, and ended in one of three ways: with
//! the worker's `[DONE]`, with an error event and no `[DONE]`, or because the client left.
//!
//! Only complete events pass, so that an error event never lands inside another. There is no task
//! and no queue: the client's connection pulls, and where it is slow the worker is read slowly.
//! When the client leaves, this body is dropped and with it the connection to the worker.

use super::Bounds;
use super::screening::{Done, Screening};
use crate::account::Account;
use crate::meter::{Meter, Slot};
use crate::outcome::Transport;
use crate::screened::{End, Passed, Screened};
use crate::ticket::Ticket;
use crate::upstream::{BodyError, UpstreamBody};
use bytes::Bytes;
use http_body::Frame as BodyFrame;
use hyper::body::Body;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use wire::openai::{ApiError, ErrorKind};
use wire::sse::{Framer, SseError, is_done};

/// How long we wait for the end of a worker's response after its `[DONE]`: long enough to keep the
/// connection for the next request, too short for a client to notice.
const CLOSING: Duration = Duration::from_millis(100);

/// The reason why a stream could not be relayed to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Broken,
    Truncated,
    Stalled,
    TooLarge,
    Garbage,
}

impl Failure {
    const fn kind(self) -> &'static str {
        match self {
            Self::Broken => "broken_mid_answer",
            Self::Truncated => "truncated",
            Self::Stalled => "stalled",
            Self::TooLarge => "too_large",
            Self::Garbage => "garbage",
        }
    }

    const fn transport(self) -> Transport {
        match self {
            Self::Broken | Self::Truncated => Transport::Broken,
            Self::Stalled => Transport::TimedOut,
            Self::Garbage => Transport::Unreadable,
            // The bound is ours.
            Self::TooLarge => Transport::Exhausted,
        }
    }

    fn to_api_error(self) -> ApiError {
        let (kind, message) = match self {
            Self::Broken | Self::Truncated => (ErrorKind::BadGateway, "the worker broke off; the answer is incomplete"),
            Self::Stalled => (ErrorKind::UpstreamTimeout, "the worker fell silent; the answer is incomplete"),
            Self::TooLarge => {
                (ErrorKind::BadGateway, "the worker sent an event beyond the limit; the answer is incomplete")
            }
            Self::Garbage => (ErrorKind::BadGateway, "invalid event from the worker; the answer is incomplete"),
        };
        ApiError::new(kind, message)
    }
}

impl From<SseError> for Failure {
    fn from(cause: SseError) -> Self {
        match cause {
            SseError::TooLarge { .. } => Self::TooLarge,
            SseError::NotUtf8 => Self::Garbage,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Events are relayed.
    Relaying,
    /// The worker said `[DONE]` or an error; only the end of its response is awaited.
    Closing,
    /// Nothing follows.
    Ended,
}

/// The body of a streamed response.
pub(crate) struct Stream {
    upstream: Option<UpstreamBody>,
    framer: Framer,
    screening: Screening,
    meter: Meter,
    held: Option<(Account, Ticket, Slot)>,
    phase: Phase,
    bounds: Bounds,
    timer: Pin<Box<Sleep>>,
    /// True if the timer runs: only while we wait for the worker, not while the client reads.
    is_waiting: bool,
    span: tracing::Span,
}

impl Stream {
    pub(crate) fn new(
        upstream: UpstreamBody,
        screening: Screening,
        meter: Meter,
        held: (Account, Ticket, Slot),
        bounds: Bounds,
        span: tracing::Span,
    ) -> Self {
        Self {
            upstream: Some(upstream),
            framer: Framer::new(bounds.event_bytes_max),
            screening,
            meter,
            held: Some(held),
            phase: Phase::Relaying,
            bounds,
            timer: Box::pin(sleep(bounds.idle)),
            is_waiting: false,
            span,
        }
    }

    /// The next piece of the worker's response, or why there is none.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Ok(None)) };
        loop {
            match Pin::new(&mut *upstream).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(BodyError::Broken(_)))) => return Poll::Ready(Err(Failure::Broken)),
                Poll::Ready(Some(Err(BodyError::Stuck(_)))) => return Poll::Ready(Err(Failure::Stalled)),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers mean nothing to us.
                    if let Ok(data) = frame.into_data() {
                        self.is_waiting = false;
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Pending => {
                    if !std::mem::replace(&mut self.is_waiting, true) {
                        let limit = if self.phase == Phase::Closing { CLOSING } else { self.bounds.idle };
                        self.timer.as_mut().reset(Instant::now() + limit);
                    }
                    ready!(self.timer.as_mut().poll(cx));
                    return Poll::Ready(Err(Failure::Stalled));
                }
            }
        }
    }

    /// Relays one piece: what of it is complete, up to where the stream ends. Large ones follow later.
    fn relay(&mut self, data: Bytes) -> Screened {
        let mut frames = Vec::new();
        let framed = self.framer.push(data, &mut frames);
        self.screening.pass(frames, framed).map(|done| self.done(done)).unwrap_or_default()
    }

    fn done(&mut self, Done { passed, framed }: Done) -> Screened {
        let bytes = self.passed(passed);
        match framed {
            Err(cause) if self.phase == Phase::Relaying => bytes.then(self.fail(cause.into())),
            Ok(()) | Err(_) => bytes,
        }
    }

    /// The worker's response ended: in order only where nothing but the end of `[DONE]` is missing.
    fn finish(&mut self) -> Screened {
        let last = self.framer.finish().ok().flatten();
        let done = last.filter(|frame| frame.event.as_ref().is_some_and(|event| is_done(&event.data)));
        match done {
            Some(frame) => self.screening.pass(vec![frame], Ok(())).map(|done| self.done(done)).unwrap_or_default(),
            None => self.fail(Failure::Truncated),
        }
    }

    fn passed(&mut self, Passed { bytes, has_text, pieces, usage, end }: Passed) -> Screened {
        if let Some((account, ..)) = &mut self.held {
            account.pieces(pieces);
            account.counted(usage);
        }
        if has_text {
            self.meter.text_sent();
        }
        match end {
            None => {}
            Some(End::Done) => self.succeed(),
            Some(End::Blocked) => {
                self.succeed();
                self.end();
            }
            Some(End::Error(class)) => {
                self.meter.upstream_error("error_event");
                if let Some((_, ticket, _)) = &mut self.held {
                    ticket.reported(class);
                }
                self.close(502);
            }
            Some(End::Garbage) => return bytes.then(self.fail(Failure::Garbage)),
        }
        bytes
    }

    fn succeed(&mut self) {
        if let Some((_, ticket, _)) = &mut self.held {
            ticket.succeeded();
        }
        self.close(200);
    }

    fn close(&mut self, code: u16) {
        self.ended(code);
        self.phase = Phase::Closing;
    }

    fn ended(&mut self, code: u16) {
        self.meter.ended(code);
        if let Some((account, ..)) = &mut self.held {
            account.ended(code);
        }
    }

    /// Frees everything this answer holds: the connection, the place at the worker, ours.
    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.upstream = None;
        self.held = None;
        self.meter.metrics.output_blocks.inc_by(self.screening.blocks() as u64);
    }

    fn fail(&mut self, failure: Failure) -> Screened {
        let error = failure.to_api_error();
        let worker = self.held.as_ref().map(|(_, ticket, _)| ticket.worker.name.as_str());
        self.span.in_scope(|| tracing::warn!(worker, kind = failure.kind(), "a stream broke"));
        self.meter.upstream_error(failure.kind());
        if let Some((_, ticket, _)) = &mut self.held {
            ticket.broke(failure.transport());
        }
        self.ended(error.kind.status());
        self.end();
        Screened::error_event(&error)
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        loop {
            if self.phase == Phase::Ended {
                return Poll::Ready(None);
            }
            if let Some(done) = ready!(self.screening.poll(cx)) {
                let bytes = self.done(done).into_bytes();
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(BodyFrame::data(bytes))));
                }
                continue;
            }
            let piece = ready!(self.poll_upstream(cx));
            let screened = match (self.phase, piece) {
                (Phase::Closing | Phase::Ended, _) => {
                    self.end();
                    continue;
                }
                (Phase::Relaying, Ok(Some(data))) => self.relay(data),
                (Phase::Relaying, Ok(None)) => self.finish(),
                (Phase::Relaying, Err(failure)) => self.fail(failure),
            };
            let bytes = screened.into_bytes();
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(BodyFrame::data(bytes))));
            }
        }
    }
}
