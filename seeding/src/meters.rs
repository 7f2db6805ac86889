//! The metrics of seeding, labels resolved once.

use prometheus::{Gauge, IntCounter, IntCounterVec};
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of the metrics.
#[derive(Debug, Clone)]
pub(crate) struct Meters {
    pub(crate) sent_bytes: IntCounter,
    pub(crate) disk_reads: IntCounter,
    pub(crate) streams: Gauge,
    pub(crate) queue: Gauge,
    pub(crate) rate: Gauge,
    pub(crate) models: Gauge,
    pub(crate) harm: Gauge,
    requests: IntCounterVec,
}

impl Meters {
    pub(crate) fn new(registry: &Registry) -> Self {
        registry.begin(&names::SEEDING_REQUESTS, &[]);
        let gauge = |def| registry.gauge(def).with_label_values(&[] as &[&str]);
        let counter = |def| registry.counter(def).with_label_values(&[] as &[&str]);
        Self {
            sent_bytes: counter(&names::SEEDING_SENT_BYTES),
            disk_reads: counter(&names::SEEDING_DISK_READS),
            streams: gauge(&names::SEEDING_STREAMS),
            queue: gauge(&names::SEEDING_QUEUE_EXTENTS),
            rate: gauge(&names::SEEDING_RATE),
            models: gauge(&names::SEEDING_MODELS),
            harm: gauge(&names::SEEDING_HARM),
            requests: registry.counter(&names::SEEDING_REQUESTS),
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, status: u16) {
        self.requests.with_label_values(&[&status.to_string()]).inc();
    }
}

/// One more in a gauge while it lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
