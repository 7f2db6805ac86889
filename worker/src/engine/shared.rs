//! State shared by the engine thread and its handles: gauges, signs of life, and the last steps.

use super::activity::{Activity, Stage, Wedge};
use super::events::KvChanges;
use super::flight::Flight;
use super::prefix::Identity;
use super::recorder::{Recorder, StepRecord};
use compute::backend::{Generation, Location, Part};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Written by the engine thread (and `waiting` by those who submit), read by anybody.
#[derive(Debug)]
pub(super) struct Shared {
    model: String,
    begun: Instant,
    begun_unix_ms: u64,
    beat_ms: AtomicU64,
    pub(super) is_dead: AtomicBool,
    pub(super) waiting: AtomicU32,
    pub(super) running: AtomicU32,
    pub(super) blocks_used: AtomicU32,
    /// Recent seconds per finished sequence × 1000, for `retry-after`.
    pub(super) sequence_ms: AtomicU64,
    /// Changes of the prefix cache.
    pub(super) kv_changes: KvChanges,
    waiting_for: Location,
    /// The part of the model that a step is at; written by the backend.
    pub(super) location: Arc<Location>,
    // Locks of a few nanoseconds: taken a few times a step, contended only while somebody looks.
    activity: Mutex<Activity>,
    recorder: Mutex<Recorder>,
    fault: OnceLock<String>,
    identity: Mutex<Option<Identity>>,
    oldest: watch::Sender<Generation>,
}

impl Shared {
    pub(super) fn new(model: &str, recorder_bytes: usize) -> Self {
        Self {
            model: model.to_owned(),
            begun: Instant::now(),
            begun_unix_ms: milliseconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            beat_ms: AtomicU64::new(0),
            is_dead: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            running: AtomicU32::new(0),
            blocks_used: AtomicU32::new(0),
            sequence_ms: AtomicU64::new(1000),
            kv_changes: KvChanges::default(),
            waiting_for: Location::default(),
            location: Arc::default(),
            activity: Mutex::default(),
            recorder: Mutex::new(Recorder::new(recorder_bytes)),
            fault: OnceLock::new(),
            identity: Mutex::default(),
            oldest: watch::Sender::new(Generation::default()),
        }
    }

    /// Milliseconds since the engine started.
    pub(super) fn now_ms(&self) -> u64 {
        milliseconds(self.begun.elapsed())
    }

    /// Notes a sign of life.
    pub(super) fn beat(&self) {
        self.beat_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Time since its last sign of life; `None` when it has ended.
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

    /// Notes what the engine thread does now.
    pub(super) fn set_activity(&self, doing: Activity) {
        *self.activity.lock() = doing;
    }

    /// The same, within the same step.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.activity.lock().stage = stage;
    }

    /// Its activity, if it has been silent for `bound` or longer.
    pub(super) fn wedge(&self, bound: Duration) -> Option<Wedge> {
        let silent = self.since_beat().filter(|silent| *silent >= bound)?;
        let since_unix_ms = self.begun_unix_ms + self.beat_ms.load(Ordering::Relaxed);
        Some(Wedge { activity: *self.activity.lock(), part: self.location.part(), silent, since_unix_ms })
    }

    /// Records a step; returns the number of steps kept.
    pub(super) fn record(&self, step: StepRecord) -> usize {
        let mut recorder = self.recorder.lock();
        recorder.push(step);
        recorder.len()
    }

    /// The recorder's last `count` steps.
    pub(super) fn flight(&self, count: usize) -> Flight {
        let (dropped, steps) = {
            let recorder = self.recorder.lock();
            (recorder.dropped(), recorder.last(count))
        };
        Flight {
            model: self.model.clone(),
            at_unix_ms: self.begun_unix_ms + self.now_ms(),
            began_unix_ms: self.begun_unix_ms,
            activity: *self.activity.lock(),
            part: self.location.part().map(|part| part.to_string()),
            silent_ms: self.since_beat().map(milliseconds),
            dropped,
            steps,
        }
    }

    /// Notes the part that the step waits for.
    pub(super) fn set_waiting_for(&self, part: Part) {
        self.waiting_for.enter(Some(part));
    }

    /// The step has left the model: it is at no part and waits for none.
    pub(super) fn leave_the_model(&self) {
        self.waiting_for.enter(None);
        self.location.enter(None);
    }

    /// The part that the step waits for.
    pub(super) fn waiting_for(&self) -> Option<Part> {
        self.waiting_for.part()
    }

    /// Notes that weights will not arrive; the first reason is the news.
    pub(super) fn set_fault(&self, why: &str) {
        let _ = self.fault.set(why.to_owned());
    }

    /// The reason that weights will not arrive.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Notes the identity of the newest weights, or that it is not known yet.
    pub(super) fn set_identity(&self, identity: Option<Identity>) {
        *self.identity.lock() = identity;
    }

    /// The identity of the newest weights, once it is known.
    pub(super) fn identity(&self) -> Option<Identity> {
        *self.identity.lock()
    }

    /// Notes the oldest generation in use.
    pub(super) fn set_oldest(&self, generation: Generation) {
        self.oldest.send_replace(generation);
    }

    /// The oldest generation in use.
    pub(super) fn oldest(&self) -> watch::Receiver<Generation> {
        self.oldest.subscribe()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
