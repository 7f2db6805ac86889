//! The counts of a request, and the places it holds: both end when they are dropped.

use crate::observed::Observed;
use crate::outcome::Outcome;
use crate::worker::Worker;
use policy::AnnotateConfig;
use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use telemetry::metrics::Registry;
use telemetry::names;
use tokio::time::Instant;

/// The status noted for a client that left before its answer ended (nginx's convention).
pub(crate) const CLIENT_LEFT: u16 = 499;
/// The label of models that no worker has: clients must not be able to invent labels.
const OTHER_MODEL: &str = "other";

/// The router's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    ttft: HistogramVec,
    itl: HistogramVec,
    duration: HistogramVec,
    pub(crate) retries: IntCounterVec,
    pub(crate) budget_exhausted: IntCounter,
    worker_up: GaugeVec,
    worker_in_flight: GaugeVec,
    pub(crate) tries: IntCounterVec,
    probes: IntCounterVec,
    pub(crate) ejections: IntCounter,
    pub(crate) strikes: Gauge,
    pub(crate) upstream_errors: IntCounterVec,
    rejections: IntCounterVec,
    pub(crate) rewrites: IntCounter,
    pub(crate) annotations: IntCounterVec,
    pub(crate) wrong_key_addresses: Gauge,
    pub(crate) output_blocks: IntCounter,
    tokens: IntCounterVec,
}

impl Metrics {
    /// Labels of lists are there from the start.
    pub(crate) fn new(registry: &Registry, lists: &[AnnotateConfig]) -> Self {
        begin_lists(registry, lists);
        let alone = |def| registry.counter(def).with_label_values::<&str>(&[]);
        names::ROUTER_PROBES.values.iter().for_each(|outcome| registry.begin(&names::ROUTER_TRIES, &[outcome]));
        Self {
            requests: registry.counter(&names::ROUTER_REQUESTS),
            ttft: registry.histogram(&names::ROUTER_TTFT),
            itl: registry.histogram(&names::ROUTER_ITL),
            duration: registry.histogram(&names::ROUTER_DURATION),
            retries: registry.counter(&names::ROUTER_RETRIES),
            budget_exhausted: alone(&names::ROUTER_RETRY_BUDGET_EXHAUSTED),
            worker_up: registry.gauge(&names::ROUTER_WORKER_UP),
            worker_in_flight: registry.gauge(&names::ROUTER_WORKER_IN_FLIGHT),
            tries: registry.counter(&names::ROUTER_TRIES),
            probes: registry.counter(&names::ROUTER_PROBES),
            ejections: alone(&names::ROUTER_EJECTIONS),
            strikes: registry.gauge(&names::ROUTER_STRIKES).with_label_values::<&str>(&[]),
            upstream_errors: registry.counter(&names::ROUTER_UPSTREAM_ERRORS),
            rejections: registry.counter(&names::POLICY_REJECTIONS),
            rewrites: alone(&names::POLICY_REWRITES),
            annotations: registry.counter(&names::POLICY_ANNOTATIONS),
            wrong_key_addresses: registry.gauge(&names::POLICY_WRONG_KEY_ADDRESSES).with_label_values::<&str>(&[]),
            output_blocks: alone(&names::POLICY_OUTPUT_BLOCKS),
            tokens: registry.counter(&names::POLICY_TOKENS),
        }
    }

    /// Requests at a worker.
    pub(crate) fn worker_in_flight(&self, worker: &Worker) -> Gauge {
        self.worker_in_flight.with_label_values(&[worker.name.as_str()])
    }

    /// Drops the series of a worker that is gone for good.
    pub(crate) fn forget(&self, worker: &Worker) {
        // There may be none yet.
        let _ = self.worker_up.remove_label_values(&[worker.name.as_str()]);
        let _ = self.worker_in_flight.remove_label_values(&[worker.name.as_str()]);
    }

