//! Every metric we expose, as data: the one place that spells a metric's name.
//!
//! Units are seconds, bytes and ratios. A counter's name ends in `_total`. vLLM's names are kept
//! letter for letter, so that dashboards and autoscalers made for it work unchanged.

use crate::def::{
    CHOICES_EDGES, Def, ITL_EDGES_S, REQUEST_EDGES_S, STEP_OVERHEAD_EDGES_S, STEP_TOKENS_EDGES, TOKENS_EDGES,
    TTFT_EDGES_S,
};

// --- process ------------------------------------------------------------------------------------

/// Processor time.
pub const PROCESS_CPU: Def = Def::counter("process_cpu_seconds_total", "Processor time used, in seconds", &[]);
/// Memory in use.
pub const PROCESS_RESIDENT_MEMORY: Def =
    Def::gauge("process_resident_memory_bytes", "Memory in use, mapped weights that were read included", &[]);
/// Memory that is mapped.
pub const PROCESS_VIRTUAL_MEMORY: Def = Def::gauge("process_virtual_memory_bytes", "Memory mapped, in use or not", &[]);
/// Open files.
pub const PROCESS_OPEN_FDS: Def = Def::gauge("process_open_fds", "Open files and sockets", &[]);
/// The limit on them.
pub const PROCESS_MAX_FDS: Def = Def::gauge("process_max_fds", "The soft limit on open files and sockets", &[]);
/// Threads.
pub const PROCESS_THREADS: Def = Def::gauge("process_threads", "Threads", &[]);
/// The process's start.
pub const PROCESS_START_TIME: Def = Def::gauge("process_start_time_seconds", "Unix time of the process's start", &[]);
/// The build that runs.
pub const BUILD_INFO: Def = Def::gauge("forebay_build_info", "Always 1; the labels say which build runs", &["version"]);
/// Spans that were exported, or could not be.
pub const TELEMETRY_SPANS: Def =
    Def::counter("forebay_telemetry_spans_total", "Spans by outcome of their export: exported, failed", &["outcome"]);

// --- listen -------------------------------------------------------------------------------------

/// Open client connections.
pub const LISTEN_CONNECTIONS: Def =
    Def::gauge("forebay_listen_connections", "Open client connections, per listener", &["listener"]);
/// Bytes of request bodies held.
pub const LISTEN_BODY_BYTES: Def = Def::gauge(
    "forebay_listen_body_bytes",
    "Bytes of request bodies that are held, per listener; at most bodies_bytes_max",
    &["listener"],
);
/// Connections refused because the bound was reached.
pub const LISTEN_REFUSED: Def = Def::counter(
    "forebay_listen_refused_connections_total",
    "Connections closed at once because connections_max was reached",
    &["listener"],
);

/// Connections ended before their time, by why.
pub const LISTEN_ENDED: Def = Def::counter(
    "forebay_listen_ended_connections_total",
    "Connections that this server ended: unused ones, heads and readers that were too slow, clients that left or had enough",
    &["listener", "reason"],
)
.of(&["idle", "head", "write", "client_left", "handshake", "age", "tls_to_plain", "crowded"]);
/// TLS handshakes in flight.
pub const LISTEN_HANDSHAKES: Def =
    Def::gauge("forebay_listen_handshakes", "TLS handshakes in flight, per listener", &["listener"]);
/// TLS handshakes that came to nothing, by why.
pub const LISTEN_FAILED_HANDSHAKES: Def = Def::counter(
    "forebay_listen_failed_handshakes_total",
    "TLS handshakes that came to nothing, by reason",
    &["listener", "reason"],
)
.of(&[
    "plain_http",
    "client_left",
    "no_certificate",
    "bad_certificate",
    "refused_by_client",
    "protocol",
    "timeout",
    "busy",
]);
/// The end of a listener's certificate.
pub const LISTEN_CERTIFICATE_NOT_AFTER: Def = Def::gauge(
    "forebay_listen_certificate_not_after_seconds",
    "The last moment at which the listener's certificate is valid, in seconds since 1970",
    &["listener"],
);
/// Looks at changed certificate files.
pub const LISTEN_CERTIFICATE_RELOADS: Def = Def::counter(
    "forebay_listen_certificate_reloads_total",
    "Changes of a listener's certificate files that were taken (ok), and looks at one that cannot be used (error)",
    &["listener", "result"],
)
.of(&["ok", "error"]);

// --- discovery ----------------------------------------------------------------------------------

/// Members that are listed.
pub const DISCOVERY_MEMBERS: Def = Def::gauge(
    "forebay_discovery_members",
    "Members of the fleet that are listed, per use of the list; at most members_max",
    &["of"],
);
/// Members that are not listed though a source names them.
pub const DISCOVERY_LEFT_OUT: Def = Def::gauge(
    "forebay_discovery_left_out_members",
    "Members that a source names and that are not listed: beyond a bound or named twice (surplus), or without a usable address or name (unusable)",
    &["of", "reason"],
)
.of(&["surplus", "unusable"]);
/// Members that a source names.
pub const DISCOVERY_SOURCE_MEMBERS: Def =
    Def::gauge("forebay_discovery_source_members", "Members that a source named last", &["of", "source"]);
/// Answers of a source.
pub const DISCOVERY_ANSWERS: Def = Def::counter(
    "forebay_discovery_answers_total",
    "Answers of a source, and questions that it did not answer; its last members stand meanwhile",
    &["of", "source", "outcome"],
)
.of(&["ok", "error"]);
/// The last answer of a source.
pub const DISCOVERY_ANSWERED: Def = Def::gauge(
    "forebay_discovery_last_answer_timestamp_seconds",
    "Unix time of a source's last answer, 0 before the first",
    &["of", "source"],
);

