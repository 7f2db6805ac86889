//! Weights may arrive while a model computes: a prompt begins with the layers that are there, its
//! tokens are those of the whole model, and weights that never come end it with their name.

#[path = "common/engine.rs"]
#[expect(dead_code, reason = "shared with the other tests of the engine, which use the rest")]
mod common;
#[path = "common/slow.rs"]
#[expect(dead_code, reason = "shared with the tests of swaps, which use all of it")]
mod slow;

use common::{Events, options, read, start, submission, until};
use compute::backend::{Input, Logits, Part, Segment, StepError, Want};
use compute::candle::{CandleBackend, CandleOptions};
use compute::cpu::{CpuBackend, CpuOptions, Tier};
use compute::sampler::Choice;
use loader::LoadError;
use slow::Slow;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tensor::Decoder;
use worker::engine::{EngineHandle, Event, SubmitError};

const FIXTURES: [&str; 4] = ["llama_untied", "llama_tied_bf16", "qwen3", "mistral_f16"];
const PROMPT: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

fn cpu(decoder: &Arc<Decoder>, tier: Tier) -> CpuBackend {
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        kv_blocks: 16,
        instruction_set: Some(tier),
        ..CpuOptions::default()
    };
    CpuBackend::new(decoder, &options).expect("a backend")
}

/// Every row's logits are wanted.
const EVERY: Want<'static> = Want::Scores { next: &PROMPT, top: 0, then: None };

fn prompt(want: Want<'static>) -> Segment<'static> {
    Segment { input: Input::Tokens(&PROMPT), start: 0, blocks: &[0], want }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn a_step_begins_with_the_layers_that_are_there_and_ends_with_the_same_bits() {
    for fixture in FIXTURES {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            let slow = Slow::new(fixture);
            let expected = bits(cpu(&slow.whole, tier).logits(&[prompt(EVERY)], &mut |_| true).expect("a step"));
            let mut backend = cpu(&slow.decoder, tier);
            let mut asked = Vec::new();
            // Each part arrives only when the step has come as far as it: what came before it has been computed
            // without it.
            let mut wanted = |part| {
                if asked.last() != Some(&part) {
                    asked.push(part);
                    slow.fill(part);
                }
                true
            };
            let logits = backend.logits(&[prompt(EVERY)], &mut wanted);
            assert_eq!(bits(logits.expect("a step")), expected, "{fixture} on {}", tier.name());
            assert_eq!(asked, slow.parts(), "{fixture}");
            let again = backend.logits(&[prompt(EVERY)], &mut |_| false);
            assert_eq!(bits(again.expect("nothing to wait for")), expected);
        }
    }
}

#[test]
fn a_chunk_without_logits_does_not_wait_for_the_head() {
    let slow = Slow::new("llama_untied");
    slow.parts().into_iter().filter(|&part| part != Part::Head).for_each(|part| slow.fill(part));
    let mut backend = cpu(&slow.decoder, Tier::best());
    let step = |backend: &mut CpuBackend, want| backend.logits(&[prompt(want)], &mut |_| false).map(<[f32]>::len);
    assert_eq!(step(&mut backend, Want::Nothing).expect("no head needed"), 0);
    let error = step(&mut backend, Want::Token(Choice::greedy())).expect_err("no head");
    assert!(matches!(error, StepError::Unwanted { part: Part::Head }), "{error}");
}

#[test]
fn the_reference_backend_waits_for_everything() {
    let slow = Arc::new(Slow::new("qwen3"));
    let building = Arc::clone(&slow);
    let built = std::thread::spawn(move || {
        let mut backend = CandleBackend::new(&building.decoder, &CandleOptions::default()).expect("a backend");
        backend.logits(&[prompt(Want::Token(Choice::greedy()))], &mut |_| true).expect("a step").to_vec()
    });
    slow.parts().into_iter().rev().for_each(|part| slow.fill(part));
    let mut whole = CandleBackend::new(&slow.whole, &CandleOptions::default()).expect("a backend");
    let expected = whole.logits(&[prompt(Want::Token(Choice::greedy()))], &mut |_| true).expect("a step");
    assert_eq!(bits(&built.join().expect("a step")), bits(expected));
}

fn engine(decoder: &Arc<Decoder>) -> EngineHandle {
    start(Box::new(cpu(decoder, Tier::best())), options(64))
}

fn submit(engine: &EngineHandle) -> Result<Events, SubmitError> {
    let (asked, events) = submission(PROMPT.to_vec(), common::greedy(8), 64);
    engine.submit(vec![asked])?;
    Ok(events)
}

#[test]
fn a_request_before_the_weights_gets_the_whole_models_tokens() {
    let slow = Slow::new("qwen3");
    let expected = read(submit(&engine(&slow.whole)).expect("taken"));
    let engine = engine(&slow.decoder);
    let events = submit(&engine).expect("taken");
    for part in slow.parts() {
        // The engine comes as far as the part that is missing, says so, and shows life while it waits.
        until("the part is waited for", || engine.waiting_for() == Some(part));
        let waiting_since = Instant::now();
        until("a sign of life", || engine.since_beat().is_some_and(|age| age < waiting_since.elapsed()));
        slow.fill(part);
    }
    assert_eq!(read(events), expected);
    assert_eq!(expected.len(), 8);
    assert_eq!(engine.waiting_for(), None);
}

#[test]
fn weights_that_never_come_end_the_request_with_their_name() {
    let slow = Slow::new("llama_untied");
    let engine = engine(&slow.decoder);
    [Part::Embeddings, Part::Layer(0)].into_iter().for_each(|part| slow.fill(part));
    let events = submit(&engine).expect("taken");
    until("the layer is waited for", || engine.waiting_for() == Some(Part::Layer(1)));
    slow.fail(LoadError::NoSpace { path: PathBuf::from("cache"), bytes: 7 });
    let events = read(events);
    let [Event::Failed(why)] = &events[..] else { panic!("nothing else is emitted: {events:?}") };
    for part in ["layer 1", "model.layers.1.", "of llama_untied", "allocating 7 bytes"] {
        assert!(why.contains(part), "`{part}` in {why}");
    }
    assert_eq!(engine.fault(), Some(why.as_str()));
    assert!(engine.since_beat().is_some(), "the engine lives");
    assert_eq!(submit(&engine).expect_err("no weights"), SubmitError::NoWeights(why.clone()));
}

#[test]
fn a_request_that_is_given_up_while_weights_come_leaves_at_once() {
    let slow = Slow::new("qwen3");
    let expected = read(submit(&engine(&slow.whole)).expect("taken"));
    let engine = engine(&slow.decoder);
    let events = submit(&engine).expect("taken");
    until("the embeddings are waited for", || engine.waiting_for() == Some(Part::Embeddings));
    assert_eq!(engine.load().running, 1);
    drop(events);
    until("its place is free", || engine.load().running == 0 && engine.load().kv_blocks_used == 0);
    assert_eq!(engine.waiting_for(), None);
    let events = submit(&engine).expect("taken");
    slow.parts().into_iter().for_each(|part| slow.fill(part));
    assert_eq!(read(events), expected);
}
