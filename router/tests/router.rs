//! The router against workers that fail on demand, over real sockets.

#[path = "router/discovery.rs"]
mod discovered;
#[path = "router/edges.rs"]
mod edges;
#[path = "router/embeddings.rs"]
mod embeddings;
#[path = "router/fleet.rs"]
mod fleet;
#[path = "router/harness.rs"]
mod harness;
#[path = "router/limits.rs"]
mod limits;
#[path = "router/load.rs"]
mod load;
#[path = "router/pick.rs"]
mod pick;
#[path = "router/policy.rs"]
mod policy;
#[path = "router/relay.rs"]
mod relay;
#[path = "router/reload.rs"]
mod reload;
#[path = "router/screen.rs"]
mod screen;
#[path = "router/time.rs"]
mod time;
#[path = "router/tries.rs"]
mod tries;
#[path = "router/usage.rs"]
mod usage;
