//! Whole models through the backend, its kernels on the host: tokens and numbers beside those of the f32 reference; the
//! order of copies and steps; memory, failures.

mod host;

use std::fs;
use std::path::Path;

use half::bf16;
use loader::Weights;

use self::host::{Happened, HostDevice};
use super::device::Device;
use super::*;
use crate::backend::{Outcome, Pooling, Want};
use crate::candle::{CandleBackend, CandleOptions};
use crate::kind::{Built, Kind, Model};
use crate::sampler::{Choice, History, Params};
use models::{Config, bind};
use tensor::{Decoder, Format, View, Weight};

const MEMORY: u64 = 1 << 30;

/// A fixture with its tensors as bf16, whatever they are stored in.
fn decoder(name: &str) -> Arc<Decoder> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
    let decoder = bind(&config, &Weights::open_dir(&folder).expect("weights")).expect("a model");
    let rounded = |weight: &Weight| Ok::<_, ()>(as_bf16(weight));
    Arc::new(decoder.try_map(rounded).expect("every tensor"))
}

fn as_bf16(weight: &Weight) -> Weight {
    let numbers: Vec<f32> = match weight.format() {
        Format::F32 => outputs::floats(weight.bytes()).collect(),
        Format::F16 => {
            weight.bytes().as_chunks::<2>().0.iter().map(|bits| half::f16::from_le_bytes(*bits).to_f32()).collect()
        }
        Format::Bf16 => return weight.clone(),
        other => panic!("{other} in a fixture"),
    };
    let bytes: Vec<u8> = numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect();
    let slot = tensor::Slot::new(weight.name(), weight.shape());
    Weight::new(&slot, View::new(Format::Bf16, weight.shape(), Arc::new(bytes))).expect("the same shape")
}

const SIZES: Sizes = Sizes { rows: Rows { max_rows: 160, max_logits_rows: 160 }, kv_blocks: 64, max_position: 512 };

fn kind(device: &Arc<HostDevice>) -> kind::Cuda {
    kind::Cuda::on_small(Arc::clone(device) as Arc<dyn Device>)
}

fn model(decoder: &Arc<Decoder>) -> Model {
    Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(decoder)) }
}

fn backend(device: &Arc<HostDevice>, decoder: &Arc<Decoder>) -> CudaBackend {
    let kind = kind(device);
    let prepared = kind.prepare(&model(decoder)).expect("it is computed");
    CudaBackend::over(kind::resident(&*prepared).expect("ours"), kind.accelerator(), &SIZES).expect("a backend")
}

fn reference(decoder: &Arc<Decoder>) -> CandleBackend {
    let options = CandleOptions { max_rows: 160, max_logits_rows: 160, kv_blocks: 64, max_position: Some(512) };
    CandleBackend::new(decoder, &options).expect("a backend")
}

fn every<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Segment<'a> {
    let want = Want::Scores { next: tokens, top: 0, then: None };
    Segment { input: Input::Tokens(tokens), start, blocks, want }
}

fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|at| ((at * 7919 + 31) % vocabulary) as u32).collect()
}

/// The largest difference of logits, beside their spread.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let spread = expected.iter().map(|logit| logit * logit).sum::<f32>() / expected.len() as f32;
    let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    worst / spread.sqrt()
}

/// The fixtures that the GPU's kernels do not compute, and why.
const REFUSED: [(&str, &str); 8] = [
    ("gemma2", "scaled embeddings"),
    ("gemma3", "scaled embeddings"),
    ("gemma3_bf16", "scaled embeddings"),
    ("ministral3", "queries that grow with their position"),
    ("mixtral", "routed experts"),
    ("phi3", "heads that are not rotated whole"),
    ("qwen3_moe", "routed experts"),
    ("smollm3", "heads that are not rotated whole"),
];

