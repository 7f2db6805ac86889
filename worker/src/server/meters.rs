//! Metrics of a model's requests, labels resolved once: vLLM's that the engine cannot know, since it knows sequences
//! alone.

use prometheus::{Histogram, IntCounter};
use telemetry::metrics::Registry;
use telemetry::names;

/// Handles of one model's metrics.
#[derive(Debug, Clone)]
pub(crate) struct RequestMeters {
    choices: Histogram,
    max_tokens: Histogram,
    longest: Histogram,
    embeddings: IntCounter,
}

impl RequestMeters {
    /// The metrics of `model` in `registry`.
    pub(crate) fn new(registry: &Registry, model: &str) -> Self {
        let histogram = |def| registry.histogram(def).with_label_values(&[model]);
        Self {
            choices: histogram(&names::VLLM_REQUEST_N),
            max_tokens: histogram(&names::VLLM_REQUEST_MAX_TOKENS),
            longest: histogram(&names::VLLM_REQUEST_MAX_GENERATION_TOKENS),
            embeddings: registry.counter(&names::WORKER_EMBEDDINGS).with_label_values(&[model]),
        }
    }

    /// Observes a prompt that the engine has taken.
    pub(super) fn asked(&self, choices: u32, max_tokens: usize) {
        self.choices.observe(f64::from(choices));
        self.max_tokens.observe(f64::from(u32::try_from(max_tokens).unwrap_or(u32::MAX)));
    }

    /// Counts embeddings that were answered.
    pub(super) fn embedded(&self, count: usize) {
        self.embeddings.inc_by(count as u64);
    }

    /// Observes a prompt whose choices have finished, the longest of them with so many tokens.
    pub(super) fn finished(&self, longest: u32) {
        self.longest.observe(f64::from(longest));
    }
}
