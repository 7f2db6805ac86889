//! The metrics of fetching, and the counts that one load reports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::region::Written;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec};
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of the loader's metrics; clones share.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) bytes: IntCounterVec,
    pub(super) requests: IntCounterVec,
    pub(super) retries: IntCounter,
    pub(super) hedges: IntCounter,
    pub(super) hedged_bytes: IntCounter,
    pub(super) discarded_bytes: IntCounter,
    pub(super) stalls: IntCounter,
    pub(super) throttles: IntCounter,
    pub(super) corrupt_extents: IntCounter,
    pub(super) in_flight_bytes: Gauge,
    pub(super) concurrency: Gauge,
    pub(super) fetch_s: Histogram,
    pub(super) disk_wait_s: Histogram,
    pub(super) written: IntCounterVec,
}

impl Metrics {
    /// The metrics in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counter = |def| registry.counter(def).with_label_values::<&str>(&[]);
        let gauge = |def| registry.gauge(def).with_label_values::<&str>(&[]);
        Self {
            bytes: registry.counter(&names::LOADER_BYTES),
            requests: registry.counter(&names::LOADER_REQUESTS),
            retries: counter(&names::LOADER_RETRIES),
            hedges: counter(&names::LOADER_HEDGES),
            hedged_bytes: counter(&names::LOADER_HEDGED_BYTES),
            discarded_bytes: counter(&names::LOADER_DISCARDED_BYTES),
            stalls: counter(&names::LOADER_STALLS),
            throttles: counter(&names::LOADER_THROTTLES),
            corrupt_extents: counter(&names::LOADER_CORRUPT_EXTENTS),
            in_flight_bytes: gauge(&names::LOADER_IN_FLIGHT_BYTES),
            concurrency: gauge(&names::LOADER_CONCURRENCY),
            fetch_s: registry.histogram(&names::LOADER_FETCH_SECONDS).with_label_values::<&str>(&[]),
            disk_wait_s: registry.histogram(&names::LOADER_DISK_WAIT_SECONDS).with_label_values::<&str>(&[]),
            written: registry.counter(&names::LOADER_WRITTEN_BYTES),
        }
    }
}

/// The counts of one load so far.
#[derive(Debug)]
pub(super) struct Tally {
    /// Verified bytes by source.
    pub(super) bytes: Vec<AtomicU64>,
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) hedges: AtomicU64,
    pub(super) hedged_bytes: AtomicU64,
    pub(super) discarded_bytes: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) throttles: AtomicU64,
    pub(super) corrupt_extents: AtomicU64,
    pub(super) disk_wait_ns: AtomicU64,
    metrics: Metrics,
    /// The label of each source: its URL's scheme, a bounded set.
    schemes: Vec<String>,
}

impl Tally {
    pub(super) fn new<'a>(metrics: &Metrics, urls: impl Iterator<Item = &'a str>) -> Self {
        let schemes: Vec<String> = urls.map(|url| scheme(url).to_owned()).collect();
        Self {
            bytes: schemes.iter().map(|_| AtomicU64::new(0)).collect(),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            hedged_bytes: AtomicU64::new(0),
            discarded_bytes: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            throttles: AtomicU64::new(0),
            corrupt_extents: AtomicU64::new(0),
            disk_wait_ns: AtomicU64::new(0),
            metrics: metrics.clone(),
            schemes,
        }
    }

    /// Verified bytes came from a source.
    pub(super) fn verified(&self, source: usize, bytes: u64) {
        add(&self.bytes[source], bytes);
        self.metrics.bytes.with_label_values(&[&self.schemes[source]]).inc_by(bytes);
    }

    /// A request ended: `ok`, `failed`, `throttled`, `stalled`, `corrupt` or `overtaken`.
    pub(super) fn request(&self, outcome: &str) {
        add(&self.requests, 1);
        self.metrics.requests.with_label_values(&[outcome]).inc();
        match outcome {
            "throttled" => count(&self.throttles, &self.metrics.throttles, 1),
            "stalled" => count(&self.stalls, &self.metrics.stalls, 1),
            "corrupt" => count(&self.corrupt_extents, &self.metrics.corrupt_extents, 1),
            _ => {}
        }
    }

    pub(super) fn retry(&self) {
        count(&self.retries, &self.metrics.retries, 1);
    }

    pub(super) fn hedge(&self) {
        count(&self.hedges, &self.metrics.hedges, 1);
    }

    /// Bytes that a hedge brought, used or not.
    pub(super) fn hedged(&self, bytes: u64) {
        count(&self.hedged_bytes, &self.metrics.hedged_bytes, bytes);
    }

    /// Bytes that came and were thrown away.
    pub(super) fn discarded(&self, bytes: u64) {
        count(&self.discarded_bytes, &self.metrics.discarded_bytes, bytes);
    }

    /// A fetch is complete, this long after it was begun.
    pub(super) fn fetched(&self, seconds: f64) {
        self.metrics.fetch_s.observe(seconds);
    }

    /// A request has waited so long for the disk; not at all where nothing is written.
    pub(super) fn disk_waited(&self, waited: Duration) {
        if !waited.is_zero() {
            add(&self.disk_wait_ns, u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
            self.metrics.disk_wait_s.observe(waited.as_secs_f64());
        }
    }

    /// Files were written.
    pub(super) fn written(&self, written: Written) {
        for (how, bytes) in [("direct", written.direct_bytes), ("page_cache", written.cached_bytes)] {
            if bytes > 0 {
                self.metrics.written.with_label_values(&[how]).inc_by(bytes);
            }
        }
    }

    pub(super) fn bytes_done(&self) -> u64 {
        self.bytes.iter().map(get).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(super) fn gauges(&self, in_flight: u64, concurrency: usize) {
        self.metrics.in_flight_bytes.set(in_flight as f64);
        self.metrics.concurrency.set(concurrency as f64);
    }
}

fn scheme(url: &str) -> &str {
    match url.split_once("://") {
        Some((scheme @ ("az" | "s3" | "gs" | "hf" | "https" | "http" | "file"), _)) => scheme,
        _ => "other",
    }
}

fn count(own: &AtomicU64, meter: &IntCounter, by: u64) {
    add(own, by);
    meter.inc_by(by);
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
