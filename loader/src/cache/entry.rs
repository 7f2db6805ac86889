//! A load into the cache: its files being filled, and the step that makes it a finished model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blake3::Hash;
use parking_lot::Mutex;
use wire::digest::Digest;
use wire::extent;
use wire::manifest::{Manifest, ManifestFile};
use wire::proof::Proof;

use super::disk::{self, FileIdentity};
use super::error::CacheError;
use super::facts::{FileRecord, Origin, Record, Reference};
use super::finished::{self, Finished};
use super::journaled::Journaled;
use super::layout;
use super::lock::{Lock, Mode};
use super::metrics::{Failure, Metrics};
use super::reuse::Linked;
use super::room;
use super::shelf::{Shelf, off_thread};
use super::syncer::{Inbox, Syncer};
use crate::source::Object;

/// A load of one model, ours alone among all processes. Dropped, it stays on disk to be gone on
/// with.
#[derive(Debug)]
pub struct Entry {
    shelf: Arc<Shelf>,
    origin: Origin,
    directory: PathBuf,
    syncer: Syncer,
    // Asynchronous, as opening hashes what is in doubt.
    files: tokio::sync::Mutex<BTreeMap<String, CachedFile>>,
    small: Mutex<BTreeMap<String, Small>>,
    met: Mutex<BTreeMap<String, BTreeSet<Digest>>>,
    linked: Mutex<BTreeMap<String, Linked>>,
    lock: Arc<Lock>,
}

/// A small file that was written whole.
#[derive(Debug, Clone)]
struct Small {
    bytes: u64,
    digest: Digest,
    extents: Vec<Digest>,
}

/// One weight file of a load. Clones are of the same file.
#[derive(Debug, Clone)]
pub struct CachedFile {
    file: Arc<Journaled>,
    inbox: Inbox,
    metrics: Metrics,
    // Whoever can still write to the file keeps others from opening it.
    _lock: Arc<Lock>,
}

impl CachedFile {
    /// The file's path while the load lasts: of full length, its blocks allocated, to be mapped
    /// and filled.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The extents that are there and right since before, in order, with their digests.
    #[must_use]
    pub fn found(&self) -> &[(u64, Hash)] {
        self.file.found()
    }

    /// Notes that an extent's bytes are in the mapping: after the last of them was written there.
    /// Should the journal fail, the load goes on and only cannot be resumed later.
    pub fn landed(&self, extent: u64, digest: Hash) {
        if let Err(error) = self.file.note(extent, digest) {
            self.metrics.failure(Failure::Journal);
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "this load cannot be resumed if it is broken off");
        }
        if let Some(range) = extent::range(self.file.bytes(), extent) {
            self.inbox.landed(&self.file, range);
        }
    }
}

impl Entry {
    pub(super) fn new(
        shelf: Arc<Shelf>,
        origin: Origin,
        linked: BTreeMap<String, Linked>,
        lock: Arc<Lock>,
        syncer: Syncer,
    ) -> Self {
        let directory = shelf.layout.partial(origin.key);
        let (files, small, met) = (tokio::sync::Mutex::default(), Mutex::default(), Mutex::default());
        Self { shelf, origin, directory, syncer, files, small, met, linked: Mutex::new(linked), lock }
    }

    /// The load's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file that another model has as well: where it is, and what it is. It is whole, and must not be
    /// written.
    #[must_use]
    pub(crate) fn linked(&self, name: &str) -> Option<(PathBuf, Linked)> {
        Some((self.directory.join(name), self.linked.lock().get(name)?.clone()))
    }

    /// Fetches a linked file after all: [`Entry::file`] gives it anew.
    pub(crate) fn unlink(&self, name: &str) {
        self.linked.lock().remove(name);
    }

    /// Opens the file of one of the load's objects, to be mapped and filled. Asked again, the same
    /// file. Extents that an earlier load left in doubt are hashed before this returns.
    ///
    /// # Errors
    /// [`CacheError::NoSpace`] if the disk is full although everything unused was evicted; a name
    /// that is no plain relative path; what the system said.
    pub async fn file(&self, object: &Object) -> Result<CachedFile, CacheError> {
        let mut files = self.files.lock().await;
        if let Some(file) = files.get(&object.name) {
            return Ok(file.clone());
        }
        let file = match self.open(object).await {
            Err(error) if error.is_full() => {
                // Others filled the disk since room was made.
                self.make_room().await?;
                self.open(object).await.map_err(|error| if error.is_full() { self.full() } else { error })
            }
            result => result,
        };
        let file = Arc::new(file?);
        let (inbox, metrics) = (self.syncer.inbox(), self.shelf.metrics.clone());
        if !file.found().is_empty() {
            // Found is not yet durable.
            inbox.landed(&file, 0..0);
        }
        let file = CachedFile { file, inbox, metrics, _lock: Arc::clone(&self.lock) };
        files.insert(object.name.clone(), file.clone());
        Ok(file)
    }

