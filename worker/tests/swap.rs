//! Weights are replaced between two steps: a sequence keeps those it began with, the next one gets
//! the new ones, and the old are let go with their last sequence.

#[path = "common/engine.rs"]
#[expect(dead_code, reason = "shared with the other tests of the engine, which use the rest")]
mod common;
#[path = "common/slow.rs"]
#[expect(dead_code, reason = "shared with the tests of arrival, which use all of it")]
mod slow;

use common::{Events, PATIENCE, options};
use compute::backend::{Backend, Generation, InstallError, Limits, Prepared};
use compute::candle::{CandleBackend, CandleOptions};
use compute::cpu::{CpuBackend, CpuOptions};
use compute::scripted::{ScriptedBackend, ScriptedOptions, other_script};
use compute::{BackendKind, KindOptions, Model};
use loader::Region;
use slow::Slow;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tensor::Decoder;
use worker::engine::{EngineHandle, Event, SwapError};

const TOKENS: usize = 24;
/// Room for so few events that a sequence waits for its reader after some tokens.
const NARROW: usize = 8;

fn cpu(decoder: &Arc<Decoder>) -> Box<dyn Backend> {
    let options = CpuOptions { threads: NonZeroUsize::new(2), kv_blocks: 16, ..CpuOptions::default() };
    Box::new(CpuBackend::new(decoder, &options).expect("a backend"))
}

/// A decoder as backends of a kind compute with it.
fn prepared(kind: BackendKind, decoder: &Arc<Decoder>) -> Arc<dyn Prepared> {
    let model = Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(decoder)) };
    kind.configured(&KindOptions::default()).prepare(&model).expect("prepared")
}

fn engine(backend: Box<dyn Backend>) -> EngineHandle {
    common::start(backend, options(64))
}

fn submit(engine: &EngineHandle, room: usize) -> Events {
    let (asked, events) = common::submission(vec![3, 1, 4, 1, 5], common::greedy(TOKENS), room);
    engine.submit(vec![asked]).expect("taken");
    events
}

/// The first token; what was found in the cache is said before it.
async fn begin(events: &mut Events) -> u32 {
    loop {
        match events.recv().await.expect("an event").1 {
            Event::Token { id, .. } => return id,
            Event::Cached(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn read(mut events: Events) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some((_, event)) = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time") {
        match event {
            Event::Token { id, .. } => ids.push(id),
            Event::Cached(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ids.len(), TOKENS);
    ids
}

/// A fixture in memory, with the rows of one layer's matrix moved; and its regions, not held.
fn loaded(moved: bool) -> (Arc<Decoder>, Vec<Weak<Region>>) {
    let slow = if moved { Slow::changed("llama_untied") } else { Slow::new("llama_untied") };
    slow.parts().into_iter().for_each(|part| slow.fill(part));
    let regions = slow.pieces.values().map(|piece| Arc::downgrade(&piece.region)).collect();
    (Arc::clone(&slow.decoder), regions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_keeps_its_weights_and_the_next_one_gets_the_new() {
    let (new, _) = loaded(true);
    let expected_new = read(submit(&engine(cpu(&new)), 64)).await;
    let (old, regions) = loaded(false);
    let expected_old = read(submit(&engine(cpu(&old)), 64)).await;
    assert_ne!(expected_old, expected_new, "the revisions can be told apart");

    let engine = engine(cpu(&old));
    drop(old);
    // It has begun, and waits for its reader until it is read below.
    let mut before = submit(&engine, NARROW);
    let first = before.recv().await.expect("a token");
    let generation = engine.install(prepared(BackendKind::Cpu, &new)).await.expect("installed");
    assert_eq!(generation, Generation(1));
    assert_eq!(read(submit(&engine, 64)).await, expected_new, "beside one of the old weights");
    assert!(regions.iter().all(|region| region.strong_count() > 0), "the old weights are in use");
    let Event::Token { id, .. } = first.1 else { panic!("{first:?}") };
    let mut ids = vec![id];
    while let Some((_, event)) = before.recv().await {
        let Event::Token { id, .. } = event else { panic!("{event:?}") };
        ids.push(id);
    }
    assert_eq!(ids, expected_old, "it ends as it began");
    tokio::time::timeout(PATIENCE, engine.drained(generation)).await.expect("the old weights are let go");
    assert!(regions.iter().all(|region| region.strong_count() == 0), "their memory is free");
    assert_eq!(read(submit(&engine, 64)).await, expected_new);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_engine_lets_go_of_the_old_weights_at_once() {
    let (old, regions) = loaded(false);
    let engine = engine(cpu(&old));
    drop(old);
    let generation = engine.install(prepared(BackendKind::Cpu, &loaded(true).0)).await.expect("installed");
    tokio::time::timeout(PATIENCE, engine.drained(generation)).await.expect("let go");
    assert!(regions.iter().all(|region| region.strong_count() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn preempted_sequences_are_computed_again_with_the_weights_they_began_with() {
    let scripted = |kv_blocks| {
        let limits = Limits { max_position: 64, ..common::limits(kv_blocks, 32) };
        Box::new(ScriptedBackend::new(ScriptedOptions { limits, step: Duration::ZERO, row: Duration::ZERO }))
    };
    let expected_old = read(submit(&engine(scripted(64)), 64)).await;
    // Two sequences of 29 tokens need 16 blocks; there are 9, so that one is preempted.
    let tight = engine(scripted(9));
    let (mut first, mut second) = (submit(&tight, NARROW), submit(&tight, NARROW));
    let begun = (begin(&mut first).await, begin(&mut second).await);
    tight.install(other_script(97)).await.expect("installed");
    let rest = |mut events: Events| async move {
        let mut ids = Vec::new();
        while let Some((_, Event::Token { id, .. })) = events.recv().await {
            ids.push(id);
        }
        ids
    };
    let rests = tokio::join!(rest(first), rest(second));
    for (begun, rest) in [(begun.0, rests.0), (begun.1, rests.1)] {
        assert_eq!([vec![begun], rest].concat(), expected_old);
    }
    assert_ne!(read(submit(&tight, 64)).await, expected_old, "the new script");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_named() {
    let engine = engine(cpu(&loaded(false).0));
    let other = |fixture| prepared(BackendKind::Cpu, &Slow::new(fixture).whole);
    let refused = engine.install(other("llama_tied")).await.expect_err("another model");
    let SwapError::Refused(InstallError::Differs { field }) = refused else { panic!("{refused}") };
    assert_eq!(field, "rms_norm_eps", "the first in which the two fixtures differ");
    assert!(engine.install(other_script(97)).await.is_err(), "a model needs weights");
    read(submit(&engine, 64)).await;
    let whole = Slow::new("qwen3").whole.clone();
    let mut candle = CandleBackend::new(&whole, &CandleOptions::default()).expect("a backend");
    let refused = candle.install(&prepared(BackendKind::Candle, &whole)).expect_err("one generation for its life");
    assert!(refused.to_string().contains("candle"), "{refused}");
}
