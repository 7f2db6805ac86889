//! Identities of weights: the roots of published KV block names, by which a fleet can tell which workers hold which
//! prefixes.
//!
//! Weights whose bytes were hashed have an identity that every worker with the same bytes, description and preparation
//! has. A trusted directory was not hashed: it has a random one for as long as its files are the same ones, until it was
//! hashed in the background.

use crate::engine::Identity;
use compute::Kind;
use loader::Weights;
use models::Config;
use parking_lot::Mutex;
use std::path::Path;
use std::time::SystemTime;
use wire::digest::Digest;

/// Directories that are remembered: more than a worker swaps between.
const REMEMBERED_MAX: usize = 64;

/// A file's metadata, standing for its bytes while it does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    name: String,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// The stamp of a file; none where it cannot be looked at.
    #[cfg(unix)]
    pub(super) fn of(folder: &Path, name: &str) -> Option<Self> {
        Self::at(&folder.join(name), name)
    }

    #[cfg(unix)]
    fn at(path: &Path, name: &str) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = path.metadata().ok()?;
        let modified = found.modified().ok();
        Some(Self { name: name.to_owned(), device: found.dev(), inode: found.ino(), bytes: found.len(), modified })
    }

    /// True if the file at this path is still the one that was stamped.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        Self::at(path, &self.name).as_ref() == Some(self)
    }
}

/// The identities that this process has made up.
#[derive(Debug, Default)]
pub(super) struct Private {
    known: Mutex<Vec<(Key, Identity)>>,
}

/// Files, and what is computed of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    files: Vec<Stamp>,
    description: Vec<u8>,
    preparation: &'static str,
}

impl Private {
    /// The identity of files that nobody hashed: the same one while they are the same files. Files that could not be
    /// looked at are never the same.
    pub(super) fn identity(&self, files: Option<Vec<Stamp>>, config: &Config, kind: &dyn Kind) -> Identity {
        let new = Identity::private(rand::random());
        let Some(files) = files else { return new };
        self.known_or(Key::of(files, config, kind), new)
    }

    /// Gives these files the identity that their bytes were found to have, while they are the same files.
    pub(super) fn publish(&self, files: Vec<Stamp>, config: &Config, kind: &dyn Kind, identity: Identity) {
        let key = Key::of(files, config, kind);
        self.known.lock().retain(|(other, _)| *other != key);
        self.known_or(key, identity);
    }

    fn known_or(&self, key: Key, new: Identity) -> Identity {
        let mut known = self.known.lock();
        if let Some((_, identity)) = known.iter().find(|(other, _)| *other == key) {
            return *identity;
        }
        if known.len() == REMEMBERED_MAX {
            known.remove(0);
        }
        known.push((key, new));
        new
    }
}

impl Key {
    fn of(files: Vec<Stamp>, config: &Config, kind: &dyn Kind) -> Self {
        Self { files, description: describe(config), preparation: kind.preparation() }
    }
}

/// The identity of weights whose bytes were hashed; none where they were not, or not yet.
pub(super) fn public(weights: &Weights, config: &Config, kind: &dyn Kind) -> Option<Identity> {
    weights.identity().map(|digest| of_bytes(&digest, config, kind))
}

/// The identity of weights whose bytes have this digest.
pub(super) fn of_bytes(digest: &Digest, config: &Config, kind: &dyn Kind) -> Identity {
    Identity::of(&digest.0, &describe(config), kind.preparation())
}

/// The identity of weights that are compiled into the binary: their bytes are hashed here, a few megabytes.
pub(super) fn of_embedded(weights: &Weights, config: &Config, kind: &dyn Kind) -> Identity {
    let mut names: Vec<&str> = weights.names().collect();
    names.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key("forebay embedded weights 1");
    for tensor in names.into_iter().filter_map(|name| weights.get(name)) {
        hasher.update(&(tensor.bytes().len() as u64).to_le_bytes()).update(tensor.bytes());
    }
    Identity::of(hasher.finalize().as_bytes(), &describe(config), kind.preparation())
}

