//! Measures the `cpu` backend alone: decoding at batch 1 against the machine's read bandwidth, and
//! prefill.
//!
//! `decode MODEL [--threads N] [--depth 128] [--tokens 64] [--prefill 512] [--batch 0] [--tier NAME] [--quantization NAME] [--json]`
//!
//! The model is a directory or a GGUF file.
//!
//! Tiers are `portable`, `avx2`, `avx512`, `avx512bf16`, `neon` and `neonbf16`; the best of the machine otherwise.
//!
//! With `--batch N`, also one token for each of N sequences in a step, every one at that depth.
//!
//! Bandwidth swings on shared machines, so passes of plain reading and runs of decoding alternate,
//! with the same threads, and medians are compared. Reading is tried on the mapped weights and on
//! memory of our own; the faster of the two is the yardstick.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it measures")]

use std::num::NonZeroUsize;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compute::Quantization;
use compute::backend::{Backend, Generation, Input, Results, Segment, Step, StepTimes, Want};
use compute::cpu::{CpuBackend, CpuOptions, KV_BLOCK_TOKENS, Tier};
use compute::sampler::Choice;
use loader::remote::Env;
use loader::{Loader, LoaderConfig, OpenOptions, Weights};
use models::Config;
use policy::trust::{Trust, TrustConfig};
use serde_json::json;
use telemetry::metrics::Registry;
use tensor::Decoder;
use worker::doctor::bytes_per_token;