// --- peers --------------------------------------------------------------------------------------

/// The end of the certificate shown to peers.
pub const PEERS_CERTIFICATE_NOT_AFTER: Def = Def::gauge(
    "forebay_peers_certificate_not_after_seconds",
    "The last moment at which the certificate shown to peers is valid, in seconds since 1970",
    &[],
);
/// Looks at changed files of `peers.tls`.
pub const PEERS_CERTIFICATE_RELOADS: Def = Def::counter(
    "forebay_peers_certificate_reloads_total",
    "Changes of the peers.tls files that were taken (ok), and looks at one that cannot be used (error)",
    &["result"],
)
.of(&["ok", "error"]);

// --- node ---------------------------------------------------------------------------------------

/// Requests to a node, by the kind of call and the status.
pub const NODE_REQUESTS: Def = Def::counter(
    "forebay_node_requests_total",
    "Requests to the node by call (info, tree, file, plain, other) and status",
    &["call", "code"],
);
/// Questions whether a caller may read a file.
pub const NODE_HUB_REQUESTS: Def = Def::counter(
    "forebay_node_hub_answers_total",
    "Answers on whether a caller may read a file: of the hub (allowed, refused, away), or kept from before",
    &["outcome"],
)
.of(&["allowed", "refused", "away", "kept"]);
/// Ends of fills.
pub const NODE_FILLS: Def = Def::counter(
    "forebay_node_fills_total",
    "Models and files that were fetched into the cache: done, failed, or abandoned by all who asked",
    &["outcome"],
)
.of(&["done", "failed", "abandoned"]);
/// Bytes given to other engines.
pub const NODE_BYTES: Def =
    Def::counter("forebay_node_sent_bytes_total", "Bytes of files that were given to other engines", &[]);
/// Answers with bytes under way.
pub const NODE_BODIES: Def =
    Def::gauge("forebay_node_bodies", "Answers with bytes of files under way; at most bodies_max", &[]);
/// Fills under way.
pub const NODE_FILLING: Def =
    Def::gauge("forebay_node_filling", "Models and files that are being fetched; at most fills_max", &[]);
/// Open models and files.
pub const NODE_OPEN: Def = Def::gauge(
    "forebay_node_open",
    "Models and files that are open, those being fetched included; at most open_max",
    &[],
);
/// Answers of the hub that are remembered.
pub const NODE_RIGHTS: Def =
    Def::gauge("forebay_node_rights", "Answers of the hub about callers that are remembered; at most rights_max", &[]);

// --- router -------------------------------------------------------------------------------------

/// The end of the certificate shown to workers.
pub const ROUTER_CERTIFICATE_NOT_AFTER: Def = Def::gauge(
    "forebay_router_certificate_not_after_seconds",
    "The last moment at which the certificate shown to workers is valid, in seconds since 1970",
    &[],
);
/// Looks at changed files of `worker_tls`.
pub const ROUTER_CERTIFICATE_RELOADS: Def = Def::counter(
    "forebay_router_certificate_reloads_total",
    "Changes of the worker_tls files that were taken (ok), and looks at one that cannot be used (error)",
    &["result"],
)
.of(&["ok", "error"]);

/// Configurations that were read while the router ran.
pub const ROUTER_CONFIG_RELOADS: Def = Def::counter(
    "forebay_router_config_reloads_total",
    "Changed configurations that were taken (ok), and those that could not be (error)",
    &["result"],
)
.of(&["ok", "error"]);
/// Usage records.
pub const ROUTER_USAGE_RECORDS: Def = Def::counter(
    "forebay_router_usage_records_total",
    "Usage records that were written, and those that found no room (lost), which are lines of the log instead",
    &["result"],
)
.of(&["written", "lost"]);
/// Usage records that wait to be written.
pub const ROUTER_USAGE_WAITING: Def = Def::gauge(
    "forebay_router_usage_records_waiting",
    "Usage records that wait to be written; at most usage.queue_max",
    &[],
);
/// 1 while the newest configuration is in force.
pub const ROUTER_CONFIG_CURRENT: Def = Def::gauge(
    "forebay_router_config_current",
    "1 while the newest configuration is in force, 0 while it could not be taken; /status says why",
    &[],
);

/// Requests answered, by the status the client got (499: it left first).
pub const ROUTER_REQUESTS: Def = Def::counter(
    "forebay_router_requests_total",
    "Requests, by final status; 499: the client left",
    &["model", "code"],
);
/// From the request's arrival to the first text sent to the client.
pub const ROUTER_TTFT: Def = Def::histogram(
    "forebay_router_time_to_first_token_seconds",
    "From the request's arrival to the first streamed text",
    &["model"],
    TTFT_EDGES_S,
);
/// Between two streamed events of text.
pub const ROUTER_ITL: Def = Def::histogram(
    "forebay_router_inter_token_latency_seconds",
    "Between two streamed events",
    &["model"],
    ITL_EDGES_S,
);
/// From the request's arrival to the end of its answer.
pub const ROUTER_DURATION: Def = Def::histogram(
    "forebay_router_request_duration_seconds",
    "From the request's arrival to the end of its answer",
    &["model"],
    REQUEST_EDGES_S,
);
/// Requests being answered.
pub const ROUTER_IN_FLIGHT: Def = Def::gauge("forebay_router_in_flight_requests", "Requests being answered", &[]);
/// The bound of the gauge above.
pub const ROUTER_IN_FLIGHT_MAX: Def =
    Def::gauge("forebay_router_in_flight_requests_max", "The bound on requests being answered", &[]);