    async fn open(&self, object: &Object) -> Result<Journaled, CacheError> {
        let (directory, object) = (self.directory.clone(), object.clone());
        off_thread(move || Journaled::open(&directory, &object)).await
    }

    async fn make_room(&self) -> Result<(), CacheError> {
        let space = Lock::acquire(&self.shelf.layout.space_lock(), Mode::Exclusive, "making room").await?;
        let (shelf, key, bytes) = (Arc::clone(&self.shelf), self.origin.key, self.origin.total_bytes());
        off_thread(move || {
            let made = room::make(&shelf, bytes, key);
            drop(space);
            made
        })
        .await
    }

    fn full(&self) -> CacheError {
        self.shelf.metrics.failure(Failure::Full);
        let (bytes, root) = (self.origin.total_bytes(), self.shelf.layout.root().to_owned());
        CacheError::NoSpace { bytes, root, problem: "the disk is full".into() }
    }

    /// Keeps a small file (`config.json`, the tokenizer, an index) whole; the manifest is
    /// [`Entry::finish`]'s. Blocks for as long as writing it takes.
    ///
    /// # Errors
    /// A name that is no plain relative path; what the system said.
    pub fn small_file(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        disk::write_whole(&layout::file(&self.directory, name)?, bytes)?;
        let digest = |bytes: &[u8]| Digest(*blake3::hash(bytes).as_bytes());
        // An extent has 4 MiB.
        let extents = bytes.chunks(extent::EXTENT_BYTES as usize).map(digest).collect();
        let small = Small { bytes: bytes.len() as u64, digest: digest(bytes), extents };
        self.small.lock().insert(name.to_owned(), small);
        Ok(())
    }

    /// Makes the load a finished model: everything durable, the manifest beside it, under its
    /// root's name. If another process was first, theirs is used. A mapping of the files stays as
    /// it is; their paths change.
    ///
    /// # Errors
    /// The load is not what the manifest says, or something could not be made durable. The
    /// load is kept to be resumed.
    pub async fn finish(self, manifest_json: &[u8], proof: Proof) -> Result<Finished, CacheError> {
        let error = |source| CacheError::Manifest { directory: self.directory.clone(), source };
        let manifest = Manifest::parse(manifest_json).map_err(error)?;
        let root = manifest.root();
        let files = self.files.lock().await.clone();
        for (name, file) in &files {
            self.compare(name, file, &manifest)?;
        }
        for (name, linked) in self.linked.lock().iter() {
            self.compare_linked(name, linked, &manifest)?;
        }
        self.compare_small(&manifest)?;
        // All is there, so nobody writes any more, whatever comes now: who wants the model and finds
        // no finished one may resume this load.
        let load = Arc::clone(&self.lock);
        let finished = self.keep(root, manifest_json, files, proof).await;
        load.release();
        finished
    }

    async fn keep(
        self,
        root: Digest,
        manifest_json: &[u8],
        files: BTreeMap<String, CachedFile>,
        proof: Proof,
    ) -> Result<Finished, CacheError> {
        self.syncer.flush().await?;
        let lock = Lock::acquire(&self.shelf.layout.lock(root), Mode::Shared, "removing this model").await?;
        let manifest: Arc<[u8]> = manifest_json.into();
        let text = Arc::clone(&manifest);
        let directory = self.shelf.layout.model(root);
        let met = Arc::new(self.met.lock().clone());
        let lock = off_thread(move || {
            // Finds what failed to be durable before, and what was dirty without landing.
            files.values().try_for_each(|file| file.file.sync())?;
            let lock = self.publish(&self.record(root, proof, files.keys())?, &text, lock)?;
            room::show(&self.shelf);
            Ok(lock)
        });
        Ok(Finished { directory, root, proof, manifest, met, _lock: Some(Arc::new(lock.await?)) })
    }

    /// Every extent of the file is there and has the manifest's digest.
    fn compare(&self, name: &str, file: &CachedFile, manifest: &Manifest) -> Result<(), CacheError> {
        let error =
            |problem| CacheError::Mismatch { directory: self.directory.clone(), file: name.to_owned(), problem };
        let listed: &ManifestFile = manifest.file(name).ok_or_else(|| error("is not in the manifest".to_owned()))?;
        if listed.bytes != file.file.bytes() {
            return Err(error(format!("has {} bytes, not {}", file.file.bytes(), listed.bytes)));
        }
        let landed = file.file.landed();
        for (index, digest) in (0_u64..).zip(&listed.extents) {
            match landed.get(&index) {
                Some(found) if *found.as_bytes() == digest.0 => {}
                Some(found) => return Err(error(format!("has {} as extent {index}, not {digest}", found.to_hex()))),
                None => return Err(error(format!("lacks extent {index}"))),
            }
        }
        Ok(())
    }

