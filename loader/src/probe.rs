//! The first look at a model: its small files and its shard files' headers, and nothing else.
//!
//! What is found is evidence ([`Probe::evidence`]); policy decides whose digests to believe, and
//! only then does `open` read weights. All objects are looked for at once and all headers are read
//! at once, so a first look takes a few round trips however many files there are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest as _, Sha256};
use wire::evidence::{Evidence, ObjectEvidence, Origin, Pinned};
use wire::manifest::Manifest;

use crate::gguf::{self, Gguf, GgufError};
use crate::header::{self, Header, HeaderError};
use crate::landing::Landing;
use crate::source::{Object, ReadOptions, Source, SourceError};
use crate::weights::Index;
use crate::{LoadError, ModelUrl};

/// Where a manifest is looked for.
pub const MANIFEST: &str = "forebay.manifest.json";
/// Where a signature is looked for, as OpenSSF Model Signing writes it.
pub const SIGNATURE: &str = "model.sig";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The small files that a model may have, as Hugging Face publishes them.
pub const SMALL_FILES: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    INDEX,
    MANIFEST,
    SIGNATURE,
];

/// The largest small file that is read: the largest tokenizers have some twenty million bytes,
/// the largest manifests and indexes some sixty.
const SMALL_BYTES_MAX: u64 = 128 << 20;

/// How much of a shard file is read at first. Headers take about a hundred bytes a tensor, so one
/// read is nearly always enough.
const HEADER_READ_BYTES: u64 = 256 << 10;

/// How many shard files a model may have. The largest published have a few hundred.
const SHARDS_MAX: usize = 4096;

/// How many first looks go on at once.
const CONCURRENCY: usize = 32;

/// One shard file, its header checked.
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

/// One small file.
#[derive(Debug, Clone)]
pub struct SmallFile {
    /// The object, pinned to what it was.
    pub object: Object,
    /// All its bytes.
    pub bytes: Arc<[u8]>,
}

/// What a first look found.
#[derive(Debug)]
pub struct Probe {
    pub(crate) url: ModelUrl,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) files: BTreeMap<String, SmallFile>,
    pub(crate) shards: Vec<Shard>,
    /// What the model's one file says, where it is a GGUF file.
    gguf: Option<Gguf>,
    evidence: Evidence,
}

impl Probe {
    /// Looks at the model that `source` holds.
    ///
    /// # Errors
    /// There is no model, something cannot be read, or headers, index and manifest are malformed
    /// or at odds; see [`LoadError`].
    pub async fn look(url: &ModelUrl, source: Arc<dyn Source>) -> Result<Self, LoadError> {
        let wanted =
            SMALL_FILES.into_iter().chain([SINGLE]).filter(|name| url.file().is_none() || goes_with_gguf(name));
        let named = wanted.chain(url.file()).map(str::to_owned).collect();
        let found = find_all(source.as_ref(), named).await?;
        let (gguf, found): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|object| Some(object.name.as_str()) == url.file());
        let (single, small): (Vec<_>, Vec<_>) = found.into_iter().partition(|object| object.name == SINGLE);
        let reads = small.into_iter().map(|object| read_small(source.as_ref(), object));
        let files: Vec<SmallFile> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        let files: BTreeMap<String, SmallFile> =
            files.into_iter().map(|file| (file.object.name.clone(), file)).collect();
        let gguf = match (gguf.into_iter().next(), url.file()) {
            (Some(object), _) => Some(object),
            (None, Some(_)) => return Err(LoadError::NoModel { url: url.to_string() }),
            (None, None) if single.is_empty() && !files.contains_key(INDEX) => only_gguf(url, source.as_ref()).await?,
            (None, None) => None,
        };
        if let Some(object) = gguf {
            let (shard, gguf) = read_gguf(source.as_ref(), object).await?;
            let shards = vec![shard];
            let evidence = gather(url, &files, &shards)?;
            return Ok(Self { url: url.clone(), source, files, shards, gguf: Some(gguf), evidence });
        }
        let shards = match (single.into_iter().next(), files.get(INDEX)) {
            (Some(object), _) => vec![read_header(source.as_ref(), object).await?],
            (None, Some(index)) => indexed(source.as_ref(), &index.bytes).await?,
            (None, None) => unnamed(url, source.as_ref()).await?,
        };
        let evidence = gather(url, &files, &shards)?;
        Ok(Self { url: url.clone(), source, files, shards, gguf: None, evidence })
    }

    /// What the model's one file says, where it is a GGUF file.
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Calls tensors by other names from now on: those by which the model is known elsewhere. `None` keeps a name.
    pub fn rename(&mut self, other: &dyn Fn(&str) -> Option<String>) {
        for info in self.shards.iter_mut().flat_map(|shard| &mut shard.header.tensors) {
            if let Some(name) = other(&info.name) {
                info.name = name;
            }
        }
    }

    /// What there is to decide on.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Adds what an earlier load from here computed.
    pub(crate) fn set_pinned(&mut self, pinned: Option<Pinned>) {
        self.evidence.pinned = pinned;
    }

    /// Where it was found.
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