#[test]
fn logits_of_every_family_are_those_of_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let entries = fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("readable").path());
    let names: Vec<String> = entries
        .filter(|path| path.join("expected.safetensors").exists())
        .map(|path| path.file_name().expect("a folder").to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 17);
    let mut refused = Vec::new();
    for name in names {
        let decoder = decoder(&name);
        if let Err(why) = kind(&HostDevice::new(MEMORY)).prepare(&model(&decoder)) {
            refused.push(format!("{name}: {why}"));
            continue;
        }
        let (device, blocks) = (HostDevice::new(MEMORY), (0..8).rev().collect::<Vec<u32>>());
        let (mut backend, mut reference) = (backend(&device, &decoder), reference(&decoder));
        let prompt = tokens(21, decoder.vocab_size);
        // A prompt in two pieces, then a token.
        for (from, to) in [(0, 13), (13, 20), (20, 21)] {
            let segment = [every(&prompt[from..to], from, &blocks)];
            let expected = reference.logits(&segment, &mut |_| true).expect("a step").to_vec();
            let found = backend.logits(&segment, &mut |_| true).expect("a step");
            let apart = apart(found, &expected);
            assert!(apart < 0.08, "{name}, rows {from}..{to}: {apart}");
        }
    }
    refused.sort();
    let expected =
        REFUSED.map(|(name, what)| format!("{name}: a GPU does not compute {what}; serve it with device = \"cpu\""));
    assert_eq!(refused, expected, "what has no kernel is refused by name");
}

/// Every number as Q8_0, where rows are whole blocks.
fn as_q8(weight: &Weight) -> Weight {
    let (format, shape) = (weight.format(), weight.shape());
    let is_matrix = shape.len() == 2 && shape[1].is_multiple_of(32);
    if !is_matrix {
        return weight.clone();
    }
    let on = crate::kernels::tier::Instructions::of(crate::cpu::Tier::best()).expect("the best there are");
    let mut numbers = vec![0.0; shape.iter().product()];
    crate::kernels::formats::widen(on, weight.bytes(), format, &mut numbers);
    let mut bytes = Vec::new();
    crate::kernels::quantize::quantize(on, Format::Q8_0, &numbers, &mut bytes);
    let slot = tensor::Slot::new(weight.name(), shape);
    Weight::new(&slot, View::new(Format::Q8_0, shape, Arc::new(bytes))).expect("the same shape")
}

#[test]
fn logits_of_q8_0_are_those_of_the_reference() {
    for name in ["llama_yarn", "qwen2_sliding", "qwen3_bf16"] {
        let decoder = Arc::new(decoder(name).try_map(|weight| Ok::<_, ()>(as_q8(weight))).expect("every tensor"));
        let (device, blocks) = (HostDevice::new(MEMORY), (0..8).collect::<Vec<u32>>());
        let (mut backend, mut reference) = (backend(&device, &decoder), reference(&decoder));
        let prompt = tokens(19, decoder.vocab_size);
        for (from, to) in [(0, 18), (18, 19)] {
            let segment = [every(&prompt[from..to], from, &blocks)];
            let expected = reference.logits(&segment, &mut |_| true).expect("a step").to_vec();
            let apart = apart(backend.logits(&segment, &mut |_| true).expect("a step"), &expected);
            assert!(apart < 0.08, "{name}, rows {from}..{to}: {apart}");
        }
    }
}

/// Parameters that the device chooses by, and others that the host does.
fn parameters() -> Vec<Params> {
    let seeded = |seed, params: Params| Params { seed, ..params };
    let default = Params::default;
    vec![
        Params { temperature: 0.0, ..default() },
        seeded(1, default()),
        seeded(2, Params { temperature: 0.7, top_k: 5, logprobs: Some(3), ..default() }),
        seeded(3, Params { top_p: 0.8, min_p: 0.01, logprobs: Some(0), ..default() }),
        seeded(4, Params { temperature: 1.7, top_p: 0.4, top_k: 40, ..default() }),
        seeded(5, Params { repetition_penalty: 1.3, logprobs: Some(2), ..default() }),
        seeded(6, Params { temperature: 0.0, logit_bias: vec![(7, 100.0)], ..default() }),
        seeded(7, Params { temperature: 0.0, logprobs: Some(60), ..default() }),
    ]
}

