//! The screen of a streamed answer, which large events pass on a thread of their own.

use crate::offload::{INLINE_BYTES_MAX, Offload};
use crate::screened::{Gate, Passed};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wire::sse::{Frame, SseError};

/// A gate, and the frames that are under way through it.
pub(super) struct Screening {
    state: State,
    offload: Arc<Offload>,
}

enum State {
    Idle(Box<Gate>),
    Busy(Work),
    /// While work begins.
    Taken,
}

type Work = Pin<Box<dyn Future<Output = (Box<Gate>, Done)> + Send>>;

/// Frames that passed, and how their framing went.
pub(super) struct Done {
    pub(super) passed: Passed,
    pub(super) framed: Result<(), SseError>,
}

impl Screening {
    pub(super) fn new(gate: Gate, offload: Arc<Offload>) -> Self {
        Self { state: State::Idle(Box::new(gate)), offload }
    }

    /// Passes frames; `None` where that takes a while: then [`poll`](Self::poll) says when it is done.
    pub(super) fn pass(&mut self, frames: Vec<Frame>, framed: Result<(), SseError>) -> Option<Done> {
        let bytes = frames.iter().map(|frame| frame.raw.len()).sum();
        if bytes <= INLINE_BYTES_MAX {
            let State::Idle(gate) = &mut self.state else { return None };
            return Some(Done { passed: gate.frames(frames), framed });
        }
        if let State::Idle(mut gate) = std::mem::replace(&mut self.state, State::Taken) {
            let offload = Arc::clone(&self.offload);
            let work = move || {
                let passed = gate.frames(frames);
                (gate, Done { passed, framed })
            };
            self.state = State::Busy(Box::pin(async move { offload.run(bytes, work).await }));
        }
        None
    }

    /// The frames that were under way; `None` where none are.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        let State::Busy(work) = &mut self.state else { return Poll::Ready(None) };
        work.as_mut().poll(cx).map(|(gate, done)| {
            self.state = State::Idle(gate);
            Some(done)
        })
    }

    /// How many choices the gate ended.
    pub(super) fn blocks(&self) -> usize {
        match &self.state {
            State::Idle(gate) => gate.blocks(),
            State::Busy(_) | State::Taken => 0,
        }
    }
}