    /// Counts a request of our own, by its outcome.
    pub(crate) fn probe(&self, outcome: Outcome) {
        debug_assert!(names::ROUTER_PROBES.values.contains(&outcome.label()), "{outcome:?} is not in `names`");
        self.probes.with_label_values(&[outcome.label()]).inc();
    }

    /// True if a worker takes requests.
    pub(crate) fn worker_up(&self, worker: &Worker) -> Gauge {
        self.worker_up.with_label_values(&[worker.name.as_str()])
    }

    /// Counts a request that policy refused.
    pub(crate) fn rejection(&self, reason: &str) {
        debug_assert!(names::POLICY_REJECTIONS.values.contains(&reason), "{reason} is not in `names`");
        self.rejections.with_label_values(&[reason]).inc();
    }

    /// Counts the tokens of a request. Tenants are those of the configuration.
    pub(crate) fn tokens(&self, tenant: &str, prompt: u64, completion: u64) {
        for (kind, tokens) in [("prompt", prompt), ("completion", completion)] {
            if tokens > 0 {
                self.tokens.with_label_values(&[tenant, kind]).inc_by(tokens);
            }
        }
    }

    pub(crate) fn upstream_error(&self, kind: &str) {
        debug_assert!(names::ROUTER_UPSTREAM_ERRORS.values.contains(&kind), "{kind} is not in `names`");
        self.upstream_errors.with_label_values(&[kind]).inc();
    }
}

/// Makes the series of lists' labels.
pub(crate) fn begin_lists(registry: &Registry, lists: &[AnnotateConfig]) {
    lists.iter().for_each(|list| registry.begin(&names::POLICY_ANNOTATIONS, &[&list.label]));
}

/// One request's measurements; written down when it is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observed: Observed,
    model: String,
    code: u16,
    begun: Instant,
    last_text: Option<Instant>,
}

impl Meter {
    /// Begins with the request's arrival. Until `ended`, the client is taken to have left.
    pub(crate) fn begin(metrics: &Arc<Metrics>, observed: Observed) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            observed,
            model: OTHER_MODEL.into(),
            code: CLIENT_LEFT,
            begun: Instant::now(),
            last_text: None,
        }
    }

    /// Names the model; only one that a worker has.
    pub(crate) fn set_model(&mut self, model: &str) {
        self.observed.model(model);
        model.clone_into(&mut self.model);
    }

    /// Counts what went wrong at the worker, and notes it for the trace and the log.
    pub(crate) fn upstream_error(&mut self, kind: &'static str) {
        self.metrics.upstream_error(kind);
        self.observed.fault(kind);
    }

    /// Notes an event with text on its way to the client.
    pub(crate) fn text_sent(&mut self) {
        let now = Instant::now();
        let (histogram, since) = match self.last_text.replace(now) {
            None => (&self.metrics.ttft, self.begun),
            Some(last) => (&self.metrics.itl, last),
        };
        histogram.with_label_values(&[self.model.as_str()]).observe((now - since).as_secs_f64());
    }

    /// Notes how the request ended: the status the client got, or would have got had the answer
    /// not been under way.
    pub(crate) fn ended(&mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let model = self.model.as_str();
        self.metrics.requests.with_label_values(&[model, &self.code.to_string()]).inc();
        self.metrics.duration.with_label_values(&[model]).observe(self.begun.elapsed().as_secs_f64());
        self.observed.end(self.code);
    }
}

/// The bound on requests being answered.
#[derive(Debug)]
pub(crate) struct Slots {
    used: AtomicUsize,
    max: usize,
    gauge: Gauge,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(max: usize, registry: &Registry) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a bound far below 2^52")]
        let bound = max as f64;
        registry.gauge(&names::ROUTER_IN_FLIGHT_MAX).with_label_values::<&str>(&[]).set(bound);
        let gauge = registry.gauge(&names::ROUTER_IN_FLIGHT).with_label_values::<&str>(&[]);
        Self { used: AtomicUsize::new(0), max, gauge }
    }

    /// A place, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let more = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.gauge.inc();
        Some(Slot(Arc::clone(self)))
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}