/// Further tries at another worker.
pub const ROUTER_RETRIES: Def =
    Def::counter("forebay_router_retries_total", "Further tries at another worker", &["reason"]).of(&[
        "success",
        "stale",
        "back_pressure",
        "down",
        "key_refused",
        "gone",
        "broke",
        "stuck",
        "slow",
        "garbage",
        "failed",
        "request_fault",
        "ours",
        "client_left",
    ]);
/// Further tries that the retry budget did not allow.
pub const ROUTER_RETRY_BUDGET_EXHAUSTED: Def = Def::counter(
    "forebay_router_retry_budget_exhausted_total",
    "Further tries that the retry budget did not allow",
    &[],
);
/// 1 for a worker that takes requests.
pub const ROUTER_WORKER_UP: Def =
    Def::gauge("forebay_router_worker_up", "1 where the worker takes requests", &["worker"]);
/// Requests a worker holds from this router.
pub const ROUTER_WORKER_IN_FLIGHT: Def =
    Def::gauge("forebay_router_worker_in_flight_requests", "Requests at the worker, from this router", &["worker"]);
/// Bytes of whole answers held.
pub const ROUTER_ANSWER_BYTES: Def = Def::gauge(
    "forebay_router_answer_bytes",
    "Bytes of answers that are not streamed, read and not yet sent; at most answers_bytes_max",
    &[],
);
/// Tries, by what became of them and how far they came.
pub const ROUTER_TRIES: Def = Def::counter(
    "forebay_router_tries_total",
    "Sendings of requests to workers, by outcome and by how far they came",
    &["outcome", "phase"],
)
.of(&["not_begun", "head_sent", "first_byte", "after"]);
/// Requests of the router's own, which decide over suspicions.
pub const ROUTER_PROBES: Def =
    Def::counter("forebay_router_probes_total", "One-token requests of the router's own, by outcome", &["outcome"]).of(
        &[
            "success",
            "stale",
            "back_pressure",
            "down",
            "key_refused",
            "gone",
            "broke",
            "stuck",
            "slow",
            "garbage",
            "failed",
            "request_fault",
            "ours",
            "client_left",
        ],
    );
/// Models at workers that were ejected because a probe failed.
pub const ROUTER_EJECTIONS: Def =
    Def::counter("forebay_router_ejections_total", "Models at workers that were ejected by a failed probe", &[]);
/// Large requests and answers that are read aside.
pub const ROUTER_OFFLOADED: Def = Def::gauge(
    "forebay_router_offloaded",
    "Large requests and answers that are read on threads of their own, or wait for one; large_at_once_max are read at a time",
    &[],
);
/// Requests and tenants with strikes.
pub const ROUTER_STRIKES: Def = Def::gauge(
    "forebay_router_struck_requests",
    "Requests that broke off at a worker in the last ten minutes, at most 4,096 of them",
    &[],
);
/// Failures between router and worker.
pub const ROUTER_UPSTREAM_ERRORS: Def =
    Def::counter("forebay_router_upstream_errors_total", "Failures of workers, by kind", &["kind"]).of(&[
        "stale",
        "back_pressure",
        "down",
        "key_refused",
        "gone",
        "broke",
        "stuck",
        "slow",
        "garbage",
        "failed",
        "request_fault",
        "ours",
        "client_left",
        "encoded",
        "too_large",
        "broken_mid_answer",
        "stalled",
        "truncated",
        "withheld",
        "error_event",
    ]);

// --- policy (decided there, counted by the router) -------------------------------------------------

/// Requests that policy refused.
pub const POLICY_REJECTIONS: Def =
    Def::counter("forebay_policy_rejections_total", "Requests that policy refused", &["reason"]).of(&[
        "missing_key",
        "wrong_key",
        "too_many_wrong_keys",
        "quota",
        "tokens",
        "budget",
        "concurrency",
        "prompt_blocked",
        "prompt_not_redactable",
        "prompt_not_screenable",
    ]);
/// Tokens that tenants used.
pub const POLICY_TOKENS: Def = Def::counter(
    "forebay_policy_tokens_total",
    "Tokens that tenants used, as workers counted them; estimated where they did not",
    &["tenant", "type"],
)
.of(&["prompt", "completion"]);
/// Prompts that policy rewrote.
pub const POLICY_REWRITES: Def =
    Def::counter("forebay_policy_rewrites_total", "Requests in whose prompts phrases were replaced", &[]);
/// Prompts that policy noted.
pub const POLICY_ANNOTATIONS: Def = Def::counter(
    "forebay_policy_annotations_total",
    "Requests whose prompts hold a phrase of a label's list",
    &["label"],
);
/// Addresses that are remembered for wrong keys.
pub const POLICY_WRONG_KEY_ADDRESSES: Def = Def::gauge(
    "forebay_policy_wrong_key_addresses",
    "Addresses that are remembered for wrong keys; at most wrong_keys.addresses_max",
    &[],
);
/// Choices that the output screen ended.
pub const POLICY_OUTPUT_BLOCKS: Def =
    Def::counter("forebay_policy_output_blocks_total", "Choices that the output screen ended", &[]);

// --- worker -------------------------------------------------------------------------------------

