//! The first look at a model: its small files and its weight files' headers, and nothing else.
//!
//! The result is evidence ([`Probe::evidence`]): which objects a load reads, what their store says of
//! them, and which names are not there. Policy decides whose digests to believe, and only then does
//! `open` read weights. All objects are looked for at once and all headers are read at once, so a
//! first look takes a few round trips however many files there are.

mod look;

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wire::digest::Digest;
use wire::evidence::{Evidence, ObjectEvidence, Origin, Pinned, Role, is_weights_name};
use wire::manifest::{Manifest, TensorDigest};

use crate::gguf::Gguf;
use crate::header::Header;
use crate::source::{Object, Source};
use crate::{LoadError, ModelUrl, Region};

pub(crate) use look::{Look, look};

/// The name of a published manifest.
pub const MANIFEST: &str = wire::manifest::MANIFEST_NAME;
/// The name of a signature, as OpenSSF Model Signing writes it.
pub(crate) const SIGNATURE: &str = wire::manifest::SIGNATURE_NAME;
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The small files that a model may have, as Hugging Face publishes them, and what a load makes of
/// each. This is the only list of them.
const SMALL_FILES: [(&str, Role); 16] = [
    ("config.json", Role::Settings),
    ("generation_config.json", Role::Settings),
    ("tokenizer.json", Role::Settings),
    ("tokenizer_config.json", Role::Settings),
    ("chat_template.jinja", Role::Settings),
    ("chat_template.json", Role::Settings),
    ("special_tokens_map.json", Role::Settings),
    ("added_tokens.json", Role::Settings),
    ("modules.json", Role::Settings),
    ("1_Pooling/config.json", Role::Settings),
    ("sentence_bert_config.json", Role::Settings),
    (INDEX, Role::Settings),
    ("vocab.json", Role::Companion),
    ("merges.txt", Role::Companion),
    ("tokenizer.model", Role::Companion),
    ("tekken.json", Role::Companion),
];

/// The file that goes before a tokenizer's other forms.
const TOKENIZER: &str = "tokenizer.json";
/// Those forms: read where it is missing, and else kept for other tools.
const OTHER_TOKENIZERS: [&str; 4] = ["vocab.json", "merges.txt", "tokenizer.model", "tekken.json"];

/// One file of weights, its header checked.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The object, pinned to what it was.
    pub object: Object,
    /// Its header.
    pub header: Header,
    /// The bytes that the header was read from: the file's beginning, up to its data. They are
    /// compared with the verified extents before anything is shown.
    pub(crate) head: Arc<[u8]>,
}

impl Shard {
    /// Returns true if a file begins with the bytes that the header was read from, so that the header describes
    /// it. Only for files that have arrived.
    pub(crate) fn describes(&self, region: &Region) -> bool {
        region.view(0..self.head.len()).is_some_and(|head| *head == *self.head)
    }
}

/// One small file.
#[derive(Debug, Clone)]
pub(crate) struct SmallFile {
    /// The object, pinned to what it was.
    pub object: Object,
    /// All its bytes.
    pub bytes: Arc<[u8]>,
}

/// The result of a first look.
#[derive(Debug)]
pub struct Probe {
    pub(crate) url: ModelUrl,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) files: BTreeMap<String, SmallFile>,
    pub(crate) shards: Vec<Shard>,
    /// True if its storage could not be asked, and peers showed it.
    pub(crate) is_from_peers: bool,
    /// The contents of the model's GGUF files, where it is of such.
    gguf: Option<Gguf>,
    evidence: Evidence,
}

impl Probe {
    /// The contents of the model's GGUF files, where it is of such.
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Renames tensors to the names by which the model is known elsewhere. `None` keeps a name.
    pub fn rename(&mut self, other: &dyn Fn(&str) -> Option<String>) {
        for info in self.shards.iter_mut().flat_map(|shard| &mut shard.header.tensors) {
            if let Some(name) = other(&info.name) {
                info.name = name;
            }
        }
    }

