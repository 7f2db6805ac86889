//! Every model under `fixtures/` on every backend and tier, against what `transformers` computes.
//!
//! The fixtures are made by `fixtures/make.py`; a folder with an `expected.safetensors` is picked up
//! without naming it here.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compute::backend::{Generation, Input, Logits, Outcome, Pooling, Results, Segment, Step, Want};
use compute::candle::{CandleBackend, CandleOptions};
use compute::cpu::{CpuBackend, CpuOptions, KV_BLOCK_TOKENS, Tier};
use compute::sampler::Choice;
use compute::{BackendKind, KindOptions, KvCacheDtype, Model, Quantization};
use loader::Weights;
use models::Config;
use safetensors::SafeTensors;
use serde_json::Value;
use tensor::{Body, Decoder, Format, Rows, Slot, View, Weight};

/// The largest difference between two right f32 answers.
const LOGIT_TOLERANCE: f32 = 1e-4;

struct Fixture {
    folder: PathBuf,
    name: String,
    decoder: Arc<Decoder>,
    /// (sequences, tokens)
    sequences: Vec<Vec<u32>>,
    /// (sequences, tokens · vocab)
    logits: Vec<Vec<f32>>,
    greedy: Vec<u32>,
    facts: Value,
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = fs::read_dir(root).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.retain(|folder| folder.join("expected.safetensors").exists());
    folders.sort();
    assert!(folders.len() >= 25, "only {} models", folders.len());
    folders
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    let id = |chunk: &[u8; 8]| u32::try_from(i64::from_le_bytes(*chunk)).expect("an id");
    bytes.as_chunks::<8>().0.iter().map(id).collect()
}

impl Fixture {
    fn load(folder: &Path) -> Self {
        let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let config = Config::parse(&fs::read(folder.join("config.json")).expect("config.json")).expect("a config");
        let weights = Weights::open_dir(folder).expect("weights");
        let decoder = Arc::new(models::bind(&config, &weights).expect("a model"));
        let expected = fs::read(folder.join("expected.safetensors")).expect("expected.safetensors");
        let expected = SafeTensors::deserialize(&expected).expect("safetensors");
        let tensor = |name| expected.tensor(name).expect(name);
        let tokens = tensor("input_ids").shape()[1];
        let logits = tensor("logits");
        let numbers: Vec<f32> =
            logits.data().as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        let facts = fs::read(folder.join("expected.json")).expect("expected.json");
        Self {
            folder: folder.to_owned(),
            name,
            decoder,
            sequences: ids(tensor("input_ids").data()).chunks(tokens).map(<[u32]>::to_vec).collect(),
            logits: numbers.chunks(tokens * logits.shape()[2]).map(<[f32]>::to_vec).collect(),
            greedy: ids(tensor("greedy_ids").data()),
            facts: serde_json::from_slice(&facts).expect("JSON"),
        }
    }

    fn longest(&self) -> usize {
        self.sequences[0].len().max(8 + self.greedy.len())
    }

    /// Dynamic RoPE has no limit of its own; the fixture goes beyond what its config suggests.
    fn max_position(&self) -> Option<usize> {
        Some(self.longest().max(self.decoder.max_position))
    }

    fn cpu(&self, tier: Tier, kv_dtype: KvCacheDtype) -> CpuBackend {
        self.cpu_of(tier, kv_dtype, None)
    }

    fn cpu_of(&self, tier: Tier, kv_dtype: KvCacheDtype, quantization: Option<Quantization>) -> CpuBackend {
        let options = CpuOptions {
            threads: NonZeroUsize::new(2),
            max_rows: self.longest(),
            max_logits_rows: self.longest(),
            kv_blocks: self.longest().div_ceil(KV_BLOCK_TOKENS) + 3,
            kv_dtype,
            max_position: self.max_position(),
            instruction_set: Some(tier),
            quantization,
        };
        CpuBackend::new(&self.decoder, &options).expect("a backend")
    }

