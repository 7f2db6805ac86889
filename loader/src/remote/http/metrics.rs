//! The metrics of the client's connections.

use prometheus::{Gauge, IntCounter};
use telemetry::metrics::Registry;
use telemetry::names;
use tokio::sync::OwnedSemaphorePermit;

/// Handles of the client's metrics.
#[derive(Clone)]
pub(super) struct Metrics {
    in_use: Gauge,
    pub(super) idle: Gauge,
    pub(super) made: IntCounter,
}

/// Leave to use one connection; it is counted as long as this lives.
pub(super) struct InUse {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let connections = registry.gauge(&names::LOADER_CONNECTIONS);
        Self {
            in_use: connections.with_label_values(&["in_use"]),
            idle: connections.with_label_values(&["idle"]),
            made: registry.counter(&names::LOADER_CONNECTIONS_MADE).with_label_values::<&str>(&[]),
        }
    }

    pub(super) fn in_use(&self, permit: OwnedSemaphorePermit) -> InUse {
        self.in_use.inc();
        InUse { gauge: self.in_use.clone(), _permit: permit }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
