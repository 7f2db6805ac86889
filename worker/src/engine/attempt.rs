//! Trying a step, and after a failure finding out whose fault it was.
//!
//! A step that fails or panics is tried again in halves until what fails is one segment alone: that
//! sequence ends, the others have their logits, which their company does not change. A failed try
//! leaves nothing behind: a step writes keys and values at its segments' own positions only, a retry
//! writes them again, and the arena is laid out anew by every step. It knows no sequence and no text.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use compute::backend::{Backend, Generation, Part, Segment, StepError, WantLogits};

/// Why a step, or one segment alone, was not computed.
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
    /// The logits hold what is no number.
    Logits,
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
            Self::Logits => "logits",
            Self::GivenUp(_) => "given_up",
        }
    }

    /// Whether smaller company may do better.
    const fn is_worth_a_try(&self) -> bool {
        matches!(self, Self::Panic(_) | Self::Error(_))
    }

    /// What the request is told.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Panic(_) => {
                "computing this sequence panicked; others are not affected, the worker's log says where, \
                               and a support bundle helps us to mend it"
                    .into()
            }
            Self::Error(why) | Self::Weights(why) => why.clone(),
            Self::Unwanted => "nobody wants the step any more".into(),
            Self::Logits => "the model computed something that is no number (NaN or infinity) for this sequence; \
                             others are not affected. Try another prompt, or f32 keys and values (kv_cache_dtype)"
                .into(),
            Self::GivenUp(tries) => format!(
                "a step failed, and after {tries} further tries it was not known which sequence is at fault; try again"
            ),
        }
    }
}

/// One try of a step; a panic in it is a fault like others.
pub(super) fn guarded<'b>(
    backend: &'b mut dyn Backend,
    generation: Generation,
    segments: &[Segment<'_>],
    goes_on: &mut dyn FnMut(Part) -> bool,
) -> Result<&'b [f32], Fault> {
    match caught(move || backend.step_of(generation, segments, goes_on)) {
        Ok(Ok(logits)) => Ok(logits),
        Ok(Err(error)) => Err(fault(&error)),
        Err(panic) => Err(Fault::Panic(said(&*panic))),
    }
}

/// As `catch_unwind`, of what runs once: a closure that hands on a borrow may run no more often.
fn caught<R>(work: impl FnOnce() -> R) -> std::thread::Result<R> {
    catch_unwind(AssertUnwindSafe(work))
}

/// What became of a failed step's segments, each by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts {
    /// The wanted rows of logits of each segment, or why there are none.
    pub(super) outcomes: Vec<Result<Vec<f32>, Fault>>,
    /// How many tries that took.
    pub(super) tries: usize,
}

/// Computes the segments of a step that failed with `first`: in halves, then in halves of those that
/// fail again, with at most `tries_max` tries. With k of n at fault that is some 2k·log₂(n) tries. `beat` is
/// called before each.
pub(super) fn apart(
    backend: &mut dyn Backend,
    generation: Generation,
    segments: &[Segment<'_>],
    first: Fault,
    tries_max: usize,
    goes_on: &mut dyn FnMut(Part) -> bool,
    beat: &dyn Fn(),
) -> Parts {
    let vocabulary = backend.limits().vocab_size;
    let mut parts = Parts { outcomes: vec![Err(Fault::GivenUp(tries_max)); segments.len()], tries: 0 };
    let mut todo = Vec::new();
    refuse(0..segments.len(), first, &mut todo, &mut parts);
    while let Some(range) = todo.pop() {
        if parts.tries == tries_max {
            break;
        }
        parts.tries += 1;
        // Each try may take as long as a step.
        beat();
        match guarded(backend, generation, &segments[range.clone()], goes_on) {
            Ok(logits) => {
                let mut rest = logits;
                for at in range {
                    let (own, others) = rest.split_at(rows(&segments[at]) * vocabulary);
                    (parts.outcomes[at], rest) = (Ok(own.to_vec()), others);
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

/// How many rows of logits a segment returns.
fn rows(segment: &Segment<'_>) -> usize {
    match segment.want {
        WantLogits::None => 0,
        WantLogits::Last => 1,
        WantLogits::All => segment.tokens.len(),
    }
}

/// Whether every one is a number: no NaN, no infinity. One pass without a branch, since it is made over
/// every row that is sampled.
pub(super) fn are_numbers(logits: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    logits.iter().fold(0, |worst: u32, logit| worst | u32::from(logit.to_bits() & EXPONENT == EXPONENT)) == 0
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
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use compute::backend::Limits;
    use proptest::prelude::*;

    /// Its logits are the token; tokens of `bad` make it panic (odd) or say no (even).
    struct Touchy {
        limits: Limits,
        bad: Vec<u32>,
        logits: Vec<f32>,
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
            };
            Self { limits, bad, logits: Vec::new(), tries: 0 }
        }
    }

    impl Backend for Touchy {
        fn name(&self) -> &'static str {
            "touchy"
        }

        fn limits(&self) -> &Limits {
            &self.limits
        }

        fn step(&mut self, segments: &[Segment<'_>]) -> Result<&[f32], StepError> {
            self.tries += 1;
            if let Some(bad) = segments.iter().map(|segment| segment.tokens[0]).find(|token| self.bad.contains(token)) {
                assert!(bad % 2 == 0, "token {bad} panics");
                return Err(StepError::Contract(format!("token {bad}")));
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let rows = segments.iter().flat_map(|segment| vec![segment.tokens[0] as f32; 2 * rows(segment)]);
            self.logits = rows.collect();
            Ok(&self.logits)
        }
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
        let wants = [WantLogits::Last, WantLogits::None, WantLogits::All];
        let segments: Vec<Segment<'_>> = tokens
            .iter()
            .enumerate()
            .map(|(at, tokens)| Segment { tokens, start: 0, blocks: &[0], want: wants[at % 3] })
            .collect();
        let mut backend = Touchy::new(bad.to_vec());
        let first = quietly(|| guarded(&mut backend, Generation(0), &segments, &mut |_| true).map(<[f32]>::to_vec));
        let first = first.expect_err("somebody is at fault");
        quietly(|| apart(&mut backend, Generation(0), &segments, first, tries_max, &mut |_| true, &|| ()))
    }

    proptest! {
        #[test]
        fn only_those_at_fault_fail_and_the_others_have_their_own_logits(
            count in 1_u32..40,
            picks in prop::collection::btree_set(0_u32..40, 1..5),
        ) {
            let bad: Vec<u32> = picks.into_iter().map(|pick| pick % count).collect();
            let parts = tried(count, &bad, usize::MAX);
            for (at, outcome) in parts.outcomes.iter().enumerate() {
                let token = u32::try_from(at).expect("small");
                prop_assert_eq!(outcome.is_err(), bad.contains(&token), "{}: {:?}", at, outcome);
                let Ok(logits) = outcome else { continue };
                prop_assert_eq!(logits.len(), 2 * [1, 0, 2][at % 3]);
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let own = token as f32;
                prop_assert!(logits.iter().all(|logit| *logit == own));
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

    #[test]
    fn what_is_no_number_is_seen() {
        assert!(are_numbers(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE / 2.0]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!are_numbers(&[0.0, 1.0, bad, 2.0]), "{bad}");
        }
    }
}
