//! Metrics: definitions are data (`names`), values live in a `Registry` per process role.
//!
//! A thin layer over the `prometheus` crate. OpenTelemetry's own exporter drops names with a
//! colon, and vLLM's names have one; see docs/decisions.

use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The content type of `Registry::render`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is called and means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Def {
    /// The full name, with its unit.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The labels' names. Their values must come from a bounded set.
    pub labels: &'static [&'static str],
    /// Counter, gauge or histogram.
    pub kind: Kind,
}

/// What kind of metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, with the upper edges of its buckets.
    Histogram(&'static [f64]),
}

impl Def {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Counter }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Gauge }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        edges: &'static [f64],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(edges) }
    }
}

/// Upper edges, in seconds, for the time to the first token (OpenTelemetry's GenAI conventions).
pub const TTFT_EDGES_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Upper edges, in seconds, for the time per token (OpenTelemetry's GenAI conventions, with two finer ones).
pub const ITL_EDGES_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Upper edges, in seconds, for what a turn of the engine takes beside the kernels: 3 % of steps of 1 ms to 1 s.
pub const STEP_OVERHEAD_EDGES_S: &[f64] =
    &[0.000_03, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
/// Upper edges, in seconds, for whole requests (OpenTelemetry's GenAI conventions).
pub const REQUEST_EDGES_S: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

#[derive(Debug, Clone)]
enum Metric {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

/// The metrics of one role (a router, a worker). Clones share.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: prometheus::Registry,
    metrics: Arc<Mutex<BTreeMap<&'static str, Metric>>>,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter `def` names, made at its first use.
    ///
    /// # Panics
    /// Where `def` is malformed or is another kind of metric: a bug in `names`.
    #[must_use]
    pub fn counter(&self, def: &Def) -> IntCounterVec {
        match self.metric(def) {
            Metric::Counter(counter) => counter,
            other => panic!("{} is not a counter but {other:?}", def.name),
        }
    }

    /// The gauge `def` names, made at its first use.
    ///
    /// # Panics
    /// Where `def` is malformed or is another kind of metric: a bug in `names`.
    #[must_use]
    pub fn gauge(&self, def: &Def) -> GaugeVec {
        match self.metric(def) {
            Metric::Gauge(gauge) => gauge,
            other => panic!("{} is not a gauge but {other:?}", def.name),
        }
    }

    /// The histogram `def` names, made at its first use.
    ///
    /// # Panics
    /// Where `def` is malformed or is another kind of metric: a bug in `names`.
    #[must_use]
    pub fn histogram(&self, def: &Def) -> HistogramVec {
        match self.metric(def) {
            Metric::Histogram(histogram) => histogram,
            other => panic!("{} is not a histogram but {other:?}", def.name),
        }
    }

    /// All metrics in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        if let Err(cause) = TextEncoder::new().encode_utf8(&self.inner.gather(), &mut out) {
            tracing::error!(%cause, "rendering metrics");
        }
        out
    }

    fn metric(&self, def: &Def) -> Metric {
        self.lock().entry(def.name).or_insert_with(|| self.make(def)).clone()
    }

    fn make(&self, def: &Def) -> Metric {
        let opts = Opts::new(def.name, def.help);
        match def.kind {
            Kind::Counter => Metric::Counter(self.register(def, IntCounterVec::new(opts, def.labels))),
            Kind::Gauge => Metric::Gauge(self.register(def, GaugeVec::new(opts, def.labels))),
            Kind::Histogram(edges) => {
                let opts = HistogramOpts::from(opts).buckets(edges.to_vec());
                Metric::Histogram(self.register(def, HistogramVec::new(opts, def.labels)))
            }
        }
    }

    fn register<C: Collector + Clone + 'static>(&self, def: &Def, made: prometheus::Result<C>) -> C {
        let metric = made.unwrap_or_else(|cause| panic!("the metric {}: {cause}", def.name));
        if let Err(cause) = self.inner.register(Box::new(metric.clone())) {
            panic!("the metric {}: {cause}", def.name);
        }
        metric
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Metric>> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: Def = Def::counter("vllm:test_total", "Requests", &["model"]);
    const TTFT: Def = Def::histogram("forebay_test_seconds", "Time", &[], &[0.1, 1.0]);

    #[test]
    fn a_name_with_a_colon_is_rendered_and_shared() {
        let registry = Registry::new();
        registry.counter(&REQUESTS).with_label_values(&["m"]).inc();
        registry.clone().counter(&REQUESTS).with_label_values(&["m"]).inc();
        assert!(registry.render().contains("vllm:test_total{model=\"m\"} 2"), "{}", registry.render());
    }

    #[test]
    fn a_histogram_has_the_edges_of_its_definition() {
        let registry = Registry::new();
        registry.histogram(&TTFT).with_label_values::<&str>(&[]).observe(0.5);
        let text = registry.render();
        assert!(text.contains("forebay_test_seconds_bucket{le=\"0.1\"} 0"), "{text}");
        assert!(text.contains("forebay_test_seconds_bucket{le=\"1\"} 1"), "{text}");
    }
}