/// The identity of a kind that reads no weights: what it says follows from the vocabulary's size alone.
pub(super) fn of_nothing(config: &Config, kind: &dyn Kind) -> Identity {
    Identity::of(&[0; 32], &(config.vocab_size as u64).to_le_bytes(), kind.preparation())
}

/// Everything that keys and values follow from besides bytes and preparation. The type that a config declares is not:
/// tensors decide.
fn describe(config: &Config) -> Vec<u8> {
    models::describe(config).encoded()
}

#[cfg(test)]
mod tests {
    use super::*;
    use compute::{BackendKind, KindOptions, Quantization};

    fn config() -> Config {
        Config::parse(models::demo::CONFIG).expect("the demo's")
    }

    #[test]
    fn a_directory_keeps_its_name_while_its_files_are_the_same_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("model.safetensors");
        std::fs::write(&file, b"some weights").expect("writes");
        let stored = BackendKind::Cpu.configured(&KindOptions::default());
        let private = Private::default();
        let of = |private: &Private| {
            let stamp = Stamp::of(folder.path(), "model.safetensors").expect("a file");
            private.identity(Some(vec![stamp]), &config(), &*stored)
        };
        let first = of(&private);
        assert!(!first.status().is_public);
        assert_eq!(of(&private), first);
        assert_ne!(of(&Private::default()), first, "another process");
        // Computed otherwise, they are other weights.
        let options = KindOptions { quantization: Some(Quantization::Q8_0), ..KindOptions::default() };
        let stamp = Stamp::of(folder.path(), "model.safetensors");
        let quantized = BackendKind::Cpu.configured(&options);
        assert_ne!(private.identity(stamp.map(|stamp| vec![stamp]), &config(), &*quantized), first);
        // Hashed, they have the name that was found, for as long as they are the same files.
        let found = Identity::of(&[7; 32], b"a description", "stored");
        let stamp = Stamp::of(folder.path(), "model.safetensors").expect("a file");
        assert!(stamp.is_of(&file));
        private.publish(vec![stamp.clone()], &config(), &*stored, found);
        assert_eq!(of(&private), found);
        // The same bytes in another file.
        let other = folder.path().join("other");
        std::fs::write(&other, b"some weights").expect("writes");
        std::fs::rename(&other, &file).expect("renames");
        assert!(!stamp.is_of(&file));
        assert!(of(&private) != first && of(&private) != found);
        assert_ne!(private.identity(None, &config(), &*stored), private.identity(None, &config(), &*stored));
    }

    /// Digests of this release and of every later one. A change renames every published block of a whole fleet: it needs a
    /// reason, a new version of the encoding, and a line in the change log.
    #[test]
    fn an_identity_is_the_same_in_every_release() {
        let kind = BackendKind::Cpu.configured(&KindOptions::default());
        let identity = |config: &str| {
            let config = Config::parse(config.as_bytes()).expect("a config");
            Identity::of(&[7; 32], &describe(&config), kind.preparation()).to_string()
        };
        let llama = r#"{
            "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192}
        }"#;
        let qwen = r#"{
            "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-06, "rope_theta": 1000000, "tie_word_embeddings": false
        }"#;
        let pinned = [
            "094d14d472611bf296e57246f1ba6917f71c94d5c55f44c18aafadb3cbf29865",
            "f8e6f18b8a5f4fcadb50ab854d050d087767d55355c489527248f6bcad8b2656",
        ];
        assert_eq!([identity(llama), identity(qwen)], pinned);
        // The words of a config do not count, what they mean does.
        assert_eq!(identity(&qwen.replace("1000000,", "1e6, \"torch_dtype\": \"bfloat16\",")), identity(qwen));
        assert_ne!(identity(&qwen.replace("1000000,", "1000001,")), identity(qwen));
    }

    #[test]
    fn a_declared_type_is_not_a_part_of_the_description() {
        let config = config();
        assert_eq!(describe(&config), describe(&Config { dtype: None, ..config.clone() }));
        assert_ne!(describe(&config), describe(&Config { rms_norm_eps: 1e-3, ..config.clone() }));
    }
}
