//! Bounds of an engine, and its handling of failed steps.

use std::path::PathBuf;
use std::time::Duration;

/// The engine's own bounds; the backend has the device's.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The most sequences generated at a time.
    pub max_num_seqs: usize,
    /// The longest sequence, prompt and completion together.
    pub max_model_len: usize,
    /// The share of prompts in a step that also decodes.
    pub beside_decodes: BesideDecodes,
    /// The most sequences that may wait.
    pub queue_max: usize,
    /// Longest pause of a sequence for a slow reader; it is ended then.
    pub reader_stall: Duration,
    /// Keeps full KV blocks and shares them between sequences that begin alike.
    pub enable_prefix_caching: bool,
    /// The time waited that one level of priority is worth; first come, first served if none.
    pub priority_level: Option<Duration>,
    /// Handling of failed steps.
    pub faults: FaultOptions,
}

/// The share of prompts in a step that also decodes: a bound on how much they slow running streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BesideDecodes {
    /// The most rows of prompts, counted as rows at their beginning; at least 1.
    pub rows: usize,
    /// The most of those for long prompts, together; at least 1.
    pub long_rows: usize,
    /// A prompt is long that has more tokens than this to compute.
    pub long_tokens: usize,
    /// Number of positions before a row that double its cost, in attention; 0 where they cost nothing.
    pub positions_a_row: usize,
}

/// Handling of failed steps, and what is recorded for diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultOptions {
    /// The most further tries of a failed step, to find out whose fault it was.
    pub step_retries_max: usize,
    /// The most bytes of the flight recorder.
    pub recorder_bytes: usize,
    /// Directory of flight recorder dumps; only the log if none.
    pub recorder_dir: Option<PathBuf>,
}

impl Default for FaultOptions {
    /// 64 tries find four of 256 sequences; a mebibyte is some ten thousand steps.
    fn default() -> Self {
        Self { step_retries_max: 64, recorder_bytes: 1 << 20, recorder_dir: None }
    }
}
