//! The metrics of fetching, and the counts that one load reports.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::clock::now;
use crate::region::Written;
use crate::source::Source;
use parking_lot::{Mutex, RwLock};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec};
use serde::Serialize;
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of the loader's metrics; clones share.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) bytes: IntCounterVec,
    origin_bytes: IntCounterVec,
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
    pub(super) dismissed: IntCounterVec,
    pub(super) neighbours: Gauge,
    pub(super) supply_state: Gauge,
    pub(super) ideal_ratio: Gauge,
    peers: PeerBytes,
}

/// Bytes by peer. Peers come and go, so only the first have a label of their own.
#[derive(Debug, Clone)]
struct PeerBytes {
    bytes: IntCounterVec,
    named: Arc<Mutex<BTreeSet<String>>>,
}

/// Peers with a label of their own.
const NAMED_MAX: usize = 64;

impl PeerBytes {
    fn of(&self, id: &str, is_near: bool) -> IntCounter {
        let mut named = self.named.lock();
        let has_label = named.contains(id) || (named.len() < NAMED_MAX && named.insert(id.to_owned()));
        let zone = if is_near { "near" } else { "far" };
        self.bytes.with_label_values(&[if has_label { id } else { "other" }, zone])
    }
}

impl Metrics {
    /// The metrics in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counter = |def| registry.counter(def).with_label_values::<&str>(&[]);
        let gauge = |def| registry.gauge(def).with_label_values::<&str>(&[]);
        Self {
            bytes: registry.counter(&names::LOADER_BYTES),
            origin_bytes: registry.counter(&names::LOADER_ORIGIN_BYTES),
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
            dismissed: registry.counter(&names::LOADER_PEERS_DISMISSED),
            neighbours: gauge(&names::LOADER_NEIGHBOURS),
            supply_state: gauge(&names::LOADER_SUPPLY_STATE_BYTES),
            ideal_ratio: gauge(&names::LOADER_IDEAL_RATIO),
            peers: PeerBytes { bytes: registry.counter(&names::LOADER_PEER_BYTES), named: Arc::default() },
        }
    }
}

impl Metrics {
    /// Counts weights that this machine had: in the `cache`, or `shared` with another revision.
    pub(crate) fn found(&self, from: &str, bytes: u64) {
        self.bytes.with_label_values(&[from]).inc_by(bytes);
    }
}

/// The counts of one load so far.
#[derive(Debug)]
pub(super) struct Tally {
    sources: RwLock<Vec<SourceTally>>,
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
    began: Instant,
}

/// The counts of one source.
#[derive(Debug)]
struct SourceTally {
    url: String,
    /// Counts the bytes of this peer, or of storage in this region.
    counter: IntCounter,
    /// Verified bytes.
    bytes: AtomicU64,
    /// Verified extents, or ends of them.
    extents: AtomicU64,
    /// Nanoseconds from the load's beginning to the first and the last verified extent.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    dismissed: OnceLock<&'static str>,
}

impl SourceTally {
    fn new(url: &str, counter: IntCounter) -> Self {
        Self {
            url: url.to_owned(),
            counter,
            bytes: AtomicU64::new(0),
            extents: AtomicU64::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
            dismissed: OnceLock::new(),
        }
    }

    fn report(&self) -> SourceReport {
        let seconds = |ns: &AtomicU64| Duration::from_nanos(get(ns)).as_secs_f64();
        let has_served = get(&self.extents) > 0;
        SourceReport {
            url: self.url.clone(),
            bytes: get(&self.bytes),
            extents: get(&self.extents),
            first_extent_s: has_served.then(|| seconds(&self.first_ns)),
            last_extent_s: has_served.then(|| seconds(&self.last_ns)),
            dismissed: self.dismissed.get().copied(),
        }
    }
}

/// The part of one source in a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// Its URL: `peer://ID` of a peer.
    pub url: String,
    /// Verified bytes that it brought.
    pub bytes: u64,
    /// Verified extents that it brought.
    pub extents: u64,
    /// Seconds from the first request of the load until its first extent was verified.
    pub first_extent_s: Option<f64>,
    /// The same of its last extent.
    pub last_extent_s: Option<f64>,
    /// Why nothing more was asked of it: `banned`, `failing` or `useless`.
    pub dismissed: Option<&'static str>,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics, sources: &[Arc<dyn Source>]) -> Self {
        let tally = |source: &Arc<dyn Source>| {
            let labels = [scheme(source.url()), source.region().unwrap_or("unknown")];
            SourceTally::new(source.url(), metrics.origin_bytes.with_label_values(&labels))
        };
        Self {
            sources: RwLock::new(sources.iter().map(tally).collect()),
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
            began: now(),
        }
    }

    /// Verified bytes came from a source.
    pub(super) fn verified(&self, source: usize, bytes: u64) {
        let sources = self.sources.read();
        let tally = &sources[source];
        let since = now().saturating_duration_since(self.began);
        let ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        add(&tally.bytes, bytes);
        tally.counter.inc_by(bytes);
        add(&tally.extents, 1);
        tally.first_ns.fetch_min(ns, Ordering::Relaxed);
        tally.last_ns.fetch_max(ns, Ordering::Relaxed);
        // Its URL's scheme, of which there are few.
        self.metrics.bytes.with_label_values(&[scheme(&tally.url)]).inc_by(bytes);
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
        self.sources.read().iter().map(|source| get(&source.bytes)).sum()
    }

    /// A peer is there.
    pub(super) fn join(&self, url: &str, is_near: bool) {
        let id = url.split_once("://").map_or(url, |(_, id)| id);
        let peer = self.metrics.peers.of(id, is_near);
        self.sources.write().push(SourceTally::new(url, peer));
    }

    /// So many peers are connected now, and were before.
    #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
    pub(super) fn neighbours(&self, before: usize, after: usize) {
        self.metrics.neighbours.add(after as f64 - before as f64);
    }

    /// The memory of what is known of extents, peers and members, in bytes: now, and before.
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    pub(super) fn supply_state(&self, before: usize, after: usize) {
        self.metrics.supply_state.add(after as f64 - before as f64);
    }

    /// The load took so many times the ideal.
    pub(super) fn ideal_ratio(&self, ratio: f64) {
        self.metrics.ideal_ratio.set(ratio);
    }

    /// Nothing more is asked of a peer: `banned`, `failing` or `useless`.
    pub(super) fn dismiss(&self, source: usize, reason: &'static str) {
        // The first reason is the one.
        let _ = self.sources.read()[source].dismissed.set(reason);
        self.metrics.dismissed.with_label_values(&[reason]).inc();
    }

    /// The part of each source.
    pub(super) fn sources(&self) -> Vec<SourceReport> {
        self.sources.read().iter().map(SourceTally::report).collect()
    }

    /// Verified bytes by source: its URL, and how many.
    pub(super) fn by_source(&self) -> Vec<(String, u64)> {
        self.sources.read().iter().map(|source| (source.url.clone(), get(&source.bytes))).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub(super) fn gauges(&self, in_flight: u64, concurrency: usize) {
        self.metrics.in_flight_bytes.set(in_flight as f64);
        self.metrics.concurrency.set(concurrency as f64);
    }
}

fn scheme(url: &str) -> &str {
    match url.split_once("://") {
        Some((scheme @ ("az" | "s3" | "gs" | "hf" | "https" | "http" | "file" | "peer"), _)) => scheme,
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
