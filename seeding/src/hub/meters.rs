//! The metrics of a node.

use prometheus::{Gauge, IntCounter, IntCounterVec};
use telemetry::metrics::Registry;
use telemetry::names;

/// The metrics of a node. Clones are of the same ones.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    requests: IntCounterVec,
    asked: IntCounterVec,
    fills: IntCounterVec,
    pub(super) bytes: IntCounter,
    pub(super) bodies: Gauge,
    pub(super) filling: Gauge,
    pub(super) open: Gauge,
    pub(super) rights: Gauge,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |def| registry.gauge(def).with_label_values(&[] as &[&str]);
        Self {
            requests: registry.counter(&names::NODE_REQUESTS),
            asked: registry.counter(&names::NODE_HUB_REQUESTS),
            fills: registry.counter(&names::NODE_FILLS),
            bytes: registry.counter(&names::NODE_BYTES).with_label_values(&[] as &[&str]),
            bodies: gauge(&names::NODE_BODIES),
            filling: gauge(&names::NODE_FILLING),
            open: gauge(&names::NODE_OPEN),
            rights: gauge(&names::NODE_RIGHTS),
        }
    }

    /// Counts a request by the kind of its call and the status of its answer.
    pub(super) fn request(&self, call: &str, status: u16) {
        self.requests.with_label_values(&[call, &status.to_string()]).inc();
    }

    /// Counts a question to the hub: `allowed`, `refused`, `away`, or `kept` where an earlier answer counted.
    pub(super) fn asked(&self, outcome: &str) {
        self.asked.with_label_values(&[outcome]).inc();
    }

    /// Counts the end of a fill: `done`, `failed` or `abandoned`.
    pub(super) fn filled(&self, outcome: &str) {
        self.fills.with_label_values(&[outcome]).inc();
    }
}

/// One of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
