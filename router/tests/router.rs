//! The router against workers that fail on demand, over real sockets.

#[path = "router/fleet.rs"]
mod fleet;
#[path = "router/harness.rs"]
mod harness;
#[path = "router/policy.rs"]
mod policy;
#[path = "router/relay.rs"]
mod relay;
#[path = "router/screen.rs"]
mod screen;
