//! A node over sockets, before a hub that is ours.

#[path = "hub/access.rs"]
mod access;
#[path = "hub/away.rs"]
mod away;
#[path = "hub/bounds.rs"]
mod bounds;
#[path = "hub/filling.rs"]
mod filling;
#[path = "hub/fleet.rs"]
mod fleet;
#[path = "hub/harness.rs"]
mod harness;
#[path = "hub/protocol.rs"]
mod protocol;
