//! The engine's metrics, labels resolved once.

use super::state::Life;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec};
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of one model's metrics: ours, and vLLM's names for the same facts.
#[derive(Debug, Clone)]
pub struct Meters {
    pub(super) waiting: [Gauge; 3],
    pub(super) running: [Gauge; 2],
    pub(super) kv_usage: [Gauge; 2],
    pub(super) ttft_s: [Histogram; 2],
    pub(super) itl_s: [Histogram; 3],
    e2e_s: [Histogram; 2],
    prefill_s: Histogram,
    decode_s: Histogram,
    inference_s: Histogram,
    pace_s: Histogram,
    generation_lengths: Histogram,
    pub(super) queue_s: [Histogram; 2],
    pub(super) prompt_lengths: Histogram,
    pub(super) prefill_lengths: Histogram,
    pub(super) step_tokens: Histogram,
    pub(super) step_s: Histogram,
    pub(super) overhead_s: Histogram,
    pub(super) cached_blocks: Gauge,
    pub(super) kv_events: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) prefix_queries: [IntCounter; 2],
    pub(super) prefix_hits: [IntCounter; 4],
    pub(super) prompt_tokens: [IntCounter; 2],
    pub(super) prompt_computed: [IntCounter; 1],
    pub(super) generation_tokens: [IntCounter; 2],
    pub(super) preemptions: [IntCounter; 2],
    pub(super) step_retries: IntCounter,
    pub(super) recorder_steps: Gauge,
    pub(super) corrupted: IntCounter,
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
        let by_source =
            |source| registry.counter(&names::VLLM_PROMPT_TOKENS_BY_SOURCE).with_label_values(&[model, source]);
        for def in [
            &names::WORKER_STEP_FAULTS,
            &names::WORKER_FINISHED,
            &names::VLLM_SUCCESS,
            &names::VLLM_PROMPT_TOKENS_BY_SOURCE,
            &names::VLLM_WAITING_BY_REASON,
            &names::VLLM_SLEEP,
            &names::VLLM_EXTERNAL_QUERIES,
            &names::VLLM_EXTERNAL_HITS,
        ] {
            registry.begin(def, &[model]);
        }
        registry.gauge(&names::VLLM_SLEEP).with_label_values(&[model, "awake"]).set(1.0);
        // Ours wait for a place or for KV blocks, and for nothing else.
        let for_room = registry.gauge(&names::VLLM_WAITING_BY_REASON).with_label_values(&[model, "capacity"]);
        Self {
            waiting: [gauge(&names::WORKER_WAITING), gauge(&names::VLLM_WAITING), for_room],
            running: [gauge(&names::WORKER_RUNNING), gauge(&names::VLLM_RUNNING)],
            kv_usage: [gauge(&names::WORKER_KV_USAGE), gauge(&names::VLLM_KV_USAGE)],
            ttft_s: [histogram(&names::WORKER_TTFT), histogram(&names::VLLM_TTFT)],
            itl_s: [histogram(&names::WORKER_ITL), histogram(&names::VLLM_ITL), histogram(&names::VLLM_TPOT)],
            e2e_s: [histogram(&names::WORKER_E2E), histogram(&names::VLLM_E2E)],
            prefill_s: histogram(&names::VLLM_PREFILL_TIME),
            decode_s: histogram(&names::VLLM_DECODE_TIME),
            inference_s: histogram(&names::VLLM_INFERENCE_TIME),
            pace_s: histogram(&names::VLLM_REQUEST_TPOT),
            generation_lengths: histogram(&names::VLLM_REQUEST_GENERATION_TOKENS),
            queue_s: [histogram(&names::WORKER_QUEUE_TIME), histogram(&names::VLLM_QUEUE_TIME)],
            prompt_lengths: histogram(&names::VLLM_REQUEST_PROMPT_TOKENS),
            prefill_lengths: histogram(&names::VLLM_REQUEST_PREFILL_TOKENS),
            step_tokens: histogram(&names::VLLM_ITERATION_TOKENS),
            step_s: histogram(&names::WORKER_STEP),
            overhead_s: histogram(&names::WORKER_STEP_OVERHEAD),
            cached_blocks: gauge(&names::WORKER_PREFIX_BLOCKS),
            kv_events: gauge(&names::WORKER_KV_EVENTS),
            in_flight: gauge(&names::WORKER_STEPS_IN_FLIGHT),
            prefix_queries: [counter(&names::WORKER_PREFIX_QUERIES), counter(&names::VLLM_PREFIX_QUERIES)],
            prefix_hits: [
                counter(&names::WORKER_PREFIX_HITS),
                counter(&names::VLLM_PREFIX_HITS),
                counter(&names::VLLM_PROMPT_TOKENS_CACHED),
                by_source("local_cache_hit"),
            ],
            prompt_computed: [by_source("local_compute")],
            prompt_tokens: [counter(&names::WORKER_PROMPT_TOKENS), counter(&names::VLLM_PROMPT_TOKENS)],
            generation_tokens: [counter(&names::WORKER_GENERATION_TOKENS), counter(&names::VLLM_GENERATION_TOKENS)],
            preemptions: [counter(&names::WORKER_PREEMPTIONS), counter(&names::VLLM_PREEMPTIONS)],
            step_retries: counter(&names::WORKER_STEP_RETRIES),
            recorder_steps: gauge(&names::WORKER_FLIGHT_RECORDER_STEPS),
            corrupted: counter(&names::VLLM_CORRUPTED),
            step_faults: registry.counter(&names::WORKER_STEP_FAULTS),
            finished: [registry.counter(&names::WORKER_FINISHED), registry.counter(&names::VLLM_SUCCESS)],
            model: model.into(),
        }
    }

    /// Counts a sequence that a fault of its own ended.
    pub(super) fn step_fault(&self, kind: &str) {
        self.step_faults.with_label_values(&[&self.model, kind]).inc();
    }

    /// Observes times and tokens of a sequence that finished.
    pub(super) fn lived(&self, life: Life) {
        observe(&self.e2e_s, life.total.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "numbers of tokens")]
        let generated = life.generated as f64;
        self.generation_lengths.observe(generated);
        let Some((prefill, decode)) = life.inference else { return };
        self.prefill_s.observe(prefill.as_secs_f64());
        self.decode_s.observe(decode.as_secs_f64());
        self.inference_s.observe((prefill + decode).as_secs_f64());
        if life.generated > 1 {
            self.pace_s.observe(decode.as_secs_f64() / (generated - 1.0));
        }
    }

    /// Counts an ended sequence: `stop`, `length`, `abort` or `error`.
    pub(super) fn finished(&self, reason: &str) {
        self.finished.iter().for_each(|counter| counter.with_label_values(&[&self.model, reason]).inc());
    }
}

pub(super) fn observe(all: &[Histogram], seconds: f64) {
    all.iter().for_each(|histogram| histogram.observe(seconds));
}

pub(super) fn set(all: &[Gauge], value: f64) {
    all.iter().for_each(|gauge| gauge.set(value));
}

pub(super) fn add(all: &[IntCounter], count: usize) {
    all.iter().for_each(|counter| counter.inc_by(count as u64));
}