    fn candle(&self) -> CandleBackend {
        let options = CandleOptions {
            max_rows: self.longest(),
            max_logits_rows: self.longest(),
            kv_blocks: self.longest().div_ceil(KV_BLOCK_TOKENS) + 3,
            max_position: self.max_position(),
        };
        CandleBackend::new(&self.decoder, &options).expect("a backend")
    }

    fn backends(&self) -> Vec<(String, Box<dyn Logits>)> {
        let tiers = Tier::ALL.into_iter().filter(|tier| tier.is_available());
        let mut backends: Vec<(String, Box<dyn Logits>)> = tiers
            .map(|tier| {
                (format!("{} on cpu {}", self.name, tier.name()), Box::new(self.cpu(tier, KvCacheDtype::Auto)) as _)
            })
            .collect();
        backends.push((format!("{} on candle", self.name), Box::new(self.candle())));
        backends
    }

    fn is_f32(&self) -> bool {
        self.decoder.embeddings.format() == Format::F32
    }
}

/// Blocks in an order that is not that of positions.
fn blocks(backend: &dyn Logits) -> Vec<u32> {
    (0..backend.limits().kv_blocks as u32).rev().collect()
}

/// A segment of which every row's logits are wanted.
fn every<'a>(tokens: &'a [u32], blocks: &'a [u32]) -> Segment<'a> {
    let want = Want::Scores { next: tokens, top: 0, then: None };
    Segment { input: Input::Tokens(tokens), start: 0, blocks, want }
}

/// Teacher-forced logits of a whole sequence.
fn forced(backend: &mut dyn Logits, tokens: &[u32]) -> Vec<f32> {
    let blocks = blocks(backend);
    backend.logits(&[every(tokens, &blocks)], &mut |_| true).expect("a step").to_vec()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.expect("a vocabulary") as u32
}

/// Greedy continuation: the prompt as one segment, then token by token.
fn greedy(backend: &mut dyn Logits, prompt: &[u32], count: usize) -> Vec<u32> {
    let blocks = blocks(backend);
    let mut text = prompt.to_vec();
    let mut start = 0;
    while text.len() < prompt.len() + count {
        let want = Want::Token(Choice::greedy());
        let segment = Segment { input: Input::Tokens(&text[start..]), start, blocks: &blocks, want };
        let next = argmax(backend.logits(&[segment], &mut |_| true).expect("a step"));
        start = text.len();
        text.push(next);
    }
    text.split_off(prompt.len())
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    // Not `max`, which would hide what is not a number.
    differences.fold(0.0, |worst, difference| if difference <= worst { worst } else { difference })
}

fn log_probabilities(logits: &[f32], vocab: usize) -> Vec<f64> {
    let row = |row: &[f32]| -> Vec<f64> {
        let total = row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        row.iter().map(|&logit| f64::from(logit) - total).collect()
    };
    logits.chunks(vocab).flat_map(row).collect()
}

#[test]
fn f32_logits_are_those_of_the_reference() {
    for fixture in folders().iter().map(|folder| Fixture::load(folder)).filter(Fixture::is_f32) {
        for (name, mut backend) in fixture.backends() {
            for (tokens, expected) in fixture.sequences.iter().zip(&fixture.logits) {
                let worst = largest_difference(&forced(&mut *backend, tokens), expected);
                assert!(worst <= LOGIT_TOLERANCE, "{name}: a logit is off by {worst:.2e}");
            }
        }
    }
}

#[test]
fn sixteen_bit_log_probabilities_are_within_the_floor_of_their_dtype() {
    let mut seen = 0;
    for fixture in folders().iter().map(|folder| Fixture::load(folder)).filter(|fixture| !fixture.is_f32()) {
        let floor = |name: &str| fixture.facts[name].as_f64().expect(name);
        let vocab = fixture.decoder.vocab_size;
        for (name, mut backend) in fixture.backends() {
            let mut differences = Vec::new();
            for (tokens, expected) in fixture.sequences.iter().zip(&fixture.logits) {
                let found = log_probabilities(&forced(&mut *backend, tokens), vocab);
                let expected = log_probabilities(expected, vocab);
                differences.extend(found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()));
            }
            differences.sort_by(f64::total_cmp);
            let mean = differences.iter().sum::<f64>() / differences.len() as f64;
            let p99 = differences[differences.len() * 99 / 100];
            assert!(mean <= floor("floor_mean_abs_dlogprob"), "{name}: mean |Δlogprob| {mean:.2e}");
            assert!(p99 <= floor("floor_p99_abs_dlogprob"), "{name}: p99 |Δlogprob| {p99:.2e}");
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} models of 16 bits");
}

