//! Every encoder under `fixtures/encoders/` on every backend and tier, against what `transformers` computes.
//!
//! The fixtures are made by `fixtures/encoders.py`; a folder with an `expected.json` is picked up without naming it here.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compute::backend::{Backend, Generation, Input, Limits, Makes, Pooling, Results, Segment, Step, StepError, Want};
use compute::candle::{CandleBackend, CandleOptions};
use compute::cpu::{CpuBackend, CpuOptions, KV_BLOCK_TOKENS, Tier};
use compute::sampler::Choice;
use compute::{BackendKind, KindOptions, Model};
use loader::Weights;
use models::Config;
use safetensors::SafeTensors;
use serde_json::Value;
use tensor::{Decoder, Format};

/// The largest difference between two right f32 answers, over the largest state.
const TOLERANCE: f32 = 2e-5;
/// The same where matrices are of bf16 and a tier rounds the rows that meet them.
const TOLERANCE_BF16: f32 = 3e-2;
/// Rows of the largest step.
const ROWS: usize = 256;

struct Fixture {
    name: String,
    decoder: Arc<Decoder>,
    sequences: Vec<Vec<u32>>,
    /// Of each sequence, (tokens · hidden).
    states: Vec<Vec<f32>>,
    /// Of each sequence; empty without a head.
    classes: Vec<Vec<f32>>,
    largest: f32,
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders");
    let entries = fs::read_dir(root).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.retain(|folder| folder.join("expected.json").exists());
    folders.sort();
    assert!(folders.len() >= 10, "only {} models", folders.len());
    folders
}