/// Sequences that wait to be scheduled.
pub const WORKER_WAITING: Def = Def::gauge("forebay_worker_waiting", "Sequences that wait to be scheduled", &["model"]);
/// Sequences being generated.
pub const WORKER_RUNNING: Def = Def::gauge("forebay_worker_running", "Sequences being generated", &["model"]);
/// The used share of the KV blocks.
pub const WORKER_KV_USAGE: Def =
    Def::gauge("forebay_worker_kv_usage_ratio", "The used share of the KV blocks, 0 to 1", &["model"]);
/// From submission to the first token.
pub const WORKER_TTFT: Def = Def::histogram(
    "forebay_worker_time_to_first_token_seconds",
    "From submission to the first sampled token",
    &["model"],
    TTFT_EDGES_S,
);
/// Between tokens of a sequence.
pub const WORKER_ITL: Def = Def::histogram(
    "forebay_worker_inter_token_latency_seconds",
    "Between two sampled tokens of a sequence, at engine steps",
    &["model"],
    ITL_EDGES_S,
);
/// From submission to the last token.
pub const WORKER_E2E: Def = Def::histogram(
    "forebay_worker_request_seconds",
    "From submission to the end of a sequence that finished",
    &["model"],
    REQUEST_EDGES_S,
);
/// From submission to the first step.
pub const WORKER_QUEUE_TIME: Def = Def::histogram(
    "forebay_worker_queue_seconds",
    "From submission to the first step that a sequence takes part in",
    &["model"],
    REQUEST_EDGES_S,
);
/// One step of the backend.
pub const WORKER_STEP: Def =
    Def::histogram("forebay_worker_step_seconds", "One step of the backend", &["model"], ITL_EDGES_S);
/// The time of an engine's turn outside the backend's step.
pub const WORKER_STEP_OVERHEAD: Def = Def::histogram(
    "forebay_worker_step_overhead_seconds",
    "What a turn of the engine took outside the model: planning, choosing tokens, handing them out",
    &["model"],
    STEP_OVERHEAD_EDGES_S,
);
/// Prompt tokens looked up in the prefix cache.
pub const WORKER_PREFIX_QUERIES: Def = Def::counter(
    "forebay_worker_prefix_cache_queries_total",
    "Prompt tokens that were looked up in the prefix cache",
    &["model"],
);
/// Prompt tokens found there.
pub const WORKER_PREFIX_HITS: Def = Def::counter(
    "forebay_worker_prefix_cache_hits_total",
    "Prompt tokens that were found in the prefix cache and not computed",
    &["model"],
);
/// Embeddings.
pub const WORKER_EMBEDDINGS: Def =
    Def::counter("forebay_worker_embeddings_total", "Embeddings that were answered, one for each input", &["model"]);
/// Blocks of the prefix cache.
pub const WORKER_PREFIX_BLOCKS: Def = Def::gauge(
    "forebay_worker_prefix_cache_blocks",
    "Full KV blocks that can be shared, in use or not; at most all blocks there are",
    &["model"],
);
/// Changes of the prefix cache that are kept.
pub const WORKER_KV_EVENTS: Def = Def::gauge(
    "forebay_worker_kv_events",
    "Changes of the prefix cache that are kept for `/status/kv-events`; at most 8192",
    &["model"],
);
/// Steps in flight.
pub const WORKER_STEPS_IN_FLIGHT: Def = Def::gauge(
    "forebay_worker_steps_in_flight",
    "Steps launched and not collected at the end of the engine's last turn; below the backend's depth",
    &["model"],
);
/// Prompt tokens of the sequences that started.
pub const WORKER_PROMPT_TOKENS: Def =
    Def::counter("forebay_worker_prompt_tokens_total", "Prompt tokens of the sequences that started", &["model"]);
/// Sampled tokens.
pub const WORKER_GENERATION_TOKENS: Def =
    Def::counter("forebay_worker_generation_tokens_total", "Sampled tokens", &["model"]);
/// Sequences whose KV blocks were taken and that are computed again.
pub const WORKER_PREEMPTIONS: Def =
    Def::counter("forebay_worker_preemptions_total", "Sequences preempted, to be computed again", &["model"]);
