//! The configuration of a node.

use std::net::SocketAddr;
use std::time::Duration;

use listen::ListenConfig;
use policy::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::SeedingConfig;

/// This machine's cache for other engines, without a worker: the hub's read protocol and plain ranged HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node's address and bounds. Loopback, port 8083: engines on this machine set
    /// `HF_ENDPOINT=http://127.0.0.1:8083`.
    pub listen: ListenConfig,
    /// The hub behind the node, such as `https://huggingface.co`. Where absent, `HF_ENDPOINT` of the node's own
    /// environment, else the public hub.
    pub hub_endpoint: Option<String>,
    /// The key for `/models/…` and `/status` from other machines, as a bearer token. Where absent, both are for
    /// callers on this machine. Repositories of the hub ask for the caller's hub token instead.
    pub api_key: Option<Secret>,
    /// The time for which the hub's yes to a caller about a file counts, in milliseconds. 60 s: a model's files are
    /// asked for within it, and a token that is withdrawn stops soon.
    pub right_ms: u64,
    /// The time for which an earlier yes counts while the hub is away, in milliseconds. An hour: longer than most
    /// outages, and shorter than a working day.
    pub right_away_ms: u64,
    /// The most answers of the hub about callers that are remembered; the oldest go first. Each has some 300 bytes.
    pub rights_max: usize,
    /// The most questions to the hub at a time; more wait. 32 is what eight clients ask at once.
    pub hub_requests_max: usize,
    /// The time that the hub has to answer one question, in milliseconds. 8 s, because its clients give up after ten.
    pub hub_timeout_ms: u64,
    /// The most models and files that are filled at a time; more wait. Each fill alone can use the whole link.
    pub fills_max: usize,
    /// The most models and files that are open at a time, filled ones included; more are refused.
    pub open_max: usize,
    /// The time for which a fill goes on when nobody asks for it any more, in milliseconds. Ten minutes: a client that
    /// lost patience comes back, and what is here until then is kept in any case.
    pub abandoned_fill_ms: u64,
    /// The time for which a model or file stays open when nobody reads it, in milliseconds. 30 s: the files of a model
    /// are read one after the other. What is open cannot be evicted.
    pub idle_open_ms: u64,
    /// The most answers with bytes at a time; more are refused. Each holds two pieces of 1 MiB at most.
    pub bodies_max: usize,
    /// The most repositories of which notes are kept in the cache, for when the hub is away.
    pub notes_max: usize,
    /// This machine's cache for peers: what is finished, and what is being filled.
    pub peers: SeedingConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 8083));
        Self {
            listen: ListenConfig { address, ..ListenConfig::default() },
            hub_endpoint: None,
            api_key: None,
            right_ms: 60_000,
            right_away_ms: 3_600_000,
            rights_max: 16_384,
            hub_requests_max: 32,
            hub_timeout_ms: 8_000,
            fills_max: 4,
            open_max: 256,
            abandoned_fill_ms: 600_000,
            idle_open_ms: 30_000,
            bodies_max: 256,
            notes_max: 4_096,
            peers: SeedingConfig::default(),
        }
    }
}

impl NodeConfig {
    /// Describes the first mistake in it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some((field, problem)) = self.listen.problem() {
            return Some(format!("node.listen.{field}: {problem}"));
        }
        if let Some((field, problem)) = self.peers.problem() {
            return Some(format!("node.peers.{field}: {problem}"));
        }
        if let Some(problem) = self.api_key.as_ref().and_then(Secret::key_problem) {
            return Some(format!("node.api_key {problem}"));
        }
        let bounds = [
            ("rights_max", self.rights_max),
            ("hub_requests_max", self.hub_requests_max),
            ("fills_max", self.fills_max),
            ("open_max", self.open_max),
            ("bodies_max", self.bodies_max),
            ("notes_max", self.notes_max),
        ];
        let zero = bounds.into_iter().find(|(_, bound)| *bound == 0);
        zero.map(|(name, _)| format!("node.{name}: 0 lets nothing through; give at least 1"))
    }

    pub(super) fn right(&self) -> Duration {
        Duration::from_millis(self.right_ms)
    }

    pub(super) fn right_away(&self) -> Duration {
        Duration::from_millis(self.right_away_ms)
    }

    pub(super) fn hub_timeout(&self) -> Duration {
        Duration::from_millis(self.hub_timeout_ms)
    }

    pub(super) fn abandoned_fill(&self) -> Duration {
        Duration::from_millis(self.abandoned_fill_ms)
    }

    pub(super) fn idle_open(&self) -> Duration {
        Duration::from_millis(self.idle_open_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_zero_is_named() {
        assert_eq!(NodeConfig::default().problem(), None);
        let problem = NodeConfig { fills_max: 0, ..NodeConfig::default() }.problem().expect("a problem");
        assert!(problem.contains("node.fills_max"), "{problem}");
    }
}
