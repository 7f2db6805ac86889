//! Promises of the engine when steps fail: the sequence at fault ends, alone; the others' tokens are what they would
//! have been; what does not end is seen, with what it was doing; and the flight recorder tells it afterwards.

#[path = "common/engine.rs"]
#[expect(dead_code, reason = "shared with the other tests of the engine, which use the rest")]
mod common;

use common::{Events, PATIENCE, limits, options, read, until};
use compute::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, NotFinite, Part, Prepared, Results, Segment, Step,
    StepError, StepTimes,
};
use compute::scripted::{ScriptedBackend, ScriptedOptions};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::time::Duration;
use telemetry::metrics::Registry;
use worker::engine::{
    EngineHandle, EngineOptions, Event, FaultOptions, FinishReason, Stage, Submission, SubmitError, Wedge,
};

/// First tokens of prompts that fail in a way of their own, once their sequence has some tokens.
const PANICS: u32 = 91;
const FAILS: u32 = 92;
const NOT_NUMBERS: u32 = 93;
const HANGS: u32 = 94;
/// Positions from which they do.
const FROM: usize = 20;

/// The scripted backend, over which certain prompts bring misfortune.
struct Unlucky {
    inner: ScriptedBackend,
    /// First token and first block of the sequences to watch.
    marked: BTreeSet<(u32, u32)>,
    /// Lets a step that hangs go on.
    release: channel::Receiver<()>,
    location: Arc<Location>,
    misfortune: Misfortune,
    /// The fate of the steps in flight.
    fates: VecDeque<Fate>,
}

/// Steps with an end of their own.
#[derive(Debug, Clone, Copy, Default)]
struct Misfortune {
    /// No step is computed at all.
    is_gone: bool,
    /// Steps fail when they are collected, rather than when they are launched.
    is_late: bool,
    /// Two steps may be in flight.
    is_deep: bool,
}

#[derive(Debug, Default)]
struct Fate {
    panics: bool,
    fails: bool,
    not_finite: Option<usize>,
}

impl Unlucky {
    fn finds(&self, wanted: u32, step: &Step<'_>) -> Option<usize> {
        let is_it = |segment: &Segment<'_>| self.marked.contains(&(wanted, segment.blocks[0]));
        step.segments.iter().position(|segment| segment.end() > FROM && is_it(segment))
    }
}

impl Backend for Unlucky {
    fn name(&self) -> &'static str {
        "unlucky"
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn launch(&mut self, step: &Step<'_>, wanted: &mut dyn FnMut(Part) -> bool) -> Result<(), StepError> {
        for segment in step.segments.iter().filter(|segment| segment.start == 0) {
            let Input::Tokens(tokens) = segment.input else { panic!("a prompt is known") };
            self.marked.retain(|(_, block)| *block != segment.blocks[0]);
            self.marked.insert((tokens[0], segment.blocks[0]));
        }
        let Misfortune { is_gone, is_late, .. } = self.misfortune;
        let (panics, fails) = (self.finds(PANICS, step), is_gone || self.finds(FAILS, step).is_some());
        if let Some(at) = panics.filter(|_| !is_late) {
            // Half of the step is done and has left its keys and values behind.
            let half = Step { segments: &step.segments[..at.max(1)], ..*step };
            self.inner.launch(&half, wanted).expect("launches");
            panic!("a panic that this test means");
        }
        if fails && !is_late {
            return Err(gone());
        }
        if self.finds(HANGS, step).is_some() {
            self.location.enter(Some(Part::Layer(3)));
            self.release.recv_timeout(PATIENCE).expect("released");
        }
        self.inner.launch(step, wanted)?;
        let not_finite = self.finds(NOT_NUMBERS, step);
        self.fates.push_back(Fate { panics: panics.is_some(), fails, not_finite });
        Ok(())
    }

    fn collect(&mut self, results: &mut Results) -> Result<StepTimes, StepError> {
        let fate = self.fates.pop_front().expect("a step is in flight");
        let times = self.inner.collect(results)?;
        assert!(!fate.panics, "a panic that this test means");
        if fate.fails {
            return Err(gone());
        }
        if let Some(at) = fate.not_finite {
            results.outcomes[at] = Err(NotFinite);
        }
        Ok(times)
    }

    fn abandon(&mut self) {
        self.inner.abandon();
        self.fates.clear();
    }

    fn report_to(&mut self, location: &Arc<Location>) {
        self.location = Arc::clone(location);
    }

    fn install(&mut self, weights: &Arc<dyn Prepared>) -> Result<Generation, InstallError> {
        self.inner.install(weights)
    }

