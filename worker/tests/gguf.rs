//! A GGUF file answers as the safetensors files it was made of: the same tokens with the same probabilities, bit for
//! bit, its own tokenizer and chat template included. What nothing here computes is refused by name.

#[path = "api/client.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod client;
#[path = "api/worker.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod worker_process;

use compute::backend::{Input, Logits, Segment, Want};
use compute::cpu::{CpuBackend, CpuOptions};
use compute::{KvCacheDtype, Quantization};
use loader::{Tensor, Weights};
use models::Config;
use models::tokenizer::{TextFiles, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tensor::Format;
use testkit::gguf::{GgufFile, Meta};
use testkit::origin::Origin;
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile, TensorDigest};
use worker::lifecycle::ModelSource;
use worker_process::{Running, begin, storage};

/// Names of llama.cpp's converter for the parts of a layer.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

fn name_of(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).expect("a layer's");
    let (part, ending) = rest.rsplit_once('.').expect("a weight or a bias");
    let (_, own) = PARTS.iter().find(|(theirs, _)| *theirs == part).expect("a known part");
    format!("blk.{layer}.{own}.{ending}")
}

fn widened(tensor: &Tensor) -> Vec<u8> {
    match tensor.format() {
        Format::F32 => tensor.bytes().to_vec(),
        Format::Bf16 => tensor.bytes().chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]).collect(),
        other => panic!("no {other} here"),
    }
}

/// Rows of each head reordered so that a pair's two are neighbours, as the converter does for Llama.
fn interleaved(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for pair in 0..half {
            for side in 0..2 {
                let at = (head * 2 * half + side * half + pair) * row;
                out.extend(&bytes[at..at + row]);
            }
        }
    }
    out
}

/// The model as a converter writes it: matrices as stored, vectors as f32.
fn converted(config: &Value, weights: &Weights) -> GgufFile {
    let size = |key: &str| u32::try_from(config[key].as_u64().expect("a size")).expect("small");
    let architecture = config["model_type"].as_str().expect("a type").to_owned();
    let (heads, kv_heads) = (size("num_attention_heads"), size("num_key_value_heads"));
    let head_dim = config["head_dim"].as_u64().map_or(size("hidden_size") / heads, |width| width as u32);
    let rope = &config["rope_parameters"]["rope_theta"];
    let theta = rope.as_f64().or(config["rope_theta"].as_f64()).expect("a base");
    let mut file = GgufFile::default();
    file.meta("general.architecture", Meta::Text(architecture.clone()));
    let mut put = |key: &str, value: Meta| file.meta(&format!("{architecture}.{key}"), value);
    put("block_count", Meta::U32(size("num_hidden_layers")));
    put("context_length", Meta::U32(size("max_position_embeddings")));
    put("embedding_length", Meta::U32(size("hidden_size")));
    put("feed_forward_length", Meta::U32(size("intermediate_size")));
    put("attention.head_count", Meta::U32(heads));
    put("attention.head_count_kv", Meta::U32(kv_heads));
    put("attention.key_length", Meta::U32(head_dim));
    put("attention.value_length", Meta::U32(head_dim));
    put("rope.dimension_count", Meta::U32(head_dim));
    put("attention.layer_norm_rms_epsilon", Meta::F32(config["rms_norm_eps"].as_f64().expect("a number") as f32));
    put("rope.freq_base", Meta::F32(theta as f32));
    for name in weights.names() {
        let tensor = weights.get(name).expect("a tensor");
        let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
        let (mut bytes, kind) = match (shape.len(), tensor.format()) {
            (1, _) => (widened(tensor), 0),
            (_, Format::Bf16) => (tensor.bytes().to_vec(), 30),
            (_, Format::F32) => (tensor.bytes().to_vec(), 0),
            (_, other) => panic!("no {other} here"),
        };
        for (part, heads) in [("q_proj", heads), ("k_proj", kv_heads)] {
            if architecture == "llama" && name.contains(part) {
                bytes = interleaved(&bytes, heads as usize, tensor.shape()[0]);
            }
        }
        file.tensor(&name_of(name), &shape, kind, bytes);
    }
    file
}

