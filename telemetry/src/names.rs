//! Every metric we expose, as data: the one place that spells a metric's name.
//!
//! Units are seconds, bytes and ratios. A counter's name ends in `_total`. vLLM's names are kept
//! letter for letter, so that dashboards and autoscalers made for it work unchanged.

use crate::metrics::{Def, ITL_EDGES_S, REQUEST_EDGES_S, TTFT_EDGES_S};

// --- listen -------------------------------------------------------------------------------------

/// Open client connections.
pub const LISTEN_CONNECTIONS: Def =
    Def::gauge("forebay_listen_connections", "Open client connections, per listener", &["listener"]);
/// Connections refused because the bound was reached.
pub const LISTEN_REFUSED: Def = Def::counter(
    "forebay_listen_refused_connections_total",
    "Connections closed at once because connections_max was reached",
    &["listener"],
);

// --- router -------------------------------------------------------------------------------------

/// Requests answered, by the status the client got (499: it left first).
pub const ROUTER_REQUESTS: Def =
    Def::counter("forebay_router_requests_total", "Requests, by final status; 499: the client left", &["model", "code"]);
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
/// Further attempts at another worker.
pub const ROUTER_RETRIES: Def =
    Def::counter("forebay_router_retries_total", "Further attempts at another worker", &["reason"]);
/// Further attempts that the retry budget did not allow.
pub const ROUTER_RETRY_BUDGET_EXHAUSTED: Def = Def::counter(
    "forebay_router_retry_budget_exhausted_total",
    "Further attempts that the retry budget did not allow",
    &[],
);
/// Whether a worker takes requests.
pub const ROUTER_WORKER_UP: Def =
    Def::gauge("forebay_router_worker_up", "1 where the worker takes requests", &["worker"]);
/// Requests a worker holds from this router.
pub const ROUTER_WORKER_IN_FLIGHT: Def =
    Def::gauge("forebay_router_worker_in_flight_requests", "Requests at the worker, from this router", &["worker"]);
/// What went wrong between router and worker.
pub const ROUTER_UPSTREAM_ERRORS: Def =
    Def::counter("forebay_router_upstream_errors_total", "Failures of workers, by kind", &["kind"]);

// --- policy (decided there, counted by the router) -------------------------------------------------

/// Requests that policy refused.
pub const POLICY_REJECTIONS: Def =
    Def::counter("forebay_policy_rejections_total", "Requests that policy refused", &["reason"]);
/// Choices that the output screen ended.
pub const POLICY_OUTPUT_BLOCKS: Def =
    Def::counter("forebay_policy_output_blocks_total", "Choices that the output screen ended", &[]);
