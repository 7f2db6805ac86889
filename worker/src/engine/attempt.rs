//! Trying a step, and after a failure finding out whose fault it was.
//!
//! A step that fails or panics is tried again in halves until what fails is one segment alone: that
//! sequence ends, the others have their tokens, which their company does not change. A failed try
//! leaves nothing behind: a step writes keys and values at its segments' own positions only, and a retry
//! writes them again. It knows no sequence and no text.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use compute::backend::{Backend, NotFinite, Outcome, Part, Results, Step, StepError, StepTimes};

/// Failures of a step, or of one segment alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The backend panicked. The text is for the log, not for clients.
    Panic(String),
    /// The backend said no.
    Error(String),
    /// The load has failed: no sequence can be computed.
    Weights(String),
    /// Nobody wants the step any more.
    Unwanted,
    /// NaN or infinity was computed.
    NotFinite,
    /// The tries were used up before it was its turn.
    GivenUp(usize),
}

impl Fault {
    /// The metric's label.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Panic(_) => "panic",
            Self::Error(_) => "error",
            Self::Weights(_) => "weights",
            Self::Unwanted => "unwanted",
            Self::NotFinite => "logits",
            Self::GivenUp(_) => "given_up",
        }
    }

    /// True if a smaller step may do better.
    const fn is_worth_a_try(&self) -> bool {
        matches!(self, Self::Panic(_) | Self::Error(_))
    }

    /// The message for the request.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Panic(_) => {
                "computing this sequence panicked; others are not affected, the worker's log says where, \
                               and a support bundle helps us to mend it"
                    .into()
            }
            Self::Error(why) | Self::Weights(why) => why.clone(),
            Self::Unwanted => "nobody wants the step any more".into(),
            Self::NotFinite => "the model computed something that is no number (NaN or infinity) for this sequence; \
                             others are not affected. Try another prompt, or f32 keys and values (kv_cache_dtype)"
                .into(),
            Self::GivenUp(tries) => format!(
                "a step failed, and after {tries} further tries it was not known which sequence is at fault; try again"
            ),
        }
    }
}

/// Launches a step; a panic in it is a fault like others.
pub(super) fn launch(
    backend: &mut dyn Backend,
    step: &Step<'_>,
    wanted: &mut dyn FnMut(Part) -> bool,
) -> Result<(), Fault> {
    caught(|| backend.launch(step, wanted))
}

/// Collects the oldest step in flight; a panic in it is a fault like others.
pub(super) fn collect(backend: &mut dyn Backend, results: &mut Results) -> Result<StepTimes, Fault> {
    caught(|| backend.collect(results))
}

/// Computes a step from its launch to its results. After a fault nothing is in flight.
pub(super) fn compute(
    backend: &mut dyn Backend,
    step: &Step<'_>,
    wanted: &mut dyn FnMut(Part) -> bool,
    results: &mut Results,
) -> Result<StepTimes, Fault> {
    let computed = launch(backend, step, wanted).and_then(|()| collect(backend, results));
    if computed.is_err() {
        abandon(backend);
    }
    computed
}

/// Forgets what is in flight, as far as the backend still can.
pub(super) fn abandon(backend: &mut dyn Backend) {
    // A backend that panics here fails its next launch as well, which is seen there.
    let _ = catch_unwind(AssertUnwindSafe(|| backend.abandon()));
}

/// A backend's answer, or its panic, as a fault. The backend is used again after a panic: its contract says what a
/// failed step may have left behind.
fn caught<R>(work: impl FnOnce() -> Result<R, StepError>) -> Result<R, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(fault(&error)),
        Err(panic) => Err(Fault::Panic(message(&*panic))),
    }
}

/// Outcomes of a failed step's segments, each by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    /// Per segment the outcome, or the fault.
    pub(super) outcomes: Vec<Result<Outcome, Fault>>,
    /// Number of tries.
    pub(super) tries: usize,
}

/// Computes the segments of a step that failed with `first`: in halves, then in halves of those that
/// fail again, with at most `tries_max` tries. With k of n at fault that is some 2k·log₂(n) tries. Nothing is in flight.
/// `beat` is called before each try.
pub(super) fn apart(
    backend: &mut dyn Backend,
    step: &Step<'_>,
    first: Fault,
    tries_max: usize,
    wanted: &mut dyn FnMut(Part) -> bool,
    beat: &dyn Fn(),
) -> Parts {
    let segments = step.segments;
    let mut parts = Parts { outcomes: vec![Err(Fault::GivenUp(tries_max)); segments.len()], tries: 0 };
    let (mut todo, mut results) = (Vec::new(), Results::default());
    refuse(0..segments.len(), first, &mut todo, &mut parts);
    while let Some(range) = todo.pop() {
        if parts.tries == tries_max {
            break;
        }
        parts.tries += 1;
        // Each try may take as long as a step.
        beat();
        let half = Step { segments: &segments[range.clone()], ..*step };
        match compute(backend, &half, wanted, &mut results) {
            Ok(_) => {
                for (at, outcome) in range.zip(results.outcomes.drain(..)) {
                    parts.outcomes[at] = outcome.map_err(|NotFinite| Fault::NotFinite);
                }
            }
            Err(fault) => refuse(range, fault, &mut todo, &mut parts),
        }
    }
    parts
}

/// Notes a failed try: its halves are to be tried, or there are none.
fn refuse(range: Range<usize>, fault: Fault, todo: &mut Vec<Range<usize>>, parts: &mut Parts) {
    if range.len() > 1 && fault.is_worth_a_try() {
        let middle = range.start + range.len() / 2;
        // The older half is tried first: the last of the list.
        todo.push(middle..range.end);
        todo.push(range.start..middle);
        return;
    }
    parts.outcomes[range].fill(Err(fault));
}

