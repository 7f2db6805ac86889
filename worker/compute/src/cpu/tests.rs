//! A row's result depends on its own sequence alone; a step keeps its limits and its memory.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use loader::Weights;
use proptest::prelude::*;

use super::*;
use crate::backend::{Outcome, Pooling, Want};
use crate::kernels::allocations;
use crate::kind::Rows;
use crate::sampler::{Choice, Params};
use models::{Config, bind};
use tensor::{Head, View, Weight};

const FIXTURES: [&str; 4] = ["qwen2_sliding", "qwen3_bf16", "mistral_f16", "llama_yarn"];

fn decoder(name: &str) -> Arc<Decoder> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
    Arc::new(bind(&config, &Weights::open_dir(&folder).expect("weights")).expect("a model"))
}

fn backend(decoder: &Arc<Decoder>, tier: Tier) -> CpuBackend {
    let options = CpuOptions {
        threads: NonZeroUsize::new(2),
        max_rows: 160,
        max_logits_rows: 160,
        kv_blocks: 64,
        instruction_set: Some(tier),
        ..CpuOptions::default()
    };
    CpuBackend::new(decoder, &options).expect("a backend")
}

fn tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_available())
}

fn all<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Segment<'a> {
    let want = Want::Scores { next: tokens, top: 0, then: None };
    Segment { input: Input::Tokens(tokens), start, blocks, want }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The logits of every row that something is wanted of.
fn step<'b>(backend: &'b mut CpuBackend, segments: &[Segment<'_>]) -> Result<&'b [f32], StepError> {
    backend.logits(segments, &mut |_| true)
}

/// Several sequences computed in steps of random chunks, together: the logits of each.
fn in_company(backend: &mut CpuBackend, sequences: &[Vec<u32>], chunks: &[usize]) -> Vec<Vec<u32>> {
    let tables: Vec<Vec<u32>> = (0..sequences.len() as u32)
        .map(|index| (0..8).map(|block| block * sequences.len() as u32 + index).collect())
        .collect();
    let vocab = backend.limits().vocab_size;
    let mut done = vec![0; sequences.len()];
    let mut logits = vec![Vec::new(); sequences.len()];
    let mut chunks = chunks.iter().cycle();
    // Chunks of nothing may fall on the same unfinished sequence again and again: then each goes on by one token.
    let mut is_stuck = false;
    while done.iter().zip(sequences).any(|(&done, sequence)| done < sequence.len()) {
        let mut segments = Vec::new();
        let mut owners = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let chunk = if is_stuck { 1 } else { *chunks.next().expect("a cycle") };
            let end = (done[index] + chunk).min(sequence.len());
            if done[index] < end {
                segments.push(all(&sequence[done[index]..end], done[index], &tables[index]));
                owners.push((index, end - done[index]));
                done[index] = end;
            }
        }
        is_stuck = segments.is_empty();
        if is_stuck {
            continue;
        }
        let mut found = step(backend, &segments).expect("a step");
        for (index, rows) in owners {
            let (own, rest) = found.split_at(rows * vocab);
            logits[index].extend(bits(own));
            found = rest;
        }
    }
    logits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn neither_company_nor_chunks_change_a_bit(
        fixture in prop::sample::select(&FIXTURES[..]),
        sequences in prop::collection::vec(prop::collection::vec(0..160u32, 1..50), 1..4),
        chunks in prop::collection::vec(0..20usize, 1..9),
        threads in 1..4usize,
    ) {
        let decoder = decoder(fixture);
        for tier in tiers() {
            let together = in_company(&mut backend(&decoder, tier), &sequences, &chunks);
            let options = CpuOptions {
                threads: NonZeroUsize::new(threads),
                max_rows: 50,
                max_logits_rows: 50,
                kv_blocks: 4,
                instruction_set: Some(tier),
                ..CpuOptions::default()
            };
            let mut alone = CpuBackend::new(&decoder, &options).expect("a backend");
            for (sequence, found) in sequences.iter().zip(together) {
                let expected = bits(step(&mut alone, &[all(sequence, 0, &[2, 0, 3, 1])]).expect("a step"));
                prop_assert!(expected == found, "{} on {}", fixture, tier.name());
            }
        }
    }
}

#[test]
fn logits_come_for_the_rows_that_want_them() {
    let decoder = decoder("llama_tied");
    let mut backend = backend(&decoder, Tier::best());
    let vocab = backend.limits().vocab_size;
    let tokens = [5, 6, 7, 8];
    let every = step(&mut backend, &[all(&tokens, 0, &[0])]).expect("a step").to_vec();
    let last = Segment { want: Want::Token(Choice::greedy()), ..all(&tokens, 0, &[1]) };
    let none = Segment { want: Want::Nothing, ..all(&tokens, 0, &[2]) };
    assert_eq!(step(&mut backend, &[none, last]).expect("a step"), &every[3 * vocab..]);
    assert!(step(&mut backend, &[none]).expect("a step").is_empty());
    assert!(step(&mut backend, &[]).expect("an empty step").is_empty());
}

