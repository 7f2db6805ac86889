//! Results of steps: made from logits by any backend, kept until they are collected.

use crate::error::StepError;
use crate::sampler::{self, Choice, Chosen, Logprobs, Scratch};
use crate::step::{Pooling, Segment, Want};
use std::collections::VecDeque;
use std::time::Duration;

/// The outcomes of one step, in the order of its segments. Reused from step to step, it allocates nothing once the largest
/// step has been seen.
#[derive(Debug, Default)]
pub struct Results {
    /// One for each segment.
    pub outcomes: Vec<Result<Outcome, NotFinite>>,
}

/// The result of a segment. Empty lists take no memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The token after the last row.
    pub token: Option<Chosen>,
    /// Log probabilities of the tokens asked about.
    pub scores: Vec<Logprobs>,
    /// Hidden states, row by row; or scores of classes.
    pub hidden: Vec<f32>,
}

/// NaN or infinity was computed for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

/// Durations within a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// In the model.
    pub compute: Duration,
    /// Choosing tokens and scoring prompts.
    pub choose: Duration,
}

/// Makes the outcome of a segment from its rows of logits, those that [`Segment::picked`] says.
pub(crate) fn outcome(
    segment: &Segment<'_>,
    previous: Option<u32>,
    logits: &[f32],
    vocabulary: usize,
    scratch: &mut Scratch,
) -> Result<Outcome, NotFinite> {
    if !are_finite(logits) {
        return Err(NotFinite);
    }
    let last = &logits[logits.len().saturating_sub(vocabulary)..];
    let choose = |choice: Choice<'_>, scratch: &mut Scratch| {
        previous.map_or(choice, |token| choice.after(token)).make(last, scratch)
    };
    let mut outcome = Outcome::default();
    match segment.want {
        Want::Nothing | Want::Hidden(_) | Want::Classes => {}
        Want::Token(then) => outcome.token = Some(choose(then, scratch)),
        Want::Scores { next, top, then } => {
            let rows = logits.chunks_exact(vocabulary).zip(next);
            outcome.scores = rows.map(|(row, &token)| sampler::logprobs(row, token, top, scratch)).collect();
            outcome.token = then.map(|then| choose(then, scratch));
        }
    }
    Ok(outcome)
}

/// The outcome of a segment that wants hidden states.
pub(crate) fn hidden(states: &[f32]) -> Result<Outcome, NotFinite> {
    if !are_finite(states) {
        return Err(NotFinite);
    }
    Ok(Outcome { hidden: states.to_vec(), ..Outcome::default() })
}

/// True if a segment wants hidden states rather than logits.
pub(crate) fn wants_hidden(segment: &Segment<'_>) -> bool {
    matches!(segment.want, Want::Hidden(Pooling::Every | Pooling::First | Pooling::Last | Pooling::Sum))
}

/// True if no number is NaN or infinity. One pass without a branch, since it is made over every row that is sampled.
fn are_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    numbers.iter().fold(0, |worst: u32, number| worst | u32::from(number.to_bits() & EXPONENT == EXPONENT)) == 0
}

/// Results of steps that were computed and not collected yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    ready: VecDeque<(Results, StepTimes)>,
    /// Memory of results that were collected.
    spare: Vec<Results>,
}

impl Outbox {
    /// Number of steps that wait to be collected.
    pub(crate) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Results to fill, empty.
    pub(crate) fn begin(&mut self) -> Results {
        let mut results = self.spare.pop().unwrap_or_default();
        results.outcomes.clear();
        results
    }

    /// A step was computed.
    pub(crate) fn push(&mut self, results: Results, times: StepTimes) {
        self.ready.push_back((results, times));
    }

    /// The token that a segment of the step launched last chooses.
    ///
    /// # Errors
    /// There is no such step or segment, or it chooses none.
    pub(crate) fn previous(&self, segment: usize) -> Result<u32, StepError> {
        let outcome = self.ready.back().and_then(|(results, _)| results.outcomes.get(segment));
        match outcome {
            Some(Ok(Outcome { token: Some(chosen), .. })) => Ok(chosen.id),
            // The sequence ends when that step is collected: any token will do until then.
            Some(Err(NotFinite)) => Ok(0),
            Some(Ok(_)) | None => {
                Err(StepError::Contract(format!("segment {segment} of the step before chooses no token")))
            }
        }
    }

    /// Hands out the oldest results; the memory of the caller's last ones is used again.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        let Some((oldest, times)) = self.ready.pop_front() else {
            return Err(StepError::Contract("no step is in flight".into()));
        };
        self.spare.push(std::mem::replace(results, oldest));
        Ok(times)
    }

    /// Forgets every step.
    pub(crate) fn clear(&mut self) {
        self.spare.extend(self.ready.drain(..).map(|(results, _)| results));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_seen() {
        assert!(are_finite(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE / 2.0]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!are_finite(&[0.0, 1.0, bad, 2.0]), "{bad}");
        }
    }

    #[test]
    fn steps_are_handed_out_in_order_and_their_memory_is_used_again() {
        let mut outbox = Outbox::default();
        let mut results = Results::default();
        assert!(outbox.collect(&mut results).is_err() && outbox.previous(0).is_err());
        for id in 0..2 {
            let mut step = outbox.begin();
            let token = Some(Chosen { id, logprobs: None });
            step.outcomes.push(Ok(Outcome { token, ..Outcome::default() }));
            outbox.push(step, StepTimes::default());
            assert_eq!(outbox.previous(0).expect("a token"), id);
        }
        for id in 0..2 {
            outbox.collect(&mut results).expect("a step");
            let outcome = results.outcomes[0].as_ref().expect("finite");
            assert_eq!(outcome.token.as_ref().map(|chosen| chosen.id), Some(id));
        }
        assert!(outbox.collect(&mut results).is_err());
        assert!(outbox.spare.len() <= 3);
    }
}
