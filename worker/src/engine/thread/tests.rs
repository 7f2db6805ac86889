//! Turns of the engine thread, taken one by one.

use super::super::prefix::CacheSalt;
use super::super::sequence::{Cancel, SequenceParams};
use super::*;
use crate::allocations;
use compute::backend::{Limits, Makes};
use compute::sampler::Params;
use compute::scripted::{ScriptedBackend, ScriptedOptions};
use telemetry::metrics::Registry;
use tokio::sync::mpsc;

fn backend(depth: usize) -> Box<dyn Backend> {
    let limits = Limits {
        vocab_size: 50,
        max_position: 400,
        max_rows: 64,
        max_logits_rows: 8,
        kv_block_tokens: 16,
        kv_blocks: 100,
        kv_block_bytes: 64,
        hidden_size: 4,
        makes: Makes::Logits,
        is_whole: false,
        sums: true,
        depth,
    };
    Box::new(ScriptedBackend::new(ScriptedOptions { limits, step: Duration::ZERO, row: Duration::ZERO }))
}

fn options() -> EngineOptions {
    EngineOptions {
        max_num_seqs: 2,
        max_model_len: 400,
        beside_decodes: crate::engine::BesideDecodes { rows: 64, long_rows: 16, long_tokens: 40, positions_a_row: 50 },
        queue_max: 8,
        reader_stall: Duration::from_secs(60),
        enable_prefix_caching: true,
        priority_level: None,
        faults: FaultOptions::default(),
    }
}

fn submission(seed: u64, events: &mpsc::Sender<(u32, super::super::Event)>) -> Submission {
    let params = SequenceParams {
        sampling: Params { seed, top_p: 0.9, ..Params::default() },
        max_tokens: 300,
        min_tokens: 0,
        stop_ids: Vec::new(),
        guide: None,
        prompt_logprobs: None,
        pooled: None,
    };
    let (events, salt, cancel) = (events.clone(), CacheSalt::default(), Cancel::default());
    Submission { prompt: vec![1, 2, 3], params, index: 0, priority: 0, salt, events, cancel }
}

#[test]
fn a_turn_allocates_nothing_but_what_grows_with_a_text() {
    for depth in 1..=2 {
        count_turns(depth);
    }
}

fn count_turns(depth: usize) {
    let (options, registry) = (options(), Registry::new());
    let (shared, meters) = (Shared::new("a", 1 << 16), Meters::new(&registry, "a"));
    let mut engine = Engine::new(backend(depth), &options, &shared, &meters);
    let (events, _reader) = mpsc::channel(10_000);
    // Two run, one waits for a seat.
    engine.handle(Message::Submit((0..3).map(|seed| submission(seed, &events)).collect()));
    (0..70).for_each(|_| engine.turn());
    let counts: Vec<usize> = (0..128).map(|_| allocations::count(|| engine.turn())).collect();
    assert_eq!((engine.core.running(), engine.core.waiting()), (2, 1), "the turns counted were decodes");
    // A text's tokens, block numbers and names, and the channel's pages, are taken in ever larger or equal pieces.
    let silent = counts.iter().filter(|&&count| count == 0).count();
    assert!(silent > 100, "{counts:?}");
}