#[test]
fn tokens_and_log_probabilities_are_the_shared_samplers() {
    let decoder = decoder("qwen3_bf16");
    let device = HostDevice::new(MEMORY);
    let mut backend = backend(&device, &decoder);
    let prompt = tokens(9, decoder.vocab_size);
    let parameters = parameters();
    let tables: Vec<Vec<u32>> = (0..=parameters.len() as u32).map(|index| vec![index]).collect();
    let choice = |params, draw| Choice { params, history: History { prompt: &prompt, draw, ..History::default() } };
    let mut segments: Vec<Segment<'_>> = parameters
        .iter()
        .zip(&tables)
        .map(|(params, blocks)| {
            let want = Want::Token(choice(params, 11));
            Segment { input: Input::Tokens(&prompt), start: 0, blocks, want }
        })
        .collect();
    let want = Want::Scores { next: &prompt[1..], top: 4, then: Some(choice(&parameters[1], 3)) };
    segments.push(Segment { input: Input::Tokens(&prompt), start: 0, blocks: &tables[parameters.len()], want });
    let logits = backend.logits(&segments, &mut |_| true).expect("a step").to_vec();
    backend.launch(&Step { generation: Generation::default(), segments: &segments }, &mut |_| true).expect("a step");
    let mut results = Results::default();
    backend.collect(&mut results).expect("a step");
    let (mut rest, mut scratch) = (&logits[..], Scratch::default());
    for (segment, found) in segments.iter().zip(&results.outcomes) {
        let own;
        (own, rest) = rest.split_at(segment.picked().count() * decoder.vocab_size);
        let expected = results::outcome(segment, None, own, decoder.vocab_size, &mut scratch);
        assert_eq!(*found, expected, "{:?}", segment.want);
    }
}

/// Ten tokens of two sequences, one step after the other or one ahead.
fn generate(backend: &mut CudaBackend, params: &[Params], is_ahead: bool) -> Vec<Vec<u32>> {
    let prompt = tokens(17, backend.limits().vocab_size);
    let tables: Vec<Vec<u32>> = (0..params.len() as u32).map(|index| vec![2 * index + 1, 2 * index]).collect();
    let mut texts: Vec<Vec<u32>> = vec![Vec::new(); params.len()];
    let mut results = Results::default();
    let take_in = |backend: &mut CudaBackend, results: &mut Results, texts: &mut Vec<Vec<u32>>| {
        backend.collect(results).expect("a step");
        for (text, outcome) in texts.iter_mut().zip(&results.outcomes) {
            text.push(outcome.as_ref().expect("finite").token.as_ref().expect("a token").id);
        }
    };
    for step in 0..10 {
        let known = texts.clone();
        let lasts: Vec<[u32; 1]> = known.iter().map(|text| [text.last().copied().unwrap_or(0)]).collect();
        let segments: Vec<Segment<'_>> = (0..params.len())
            .map(|index| {
                let history =
                    History { prompt: &prompt, generated: &known[index], draw: step as u64, ..History::default() };
                let input = match step {
                    0 => Input::Tokens(&prompt),
                    _ if is_ahead => Input::Previous(index),
                    _ => Input::Tokens(&lasts[index]),
                };
                let start = if step == 0 { 0 } else { prompt.len() + step - 1 };
                Segment {
                    input,
                    start,
                    blocks: &tables[index],
                    want: Want::Token(Choice { params: &params[index], history }),
                }
            })
            .collect();
        backend
            .launch(&Step { generation: Generation::default(), segments: &segments }, &mut |_| true)
            .expect("a step");
        if !is_ahead || step > 0 {
            take_in(backend, &mut results, &mut texts);
        }
    }
    if is_ahead {
        take_in(backend, &mut results, &mut texts);
    }
    texts
}

#[test]
fn one_step_ahead_finds_the_same_tokens() {
    let decoder = decoder("llama_yarn");
    let device = HostDevice::new(MEMORY);
    let mut backend = backend(&device, &decoder);
    let of_the_device = [Params { temperature: 0.0, ..Params::default() }, Params { seed: 9, ..Params::default() }];
    let of_both = [of_the_device[1].clone(), Params { seed: 3, repetition_penalty: 1.5, ..Params::default() }];
    for params in [of_the_device, of_both] {
        let expected = generate(&mut backend, &params, false);
        assert_eq!(generate(&mut backend, &params, true), expected);
    }
}

