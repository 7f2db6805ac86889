//! The engine's promises: whatever the company, the order of arrival and the shortage of blocks, a sequence's tokens
//! are its own; who leaves is gone within a step; who fails, fails visibly.

#[path = "common/engine.rs"]
mod common;

use common::{Events, limits, options, read, until};
use compute::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, Part, Prepared, Results, Segment, Step, StepError,
    StepTimes,
};
use compute::scripted::{ScriptedBackend, ScriptedOptions};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use worker::engine::{
    EngineHandle, EngineOptions, Event, FinishReason, Misfit, SequenceParams, Submission, SubmitError,
};

/// First tokens of prompts whose steps end in a way of their own.
const FAILS: u32 = 90;
const PANICS: u32 = 91;

/// The scripted backend, counting steps; certain prompts make it fail.
struct Watched {
    inner: ScriptedBackend,
    steps: Arc<AtomicUsize>,
}

impl Backend for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn launch(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        self.steps.fetch_add(1, Ordering::AcqRel);
        let begins = |segment: &Segment<'_>, token| {
            segment.start == 0 && matches!(segment.input, Input::Tokens(tokens) if tokens[0] == token)
        };
        let holds = |wanted: u32| step.segments.iter().any(|segment| begins(segment, wanted));
        assert!(!holds(PANICS), "a bug in a kernel");
        if holds(FAILS) {
            return Err(StepError::Device { backend: "watched", source: "the device is gone".into() });
        }
        self.inner.launch(step, wanted)
    }

    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        self.inner.collect(results)
    }

    fn abandon(&mut self) {
        self.inner.abandon();
    }

    fn report_to(&mut self, location: &Arc<Location>) {
        self.inner.report_to(location);
    }

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        self.inner.install(weights)
    }

    fn retire(&mut self, generation: Generation) {
        self.inner.retire(generation);
    }
}

struct Started {
    engine: EngineHandle,
    steps: Arc<AtomicUsize>,
}

fn start(limits: Limits, max_num_seqs: usize, step: Duration) -> Started {
    start_patient(limits, max_num_seqs, step, Duration::from_millis(200))
}

fn start_patient(limits: Limits, max_num_seqs: usize, step: Duration, reader_stall: Duration) -> Started {
    let steps = Arc::new(AtomicUsize::new(0));
    let inner = ScriptedBackend::new(ScriptedOptions { limits, step, row: Duration::ZERO });
    let backend = Watched { inner, steps: Arc::clone(&steps) };
    let options = EngineOptions { max_num_seqs, reader_stall, ..options(512) };
    Started { engine: common::start(Box::new(backend), options), steps }
}

fn submission(prompt: Vec<u32>, seed: u64, max_tokens: usize, room: usize) -> (Submission, Events) {
    let mut params = common::drawn(seed, max_tokens);
    params.sampling.logprobs = Some(2);
    let prompt_logprobs = seed.is_multiple_of(3).then_some(1);
    common::submission(prompt, SequenceParams { prompt_logprobs, ..params }, room)
}

/// Joins the prompt's reports, which may come in chunks of any size.
fn joined(events: Vec<Event>) -> (Vec<String>, Vec<Event>) {
    let (mut prompt, mut rest) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::PromptLogprobs(entries) => prompt.extend(entries.iter().map(|entry| format!("{entry:?}"))),
            other => rest.push(other),
        }
    }
    (prompt, rest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_sequences_tokens_are_its_own(
        asks in prop::collection::vec((1_usize..60, 1_usize..40, 0_u64..2000), 1..14),
        kv_blocks in 26_usize..60,
        max_rows in 4_usize..40,
        max_num_seqs in 1_usize..5,
    ) {
        let prompt = |length: usize, at: usize| (0..length).map(|p| ((p * 7 + at * 3) % 90) as u32).collect::<Vec<u32>>();
        let roomy = start(limits(200, 200), 1, Duration::ZERO);
        let mut alone = Vec::new();
        for (at, &(length, tokens, seed)) in asks.iter().enumerate() {
            let (ask, events) = submission(prompt(length, at), seed, tokens, 64);
            roomy.engine.submit(vec![ask]).expect("taken");
            alone.push(joined(read(events)));
        }
        let tight = start(limits(kv_blocks, max_rows), max_num_seqs, Duration::ZERO);
        let mut streams = Vec::new();
        for (at, &(length, tokens, seed)) in asks.iter().enumerate() {
            let (ask, events) = submission(prompt(length, at), seed, tokens, 64);
            tight.engine.submit(vec![ask]).expect("taken");
            streams.push(std::thread::spawn(move || joined(read(events))));
        }
        for (at, (stream, alone)) in streams.into_iter().zip(&alone).enumerate() {
            prop_assert_eq!(&stream.join().expect("reads"), alone, "sequence {}", at);
        }
        until("the blocks come back", || tight.engine.load().kv_blocks_used == 0 && tight.engine.load().running == 0);
    }
}

#[test]
fn a_reader_that_leaves_frees_its_blocks_within_a_step() {
    let started = start(limits(100, 64), 4, Duration::from_millis(20));
    let (ask, mut events) = submission(vec![1, 2, 3], 1, 400, 64);
    started.engine.submit(vec![ask]).expect("taken");
    assert!(events.blocking_recv().is_some());
    drop(events);
    let at = started.steps.load(Ordering::Acquire);
    until("the blocks come back", || started.engine.load().kv_blocks_used == 0);
    let more = started.steps.load(Ordering::Acquire) - at;
    // The step under way, and no other.
    assert!(more <= 1, "{more} steps were computed for nobody");
}