/// Further tries of failed steps.
pub const WORKER_STEP_RETRIES: Def = Def::counter(
    "forebay_worker_step_retries_total",
    "Further tries of steps that failed, made to find the sequence at fault",
    &["model"],
);
/// Sequences that a failure of their own ended.
pub const WORKER_STEP_FAULTS: Def = Def::counter(
    "forebay_worker_step_faults_total",
    "Sequences ended by a failure in a step: panic, error, weights, logits (not a number), given_up (step_retries_max)",
    &["model", "kind"],
)
.of(&["panic", "error", "weights", "logits", "given_up"]);
/// 1 for an engine that shows no life.
pub const WORKER_WEDGED: Def = Def::gauge(
    "forebay_worker_wedged",
    "1 while the engine has shown no life for liveness_timeout_ms or has ended",
    &["model"],
);
/// Steps in the flight recorder.
pub const WORKER_FLIGHT_RECORDER_STEPS: Def = Def::gauge(
    "forebay_worker_flight_recorder_steps",
    "Steps that the flight recorder holds, within flight_recorder_bytes",
    &["model"],
);
/// Ended sequences.
pub const WORKER_FINISHED: Def = Def::counter(
    "forebay_worker_finished_total",
    "Ended sequences by reason: stop, length, abort (the reader left), error",
    &["model", "reason"],
)
.of(&["stop", "length", "abort", "error"]);
/// Bytes of mapped weights.
pub const WORKER_WEIGHTS_BYTES: Def = Def::gauge("forebay_worker_weights_bytes", "Bytes of mapped weights", &["model"]);
/// Progress of hashing in the background.
pub const WORKER_HASHED_BYTES: Def = Def::gauge(
    "forebay_worker_hashed_bytes",
    "Bytes of a trusted directory's weights that were hashed since it is served, of forebay_worker_weights_bytes",
    &["model"],
);
/// Bytes of quantized copies.
pub const WORKER_QUANTIZED_BYTES: Def = Def::gauge(
    "forebay_worker_quantized_bytes",
    "Bytes of the copies that `quantization` made of weights, beside the mapped ones",
    &["model"],
);
/// The error of quantized weights.
pub const WORKER_QUANTIZATION_ERROR: Def = Def::gauge(
    "forebay_worker_quantization_error_ratio",
    "Root-mean-square error of quantized matrices over their root-mean-square number: mean and max over the matrices",
    &["model", "over"],
);
/// Swaps of a model's weights.
pub const WORKER_SWAPS: Def = Def::counter(
    "forebay_worker_swaps_total",
    "Swaps of a model's weights for another revision's, by outcome: done, refused, failed",
    &["model", "outcome"],
)
.of(&["done", "refused", "failed"]);
/// Phases of a model's load.
pub const WORKER_LOAD_SECONDS: Def = Def::gauge(
    "forebay_worker_load_seconds",
    "How long a phase of the model's load took: weights, tokenizer, quantization, total",
    &["model", "phase"],
);
/// Memory of the vocabulary that grammars share.
pub const WORKER_GRAMMAR_VOCABULARY_BYTES: Def = Def::gauge(
    "forebay_worker_grammar_vocabulary_bytes",
    "Bytes of the tree of a model's vocabulary that forms of answers are checked against, about; 0 before it is built",
    &["model"],
);
/// Compiled grammars that are kept.
pub const WORKER_GRAMMARS_KEPT: Def = Def::gauge(
    "forebay_worker_grammars_kept",
    "Compiled forms that are kept for requests that ask for the same; at most grammars_kept_max",
    &["model"],
);
/// Forms that requests asked for.
pub const WORKER_GRAMMARS: Def = Def::counter(
    "forebay_worker_grammars_total",
    "Forms of answers that requests asked for, by outcome: kept (compiled before), compiled, refused",
    &["model", "outcome"],
)
.of(&["kept", "compiled", "refused"]);
/// Time to compile a form.
pub const WORKER_GRAMMAR_COMPILE: Def = Def::histogram(
    "forebay_worker_grammar_compile_seconds",
    "How long it took to compile a form of answers, or to find that it cannot be had",
    &["model"],
    STEP_OVERHEAD_EDGES_S,
);
/// Answers that were brought to the end of their form.
pub const WORKER_FORMS_HURRIED: Def = Def::counter(
    "forebay_worker_forms_hurried_total",
    "Answers of a form whose tokens ran out, and whose choices were narrowed to those after which its end was in reach",
    &["model"],
);
/// Time to compute a mask.
pub const WORKER_MASK: Def = Def::histogram(
    "forebay_worker_mask_seconds",
    "How long it took to find out which tokens a form allows next, beside the model",
    &["model"],
    STEP_OVERHEAD_EDGES_S,
);

// --- loader -------------------------------------------------------------------------------------

/// Verified bytes of weights, by where they came from.
pub const LOADER_BYTES: Def = Def::counter(
    "forebay_loader_bytes_total",
    "Verified bytes of weights, by where they came from: the source's scheme (peer for peers), cache, shared",
    &["source"],
);
/// Bytes from storage.
pub const LOADER_ORIGIN_BYTES: Def = Def::counter(
    "forebay_loader_origin_bytes_total",
    "Verified bytes of weights from storage, by the source's scheme and the region that it lies in (unknown where nobody says)",
    &["source", "region"],
);
/// Ranged reads made.
pub const LOADER_REQUESTS: Def = Def::counter(
    "forebay_loader_requests_total",
    "Ranged reads by outcome: ok, failed, throttled, stalled, corrupt, overtaken (by a hedge or the request it hedged), recalled (for another peer)",
    &["outcome"],
)
.of(&["ok", "failed", "throttled", "stalled", "corrupt", "overtaken", "recalled"]);
/// Tries after a failure.
pub const LOADER_RETRIES: Def = Def::counter("forebay_loader_retries_total", "Tries of a fetch after a failure", &[]);
/// Hedges of slow reads.
pub const LOADER_HEDGES: Def = Def::counter("forebay_loader_hedges_total", "Hedges of slow reads", &[]);
/// Bytes of hedges.
pub const LOADER_HEDGED_BYTES: Def =
    Def::counter("forebay_loader_hedged_bytes_total", "Bytes that hedges brought, used or not", &[]);
/// Bytes received in vain.
pub const LOADER_DISCARDED_BYTES: Def =
    Def::counter("forebay_loader_discarded_bytes_total", "Bytes that came and were thrown away", &[]);
/// Connections given up.
pub const LOADER_STALLS: Def =
    Def::counter("forebay_loader_stalls_total", "Connections given up because nothing came", &[]);
/// Answers that asked us to slow down.
pub const LOADER_THROTTLES: Def =
    Def::counter("forebay_loader_throttles_total", "Answers that asked us to slow down", &[]);
