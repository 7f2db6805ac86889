//! Models in far storage, over real sockets: requests while weights arrive, loads that fail, and
//! another revision taking the place of the one that serves.

#[path = "api/client.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod client;
#[path = "api/worker.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod worker_process;

#[path = "far/arrival.rs"]
mod arrival;
#[path = "far/hashing.rs"]
mod hashing;
#[path = "far/model.rs"]
mod model;
#[path = "far/quantized.rs"]
mod quantized;
#[path = "far/swap.rs"]
mod swap;
