//! The arguments of `forebay eval safety`.

use std::num::NonZeroUsize;

/// Plants denied phrases in prompts and answers, in every spelling and however they are cut, and counts those that get
/// through the screen. Needs no server: it measures the one in this program.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  forebay eval safety
  forebay eval safety --trials 100000000 --json

Exit code: 0 when nothing leaked and nothing was blocked by mistake; 1 otherwise.")]
pub struct SafetyArgs {
    /// How many phrases are planted
    #[arg(long, default_value_t = 1_000_000)]
    pub trials: u64,
    /// Decides every trial; the same seed makes the same ones
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads [default: one for each core]
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
