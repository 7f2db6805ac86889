//! A sign that an engine does not live.

use crate::engine::Wedge;
use std::fmt;

/// A sign that an engine does not live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Illness {
    /// Its thread has ended.
    Ended,
    /// A step does not end.
    Wedged(Wedge),
}

impl Illness {
    /// The cause that a dump is named after.
    pub(super) const fn cause(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Wedged(_) => "wedge",
        }
    }
}

impl fmt::Display for Illness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => formatter.write_str("the engine has ended; the log says why"),
            Self::Wedged(wedge) => wedge.fmt(formatter),
        }
    }
}