/// Adds the tokenizer that a `tokenizer.json` describes.
fn with_tokenizer(file: &mut GgufFile, tokenizer: &Value, pre: &str, end: u32) {
    let vocab = tokenizer["model"]["vocab"].as_object().expect("a map");
    let added = tokenizer["added_tokens"].as_array().cloned().unwrap_or_default();
    let mut tokens = vec![String::new(); vocab.len() + added.len()];
    let mut kinds = vec![1; tokens.len()];
    vocab.iter().for_each(|(token, id)| tokens[id.as_u64().expect("an id") as usize].clone_from(token));
    for token in &added {
        let id = token["id"].as_u64().expect("an id") as usize;
        tokens[id] = token["content"].as_str().expect("text").into();
        kinds[id] = 3;
    }
    let merges = tokenizer["model"]["merges"].as_array().expect("a list").iter().map(|merge| match merge {
        Value::String(line) => line.clone(),
        pair => format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text")),
    });
    file.meta("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.meta("tokenizer.ggml.pre", Meta::Text(pre.into()));
    file.meta("tokenizer.ggml.tokens", Meta::Texts(tokens));
    file.meta("tokenizer.ggml.token_type", Meta::I32s(kinds));
    file.meta("tokenizer.ggml.merges", Meta::Texts(merges.collect()));
    file.meta("tokenizer.ggml.eos_token_id", Meta::U32(end));
    file.meta("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    // What converters write beside these changes nothing.
    file.meta("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    file.meta("tokenizer.ggml.unknown_token_id", Meta::U32(0));
    file.meta("tokenizer.ggml.padding_token_id", Meta::U32(end));
    file.meta("general.sampling.sequence", Meta::Text("k;p".into()));
    file.meta("somebody.else", Meta::Bool(true));
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// The bundled model as a GGUF file that needs nothing beside it.
fn demo() -> GgufFile {
    let mut file = converted(&json_of(models::demo::CONFIG), &models::demo::weights().expect("weights"));
    with_tokenizer(&mut file, &json_of(models::demo::TOKENIZER), "qwen2", 2047);
    file.meta("tokenizer.chat_template", Meta::Text(models::demo::CHAT_TEMPLATE.into()));
    file
}

/// Rows of f32 or bf16 as Q8_0: a binary16 scale, the largest magnitude over 127, and 32 signed bytes to the nearest.
fn in_blocks(kind: u32, bytes: &[u8]) -> Vec<u8> {
    let numbers: Vec<f32> = match kind {
        0 => bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
        30 => bytes.as_chunks().0.iter().map(|half| half::bf16::from_le_bytes(*half).to_f32()).collect(),
        other => panic!("no {other} here"),
    };
    let block = |block: &[f32]| {
        let largest = block.iter().fold(0.0, |largest: f32, number| largest.max(number.abs()));
        let scale = half::f16::from_f32(largest / 127.0);
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        let bytes = block.iter().map(|number| ((number * inverse).round_ties_even() as i8).max(-127).cast_unsigned());
        scale.to_le_bytes().into_iter().chain(bytes).collect::<Vec<u8>>()
    };
    numbers.chunks_exact(32).flat_map(block).collect()
}

/// Stores the matrices for which `which` says so as Q8_0.
fn quantised(mut file: GgufFile, which: impl Fn(&str) -> bool) -> GgufFile {
    for tensor in file.tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2 && which(&tensor.name)) {
        (tensor.bytes, tensor.kind) = (in_blocks(tensor.kind, &tensor.bytes), 8);
    }
    file
}

async fn serving(model: &str) -> Running {
    serving_with(model, json!({})).await
}

async fn serving_with(model: &str, more: Value) -> Running {
    let mut settings = json!({"backend": "cpu", "threads": 1});
    more.as_object().expect("an object").iter().for_each(|(key, value)| settings[key.as_str()] = value.clone());
    let source: ModelSource = format!("demo={model}").parse().expect("a source");
    let (running, loaded) = begin(settings, storage(), vec![source]).await;
    loaded.await.unwrap_or_else(|error| panic!("{model}: {error:?}"));
    running
}

/// The error of a model that is not served.
async fn refusal(path: &Path) -> String {
    let source: ModelSource = format!("demo={}", path.display()).parse().expect("a source");
    let (_running, loaded) = begin(json!({"backend": "cpu", "threads": 1}), storage(), vec![source]).await;
    let error = loaded.await.expect_err("refused");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&*error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn written(directory: &Path, name: &str, file: &GgufFile) -> PathBuf {
    // Renamed into place: an earlier file of this name may be served, and must not shrink beneath its mapping.
    let (path, partial) = (directory.join(name), directory.join("partial"));
    std::fs::write(&partial, file.bytes()).expect("writes");
    std::fs::rename(&partial, &path).expect("renames");
    path
}

#[tokio::test]
async fn the_bundled_model_says_the_same_from_a_gguf_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), "demo-bf16.gguf", &demo());
    let original = serving_demo().await;
    let folder = directory.path().display().to_string();
    for place in [path.display().to_string(), folder] {
        let gguf = serving(&place).await;
        for question in ["What is Forebay?", "What is 12 + 7? It's 3rd déjà vu.\n\n  Yes"] {
            let request = json!({
                "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0,
                "logprobs": true, "top_logprobs": 3,
            });
            let (expected, found) = (original.chat(request.clone()).await, gguf.chat(request).await);
            assert_eq!(expected["choices"], found["choices"], "{place}");
            assert_eq!(expected["usage"]["prompt_tokens"], found["usage"]["prompt_tokens"]);
        }
    }
}

async fn serving_demo() -> Running {
    let (running, loaded) = begin(json!({"backend": "cpu", "threads": 1}), storage(), vec![ModelSource::Demo]).await;
    loaded.await.expect("loads");
    running
}

#[tokio::test]
async fn a_gguf_file_is_fetched_from_far_storage() {
    let origin = Origin::builder().object("models/demo-bf16.gguf", demo().bytes()).start().expect("an origin");
    let far = serving(&format!("{}/models/demo-bf16.gguf", origin.url())).await;
    let request = json!({"max_tokens": 10, "temperature": 0, "logprobs": true});
    let (expected, found) = (serving_demo().await.chat(request.clone()).await, far.chat(request).await);
    assert_eq!(expected["choices"], found["choices"]);
}

/// A fixture of `worker/tests/fixtures`, from its safetensors files and as a GGUF file, both with a tokenizer of
/// made-up words.
/// A file as its publisher has it, and the manifest beside it.
fn published(file: &GgufFile) -> (Vec<u8>, Vec<u8>) {
    let bytes = file.bytes();
    let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
    let parsed = loader::gguf::parse(&bytes, bytes.len() as u64).expect("a file");
    let tensors = parsed.tensors.iter().map(|tensor| TensorDigest {
        name: tensor.name.clone(),
        digest: digest(&bytes[tensor.range.start as usize..tensor.range.end as usize]),
    });
    let listed = ManifestFile {
        name: "model.gguf".into(),
        bytes: bytes.len() as u64,
        extents: bytes.chunks(EXTENT_BYTES as usize).map(digest).collect(),
        tensors: tensors.collect(),
    };
    let manifest = Manifest::new(vec![listed]).expect("a manifest").to_json();
    (bytes, manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_to_another_revision_of_a_gguf_file_fetches_what_changed_alone() {
    let mut builder = Origin::builder().seed(1);
    let mut bytes_total = 0;
    for (folder, rows) in [("old", 0), ("new", 2)] {
        let mut file = demo();
        let changed = file.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_down.weight").expect("a matrix");
        let row = changed.bytes.len() / changed.shape[0] as usize;
        changed.bytes.rotate_left(rows * row);
        let (model, manifest) = published(&file);
        bytes_total = model.len() as u64;
        builder = builder.object(&format!("{folder}/model.gguf"), model);
        builder = builder.object(&format!("{folder}/{MANIFEST_NAME}"), manifest);
    }
    let origin = builder.start().expect("starts");
    let at = |folder: &str| format!("{}/{folder}/model.gguf", origin.url());
    let mut strict = storage();
    strict.trust.require_proof = true;
    let serve = |folder: &str| {
        let source: ModelSource = format!("demo={}", at(folder)).parse().expect("a source");
        begin(json!({"backend": "cpu"}), strict.clone(), vec![source])
    };
    let (worker, loaded) = serve("old").await;
    loaded.await.expect("loads");
    let question = json!({"temperature": 0, "max_tokens": 60, "ignore_eos": true});
    let before = worker.chat(question.clone()).await["choices"].clone();
    let sent = || origin.account().objects.get("new/model.gguf").map_or(0, |object| object.bytes_sent);
    assert_eq!(worker.post("/admin/models/demo/swap", &json!({"source": at("new")})).await.status, 202);
    worker.until("forebay_worker_swaps_total", |swaps| swaps == 1.0).await;
    let metrics = worker.get("/metrics").await.text();
    assert!(metrics.contains("forebay_worker_swaps_total{model=\"demo\",outcome=\"done\"} 1"), "{metrics}");
    // The header, read twice, and the extent that holds the matrix.
    assert!(sent() + EXTENT_BYTES < bytes_total, "{} of {bytes_total} bytes were sent", sent());
    let after = worker.chat(question.clone()).await["choices"].clone();
    assert_ne!(after, before, "the revisions can be told apart");
    let (fresh, loaded) = serve("new").await;
    loaded.await.expect("loads");
    assert_eq!(after, fresh.chat(question).await["choices"]);
}

async fn both_ways(fixture: &str) -> (Running, Running, [tempfile::TempDir; 2]) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let config = json_of(&std::fs::read(from.join("config.json")).expect("reads"));
    let vocabulary = config["vocab_size"].as_u64().expect("a size");
    let vocab: serde_json::Map<String, Value> = (0..vocabulary).map(|id| (format!("t{id:03}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let [safe, gguf] = [(), ()].map(|()| tempfile::tempdir().expect("a directory"));
    for entry in std::fs::read_dir(&from).expect("reads") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "config.json" || name.starts_with("model") {
            std::fs::copy(&path, safe.path().join(name)).expect("copies");
        }
    }
    std::fs::write(safe.path().join("tokenizer.json"), tokenizer.to_string()).expect("writes");
    let mut file = converted(&config, &Weights::open_dir(safe.path()).expect("opens"));
    with_tokenizer(&mut file, &tokenizer, "llama-bpe", 2);
    written(gguf.path(), "model.gguf", &file);
    let place = |directory: &tempfile::TempDir| directory.path().display().to_string();
    (serving(&place(&safe)).await, serving(&place(&gguf)).await, [safe, gguf])
}

#[tokio::test]
async fn every_family_computes_the_same_from_a_gguf_file() {
    for fixture in ["llama_untied", "llama_tied_bf16", "qwen2_bf16", "qwen3"] {
        let (safe, gguf, _directories) = both_ways(fixture).await;
        let prompt: Vec<u32> = (0..20).map(|at| 3 + at * 7 % 150).collect();
        let request = json!({"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": true, "logprobs": 4});
        let (expected, found) = (safe.complete(request.clone()).await, gguf.complete(request).await);
        assert_eq!(expected["choices"], found["choices"], "{fixture}");
        let first = &expected["choices"][0]["logprobs"]["token_logprobs"][0];
        assert!(first.as_f64().is_some_and(|logprob| logprob < 0.0), "it says how likely: {first}");
    }
}

/// The logits of a prompt, computed by the `cpu` backend.
fn logits(config: &Config, weights: &Weights, quantization: Option<Quantization>) -> Vec<f32> {
    let decoder = Arc::new(models::bind(config, weights).expect("they fit"));
    // Left to itself, the format of keys and values follows that of the weights.
    let options = CpuOptions { quantization, kv_dtype: KvCacheDtype::F32, ..CpuOptions::default() };
    let mut backend = CpuBackend::new(&decoder, &options).expect("builds");
    let tokens: Vec<u32> = (0..20).map(|at| 3 + at * 7 % 150).collect();
    let want = Want::Token(compute::sampler::Choice::greedy());
    let segment = Segment { input: Input::Tokens(&tokens), start: 0, blocks: &[0, 1], want };
    backend.logits(&[segment], &mut |_| true).expect("computes").to_vec()
}

#[test]
fn q8_0_in_place_is_what_is_made_of_the_weights_at_load_time() {
    for fixture in ["llama_untied", "qwen3"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        let config = Config::parse(&std::fs::read(from.join("config.json")).expect("reads")).expect("a config");
        let plain = Weights::open_dir(&from).expect("opens");
        // The embeddings stay, as at load time.
        let mut file = GgufFile::default();
        for name in plain.names() {
            let tensor = plain.get(name).expect("a tensor");
            let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
            match (shape.len(), tensor.format()) {
                (2, Format::F32) if !name.contains("embed_tokens") => {
                    file.tensor(name, &shape, 8, in_blocks(0, tensor.bytes()));
                }
                (_, Format::F32) => file.tensor(name, &shape, 0, tensor.bytes().to_vec()),
                (_, other) => panic!("{fixture} is stored as {other}"),
            }
        }
        let directory = tempfile::tempdir().expect("a directory");
        written(directory.path(), "model.gguf", &file);
        let blocks = Weights::open_dir(directory.path()).expect("opens");
        let (made, found) = (logits(&config, &plain, Some(Quantization::Q8_0)), logits(&config, &blocks, None));
        assert!(made == found, "{fixture}");
        assert!(made != logits(&config, &plain, None), "{fixture}: blocks are not what they were made of");
    }
}

/// Divisors of a rotation as the converter writes them for Llama 3.1.
fn divisors(rope: &Value, width: usize) -> Vec<f32> {
    let number = |name: &str| rope[name].as_f64().expect("a number");
    let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
    let original = number("original_max_position_embeddings");
    let divisor = |pair: usize| {
        let frequency = number("rope_theta").powf(-2.0 * pair as f64 / width as f64);
        let wavelength = std::f64::consts::TAU / frequency;
        let smooth = (original / wavelength - low) / (high - low);
        match wavelength {
            short if short < original / high => 1.0,
            long if long > original / low => factor,
            _ => 1.0 / ((1.0 - smooth) / factor + smooth),
        }
    };
    (0..width / 2).map(|pair| divisor(pair) as f32).collect()
}

#[test]
fn divisors_of_a_rotation_in_the_file_are_those_of_the_config() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama3_rope");
    let text = std::fs::read(from.join("config.json")).expect("reads");
    let (config, weights) = (json_of(&text), Weights::open_dir(&from).expect("opens"));
    let mut file = converted(&config, &weights);
    let width = config["head_dim"].as_u64().expect("a width") as usize;
    let divisors: Vec<u8> =
        divisors(&config["rope_parameters"], width).iter().flat_map(|number| number.to_le_bytes()).collect();
    file.tensor("rope_freqs.weight", &[width as u64 / 2], 0, divisors);
    let bytes = file.bytes();
    let header = loader::gguf::parse(&bytes, bytes.len() as u64).expect("a header");
    let theirs = Config::parse(&models::gguf::config_json(&header).expect("a model")).expect("a config");
    assert_eq!(theirs.rope_divisors.as_deref(), Some("rope_freqs.weight"));
    let ours = Config::parse(&text).expect("a config");
    // As from the file, but under a checkpoint's names and with halves for pairs.
    let divided = Config { rope_divisors: theirs.rope_divisors.clone(), rope: theirs.rope.clone(), ..ours.clone() };
    let plain = Config { rope: theirs.rope, ..ours.clone() };
    let mut named = GgufFile::default();
    for name in weights.names() {
        let tensor = weights.get(name).expect("a tensor");
        let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
        named.tensor(name, &shape, 0, tensor.bytes().to_vec());
    }
    let rest = file.tensors.pop().expect("the divisors");
    named.tensor(&rest.name, &rest.shape, rest.kind, rest.bytes);
    let directory = tempfile::tempdir().expect("a directory");
    written(directory.path(), "model.gguf", &named);
    let found = logits(&divided, &Weights::open_dir(directory.path()).expect("opens"), None);
    let apart = |config: &Config| {
        let other = logits(config, &weights, None);
        found.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
    };
    assert!(apart(&ours) < 1e-4, "{}", apart(&ours));
    assert!(apart(&plain) > 1e-2, "{}", apart(&plain));
}

/// Converters mix formats within a layer, and within the matrices that one region of kernels reads together.
#[tokio::test]
async fn matrices_of_every_format_in_one_layer_compute_what_the_reference_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let mixed = |turn: usize| {
        let mut file = demo();
        let matrices = file.tensors.iter_mut().filter(|tensor| tensor.shape.len() == 2);
        for (at, tensor) in matrices.enumerate() {
            let wide = tensor.bytes.as_chunks().0.iter().map(|half| half::bf16::from_le_bytes(*half).to_f32());
            (tensor.kind, tensor.bytes) = match (at + turn) % 4 {
                0 => (0, wide.flat_map(f32::to_le_bytes).collect()),
                1 => (1, wide.flat_map(|number| half::f16::from_f32(number).to_le_bytes()).collect()),
                2 => (8, in_blocks(30, &tensor.bytes)),
                _ => continue,
            };
        }
        file
    };
    let request =
        json!({"prompt": "The forebay holds water above the turbines.", "max_tokens": 0, "echo": true, "logprobs": 1});
    for turn in 0..4 {
        let path = written(directory.path(), &format!("mixed-{turn}.gguf"), &mixed(turn)).display().to_string();
        let mut all = Vec::new();
        for backend in ["cpu", "candle"] {
            let served = serving_with(&path, json!({"backend": backend, "max_model_len": 256})).await;
            let answer = served.complete(request.clone()).await;
            let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list").clone();
            all.push(logprobs.iter().filter_map(Value::as_f64).collect::<Vec<f64>>());
        }
        let apart = all[0].iter().zip(&all[1]).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
        assert!(all[0].len() > 5 && apart < 0.15, "turn {turn}: {apart} from the reference: {all:?}");
    }
}

#[tokio::test]
async fn a_model_wholly_of_q8_0_computes_what_the_reference_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), "demo-q8_0.gguf", &quantised(demo(), |_| true)).display().to_string();
    let [ours, reference, plain] = [
        serving(&path).await,
        serving_with(&path, json!({"backend": "candle", "max_model_len": 256})).await,
        serving_demo().await,
    ];
    // The prompt's own probabilities: the same tokens for all three.
    let request =
        json!({"prompt": "The forebay holds water above the turbines.", "max_tokens": 0, "echo": true, "logprobs": 1});
    let mut all = Vec::new();
    for worker in [&ours, &reference, &plain] {
        let answer = worker.complete(request.clone()).await;
        let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list").clone();
        all.push(logprobs.iter().filter_map(Value::as_f64).collect::<Vec<f64>>());
    }
    let apart =
        |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    let (to_reference, to_plain) = (apart(&all[0], &all[1]), apart(&all[0], &all[2]));
    assert!(all[0].len() > 5 && to_reference < 0.15, "{to_reference} from the reference: {all:?}");
    assert!(to_plain > 0.0 && to_plain < 1.0, "{to_plain} from the weights it was made of");
}

