//! The clock that loads go by.

use std::time::Instant;

/// The time; tests stop it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
