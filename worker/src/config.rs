//! A worker's configuration.

pub use compute::{BackendKind, DeviceChoice, KvCacheDtype, Quantization};
use listen::ListenConfig;
use models::calls::Format;
use models::template::ChatTemplate;
use models::thoughts::Marks;
use policy::Secret;
use schemars::JsonSchema;
use seeding::SeedingConfig;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The process that computes. Every bound of the engine is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// The worker's address and bounds. 8081, so that a router can have 8080 on the same machine.
    pub listen: ListenConfig,
    /// The key that requests must bring as a bearer token. A worker is unscreened and knows no
    /// tenants, so beyond loopback one is required.
    pub api_key: Option<Secret>,
    /// The key that lets administrators in from other machines, for `/admin/…` and `/status`. Absent by default:
    /// then administration is for callers on the worker's own machine.
    pub admin_api_key: Option<Secret>,
    /// Write a line to the log when a request is over. On; `forebay serve` turns it off, since its router writes one.
    pub access_log: bool,
    /// Further names of the one model that is served, slashes and all, e.g. `org/name` (vLLM's `--served-model-name`).
    /// Requests may use them as they use its own, and `/v1/models` lists them.
    pub served_model_name: Vec<String>,
    /// The backend. `cpu` reads the weights in place; `candle` is a slow f32 reference that
    /// copies them; `scripted` has none and invents text, for simulation.
    pub backend: BackendKind,
    /// The device that computes the `cpu` backend's models: `cpu`; `cuda` or `cuda:N`, an NVIDIA GPU, with kernels of our own;
    /// `auto`, a GPU where there is one, else the CPU. `cpu`: the GPU's kernels have run on no device yet.
    pub device: DeviceChoice,
    /// The directory for kernels compiled for a GPU, which takes seconds at the first start. Where absent, the user's
    /// cache directory.
    pub kernel_cache_dir: Option<PathBuf>,
    /// Threads that compute; all the machine offers where absent.
    pub threads: Option<usize>,
    /// The longest sequence, prompt and completion together, in tokens; what model and KV cache
    /// allow where absent.
    pub max_model_len: Option<usize>,
    /// The most sequences generated at a time. 16: on CPUs a batch of that size still waits for
    /// memory rather than arithmetic, so it costs little more than one.
    pub max_num_seqs: usize,
    /// The most tokens one step computes. 512 keeps a step on a small model under some
    /// seconds on two cores, which is what a newcomer may wait for its turn.
    pub max_num_batched_tokens: usize,
    /// The most tokens of prompts in a step that also decodes: what arriving prompts may slow running streams by. The
    /// fewer, the smoother the streams and the slower batches fill. A token counts for more the deeper it is in its
    /// prompt, by the attention it costs. `evals/bench/engine/serve` measures it.
    pub max_prefill_tokens_beside_decodes: usize,
    /// The most of those for long prompts, together: 12 keep streams of a 0.6 B model on two cores at above half their
    /// pace beside an 8192-token prompt, which waits longer for it.
    pub max_long_prefill_tokens_beside_decodes: usize,
    /// A prompt with more tokens than this to compute is a long one.
    pub long_prefill_token_threshold: usize,
    /// Bytes of memory for the weights, activations and KV caches of all models together; what weights and activations
    /// leave is KV cache, to the block. Where absent, see `gpu_memory_utilization`.
    pub memory_bytes: Option<u64>,
    /// The same as a share of the machine's memory, or of the control group's, above 0 to 1 (vLLM's name; on CPUs,
    /// too). Where both are absent nothing is filled up, and more than the machine has is refused.
    pub gpu_memory_utilization: Option<f64>,
    /// Bytes of the KV cache, per model; what the budget above leaves where absent, or without a budget enough for
    /// the sequences above, at most 4 GiB.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Take the memory of the KV cache before the model is ready, rather than when it is first used: then
    /// the worker cannot run out of memory later, and refuses to start where there is too little. It takes half a
    /// second a GiB, more in a virtual machine whose host must find it first. Where absent: if somebody gave a size
    /// (`kv_cache_memory_bytes`, `memory_bytes`, `gpu_memory_utilization`), and not on a laptop where nobody did.
    pub kv_cache_populate: Option<bool>,
    /// The format of keys and values. `auto` is f32 for models stored in f32, bf16 for bf16 and Q8_0 models on CPUs that
    /// multiply bf16, and f16 for others.
    pub kv_cache_dtype: KvCacheDtype,
    /// The format that matrices stored in bf16, f16 or f32 are converted to at load (vLLM's name): `q8_0` is
    /// GGUF's blocks of 32 numbers, a binary16 scale and 32 signed bytes each; `q4_k` its blocks of 256 numbers of four bits
    /// (rows that are no whole ones become `q8_0`). Decoding then reads half as much, or little more than a quarter, and
    /// memory holds the copies beside the mapped file; `/status` says what was lost. Where absent, weights are
    /// computed with in place, as a GGUF file of Q8_0 always is.
    pub quantization: Option<Quantization>,
    /// The pace at which the weights of a trusted directory are hashed once it is served, in bytes a second, by a thread of
    /// the lowest priority: its KV blocks then have the names that all workers with the same weights use. 0 never hashes, and the names
    /// stay this process's own. 256 MiB: a hundredth of what a machine's memory gives, and a minute for 16 GB.
    pub hash_bytes_per_second: u64,
    /// Keep full KV blocks, and share them among requests that begin alike. On: it costs a hash per
    /// sixteen tokens.
    pub enable_prefix_caching: bool,
    /// The order of requests: `priority` is by their `priority`, lower first; `fcfs` is first come, first served,
    /// and a request with a priority is refused. `priority`, since requests without one are served as they come.
    pub scheduling_policy: SchedulingPolicy,
    /// The time waited that one level of priority is worth, in milliseconds: a request that has waited that much longer
    /// goes before one that is a level more urgent, so that none starves. 10 s is about an answer's length on CPUs.
    pub priority_level_ms: u64,
    /// The most sequences that may wait for the engine; beyond it the answer is 503. 256 is some
    /// minutes of work for a CPU, and nobody waits longer.
    pub queue_max: usize,
    /// The most sequences one request may ask for, prompts times `n`; at most `queue_max`. 64: the prompts that
    /// evaluation harnesses send at a time, and a quarter of the queue.
    pub request_sequences_max: usize,
    /// The largest answer that is not streamed, in bytes, by which log probabilities are refused beforehand. 16 MiB is
    /// what a router takes (`router.answer_bytes_max`).
    pub answer_bytes_max: usize,
    /// A tokenizer to use instead of the model's own (vLLM's name): a directory with the files that a model's has, or one
    /// file, `tokenizer.json`, `tekken.json` or `tokenizer.model`. A directory's chat template goes before the model's, too.
    pub tokenizer: Option<PathBuf>,
    /// A chat template to use instead of the model's own (vLLM's name): a file, or the template itself.
    pub chat_template: Option<String>,
    /// The format of a model's calls of tools (vLLM's name): `hermes` (Qwen, too), `llama3_json`, `pythonic`, `mistral`, `json`.
    /// Where absent, the one that its chat template was written for, plain JSON where it does not say.
    pub tool_call_parser: Option<String>,
    /// The marks around a model's thoughts (vLLM's name): `think` (`qwen3`, `deepseek_r1`), `mistral`, `seed_oss`; `none` leaves
    /// thoughts in the text. Where absent, those that its chat template writes.
    pub reasoning_parser: Option<String>,
    /// Compiled forms of answers (schemas, grammars, sets of tools) that a model keeps for requests that ask for the same,
    /// the latest ones; 0 keeps none. 64 are the applications of a day, at some 1 MB each.
    pub grammars_kept_max: usize,
    /// The interval of comments in a stream that has nothing to say yet, in milliseconds. 10 s: three of them within the
    /// 30 s after which a router takes a silent stream of ours for dead.
    pub comment_interval_ms: u64,
    /// The time for which a stream's reader may read nothing before its sequences are ended, in milliseconds.
    pub reader_stall_ms: u64,
    /// The time that one step may take before liveness fails, in milliseconds. A step of 512 tokens of
    /// an 8 B model takes some 20 s on two cores; a minute is a hang.
    pub liveness_timeout_ms: u64,
    /// The most further tries of a step that failed or panicked, made to find the one sequence at
    /// fault and spare the others. 64 find four of 256; a device that is gone fails fast.
    pub step_retries_max: usize,
    /// The most bytes of the flight recorder, per model: what the last steps were, for
    /// `/admin/flight-recorder` and `forebay support-bundle`. A step takes under a hundred bytes, so
    /// a mebibyte keeps minutes.
    pub flight_recorder_bytes: usize,
    /// The directory that the flight recorder is written to when a step hangs or panics: one file for each model and
    /// cause, the newest. Its last steps go to the log either way.
    pub flight_recorder_dir: Option<PathBuf>,
    /// With the `scripted` backend: how long a step takes, in milliseconds.
    pub scripted_step_ms: u64,
    /// Weights for peers.
    pub peers: SeedingConfig,
}