/// The first five log-probabilities of the bundled model with some metadata more.
async fn answered(directory: &Path, more: &[(&str, Meta)]) -> Value {
    let mut file = demo();
    more.iter().for_each(|(key, value)| file.meta(key, value.clone()));
    let path = written(directory, "demo.gguf", &file).display().to_string();
    let request =
        json!({"prompt": "The forebay holds water above the turbines.", "max_tokens": 0, "echo": true, "logprobs": 1});
    serving(&path).await.complete(request).await["choices"][0]["logprobs"]["token_logprobs"].clone()
}

#[tokio::test]
async fn every_number_of_a_rotation_is_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = answered(directory.path(), &[]).await;
    let factor = ("qwen3.rope.scaling.factor", Meta::F32(4.0));
    let linear =
        answered(directory.path(), &[("qwen3.rope.scaling.type", Meta::Text("linear".into())), factor.clone()]).await;
    assert_ne!(linear, plain);
    // llama.cpp takes a factor without a type for a linear one, and its older key for the same.
    assert_eq!(answered(directory.path(), std::slice::from_ref(&factor)).await, linear);
    assert_eq!(answered(directory.path(), &[("qwen3.rope.scale_linear", Meta::F32(4.0))]).await, linear);
    let yarn = [
        ("qwen3.rope.scaling.type", Meta::Text("yarn".into())),
        factor,
        ("qwen3.rope.scaling.original_context_length", Meta::U32(512)),
    ];
    let known = answered(directory.path(), &yarn).await;
    assert_ne!(known, linear);
    for (key, value) in
        [("yarn_beta_fast", 8.0), ("yarn_beta_slow", 4.0), ("yarn_attn_factor", 1.5), ("attn_factor", 1.5)]
    {
        let key = format!("qwen3.rope.scaling.{key}");
        let mut more = yarn.to_vec();
        more.push((&key, Meta::F32(value)));
        assert_ne!(answered(directory.path(), &more).await, known, "{key}");
    }
}

