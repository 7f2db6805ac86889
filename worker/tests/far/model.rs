//! The bundled model cut into one shard file for each part of it, on an origin that can hold parts
//! back.

use std::collections::BTreeMap;
use std::path::Path;

use loader::{TensorInfo, Weights, header};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use testkit::origin::{Builder, Fault, Faults, Origin, Script};
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile, TensorDigest};
use worker::lifecycle::ModelSource;

use crate::worker_process::Running;

/// The last part that a step needs: the final norm.
pub(crate) const LAST: &str = "model-tail.safetensors";
/// The only shard file of a model that is not cut.
pub(crate) const WHOLE: &str = "model.safetensors";
/// The tensor in which revisions differ.
const CHANGED: &str = "model.layers.0.mlp.down_proj.weight";
/// The shard file that holds it.
pub(crate) const CHANGED_FILE: &str = "model-layer-0.safetensors";

/// A revision of the bundled model: its files by name.
#[derive(Clone)]
pub(crate) struct Revision(pub(crate) BTreeMap<String, Vec<u8>>);

impl Revision {
    /// Revision 0 is the bundled model; others differ from it in one matrix of the first layer.
    pub(crate) fn new(number: u8) -> Self {
        Self::cut(number, file_of)
    }

    /// The same in one file, as the bundled model is: its extents hold several tensors each.
    pub(crate) fn whole(number: u8) -> Self {
        let mut revision = Self::cut(number, |_| WHOLE.to_owned());
        revision.0.remove("model.safetensors.index.json");
        revision
    }

    fn cut(number: u8, file_of: impl Fn(&str) -> String) -> Self {
        let weights = models::demo::weights().expect("weights");
        let mut parts: BTreeMap<String, Vec<(&str, Vec<u8>)>> = BTreeMap::new();
        for name in weights.names() {
            let mut bytes = weights.get(name).expect("a tensor").bytes().to_vec();
            if name == CHANGED {
                // Other rows first: the same numbers, another matrix.
                bytes.rotate_left(usize::from(number) * 2 * 768);
            }
            parts.entry(file_of(name)).or_default().push((name, bytes));
        }
        let map: BTreeMap<&str, &String> =
            parts.iter().flat_map(|(file, names)| names.iter().map(move |(name, _)| (*name, file))).collect();
        let index = json!({"metadata": {}, "weight_map": map}).to_string().into_bytes();
        let mut files: BTreeMap<String, Vec<u8>> =
            parts.iter().map(|(file, tensors)| (file.clone(), shard(&weights, tensors))).collect();
        files.insert("model.safetensors.index.json".to_owned(), index);
        for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            files.insert(name.to_owned(), demo_file(name));
        }
        files.insert("chat_template.jinja".to_owned(), demo_file("chat_template.jinja"));
        Self(files)
    }

    /// The same with a field of its config set.
    pub(crate) fn with_config(mut self, field: &str, value: Value) -> Self {
        let config = self.0.get_mut("config.json").expect("a config");
        let mut changed: Value = serde_json::from_slice(config).expect("JSON");
        changed[field] = value;
        *config = changed.to_string().into_bytes();
        self
    }

    /// The same with its publisher's manifest.
    pub(crate) fn published(mut self) -> Self {
        let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
        let tensors = |bytes: &[u8]| {
            let header = header::parse(bytes, bytes.len() as u64).expect("a header");
            let of = |info: &TensorInfo| TensorDigest {
                name: info.name.clone(),
                digest: digest(&bytes[info.range.start as usize..info.range.end as usize]),
            };
            header.tensors.iter().map(of).collect()
        };
        let file = |(name, bytes): (&String, &Vec<u8>)| ManifestFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
            extents: bytes.chunks(EXTENT_BYTES as usize).map(digest).collect(),
            tensors: if name.ends_with(".safetensors") { tensors(bytes) } else { Vec::new() },
        };
        let manifest = Manifest::new(self.0.iter().map(file).collect()).expect("a manifest");
        self.0.insert(MANIFEST_NAME.to_owned(), manifest.to_json());
        self
    }

    /// Bytes of its shard files.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.0.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Puts it on an origin to be, under a folder.
    pub(crate) fn on(&self, builder: Builder, folder: &str) -> Builder {
        self.0.iter().fold(builder, |builder, (name, bytes)| builder.object(&format!("{folder}/{name}"), bytes.clone()))
    }
}

fn demo_file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name)).expect("a file of the demo")
}

fn file_of(tensor: &str) -> String {
    match tensor.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()) {
        Some(number) => format!("model-layer-{number}.safetensors"),
        None if tensor.starts_with("model.embed_tokens") => "model-embeddings.safetensors".to_owned(),
        None => LAST.to_owned(),
    }
}

fn shard(weights: &Weights, tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, bytes)| {
        let tensor = weights.get(name).expect("a tensor");
        assert_eq!(tensor.format(), tensor::Format::Bf16, "as the demo is stored");
        (*name, TensorView::new(safetensors::Dtype::BF16, tensor.shape().to_vec(), bytes).expect("a view"))
    });
    safetensors::serialize(views, None).expect("serialised")
}

/// The model named `demo`, in a folder of an origin.
pub(crate) fn at(origin: &Origin, folder: &str) -> ModelSource {
    format!("demo={}/{folder}/", origin.url()).parse().expect("a source")
}

/// Lets headers through, and refuses what comes after them: retries go on until it is let go.
pub(crate) fn hold(origin: &Origin, object: &str) {
    let fault = Fault::Status { status: 503, retry_after_seconds: None };
    origin.set_faults(scripted(object, LOOKS + 1, fault));
}

/// Everything is answered again.
pub(crate) fn let_go(origin: &Origin) {
    origin.set_faults(Faults::default());
}

/// Requests of the first look at a shard file: one for its size, and two for its header, which nothing else proves yet.
pub(crate) const LOOKS: u64 = 3;

/// A fault of every request for an object from the `first` on.
pub(crate) fn scripted(object: &str, first: u64, fault: Fault) -> Faults {
    let script = Script { object: Some(object.to_owned()), first, last: u64::MAX, fault };
    Faults { scripts: vec![script], ..Faults::default() }
}

/// The text of a greedy answer.
pub(crate) async fn answer(worker: &Running, max_tokens: u32) -> String {
    text(&worker.chat(greedy(max_tokens)).await)
}

/// A greedy request that ends with its length.
pub(crate) fn greedy(max_tokens: u32) -> Value {
    json!({"temperature": 0, "max_tokens": max_tokens, "ignore_eos": true})
}

pub(crate) fn text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}