/// The sources of models and the trust in them: `[loader]`, `[peers]` and `[trust]`.
#[derive(Debug, Clone, Default)]
pub struct StorageConfig {
    /// Loading of models.
    pub loader: loader::LoaderConfig,
    /// Trust in models.
    pub trust: policy::trust::TrustConfig,
    /// The peers to load from, if there are any.
    pub peers: Option<loader::peers::Peers>,
}

/// An order of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// First come, first served.
    Fcfs,
    /// By the requests' `priority`.
    Priority,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 8081));
        Self {
            listen: ListenConfig { address, ..ListenConfig::default() },
            api_key: None,
            admin_api_key: None,
            access_log: true,
            served_model_name: Vec::new(),
            backend: BackendKind::Cpu,
            device: DeviceChoice::Cpu,
            kernel_cache_dir: None,
            threads: None,
            max_model_len: None,
            max_num_seqs: 16,
            max_num_batched_tokens: 512,
            max_prefill_tokens_beside_decodes: 128,
            max_long_prefill_tokens_beside_decodes: 12,
            long_prefill_token_threshold: 1024,
            memory_bytes: None,
            gpu_memory_utilization: None,
            kv_cache_memory_bytes: None,
            kv_cache_populate: None,
            kv_cache_dtype: KvCacheDtype::Auto,
            quantization: None,
            hash_bytes_per_second: 256 << 20,
            enable_prefix_caching: true,
            scheduling_policy: SchedulingPolicy::Priority,
            priority_level_ms: 10_000,
            queue_max: 256,
            request_sequences_max: 64,
            answer_bytes_max: 16 << 20,
            tokenizer: None,
            chat_template: None,
            tool_call_parser: None,
            reasoning_parser: None,
            grammars_kept_max: 64,
            comment_interval_ms: 10_000,
            reader_stall_ms: 60_000,
            liveness_timeout_ms: 60_000,
            step_retries_max: 64,
            flight_recorder_bytes: 1 << 20,
            flight_recorder_dir: None,
            scripted_step_ms: 5,
            peers: SeedingConfig::default(),
        }
    }
}