#[test]
fn neither_company_nor_chunks_change_a_bit_of_a_small_step() {
    let decoder = decoder("qwen2_sliding");
    let device = HostDevice::new(MEMORY);
    let mut backend = backend(&device, &decoder);
    let (prompt, other) = (tokens(23, decoder.vocab_size), tokens(30, decoder.vocab_size));
    let (blocks, others) = ([0, 1], [5, 4]);
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>();
    let alone = bits(backend.logits(&[every(&prompt, 0, &blocks)], &mut |_| true).expect("a step"));
    let width = decoder.vocab_size;
    let together = [every(&other, 0, &others), every(&prompt[..11], 0, &blocks)];
    let first = bits(&backend.logits(&together, &mut |_| true).expect("a step")[other.len() * width..]);
    let rest = bits(backend.logits(&[every(&prompt[11..], 11, &blocks)], &mut |_| true).expect("a step"));
    assert_eq!([first, rest].concat(), alone);
}

#[test]
fn the_shared_memory_of_a_choice_is_as_large_as_its_source_says() {
    assert_eq!(launches::DESK_BYTES, host::desk_bytes());
}

#[test]
fn hidden_states_come_back_whole() {
    let decoder = decoder("qwen3_bf16");
    let device = HostDevice::new(MEMORY);
    let (mut backend, mut reference) = (backend(&device, &decoder), reference(&decoder));
    let prompt = tokens(6, decoder.vocab_size);
    for pooling in [Pooling::Every, Pooling::Last] {
        let segment = Segment { input: Input::Tokens(&prompt), start: 0, blocks: &[0], want: Want::Hidden(pooling) };
        let step = Step { generation: Generation::default(), segments: &[segment] };
        let states = |backend: &mut dyn Backend| {
            let mut results = Results::default();
            backend.launch(&step, &mut |_| true).expect("a step");
            backend.collect(&mut results).expect("a step");
            let Outcome { hidden, .. } = results.outcomes.remove(0).expect("finite");
            hidden
        };
        let (found, expected) = (states(&mut backend), states(&mut reference));
        assert!(apart(&found, &expected) < 0.05);
    }
}

#[test]
fn steps_begin_while_later_layers_are_on_their_way() {
    let decoder = decoder("llama_yarn");
    let device = HostDevice::new(MEMORY);
    let mut backend = backend(&device, &decoder);
    device.take_happened();
    let prompt = tokens(3, decoder.vocab_size);
    backend.logits(&[every(&prompt, 0, &[0])], &mut |_| true).expect("a step");
    let happened = device.take_happened();
    let first_kernel = happened.iter().position(|what| *what == Happened::Launch("embed")).expect("it is launched");
    let after = happened[first_kernel..].iter().filter(|what| matches!(what, Happened::Upload(_))).count();
    assert!(after > 10 * decoder.layers.len(), "{after} copies after the first kernel");
    // The next step copies its own lists, and nothing else.
    backend.logits(&[every(&prompt, 0, &[0])], &mut |_| true).expect("a step");
    let uploads = device.take_happened().into_iter().filter(|what| matches!(what, Happened::Upload(_))).count();
    assert_eq!(uploads, 1);
    let expected = backend.logits(&[every(&prompt, 0, &[0])], &mut |_| true).expect("a step").to_vec();
    // Once all are there, steps ask for none.
    let (_, resident) = &backend.models[0];
    Arc::clone(resident).complete(&|| true).expect("all are there");
    assert_eq!(backend.logits(&[every(&prompt, 0, &[0])], &mut |_| true).expect("a step"), expected);
}

#[test]
fn a_step_that_nobody_wants_leaves_room_for_the_next() {
    let decoder = decoder("llama_yarn");
    let device = HostDevice::new(MEMORY);
    let mut backend = backend(&device, &decoder);
    let prompt = tokens(5, decoder.vocab_size);
    let segments = [every(&prompt, 0, &[0])];
    let expected = backend.logits(&segments, &mut |_| true).expect("a step").to_vec();
    // A block that is written twice is refused before anything is queued.
    let twice = [every(&prompt, 0, &[0]), every(&prompt, 0, &[0])];
    let refused = backend.launch(&Step { generation: Generation::default(), segments: &twice }, &mut |_| true);
    assert!(matches!(refused, Err(StepError::Contract(_))), "{refused:?}");
    assert_eq!(backend.logits(&segments, &mut |_| true).expect("a step"), expected);
}

