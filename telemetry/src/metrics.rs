//! Metrics: definitions are data (`names`), values live in a `Registry` per process role.
//!
//! A thin layer over the `prometheus` crate. OpenTelemetry's own exporter drops names with a
//! colon, and vLLM's names have one; see docs/decisions.

use crate::names;
use crate::process::ProcessCollector;
use crate::trace::ExportCollector;
use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The content type of `Registry::render`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The definition of a metric.
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
    /// The values of the one label, where they are few and known.
    pub values: &'static [&'static str],
}

/// The kind of a metric.
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
        Self { name, help, labels, kind: Kind::Counter, values: &[] }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, kind: Kind::Gauge, values: &[] }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        edges: &'static [f64],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(edges), values: &[] }
    }
}

impl Def {
    /// The same, with the values that its one label takes.
    #[must_use]
    pub const fn of(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    /// The label values that are there from the start.
    fn first_values(&self) -> Vec<Vec<&'static str>> {
        match self.labels {
            [] => vec![Vec::new()],
            [_] => self.values.iter().map(|value| vec![*value]).collect(),
            _ => Vec::new(),
        }
    }
}

/// Upper edges, in seconds, for the time to the first token: OpenTelemetry's GenAI conventions,
/// and beyond, as vLLM: prompts wait for minutes where a queue is long.
pub const TTFT_EDGES_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 320.0, 640.0, 1280.0,
];
/// Upper edges, in seconds, for the time per token (OpenTelemetry's GenAI conventions, with two finer ones, and vLLM's
/// beyond).
pub const ITL_EDGES_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0,
];
/// Upper edges, in seconds, for what a turn of the engine takes beside the kernels: 3 % of steps of 1 ms to 1 s.
pub const STEP_OVERHEAD_EDGES_S: &[f64] =
    &[0.000_03, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
/// Upper edges, in seconds, for whole requests: OpenTelemetry's GenAI conventions, and as many again doubled.
pub const REQUEST_EDGES_S: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72,
];
/// Upper edges for numbers of tokens (vLLM's, up to the longest contexts).
pub const TOKENS_EDGES: &[f64] = &[
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
];

#[derive(Debug, Clone)]
enum Metric {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

/// The metrics of a process: of one role, or of several that share it. Clones share.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: prometheus::Registry,
    metrics: Arc<Mutex<BTreeMap<&'static str, Metric>>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// One with the facts of the process and its build, and nothing else.
    ///
    /// # Panics
    /// Where a name of theirs is malformed: a bug in `names`.
    #[must_use]
    pub fn new() -> Self {
        let registry = Self { inner: prometheus::Registry::new(), metrics: Arc::default() };
        registry.collect(ProcessCollector::new());
        registry.collect(ExportCollector::new());
        registry.gauge(&names::BUILD_INFO).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry
    }

    fn collect(&self, made: prometheus::Result<impl Collector + 'static>) {
        let registered = made.and_then(|collector| self.inner.register(Box::new(collector)));
        registered.unwrap_or_else(|cause| panic!("a metric of the process: {cause}"));
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
        // What has no labels, or labels of few known values, is there from the start: who asks for a rate finds 0.
        let values = def.first_values();
        match def.kind {
            Kind::Counter => {
                let counter = self.register(def, IntCounterVec::new(opts, def.labels));
                values.iter().for_each(|values| drop(counter.with_label_values(values)));
                Metric::Counter(counter)
            }
            Kind::Gauge => {
                let gauge = self.register(def, GaugeVec::new(opts, def.labels));
                values.iter().for_each(|values| drop(gauge.with_label_values(values)));
                Metric::Gauge(gauge)
            }
            Kind::Histogram(edges) => {
                let opts = HistogramOpts::from(opts).buckets(edges.to_vec());
                let histogram = self.register(def, HistogramVec::new(opts, def.labels));
                values.iter().for_each(|values| drop(histogram.with_label_values(values)));
                Metric::Histogram(histogram)
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
    fn counters_are_there_from_the_start() {
        const ALONE: Def = Def::counter("forebay_alone_total", "Alone", &[]);
        const BY_REASON: Def = Def::counter("forebay_by_reason_total", "By reason", &["reason"]).of(&["a", "b"]);
        let registry = Registry::new();
        let _ = (registry.counter(&ALONE), registry.counter(&BY_REASON));
        let text = registry.render();
        for line in ["forebay_alone_total 0", "forebay_by_reason_total{reason=\"a\"} 0", "reason=\"b\"} 0"] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn every_process_tells_of_itself_and_its_build() {
        let text = Registry::new().render();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
            "forebay_build_info{version=",
            "forebay_telemetry_spans_total{outcome=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
        }
    }

    #[test]
    fn times_are_told_apart_up_to_a_quarter_of_an_hour() {
        for edges in [TTFT_EDGES_S, REQUEST_EDGES_S] {
            assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(edges.last().is_some_and(|last| *last > 1_000.0));
        }
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