#[tokio::test]
async fn a_tokenizer_beside_the_file_takes_nothing_else_from_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = demo();
    file.metadata.retain(|(key, _)| key != "tokenizer.ggml.pre");
    file.meta("tokenizer.ggml.pre", Meta::Text("exaone".into()));
    file.meta("general.sampling.temp", Meta::F32(0.0));
    written(directory.path(), "demo.gguf", &file);
    std::fs::write(directory.path().join("tokenizer.json"), models::demo::TOKENIZER).expect("writes");
    // Its end token and its chat template are those of the file, and so is its temperature.
    let found = serving(&directory.path().display().to_string()).await;
    let request = json!({"messages": [{"role": "user", "content": "What is 12 + 7?"}], "max_tokens": 40});
    let (expected, found) = (serving_demo().await.chat(request.clone()).await, found.chat(request).await);
    assert_eq!(expected["choices"], found["choices"]);
    assert_eq!(found["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn an_end_token_is_known_by_its_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = demo();
    // As some converters do: another token is named, and the right one is a word like others.
    for (key, value) in &mut file.metadata {
        match (key.as_str(), value) {
            ("tokenizer.ggml.eos_token_id", value) => *value = Meta::U32(3),
            ("tokenizer.ggml.token_type", Meta::I32s(kinds)) => kinds[2047] = 1,
            _ => {}
        }
    }
    let path = written(directory.path(), "demo.gguf", &file).display().to_string();
    let request =
        json!({"messages": [{"role": "user", "content": "What is 12 + 7?"}], "max_tokens": 40, "temperature": 0});
    let (expected, found) =
        (serving_demo().await.chat(request.clone()).await, serving(&path).await.chat(request).await);
    assert_eq!((&expected["choices"], &json!("stop")), (&found["choices"], &found["choices"][0]["finish_reason"]));
}

#[tokio::test]
async fn a_generation_config_beside_the_file_is_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    written(directory.path(), "demo.gguf", &demo());
    let place = directory.path().display().to_string();
    std::fs::write(directory.path().join("generation_config.json"), r#"{"repetition_penalty": 0}"#).expect("writes");
    let text = refusal(directory.path()).await;
    assert!(text.contains("generation_config.json") && text.contains("repetition_penalty"), "{text}");
    std::fs::write(directory.path().join("generation_config.json"), r#"{"do_sample": false}"#).expect("writes");
    let request = json!({"messages": [{"role": "user", "content": "What is Forebay?"}], "max_tokens": 20});
    let (expected, found) =
        (serving_demo().await.chat(request.clone()).await, serving(&place).await.chat(request).await);
    assert_eq!(expected["choices"], found["choices"]);
}

#[tokio::test]
async fn a_template_that_cannot_be_used_refuses_chats_by_name_and_lets_completions_work() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = demo();
    file.metadata.retain(|(key, _)| key != "tokenizer.chat_template");
    file.meta("tokenizer.chat_template", Meta::Text("a\n{{ messages | xmlattr }}".into()));
    let path = written(directory.path(), "demo.gguf", &file).display().to_string();
    let served = serving(&path).await;
    let message = json!({"messages": [{"role": "user", "content": "Hi"}], "model": "demo"});
    let refused = served.post("/v1/chat/completions", &message).await;
    assert_eq!(refused.status, 400);
    let words = refused.json()["error"]["message"].as_str().expect("words").to_owned();
    assert!(["xmlattr", "line 2", "/v1/completions"].iter().all(|word| words.contains(word)), "{words}");
    assert!(served.complete(json!({"prompt": "Hi", "max_tokens": 2})).await["choices"][0]["text"].is_string());
}

#[tokio::test]
async fn blocks_of_q8_0_are_not_quantized_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), "demo-q8_0.gguf", &quantised(demo(), |_| true)).display().to_string();
    let (plain, flagged) = (serving(&path).await, serving_with(&path, json!({"quantization": "q8_0"})).await);
    let told = flagged.get("/status").await.json()["models"][0]["quantization"].clone();
    assert_eq!((&told["matrices"], &told["bytes"], &told["worst"]), (&json!(0), &json!(0), &json!("")), "{told}");
    let request = json!({"max_tokens": 10, "temperature": 0, "logprobs": true});
    assert_eq!(plain.chat(request.clone()).await["choices"], flagged.chat(request).await["choices"]);
}