impl WorkerConfig {
    /// Returns true if the memory of KV caches is taken at the start.
    pub(crate) fn takes_kv_cache(&self) -> bool {
        let sized = self.kv_cache_memory_bytes.is_some() || self.memory_bytes.is_some();
        self.kv_cache_populate.unwrap_or(sized || self.gpu_memory_utilization.is_some())
    }

    /// Describes the first mistake in it, as `key: problem`.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !self.listen.address.ip().is_loopback() && self.api_key.as_ref().is_none_or(|key| key.reveal().is_empty()) {
            let address = self.listen.address;
            return Some(format!(
                "worker.api_key: a worker is unscreened, so listening on {address}, beyond loopback, requires a key; \
                 set FOREBAY_WORKER__API_KEY, and router.worker_api_key on its router"
            ));
        }
        if let Some((field, problem)) = self.listen.problem() {
            return Some(format!("worker.listen.{field}: {problem}"));
        }
        if let Some((field, problem)) = self.peers.problem() {
            return Some(format!("worker.peers.{field}: {problem}"));
        }
        let keys = [("api_key", &self.api_key), ("admin_api_key", &self.admin_api_key)];
        let problem = |(name, key): (_, &Option<Secret>)| Some((name, key.as_ref()?.key_problem()?));
        if let Some((name, problem)) = keys.into_iter().find_map(problem) {
            return Some(format!("worker.{name}: {problem}"));
        }
        let sizes = [
            ("max_num_seqs", Some(self.max_num_seqs)),
            ("max_num_batched_tokens", Some(self.max_num_batched_tokens)),
            ("max_prefill_tokens_beside_decodes", Some(self.max_prefill_tokens_beside_decodes)),
            ("max_long_prefill_tokens_beside_decodes", Some(self.max_long_prefill_tokens_beside_decodes)),
            ("queue_max", Some(self.queue_max)),
            ("request_sequences_max", Some(self.request_sequences_max)),
            ("comment_interval_ms", Some(usize::try_from(self.comment_interval_ms).unwrap_or(usize::MAX))),
            ("threads", self.threads),
            ("max_model_len", self.max_model_len),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == Some(0)) {
            return Some(format!("worker.{name}: must be at least 1"));
        }
        if let Some(quantization) = self.quantization.filter(|_| !self.backend.quantizes()) {
            let (name, backend) = (quantization.name(), self.backend.name());
            return Some(format!(
                "worker.quantization: the {backend} backend does not quantize to {name}; use the cpu backend, or leave \
                 quantization out"
            ));
        }
        if let Some(problem) = self.device_problem().or_else(|| self.parser_problem()) {
            return Some(problem);
        }
        if self.memory_bytes.is_some() && self.gpu_memory_utilization.is_some() {
            return Some("worker.memory_bytes: give it or gpu_memory_utilization, not both".into());
        }
        if self.gpu_memory_utilization.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Some("worker.gpu_memory_utilization: a share is above 0 and at most 1".into());
        }
        (self.max_num_batched_tokens < self.max_num_seqs).then(|| {
            format!(
                "worker.max_num_batched_tokens: {} is less than max_num_seqs, {}: some sequences would never have a turn",
                self.max_num_batched_tokens, self.max_num_seqs
            )
        })
    }
}

