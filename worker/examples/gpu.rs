//! Measures the `cuda` backend alone, on random weights of real shapes: nothing is read from a disk.
//!
//! `gpu SHAPE [--device N] [--kernels FOLDER] [--depth 1024] [--prefill 4096] [--batches 1,32,256] [--steps 64]`
//!
//! Shapes are `1b` (Llama 3.2), `8b` (Llama 3.1) and `tiny`. Prints one JSON object: seconds from weights in host memory to
//! weights on the device, tokens per second of a prompt, and of decoding at each batch with a step always in flight; bytes
//! a step reads, so that whoever knows the device's bandwidth knows the fraction.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it measures")]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use compute::backend::{Backend, Generation, Input, Results, Segment, Step, Want};
use compute::sampler::Choice;
use compute::{Built, DeviceChoice, Model, Rows, Sizes};
use models::Config;
use serde_json::{Value, json};
use tensor::{Decoder, Format, Head, Slot, View, Weight};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    shape: String,
    device: usize,
    kernels: Option<PathBuf>,
    depth: usize,
    prefill: usize,
    batches: Vec<usize>,
    steps: usize,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut parsed = Arguments {
        shape: String::new(),
        device: 0,
        kernels: None,
        depth: 1024,
        prefill: 4096,
        batches: vec![1, 32, 256],
        steps: 64,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--device" => parsed.device = value()?.parse()?,
            "--kernels" => parsed.kernels = Some(value()?.into()),
            "--depth" => parsed.depth = value()?.parse()?,
            "--prefill" => parsed.prefill = value()?.parse::<usize>()?.max(1),
            "--batches" => parsed.batches = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--steps" => parsed.steps = value()?.parse::<usize>()?.max(1),
            _ => parsed.shape = word,
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| measure(&arguments)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("gpu: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                eprintln!("gpu: because {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// A `config.json` of a shape.
fn config(shape: &str) -> Result<Config, Failure> {
    let (hidden, intermediate, layers, heads, kv_heads, head_dim, is_tied) = match shape {
        "tiny" => (256, 512, 2, 4, 2, 64, true),
        "1b" => (2048, 8192, 16, 32, 8, 64, true),
        "8b" => (4096, 14_336, 32, 32, 8, 128, false),
        _ => return Err("usage: gpu tiny|1b|8b [--device N] [--kernels FOLDER] [--depth N] [--prefill N] [--batches N,N] [--steps N]".into()),
    };
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "tie_word_embeddings": is_tied, "vocab_size": if shape == "tiny" { 1024 } else { 128_256 },
        "torch_dtype": "bfloat16",
    });
    Ok(Config::parse(config.to_string().as_bytes())?)
}

/// Random numbers, never zero: matrices of ±[2⁻⁷, 2⁻⁶), norms of [1, 2).
fn weight(slot: &Slot, seed: &mut u64) -> Result<Weight, Failure> {
    let (keep, set) = if slot.shape.len() == 2 {
        (0x807F_807F_807F_807F, 0x3C00_3C00_3C00_3C00)
    } else {
        (0x007F_007F_007F_007F, 0x3F80_3F80_3F80_3F80)
    };
    let mut words = vec![0_u64; slot.elements().div_ceil(4)];
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    *seed += 1;
    thread::scope(|scope| {
        let each = words.len().div_ceil(threads);
        for (index, words) in words.chunks_mut(each).enumerate() {
            let mut state = ((*seed << 8) + index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            scope.spawn(move || {
                for word in words {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *word = (state & keep) | set;
                }
            });
        }
    });
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).take(slot.elements() * 2).collect();
    let view = View::new(Format::Bf16, &slot.stored_shape(), Arc::new(bytes));
    Ok(Weight::new(slot, view).ok_or("a slot of another shape")?)
}

fn model(shape: &str) -> Result<Decoder, Failure> {
    let config = config(shape)?;
    let mut seed = 0;
    models::describe(&config).try_map(|slot| weight(slot, &mut seed))
}

/// A backend and the sequences that it computes.
struct Run {
    backend: Box<dyn Backend>,
    blocks: Vec<Vec<u32>>,
    results: Results,
    vocabulary: usize,
}

impl Run {
    /// Seconds of one prompt.
    fn prompt(&mut self, sequence: usize, tokens: usize) -> Result<f64, Failure> {
        let tokens: Vec<u32> = (0..tokens).map(|at| (at * 7919 % self.vocabulary) as u32).collect();
        let want = Want::Token(Choice::greedy());
        let segments = [Segment { input: Input::Tokens(&tokens), start: 0, blocks: &self.blocks[sequence], want }];
        let begun = Instant::now();
        self.backend.launch(&Step { generation: Generation::default(), segments: &segments }, &mut |_| true)?;
        self.backend.collect(&mut self.results)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds of a decoding step of so many sequences, one step ahead, behind `depth` tokens.
    fn decode(&mut self, batch: usize, depth: usize, steps: usize) -> Result<f64, Failure> {
        let (first, want) = ([17_u32], Want::Token(Choice::greedy()));
        let mut begun = Instant::now();
        for step in 0..=steps {
            let input = |index| if step == 0 { Input::Tokens(&first) } else { Input::Previous(index) };
            let blocks = self.blocks[..batch].iter().enumerate();
            let segments: Vec<Segment<'_>> = blocks
                .map(|(index, blocks)| Segment { input: input(index), start: depth + step, blocks, want })
                .collect();
            self.backend.launch(&Step { generation: Generation::default(), segments: &segments }, &mut |_| true)?;
            if step > 0 {
                self.backend.collect(&mut self.results)?;
            }
            if step == 1 {
                begun = Instant::now();
            }
        }
        self.backend.collect(&mut self.results)?;
        Ok(begun.elapsed().as_secs_f64() / steps as f64)
    }
}

/// Bytes of weights that a step reads: every matrix, and rows of an embedding table that is not the head.
fn weight_bytes(decoder: &Decoder) -> usize {
    let all: usize = decoder.tensors().iter().map(|weight| weight.bytes().len()).sum();
    if matches!(decoder.head, Head::Own(_)) { all - decoder.embeddings.bytes().len() } else { all }
}

/// Floating-point operations of the layers' matrices for one token; the head computes one row of a prompt, and attention
/// is left out.
fn layer_flops(decoder: &Decoder) -> f64 {
    let matrices = decoder.layers.iter().flat_map(|layer| layer.tensors()).filter(|weight| weight.shape().len() == 2);
    matrices.map(|weight| 2.0 * weight.shape().iter().product::<usize>() as f64).sum()
}

fn measure(arguments: &Arguments) -> Result<Value, Failure> {
    let begun = Instant::now();
    let kind = DeviceChoice::Cuda(arguments.device).open(arguments.kernels.as_deref())?.ok_or("no device")?;
    let opened = begun.elapsed().as_secs_f64();
    let decoder = Arc::new(model(&arguments.shape)?);
    let model = Model { vocab_size: decoder.vocab_size, decoder: Some(Arc::clone(&decoder)) };
    let most = arguments.batches.iter().copied().max().unwrap_or(1);
    let positions = arguments.prefill.max(arguments.depth + arguments.steps + 2);
    let rows = Rows { max_rows: arguments.prefill.max(most).max(arguments.depth), max_logits_rows: most };
    let block_tokens = kind.need(&model, rows).kv_block_tokens;
    let own_blocks = positions.div_ceil(block_tokens);
    let begun = Instant::now();
    let prepared = kind.prepare(&model)?;
    prepared.complete(None, &|| true)?;
    let filled = begun.elapsed().as_secs_f64();
    let sizes = Sizes { rows, kv_blocks: own_blocks * most, max_position: positions };
    let Built { backend, .. } = kind.build(&prepared, &sizes)?;
    let all: Vec<u32> = (0..sizes.kv_blocks as u32).collect();
    let blocks = all.chunks(own_blocks).map(<[u32]>::to_vec).collect();
    let kv_block_bytes = backend.limits().kv_block_bytes;
    let mut run = Run { backend, blocks, results: Results::default(), vocabulary: decoder.vocab_size };

    run.prompt(0, arguments.prefill)?;
    let prompt = run.prompt(0, arguments.prefill)?;
    for sequence in 0..most {
        run.prompt(sequence, arguments.depth.max(1))?;
    }
    let mut decodes = Vec::new();
    for &batch in &arguments.batches {
        run.decode(batch, arguments.depth, 8)?;
        let seconds = run.decode(batch, arguments.depth, arguments.steps)?;
        let kv_bytes = kv_block_bytes / block_tokens * (arguments.depth + arguments.steps / 2) * batch;
        decodes.push(json!({
            "batch": batch, "step_ms": seconds * 1e3, "tokens_per_s": batch as f64 / seconds,
            "bytes": weight_bytes(&decoder) + kv_bytes,
        }));
    }
    let bytes: usize = decoder.tensors().iter().map(|weight| weight.bytes().len()).sum();
    Ok(json!({
        "shape": arguments.shape, "open_s": opened, "fill_s": filled, "weight_bytes": bytes,
        "fill_bytes_per_s": bytes as f64 / filled, "prefill_tokens": arguments.prefill,
        "prefill_tokens_per_s": arguments.prefill as f64 / prompt,
        "prefill_flop_per_s": layer_flops(&decoder) * arguments.prefill as f64 / prompt,
        "decode": decodes,
    }))
}
