//! The engine: one thread that owns the backend and turns submissions into tokens.
//!
//! A step is schedule → forward → sample → hand out, and each part is a file: `scheduler` (pure),
//! the backend, `sampler` (pure), `thread`. Tokens go out over a bounded channel per request; a
//! reader that is slow pauses its own sequences and nobody else's, one that is gone frees them
//! within a step. The engine knows token ids only: no text, no HTTP.

mod blocks;
mod meters;
mod scheduler;
mod sequence;
mod thread;

pub use meters::Meters;
pub use sequence::{Cancel, Event, FinishReason, SequenceParams, Submission};

use crate::backend::{Backend, Limits};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use thiserror::Error;
use wire::status::Load;

/// The engine's own bounds; the backend has the device's.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The most sequences generated at a time.
    pub max_num_seqs: usize,
    /// The longest sequence, prompt and completion together.
    pub max_model_len: usize,
    /// The most sequences that may wait.
    pub queue_max: usize,
    /// How long a sequence may stay paused for a slow reader before it is ended.
    pub reader_stall: Duration,
}

/// Why a submission was not taken.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue is full: {waiting} sequences wait")]
    Full {
        /// How many wait.
        waiting: u32,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The engine has ended: a panic in a step, or the process is going.
    #[error("the engine has ended")]
    Ended,
}

/// What engine thread and handles share: gauges and signs of life.
#[derive(Debug)]
pub(crate) struct Shared {
    begun: Instant,
    beat_ms: AtomicU64,
    is_dead: AtomicBool,
    waiting: AtomicU32,
    running: AtomicU32,
    blocks_used: AtomicU32,
    /// Recent seconds per finished sequence × 1000, for `retry-after`.
    sequence_ms: AtomicU64,
}

impl Shared {
    fn beat(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(now_ms, Ordering::Relaxed);
    }
}

/// How to reach an engine. Clones reach the same one; when the last is dropped, it ends.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    inbox: mpsc::Sender<Vec<Submission>>,
    shared: Arc<Shared>,
    options: EngineOptions,
    limits: Limits,
}

impl EngineHandle {
    /// Starts the engine thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        backend: Box<dyn Backend>,
        options: EngineOptions,
        meters: Meters,
        name: &str,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            beat_ms: AtomicU64::new(0),
            is_dead: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            running: AtomicU32::new(0),
            blocks_used: AtomicU32::new(0),
            sequence_ms: AtomicU64::new(1000),
        });
        let limits = backend.limits().clone();
        // Unbounded in type, bounded by `waiting`, which is raised before anything is sent.
        let (inbox, submissions) = mpsc::channel();
        let handle = Self { inbox, shared: Arc::clone(&shared), options: options.clone(), limits };
        std::thread::Builder::new()
            .name(format!("engine-{name}"))
            .spawn(move || thread::run(backend, &options, submissions, &shared, &meters))?;
        Ok(handle)
    }

    /// Queues the sequences of one request, all or none.
    ///
    /// # Errors
    /// A full queue, or an engine that has ended.
    pub fn submit(&self, sequences: Vec<Submission>) -> Result<(), SubmitError> {
        let count = u32::try_from(sequences.len()).unwrap_or(u32::MAX);
        let queue_max = u32::try_from(self.options.queue_max).unwrap_or(u32::MAX);
        let raised = self.shared.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            // A request larger than the queue is taken when nobody waits, or it never could be.
            (waiting == 0 || waiting.saturating_add(count) <= queue_max).then_some(waiting + count)
        });
        match raised {
            Err(waiting) => Err(SubmitError::Full { waiting, retry_after: self.retry_after(waiting) }),
            Ok(_) if self.shared.is_dead.load(Ordering::Acquire) => Err(SubmitError::Ended),
            Ok(_) => self.inbox.send(sequences).map_err(|_| SubmitError::Ended),
        }
    }

    /// When a place in the queue is likely: how long the waiting take at the recent pace.
    fn retry_after(&self, waiting: u32) -> Duration {
        let pace_ms = self.shared.sequence_ms.load(Ordering::Relaxed);
        let seats = self.options.max_num_seqs.max(1) as u64;
        Duration::from_millis((u64::from(waiting) * pace_ms / seats).clamp(1_000, 60_000))
    }

    /// How busy the engine is.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            running: self.shared.running.load(Ordering::Relaxed),
            kv_blocks_used: self.shared.blocks_used.load(Ordering::Relaxed),
            kv_blocks_total: u32::try_from(self.limits.kv_blocks).unwrap_or(u32::MAX),
        }
    }

    /// How long ago the engine thread last showed life; `None` when it has ended. Waiting for work
    /// counts as life; a step that does not end does not.
    #[must_use]
    pub fn since_beat(&self) -> Option<Duration> {
        if self.shared.is_dead.load(Ordering::Acquire) {
            return None;
        }
        let beat = Duration::from_millis(self.shared.beat_ms.load(Ordering::Relaxed));
        Some(self.shared.begun.elapsed().saturating_sub(beat))
    }

    /// The longest sequence, prompt and completion together.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.options.max_model_len
    }

    /// What the backend was sized for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
