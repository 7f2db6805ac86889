//! The engine's metrics, labels resolved once.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec};
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of one model's metrics: ours, and vLLM's names for the same facts.
#[derive(Debug, Clone)]
pub struct Meters {
    pub(super) waiting: [Gauge; 2],
    pub(super) running: [Gauge; 2],
    pub(super) kv_usage: [Gauge; 2],
    pub(super) ttft_s: [Histogram; 2],
    pub(super) itl_s: [Histogram; 3],
    pub(super) e2e_s: [Histogram; 2],
    pub(super) queue_s: [Histogram; 2],
    pub(super) prompt_lengths: Histogram,
    pub(super) step_s: Histogram,
    pub(super) overhead_s: Histogram,
    pub(super) cached_blocks: Gauge,
    pub(super) kv_events: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) prefix_queries: [IntCounter; 2],
    pub(super) prefix_hits: [IntCounter; 2],
    pub(super) prompt_tokens: [IntCounter; 2],
    pub(super) generation_tokens: [IntCounter; 2],
    pub(super) preemptions: [IntCounter; 2],
    pub(super) step_retries: IntCounter,
    pub(super) recorder_steps: Gauge,
    step_faults: IntCounterVec,
    finished: [IntCounterVec; 2],
    model: String,
}

impl Meters {
    /// The metrics of `model` in `registry`.
    #[must_use]
    pub fn new(registry: &Registry, model: &str) -> Self {
        let gauge = |def| registry.gauge(def).with_label_values(&[model]);
        let counter = |def| registry.counter(def).with_label_values(&[model]);
        let histogram = |def| registry.histogram(def).with_label_values(&[model]);
        Self {
            waiting: [gauge(&names::WORKER_WAITING), gauge(&names::VLLM_WAITING)],
            running: [gauge(&names::WORKER_RUNNING), gauge(&names::VLLM_RUNNING)],
            kv_usage: [gauge(&names::WORKER_KV_USAGE), gauge(&names::VLLM_KV_USAGE)],
            ttft_s: [histogram(&names::WORKER_TTFT), histogram(&names::VLLM_TTFT)],
            itl_s: [histogram(&names::WORKER_ITL), histogram(&names::VLLM_ITL), histogram(&names::VLLM_TPOT)],
            e2e_s: [histogram(&names::WORKER_E2E), histogram(&names::VLLM_E2E)],
            queue_s: [histogram(&names::WORKER_QUEUE_TIME), histogram(&names::VLLM_QUEUE_TIME)],
            prompt_lengths: histogram(&names::VLLM_REQUEST_PROMPT_TOKENS),
            step_s: histogram(&names::WORKER_STEP),
            overhead_s: histogram(&names::WORKER_STEP_OVERHEAD),
            cached_blocks: gauge(&names::WORKER_PREFIX_BLOCKS),
            kv_events: gauge(&names::WORKER_KV_EVENTS),
            in_flight: gauge(&names::WORKER_STEPS_IN_FLIGHT),
            prefix_queries: [counter(&names::WORKER_PREFIX_QUERIES), counter(&names::VLLM_PREFIX_QUERIES)],
            prefix_hits: [counter(&names::WORKER_PREFIX_HITS), counter(&names::VLLM_PREFIX_HITS)],
            prompt_tokens: [counter(&names::WORKER_PROMPT_TOKENS), counter(&names::VLLM_PROMPT_TOKENS)],
            generation_tokens: [counter(&names::WORKER_GENERATION_TOKENS), counter(&names::VLLM_GENERATION_TOKENS)],
            preemptions: [counter(&names::WORKER_PREEMPTIONS), counter(&names::VLLM_PREEMPTIONS)],
            step_retries: counter(&names::WORKER_STEP_RETRIES),
            recorder_steps: gauge(&names::WORKER_FLIGHT_RECORDER_STEPS),
            step_faults: registry.counter(&names::WORKER_STEP_FAULTS),
            finished: [registry.counter(&names::WORKER_FINISHED), registry.counter(&names::VLLM_SUCCESS)],
            model: model.into(),
        }
    }

    /// Counts a sequence that a fault of its own ended.
    pub(super) fn step_fault(&self, kind: &str) {
        self.step_faults.with_label_values(&[&self.model, kind]).inc();
    }

    /// Counts an ended sequence: `stop`, `length`, `abort` or `error`.
    pub(super) fn finished(&self, reason: &str) {
        self.finished[0].with_label_values(&[&self.model, reason]).inc();
        // vLLM counts those it served to their end.
        if matches!(reason, "stop" | "length") {
            self.finished[1].with_label_values(&[&self.model, reason]).inc();
        }
    }
}

pub(super) fn observe(all: &[Histogram], seconds: f64) {
    all.iter().for_each(|histogram| histogram.observe(seconds));
}

pub(super) fn set(both: &[Gauge; 2], value: f64) {
    both.iter().for_each(|gauge| gauge.set(value));
}

pub(super) fn add(both: &[IntCounter; 2], count: usize) {
    both.iter().for_each(|counter| counter.inc_by(count as u64));
}
