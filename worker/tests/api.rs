//! The worker's HTTP surface, over real sockets: shapes, errors, stops, leaving, draining.
//!
//! Whatever the model says here is a hash of its own tokens (the `scripted` backend): these tests are about how it is
//! asked and answered.

#[path = "api/client.rs"]
mod client;
#[path = "api/worker.rs"]
mod worker_process;

#[path = "api/answers.rs"]
mod answers;
#[path = "api/cache.rs"]
mod cache;
#[path = "api/embeddings.rs"]
mod embeddings;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/life.rs"]
mod life;
#[path = "api/metrics.rs"]
mod metrics;
#[path = "api/releases.rs"]
mod releases;
#[path = "api/requests.rs"]
mod requests;
#[path = "api/stops.rs"]
mod stops;
#[path = "api/structure.rs"]
mod structure;
#[path = "api/tokens.rs"]
mod tokens;
#[path = "api/tools.rs"]
mod tools;