/// Memory of our own to read.
const BUFFER_BYTES: usize = 1 << 30;
/// Reading and decoding alternate this often.
const ROUNDS: usize = 6;
/// Steps of a whole batch.
const BATCH_STEPS: usize = 15;

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    model: String,
    threads: Option<NonZeroUsize>,
    depth: usize,
    tokens: usize,
    prefill: usize,
    batch: usize,
    tier: Option<Tier>,
    quantization: Option<Quantization>,
    json: bool,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut model = None;
    let mut parsed = Arguments {
        model: String::new(),
        threads: None,
        depth: 128,
        tokens: 64,
        prefill: 512,
        batch: 0,
        tier: None,
        quantization: None,
        json: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--threads" => parsed.threads = Some(value()?.parse()?),
            "--depth" => parsed.depth = value()?.parse()?,
            "--tokens" => parsed.tokens = value()?.parse::<usize>()?.max(1),
            "--prefill" => parsed.prefill = value()?.parse()?,
            "--batch" => parsed.batch = value()?.parse()?,
            "--tier" => {
                let name = value()?;
                let tier = Tier::ALL.into_iter().find(|tier| tier.name() == name);
                parsed.tier = Some(tier.ok_or(format!("no tier {name}"))?);
            }
            "--quantization" => {
                let name = value()?;
                let named = Quantization::ALL.into_iter().find(|quantization| quantization.name() == name);
                parsed.quantization = Some(named.ok_or(format!("no quantization {name}"))?);
            }
            "--json" => parsed.json = true,
            _ => model = Some(word),
        }
    }
    parsed.model =
        model.ok_or("usage: decode MODEL [--threads N] [--depth N] [--tokens N] [--prefill N] [--batch N] [--json]")?;
    Ok(parsed)
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| measure(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("decode: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A model with its sequences.
struct Run {
    backend: CpuBackend,
    /// Per sequence.
    blocks: Vec<Vec<u32>>,
    results: Results,
    vocab: u64,
}

impl Run {
    /// Computes `count` tokens from `start` on in one step, for the first sequence.
    fn step(&mut self, start: usize, count: usize) -> Result<Duration, Failure> {
        self.step_of(0..1, start, count)
    }

    /// The same for several sequences at once.
    fn step_of(&mut self, sequences: Range<usize>, start: usize, count: usize) -> Result<Duration, Failure> {
        Ok(self.times_of(sequences, start, count)?.compute)
    }

    /// The same, with the time that choosing took beside it.
    fn times_of(&mut self, sequences: Range<usize>, start: usize, count: usize) -> Result<StepTimes, Failure> {
        // Not the same few rows of the embedding table all the time.
        let token = |position: usize| (position as u64 * 0x9e37_79b9 % self.vocab) as u32;
        let tokens: Vec<u32> = (start..start + count).map(token).collect();
        let want = Want::Token(Choice::greedy());
        let segment = |blocks| Segment { input: Input::Tokens(&tokens), start, blocks, want };
        let segments: Vec<Segment<'_>> = self.blocks[sequences].iter().map(|blocks| segment(blocks)).collect();
        let begun = Instant::now();
        self.backend.launch(&Step { generation: Generation::default(), segments: &segments }, &mut |_| true)?;
        let times = self.backend.collect(&mut self.results)?;
        std::hint::black_box(&self.results);
        // A step is the model alone; everything else around it counts, too.
        Ok(StepTimes { compute: begun.elapsed().saturating_sub(times.choose), ..times })
    }

    /// Tokens per second of one step for every sequence, each `depth` tokens long; and how long choosing takes beside
    /// such a step, as a share of it.
    fn batch(&mut self, depth: usize) -> Result<[f64; 2], Failure> {
        let count = self.blocks.len();
        for sequence in 0..count {
            self.step_of(sequence..sequence + 1, 0, depth.max(1))?;
        }
        let (mut steps, mut choices) = (Vec::new(), Vec::new());
        for _ in 0..BATCH_STEPS {
            let times = self.times_of(0..count, depth, 1)?;
            steps.push(times.compute.as_secs_f64());
            choices.push(times.choose.as_secs_f64());
        }
        let step = median(&mut steps);
        Ok([count as f64 / step, median(&mut choices) / step])
    }

    fn read(&mut self, parts: &[&[u8]]) -> f64 {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let begun = Instant::now();
        for part in parts {
            std::hint::black_box(self.backend.read_through(part));
        }
        bytes as f64 / begun.elapsed().as_secs_f64()
    }
}

/// The decoder of a model, its weights, and the time that opening took.
fn open(model: &str) -> Result<(Arc<Decoder>, Weights, Duration), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut config = LoaderConfig::default();
    config.cache.enabled = false;
    let loader = Loader::new(&config, Env::from_process(), &Registry::new())?;
    let begun = Instant::now();
    let mut probe = runtime.block_on(loader.probe(&model.parse()?))?;
    let config = models::gguf::config_of(&mut probe)?.ok_or("no config.json and no GGUF file")?;
    let verdict = Trust::new(&TrustConfig::default())?.decide(probe.evidence())?;
    let load = runtime.block_on(loader.open(probe, &verdict, OpenOptions::default()))?;
    runtime.block_on(load.arrived())?;
    let weights = load.weights.clone();
    let decoder = Arc::new(models::bind(&Config::parse(&config)?, &weights)?);
    Ok((decoder, weights, begun.elapsed()))
}

fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let (decoder, weights, opened) = open(&arguments.model)?;
    let before = resident_file_bytes();
    let mut run = start(arguments, &decoder)?;

    // Of mapped weights only what was read is resident: what one token reads, seen from outside.
    run.step(0, 1)?;
    let touched = resident_file_bytes().saturating_sub(before);

    let mut prefills = Vec::new();
    for _ in 0..if arguments.prefill > 0 { 3 } else { 0 } {
        prefills.push(arguments.prefill as f64 / run.step(0, arguments.prefill)?.as_secs_f64());
    }
    run.step(0, arguments.depth.max(1))?;
    run.step(arguments.depth, 1)?;
    let resident = peak_resident_bytes();
    let mut times = alternate(arguments, &decoder, &mut run)?;
    let [batch, choice] = if arguments.batch > 0 { run.batch(arguments.depth)? } else { [0.0; 2] };

    let kv_bytes = run.backend.limits().kv_block_bytes / KV_BLOCK_TOKENS * (arguments.depth + arguments.tokens / 2);
    let weights_per_token = bytes_per_token(&decoder, arguments.quantization) as f64;
    let bytes_per_token = weights_per_token + kv_bytes as f64;
    let (mapped, own) = (median(&mut times.mapped_reads), median(&mut times.own_reads));
    let (bandwidth, step) = (mapped.max(own), median(&mut times.steps));
    let report = json!({
        "read_bandwidth_bytes_per_s": bandwidth.round(),
        "read_bandwidth_mapped_bytes_per_s": mapped.round(),
        "read_bandwidth_own_bytes_per_s": own.round(),
        "decode_tokens_per_s": 1.0 / step,
        "decode_bytes_per_token": bytes_per_token,
        "weights_per_token_bytes": weights_per_token,
        "first_token_touched_bytes": touched,
        "decode_bandwidth_fraction": bytes_per_token / step / bandwidth,
        "decode_step_min_ms": times.steps[0] * 1e3,
        "prefill_tokens": arguments.prefill,
        "prefill_tokens_per_s": if prefills.is_empty() { 0.0 } else { median(&mut prefills) },
        "batch": arguments.batch,
        "batch_tokens_per_s": batch,
        "batch_choice_share": choice,
        "depth": arguments.depth,
        "weights_open_ms": opened.as_secs_f64() * 1e3,
        "threads": run.backend.threads(),
        "tier": run.backend.tier().name(),
        "kv_dtype": format!("{:?}", run.backend.kv_float()).to_lowercase(),
        "vm_hwm_bytes": resident,
        "weights_bytes": weights.total_bytes(),
    });
    print(&report, arguments.json);
    Ok(())
}

