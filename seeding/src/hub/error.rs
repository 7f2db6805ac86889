//! Errors of starting a node.

use std::net::SocketAddr;

use thiserror::Error;

/// Errors of starting a node.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The hub's address is none.
    #[error("the hub's address `{endpoint}` {problem}; set node.hub_endpoint, as in https://huggingface.co")]
    Endpoint {
        /// The address as it was given.
        endpoint: String,
        /// The problem.
        problem: &'static str,
    },
    /// The hub's address is the node's own.
    #[error(
        "HF_ENDPOINT or node.hub_endpoint is {endpoint}, where this node itself listens ({address}): it would ask itself; \
         set node.hub_endpoint to the hub behind it"
    )]
    Itself {
        /// The address of the hub.
        endpoint: String,
        /// The address of the node.
        address: SocketAddr,
    },
    /// Two models have one name.
    #[error("two models are called `{name}`; give one another name, as in NAME=MODEL")]
    SameName {
        /// The name.
        name: String,
    },
    /// A model's name cannot be a part of a path.
    #[error("a model cannot be called `{name}`: its name {problem}")]
    Name {
        /// The name.
        name: String,
        /// The problem.
        problem: String,
    },
}
