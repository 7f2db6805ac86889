//! A swap takes memory for the old revision and for what changed, not for two revisions.
//!
//! A test binary of its own: the peak is the process's.

#[path = "api/client.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod client;
#[path = "api/worker.rs"]
#[expect(dead_code, reason = "shared with the API's tests, which use all of it")]
mod worker_process;

use client::PATIENCE;
use loader::header;
use models::Config;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tensor::Slot;
use testkit::origin::{Generated, Origin};
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile, TensorDigest};
use wire::status::{ModelPhase, WorkerStatus};
use worker_process::{Running, begin, storage};

const MODEL: &str = "model.safetensors";
const CHANGED: &str = "model.layers.0.mlp.down_proj.weight";

/// Writes a model of some 70 MB whose numbers mean nothing; revisions differ in one matrix.
fn write(folder: &Path, revision: u64) -> u64 {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 16_384, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "tie_word_embeddings": true, "max_position_embeddings": 512, "eos_token_id": 2047,
    });
    let config = config.to_string().into_bytes();
    let decoder = models::describe(&Config::parse(&config).expect("a config"));
    let tensors: Vec<(&Slot, Vec<u8>)> = decoder
        .tensors()
        .into_iter()
        .zip(1u64..)
        .map(|(slot, seed)| {
            let bytes = slot.elements() as u64 * 2;
            let seed = if slot.name == CHANGED { seed + 1000 * revision } else { seed };
            (slot, Generated::new(bytes, seed).bytes(0..bytes))
        })
        .collect();
    let views = tensors.iter().map(|(slot, bytes)| {
        (&slot.name, TensorView::new(safetensors::Dtype::BF16, slot.shape.clone(), bytes).expect("a view"))
    });
    let model = safetensors::serialize(views, None).expect("serialised");
    let mut files = BTreeMap::from([("config.json", config), (MODEL, model)]);
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name);
        files.insert(name, std::fs::read(demo).expect("a file of the demo"));
    }
    std::fs::create_dir(folder).expect("a folder");
    std::fs::write(folder.join(MANIFEST_NAME), manifest(&files).to_json()).expect("written");
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).expect("written"));
    files[MODEL].len() as u64
}

fn manifest(files: &BTreeMap<&str, Vec<u8>>) -> Manifest {
    let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
    let file = |(name, bytes): (&&str, &Vec<u8>)| {
        let header = if *name == MODEL { header::parse(bytes, bytes.len() as u64).ok() } else { None };
        let infos = header.iter().flat_map(|header| &header.tensors);
        let tensors = infos.map(|info| TensorDigest {
            name: info.name.clone(),
            digest: digest(&bytes[info.range.start as usize..info.range.end as usize]),
        });
        ManifestFile {
            name: (*name).to_owned(),
            bytes: bytes.len() as u64,
            extents: bytes.chunks(EXTENT_BYTES as usize).map(digest).collect(),
            tensors: tensors.collect(),
        }
    };
    Manifest::new(files.iter().map(file).collect()).expect("a manifest")
}

/// A line of the process's memory facts, in bytes.
fn memory(fact: &str) -> u64 {
    let facts = std::fs::read_to_string("/proc/self/status").expect("facts");
    let line = facts.lines().find_map(|line| line.strip_prefix(fact)).expect("the fact");
    let kibibytes: u64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}

async fn until_ready(worker: &Running) {
    let begun = Instant::now();
    loop {
        let status: WorkerStatus = serde_json::from_value(worker.get("/status").await.json()).expect("a status");
        if status.models[0].phase == ModelPhase::Ready {
            assert_eq!(status.models[0].error, None);
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes of a model, and what its swap takes beyond them at most.
async fn swapped(quantization: Option<&str>) -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = write(&folder.path().join("old"), 0);
    write(&folder.path().join("new"), 1);
    let origin = Origin::builder().seed(1).dir(folder.path()).start().expect("starts");
    let source = format!("demo={}/old/", origin.url()).parse().expect("a source");
    let mut settings = json!({"backend": "cpu", "max_model_len": 256, "max_num_seqs": 2, "max_num_batched_tokens": 64});
    settings["quantization"] = json!(quantization);
    let (worker, loaded) = begin(settings, storage(), vec![source]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    // The peak counts anew from here.
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let before = memory("VmRSS");
    let body = json!({"source": format!("{}/new/", origin.url())});
    let accepted = worker.post("/admin/models/demo/swap", &body).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    until_ready(&worker).await;
    (bytes, memory("VmHWM").saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_takes_what_changed_and_not_a_second_model() {
    // One after the other: they would count each other's memory.
    for quantization in [None, Some("q8_0")] {
        let (bytes, peak) = swapped(quantization).await;
        println!("{quantization:?}: {peak} bytes beyond a model of {bytes}");
        // The matrix that changed has 6 MB, in at most three extents, and 3 MB as a copy; the header has one; the rest is
        // for tokenizer, requests in flight and the allocator. Copies of the other matrices would have 34 MB.
        assert!(bytes > 60_000_000 && peak < bytes * 2 / 5, "{quantization:?}: {peak} bytes for a model of {bytes}");
    }
}