    fn retire(&mut self, generation: Generation) {
        self.inner.retire(generation);
    }
}

fn gone() -> StepError {
    StepError::Device { backend: "unlucky", source: "the device is gone".into() }
}

struct Started {
    engine: EngineHandle,
    registry: Registry,
    release: channel::Sender<()>,
}

fn start(faults: FaultOptions) -> Started {
    start_with(faults, Misfortune::default())
}

fn start_with(faults: FaultOptions, misfortune: Misfortune) -> Started {
    quiet();
    let limits = Limits { depth: 1 + usize::from(misfortune.is_deep), ..limits(1000, 64) };
    let inner = ScriptedBackend::new(ScriptedOptions { limits, step: Duration::ZERO, row: Duration::ZERO });
    let (release, released) = channel::channel();
    let backend = Unlucky {
        inner,
        marked: BTreeSet::new(),
        release: released,
        location: Arc::default(),
        misfortune,
        fates: VecDeque::new(),
    };
    let options = EngineOptions { max_num_seqs: 16, faults, ..options(512) };
    let registry = Registry::new();
    let engine = common::start_in(&registry, Box::new(backend), options);
    Started { engine, registry, release }
}

/// Panics that tests mean are not printed.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.to_string().contains("that this test means") {
                usual(info);
            }
        }));
    });
}

fn submission(prompt: Vec<u32>, seed: u64) -> (Submission, Events) {
    common::submission(prompt, common::drawn(seed, 60), 256)
}

/// The tokens of sixteen sequences; the one at `place` begins with `first`.
fn sixteen(engine: &EngineHandle, place: usize, first: u32) -> Vec<Vec<Event>> {
    let asks: Vec<(Submission, Events)> = (0..16_u32)
        .map(|at| {
            let begin = if at as usize == place { first } else { at };
            submission((0..8 + at % 5).map(|p| if p == 0 { begin } else { (p * 7 + at) % 90 }).collect(), at.into())
        })
        .collect();
    let (asks, events): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
    engine.submit(asks).expect("taken");
    events.into_iter().map(read).collect()
}