fn fault(error: &StepError) -> Fault {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    match error {
        StepError::Unwanted { .. } => Fault::Unwanted,
        StepError::Weights { .. } => Fault::Weights(text),
        StepError::Contract(_) | StepError::Device { .. } => Fault::Error(text),
    }
}

/// A panic's message.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use compute::backend::{Generation, Input, InstallError, Limits, Location, Makes, Prepared, Segment, Want};
    use compute::sampler::{Choice, Chosen, Logprobs};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// It chooses the token it is given; tokens of `bad` make it panic (odd) or fail (even), half of them when they are
    /// launched and half when they are collected.
    struct Touchy {
        limits: Limits,
        bad: Vec<u32>,
        in_flight: Option<Vec<u32>>,
        tries: usize,
    }

    impl Touchy {
        fn new(bad: Vec<u32>) -> Self {
            let limits = Limits {
                vocab_size: 2,
                max_position: 8,
                max_rows: 64,
                max_logits_rows: 64,
                kv_block_tokens: 8,
                kv_blocks: 64,
                kv_block_bytes: 1,
                hidden_size: 1,
                makes: Makes::Logits,
                is_whole: false,
                sums: true,
                depth: 1,
            };
            Self { limits, bad, in_flight: None, tries: 0 }
        }

        fn touch(&self, tokens: &[u32], is_launch: bool) -> Result<(), StepError> {
            let is_now = |token: &&u32| self.bad.contains(token) && (**token % 4 < 2) == is_launch;
            let Some(bad) = tokens.iter().find(is_now) else { return Ok(()) };
            assert!(bad % 2 == 0, "token {bad} panics");
            Err(StepError::Contract(format!("token {bad}")))
        }
    }

    impl Backend for Touchy {
        fn name(&self) -> &'static str {
            "touchy"
        }

        fn limits(&self) -> &Limits {
            &self.limits
        }

        fn launch(&mut self, step: &Step<'_>, _wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
            assert!(self.in_flight.is_none(), "a step was left in flight");
            self.tries += 1;
            let first = |segment: &Segment<'_>| match segment.input {
                Input::Tokens(tokens) => tokens[0],
                Input::Previous(_) => unreachable!("one step at a time"),
            };
            let tokens: Vec<u32> = step.segments.iter().map(first).collect();
            self.touch(&tokens, true)?;
            self.in_flight = Some(tokens);
            Ok(())
        }

        fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
            let tokens = self.in_flight.clone().expect("a step is in flight");
            self.touch(&tokens, false)?;
            let token = |&id: &u32| Some(Chosen { id, logprobs: None::<Logprobs> });
            results.outcomes.clear();
            results.outcomes.extend(tokens.iter().map(|id| Ok(Outcome { token: token(id), ..Outcome::default() })));
            self.in_flight = None;
            Ok(StepTimes::default())
        }

        fn abandon(&mut self) {
            self.in_flight = None;
        }

        fn report_to(&mut self, _location: &Arc<Location>) {}

        fn install(&mut self, _weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
            Err(InstallError::Unsupported { backend: "touchy" })
        }

        fn retire(&mut self, _generation: Generation) {}
    }

    fn quietly<T>(work: impl FnOnce() -> T) -> T {
        // Panics of these tests are meant; their backtraces would bury others.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !info.to_string().contains("panics") {
                    usual(info);
                }
            }));
        });
        work()
    }

    fn tried(count: u32, bad: &[u32], tries_max: usize) -> Parts {
        let tokens: Vec<[u32; 2]> = (0..count).map(|token| [token; 2]).collect();
        let want = Want::Token(Choice::greedy());
        let segments: Vec<Segment<'_>> = tokens
            .iter()
            .map(|tokens| Segment { input: Input::Tokens(tokens), start: 0, blocks: &[0], want })
            .collect();
        let step = Step { generation: Generation(0), segments: &segments };
        let mut backend = Touchy::new(bad.to_vec());
        let first = quietly(|| compute(&mut backend, &step, &mut |_| true, &mut Results::default()));
        let first = first.expect_err("somebody is at fault");
        quietly(|| apart(&mut backend, &step, first, tries_max, &mut |_| true, &|| ()))
    }

    proptest! {
        #[test]
        fn only_those_at_fault_fail_and_the_others_have_their_own_tokens(
            count in 1_u32..40,
            picks in prop::collection::btree_set(0_u32..40, 1..5),
        ) {
            let bad: Vec<u32> = picks.into_iter().map(|pick| pick % count).collect();
            let parts = tried(count, &bad, usize::MAX);
            for (token, outcome) in (0..).zip(&parts.outcomes) {
                prop_assert_eq!(outcome.is_err(), bad.contains(&token), "{}: {:?}", token, outcome);
                let Ok(outcome) = outcome else { continue };
                prop_assert_eq!(outcome.token.as_ref().map(|chosen| chosen.id), Some(token));
            }
            prop_assert!(parts.tries <= 2 * count as usize, "{} tries", parts.tries);
        }

        #[test]
        fn tries_are_bounded(count in 2_u32..40, tries_max in 0_usize..10) {
            let everyone: Vec<u32> = (0..count).collect();
            let parts = tried(count, &everyone, tries_max);
            prop_assert!(parts.tries <= tries_max);
            prop_assert!(parts.outcomes.iter().all(Result::is_err));
        }
    }

    #[test]
    fn one_of_sixteen_is_found_in_eight_tries() {
        assert_eq!(tried(16, &[5], 64).tries, 8);
    }
}
