//! The flight recorder: what the last steps were, in a ring of bounded bytes.
//!
//! Numbers only. It has no place for a token, a prompt or a name of a request, so what it holds may
//! be handed to others as it is. It reads no clock: times are given to it.

use std::collections::VecDeque;

use serde::Serialize;

/// One step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StepRecord {
    /// Number of the step; the first of an engine is 1.
    pub step: u64,
    /// When its planning began, in milliseconds since the engine started.
    pub began_ms: u64,
    /// Microseconds from there to its end.
    pub took_us: u32,
    /// Microseconds of those within the backend, failed tries included.
    pub backend_us: u32,
    /// Sequences computed.
    pub sequences: u32,
    /// Tokens of prompts, and of preempted sequences that are computed again.
    pub prefill_tokens: u32,
    /// Tokens of sequences that generate.
    pub decode_tokens: u32,
    /// Sequences that began.
    pub admitted: u32,
    /// Sequences that gave their blocks back, to be computed again.
    pub preempted: u32,
    /// Sequences that wait, after planning.
    pub waiting: u32,
    /// Sequences that are generated, after planning.
    pub running: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// Further tries after a failure.
    pub retries: u32,
    /// Sequences that a failure ended.
    pub failed: u32,
}

/// The last steps of an engine.
#[derive(Debug)]
pub(super) struct Recorder {
    ring: VecDeque<StepRecord>,
    /// Capacity in steps.
    room: usize,
    /// Steps that were dropped for newer ones.
    dropped: u64,
}

impl Recorder {
    /// A recorder of at most `bytes`, and of one step at least.
    pub(super) fn new(bytes: usize) -> Self {
        let room = (bytes / size_of::<StepRecord>()).max(1);
        Self { ring: VecDeque::with_capacity(room), room, dropped: 0 }
    }

    /// Adds a step; the oldest goes where there is no room. Allocates nothing.
    pub(super) fn push(&mut self, step: StepRecord) {
        if self.ring.len() == self.room {
            self.ring.pop_front();
            self.dropped += 1;
        }
        self.ring.push_back(step);
    }

    /// Number of steps it holds.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// The last `count` steps, oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<StepRecord> {
        self.ring.iter().skip(self.ring.len().saturating_sub(count)).copied().collect()
    }

    /// Steps that are there no more.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(number: u64) -> StepRecord {
        StepRecord { step: number, ..StepRecord::default() }
    }

    proptest! {
        #[test]
        fn it_keeps_the_newest_within_its_bytes(bytes in 0_usize..5000, steps in 0_u64..200, wanted in 0_usize..300) {
            let mut recorder = Recorder::new(bytes);
            let room = recorder.ring.capacity();
            (1..=steps).for_each(|number| recorder.push(step(number)));
            prop_assert_eq!(recorder.ring.capacity(), room, "it grew");
            prop_assert!(recorder.len() * size_of::<StepRecord>() <= bytes.max(size_of::<StepRecord>()));
            prop_assert_eq!(recorder.dropped() + recorder.len() as u64, steps);
            let last: Vec<u64> = recorder.last(wanted).iter().map(|step| step.step).collect();
            let first = steps - (wanted.min(recorder.len()) as u64) + 1;
            prop_assert_eq!(last, (first..=steps).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_step_takes_less_than_a_hundred_bytes() {
        // What the default of `flight_recorder_bytes` counts on: some minutes of steps in a mebibyte.
        assert!(size_of::<StepRecord>() <= 96, "{}", size_of::<StepRecord>());
    }
}
