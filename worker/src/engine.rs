//! The engine: one thread that owns the backend and turns submissions into tokens.
//!
//! A step is planned, launched, collected and applied. All but computing is the `core`, which is pure: its scheduler, KV
//! blocks, prefix cache and sequences know no clock, no thread and no channel; `thread` wraps clock, backend and
//! channels around it. Tokens go out over a bounded channel per request. A slow reader pauses its own sequences and
//! nobody else's; one that is gone frees them within a step. The engine knows token ids only: no text, no HTTP.
//!
//! Weights may arrive while it works, and may be replaced between two steps ([`EngineHandle::install`]): a sequence
//! keeps to the generation of weights it was admitted under, and an old one is freed with its last sequence.

mod activity;
mod admission;
mod attempt;
mod blocks;
mod capacity;
mod core;
mod events;
mod flight;
mod guide;
mod message;
mod meters;
mod options;
mod order;
mod prefix;
mod reader;
mod recorder;
mod scheduler;
mod sequence;
mod shared;
mod state;
mod thread;

pub use activity::{Activity, Stage, Wedge};
pub use capacity::Misfit;
pub(crate) use events::{KvChange, KvChangesRead};
pub use flight::Flight;
pub use guide::Guide;
pub use meters::Meters;
pub use options::{BesideDecodes, EngineOptions, FaultOptions};
pub use prefix::{BlockName, CacheSalt, Identity};
pub use recorder::StepRecord;
pub use sequence::{Cancel, Event, FinishReason, Pooled, SequenceParams, Submission};

use capacity::Capacity;
use compute::backend::{Backend, Generation, InstallError, Limits, Part, Prepared};
use message::Message;
use shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;
use wire::status::Load;

/// Errors of a submission.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue is full: {waiting} sequences wait")]
    Full {
        /// Number of waiting sequences.
        waiting: u32,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// One request has more sequences than ever fit.
    #[error("the request has {sequences} sequences and at most {most} are taken at a time; lower `n` or split it")]
    TooMany {
        /// Number of its sequences.
        sequences: usize,
        /// The most that are taken.
        most: usize,
    },
    /// One of its sequences could never be computed.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The engine has ended: a panic in a step, or the process is going.
    #[error("the engine has ended")]
    Ended,
    /// The model's weights did not all arrive.
    #[error("{0}")]
    NoWeights(String),
}

