//! The steps of a first look: look for every name, read the small files, read the headers.
//!
//! Absence is an answer that only the source can give: an object that may not be read is an error,
//! never a file that the model does not have. Bytes that a digest contradicts are read once more.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use wire::evidence::{Evidence, ObjectEvidence, Pinned, Role, StoreChecksum, is_weights_name};
use wire::manifest::Manifest;

use super::{
    INDEX, MANIFEST, Probe, SIGNATURE, SINGLE, SMALL_FILES, Shard, SmallFile, evidence_of, goes_with_gguf, manifest_in,
    origin_of, role_of, sha256_of, speaks_for_others,
};
use crate::fetch::SmallReads;
use crate::gguf::split::PartName;
use crate::gguf::{self, Gguf, GgufError};
use crate::header::{self, HeaderError};
use crate::source::{Object, SourceError};
use crate::verify::digests_of;
use crate::weights::Index;
use crate::{LoadError, ModelUrl};

/// The largest small file that is read: the largest tokenizers have some twenty million bytes,
/// the largest manifests and indexes some sixty.
const SMALL_BYTES_MAX: u64 = 128 << 20;

/// The bytes of a weight file that are read at first. Headers take about a hundred bytes a tensor, so one
/// read is nearly always enough.
const HEADER_READ_BYTES: u64 = 256 << 10;

/// The most weight files of a model. The largest published have a few hundred.
const SHARDS_MAX: usize = 4096;

/// The number of objects looked at concurrently.
const CONCURRENCY: usize = 32;

/// The most reads of a header until two agree.
const HEADER_READS_MAX: usize = 4;

/// A first look at one model.
pub(crate) struct Look<'a> {
    /// The model's URL.
    pub(crate) url: &'a ModelUrl,
    /// Reads the model's objects.
    pub(crate) reads: SmallReads,
    /// Digests of an earlier load from the same URL.
    pub(crate) pinned: Option<Pinned>,
    /// True where only the cache is asked: it holds what a load reads, and nothing beside it.
    pub(crate) is_offline: bool,
}

/// Looks at a model.
///
/// # Errors
/// There is no model, something cannot be read, or headers, index and manifest are malformed or at
/// odds; see [`LoadError`].
pub(crate) async fn look(look: Look<'_>) -> Result<Probe, LoadError> {
    let small = look.small_files().await?;
    let (shards, gguf) = look.weights(&small).await?;
    let (absent, unread) = look.others(&small, &shards).await?;
    let evidence = look.evidence(&small, &shards, absent, &unread);
    let (url, source) = (look.url.clone(), Arc::clone(look.reads.source()));
    Ok(Probe { url, source, files: small.files, shards, is_from_peers: false, gguf, evidence })
}

/// The small files of a model, and what was found beside them.
struct Small {
    files: BTreeMap<String, SmallFile>,
    manifest: Option<Manifest>,
    /// The object that the URL names, or the one file of weights that has the usual name.
    weights: Option<Object>,
    absent: Vec<String>,
}

/// The answers to a search for several names.
#[derive(Default)]
struct Found {
    objects: Vec<Object>,
    absent: Vec<String>,
    denied: Vec<(String, SourceError)>,
}

