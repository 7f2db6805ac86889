//! Readers of a sequence's events, as the engine's core sees them: no channel, no thread.

use super::sequence::{Cancel, Event};
use compute::backend::DEPTH_MAX;
use tokio::sync::mpsc;

/// State of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is room for what a step says.
    Ready,
    /// There is not: the sequence rests.
    Full,
    /// It has all it wants.
    Satisfied,
    /// It is gone.
    Gone,
}

/// A reader of a sequence's events.
pub(super) trait Reader {
    /// Its current state.
    fn reading(&self) -> Reading;
    /// Hands it an event. False: it is gone or has no room, which was to be asked before.
    fn send(&mut self, event: Event) -> bool;

    /// True if it still wants what is computed for it.
    fn is_wanted(&self) -> bool {
        matches!(self.reading(), Reading::Ready | Reading::Full)
    }
}

/// A request's channel, and which of the request's sequences this is.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) events: mpsc::Sender<(u32, Event)>,
    pub(super) index: u32,
    pub(super) cancel: Cancel,
}

impl Reader for Channel {
    fn reading(&self) -> Reading {
        if self.cancel.is_cancelled() {
            Reading::Satisfied
        } else if self.events.is_closed() {
            Reading::Gone
        } else if self.events.capacity() < (self.events.max_capacity() / 4).max(2 * DEPTH_MAX) {
            // Each step in flight sends at most two events per sequence of the request.
            Reading::Full
        } else {
            Reading::Ready
        }
    }

    fn send(&mut self, event: Event) -> bool {
        self.events.try_send((self.index, event)).is_ok()
    }
}
