//! The queue of fetches that are to begin, and of those that wait for another attempt. It knows no time but its arguments.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::plan::Fetch;

/// Work in order, and work that is due later.
pub(super) struct Queue<P> {
    fresh: VecDeque<(usize, Range<u64>)>,
    waiting: Vec<(Instant, P)>,
}

impl<P> Queue<P> {
    pub(super) fn new(fetches: Vec<Fetch>) -> Self {
        let fresh = fetches.into_iter().map(|fetch| (fetch.file, fetch.extents)).collect();
        Self { fresh, waiting: Vec::new() }
    }

    /// Puts something aside until `due`.
    pub(super) fn wait(&mut self, due: Instant, active: P) {
        self.waiting.push((due, active));
    }

    /// Takes the fetch that is longest overdue.
    pub(super) fn due(&mut self, now: Instant) -> Option<P> {
        let earliest = (0..self.waiting.len()).min_by_key(|&index| self.waiting[index].0)?;
        (self.waiting[earliest].0 <= now).then(|| self.waiting.swap_remove(earliest).1)
    }

    /// The time at which the next waiting fetch is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    /// The extents to begin with next. `is_there` says which need no fetching any more; towards the
    /// end, when fewer fetches are left than `connections`, single extents are handed out, so that
    /// the tail is spread over all of them.
    pub(super) fn next(
        &mut self,
        connections: usize,
        is_there: impl Fn(usize, u64) -> bool,
    ) -> Option<(usize, Range<u64>)> {
        let is_tail = self.fresh.len() < connections;
        while let Some((file, extents)) = self.fresh.pop_front() {
            let Some(start) = extents.clone().find(|&extent| !is_there(file, extent)) else { continue };
            let length_max = if is_tail { 1 } else { extents.end - start };
            let missing = (start..extents.end).take_while(|&extent| !is_there(file, extent)).count() as u64;
            let end = start + missing.min(length_max);
            if end < extents.end {
                self.fresh.push_front((file, end..extents.end));
            }
            return Some((file, start..end));
        }
        None
    }

    /// Puts back what [`Queue::next`] gave.
    pub(super) fn put_back(&mut self, file: usize, extents: Range<u64>) {
        self.fresh.push_front((file, extents));
    }

    /// Returns true if there is something to begin.
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn queue(lengths: &[u64]) -> Queue<u8> {
        let mut at = 0;
        let fetches = lengths.iter().map(|length| {
            at += length;
            Fetch { file: 0, extents: at - length..at, first_tensor: 0 }
        });
        Queue::new(fetches.collect())
    }

    #[test]
    fn the_tail_is_spread_over_the_connections() {
        let mut queue = queue(&[2, 2, 2, 2]);
        let mut taken = Vec::new();
        while let Some((_, extents)) = queue.next(3, |_, _| false) {
            taken.push(extents);
        }
        assert_eq!(taken, [0..2, 2..4, 4..5, 5..6, 6..7, 7..8]);
    }

    #[test]
    fn what_waits_is_handed_out_when_due_the_earliest_first() {
        let (mut queue, now) = (queue(&[]), Instant::now());
        queue.wait(now + Duration::from_secs(2), 2);
        queue.wait(now + Duration::from_secs(1), 1);
        assert_eq!((queue.due(now), queue.next_due()), (None, Some(now + Duration::from_secs(1))));
        let later = now + Duration::from_secs(2);
        assert_eq!((queue.due(later), queue.due(later), queue.due(later)), (Some(1), Some(2), None));
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn every_missing_extent_is_handed_out_once_in_order(
            lengths in prop::collection::vec(1u64..5, 0..40),
            connections in 0usize..20,
            there: u64,
        ) {
            let is_there = |_: usize, extent: u64| there >> (extent % 64) & 1 == 1;
            let mut queue = queue(&lengths);
            let mut taken = Vec::new();
            while let Some((_, extents)) = queue.next(connections, is_there) {
                prop_assert!(!extents.is_empty());
                taken.extend(extents);
            }
            let missing: Vec<u64> = (0..lengths.iter().sum()).filter(|&extent| !is_there(0, extent)).collect();
            prop_assert_eq!(taken, missing);
        }
    }
}