/// A backend that is large enough for what is measured.
fn start(arguments: &Arguments, decoder: &Arc<Decoder>) -> Result<Run, Failure> {
    let positions = arguments.prefill.max(arguments.depth + arguments.tokens + 1);
    let (sequences, own_blocks) = (arguments.batch.max(1), positions.div_ceil(KV_BLOCK_TOKENS));
    let options = CpuOptions {
        threads: arguments.threads,
        max_rows: arguments.prefill.max(arguments.depth).max(sequences),
        max_logits_rows: sequences,
        kv_blocks: sequences * own_blocks,
        max_position: Some(positions),
        instruction_set: arguments.tier,
        quantization: arguments.quantization,
        ..CpuOptions::default()
    };
    let backend = CpuBackend::new(decoder, &options)?;
    let all: Vec<u32> = (0..options.kv_blocks as u32).collect();
    let blocks = all.chunks(own_blocks).map(<[u32]>::to_vec).collect();
    Ok(Run { backend, blocks, results: Results::default(), vocab: decoder.vocab_size as u64 })
}

/// Seconds of decoding steps, bytes per second of reading.
#[derive(Default)]
struct Times {
    steps: Vec<f64>,
    mapped_reads: Vec<f64>,
    own_reads: Vec<f64>,
}

fn alternate(arguments: &Arguments, decoder: &Decoder, run: &mut Run) -> Result<Times, Failure> {
    let mapped: Vec<&[u8]> = decoder.tensors().into_iter().map(|weight| weight.bytes()).collect();
    let own = random_bytes();
    let mut times = Times::default();
    for round in 0..ROUNDS {
        times.mapped_reads.push(run.read(&mapped));
        times.own_reads.push(run.read(&[&own]));
        for token in (round..arguments.tokens).step_by(ROUNDS) {
            // Some positions in between have no keys yet: zeros take as long to read.
            times.steps.push(run.step(arguments.depth + token, 1)?.as_secs_f64());
        }
    }
    Ok(times)
}

fn print(report: &serde_json::Value, json: bool) {
    if json {
        println!("{report}");
        return;
    }
    for (name, value) in report.as_object().into_iter().flatten() {
        println!("{name:36} {value}");
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Random, since memory of zeros may be one page many times over.
fn random_bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = vec![0u8; BUFFER_BYTES];
    for word in bytes.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    bytes
}

/// `VmHWM` of this process, in bytes; 0 where the system does not say.
fn peak_resident_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// Bytes of mapped files that this process has touched; 0 where the system does not say.
fn resident_file_bytes() -> u64 {
    status_bytes("RssFile:")
}

fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
