//! A node's state, for people and scripts.

use serde::Serialize;
use wire::status::{SeedingStatus, SourcePeer};

use super::fills;
use super::node::Node;
use super::plain;

/// One snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    draining: bool,
    offline: bool,
    /// The hub behind the node.
    hub: String,
    /// The models that the operator named.
    models: Vec<plain::Shown>,
    /// Models and files that are open: filled, or being filled.
    open: Vec<fills::Shown>,
    /// The hub's answers to callers that are remembered.
    rights: usize,
    /// Weights that peers may have, and had.
    #[serde(skip_serializing_if = "Option::is_none")]
    seeding: Option<SeedingStatus>,
    /// The peers that fills take weights from, or took: the latest of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<SourcePeer>,
}

impl Status {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            draining: node.drain.is_draining(),
            offline: node.is_offline(),
            hub: node.upstream.endpoint().to_owned(),
            models: node.plain.shown(),
            open: node.fills.shown(),
            rights: node.rights.lock().len(),
            seeding: node.seeding(),
            sources: node.loader.source_peers(),
        }
    }
}