/// Looks for objects, all at once; those that are not there are left out. A bucket that may be
/// read and not listed says "denied" of what is not there, so a denial counts only if nothing at
/// all is found.
async fn find_all(source: &dyn Source, names: Vec<String>) -> Result<Vec<Object>, LoadError> {
    let looks = names.into_iter().map(|name| async move {
        match stat(source, &name).await {
            Ok(object) => Ok(Ok(object)),
            Err(error @ (SourceError::NotFound { .. } | SourceError::Denied { .. })) => Ok(Err(error)),
            Err(error) => Err(LoadError::from(error)),
        }
    });
    let looked: Vec<Result<Object, SourceError>> = stream::iter(looks).buffered(CONCURRENCY).try_collect().await?;
    let (found, absent): (Vec<_>, Vec<_>) = looked.into_iter().partition(Result::is_ok);
    let denied = absent.into_iter().filter_map(Result::err).find(|error| matches!(error, SourceError::Denied { .. }));
    match denied {
        Some(denied) if found.is_empty() => Err(denied.into()),
        _ => Ok(found.into_iter().filter_map(Result::ok).collect()),
    }
}

/// Reads one small object whole.
async fn read_small(source: &dyn Source, object: Object) -> Result<SmallFile, LoadError> {
    if object.bytes > SMALL_BYTES_MAX {
        let (url, name, bytes) = (source.url().to_owned(), object.name, object.bytes);
        return Err(LoadError::SmallFileTooLarge { url, name, bytes, limit_bytes: SMALL_BYTES_MAX });
    }
    let bytes = read_part(source, &object, 0, object.bytes).await?.into();
    Ok(SmallFile { object, bytes })
}

/// What an object is now; asked again if the store is busy.
async fn stat(source: &dyn Source, name: &str) -> Result<Object, SourceError> {
    let mut tries = Tries::default();
    loop {
        match source.stat(name).await {
            Err(error) => tries.again(error).await?,
            found => return found,
        }
    }
}

/// Reads a small part of an object.
pub(crate) async fn read_part(source: &dyn Source, object: &Object, from: u64, to: u64) -> Result<Vec<u8>, LoadError> {
    let mut tries = Tries::default();
    let mut landing = Landing::small(from..to);
    while landing.remaining() > 0 {
        if let Err(error) = source.read(object, &mut landing, ReadOptions::default()).await {
            tries.again(error).await?;
        }
    }
    Ok(landing.into_bytes().unwrap_or_default())
}

/// How often a small request is made again: with the pauses below, for about five seconds.
const TRIES_MAX: u32 = 6;

/// A small request's failures so far.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Waits for the next try.
    ///
    /// # Errors
    /// The failure itself, if there is to be none.
    async fn again(&mut self, error: SourceError) -> Result<(), SourceError> {
        if !error.is_retryable() || self.0 >= TRIES_MAX {
            return Err(error);
        }
        self.0 += 1;
        tokio::time::sleep(pause(&error, self.0)).await;
        Ok(())
    }
}

fn pause(error: &SourceError, attempt: u32) -> std::time::Duration {
    let backoff = std::time::Duration::from_millis(50) * 2u32.pow(attempt.min(6));
    match error {
        SourceError::Throttled { retry_after: Some(asked), .. } => {
            (*asked).clamp(backoff, std::time::Duration::from_secs(30))
        }
        _ => backoff,
    }
}

/// Reads and checks a shard file's header: its first bytes, and the rest only if it is longer.
async fn read_header(source: &dyn Source, object: Object) -> Result<Shard, LoadError> {
    let header_error = |source| LoadError::Header { file: object.name.clone(), source };
    let mut head = read_part(source, &object, 0, object.bytes.min(HEADER_READ_BYTES)).await?;
    if let Err(HeaderError::PrefixTooShort { needed_bytes, .. }) = header::parse(&head, object.bytes) {
        head.extend(read_part(source, &object, head.len() as u64, needed_bytes).await?);
    }
    let header = header::parse(&head, object.bytes).map_err(header_error)?;
    head.truncate(usize::try_from(header.data_start).expect("a header has at most a hundred million bytes"));
    Ok(Shard { object, header, head: head.into() })
}

/// The small files that are read beside a GGUF file: what speaks for it, and what says more of its text than it does.
fn goes_with_gguf(name: &str) -> bool {
    speaks_for_others(name) || ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"].contains(&name)
}