fn fixtures() -> impl Iterator<Item = Fixture> {
    folders().into_iter().map(|folder| Fixture::load(&folder))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

impl Fixture {
    fn load(folder: &Path) -> Self {
        let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect(&name);
        let weights = Weights::open_dir(folder).expect("weights");
        let decoder = Arc::new(models::bind(&config, &weights).expect(&name));
        let expected = fs::read(folder.join("expected.safetensors")).expect("expected.safetensors");
        let expected = SafeTensors::deserialize(&expected).expect("safetensors");
        let facts: Value =
            serde_json::from_slice(&fs::read(folder.join("expected.json")).expect("a file")).expect("JSON");
        let mut fixture = Self {
            name,
            decoder,
            sequences: Vec::new(),
            states: Vec::new(),
            classes: Vec::new(),
            largest: facts["max_abs_state"].as_f64().expect("a number") as f32,
        };
        while let Ok(ids) = expected.tensor(&format!("ids_{}", fixture.sequences.len())) {
            let states = expected.tensor(&format!("states_{}", fixture.sequences.len())).expect("states");
            let ids = ids.data().as_chunks::<8>().0.iter();
            fixture.sequences.push(ids.map(|id| u32::try_from(i64::from_le_bytes(*id)).expect("an id")).collect());
            fixture.states.push(floats(states.data()));
        }
        if let Ok(classes) = expected.tensor("classes") {
            fixture.classes = floats(classes.data()).chunks(classes.shape()[1]).map(<[f32]>::to_vec).collect();
        }
        assert!(fixture.sequences.len() >= 4 && fixture.decoder.is_encoder(), "{}", fixture.name);
        fixture
    }

    fn is_f32(&self) -> bool {
        self.decoder.embeddings.format() == Format::F32
    }

    fn cpu(&self, tier: Tier) -> CpuBackend {
        let options = CpuOptions {
            threads: NonZeroUsize::new(2),
            max_rows: ROWS,
            max_logits_rows: ROWS,
            kv_blocks: ROWS.div_ceil(KV_BLOCK_TOKENS) + self.sequences.len(),
            instruction_set: Some(tier),
            ..CpuOptions::default()
        };
        CpuBackend::new(&self.decoder, &options).expect("a backend")
    }

    fn candle(&self) -> CandleBackend {
        let options = CandleOptions { max_rows: ROWS, max_logits_rows: ROWS, ..CandleOptions::default() };
        CandleBackend::new(&self.decoder, &options).expect("a backend")
    }

    /// Every backend, with how far a right answer may be off.
    fn backends(&self) -> Vec<(String, Box<dyn Backend>, f32)> {
        let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
        let mut backends: Vec<(String, Box<dyn Backend>, f32)> = tiers
            .map(|tier| {
                let tolerance = if self.is_f32() { TOLERANCE } else { TOLERANCE_BF16 };
                (format!("{} on cpu {}", self.name, tier.name()), Box::new(self.cpu(tier)) as _, tolerance)
            })
            .collect();
        backends.push((format!("{} on candle", self.name), Box::new(self.candle()), TOLERANCE));
        backends
    }
}

/// The results of each sequence's segment, all in one step; blocks are given out from the last on.
fn compute(backend: &mut dyn Backend, sequences: &[Vec<u32>], want: Want<'_>) -> Result<Vec<Vec<f32>>, StepError> {
    let mut next = backend.limits().kv_blocks as u32;
    let blocks: Vec<Vec<u32>> = sequences
        .iter()
        .map(|tokens| {
            let count = tokens.len().div_ceil(KV_BLOCK_TOKENS) as u32;
            next -= count;
            (next..next + count).rev().collect()
        })
        .collect();
    let segments: Vec<Segment<'_>> = sequences
        .iter()
        .zip(&blocks)
        .map(|(tokens, blocks)| Segment { input: Input::Tokens(tokens), start: 0, blocks, want })
        .collect();
    let step = Step { generation: Generation::default(), segments: &segments };
    backend.launch(&step, &mut |_| true)?;
    let mut results = Results::default();
    backend.collect(&mut results)?;
    Ok(results.outcomes.into_iter().map(|outcome| outcome.expect("finite").hidden).collect())
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    // Not `max`, which would hide what is not a number.
    differences.fold(0.0, |worst, difference| if difference <= worst { worst } else { difference })
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn hidden_states_are_those_of_the_reference() {
    for fixture in fixtures() {
        for (name, mut backend, tolerance) in fixture.backends() {
            let found = compute(&mut *backend, &fixture.sequences, Want::Hidden(Pooling::Every)).expect("a step");
            for (found, expected) in found.iter().zip(&fixture.states) {
                let apart = worst(found, expected) / fixture.largest;
                assert!(apart <= tolerance, "{name}: off by {apart:.1e} of the largest state");
            }
        }
    }
}

#[test]
fn scores_of_classes_are_those_of_the_reference() {
    let mut seen = 0;
    for fixture in fixtures().filter(|fixture| !fixture.classes.is_empty()) {
        for (name, mut backend, tolerance) in fixture.backends() {
            assert_eq!(backend.limits().makes, Makes::Classes(fixture.classes[0].len()), "{name}");
            let found = compute(&mut *backend, &fixture.sequences, Want::Classes).expect("a step");
            for (found, expected) in found.iter().zip(&fixture.classes) {
                let apart = worst(found, expected);
                assert!(apart <= 50.0 * tolerance, "{name}: off by {apart:.1e}");
            }
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} heads");
}

#[test]
fn states_are_pooled_from_those_of_every_row() {
    for fixture in fixtures() {
        let width = fixture.decoder.hidden_size;
        for (name, mut backend, _) in fixture.backends() {
            let mut of = |pooling| compute(&mut *backend, &fixture.sequences, Want::Hidden(pooling)).expect("a step");
            let (every, first, last) = (of(Pooling::Every), of(Pooling::First), of(Pooling::Last));
            for (index, sum) in of(Pooling::Sum).iter().enumerate() {
                let rows = || every[index].chunks_exact(width);
                assert_eq!(bits(&first[index]), bits(rows().next().expect("a row")), "{name}");
                assert_eq!(bits(&last[index]), bits(rows().next_back().expect("a row")), "{name}");
                let added: Vec<f32> = (0..width).map(|at| rows().map(|row| row[at]).sum()).collect();
                assert!(worst(sum, &added) <= 1e-4 * fixture.largest, "{name}");
            }
        }
    }
}

#[test]
fn a_sequence_is_the_same_in_any_company() {
    for fixture in fixtures() {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            let mut backend = fixture.cpu(tier);
            let wants = [Want::Hidden(Pooling::Every), Want::Hidden(Pooling::Sum)];
            let classes = (!fixture.classes.is_empty()).then_some(Want::Classes);
            for want in wants.into_iter().chain(classes) {
                let together = compute(&mut backend, &fixture.sequences, want).expect("a step");
                for (tokens, together) in fixture.sequences.iter().zip(together) {
                    let alone = compute(&mut backend, std::slice::from_ref(tokens), want).expect("a step");
                    assert_eq!(bits(&alone[0]), bits(&together), "{} {}", fixture.name, tier.name());
                }
            }
        }
    }
}

#[test]
fn what_an_encoder_does_not_make_is_refused() {
    for fixture in fixtures() {
        for (name, mut backend, _) in fixture.backends() {
            let refused = |outcome: Result<Vec<Vec<f32>>, StepError>| matches!(outcome, Err(StepError::Contract(_)));
            let tokens = &fixture.sequences[..1];
            assert!(refused(compute(&mut *backend, tokens, Want::Token(Choice::greedy()))), "{name}");
            if fixture.classes.is_empty() {
                assert!(refused(compute(&mut *backend, tokens, Want::Classes)), "{name}");
            }
            // Its second half would see its first, but not the other way round.
            let second = Segment {
                input: Input::Tokens(&fixture.sequences[2][..2]),
                start: 2,
                blocks: &[0],
                want: Want::Hidden(Pooling::Last),
            };
            let step = Step { generation: Generation::default(), segments: &[second] };
            assert!(matches!(backend.launch(&step, &mut |_| true), Err(StepError::Contract(_))), "{name}");
        }
    }
}

#[test]
fn an_encoder_needs_room_for_the_keys_of_one_layer_and_one_step() {
    let fixture = fixtures().find(|fixture| fixture.name == "bert").expect("a BERT");
    let rows = compute::Rows { max_rows: 64, max_logits_rows: 8 };
    let model = Model { vocab_size: 160, decoder: Some(Arc::clone(&fixture.decoder)) };
    for kind in [BackendKind::Cpu, BackendKind::Candle] {
        let need = kind.configured(&KindOptions::default()).need(&model, rows);
        assert_eq!(need.positions, 64, "no longer than a step");
        assert_eq!(need.kv_blocks_max, Some(64 / 16 + 8));
    }
    let Limits { kv_block_bytes, is_whole, .. } = fixture.cpu(Tier::best()).limits().clone();
    assert_eq!(kv_block_bytes, 2 * 16 * 48 * 4, "one layer of f32");
    assert!(is_whole);
}
