//! Metrics: definitions are data (`names`), values live in a `Registry` per process role.
//!
//! A thin layer over the `prometheus` crate. OpenTelemetry's own exporter drops names with a
//! colon, and vLLM's names have one; see docs/decisions.

use crate::names;
use crate::process::ProcessCollector;
use crate::trace::ExportCollector;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::def::{Def, Kind};

/// The content type of `Registry::render`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone)]
enum Metric {
    Counter(IntCounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

impl Metric {
    fn begin(&self, series: &[Vec<&str>]) {
        for values in series {
            match self {
                Self::Counter(counter) => drop(counter.with_label_values(values)),
                Self::Gauge(gauge) => drop(gauge.with_label_values(values)),
                Self::Histogram(histogram) => drop(histogram.with_label_values(values)),
            }
        }
    }
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
        with_pythons_edges(out)
    }

    /// Makes the series of `def` whose labels but the last have the values `first`, at 0: alerts ask for rates, and a
    /// counter that appears with its first event hides that one.
    ///
    /// # Panics
    /// Where `def` is malformed: a bug in `names`.
    pub fn begin(&self, def: &Def, first: &[&str]) {
        self.metric(def).begin(&def.first_values(first));
    }

    fn metric(&self, def: &Def) -> Metric {
        self.metrics.lock().entry(def.name).or_insert_with(|| self.make(def)).clone()
    }

    fn make(&self, def: &Def) -> Metric {
        let mut opts = Opts::new(def.name, def.help);
        if def.name.starts_with(names::VLLM) {
            opts = opts.const_label("engine", ENGINE);
        }
        let metric = match def.kind {
            Kind::Counter => Metric::Counter(self.register(def, IntCounterVec::new(opts, def.labels))),
            Kind::Gauge => Metric::Gauge(self.register(def, GaugeVec::new(opts, def.labels))),
            Kind::Histogram(edges) => {
                let opts = HistogramOpts::from(opts).buckets(edges.to_vec());
                Metric::Histogram(self.register(def, HistogramVec::new(opts, def.labels)))
            }
        };
        metric.begin(&def.first_values(&[]));
        metric
    }

    fn register<C: Collector + Clone + 'static>(&self, def: &Def, made: prometheus::Result<C>) -> C {
        let metric = made.unwrap_or_else(|cause| panic!("the metric {}: {cause}", def.name));
        if let Err(cause) = self.inner.register(Box::new(metric.clone())) {
            panic!("the metric {}: {cause}", def.name);
        }
        metric
    }
}

/// Writes whole edges of vLLM's histograms as Python does, `1.0` for 1: its dashboards select buckets by that text.
fn with_pythons_edges(text: String) -> String {
    const EDGE: &str = "le=\"";
    if !text.contains(names::VLLM) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive('\n') {
        let edge = line.starts_with(names::VLLM).then(|| line.find(EDGE)).flatten().map(|at| at + EDGE.len());
        let end = edge.and_then(|from| Some(from + line[from..].find('"')?));
        match (edge, end) {
            (Some(from), Some(end)) if line[from..end].bytes().all(|byte| byte.is_ascii_digit()) => {
                out.extend([&line[..end], ".0", &line[end..]]);
            }
            _ => out.push_str(line),
        }
    }
    out
}

/// The label `engine` of its series: the number of an engine of the process.
const ENGINE: &str = "0";

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
        assert!(registry.render().contains("vllm:test_total{engine=\"0\",model=\"m\"} 2"), "{}", registry.render());
    }

    #[test]
    fn counters_are_there_from_the_start() {
        const ALONE: Def = Def::counter("forebay_alone_total", "Alone", &[]);
        const BY_REASON: Def = Def::counter("forebay_by_reason_total", "By reason", &["reason"]).of(&["a", "b"]);
        const BY_MODEL: Def = Def::counter("forebay_by_model_total", "By both", &["model", "reason"]).of(&["a", "b"]);
        let registry = Registry::new();
        let _ = (registry.counter(&ALONE), registry.counter(&BY_REASON));
        registry.begin(&BY_MODEL, &["m"]);
        let text = registry.render();
        for line in [
            "forebay_alone_total 0",
            "forebay_by_reason_total{reason=\"a\"} 0",
            "forebay_by_reason_total{reason=\"b\"} 0",
            "forebay_by_model_total{model=\"m\",reason=\"a\"} 0",
            "forebay_by_model_total{model=\"m\",reason=\"b\"} 0",
        ] {
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
    fn a_histogram_has_the_edges_of_its_definition() {
        let registry = Registry::new();
        registry.histogram(&TTFT).with_label_values::<&str>(&[]).observe(0.5);
        let text = registry.render();
        assert!(text.contains("forebay_test_seconds_bucket{le=\"0.1\"} 0"), "{text}");
        assert!(text.contains("forebay_test_seconds_bucket{le=\"1\"} 1"), "{text}");
    }

    #[test]
    fn edges_of_vllms_histograms_are_written_as_it_writes_them() {
        const VLLMS: Def = Def::histogram("vllm:test_seconds", "Time", &["model_name"], &[0.25, 1.0, 1_000_000.0]);
        let registry = Registry::new();
        registry.histogram(&VLLMS).with_label_values(&["le=\"5"]).observe(0.5);
        let text = registry.render();
        for (edge, count) in [("0.25", 0), ("1.0", 1), ("1000000.0", 1), ("+Inf", 1)] {
            let end = format!("le=\"{edge}\"}} {count}");
            assert!(
                text.lines().any(|line| line.starts_with("vllm:test_seconds_bucket{") && line.ends_with(&end)),
                "{text}"
            );
        }
    }
}