#[tokio::test]
async fn what_nothing_here_computes_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let changed = |key: &str, value: Meta| {
        let mut file = demo();
        file.metadata.retain(|(own, _)| own != key);
        file.meta(key, value);
        file
    };
    let without = |key: &str| {
        let mut file = demo();
        file.metadata.retain(|(own, _)| own != key);
        file
    };
    let mut quantised = demo();
    let up = quantised.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_up.weight").expect("a matrix");
    let blocks = up.shape.iter().product::<u64>() as usize / 256;
    (up.kind, up.bytes) = (35, vec![0; blocks * 66]);
    let mut lacking = demo();
    lacking.tensors.retain(|tensor| tensor.name != "blk.3.ffn_up.weight");
    let mut extra = demo();
    extra.tensor("blk.0.attn_sinks.weight", &[4], 0, vec![0; 16]);
    for (name, file, words) in [
        ("architecture", changed("general.architecture", Meta::Text("mamba".into())), ["mamba", "qwen3"]),
        ("words", changed("tokenizer.ggml.pre", Meta::Text("exaone-moe".into())), ["exaone-moe", "tokenizer.json"]),
        (
            "pieces",
            changed("tokenizer.ggml.model", Meta::Text("t5".into())),
            ["tokenizer.ggml.model", "tokenizer.json"],
        ),
        ("experts", changed("qwen3.expert_count", Meta::U32(8)), ["qwen3.expert_count", "dense"]),
        ("rotation", changed("qwen3.rope.dimension_count", Meta::U32(32)), ["rope.dimension_count", "32"]),
        ("type", changed("qwen3.block_count", Meta::Text("five".into())), ["qwen3.block_count", "whole number"]),
        ("scores", changed("tokenizer.ggml.model", Meta::Text("llama".into())), ["tokenizer.ggml.scores", "no"]),
        ("kind", quantised, ["model.layers.0.mlp.up_proj.weight", "stored as TQ2_0"]),
        ("no cuts", without("tokenizer.ggml.pre"), ["tokenizer.ggml.pre", "tokenizer.json"]),
        ("unknown", changed("qwen3.attention.temperature_scale", Meta::F32(0.5)), ["temperature_scale", "0.5"]),
        ("soft cap", changed("qwen3.attn_logit_softcapping", Meta::F32(50.0)), ["attn_logit_softcapping", "50"]),
        ("words more", changed("tokenizer.ggml.normalizer.lowercase", Meta::Bool(true)), ["lowercase", "true"]),
        ("yarn without", changed("qwen3.rope.scaling.yarn_beta_fast", Meta::F32(16.0)), ["yarn_beta_fast", "yarn"]),
        ("rows", changed("qwen3.vocab_size", Meta::U32(7)), ["qwen3.vocab_size", "token_embd.weight"]),
        ("lacking", lacking, ["model.layers.3.mlp.up_proj.weight", "missing"]),
        ("extra", extra, ["blk.0.attn_sinks.weight", "not part"]),
    ] {
        let path = written(directory.path(), &format!("{name}.gguf"), &file);
        let text = refusal(&path).await;
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
    }
    // And of several files nobody knows which is meant.
    let text = refusal(directory.path()).await;
    assert!(text.contains(".gguf") && text.contains("the one file that is meant"), "{text}");
}

