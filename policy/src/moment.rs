//! Time, as callers tell it.

use std::time::Duration;

/// A point on the caller's monotonic clock: the time since whatever start it chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// Nanoseconds since the start; 584 years at most.
    pub(crate) fn ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}