fn counted(started: &Started, name: &str) -> f64 {
    let text = started.registry.render();
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn one_of_sixteen_fails_and_fifteen_say_what_they_would_have_said() {
    for is_late in [false, true] {
        for is_deep in [false, true] {
            let misfortune = Misfortune { is_late, is_deep, ..Misfortune::default() };
            for (first, said) in [(PANICS, "panicked"), (FAILS, "the device is gone"), (NOT_NUMBERS, "no number")] {
                [0, 5, 15].into_iter().for_each(|place| one_of_sixteen(misfortune, first, said, place));
            }
        }
    }
}

fn one_of_sixteen(misfortune: Misfortune, first: u32, said: &str, place: usize) {
    let expected = sixteen(&start(FaultOptions::default()).engine, place, 89);
    let started = start_with(FaultOptions::default(), misfortune);
    let found = sixteen(&started.engine, place, first);
    for (at, (expected, found)) in expected.iter().zip(&found).enumerate() {
        if at == place {
            let Some(Event::Failed(why)) = found.last() else { panic!("{misfortune:?} {first}: {found:?}") };
            assert!(why.contains(said), "{why}");
            assert!(found.len() > 5 && found.len() < 20, "it failed at its own time: {}", found.len());
        } else {
            assert_eq!(found.len(), 60);
            assert_eq!(expected, found, "sequence {at} beside {first} at {place}, {misfortune:?}");
        }
    }
    assert_eq!(counted(&started, "forebay_worker_step_faults_total"), 1.0);
    if first != NOT_NUMBERS {
        // Four halvings of sixteen, both halves each.
        let tries = counted(&started, "forebay_worker_step_retries_total");
        assert!((1.0..=8.0).contains(&tries), "{tries} tries, {misfortune:?}");
    }
    until("the blocks come back", || started.engine.load().kv_blocks_used == 0);
    assert!(started.engine.since_beat().is_some(), "the engine lives");
}

#[test]
fn several_at_fault_at_once_are_all_found() {
    let started = start(FaultOptions::default());
    let (asks, events): (Vec<_>, Vec<_>) = (0..12_u32)
        .map(|at| submission(vec![if at % 5 == 2 { PANICS } else { at }, 1, 2, 3, 4, 5, 6, at], u64::from(at)))
        .unzip();
    started.engine.submit(asks).expect("taken");
    for (at, events) in events.into_iter().enumerate() {
        let failed = matches!(read(events).last(), Some(Event::Failed(_)));
        assert_eq!(failed, at % 5 == 2, "sequence {at}");
    }
}

#[test]
fn tries_are_bounded_and_who_had_no_turn_is_told_so() {
    let started = start(FaultOptions { step_retries_max: 2, ..FaultOptions::default() });
    let found = sixteen(&started.engine, 15, PANICS);
    let given_up = found
        .iter()
        .filter(|events| matches!(events.last(), Some(Event::Failed(why)) if why.contains("2 further tries")));
    assert_eq!(given_up.count(), 8, "the older half was computed in the first try, the younger failed in the second");
    assert_eq!(counted(&started, "forebay_worker_step_retries_total"), 2.0);
}

#[test]
fn a_backend_that_computes_nothing_any_more_ends_the_engine() {
    let started = start_with(FaultOptions::default(), Misfortune { is_gone: true, ..Misfortune::default() });
    let (ask, events) = submission(vec![1, 2], 1);
    started.engine.submit(vec![ask]).expect("taken");
    let events = read(events);
    assert!(matches!(&events[..], [Event::Failed(why)] if why.contains("the device is gone")), "{events:?}");
    until("liveness fails", || started.engine.since_beat().is_none());
    let (late, _events) = submission(vec![1, 2], 1);
    assert_eq!(started.engine.submit(vec![late]), Err(SubmitError::Ended));
}

#[test]
fn a_step_that_hangs_is_reported_with_what_it_was_doing() {
    let started = start(FaultOptions::default());
    let bound = Duration::from_millis(300);
    until("it beats", || started.engine.wedge(bound).is_none());
    let (ask, events) = submission(vec![HANGS; 24], 1);
    let (other, _other_events) = submission(vec![1, 2, 3], 1);
    started.engine.submit(vec![ask, other]).expect("taken");
    let is_in_it = |wedge: Wedge| wedge.part == Some(Part::Layer(3));
    until("the step hangs", || started.engine.wedge(bound).is_some_and(is_in_it));
    let wedge = started.engine.wedge(bound).expect("it still hangs");
    assert_eq!((wedge.activity.stage, wedge.activity.step, wedge.part), (Stage::Computing, 1, Some(Part::Layer(3))));
    assert_eq!((wedge.activity.sequences, wedge.activity.prefill_tokens, wedge.activity.decode_tokens), (2, 27, 0));
    assert!(wedge.silent >= bound);
    let text = wedge.to_string();
    assert!(text.contains("computing step 1 at layer 3 of 2 sequences, 27 tokens of prompts"), "{text}");
    // Released, once for each of its steps, it goes on as if nothing had been.
    for _ in 0..60 {
        started.release.send(()).expect("it listens");
    }
    assert!(matches!(read(events).last(), Some(Event::Token { finish: Some(FinishReason::Length), .. })));
    until("it beats again", || started.engine.wedge(bound).is_none());
}

#[test]
fn the_flight_recorder_tells_what_the_steps_were_and_nothing_of_what_was_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let faults = FaultOptions { recorder_dir: Some(directory.path().to_owned()), ..FaultOptions::default() };
    let started = start(faults);
    sixteen(&started.engine, 3, PANICS);
    until("idle", || started.engine.load().running == 0);
    let flight = started.engine.flight(usize::MAX);
    let steps = &flight.steps;
    assert!(steps.iter().map(|step| step.step).eq(1..=steps.len() as u64), "every step, in order");
    let prompts: u32 = (0..16).map(|at| 8 + at % 5).sum();
    assert_eq!(steps.iter().map(|step| step.prefill_tokens).sum::<u32>(), prompts);
    assert_eq!(steps.iter().map(|step| step.admitted).sum::<u32>(), 16);
    assert_eq!(steps.iter().map(|step| step.failed).sum::<u32>(), 1);
    assert!(steps.iter().all(|step| step.backend_us <= step.took_us && step.sequences <= 16));
    assert!(steps.iter().any(|step| step.retries > 0 && step.failed == 1), "the retries stand beside the failure");
    // Every field is a number, or a word of ours: there is no place for content.
    let json = serde_json::to_value(&flight).expect("JSON");
    for step in json["steps"].as_array().expect("a list") {
        assert!(step.as_object().expect("an object").values().all(serde_json::Value::is_u64), "{step}");
    }
    // The panic left a file, whole.
    let file = std::fs::read(directory.path().join("forebay-flight-m-panic.json")).expect("the dump");
    let dumped: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(dumped["model"], "m");
    assert!(dumped["doing"]["activity"].is_string() && dumped["steps"].is_array());
}