impl WorkerConfig {
    /// Names of formats that nobody knows.
    fn parser_problem(&self) -> Option<String> {
        let calls = self.tool_call_parser.as_deref().map(Format::named).and_then(Result::err);
        let thoughts = self.reasoning_parser.as_deref().filter(|name| *name != "none");
        let thoughts = thoughts.map(Marks::named).and_then(Result::err);
        let calls = calls.map(|problem| format!("worker.tool_call_parser: {problem}"));
        calls.or_else(|| thoughts.map(|problem| format!("worker.reasoning_parser: {problem}")))
    }

    /// The format of the calls of a model with this chat template.
    pub(crate) fn calls_of(&self, template: Option<&ChatTemplate>) -> &'static Format {
        let named = self.tool_call_parser.as_deref().and_then(|name| Format::named(name).ok());
        named.unwrap_or_else(|| Format::of_template(template.map_or("", ChatTemplate::text)))
    }

    /// The marks of the thoughts of a model with this chat template.
    pub(crate) fn thoughts_of(&self, template: Option<&ChatTemplate>) -> Option<&'static Marks> {
        match self.reasoning_parser.as_deref() {
            Some(name) => Marks::named(name).ok(),
            None => Marks::of_template(template.map_or("", ChatTemplate::text)),
        }
    }

    /// Settings that a GPU does not support.
    fn device_problem(&self) -> Option<String> {
        let asked = matches!(self.device, DeviceChoice::Cuda(_));
        if asked && self.backend != BackendKind::Cpu {
            return Some(format!("worker.device: the {} backend computes on the CPU alone", self.backend.name()));
        }
        if asked && self.quantization.is_some() {
            return Some(
                "worker.quantization: a GPU does not quantize; serve a GGUF file of Q8_0, or leave it out".into(),
            );
        }
        let stores = matches!(self.kv_cache_dtype, KvCacheDtype::Auto | KvCacheDtype::Bf16);
        (asked && !stores).then(|| "worker.kv_cache_dtype: a GPU keeps keys and values in bf16".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_asked_for_what_it_does() {
        let config = WorkerConfig { device: DeviceChoice::Cuda(0), ..WorkerConfig::default() };
        assert_eq!(config.problem(), None);
        let quantization = Some(Quantization::Q8_0);
        let wrong = [
            (WorkerConfig { backend: BackendKind::Candle, ..config.clone() }, "worker.device"),
            (WorkerConfig { quantization, ..config.clone() }, "worker.quantization"),
            (WorkerConfig { kv_cache_dtype: KvCacheDtype::F16, ..config }, "worker.kv_cache_dtype"),
        ];
        for (config, key) in wrong {
            assert!(config.problem().is_some_and(|problem| problem.starts_with(key)), "{key}");
        }
    }

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
    fn a_key_that_lets_in_everybody_or_nobody_is_refused() {
        for wrong in ["", " ", "key\n", "k\u{e9}y", "a\0b"] {
            let keyed = WorkerConfig { api_key: Some(Secret::new(wrong)), ..WorkerConfig::default() };
            assert!(keyed.problem().is_some_and(|problem| problem.starts_with("worker.api_key")), "{wrong:?}");
            let keyed = WorkerConfig { admin_api_key: Some(Secret::new(wrong)), ..WorkerConfig::default() };
            assert!(keyed.problem().is_some_and(|problem| problem.starts_with("worker.admin_api_key")), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_cpu_backend_quantizes() {
        let quantization = Some(Quantization::Q8_0);
        assert_eq!(WorkerConfig { quantization, ..WorkerConfig::default() }.problem(), None);
        for backend in [BackendKind::Candle, BackendKind::Scripted] {
            let problem = WorkerConfig { backend, quantization, ..WorkerConfig::default() }.problem();
            let problem = problem.expect("a problem");
            assert!(problem.starts_with("worker.quantization") && problem.contains(backend.name()), "{problem}");
        }
    }

    #[test]
    fn memory_is_taken_at_the_start_where_somebody_gave_a_size() {
        let plain = WorkerConfig::default();
        assert!(!plain.takes_kv_cache());
        let sized = WorkerConfig { kv_cache_memory_bytes: Some(1), ..plain.clone() };
        let budgeted = WorkerConfig { memory_bytes: Some(1), ..plain.clone() };
        let shared = WorkerConfig { gpu_memory_utilization: Some(0.5), ..plain };
        assert!(sized.takes_kv_cache() && budgeted.takes_kv_cache() && shared.takes_kv_cache());
        assert!(!WorkerConfig { kv_cache_populate: Some(false), ..sized }.takes_kv_cache());
    }

    #[test]
    fn a_step_has_room_for_every_sequence() {
        let config = WorkerConfig { max_num_batched_tokens: 8, max_num_seqs: 9, ..WorkerConfig::default() };
        assert!(config.problem().expect("a problem").contains("worker.max_num_batched_tokens"));
    }
}