/// The GGUF file of a directory that has no other weights.
async fn only_gguf(url: &ModelUrl, source: &dyn Source) -> Result<Option<Object>, LoadError> {
    let ModelUrl::Local(directory) = url else { return Ok(None) };
    let names = crate::weights::file_names(directory)?;
    match &names[..] {
        [only] if crate::weights::is_gguf(only) => Ok(find_all(source, names).await?.into_iter().next()),
        _ => Ok(None),
    }
}

/// Reads and checks a GGUF file's header: its first bytes, then twice as many until they are enough.
async fn read_gguf(source: &dyn Source, object: Object) -> Result<(Shard, Gguf), LoadError> {
    let gguf_error = |source| LoadError::Gguf { file: object.name.clone(), source };
    let mut head = read_part(source, &object, 0, object.bytes.min(HEADER_READ_BYTES)).await?;
    let gguf = loop {
        match gguf::parse(&head, object.bytes) {
            Err(GgufError::PrefixTooShort { needed_bytes, given_bytes }) => {
                let end = needed_bytes.max(2 * given_bytes).min(object.bytes);
                head.extend(read_part(source, &object, given_bytes, end).await?);
            }
            parsed => break parsed.map_err(gguf_error)?,
        }
    };
    let header = gguf.header().map_err(gguf_error)?;
    head.truncate(usize::try_from(header.data_start).expect("a header has at most some hundred million bytes"));
    Ok((Shard { object, header, head: head.into() }, gguf))
}

/// The shard files of a directory that has neither an index nor the usual name: all of them. Far
/// storage is not listed: not every kind can be.
async fn unnamed(url: &ModelUrl, source: &dyn Source) -> Result<Vec<Shard>, LoadError> {
    let ModelUrl::Local(directory) = url else {
        return Err(LoadError::NoModel { url: url.to_string() });
    };
    let names = crate::weights::file_names(directory)?;
    let objects = find_all(source, names).await?;
    let reads = objects.into_iter().map(|object| read_header(source, object));
    stream::iter(reads).buffered(CONCURRENCY).try_collect().await
}

/// The shard files that an index names, each held against it.
async fn indexed(source: &dyn Source, bytes: &[u8]) -> Result<Vec<Shard>, LoadError> {
    let index = Index::parse(PathBuf::from(INDEX), bytes)?;
    let listed = index.shards();
    if listed.len() > SHARDS_MAX {
        return Err(LoadError::TooManyShards { count: listed.len(), limit: SHARDS_MAX });
    }
    let objects = find_all(source, listed.keys().map(|name| (*name).to_owned()).collect()).await?;
    if let Some(missing) = listed.keys().find(|name| !objects.iter().any(|object| object.name == **name)) {
        return Err(LoadError::IndexMissingShard { index: index.path.clone(), file: (*missing).to_owned() });
    }
    let reads = objects.into_iter().map(|object| read_header(source, object));
    let shards: Vec<Shard> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    for shard in &shards {
        let file = &shard.object.name;
        shard.header.tensors.iter().try_for_each(|info| index.check_listed(&info.name, file))?;
        let found: std::collections::HashSet<&str> = shard.header.tensors.iter().map(|info| &*info.name).collect();
        if let Some(absent) = listed[file.as_str()].iter().find(|name| !found.contains(**name)) {
            let (index, tensor) = (index.path.clone(), (*absent).to_owned());
            return Err(LoadError::IndexMissingTensor { index, tensor, file: file.clone() });
        }
    }
    Ok(shards)
}

fn gather(url: &ModelUrl, files: &BTreeMap<String, SmallFile>, shards: &[Shard]) -> Result<Evidence, LoadError> {
    let origin = match url.directory() {
        Some(path) => Origin::Local { directory: path.display().to_string() },
        None => Origin::Remote { url: url.to_string() },
    };
    let small = files.values().map(|file| &file.object).filter(|object| !speaks_for_others(&object.name));
    let objects = small.chain(shards.iter().map(|shard| &shard.object)).map(evidence_of).collect();
    let manifest = files.get(MANIFEST).map(|file| Manifest::parse(&file.bytes)).transpose();
    let manifest = manifest.map_err(|source| LoadError::Manifest { url: url.to_string(), source })?;
    let manifest_sha256 = files.get(MANIFEST).map(|file| wire::digest::Sha256(Sha256::digest(&file.bytes).into()));
    let signature = files.get(SIGNATURE).map(|file| file.bytes.to_vec());
    Ok(Evidence { origin, objects, manifest, manifest_sha256, signature, pinned: None })
}

/// Manifest and signature speak for the others; nobody speaks for them.
pub(crate) fn speaks_for_others(name: &str) -> bool {
    name == MANIFEST || name == SIGNATURE
}

fn evidence_of(object: &Object) -> ObjectEvidence {
    ObjectEvidence {
        name: object.name.clone(),
        bytes: object.bytes,
        etag: object.tag.etag.clone(),
        version: object.tag.version.clone(),
        checksum: object.checksum,
    }
}