#[test]
fn sequences_may_share_a_prefix_but_not_write_one_block() {
    let decoder = decoder("llama_tied");
    let mut backend = backend(&decoder, Tier::best());
    let prefix: Vec<u32> = (10..26).collect();
    step(&mut backend, &[all(&prefix, 0, &[7])]).expect("a step");
    let shared = step(&mut backend, &[all(&[30], 16, &[7, 1]), all(&[30], 16, &[7, 2])]).expect("a step").to_vec();
    let (first, second) = shared.split_at(shared.len() / 2);
    assert_eq!(bits(first), bits(second));
    let clash = step(&mut backend, &[all(&[30], 16, &[7, 1]), all(&[31], 16, &[7, 1])]);
    assert!(matches!(clash, Err(StepError::Contract(_))), "two sequences wrote block 1");
    let twice = step(&mut backend, &[all(&prefix, 8, &[3, 3])]);
    assert!(matches!(twice, Err(StepError::Contract(_))), "one sequence has block 3 twice");
}

#[test]
fn the_arena_is_as_large_as_planned() {
    for name in FIXTURES {
        let decoder = decoder(name);
        let backend = backend(&decoder, Tier::best());
        assert_eq!(
            backend.arena.bytes() as u64,
            need::activation_bytes(&decoder, Rows { max_rows: 160, max_logits_rows: 160 })
        );
        let block_bytes = need::kv_block_bytes(&decoder, backend.kv_float());
        assert_eq!(backend.limits().kv_block_bytes as u64, block_bytes);
    }
}

#[test]
fn a_step_allocates_nothing() {
    for name in FIXTURES {
        let decoder = decoder(name);
        let mut backend = backend(&decoder, Tier::best());
        let prompt: Vec<u32> = (0..40).collect();
        let count = allocations::count(|| {
            step(&mut backend, &[all(&prompt, 0, &[0, 1, 2])]).expect("a step");
            step(&mut backend, &[all(&[7], 40, &[0, 1, 2]), all(&[8, 9], 0, &[5])]).expect("a step");
        });
        assert_eq!(count, 0, "{name}");
    }
}

#[test]
fn a_step_allocates_nothing_once_late_weights_have_come() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen3_bf16");
    let bytes = fs::read(folder.join("model.safetensors")).expect("weights");
    let region = loader::Region::anonymous("late", bytes.len() as u64).expect("memory");
    let header = loader::header::parse(&bytes, bytes.len() as u64).expect("a header");
    let weights = Weights::over([(&region, &header)], loader::Proof::Trusted).expect("weights");
    let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
    let mut backend = backend(&Arc::new(bind(&config, &weights).expect("a model")), Tier::best());
    let mut arrive = |_| {
        region.fill_extent(0, &bytes);
        true
    };
    backend.logits(&[all(&[1, 2, 3], 0, &[0])], &mut arrive).expect("a step");
    assert!(region.is_complete(), "the step waited");
    assert_eq!(allocations::count(|| assert!(step(&mut backend, &[all(&[4], 3, &[0])]).is_ok())), 0);
}

#[test]
fn a_launch_and_its_collection_allocate_nothing() {
    let mut backend = backend(&decoder("qwen3_bf16"), Tier::best());
    let params = Params { top_p: 0.9, frequency_penalty: 0.5, ..Params::default() };
    let history = crate::sampler::History { generated: &[3, 3, 5], draw: 3, ..Default::default() };
    let want = Want::Token(Choice { params: &params, history });
    let mut results = Results::default();
    let mut decode = |position: usize| {
        let segments = [&[1_u32], &[2]].map(|blocks| Segment { want, ..all(&[7], position, blocks) });
        let step = Step { generation: Generation::default(), segments: &segments };
        backend.launch(&step, &mut |_| true).expect("a step");
        backend.collect(&mut results).expect("a step");
        assert_eq!(results.outcomes.len(), 2);
    };
    (0..3).for_each(&mut decode);
    assert_eq!(allocations::count(|| (3..9).for_each(&mut decode)), 0);
}

/// The same model with a token whose embedding is not a number.
fn poisoned(decoder: &Arc<Decoder>, token: usize) -> Arc<Decoder> {
    let table = &decoder.embeddings;
    let mut bytes = table.bytes().to_vec();
    let row = bytes.len() / decoder.vocab_size;
    // All ones are not a number in any format of floats.
    bytes[token * row..][..row].fill(0xff);
    let view = View::new(table.format(), table.shape(), Arc::new(bytes));
    let embeddings = Weight::new(table.slot(), view).expect("it fits");
    // The poison is in the input alone, not in everybody's logits.
    Arc::new(Decoder {
        embeddings,
        head: Head::Own(decoder.logits().expect("a head").clone()),
        ..Decoder::clone(decoder)
    })
}