/// SmolLM2's special tokens come first, others' last, and some are in between.
#[test]
fn a_special_token_has_the_number_that_the_file_gives_it() {
    let mut letters: Vec<String> = ('!'..='~').map(String::from).collect();
    letters.extend(["he", "hel"].map(String::from));
    let mut file = GgufFile::default();
    file.meta("general.architecture", Meta::Text("llama".into()));
    let (mut tokens, mut kinds) = (Vec::new(), Vec::new());
    for (at, letter) in letters.iter().enumerate() {
        if [0, 1, 40, 41].contains(&at) {
            tokens.push(format!("<|special {at}|>"));
            kinds.push(if at == 40 { 4 } else { 3 });
        }
        tokens.push(letter.clone());
        kinds.push(1);
    }
    tokens.push("<|im_end|>".into());
    kinds.push(3);
    file.meta("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.meta("tokenizer.ggml.pre", Meta::Text("smollm".into()));
    file.meta("tokenizer.ggml.tokens", Meta::Texts(tokens.clone()));
    file.meta("tokenizer.ggml.token_type", Meta::I32s(kinds));
    file.meta("tokenizer.ggml.merges", Meta::Texts(vec!["h e".into(), "he l".into()]));
    let bytes = file.bytes();
    let header = loader::gguf::parse(&bytes, bytes.len() as u64).expect("a header");
    let json = models::gguf::tokenizer(&header).expect("a tokenizer");
    let text = models::gguf::text(&header).expect("texts");
    let files = TextFiles { gguf: Some(&text), ..TextFiles::new(&json) };
    let tokenizer = Tokenizer::parse(&files).expect("a tokenizer");
    for (id, token) in (0..).zip(&tokens) {
        assert_eq!(tokenizer.decode(&[id], false), *token);
        assert_eq!(tokenizer.encode(token, false).expect("encodes"), [id], "{token}");
    }
    let said: String = tokens.iter().rev().flat_map(|token| [token.as_str(), "!"]).collect();
    let ids = tokenizer.encode(&said, false).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, false), said);
}