    /// A linked file is the one that the manifest lists.
    fn compare_linked(&self, name: &str, linked: &Linked, manifest: &Manifest) -> Result<(), CacheError> {
        if manifest.file(name).is_some_and(|listed| listed.extents == linked.extents) {
            return Ok(());
        }
        let problem = "is not what the manifest says".to_owned();
        Err(CacheError::Mismatch { directory: self.directory.clone(), file: name.to_owned(), problem })
    }

    /// The small files that the manifest lists are the ones it lists.
    fn compare_small(&self, manifest: &Manifest) -> Result<(), CacheError> {
        for (name, small) in self.small.lock().iter() {
            let listed = manifest.file(name);
            if listed.is_some_and(|listed| listed.bytes != small.bytes || listed.extents != small.extents) {
                let problem = "is not what the manifest says".to_owned();
                return Err(CacheError::Mismatch { directory: self.directory.clone(), file: name.clone(), problem });
            }
        }
        Ok(())
    }

    /// Notes the name of an expectation that a file met as a whole; see [`Finished::has_met`].
    pub(crate) fn note_met(&self, file: &str, expectation: Digest) {
        self.met.lock().entry(file.to_owned()).or_default().insert(expectation);
    }

    fn publish(&self, record: &Record, manifest: &[u8], lock: Lock) -> Result<Lock, CacheError> {
        let (layout, root, proof) = (&self.shelf.layout, record.root, record.proof);
        disk::write_whole(&layout::manifest(&self.directory), manifest)?;
        disk::write_json(&layout::record(&self.directory), record)?;
        let _ = disk::touch(&layout::used(&self.directory));
        self.sync_directories()?;
        // The reference first: without its model it says nothing, while a model without one would
        // not be found.
        let Origin { url, key, objects } = self.origin.clone();
        finished::refer(&self.shelf, &Reference { url, key, root, proof, objects })?;
        let model = layout.model(root);
        let lock = match self.give_way(&model, root, lock)? {
            Way::Theirs(lock) => {
                disk::discard(layout, &self.directory)?;
                return Ok(lock);
            }
            Way::Free(lock) => lock,
        };
        fs::rename(&self.directory, &model).map_err(CacheError::io("publishing", &model))?;
        disk::sync_directory(&layout.models())?;
        disk::sync_directory(&layout.partials())?;
        Ok(lock)
    }

    /// If the model is there already, theirs is used, unless it is damaged.
    fn give_way(&self, model: &Path, root: Digest, lock: Lock) -> Result<Way, CacheError> {
        if !model.exists() {
            return Ok(Way::Free(lock));
        }
        if finished::is_intact(model, root)? {
            return Ok(Way::Theirs(lock));
        }
        drop(lock);
        let path = self.shelf.layout.lock(root);
        let in_use = || CacheError::InUse { id: root.to_hex() };
        let alone = Lock::attempt(&path, Mode::Exclusive)?.ok_or_else(in_use)?;
        disk::discard(&self.shelf.layout, model)?;
        drop(alone);
        Lock::attempt(&path, Mode::Shared)?.map(Way::Free).ok_or_else(in_use)
    }

    fn record<'a>(
        &self,
        root: Digest,
        proof: Proof,
        weights: impl Iterator<Item = &'a String>,
    ) -> Result<Record, CacheError> {
        let small = self.small.lock().clone();
        let linked = self.linked.lock().clone();
        for (name, file) in &linked {
            file.met.iter().for_each(|met| self.note_met(name, *met));
        }
        let weights = weights.cloned().chain(linked.into_keys()).map(|name| (name, None));
        let names = weights.chain(small.into_iter().map(|(name, small)| (name, Some(small.digest))));
        let files = names.map(|(name, digest)| {
            let path = self.directory.join(&name);
            let facts = fs::metadata(&path).map_err(CacheError::io("looking at", &path))?;
            let met = self.met.lock().get(&name).cloned().unwrap_or_default();
            Ok(FileRecord { name, identity: FileIdentity::of(&facts), digest, met })
        });
        Ok(Record { root, proof, files: files.collect::<Result<_, CacheError>>()? })
    }

    /// Every directory that holds a file of ours, so that their names survive. What a write that
    /// was broken off left there is removed: a finished model is as published.
    fn sync_directories(&self) -> Result<(), CacheError> {
        let mut open = vec![self.directory.clone()];
        while let Some(directory) = open.pop() {
            disk::remove_leftovers(&directory);
            disk::sync_directory(&directory)?;
            open.extend(disk::subdirectories(&directory));
        }
        Ok(())
    }
}

enum Way {
    Free(Lock),
    Theirs(Lock),
}
