//! What a worker is told at start.

use listen::ListenConfig;
use policy::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The process that computes. Every bound of the engine is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Where it listens. 8081, so that a router can have 8080 on the same machine.
    pub listen: ListenConfig,
    /// The key that requests must bring as a bearer token. A worker is unscreened and knows no
    /// tenants, so beyond loopback one is required.
    pub api_key: Option<Secret>,
    /// What computes. `cpu` reads the weights in place; `candle` is a slow f32 reference that
    /// copies them; `scripted` has none and invents text, for simulation.
    pub backend: BackendKind,
    /// Threads that compute; all the machine offers where absent.
    pub threads: Option<usize>,
    /// The longest sequence, prompt and completion together, in tokens; what model and KV cache
    /// allow where absent.
    pub max_model_len: Option<usize>,
    /// The most sequences generated at a time. 16: on CPUs a batch of that size still waits for
    /// memory rather than arithmetic, so it costs little more than one.
    pub max_num_seqs: usize,
    /// The most tokens one step computes. 512 keeps a step on a small model under about half a
    /// second on two cores, which is what a long prompt may delay a running stream by.
    pub max_num_batched_tokens: usize,
    /// Bytes of the KV cache, per model; derived from the sequences above, at most 4 GiB, where absent.
    pub kv_cache_bytes: Option<u64>,
    /// The format of keys and values. `auto` is f32 for models stored in f32 and f16 for others.
    pub kv_cache_dtype: KvCacheDtype,
    /// The most sequences that may wait for the engine; beyond it the answer is 503. 256 is some
    /// minutes of work for a CPU, and nobody waits longer.
    pub queue_max: usize,
    /// How long a stream's reader may read nothing before its sequences are ended, in milliseconds.
    pub reader_stall_ms: u64,
    /// How long one step may take before liveness fails, in milliseconds. A step of 512 tokens of
    /// an 8 B model takes some 20 s on two cores; a minute is a hang.
    pub liveness_timeout_ms: u64,
    /// With the `scripted` backend: how long a step takes, in milliseconds.
    pub scripted_step_ms: u64,
}

/// Where models come from and whom to believe about them: `[loader]` and `[trust]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StorageConfig {
    /// How models are loaded.
    pub loader: loader::LoaderConfig,
    /// Whose models are loaded.
    pub trust: policy::trust::TrustConfig,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Our kernels over mapped weights.
    Cpu,
    /// The portable f32 reference.
    Candle,
    /// No weights.
    Scripted,
}

/// The format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// f32 for models stored in f32, f16 for others.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, saturating.
    F16,
    /// 16 bits, the upper half of a binary32.
    Bf16,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 8081));
        Self {
            listen: ListenConfig { address, ..ListenConfig::default() },
            api_key: None,
            backend: BackendKind::Cpu,
            threads: None,
            max_model_len: None,
            max_num_seqs: 16,
            max_num_batched_tokens: 512,
            kv_cache_bytes: None,
            kv_cache_dtype: KvCacheDtype::Auto,
            queue_max: 256,
            reader_stall_ms: 60_000,
            liveness_timeout_ms: 60_000,
            scripted_step_ms: 5,
        }
    }
}

impl WorkerConfig {
    /// What is wrong with it, as `key: problem`; `None` where nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !self.listen.address.ip().is_loopback() && self.api_key.as_ref().is_none_or(|key| key.reveal().is_empty()) {
            let address = self.listen.address;
            return Some(format!(
                "worker.api_key: a worker is unscreened, so listening on {address}, beyond loopback, requires a key; \
                 set FOREBAY_WORKER__API_KEY, and router.worker_api_key on its router"
            ));
        }
        let sizes = [
            ("max_num_seqs", Some(self.max_num_seqs)),
            ("max_num_batched_tokens", Some(self.max_num_batched_tokens)),
            ("queue_max", Some(self.queue_max)),
            ("threads", self.threads),
            ("max_model_len", self.max_model_len),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == Some(0)) {
            return Some(format!("worker.{name}: must be at least 1"));
        }
        (self.max_num_batched_tokens < self.max_num_seqs).then(|| {
            format!(
                "worker.max_num_batched_tokens: {} is less than max_num_seqs, {}: some sequences would never have a turn",
                self.max_num_batched_tokens, self.max_num_seqs
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_a_key_is_required() {
        let mut config = WorkerConfig::default();
        assert_eq!(config.problem(), None);
        config.listen.address = SocketAddr::from(([0, 0, 0, 0], 8081));
        assert!(config.problem().expect("a problem").contains("worker.api_key"));
        config.api_key = Some(Secret::new("secret"));
        assert_eq!(config.problem(), None);
    }

    #[test]
    fn a_step_has_room_for_every_sequence() {
        let config = WorkerConfig { max_num_batched_tokens: 8, max_num_seqs: 9, ..WorkerConfig::default() };
        assert!(config.problem().expect("a problem").contains("worker.max_num_batched_tokens"));
    }
}
