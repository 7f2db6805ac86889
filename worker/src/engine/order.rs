//! The order of sequences: priority against time waited.
//!
//! A sequence is due at its arrival, plus a step of time for each level of its priority (lower is earlier, as in
//! vLLM). Who has the earlier due time goes first, whether it waits or runs. Since due times do not move and the
//! clock does, nobody is overtaken for longer than the levels between two priorities are worth: no starvation.

use std::time::Duration;

/// Priorities beyond ± this many levels count as this many: it bounds how long anybody may be overtaken.
pub(super) const LEVELS_MAX: i64 = 100;

/// A place in the order; equal due times go by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    due_ms: i64,
    arrival: u64,
}

impl Order {
    /// The place of the `arrival`th sequence, `since_begin` after the engine's begin. Without a `level`, what one
    /// level of priority is worth, it is first come, first served.
    pub(super) fn new(since_begin: Duration, arrival: u64, priority: i64, level: Option<Duration>) -> Self {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2);
        let levels = priority.clamp(-LEVELS_MAX, LEVELS_MAX);
        let due_ms = level.map_or(0, |level| ms(since_begin).saturating_add(levels.saturating_mul(ms(level))));
        Self { due_ms, arrival }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_worth_its_time_and_no_more() {
        let level = Some(Duration::from_secs(10));
        let at = |seconds, arrival, priority| Order::new(Duration::from_secs(seconds), arrival, priority, level);
        assert!(at(9, 1, 0) < at(0, 0, 1), "nine seconds later and more urgent: first");
        assert!(at(0, 0, 1) < at(11, 1, 0), "eleven seconds later: it has waited long enough");
        assert!(at(0, 0, 5) < at(0, 1, 5) && at(5, 1, -1) < at(0, 0, 0));
        assert!(at(0, 0, i64::MAX) < at(2001, 1, i64::MIN), "no priority overtakes for ever");
        let plain = |arrival, priority| Order::new(Duration::ZERO, arrival, priority, None);
        assert!(plain(0, 9) < plain(1, -9), "first come, first served");
    }
}