/// Advice that would lead to the next refusal is no advice: what no conversion mends is said first.
#[tokio::test]
async fn an_architecture_is_refused_before_its_formats() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = GgufFile::default();
    file.meta("general.architecture", Meta::Text("gemma3n".into()));
    file.meta("gemma3n.block_count", Meta::U32(1));
    file.tensor("token_embd.weight", &[16, 256], 35, vec![0; 16 * 66]);
    let text = refusal(&written(directory.path(), "gemma-3n-TQ2_0.gguf", &file)).await;
    assert!(text.contains("gemma3n") && text.contains("qwen3, qwen3moe, gemma2"), "{text}");
    assert!(!text.contains("TQ2_0") && !text.contains("convert"), "{text}");
}

#[tokio::test]
async fn the_formats_to_convert_to_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut file = demo();
    let table = file.tensors.iter_mut().find(|tensor| tensor.name == "token_embd.weight").expect("a table");
    let blocks = table.shape.iter().product::<u64>() as usize / 256;
    (table.kind, table.bytes) = (35, vec![0; blocks * 66]);
    let text = refusal(&written(directory.path(), "demo-tq2_0.gguf", &file)).await;
    assert!(["TQ2_0", "convert", "BF16", "Q4_K"].iter().all(|word| text.contains(word)), "{text}");
    // What the advice says does work.
    serving(&written(directory.path(), "demo-q8_0.gguf", &quantised(demo(), |_| true)).display().to_string()).await;
}

#[tokio::test]
async fn the_way_to_a_gguf_file_in_far_storage_is_named() {
    let origin = Origin::builder().object("models/Demo-BF16.gguf", demo().bytes()).start().expect("an origin");
    let file = |name: &str| format!("{}/models/{name}", origin.url());
    let text = refusal(Path::new(&file("demo-bf16.gguf"))).await;
    assert!(text.contains("no such file") && text.contains("capitals"), "{text}");
    let text = refusal(Path::new(&file(""))).await;
    assert!(text.contains("the one GGUF file that is meant"), "{text}");
    serving(&file("Demo-BF16.gguf")).await;
}

/// A file in several, each with tensors of its own; the first has the metadata.
fn in_parts(file: GgufFile, count: usize) -> Vec<GgufFile> {
    let (total, of_each) = (file.tensors.len(), file.tensors.len().div_ceil(count));
    let mut tensors = file.tensors.into_iter();
    let mut parts = Vec::new();
    for no in 0..count {
        let metadata = if no == 0 { file.metadata.clone() } else { Vec::new() };
        let mut part = GgufFile { metadata, tensors: tensors.by_ref().take(of_each).collect() };
        for (key, number) in [("split.no", no), ("split.count", count), ("split.tensors.count", total)] {
            part.meta(key, Meta::U32(u32::try_from(number).expect("small")));
        }
        parts.push(part);
    }
    parts
}

fn part_name(number: usize) -> String {
    format!("demo-0000{number}-of-00003.gguf")
}