#[test]
fn a_sequence_that_is_not_a_number_leaves_its_neighbours_every_bit() {
    const POISON: u32 = 9;
    for name in FIXTURES {
        let decoder = poisoned(&decoder(name), POISON as usize);
        for tier in tiers() {
            let mut backend = backend(&decoder, tier);
            let good: Vec<u32> = (10..47).collect();
            let alone = bits(step(&mut backend, &[all(&good, 0, &[0, 1, 2])]).expect("a step"));
            // Few rows and many, before and after the good ones, and in blocks that a bad sequence has filled.
            for bad in [vec![POISON], [vec![POISON; 40], vec![5; 8]].concat()] {
                let company = [all(&bad, 0, &[3, 4, 5]), all(&good, 0, &[6, 7, 8]), all(&bad, 0, &[9, 10, 11])];
                let found = bits(step(&mut backend, &company).expect("a step"));
                let vocab = decoder.vocab_size;
                assert_eq!(found[bad.len() * vocab..][..alone.len()], alone, "{name} on {}", tier.name());
                let after = bits(step(&mut backend, &[all(&good, 0, &[3, 4, 5])]).expect("a step"));
                assert_eq!(after, alone, "{name} on {}, in blocks of a bad one", tier.name());
            }
            let token = |tokens, blocks| Segment { want: Want::Token(Choice::greedy()), ..all(tokens, 0, blocks) };
            let segments = [token(&[POISON], &[3]), token(&good, &[6, 7, 8])];
            let mut results = Results::default();
            let launched = Step { generation: Generation::default(), segments: &segments };
            backend.launch(&launched, &mut |_| true).expect("a step");
            backend.collect(&mut results).expect("a step");
            assert!(results.outcomes[0].is_err() && results.outcomes[1].is_ok(), "{name} on {}", tier.name());
        }
    }
}

#[test]
fn hidden_states_come_for_the_rows_that_want_them_whatever_the_cut() {
    let decoder = decoder("llama_tied");
    let tokens = [5, 6, 7, 8, 9];
    let mut results = Results::default();
    let mut hidden = |backend: &mut CpuBackend, segments: &[Segment<'_>]| {
        backend.launch(&Step { generation: Generation::default(), segments }, &mut |_| true).expect("a step");
        backend.collect(&mut results).expect("a step");
        let numbers = |outcome: &Result<Outcome, _>| outcome.as_ref().expect("finite").hidden.clone();
        results.outcomes.iter().map(numbers).collect::<Vec<_>>()
    };
    for tier in tiers() {
        let mut backend = backend(&decoder, tier);
        let width = backend.limits().hidden_size;
        let every = |blocks| Segment { want: Want::Hidden(Pooling::Every), ..all(&tokens, 0, blocks) };
        let whole = hidden(&mut backend, &[every(&[0])]).remove(0);
        assert_eq!(whole.len(), tokens.len() * width);
        let first = Segment { want: Want::Nothing, ..all(&tokens[..3], 0, &[1]) };
        hidden(&mut backend, &[first]);
        // Beside one that wants a token.
        let token = Segment { want: Want::Token(Choice::greedy()), ..all(&tokens, 0, &[2]) };
        let last = Segment { want: Want::Hidden(Pooling::Last), ..all(&tokens[3..], 3, &[1]) };
        let found = hidden(&mut backend, &[token, last, every(&[3])]);
        assert_eq!(bits(&found[1]), bits(&whole[4 * width..]), "{}", tier.name());
        assert_eq!(bits(&found[2]), bits(&whole), "{}", tier.name());
        assert!(found[0].is_empty());
    }
}

#[test]
fn keys_are_kept_as_the_weights_suggest() {
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        let float = |name: &str| backend(&decoder(name), tier).kv_float();
        assert_eq!(float("llama_tied"), Format::F32, "{}", tier.name());
        let rounded = if tier.dots(Format::Bf16) { Format::Bf16 } else { Format::F16 };
        assert_eq!(float("qwen3_bf16"), rounded, "{}", tier.name());
        assert_eq!(float("mistral_f16"), Format::F16, "{}", tier.name());
    }
}

#[test]
fn impossible_options_are_refused() {
    let decoder = decoder("llama_tied");
    let zero = CpuOptions { max_rows: 0, ..CpuOptions::default() };
    assert!(matches!(CpuBackend::new(&decoder, &zero), Err(CpuError::Zero { what: "max_rows" })));
    let huge = CpuOptions { kv_blocks: usize::MAX / 2, ..CpuOptions::default() };
    assert!(matches!(CpuBackend::new(&decoder, &huge), Err(CpuError::KvStorage { .. })));
}
