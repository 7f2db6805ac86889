//! An engine as tests start it, what they ask it, and what they read: shared by the tests of company, failures, weights
//! that arrive and weights that are replaced.

use compute::backend::{Backend, Limits, Makes};
use compute::sampler::Params;
use std::time::{Duration, Instant};
use telemetry::metrics::Registry;
use tokio::sync::mpsc;
use worker::engine::{
    BesideDecodes, CacheSalt, Cancel, EngineHandle, EngineOptions, Event, FaultOptions, Meters, SequenceParams,
    Submission,
};

/// Longer than anything takes; a passing test never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Events = mpsc::Receiver<(u32, Event)>;

/// A small vocabulary, and blocks of four positions.
pub(crate) fn limits(kv_blocks: usize, max_rows: usize) -> Limits {
    Limits {
        vocab_size: 97,
        max_position: 512,
        max_rows,
        max_logits_rows: max_rows,
        kv_block_tokens: 4,
        kv_blocks,
        kv_block_bytes: 16,
        hidden_size: 4,
        makes: Makes::Logits,
        is_whole: false,
        sums: true,
        depth: 1,
    }
}

/// Four seats, a roomy queue, and readers who may take their time.
pub(crate) fn options(max_model_len: usize) -> EngineOptions {
    EngineOptions {
        max_num_seqs: 4,
        max_model_len,
        queue_max: 1000,
        beside_decodes: BesideDecodes { rows: 64, long_rows: 16, long_tokens: 40, positions_a_row: 50 },
        reader_stall: PATIENCE,
        enable_prefix_caching: true,
        priority_level: None,
        faults: FaultOptions::default(),
    }
}

/// Starts an engine whose model is `m`, with its metrics in `registry`.
pub(crate) fn start_in(registry: &Registry, backend: Box<dyn Backend>, options: EngineOptions) -> EngineHandle {
    EngineHandle::start(backend, options, Meters::new(registry, "m"), "m").expect("a thread")
}

/// The same, with metrics that nobody reads.
pub(crate) fn start(backend: Box<dyn Backend>, options: EngineOptions) -> EngineHandle {
    start_in(&Registry::new(), backend, options)
}

/// `max_tokens` tokens, whatever they are; greedy.
pub(crate) fn greedy(max_tokens: usize) -> SequenceParams {
    let sampling = Params { temperature: 0.0, ..Params::default() };
    SequenceParams {
        sampling,
        max_tokens,
        min_tokens: 0,
        stop_ids: Vec::new(),
        guide: None,
        prompt_logprobs: None,
        pooled: None,
    }
}

/// The same, drawn with a seed, so that what sequences say can be told apart.
pub(crate) fn drawn(seed: u64, max_tokens: usize) -> SequenceParams {
    SequenceParams { sampling: Params { seed, temperature: 1.5, ..Params::default() }, ..greedy(max_tokens) }
}

/// A sequence whose reader has room for so many events.
pub(crate) fn submission(prompt: Vec<u32>, params: SequenceParams, room: usize) -> (Submission, Events) {
    let (events, receiver) = mpsc::channel(room);
    let (salt, cancel) = (CacheSalt::default(), Cancel::default());
    (Submission { prompt, params, index: 0, priority: 0, salt, events, cancel }, receiver)
}

/// Reads a sequence to its end.
pub(crate) fn read(mut events: Events) -> Vec<Event> {
    std::iter::from_fn(|| events.blocking_recv()).map(|(_, event)| event).collect()
}

/// Waits for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
