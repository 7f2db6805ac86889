//! The header names that our hops agree on. All lower case, as HTTP/2 wants them.

/// The request's id: taken from the client when it is sane, made at the first hop otherwise, and
/// echoed on every response.
pub const REQUEST_ID: &str = "x-request-id";
/// On a worker's response: the request's fields that nobody knows, comma separated.
pub const IGNORED: &str = "x-forebay-ignored";
/// On a worker's response: sequences waiting to be scheduled.
pub const QUEUE_WAITING: &str = "x-forebay-queue-waiting";
/// On a worker's response: sequences being generated.
pub const QUEUE_RUNNING: &str = "x-forebay-queue-running";
/// On a worker's response: the used share of its KV blocks, 0 to 1.
pub const KV_USAGE: &str = "x-forebay-kv-usage";
/// On a worker's 429 or 503: `worker` where it concerns every model of this worker, as while it
/// drains. Anything else concerns the model that was asked for.
pub const SCOPE: &str = "x-forebay-scope";
/// On a router's response: the labels of the lists that the prompt holds phrases of, comma separated.
pub const ANNOTATIONS: &str = "x-forebay-annotations";
/// On a router's response: the worker that answered.
pub const WORKER: &str = "x-forebay-worker";

/// On a request to a router `1`, and on its answer: why this worker was picked.
pub const EXPLAIN: &str = "x-forebay-explain";

/// On a router's request to a worker: whose prefixes may be shared with whom. A digest of the tenant; what a client
/// says of it never passes a router.
pub const CACHE_SALT: &str = "x-forebay-cache-salt";

/// The headers that carry a client's key: OpenAI's, Azure's and Anthropic's.
pub const KEYS: [&str; 3] = ["authorization", "api-key", "x-api-key"];
/// On our errors: `false` where the same request is not worth sending again (OpenAI's clients heed it).
pub const SHOULD_RETRY: &str = "x-should-retry";

/// Requests the tenant may make per window.
pub const RATELIMIT_LIMIT_REQUESTS: &str = "x-ratelimit-limit-requests";
/// Requests left in it.
pub const RATELIMIT_REMAINING_REQUESTS: &str = "x-ratelimit-remaining-requests";
/// Time until all of them are back, as `1s` or `6m0s`.
pub const RATELIMIT_RESET_REQUESTS: &str = "x-ratelimit-reset-requests";
/// Tokens the tenant may use per minute.
pub const RATELIMIT_LIMIT_TOKENS: &str = "x-ratelimit-limit-tokens";
/// Tokens left of them, this request's reserve counted.
pub const RATELIMIT_REMAINING_TOKENS: &str = "x-ratelimit-remaining-tokens";
/// Time until all of them are back, as `1s` or `6m0s`.
pub const RATELIMIT_RESET_TOKENS: &str = "x-ratelimit-reset-tokens";
