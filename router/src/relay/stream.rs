//! A streamed answer on its way: decoded, screened, measured, and ended in one of three ways: with
//! the worker's `[DONE]`, with an error event and no `[DONE]`, or because the client left.
//!
//! Only complete events pass, so that an error event never lands inside another. There is no task
//! and no queue: the client's connection pulls, and where it is slow the worker is read slowly.
//! When the client leaves, this body is dropped and with it the connection to the worker.

use super::Bounds;
use crate::meter::{Meter, Slot};
use crate::outcome::{ErrorClass, Transport};
use crate::screened::{Gate, Passed, Screened};
use crate::ticket::Ticket;
use crate::upstream::{BodyError, UpstreamBody};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use hyper::body::Body;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use wire::openai::{ApiError, ErrorKind};
use wire::sse::{DONE, Decoder, Event, SseError};

/// How long we wait for the end of a worker's response after its `[DONE]`: long enough to keep the
/// connection for the next request, too short for a client to notice.
const CLOSING: Duration = Duration::from_millis(100);

/// Why a stream could not be relayed to its end.
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
            Self::Garbage => {
                (ErrorKind::BadGateway, "the worker sent something that is no event; the answer is incomplete")
            }
        };
        ApiError::new(kind, message)
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
#[derive(Debug)]
pub(crate) struct Stream {
    upstream: Option<UpstreamBody>,
    framer: Framer,
    gate: Gate,
    meter: Meter,
    held: Option<(Ticket, Slot)>,
    phase: Phase,
    bounds: Bounds,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs: only while we wait for the worker, not while the client reads.
    is_waiting: bool,
    span: tracing::Span,
}