#[test]
fn greedy_text_is_that_of_the_reference() {
    for fixture in folders().iter().map(|folder| Fixture::load(folder)) {
        let (prompt, count) = (&fixture.sequences[0][..8], fixture.greedy.len());
        for (name, mut backend) in fixture.backends() {
            assert_eq!(greedy(&mut *backend, prompt, count), fixture.greedy, "{name}");
        }
    }
}
#[test]
fn the_same_step_twice_has_the_same_bits() {
    for fixture in folders().iter().map(|folder| Fixture::load(folder)) {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            let mut backend = fixture.cpu(tier, KvCacheDtype::Auto);
            let first = forced(&mut backend, &fixture.sequences[0]);
            let second = forced(&mut backend, &fixture.sequences[0]);
            let fresh = forced(&mut fixture.cpu(tier, KvCacheDtype::Auto), &fixture.sequences[0]);
            let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&first), bits(&second), "{}", fixture.name);
            assert_eq!(bits(&first), bits(&fresh), "{}", fixture.name);
        }
    }
}

#[test]
fn cpu_agrees_with_candle_where_both_keep_f32_keys() {
    for fixture in folders().iter().map(|folder| Fixture::load(folder)) {
        for tokens in &fixture.sequences {
            let expected = forced(&mut fixture.candle(), tokens);
            // A tier that rounds what meets bf16 weights is held to their floor instead, above.
            let rounds = |tier| tier == Tier::Avx512Bf16 && fixture.decoder.embeddings.format() == Format::Bf16;
            for tier in Tier::ALL.into_iter().filter(|&tier| tier.is_available() && !rounds(tier)) {
                let found = forced(&mut fixture.cpu(tier, KvCacheDtype::F32), tokens);
                let worst = largest_difference(&found, &expected);
                assert!(worst <= LOGIT_TOLERANCE, "{} {}: {worst:.2e}", fixture.name, tier.name());
            }
        }
    }
}

/// Stores weights as one tensor, each of them rows of it.
fn fuse(name: &str, parts: Vec<&mut Weight>) {
    let format = parts[0].format();
    let of = parts.iter().map(|part| part.shape()[0]).sum();
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes().to_vec()).collect();
    let shape: Vec<usize> = [of].into_iter().chain(parts[0].shape()[1..].iter().copied()).collect();
    let view = View::new(format, &shape, Arc::new(bytes));
    let mut first = 0;
    for part in parts {
        assert_eq!(part.format(), format);
        let slot = Slot::rows(name, part.shape(), Rows { first, of });
        first += part.shape()[0];
        *part = Weight::new(&slot, view.clone()).expect("rows of it");
    }
}

/// The same model with queries, keys and values in one tensor, and gate and up in another.
fn fused(decoder: &Decoder) -> Decoder {
    let mut fused = decoder.clone();
    let layers = fused.layers.iter_mut().enumerate();
    for (layer, branch) in layers.flat_map(|(number, layer)| layer.branches.iter_mut().map(move |one| (number, one))) {
        let (name, linears) = match &mut branch.body {
            Body::Attention(body) => ("qkv_proj", vec![&mut body.query, &mut body.key, &mut body.value]),
            Body::Dense(body) => ("gate_up_proj", body.gate.iter_mut().chain([&mut body.up]).collect()),
            Body::Experts(_) => continue,
        };
        let (weights, biases): (Vec<_>, Vec<_>) =
            linears.into_iter().map(|linear| (&mut linear.weight, linear.bias.as_mut())).unzip();
        fuse(&format!("{layer}.{name}.weight"), weights);
        let biases: Vec<&mut Weight> = biases.into_iter().flatten().collect();
        if !biases.is_empty() {
            fuse(&format!("{layer}.{name}.bias"), biases);
        }
    }
    fused
}