#[tokio::test]
async fn a_model_in_several_files_says_what_one_file_does() {
    let request = json!({"max_tokens": 10, "temperature": 0, "logprobs": true});
    let expected = serving_demo().await.chat(request.clone()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::builder();
    for (at, part) in in_parts(demo(), 3).iter().enumerate() {
        written(directory.path(), &part_name(at + 1), part);
        origin = origin.object(&format!("models/{}", part_name(at + 1)), part.bytes());
    }
    // As some are split: the first file has the metadata alone.
    let bare = tempfile::tempdir().expect("a directory");
    let mut parts = in_parts(demo(), 3);
    let first = std::mem::take(&mut parts[0].tensors);
    parts[1].tensors.extend(first);
    for (at, part) in parts.iter().enumerate() {
        written(bare.path(), &part_name(at + 1), part);
    }
    let origin = origin.start().expect("an origin");
    let folder = directory.path().display();
    for place in [
        bare.path().display().to_string(),
        folder.to_string(),
        format!("{folder}/{}", part_name(1)),
        format!("{folder}/{}", part_name(3)),
        format!("{}/models/{}", origin.url(), part_name(2)),
    ] {
        let found = serving(&place).await.chat(request.clone()).await;
        assert_eq!(expected["choices"], found["choices"], "{place}");
    }
}

#[tokio::test]
async fn files_that_are_not_those_of_one_model_are_refused_by_name() {
    let parts = in_parts(demo(), 3);
    let cases: [(&[(usize, &GgufFile)], &str); 4] = [
        (&[(1, &parts[0]), (3, &parts[2])], "demo-00002-of-00003.gguf"),
        (&[(1, &parts[0]), (2, &parts[2]), (3, &parts[1])], "split.no"),
        (&[(1, &parts[0]), (2, &parts[0]), (3, &parts[2])], "split.no"),
        (&[(1, &parts[0]), (2, &demo()), (3, &parts[2])], "split.count"),
    ];
    for (files, found) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        for (number, part) in files {
            written(directory.path(), &part_name(*number), part);
        }
        for place in [directory.path().to_owned(), directory.path().join(part_name(1))] {
            let text = refusal(&place).await;
            assert!(text.contains(found), "{}: {text}", place.display());
        }
    }
    // One of several under a name of its own.
    let directory = tempfile::tempdir().expect("a directory");
    let text = refusal(&written(directory.path(), "demo.gguf", &parts[0])).await;
    assert!(text.contains("split.count") && text.contains("another model"), "{text}");
}

#[tokio::test]
async fn a_directory_without_a_tokenizer_is_refused_with_the_forms_that_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_untied");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(name), directory.path().join(name)).expect("copies");
    }
    let text = refusal(directory.path()).await;
    assert!(
        text.contains("tokenizer.json") && text.contains("merges.txt") && text.contains("worker.tokenizer"),
        "{text}"
    );
    for (form, found) in
        [("vocab.json", "merges.txt"), ("tekken.json", "tekken.json"), ("tokenizer.model", "no SentencePiece model")]
    {
        std::fs::write(directory.path().join(form), "{}").expect("writes");
        let text = refusal(directory.path()).await;
        assert!(text.contains(found), "{form}: {text}");
        std::fs::remove_file(directory.path().join(form)).expect("removes");
    }
}

/// SentencePiece's pieces, bytes and scores, as converters write them.
#[test]
fn pieces_with_scores_are_joined_as_sentencepiece_joins_them() {
    let mut file = GgufFile::default();
    file.meta("general.architecture", Meta::Text("llama".into()));
    let mut tokens: Vec<(String, i32, f32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(token, kind)| (token.to_owned(), kind, 0.0)).into();
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
    let pieces = ["▁t", "he", "▁the", "▁th", "er", "▁there", "▁", "t", "h", "e", "r", "a"];
    tokens.extend(pieces.iter().enumerate().map(|(at, piece)| ((*piece).to_owned(), 1, -(at as f32))));
    tokens.push(("<turn>".to_owned(), 4, 0.0));
    file.meta("tokenizer.ggml.model", Meta::Text("llama".into()));
    file.meta("tokenizer.ggml.tokens", Meta::Texts(tokens.iter().map(|(token, ..)| token.clone()).collect()));
    file.meta("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|(_, kind, _)| *kind).collect()));
    file.meta("tokenizer.ggml.scores", Meta::F32s(tokens.iter().map(|(.., score)| *score).collect()));
    for (key, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        file.meta(&format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id));
    }
    let read = |file: &GgufFile| {
        let bytes = file.bytes();
        let header = loader::gguf::parse(&bytes, bytes.len() as u64).expect("a header");
        let json = models::gguf::tokenizer(&header).expect("a tokenizer");
        let text = models::gguf::text(&header).expect("texts");
        Tokenizer::parse(&TextFiles { gguf: Some(&text), ..TextFiles::new(&json) }).expect("a tokenizer")
    };
    let id = |token: &str| tokens.iter().position(|(own, ..)| own == token).expect("a token") as u32;
    let tokenizer = read(&file);
    let ids = |text: &str| tokenizer.encode(text, false).expect("encodes");
    // "▁t" is joined before "he", and "▁the" of both before "er" could be.
    assert_eq!(ids("there"), [id("▁the"), id("r"), id("e")]);
    assert_eq!(ids("the there"), [id("▁the"), id("▁the"), id("r"), id("e")]);
    // No piece has this character: its bytes are tokens. A token of the user's is found first.
    assert_eq!(ids("é"), [id("▁"), id("<0xC3>"), id("<0xA9>")]);
    assert!(ids("the<turn>the").contains(&id("<turn>")));
    assert_eq!(tokenizer.encode("the", true).expect("encodes"), [id("<s>"), id("▁the")]);
    for text in ["the there", "  a  é\n", "hé<turn>"] {
        assert_eq!(tokenizer.decode(&ids(text), true), text);
    }
    file.meta("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    file.meta("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    let bare = read(&file);
    assert_eq!(bare.encode("the the", true).expect("encodes"), [id("t"), id("he"), id("▁the")]);
}
