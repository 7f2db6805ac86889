//! What a worker says of itself on `GET /status`: one JSON snapshot.
//!
//! The router reads it to know which models a worker has and how loaded it is; people read it
//! with `curl`. Unknown fields are tolerated, so that workers and routers may differ in version.

use serde::{Deserialize, Serialize};

/// One snapshot of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The release that runs, e.g. `0.1.0`.
    pub version: String,
    /// Whether new requests are accepted: every model ready and no drain under way.
    pub ready: bool,
    /// Whether the worker is finishing its streams before it exits.
    pub draining: bool,
    /// The models it serves.
    pub models: Vec<ModelStatus>,
}

/// One model of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The name requests use.
    pub id: String,
    /// What it is doing.
    pub state: ModelState,
    /// How its weights were proven: `proven`, `pinned` or `trusted`.
    pub proof: String,
    /// Unix seconds of when it became ready.
    pub created_unix_s: u64,
    /// Bytes of weights that are mapped.
    pub weights_bytes: u64,
    /// Milliseconds that opening and validating the weights took.
    pub weights_open_ms: f64,
    /// Milliseconds from the start of the load until the model was ready.
    pub ready_after_ms: f64,
    /// The longest sequence, prompt and completion together, in tokens.
    pub max_model_len: u32,
    /// The queue and KV use right now.
    pub load: Load,
}

/// A model's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Weights or tokenizer are still being opened.
    Loading,
    /// Requests are answered.
    Ready,
    /// It cannot serve; the log says why.
    Failed,
}

/// How busy one model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Sequences admitted but not yet scheduled.
    pub waiting: u32,
    /// Sequences being generated.
    pub running: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
}

impl Load {
    /// The used share of the KV blocks, 0 to 1; 0 where there are none.
    #[must_use]
    pub fn kv_usage(&self) -> f64 {
        if self.kv_blocks_total == 0 {
            return 0.0;
        }
        f64::from(self.kv_blocks_used) / f64::from(self.kv_blocks_total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_peers_unknown_field_is_tolerated() {
        let json = r#"{"version":"9","ready":true,"draining":false,"models":[],"novelty":1}"#;
        let status: WorkerStatus = serde_json::from_str(json).expect("tolerant");
        assert!(status.ready && status.models.is_empty());
    }

    #[test]
    fn kv_usage_of_an_empty_cache_is_zero() {
        assert_eq!(Load::default().kv_usage(), 0.0);
    }
}