#[test]
fn projections_that_are_rows_of_one_tensor_compute_the_same_bits() {
    let mut biased = 0;
    for fixture in folders().iter().map(|folder| Fixture::load(folder)) {
        let (tokens, prompt) = (&fixture.sequences[0], &fixture.sequences[0][..8]);
        let apart = |backend: &mut dyn Logits| (forced(backend, tokens), greedy(backend, prompt, 4));
        let decoder = Arc::new(fused(&fixture.decoder));
        biased += decoder.attentions().filter(|attention| attention.key.bias.is_some()).count();
        let whole = Fixture { decoder, ..Fixture::load(&fixture.folder) };
        for ((name, mut one), (_, mut other)) in fixture.backends().into_iter().zip(whole.backends()) {
            let ((logits, text), (found, said)) = (apart(&mut *one), apart(&mut *other));
            assert!(logits.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
            assert_eq!(text, said, "{name}");
        }
        let quantized = |fixture: &Fixture| {
            let quantization = Some(Quantization::Q8_0);
            let logits = forced(&mut fixture.cpu_of(Tier::best(), KvCacheDtype::Auto, quantization), tokens);
            let kind = BackendKind::Cpu.configured(&KindOptions { quantization, ..KindOptions::default() });
            let model = Model { vocab_size: 1, decoder: Some(Arc::clone(&fixture.decoder)) };
            let prepared = kind.prepare(&model).expect("prepares");
            prepared.complete(None, &|| true).expect("the weights are there");
            let loss = prepared.loss();
            (logits, loss.matrices, loss.bytes, loss.max)
        };
        assert!(quantized(&fixture) == quantized(&whole), "{} in Q8_0", fixture.name);
    }
    assert!(biased > 0, "no model with biases of keys");
}

#[test]
fn fused_tiers_compute_the_same_bits() {
    if !Tier::Avx512.is_available() {
        return; // Only one fused tier: nothing to compare.
    }
    for fixture in folders().iter().map(|folder| Fixture::load(folder)) {
        let wide = forced(&mut fixture.cpu(Tier::Avx512, KvCacheDtype::Auto), &fixture.sequences[0]);
        let narrow = forced(&mut fixture.cpu(Tier::Avx2, KvCacheDtype::Auto), &fixture.sequences[0]);
        assert!(wide.iter().zip(&narrow).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", fixture.name);
    }
}

/// The error of logits that Q8_0 may make, over their spread about a row's mean, which is what a choice of tokens sees. The
/// weights' own error is half of a hundredth; norms behind branches, as Gemma's, magnify it most, to 0.029.
const Q8_0_ERROR: f64 = 0.035;

/// √(Σ(Δ − its mean)² ÷ Σ(logit − its mean)²) over rows: a shift of a whole row changes no probability.
fn error_of_logits(own: &[f32], found: &[f32], vocab: usize) -> f64 {
    let spread = |row: &mut dyn Iterator<Item = f64>| {
        let row: Vec<f64> = row.collect();
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        row.iter().map(|number| (number - mean).powi(2)).sum::<f64>()
    };
    let rows = || own.chunks(vocab).zip(found.chunks(vocab));
    let apart = |(own, found): (&[f32], &[f32])| {
        spread(&mut own.iter().zip(found).map(|(own, found)| f64::from(*found) - f64::from(*own)))
    };
    let lost: f64 = rows().map(apart).sum();
    let whole: f64 = rows().map(|(own, _)| spread(&mut own.iter().map(|number| f64::from(*number)))).sum();
    (lost / whole).sqrt()
}

#[test]
fn eight_bits_cost_next_to_nothing_and_the_same_in_any_company() {
    let mut seen = 0;
    for fixture in folders().iter().map(|folder| Fixture::load(folder)).filter(|fixture| !fixture.is_f32()) {
        let vocab = fixture.decoder.vocab_size;
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            let mut quantized = fixture.cpu_of(tier, KvCacheDtype::Auto, Some(Quantization::Q8_0));
            let (mut loss, mut rows, mut worst) = (0.0, 0, 0.0_f64);
            for tokens in &fixture.sequences {
                let found = forced(&mut quantized, tokens);
                let plain = forced(&mut fixture.cpu(tier, KvCacheDtype::Auto), tokens);
                worst = worst.max(error_of_logits(&plain, &found, vocab));
                let own = log_probabilities(&plain, vocab);
                let quantized = log_probabilities(&found, vocab);
                loss += own.iter().zip(&quantized).map(|(own, found)| own.exp() * (own - found)).sum::<f64>();
                rows += tokens.len();
                let alone = fixture
                    .cpu_of(tier, KvCacheDtype::Auto, Some(Quantization::Q8_0))
                    .logits(&[every(&tokens[..3], &[0])], &mut |_| true)
                    .expect("a step")
                    .to_vec();
                assert!(alone.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", fixture.name);
            }
            let loss = loss / rows as f64;
            println!(
                "{} {}: error of logits {worst:.4}, mean KL divergence {loss:.2e} nats",
                fixture.name,
                tier.name()
            );
            assert!(worst < Q8_0_ERROR, "{} {}: logits are {worst:.4} of their spread off", fixture.name, tier.name());
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} models of 16 bits");
}

/// Results of whole sequences that want something, by launching and collecting one step for each.
fn outcomes(backend: &mut dyn Logits, tokens: &[u32], want: Want<'_>) -> Outcome {
    let blocks = blocks(backend);
    let segment = Segment { input: Input::Tokens(tokens), start: 0, blocks: &blocks, want };
    let mut results = Results::default();
    let step = Step { generation: Generation::default(), segments: &[segment] };
    backend.launch(&step, &mut |_| true).expect("launches");
    backend.collect(&mut results).expect("collects");
    results.outcomes.remove(0).expect("finite")
}

#[test]
fn tokens_scores_and_hidden_states_across_the_seam_are_those_of_the_logits() {
    for fixture in folders().iter().map(|folder| Fixture::load(folder)).filter(Fixture::is_f32) {
        let (tokens, vocab) = (&fixture.sequences[0], fixture.decoder.vocab_size);
        let hidden = outcomes(&mut fixture.candle(), tokens, Want::Hidden(Pooling::Every)).hidden;
        for (name, mut backend) in fixture.backends() {
            let logits = forced(&mut *backend, tokens);
            let choice = Choice::greedy();
            let want = Want::Scores { next: &tokens[1..], top: 1, then: Some(choice) };
            let found = outcomes(&mut *backend, tokens, want);
            let last = argmax(&logits[logits.len() - vocab..]);
            assert_eq!(found.token.map(|chosen| chosen.id), Some(last), "{name}");
            assert_eq!(found.scores.len(), tokens.len() - 1);
            for ((score, row), next) in found.scores.iter().zip(logits.chunks(vocab)).zip(&tokens[1..]) {
                let expected = log_probabilities(row, vocab)[*next as usize];
                assert!((f64::from(score.chosen) - expected).abs() < 1e-3, "{name}: {} {expected}", score.chosen);
                assert_eq!(score.top[0].0, argmax(row), "{name}");
            }
            let own = outcomes(&mut *backend, tokens, Want::Hidden(Pooling::Every)).hidden;
            assert_eq!(own.len(), hidden.len());
            let apart = own.iter().zip(&hidden).map(|(own, reference)| (own - reference).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3, "{name}: hidden states differ by {apart}");
            let last = outcomes(&mut *backend, tokens, Want::Hidden(Pooling::Last)).hidden;
            assert!(last.iter().zip(&own[own.len() - last.len()..]).all(|(last, own)| (last - own).abs() < 1e-5));
            let nothing = outcomes(&mut *backend, tokens, Want::Nothing);
            assert_eq!(nothing, Outcome::default());
        }
    }
}
