//! The engine thread's current activity, for whoever finds that it no longer beats.
//!
//! Numbers only: no token, no prompt, no name of a request.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use compute::backend::Part;

/// A kind of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for submissions, or for readers.
    #[default]
    Idle,
    /// Deciding what the next step computes.
    Planning,
    /// In the backend.
    Computing,
    /// In the backend again, after a failure, to find out whose fault it was.
    Retrying,
    /// Handing out tokens.
    Answering,
    /// Installing other weights.
    Installing,
}

impl Stage {
    /// The word for `/status` and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Planning => "planning",
            Self::Computing => "computing",
            Self::Retrying => "retrying",
            Self::Answering => "answering",
            Self::Installing => "installing",
        }
    }
}

/// The latest activity of the engine thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// The kind of work.
    #[serde(rename = "activity")]
    pub stage: Stage,
    /// Number of the step, the first being 1.
    pub step: u64,
    /// Sequences in it.
    pub sequences: u32,
    /// Their tokens of prompts.
    pub prefill_tokens: u32,
    /// Their tokens being generated.
    pub decode_tokens: u32,
}

/// An engine that showed no sign of life for longer than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wedge {
    /// Its activity then.
    pub activity: Activity,
    /// The part of the model it was at, where the backend says.
    pub part: Option<Part>,
    /// Time since its last sign of life.
    pub silent: Duration,
    /// Unix milliseconds of its last sign of life.
    pub since_unix_ms: u64,
}

impl fmt::Display for Wedge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Activity { stage, step, sequences, prefill_tokens, decode_tokens } = self.activity;
        write!(formatter, "no sign of life for {:.1} s: {} step {step}", self.silent.as_secs_f64(), stage.as_str())?;
        if let Some(part) = self.part {
            write!(formatter, " at {part}")?;
        }
        write!(
            formatter,
            " of {sequences} sequences, {prefill_tokens} tokens of prompts and {decode_tokens} being generated"
        )
    }
}
