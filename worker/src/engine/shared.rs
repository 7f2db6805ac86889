//! What engine thread and handles share: gauges and signs of life.

use super::events::KvChanges;
use crate::backend::{Generation, Part};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The codes of parts in `waiting_for`; layer n is n + 3.
const NOTHING: u64 = 0;
const EMBEDDINGS: u64 = 1;
const HEAD: u64 = 2;
const LAYERS: u64 = 3;

/// Written by the engine thread (and `waiting` by those who submit), read by anybody.
#[derive(Debug)]
pub(super) struct Shared {
    begun: Instant,
    beat_ms: AtomicU64,
    pub(super) is_dead: AtomicBool,
    pub(super) waiting: AtomicU32,
    pub(super) running: AtomicU32,
    pub(super) blocks_used: AtomicU32,
    /// Recent seconds per finished sequence × 1000, for `retry-after`.
    pub(super) sequence_ms: AtomicU64,
    /// What changed in the prefix cache.
    pub(super) kv_changes: KvChanges,
    waiting_for: AtomicU64,
    fault: OnceLock<String>,
    oldest: watch::Sender<Generation>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            beat_ms: AtomicU64::new(0),
            is_dead: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            running: AtomicU32::new(0),
            blocks_used: AtomicU32::new(0),
            sequence_ms: AtomicU64::new(1000),
            kv_changes: KvChanges::default(),
            waiting_for: AtomicU64::new(NOTHING),
            fault: OnceLock::new(),
            oldest: watch::Sender::new(Generation::default()),
        }
    }

    /// The engine thread is alive.
    pub(super) fn beat(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long ago it last was; `None` when it has ended.
    pub(super) fn since_beat(&self) -> Option<Duration> {
        if self.is_dead.load(Ordering::Acquire) {
            return None;
        }
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        Some(self.begun.elapsed().saturating_sub(beat))
    }

    /// Notes how long a sequence took: a running mean over about eight of them.
    pub(super) fn note_pace(&self, took: Duration) {
        let pace_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let old_ms = self.sequence_ms.load(Ordering::Relaxed);
        self.sequence_ms.store(old_ms - old_ms / 8 + pace_ms / 8, Ordering::Relaxed);
    }

    /// Says what the step waits for.
    pub(super) fn set_waiting_for(&self, part: Option<Part>) {
        let code = match part {
            None => NOTHING,
            Some(Part::Embeddings) => EMBEDDINGS,
            Some(Part::Head) => HEAD,
            Some(Part::Layer(number)) => LAYERS + number as u64,
        };
        self.waiting_for.store(code, Ordering::Relaxed);
    }

    /// What the step waits for.
    pub(super) fn waiting_for(&self) -> Option<Part> {
        match self.waiting_for.load(Ordering::Relaxed) {
            NOTHING => None,
            EMBEDDINGS => Some(Part::Embeddings),
            HEAD => Some(Part::Head),
            // It was a usize.
            layer => Some(Part::Layer((layer - LAYERS) as usize)),
        }
    }

    /// Notes that weights will not arrive; the first reason is the news.
    pub(super) fn set_fault(&self, why: &str) {
        let _ = self.fault.set(why.to_owned());
    }

    /// Why weights will not arrive.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Says which generation is the oldest in use.
    pub(super) fn set_oldest(&self, generation: Generation) {
        self.oldest.send_replace(generation);
    }

    /// Which generation is the oldest in use.
    pub(super) fn oldest(&self) -> watch::Receiver<Generation> {
        self.oldest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_told_as_it_was_said() {
        let shared = Shared::new();
        for part in [None, Some(Part::Embeddings), Some(Part::Layer(0)), Some(Part::Layer(79)), Some(Part::Head)] {
            shared.set_waiting_for(part);
            assert_eq!(shared.waiting_for(), part);
        }
    }
}
