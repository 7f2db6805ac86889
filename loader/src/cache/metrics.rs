//! The cache's metrics.

use telemetry::metrics::Registry;
use telemetry::names;

/// Failures after which a load goes on without the cache or some of its promises, as a label.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    /// No room.
    Full,
    /// A journal could not be written: the load cannot be resumed later.
    Journal,
    /// Data could not be made durable.
    Sync,
}

/// The outcome of a lookup, as a label.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Hit,
    Resumed,
    Miss,
}

/// The cache's metrics. Nothing here happens more often than an extent lands.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        for def in [&names::LOADER_CACHE_LOOKUPS, &names::LOADER_CACHE_FAILURES, &names::LOADER_CACHE_EVICTIONS] {
            registry.begin(def, &[]);
        }
        Self { registry: registry.clone() }
    }

    pub(super) fn lookup(&self, outcome: Outcome) {
        let label = match outcome {
            Outcome::Hit => "hit",
            Outcome::Resumed => "resumed",
            Outcome::Miss => "miss",
        };
        self.registry.counter(&names::LOADER_CACHE_LOOKUPS).with_label_values(&[label]).inc();
    }

    pub(super) fn failure(&self, failure: Failure) {
        let label = match failure {
            Failure::Full => "full",
            Failure::Journal => "journal",
            Failure::Sync => "sync",
        };
        self.registry.counter(&names::LOADER_CACHE_FAILURES).with_label_values(&[label]).inc();
    }

    pub(super) fn evicted(&self) {
        self.registry.counter(&names::LOADER_CACHE_EVICTIONS).with_label_values::<&str>(&[]).inc();
    }

    /// Sets the bytes that the cache takes of the disk, and its quota (0: none).
    pub(super) fn size(&self, bytes: u64, quota: Option<u64>) {
        self.registry.gauge(&names::LOADER_CACHE_BYTES).with_label_values::<&str>(&[]).set(bytes as f64);
        let quota = quota.unwrap_or(0) as f64;
        self.registry.gauge(&names::LOADER_CACHE_QUOTA_BYTES).with_label_values::<&str>(&[]).set(quota);
    }

    /// Adds to (or takes from) the bytes that landed and are not durable yet.
    pub(super) fn unsynced(&self, change: f64) {
        self.registry.gauge(&names::LOADER_CACHE_UNSYNCED_BYTES).with_label_values::<&str>(&[]).add(change);
    }
}