#[test]
fn a_reader_that_does_not_read_pauses_itself_and_is_ended_at_last() {
    let started = start(limits(100, 64), 4, Duration::ZERO);
    let (ask, stuck) = submission(vec![1, 2, 3], 1, 400, 8);
    started.engine.submit(vec![ask]).expect("taken");
    let (ask, events) = submission(vec![4, 5], 2, 100, 64);
    started.engine.submit(vec![ask]).expect("taken");
    assert_eq!(joined(read(events)).1.len(), 100, "the other one is not held up");
    until("the stall's time is over", || started.engine.load().running == 0);
    assert!(read(stuck).len() < 8, "it was paused before its channel overflowed");
}

#[test]
fn who_does_not_read_keeps_nobody_from_being_served() {
    let started = start_patient(limits(100, 64), 1, Duration::ZERO, Duration::from_secs(3600));
    let (ask, _stuck) = submission(vec![1, 2, 3], 1, 400, 8);
    started.engine.submit(vec![ask]).expect("taken");
    let (ask, events) = submission(vec![4, 5], 2, 100, 64);
    started.engine.submit(vec![ask]).expect("taken");
    assert_eq!(joined(read(events)).1.len(), 100, "the only seat is not the idle reader's");
}

#[test]
fn what_could_never_be_computed_is_refused_before_it_waits() {
    // 26 blocks hold 104 positions, fewer than the model's 512.
    let started = start(limits(26, 64), 4, Duration::ZERO);
    let submit = |prompt: Vec<u32>, max_tokens| {
        let (ask, events) = submission(prompt, 3, max_tokens, 64);
        started.engine.submit(vec![ask]).map(|()| read(events))
    };
    assert_eq!(started.engine.max_model_len(), 104);
    for max_tokens in [0, 1, 400] {
        let too_long = |tokens| Err(SubmitError::Misfit(Misfit::Length { tokens, most: 104 }));
        assert_eq!(submit(vec![1; 105], max_tokens), too_long(105));
        assert_eq!(submit(vec![1; 40_000], max_tokens), too_long(40_000));
        assert_eq!(submit(Vec::new(), max_tokens), Err(SubmitError::Misfit(Misfit::Empty)));
        let unknown = Misfit::Token { token: 97, vocabulary: 97 };
        assert_eq!(submit(vec![1, 97], max_tokens), Err(SubmitError::Misfit(unknown)));
        let whole = submit(vec![1; 104], max_tokens).expect("exactly the limit");
        let is_end = |event: &Event| {
            matches!(event, Event::PromptDone | Event::Token { finish: Some(FinishReason::Length), .. })
        };
        assert!(whole.last().is_some_and(is_end), "{max_tokens}: {whole:?}");
    }
    assert_eq!(started.engine.load().waiting, 0);
}

#[test]
fn a_request_of_more_sequences_than_are_ever_taken_is_refused_and_one_of_all_seats_is_not() {
    let inner =
        ScriptedBackend::new(ScriptedOptions { limits: limits(100, 64), step: Duration::ZERO, row: Duration::ZERO });
    let engine = common::start(Box::new(inner), EngineOptions { queue_max: 2, max_num_seqs: 4, ..options(512) });
    let submit = |count: u64| {
        let (asks, events): (Vec<_>, Vec<_>) = (0..count).map(|seed| submission(vec![1, 2], seed, 3, 64)).unzip();
        engine.submit(asks).map(|()| events.into_iter().map(read).collect::<Vec<_>>())
    };
    assert_eq!(submit(5).map(|_| ()), Err(SubmitError::TooMany { sequences: 5, most: 4 }));
    assert_eq!(submit(4).expect("a seat for each").len(), 4);
}

#[test]
fn a_failed_step_ends_its_sequences_and_no_other() {
    let started = start(limits(100, 64), 4, Duration::ZERO);
    let (bad, bad_events) = submission(vec![FAILS, 1], 1, 50, 64);
    started.engine.submit(vec![bad]).expect("taken");
    let events = read(bad_events);
    assert!(matches!(&events[..], [Event::Failed(why)] if why.contains("the device is gone")), "{events:?}");
    let (good, events) = submission(vec![1, 2], 1, 50, 64);
    started.engine.submit(vec![good]).expect("the engine lives on");
    assert!(matches!(read(events).last(), Some(Event::Token { finish: Some(FinishReason::Length), .. })));
    until("the blocks come back", || started.engine.load().kv_blocks_used == 0);
}

#[test]
fn a_panic_in_a_step_ends_its_sequence_and_the_engine_goes_on() {
    let started = start(limits(100, 64), 1, Duration::ZERO);
    let (bad, bad_events) = submission(vec![PANICS, 1], 1, 50, 64);
    let (next, next_events) = submission(vec![1, 2], 1, 50, 64);
    started.engine.submit(vec![bad, next]).expect("taken");
    assert!(matches!(read(bad_events).last(), Some(Event::Failed(_))));
    assert!(matches!(read(next_events).last(), Some(Event::Token { finish: Some(FinishReason::Length), .. })));
    assert!(started.engine.since_beat().is_some());
}

#[test]
fn a_step_that_hangs_stops_the_heart_and_idling_does_not() {
    let started = start(limits(100, 64), 1, Duration::from_millis(700));
    std::thread::sleep(Duration::from_millis(300));
    until("a beat while idle", || started.engine.since_beat().is_some_and(|age| age < Duration::from_millis(250)));
    let (ask, _events) = submission(vec![1, 2], 1, 50, 64);
    started.engine.submit(vec![ask]).expect("taken");
    until("no beat during a long step", || {
        started.engine.since_beat().is_some_and(|age| age > Duration::from_millis(400))
    });
}