    /// The digests of tensors in a manifest, which has the names that are stored, by the names that they have here.
    pub(crate) fn tensor_digests(&self, manifest: &Manifest) -> BTreeMap<String, Digest> {
        let stored = self.gguf.iter().flat_map(|gguf| &gguf.tensors).map(|tensor| &tensor.name);
        let here = self.shards.iter().flat_map(|shard| &shard.header.tensors).map(|info| &info.name);
        let renamed: BTreeMap<&String, &String> = stored.zip(here).collect();
        let digest = |TensorDigest { name, digest }: &TensorDigest| {
            (renamed.get(name).map_or_else(|| name.clone(), |here| (*here).clone()), *digest)
        };
        manifest.files().iter().flat_map(|file| &file.tensors).map(digest).collect()
    }

    /// One file alone, of which no byte was read.
    pub(crate) fn of_file(url: ModelUrl, source: Arc<dyn Source>, object: Object, pinned: Option<Pinned>) -> Self {
        let is_weights = object.checksum.is_some() || is_weights_name(&object.name);
        let role = if is_weights { Role::Weights } else { Role::Companion };
        let evidence = Evidence {
            origin: origin_of(&url),
            objects: vec![evidence_of(&object, role)],
            absent: Vec::new(),
            manifest: None,
            manifest_sha256: None,
            signature: None,
            pinned,
        };
        let header = Header { metadata: BTreeMap::new(), tensors: Vec::new(), data_start: 0 };
        let shards = vec![Shard { object, header, head: Arc::default() }];
        Self { url, source, files: BTreeMap::new(), shards, is_from_peers: false, gguf: None, evidence }
    }

    /// The evidence to decide on.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The model's URL.
    #[must_use]
    pub fn url(&self) -> &ModelUrl {
        &self.url
    }

    /// A small file's bytes, unverified: trust them as far as the verdict on the model says.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| &*file.bytes)
    }

    /// The names of the small files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The shard files.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The bytes of all shard files.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.object.bytes).sum()
    }
}

/// The use that a load makes of a small file that is among `files`.
pub(crate) fn role_of(name: &str, files: &BTreeMap<String, SmallFile>) -> Role {
    if OTHER_TOKENIZERS.contains(&name) && !files.contains_key(TOKENIZER) {
        return Role::Settings;
    }
    SMALL_FILES.iter().find(|(known, _)| *known == name).map_or(Role::Companion, |(_, role)| *role)
}

/// Returns true if a look at a model looks for a file of this name: if it is not among those found, there is none.
#[must_use]
pub fn is_looked_for(name: &str) -> bool {
    speaks_for_others(name) || name == SINGLE || SMALL_FILES.iter().any(|(known, _)| *known == name)
}

/// Manifest and signature speak for the others; nobody speaks for them.
pub(crate) fn speaks_for_others(name: &str) -> bool {
    name == MANIFEST || name == SIGNATURE
}

/// The small files that are read beside a GGUF file: the proofs, and files that say more of its text
/// than it does itself.
fn goes_with_gguf(name: &str) -> bool {
    let says_more = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    speaks_for_others(name) || says_more.contains(&name)
}

fn evidence_of(object: &Object, role: Role) -> ObjectEvidence {
    ObjectEvidence {
        name: object.name.clone(),
        role,
        bytes: object.bytes,
        etag: object.tag.etag.clone(),
        version: object.tag.version.clone(),
        checksum: object.checksum,
    }
}

/// Reads the manifest among the small files.
fn manifest_in(url: &ModelUrl, files: &BTreeMap<String, SmallFile>) -> Result<Option<Manifest>, LoadError> {
    let manifest = files.get(MANIFEST).map(|file| Manifest::parse(&file.bytes)).transpose();
    manifest.map_err(|source| LoadError::Manifest { url: url.to_string(), source })
}

fn origin_of(url: &ModelUrl) -> Origin {
    match url.directory() {
        Some(path) => Origin::Local { directory: path.display().to_string() },
        None => Origin::Remote { url: url.to_string() },
    }
}

fn sha256_of(bytes: &[u8]) -> wire::digest::Sha256 {
    wire::digest::Sha256(Sha256::digest(bytes).into())
}