/// Extents whose digest was wrong.
pub const LOADER_CORRUPT_EXTENTS: Def =
    Def::counter("forebay_loader_corrupt_extents_total", "Extents whose digest was wrong", &[]);
/// Bytes asked for and not yet verified.
pub const LOADER_IN_FLIGHT_BYTES: Def =
    Def::gauge("forebay_loader_in_flight_bytes", "Bytes asked for and not yet verified", &[]);
/// Reads that may be in flight.
pub const LOADER_CONCURRENCY: Def =
    Def::gauge("forebay_loader_concurrency", "Reads that may be in flight at present", &[]);
/// Connections to storage.
pub const LOADER_CONNECTIONS: Def = Def::gauge(
    "forebay_loader_connections",
    "Connections to storage: in_use (at most connections_per_host_max for each host), idle (at most pool_idle_max)",
    &["state"],
);
/// Connections made.
pub const LOADER_CONNECTIONS_MADE: Def =
    Def::counter("forebay_loader_connections_made_total", "Connections to storage that were made", &[]);
/// One fetch with all its tries.
pub const LOADER_FETCH_SECONDS: Def = Def::histogram(
    "forebay_loader_fetch_seconds",
    "One fetch of up to 16 MiB, from its first try to its last byte",
    &[],
    REQUEST_EDGES_S,
);

/// The cost of a slow disk.
pub const LOADER_DISK_WAIT_SECONDS: Def = Def::histogram(
    "forebay_loader_disk_wait_seconds",
    "How long one request to storage waited, all together, for the disk to take what it had received",
    &[],
    REQUEST_EDGES_S,
);
/// Bytes written to files that are being filled.
pub const LOADER_WRITTEN_BYTES: Def = Def::counter(
    "forebay_loader_written_bytes_total",
    "Bytes written to the cache's files: direct (past the page cache), page_cache",
    &["how"],
)
.of(&["direct", "page_cache"]);

// --- loader: peers --------------------------------------------------------------------------------

/// Peers given up by a load.
pub const LOADER_PEERS_DISMISSED: Def = Def::counter(
    "forebay_loader_peers_dismissed_total",
    "Peers that a load asks nothing more of, by reason: banned (wrong bytes), failing (several failures in a row), useless (gives us nothing)",
    &["reason"],
)
.of(&["banned", "failing", "useless"]);

/// Members that are left alone.
pub const LOADER_PEER_BANS: Def = Def::counter(
    "forebay_loader_peer_bans_total",
    "Members of the fleet that are asked nothing for a while (loader.peers.ban_ms), by reason: they sent or attested wrong bytes",
    &["reason"],
)
.of(&["sent", "attested"]);
/// Bytes from peers.
pub const LOADER_PEER_BYTES: Def = Def::counter(
    "forebay_loader_peer_bytes_total",
    "Verified bytes that peers brought, by the peer's id (the first 64 of a process; the rest are `other`) and zone: near, far",
    &["peer", "zone"],
);
/// Peers at hand.
pub const LOADER_NEIGHBOURS: Def =
    Def::gauge("forebay_loader_neighbours", "Peers that loads under way are connected to", &[]);
/// Memory of the schedules.
pub const LOADER_SUPPLY_STATE_BYTES: Def = Def::gauge(
    "forebay_loader_supply_state_bytes",
    "Memory of what loads under way know of extents, peers and members",
    &[],
);
/// Time over the ideal.
pub const LOADER_IDEAL_RATIO: Def = Def::gauge(
    "forebay_loader_ideal_ratio",
    "Seconds of the latest load over those that its bytes take at the best rate that it reached",
    &[],
);

// --- loader: cache --------------------------------------------------------------------------------

/// The cache's size on disk.
pub const LOADER_CACHE_BYTES: Def =
    Def::gauge("forebay_loader_cache_bytes", "What the cache of weights takes of the disk", &[]);
/// The bound of the gauge above.
pub const LOADER_CACHE_QUOTA_BYTES: Def =
    Def::gauge("forebay_loader_cache_quota_bytes", "What it may take; 0: only the disk bounds it", &[]);
/// Landed bytes that a power cut would cost.
pub const LOADER_CACHE_UNSYNCED_BYTES: Def =
    Def::gauge("forebay_loader_cache_unsynced_bytes", "Landed bytes that are not durable yet", &[]);
/// Loads that asked the cache.
pub const LOADER_CACHE_LOOKUPS: Def = Def::counter(
    "forebay_loader_cache_lookups_total",
    "Loads that asked the cache: hit, resumed (some was there), miss",
    &["outcome"],
)
.of(&["hit", "resumed", "miss"]);
/// Models and broken-off loads that made room.
pub const LOADER_CACHE_EVICTIONS: Def =
    Def::counter("forebay_loader_cache_evictions_total", "Models and broken-off loads that made room", &[]);
/// Failures of the cache; the load goes on without it.
pub const LOADER_CACHE_FAILURES: Def = Def::counter(
    "forebay_loader_cache_failures_total",
    "What the cache could not do for a load: full (loaded into memory), journal (cannot be gone on with), sync (not kept)",
    &["reason"],
).of(&["full", "journal", "sync"]);

// --- seeding ------------------------------------------------------------------------------------

/// Bytes given to peers.
pub const SEEDING_SENT_BYTES: Def =
    Def::counter("forebay_seeding_sent_bytes_total", "Bytes of weights given to peers", &[]);