impl Stream {
    pub(crate) fn new(
        upstream: UpstreamBody,
        gate: Gate,
        meter: Meter,
        held: (Ticket, Slot),
        bounds: Bounds,
        span: tracing::Span,
    ) -> Self {
        Self {
            upstream: Some(upstream),
            framer: Framer::new(bounds.event_bytes_max),
            gate,
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

    /// Relays one piece; `None` where nothing of it may go out yet.
    fn relay(&mut self, data: Bytes) -> Result<Option<Screened>, Failure> {
        let Framed { raw, events } = self.framer.push(data)?;
        if raw.is_empty() {
            return Ok(None);
        }
        let is_done = events.iter().any(|event| event.data == DONE);
        let has_error = events.iter().any(|event| event.data.starts_with("{\"error\""));
        let Passed { bytes, has_text, is_over } = self.gate.events(raw, &events).map_err(|_| Failure::Garbage)?;
        if has_text {
            self.meter.text_sent();
        }
        if has_error {
            self.meter.upstream_error("error_event");
            if let Some((ticket, _)) = &mut self.held {
                ticket.reported(ErrorClass::Server);
            }
            self.close(502);
        } else if is_over {
            self.succeed();
            self.end();
        } else if is_done {
            self.succeed();
        }
        Ok(Some(bytes))
    }

    fn succeed(&mut self) {
        if let Some((ticket, _)) = &mut self.held {
            ticket.succeeded();
        }
        self.close(200);
    }

    fn close(&mut self, code: u16) {
        self.meter.ended(code);
        self.phase = Phase::Closing;
    }

    /// Frees everything this answer holds: the connection, the place at the worker, ours.
    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.upstream = None;
        self.held = None;
        self.meter.metrics.output_blocks.inc_by(self.gate.blocks() as u64);
    }

    fn fail(&mut self, failure: Failure) -> Screened {
        let error = failure.to_api_error();
        let worker = self.held.as_ref().map(|(ticket, _)| ticket.worker.name.as_str());
        self.span.in_scope(|| tracing::warn!(worker, kind = failure.kind(), "a stream broke"));
        self.meter.upstream_error(failure.kind());
        if let Some((ticket, _)) = &mut self.held {
            ticket.broke(failure.transport());
        }
        self.meter.ended(error.kind.status());
        self.end();
        Screened::error_event(&error)
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.phase == Phase::Ended {
                return Poll::Ready(None);
            }
            let piece = ready!(self.poll_upstream(cx));
            let screened = match (self.phase, piece) {
                (Phase::Closing | Phase::Ended, _) => {
                    self.end();
                    continue;
                }
                (Phase::Relaying, Ok(Some(data))) => match self.relay(data) {
                    Ok(screened) => screened,
                    Err(failure) => Some(self.fail(failure)),
                },
                (Phase::Relaying, Ok(None)) => Some(self.fail(Failure::Truncated)),
                (Phase::Relaying, Err(failure)) => Some(self.fail(failure)),
            };
            if let Some(bytes) = screened.map(Screened::into_bytes).filter(|bytes| !bytes.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}

/// Cuts a worker's bytes at the ends of events.
#[derive(Debug)]
struct Framer {
    decoder: Decoder,
    /// Bytes of an event that is not complete.
    pending: BytesMut,
    limit_bytes: usize,
}

/// Complete events, and the bytes they were.
#[derive(Debug)]
struct Framed {
    raw: Bytes,
    events: Vec<Event>,
}

impl Framer {
    fn new(limit_bytes: usize) -> Self {
        Self { decoder: Decoder::new(limit_bytes), pending: BytesMut::new(), limit_bytes }
    }

    fn push(&mut self, mut data: Bytes) -> Result<Framed, Failure> {
        let mut events = Vec::new();
        let (mut at, mut complete) = (0, 0);
        for line in data.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            self.decoder.push(line, |event| events.push(event)).map_err(|cause| match cause {
                SseError::TooLarge { .. } => Failure::TooLarge,
                SseError::NotUtf8 => Failure::Garbage,
            })?;
            at += line.len();
            if !self.decoder.is_mid_event() {
                complete = at;
            }
        }
        let rest = data.split_off(complete);
        let raw = if self.pending.is_empty() || data.is_empty() {
            data
        } else {
            self.pending.extend_from_slice(&data);
            self.pending.split().freeze()
        };
        self.pending.extend_from_slice(&rest);
        // Lines that carry no data are not counted by the decoder; twice the limit is enough.
        if self.pending.len() / 2 > self.limit_bytes {
            return Err(Failure::TooLarge);
        }
        Ok(Framed { raw, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_complete_events_pass() {
        let mut framer = Framer::new(64);
        for (piece, raw, count) in [
            ("data: a\n", "", 0),
            ("\ndata: b", "data: a\n\n", 1),
            ("\n\n: ping\nda", "data: b\n\n: ping\n", 1),
            ("ta: c\r\n\r\n", "data: c\r\n\r\n", 1),
        ] {
            let framed = framer.push(Bytes::from(piece)).expect("decodes");
            assert_eq!((&framed.raw[..], framed.events.len()), (raw.as_bytes(), count), "{piece:?}");
        }
    }

    #[test]
    fn a_flood_of_lines_without_data_is_bounded() {
        let mut framer = Framer::new(64);
        framer.push(Bytes::from("data: a\n")).expect("decodes");
        let flood = (0..100).map(|_| framer.push(Bytes::from("id: 123\n"))).find_map(Result::err);
        assert_eq!(flood, Some(Failure::TooLarge));
    }

    proptest! {
        #[test]
        fn complete_streams_pass_byte_for_byte_however_they_are_cut(
            texts in prop::collection::vec("[a-zé☃:]{0,9}", 0..6),
            ends in prop::collection::vec(prop::sample::select(vec!["\n\n", "\r\n\r\n", "\r\r"]), 6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let whole: String = texts.iter().zip(&ends).map(|(text, end)| format!("data: {text}{end}")).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let mut framer = Framer::new(64);
            let mut out = Vec::new();
            let mut count = 0;
            for pair in at.windows(2) {
                let framed = framer.push(Bytes::copy_from_slice(&whole.as_bytes()[pair[0]..pair[1]])).expect("decodes");
                out.extend_from_slice(&framed.raw);
                count += framed.events.len();
            }
            prop_assert_eq!(out, whole.as_bytes());
            prop_assert_eq!(count, texts.len());
        }
    }
}