/// Errors of swapping weights. The engine goes on with those it has.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SwapError {
    /// The backend refused.
    #[error(transparent)]
    Refused(#[from] InstallError),
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// Handle to an engine. Clones share it; it ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    inbox: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    options: EngineOptions,
    limits: Limits,
    capacity: Capacity,
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
        let shared = Arc::new(Shared::new(name, options.faults.recorder_bytes));
        let limits = backend.limits().clone();
        // Unbounded in type, bounded by `waiting`, which is raised before anything is sent.
        let (inbox, submissions) = mpsc::channel();
        let capacity = Capacity::of(&limits, &options);
        let handle = Self { inbox, shared: Arc::clone(&shared), options: options.clone(), limits, capacity };
        std::thread::Builder::new()
            .name(format!("engine-{name}"))
            .spawn(move || thread::run(backend, &options, submissions, &shared, &meters))?;
        Ok(handle)
    }

    /// Queues the sequences of one request, all or none.
    ///
    /// # Errors
    /// A sequence that could never be computed, more of them than are ever taken, a full queue, or an engine that has
    /// ended.
    pub fn submit(&self, sequences: Vec<Submission>) -> Result<(), SubmitError> {
        if let Some(why) = self.shared.fault() {
            return Err(SubmitError::NoWeights(why.into()));
        }
        sequences.iter().try_for_each(|sequence| self.check(&sequence.prompt))?;
        let most = self.options.queue_max.max(self.options.max_num_seqs);
        if sequences.len() > most {
            return Err(SubmitError::TooMany { sequences: sequences.len(), most });
        }
        let count = u32::try_from(sequences.len()).unwrap_or(u32::MAX);
        let queue_max = u32::try_from(self.options.queue_max).unwrap_or(u32::MAX);
        let raised = self.shared.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            // With nobody waiting, a request may have a sequence for each seat although the queue is shorter.
            let total = waiting.saturating_add(count);
            (waiting == 0 || total <= queue_max).then_some(total)
        });
        match raised {
            Err(waiting) => Err(SubmitError::Full { waiting, retry_after: self.retry_after(waiting) }),
            Ok(_) if self.shared.is_dead.load(Ordering::Acquire) => Err(SubmitError::Ended),
            Ok(_) => self.inbox.send(Message::Submit(sequences)).map_err(|_| SubmitError::Ended),
        }
    }

    /// Checks a prompt against the bounds that no waiting changes.
    fn check(&self, prompt: &[u32]) -> Result<(), Misfit> {
        self.capacity.check(prompt.len())?;
        let vocabulary = self.limits.vocab_size;
        match prompt.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Misfit::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Installs other weights between two steps. Sequences admitted from then on use them; those
    /// under way keep what they began with.
    ///
    /// # Errors
    /// The backend refuses, or the engine has ended.
    pub async fn install(&self, weights: Arc<dyn Prepared>) -> Result<Generation, SwapError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Message::Install(weights, reply)).map_err(|_| SwapError::Ended)?;
        Ok(answer.await.map_err(|_| SwapError::Ended)??)
    }

    /// Publishes the blocks of a generation of weights from now on, by names that are rooted in its identity. A second
    /// identity of one generation takes the names of the first back.
    pub fn identify(&self, generation: Generation, identity: Identity) {
        // An engine that has ended publishes nothing.
        let _ = self.inbox.send(Message::Identify(generation, identity));
    }

    /// The identity of the newest weights, once it is known.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.shared.identity()
    }

    /// Waits until no sequence uses weights older than `generation`, and they are let go.
    pub async fn drained(&self, generation: Generation) {
        let mut oldest = self.shared.oldest();
        // The sender lives as long as `shared`.
        let _ = oldest.wait_for(|oldest| *oldest >= generation).await;
    }

    /// The part of the model that the current step waits for, if its weights have not arrived.
    #[must_use]
    pub fn waiting_for(&self) -> Option<Part> {
        self.shared.waiting_for()
    }

    /// The reason that the model cannot compute: its weights did not all arrive.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.shared.fault()
    }

    /// When a place in the queue is likely: how long the waiting take at the recent pace.
    fn retry_after(&self, waiting: u32) -> Duration {
        let pace_ms = self.shared.sequence_ms.load(Ordering::Relaxed);
        let seats = self.options.max_num_seqs.max(1) as u64;
        Duration::from_millis((u64::from(waiting) * pace_ms / seats).clamp(1_000, 60_000))
    }

    /// The current load.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            running: self.shared.running.load(Ordering::Relaxed),
            kv_blocks_used: self.shared.blocks_used.load(Ordering::Relaxed),
            kv_blocks_total: u32::try_from(self.limits.kv_blocks).unwrap_or(u32::MAX),
        }
    }

    /// Changes of the prefix cache from number `from` on, at most `most` of them.
    #[must_use]
    pub(crate) fn kv_changes(&self, from: u64, most: usize) -> KvChangesRead {
        self.shared.kv_changes.read(from, most)
    }

    /// Time since the engine thread's last sign of life; `None` when it has ended. Waiting for work
    /// or for weights counts as life; a step that does not end does not.
    #[must_use]
    pub fn since_beat(&self) -> Option<Duration> {
        self.shared.since_beat()
    }

    /// True if a sequence's priority counts.
    #[must_use]
    pub(crate) fn has_priorities(&self) -> bool {
        self.options.priority_level.is_some()
    }

    /// The engine thread's activity, if it has shown no sign of life for `bound` or longer.
    #[must_use]
    pub fn wedge(&self, bound: Duration) -> Option<Wedge> {
        self.shared.wedge(bound)
    }

    /// The flight recorder's last `count` steps and what the thread is doing now.
    #[must_use]
    pub fn flight(&self, count: usize) -> Flight {
        self.shared.flight(count)
    }

    /// Puts the flight recorder into the log, and into a file where one is configured.
    pub(crate) fn dump(&self, cause: &str) {
        self.flight(usize::MAX).dump(cause, self.options.faults.recorder_dir.as_deref());
    }

    /// The longest sequence, prompt and completion together: what was asked for, or less where the backend holds less.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.capacity.positions
    }

    /// The backend's limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