/// Answers to peers.
pub const SEEDING_REQUESTS: Def = Def::counter(
    "forebay_seeding_requests_total",
    "Requests of peers, by status: 404 is not here or not for them, 409 not here yet, 503 a full queue",
    &["code"],
)
.of(&["200", "206", "404", "409", "416", "426", "503"]);
/// `have` bodies.
pub const SEEDING_STREAMS: Def =
    Def::gauge("forebay_seeding_streams", "Peers that are told which extents are here", &[]);
/// Extents being sent.
pub const SEEDING_QUEUE_EXTENTS: Def = Def::gauge(
    "forebay_seeding_queue_extents",
    "Extents that are being sent or wait for it; at most queue_extents_max, and those of one request",
    &[],
);
/// The rate in force.
pub const SEEDING_RATE: Def = Def::gauge(
    "forebay_seeding_rate_bytes_per_second",
    "The rate at which weights may be given to peers; +Inf without a bound",
    &[],
);
/// The price that requests pay.
pub const SEEDING_HARM: Def = Def::gauge(
    "forebay_seeding_harm_ratio",
    "Step times with sending divided by those without, 95th percentiles; 1 before enough steps were seen",
    &[],
);
/// Models that are offered.
pub const SEEDING_MODELS: Def = Def::gauge("forebay_seeding_models", "Models that are offered to peers", &[]);
/// Pieces that were not in memory.
pub const SEEDING_DISK_READS: Def = Def::counter(
    "forebay_seeding_disk_reads_total",
    "Pieces of 256 KiB that were read from disk to be given to peers",
    &[],
);

// --- names that others gave --------------------------------------------------------------------------

/// Requests to a worker's API, by FastAPI's names, which vLLM's dashboards read.
pub const HTTP_REQUESTS: Def = Def::counter(
    "http_requests_total",
    "Requests to the worker's API, by route, method and class of the final status (2xx, 4xx, 5xx)",
    &["handler", "method", "status"],
);
/// From a request's arrival to the end of its answer.
pub const HTTP_DURATION: Def = Def::histogram(
    "http_request_duration_seconds",
    "From a request's arrival at the worker's API to the end of its answer",
    &["handler", "method"],
    REQUEST_EDGES_S,
);

// --- vLLM's names for the same facts -------------------------------------------------------------

/// The beginning of vLLM's names.
pub(crate) const VLLM: &str = "vllm:";
/// As `forebay_worker_waiting`.
pub const VLLM_WAITING: Def =
    Def::gauge("vllm:num_requests_waiting", "Sequences that wait to be scheduled", &["model_name"]);
/// As `forebay_worker_running`.
pub const VLLM_RUNNING: Def = Def::gauge("vllm:num_requests_running", "Sequences being generated", &["model_name"]);
/// As `forebay_worker_kv_usage_ratio`.
pub const VLLM_KV_USAGE: Def =
    Def::gauge("vllm:kv_cache_usage_perc", "The used share of the KV blocks, 0 to 1", &["model_name"]);
/// The KV cache's shape, as labels.
pub const VLLM_CACHE_CONFIG: Def =
    Def::gauge("vllm:cache_config_info", "The KV cache's shape", &["model_name", "block_size", "num_gpu_blocks"]);
/// As `forebay_worker_time_to_first_token_seconds`.
pub const VLLM_TTFT: Def = Def::histogram(
    "vllm:time_to_first_token_seconds",
    "From submission to the first token",
    &["model_name"],
    TTFT_EDGES_S,
);
/// As `forebay_worker_inter_token_latency_seconds`.
pub const VLLM_ITL: Def = Def::histogram(
    "vllm:inter_token_latency_seconds",
    "Between two tokens of a sequence",
    &["model_name"],
    ITL_EDGES_S,
);
/// As `forebay_worker_request_seconds`.
pub const VLLM_E2E: Def =
    Def::histogram("vllm:e2e_request_latency_seconds", "From submission to the end", &["model_name"], REQUEST_EDGES_S);
/// As `forebay_worker_prompt_tokens_total`.
pub const VLLM_PROMPT_TOKENS: Def = Def::counter("vllm:prompt_tokens_total", "Prompt tokens", &["model_name"]);
/// As `forebay_worker_prefix_cache_queries_total`.
pub const VLLM_PREFIX_QUERIES: Def =
    Def::counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache", &["model_name"]);
/// As `forebay_worker_prefix_cache_hits_total`.
pub const VLLM_PREFIX_HITS: Def =
    Def::counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache", &["model_name"]);