impl Look<'_> {
    /// Looks for the small files and the usual file of weights, and reads the small files.
    async fn small_files(&self) -> Result<Small, LoadError> {
        let is_alone = self.url.file().is_some();
        let known = SMALL_FILES.iter().map(|(name, _)| *name).chain([MANIFEST, SIGNATURE, SINGLE]);
        let names = known.filter(|name| !is_alone || goes_with_gguf(name)).chain(self.url.file());
        let Found { objects, mut absent, denied } = self.find(names.map(str::to_owned).collect()).await?;
        let the_weights = self.url.file().unwrap_or(SINGLE);
        let (mut weights, small): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object.name == the_weights);
        let reads = small.into_iter().map(|object| self.read_small(object));
        let files: Vec<SmallFile> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        let files: BTreeMap<String, SmallFile> =
            files.into_iter().map(|file| (file.object.name.clone(), file)).collect();
        let manifest = manifest_in(self.url, &files)?;
        absent.extend(may_be_absent(denied, manifest.as_ref(), self.url.file())?);
        let mut small = Small { files, manifest, weights: weights.pop(), absent };
        self.read_again_what_is_wrong(&mut small).await?;
        Ok(small)
    }

    /// Looks for objects, all at once.
    async fn find(&self, names: Vec<String>) -> Result<Found, LoadError> {
        let looks = names.into_iter().map(|name| async move {
            let found = self.reads.stat(&name).await;
            (name, found)
        });
        let mut looked = stream::iter(looks).buffered(CONCURRENCY);
        let mut all = Found::default();
        while let Some((name, found)) = looked.next().await {
            match found {
                Ok(object) => all.objects.push(object),
                Err(LoadError::Source(SourceError::NotFound { .. })) => all.absent.push(name),
                Err(LoadError::Source(error @ SourceError::Denied { .. })) => all.denied.push((name, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// [`Look::find`] for names that must not be denied.
    async fn find_all(&self, names: Vec<String>) -> Result<(Vec<Object>, Vec<String>), LoadError> {
        let Found { objects, absent, denied } = self.find(names).await?;
        match denied.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok((objects, absent)),
        }
    }

    /// Reads one small object whole. A manifest proves itself, and JSON has a form: what has lost it
    /// on the way is read once more.
    async fn read_small(&self, object: Object) -> Result<SmallFile, LoadError> {
        if object.bytes > SMALL_BYTES_MAX {
            let (url, name, bytes) = (self.reads.source().url().to_owned(), object.name, object.bytes);
            return Err(LoadError::SmallFileTooLarge { url, name, bytes, limit_bytes: SMALL_BYTES_MAX });
        }
        let mut bytes = self.reads.read(&object, 0..object.bytes).await?;
        if !self.url.is_local() && is_malformed(&object.name, &bytes) {
            bytes = self.reads.read(&object, 0..object.bytes).await?;
        }
        Ok(SmallFile { object, bytes: bytes.into() })
    }

    /// Reads once more what the manifest, the store or an earlier load says is something else. Whether
    /// these are to be believed is decided later; a second read only mends what broke on the way.
    async fn read_again_what_is_wrong(&self, small: &mut Small) -> Result<(), LoadError> {
        if self.url.is_local() {
            return Ok(());
        }
        let wrong = small.files.values().filter(|file| self.contradicts(file, small.manifest.as_ref()));
        let reads: Vec<_> = wrong.map(|file| self.read_small(file.object.clone())).collect();
        let again: Vec<SmallFile> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        small.files.extend(again.into_iter().map(|file| (file.object.name.clone(), file)));
        Ok(())
    }

    fn contradicts(&self, file: &SmallFile, manifest: Option<&Manifest>) -> bool {
        let SmallFile { object, bytes } = file;
        if let Some(listed) = manifest.and_then(|manifest| manifest.file(&object.name)) {
            return listed.extents != digests_of(bytes);
        }
        if let Some(StoreChecksum::Sha256(digest)) = object.checksum {
            return digest != sha256_of(bytes);
        }
        let pins = self.pinned.iter().flat_map(|pinned| &pinned.objects);
        let same = |etag: &Option<String>| etag.is_some() && *etag == object.tag.etag;
        let pin = pins.into_iter().find(|pin| pin.name == object.name && same(&pin.etag));
        pin.is_some_and(|pin| pin.extents != digests_of(bytes))
    }

    /// The headers of the weight files: those of the file that was named, of the usual one, of those
    /// that the index names, or of those in the directory.
    async fn weights(&self, small: &Small) -> Result<(Vec<Shard>, Option<Gguf>), LoadError> {
        if self.url.file().is_some() {
            let object = small.weights.clone().ok_or_else(|| LoadError::NoModel { url: self.url.to_string() })?;
            return self.read_ggufs(self.with_its_others(object).await?).await;
        }
        match (&small.weights, small.files.get(INDEX)) {
            (Some(object), _) => Ok((vec![self.read_header(object.clone()).await?], None)),
            (None, Some(index)) => Ok((self.indexed(&index.bytes).await?, None)),
            (None, None) => self.unnamed().await,
        }
    }

    /// The weight files of a directory that has neither an index nor the usual name: all of them. Far
    /// storage is not listed: not every kind can be.
    async fn unnamed(&self) -> Result<(Vec<Shard>, Option<Gguf>), LoadError> {
        let ModelUrl::Local(directory) = self.url else {
            return Err(LoadError::NoModel { url: self.url.to_string() });
        };
        let names = crate::weights::file_names(directory)?;
        let (objects, _) = self.find_all(names).await?;
        if objects.iter().all(|object| crate::weights::is_gguf(&object.name)) {
            return self.read_ggufs(objects).await;
        }
        let reads = objects.into_iter().map(|object| self.read_header(object));
        Ok((stream::iter(reads).buffered(CONCURRENCY).try_collect().await?, None))
    }

    /// The weight files that an index names, each held against it.
    async fn indexed(&self, bytes: &[u8]) -> Result<Vec<Shard>, LoadError> {
        let index = Index::parse(PathBuf::from(INDEX), bytes)?;
        let listed = index.shards();
        if listed.len() > SHARDS_MAX {
            return Err(LoadError::TooManyShards { count: listed.len(), limit: SHARDS_MAX });
        }
        let (objects, absent) = self.find_all(listed.keys().map(|name| (*name).to_owned()).collect()).await?;
        if let Some(missing) = absent.into_iter().next() {
            return Err(LoadError::IndexMissingShard { index: index.path.clone(), file: missing });
        }
        let reads = objects.into_iter().map(|object| self.read_header(object));
        let shards: Vec<Shard> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        for shard in &shards {
            let file = &shard.object.name;
            shard.header.tensors.iter().try_for_each(|info| index.check_listed(&info.name, file))?;
            let found: HashSet<&str> = shard.header.tensors.iter().map(|info| &*info.name).collect();
            if let Some(absent) = listed[file.as_str()].iter().find(|name| !found.contains(**name)) {
                let (index, tensor) = (index.path.clone(), (*absent).to_owned());
                return Err(LoadError::IndexMissingTensor { index, tensor, file: file.clone() });
            }
        }
        Ok(shards)
    }

    /// Reads and checks a safetensors header: its first bytes, and the rest only if it is longer.
    async fn read_header(&self, object: Object) -> Result<Shard, LoadError> {
        let header_error = |source| LoadError::Header { file: object.name.clone(), source };
        let mut head = self.read_head(&object, 0, object.bytes.min(HEADER_READ_BYTES)).await?;
        if let Err(HeaderError::PrefixTooShort { needed_bytes, .. }) = header::parse(&head, object.bytes) {
            head.extend(self.read_head(&object, head.len() as u64, needed_bytes).await?);
        }
        let header = header::parse(&head, object.bytes).map_err(header_error)?;
        head.truncate(usize::try_from(header.data_start).expect("a header has at most a hundred million bytes"));
        Ok(Shard { object, header, head: head.into() })
    }

    /// The other files of a model that is split in several, behind its first.
    async fn with_its_others(&self, first: Object) -> Result<Vec<Object>, LoadError> {
        // A URL names the first. Another, which a node looks at by itself, is no model.
        let part = PartName::read(&first.name).filter(|part| part.name(1) == first.name);
        let Some(part) = part else { return Ok(vec![first]) };
        if part.count > SHARDS_MAX {
            return Err(LoadError::TooManyShards { count: part.count, limit: SHARDS_MAX });
        }
        let (others, absent) = self.find_all(part.names().skip(1).collect()).await?;
        match absent.into_iter().next() {
            Some(file) => Err(LoadError::MissingPart { url: self.url.to_string(), file }),
            None => Ok(std::iter::once(first.clone()).chain(others).collect()),
        }
    }

    /// Reads the headers of a model's GGUF files, which are one.
    async fn read_ggufs(&self, objects: Vec<Object>) -> Result<(Vec<Shard>, Option<Gguf>), LoadError> {
        let reads = objects.into_iter().map(|object| self.read_gguf(object));
        let read: Vec<(Shard, Gguf)> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
        let (shards, parts): (Vec<Shard>, Vec<Gguf>) = read.into_iter().unzip();
        let wrong = |(at, source): (usize, GgufError)| {
            let file = shards.get(at).map_or_else(String::new, |shard| shard.object.name.clone());
            LoadError::Gguf { file, source }
        };
        let whole = gguf::split::join(parts).map_err(wrong)?;
        Ok((shards, Some(whole)))
    }

    /// Reads and checks a GGUF header: its first bytes, then twice as many until they are enough.
    async fn read_gguf(&self, object: Object) -> Result<(Shard, Gguf), LoadError> {
        let gguf_error = |source| LoadError::Gguf { file: object.name.clone(), source };
        let mut head = self.read_head(&object, 0, object.bytes.min(HEADER_READ_BYTES)).await?;
        let gguf = loop {
            match gguf::parse(&head, object.bytes) {
                Err(GgufError::PrefixTooShort { needed_bytes, given_bytes }) => {
                    let end = needed_bytes.max(2 * given_bytes).min(object.bytes);
                    head.extend(self.read_head(&object, given_bytes, end).await?);
                }
                parsed => break parsed.map_err(gguf_error)?,
            }
        };
        let header = gguf.header();
        head.truncate(usize::try_from(header.data_start).expect("a header has at most some hundred million bytes"));
        Ok((Shard { object, header, head: head.into() }, gguf))
    }

    /// Reads a part of a header. No digest covers it before its extents come, and by then the tensors'
    /// places are in use; so it is read twice, side by side, until two reads agree.
    ///
    /// The second request, of 256 KiB at most for all but the longest headers, costs no time. It is not spared where
    /// nothing demands proof or an entity tag pins the object: a tag says which object is sent, not that its bytes came
    /// whole, and one flipped bit in a name or an offset would end the load when the header's extents contradict it.
    async fn read_head(&self, object: &Object, from: u64, to: u64) -> Result<Vec<u8>, LoadError> {
        let read = || self.reads.read(object, from..to);
        if self.url.is_local() {
            return read().await;
        }
        let (first, second) = futures_util::try_join!(read(), read())?;
        let mut reads = vec![first];
        let mut next = second;
        while !reads.contains(&next) {
            if reads.len() == HEADER_READS_MAX {
                let (url, name) = (self.reads.source().url().to_owned(), object.name.clone());
                let problem = format!("no two of {HEADER_READS_MAX} reads of its header are the same");
                return Err(SourceError::Protocol { url, name, problem }.into());
            }
            reads.push(next);
            next = read().await?;
        }
        Ok(next)
    }

    /// Which other files of weights there are, and which names are not there. A directory is seen
    /// whole; elsewhere the files that the manifest lists are looked for.
    async fn others(&self, small: &Small, shards: &[Shard]) -> Result<(Vec<String>, Vec<Object>), LoadError> {
        let mut absent = small.absent.clone();
        if self.is_offline {
            return Ok((absent, Vec::new()));
        }
        let is_known = |name: &str| {
            shards.iter().any(|shard| shard.object.name == name) || absent.iter().any(|known| known == name)
        };
        let listed = small.manifest.iter().flat_map(|manifest| manifest.files()).map(|file| file.name.clone());
        // One that may be entered and not listed shows what it is asked for.
        let lying = self.url.directory().and_then(|path| crate::weights::all_names(path).ok()).unwrap_or_default();
        let names: HashSet<String> =
            listed.chain(lying).filter(|name| is_weights_name(name) && !is_known(name)).take(SHARDS_MAX).collect();
        let (unread, missing) = self.find_all(names.into_iter().collect()).await?;
        absent.extend(missing);
        Ok((absent, unread))
    }

    fn evidence(&self, small: &Small, shards: &[Shard], absent: Vec<String>, unread: &[Object]) -> Evidence {
        let files = small.files.values().filter(|file| !speaks_for_others(&file.object.name));
        let files = files.map(|file| evidence_of(&file.object, role_of(&file.object.name, &small.files)));
        let weights = shards.iter().map(|shard| evidence_of(&shard.object, Role::Weights));
        let unread = unread.iter().map(|object| evidence_of(object, Role::Unread));
        let objects: Vec<ObjectEvidence> = files.chain(weights).chain(unread).collect();
        let bytes = |name: &str| small.files.get(name).map(|file| &*file.bytes);
        Evidence {
            origin: origin_of(self.url),
            objects,
            absent,
            manifest: small.manifest.clone(),
            manifest_sha256: bytes(MANIFEST).map(sha256_of),
            signature: bytes(SIGNATURE).map(<[u8]>::to_vec),
            pinned: self.pinned.clone(),
        }
    }
}

/// Which denied names may count as absent: those that the manifest does not list, since such a file
/// would not be read even if it were there. Without a manifest nobody can tell a file that may not be
/// read from one that does not exist, and a model without its tokenizer is another model.
fn may_be_absent(
    denied: Vec<(String, SourceError)>,
    manifest: Option<&Manifest>,
    named: Option<&str>,
) -> Result<Vec<String>, LoadError> {
    let is_listed = |name: &str| manifest.is_none_or(|manifest| manifest.file(name).is_some());
    let is_needed = |name: &str| is_listed(name) || named == Some(name);
    let (needed, others): (Vec<_>, Vec<_>) = denied.into_iter().partition(|(name, _)| is_needed(name));
    match needed.into_iter().next() {
        Some((_, SourceError::Denied { url, name, status, fix })) => {
            let hint = "a store whose folder may not be listed refuses what is missing, too: allow listing, or publish \
                        a forebay.manifest.json, which says what is there";
            Err(SourceError::Denied { url, name, status, fix: format!("{fix}; {hint}") }.into())
        }
        Some((_, error)) => Err(error.into()),
        None => Ok(others.into_iter().map(|(name, _)| name).collect()),
    }
}

/// Returns true if a file has lost the form that its name promises.
fn is_malformed(name: &str, bytes: &[u8]) -> bool {
    if name == MANIFEST {
        return Manifest::parse(bytes).is_err();
    }
    name.ends_with(".json") && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_err()
}