#[test]
fn too_little_memory_is_said_and_given_back() {
    let decoder = decoder("llama_yarn");
    let model = Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(&decoder)) };
    let needed = layout::Layout::of(&decoder).expect("it is computed").bytes;
    for memory in [needed - 1, needed + 4096] {
        let device = HostDevice::new(memory);
        let kind = kind(&device);
        let built = kind.prepare(&model).and_then(|weights| kind.build(&weights, &SIZES).map(|_| ()));
        let error = built.expect_err("there is too little");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("has no") || error.to_string().contains("has no"), "{error}: {cause}");
        drop(kind);
        assert_eq!(device.in_use(), (0, 0, 0));
    }
}

#[test]
fn what_is_needed_is_what_is_taken() {
    let decoder = decoder("qwen3_bf16");
    let model = Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(&decoder)) };
    let device = HostDevice::new(MEMORY);
    let kind = kind(&device);
    let need = kind.need(&model, SIZES.rows);
    let weights = kind.prepare(&model).expect("it is computed");
    let built = kind.build(&weights, &SIZES).expect("there is room");
    let planned = need.copies_bytes + need.activation_bytes + need.kv_block_bytes * SIZES.kv_blocks as u64;
    let (_, _, used) = device.in_use();
    assert_eq!(used, planned);
    drop((built, weights));
}

#[test]
fn a_lost_device_fails_every_step_and_hangs_none() {
    let decoder = decoder("qwen3_bf16");
    let prompt = tokens(5, decoder.vocab_size);
    let segments =
        [Segment { input: Input::Tokens(&prompt), start: 0, blocks: &[0], want: Want::Token(Choice::greedy()) }];
    let step = Step { generation: Generation::default(), segments: &segments };
    for launches in [0, 3, 9, 10_000] {
        let device = HostDevice::new(MEMORY);
        let mut backend = backend(&device, &decoder);
        device.lose_after(launches);
        let launched = backend.launch(&step, &mut |_| true);
        let failed = launched.and_then(|()| {
            device.lose_after(0);
            backend.collect(&mut Results::default()).map(|_| ())
        });
        let error = failed.expect_err("the device is lost");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("is lost"), "{error}: {cause}");
        backend.abandon();
        assert!(backend.launch(&step, &mut |_| true).is_err());
    }
}

#[test]
fn weights_are_replaced_and_their_memory_is_given_back() {
    let decoder = decoder("qwen3_bf16");
    let device = HostDevice::new(MEMORY);
    let kind = kind(&device);
    let model = Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(&decoder)) };
    let prepared = kind.prepare(&model).expect("it is computed");
    let Built { mut backend, .. } = kind.build(&prepared, &SIZES).expect("there is room");
    drop(prepared);
    let (before, _, _) = device.in_use();
    let other = kind.prepare(&model).expect("it is computed");
    other.complete(None, &|| true).expect("all is there");
    let generation = backend.install(&other).expect("the same shapes");
    drop(other);
    assert_eq!(device.in_use().0, before + 1);
    backend.retire(Generation::default());
    assert_eq!(device.in_use().0, before);
    let prompt = tokens(5, decoder.vocab_size);
    let segments =
        [Segment { input: Input::Tokens(&prompt), start: 0, blocks: &[0], want: Want::Token(Choice::greedy()) }];
    backend.launch(&Step { generation, segments: &segments }, &mut |_| true).expect("a step");
    let old = Step { generation: Generation::default(), segments: &segments };
    assert!(matches!(backend.launch(&old, &mut |_| true), Err(StepError::Contract(_))));
    backend.collect(&mut Results::default()).expect("a step");
}

#[test]
fn what_is_not_computed_is_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/mistral_f16");
    let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
    let stored = bind(&config, &Weights::open_dir(&folder).expect("weights")).expect("a model");
    let error = layout::Layout::of(&stored).expect_err("f16 is not computed");
    assert!(matches!(&error, Unsupported::Format { found: Format::F16, .. }), "{error}");
    assert!(error.to_string().contains(stored.embeddings.name()));
}