/// As `forebay_worker_generation_tokens_total`.
pub const VLLM_GENERATION_TOKENS: Def = Def::counter("vllm:generation_tokens_total", "Sampled tokens", &["model_name"]);
/// As `forebay_worker_preemptions_total`.
pub const VLLM_PREEMPTIONS: Def = Def::counter("vllm:num_preemptions_total", "Sequences preempted", &["model_name"]);
/// Ended sequences, those that failed included: dashboards take the share of `error` for that of failures.
pub const VLLM_SUCCESS: Def = Def::counter(
    "vllm:request_success_total",
    "Sequences that ended, by reason: stop, length, abort (the client left), error",
    &["model_name", "finished_reason"],
)
.of(&["stop", "length", "abort", "error"]);
/// Sleep is not there yet: an engine is awake.
pub const VLLM_SLEEP: Def = Def::gauge(
    "vllm:engine_sleep_state",
    "1 for the state that the engine is in: awake, always; weights_offloaded and discard_all stay at 0",
    &["model_name", "sleep_state"],
)
.of(&["awake", "weights_offloaded", "discard_all"]);
/// Prefixes of other processes are not looked up.
pub const VLLM_EXTERNAL_QUERIES: Def = Def::counter(
    "vllm:external_prefix_cache_queries_total",
    "Prompt tokens looked up in the caches of other processes; stays at 0",
    &["model_name"],
);
/// As the one above.
pub const VLLM_EXTERNAL_HITS: Def = Def::counter(
    "vllm:external_prefix_cache_hits_total",
    "Prompt tokens found in the caches of other processes; stays at 0",
    &["model_name"],
);
/// Deprecated by vLLM for `vllm:inter_token_latency_seconds`; older dashboards ask for it.
pub const VLLM_TPOT: Def = Def::histogram(
    "vllm:time_per_output_token_seconds",
    "Between two tokens of a sequence; the old name of inter_token_latency_seconds",
    &["model_name"],
    ITL_EDGES_S,
);
/// As `forebay_worker_queue_seconds`.
pub const VLLM_QUEUE_TIME: Def = Def::histogram(
    "vllm:request_queue_time_seconds",
    "From submission to the first step that a sequence takes part in",
    &["model_name"],
    REQUEST_EDGES_S,
);
/// Prompts' lengths.
pub const VLLM_REQUEST_PROMPT_TOKENS: Def = Def::histogram(
    "vllm:request_prompt_tokens",
    "Prompt tokens of the sequences that started",
    &["model_name"],
    TOKENS_EDGES,
);
/// Prompts' lengths, less what was cached.
pub const VLLM_REQUEST_PREFILL_TOKENS: Def = Def::histogram(
    "vllm:request_prefill_kv_computed_tokens",
    "Prompt tokens of the sequences that started, less those found in the prefix cache",
    &["model_name"],
    TOKENS_EDGES,
);
/// Answers' lengths.
pub const VLLM_REQUEST_GENERATION_TOKENS: Def = Def::histogram(
    "vllm:request_generation_tokens",
    "Sampled tokens of the sequences that finished",
    &["model_name"],
    TOKENS_EDGES,
);
/// The longest answer of a prompt.
pub const VLLM_REQUEST_MAX_GENERATION_TOKENS: Def = Def::histogram(
    "vllm:request_max_num_generation_tokens",
    "Sampled tokens of the longest of a prompt's choices, once all have finished",
    &["model_name"],
    TOKENS_EDGES,
);
/// Choices asked for.
pub const VLLM_REQUEST_N: Def =
    Def::histogram("vllm:request_params_n", "Choices asked for, per prompt", &["model_name"], CHOICES_EDGES);
/// Tokens asked for.
pub const VLLM_REQUEST_MAX_TOKENS: Def = Def::histogram(
    "vllm:request_params_max_tokens",
    "The most tokens to generate, per prompt: what was asked for, or what fits",
    &["model_name"],
    TOKENS_EDGES,
);
/// From the first step to the first token.
pub const VLLM_PREFILL_TIME: Def = Def::histogram(
    "vllm:request_prefill_time_seconds",
    "From the first step that a sequence takes part in to its first token",
    &["model_name"],
    REQUEST_EDGES_S,
);
/// From the first token to the last.
pub const VLLM_DECODE_TIME: Def = Def::histogram(
    "vllm:request_decode_time_seconds",
    "From a sequence's first token to its last",
    &["model_name"],
    REQUEST_EDGES_S,
);
/// Prefill and decode together.
pub const VLLM_INFERENCE_TIME: Def = Def::histogram(
    "vllm:request_inference_time_seconds",
    "From the first step that a sequence takes part in to its last token",
    &["model_name"],
    REQUEST_EDGES_S,
);
/// The mean of `vllm:inter_token_latency_seconds` over one sequence.
pub const VLLM_REQUEST_TPOT: Def = Def::histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean time between two tokens of a sequence, for sequences of two tokens and more",
    &["model_name"],
    ITL_EDGES_S,
);
/// The size of steps.
pub const VLLM_ITERATION_TOKENS: Def = Def::histogram(
    "vllm:iteration_tokens_total",
    "Tokens of prompts and tokens being generated in one step",
    &["model_name"],
    STEP_TOKENS_EDGES,
);
/// As `forebay_worker_prefix_cache_hits_total`.
pub const VLLM_PROMPT_TOKENS_CACHED: Def =
    Def::counter("vllm:prompt_tokens_cached_total", "Prompt tokens found in the prefix cache", &["model_name"]);
/// Prompt tokens, computed or found.
pub const VLLM_PROMPT_TOKENS_BY_SOURCE: Def = Def::counter(
    "vllm:prompt_tokens_by_source_total",
    "Prompt tokens of the sequences that started, by where their keys and values come from",
    &["model_name", "source"],
)
.of(&["local_compute", "local_cache_hit", "external_kv_transfer"]);
/// As `forebay_worker_waiting`: a sequence of ours waits for room and for nothing else.
pub const VLLM_WAITING_BY_REASON: Def = Def::gauge(
    "vllm:num_requests_waiting_by_reason",
    "Sequences that wait to be scheduled, by reason",
    &["model_name", "reason"],
)
.of(&["capacity", "deferred"]);
/// As `forebay_worker_step_faults_total` of the kind `logits`.
pub const VLLM_CORRUPTED: Def = Def::counter(
    "vllm:corrupted_requests_total",
    "Sequences ended because what was computed of them is not a number",
    &["model_name"],
);
