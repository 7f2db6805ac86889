//! The cache's configuration: its place and its bounds.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The node's cache of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// True if weights are kept on disk. Without, they are loaded into memory each time.
    pub enabled: bool,
    /// Where; `$FOREBAY_CACHE`, else `$XDG_CACHE_HOME/forebay`, else `~/.cache/forebay` where
    /// absent.
    pub root: Option<PathBuf>,
    /// Uses the cache as it is and never writes to it: its models are found, others are loaded into
    /// memory. A file system that refuses writes makes it so, too.
    pub read_only: bool,
    /// The most bytes it may take; only the disk bounds it where absent. Models that were not used
    /// for longest and are neither pinned nor in use make room.
    pub quota_bytes: Option<u64>,
    /// Bytes of the disk that it leaves to others. 2 GiB: a node whose disk is full evicts its
    /// pods, and that costs more than a load.
    pub min_free_bytes: u64,
    /// After how many new bytes data is made durable. 256 MiB is a fifth of a second of a fast
    /// disk: what a power cut costs.
    pub sync_bytes: u64,
    /// After how many milliseconds it is made durable in any case. 2 s: a slow link's bytes are
    /// the dearest.
    pub sync_interval_ms: u64,
    /// The time that a load that was broken off is kept to be resumed, in milliseconds; then `gc`
    /// removes it. A week: longer than an outage or a holiday.
    pub partial_keep_ms: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            root: None,
            read_only: false,
            quota_bytes: None,
            min_free_bytes: 2 << 30,
            sync_bytes: 256 << 20,
            sync_interval_ms: 2_000,
            partial_keep_ms: 7 * 24 * 3_600_000,
        }
    }
}
