//! The node's cache of weights: finished models as published, loads that can be resumed, one
//! load of a model at a time among all processes, and room for the next.
//!
//! It is addressed by content (a manifest's root); a load whose root is not known yet goes by its
//! URL and tags. What it promises after `kill -9`, a power cut and on a full disk is in
//! docs/cache.md. It moves no bytes itself: regions map its files, and whoever fills them says
//! what landed. It knows no network.

mod check;
mod config;
mod disk;
mod entry;
mod error;
mod facts;
mod finished;
pub mod journal;
mod journaled;
mod layout;
mod lock;
mod manage;
mod metrics;
mod reuse;
mod room;
mod shelf;
mod syncer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use telemetry::metrics::Registry;
use wire::digest::Digest;
use wire::evidence::Expected;

use crate::source::Object;
use facts::Origin;
use lock::{Lock, Mode};
use metrics::{Metrics, Outcome};
use shelf::{Shelf, off_thread};
use syncer::{Pace, Syncer};

pub use config::CacheConfig;
pub use entry::{CachedFile, Entry};
pub use error::CacheError;
pub use finished::{Finished, Kept, Wanted};
pub use manage::{Collected, Listed, Verified, WrongFile};
pub use reuse::Linked;

/// A cache. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Cache {
    shelf: Arc<Shelf>,
}

/// The outcomes of beginning a load.
#[derive(Debug)]
pub enum Begin {
    /// The model is there already.
    Finished(Finished),
    /// It is to be loaded, by us.
    Load(Box<Entry>),
}

impl Cache {
    /// Opens the cache where it is configured to be, or where the environment says; creates it if
    /// it is not there. One that is there and cannot be written is used as it is.
    ///
    /// # Errors
    /// Its place is unknown or cannot be written to.
    pub fn open(config: &CacheConfig, registry: &Registry) -> Result<Self, CacheError> {
        let root = config.root.clone().or_else(|| layout::default_root(|name| std::env::var_os(name)));
        let root = root.ok_or(CacheError::NoRoot)?;
        let layout = layout::Layout::new(&root);
        let is_read_only = config.read_only
            || match prepare(&layout, &root) {
                Ok(()) => false,
                Err(error) if error.is_read_only() && layout.models().is_dir() => {
                    tracing::info!(root = %root.display(), "the cache is read-only: its models are used, others are not kept");
                    true
                }
                Err(error) => return Err(error),
            };
        let shelf = Arc::new(Shelf { layout, config: config.clone(), metrics: Metrics::new(registry), is_read_only });
        room::show(&shelf);
        Ok(Self { shelf })
    }

    /// The finished model that a URL is, if it is here and its files are what they were. Files
    /// whose inode, size or modification time changed are read and compared first.
    ///
    /// # Errors
    /// The system's error.
    pub async fn lookup(&self, wanted: &Wanted<'_>) -> Result<Option<Finished>, CacheError> {
        finished::find(&self.shelf, wanted).await
    }

    /// The model that a URL was when it was last loaded, if it is here and its files are what they
    /// were. While it lives, nobody removes it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn kept(&self, url: &str) -> Result<Option<Kept>, CacheError> {
        finished::kept(&self.shelf, url).await
    }

    /// The finished model with this root, if it is here and its files are what they were. While it lives, nobody
    /// removes it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn finished(&self, root: Digest) -> Result<Option<Finished>, CacheError> {
        finished::by_root(&self.shelf, root).await
    }

    /// Notes that a URL names what another one was when it was last loaded: a commit, of which the other is a branch.
    ///
    /// # Errors
    /// The system's error.
    pub async fn name_also(&self, url: &str, as_was: &str) -> Result<(), CacheError> {
        let (shelf, url) = (Arc::clone(&self.shelf), url.to_owned());
        let Some(reference) = disk::read_json::<facts::Reference>(&shelf.layout.reference(as_was)) else {
            return Ok(());
        };
        off_thread(move || finished::refer(&shelf, &facts::Reference { url, ..reference })).await
    }

    /// The URL's content when it was last loaded, whatever it is now.
    #[must_use]
    pub fn last_known(&self, url: &str) -> Option<LastKnown> {
        let reference: facts::Reference = disk::read_json(&self.shelf.layout.reference(url))?;
        let manifest = disk::read_bounded(
            &layout::manifest(&self.shelf.layout.model(reference.root)),
            wire::manifest::JSON_BYTES_MAX as u64,
        );
        let objects = reference.objects.iter().map(facts::ObjectFacts::to_object).collect();
        Some(LastKnown { root: reference.root, proof: reference.proof, objects, manifest: manifest.ok()? })
    }

    /// The finished model, or a load of it that is ours alone: if another process is loading it,
    /// this waits until it has finished or ended. Dropping the future gives up.
    ///
    /// # Errors
    /// [`CacheError::NoSpace`] if there is no room even after everything unused was evicted; what
    /// the system said. The caller then loads into memory.
    pub async fn begin(&self, wanted: &Wanted<'_>) -> Result<Begin, CacheError> {
        self.begin_reusing(wanted, &BTreeMap::new()).await
    }

    /// [`Cache::begin`] of a load that takes the files named in `expected` from other finished models
    /// where these have them: see [`Entry::linked`].
    ///
    /// # Errors
    /// As [`Cache::begin`].
    pub(crate) async fn begin_reusing(
        &self,
        wanted: &Wanted<'_>,
        expected: &BTreeMap<String, Expected>,
    ) -> Result<Begin, CacheError> {
        if let Some(finished) = self.hit(wanted).await? {
            return Ok(Begin::Finished(finished));
        }
        self.shelf.check_writable()?;
        let key = layout::key(wanted.url, wanted.objects);
        let lock = Lock::acquire(&self.shelf.layout.lock(key), Mode::Exclusive, "loading this model").await?;
        // Whoever had the lock may have finished it.
        if let Some(finished) = self.hit(wanted).await? {
            return Ok(Begin::Finished(finished));
        }
        let lock = Arc::new(lock);
        let origin = Origin { url: wanted.url.to_owned(), key, objects: finished::facts(wanted.objects) };
        let (is_resumed, linked) = self.prepare(&origin, wanted.objects, expected).await?;
        self.shelf.metrics.lookup(if is_resumed { Outcome::Resumed } else { Outcome::Miss });
        let config = &self.shelf.config;
        let pace = Pace { bytes: config.sync_bytes, interval: Duration::from_millis(config.sync_interval_ms) };
        let syncer = Syncer::start(pace, self.shelf.metrics.clone(), Arc::clone(&lock))?;
        Ok(Begin::Load(Box::new(Entry::new(Arc::clone(&self.shelf), origin, linked, lock, syncer))))
    }

    /// Notes the expectations that files of a model met as wholes, so that they need not be read again.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) async fn note_met(&self, finished: &Finished, met: BTreeMap<String, Digest>) -> Result<(), CacheError> {
        self.shelf.check_writable()?;
        let (directory, root) = (finished.directory.clone(), finished.root);
        off_thread(move || finished::note_met(&directory, root, &met)).await
    }

    /// All that lies in the cache, models first. Blocks while it looks at every file's size.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        manage::list(&self.shelf)
    }

    /// A folder beside the models for notes on where they come from, if the cache may be written. It holds no weights
    /// and does not count in the quota; it may be absent.
    #[must_use]
    pub fn notes(&self) -> Option<PathBuf> {
        (!self.shelf.is_read_only).then(|| self.shelf.layout.notes())
    }

    /// The roots of all finished models, in hexadecimal.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        manage::models(&self.shelf)
    }

    /// Removes a model or a broken-off load. An id is a root or key, a beginning of one that is
    /// unique (at least four digits), or a URL.
    ///
    /// # Errors
    /// It is not there, pinned or in use; what the system said.
    pub fn remove(&self, id: &str) -> Result<Collected, CacheError> {
        manage::remove(&self.shelf, id)
    }

    /// Keeps a model from being evicted or removed. Returns its whole id.
    ///
    /// # Errors
    /// It is not there; what the system said.
    pub fn pin(&self, id: &str) -> Result<String, CacheError> {
        manage::pin(&self.shelf, id, true)
    }

    /// Undoes [`Cache::pin`].
    ///
    /// # Errors
    /// As for it.
    pub fn unpin(&self, id: &str) -> Result<String, CacheError> {
        manage::pin(&self.shelf, id, false)
    }

    /// Removes loads that were broken off long ago and, least recently used first, what is over
    /// quota and reserve, or over `target_bytes`. Dry, it only says what it would remove.
    ///
    /// # Errors
    /// The system's error.
    pub fn gc(&self, target_bytes: Option<u64>, is_dry: bool) -> Result<Collected, CacheError> {
        manage::collect(&self.shelf, SystemTime::now(), target_bytes, is_dry)
    }

    /// Reads every byte of a model and compares it with the manifest; what is wrong is given up,
    /// so that the next load of its URL reads that alone. `progress` is called with the bytes
    /// read so far and in all.
    ///
    /// # Errors
    /// It is not there, or is being removed; what the system said.
    pub fn verify(&self, id: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, CacheError> {
        manage::verify(&self.shelf, id, progress)
    }

    async fn hit(&self, wanted: &Wanted<'_>) -> Result<Option<Finished>, CacheError> {
        let found = self.lookup(wanted).await?;
        if found.is_some() {
            self.shelf.metrics.lookup(Outcome::Hit);
        }
        Ok(found)
    }

    /// Makes a load's directory, with the files that other models have, and room for the rest. Whether
    /// it was begun before.
    async fn prepare(
        &self,
        origin: &Origin,
        objects: &[Object],
        expected: &BTreeMap<String, Expected>,
    ) -> Result<(bool, BTreeMap<String, Linked>), CacheError> {
        let space = Lock::acquire(&self.shelf.layout.space_lock(), Mode::Exclusive, "making room").await?;
        let (shelf, origin) = (Arc::clone(&self.shelf), origin.clone());
        let (objects, expected) = (objects.to_owned(), expected.clone());
        off_thread(move || {
            let directory = shelf.layout.partial(origin.key);
            // First, as making room may remove the models that have them.
            let linked = reuse::link_all(&shelf, &origin.url, &objects, &expected, &directory);
            let is_linked = |object: &&Object| linked.contains_key(&object.name);
            let linked_bytes: u64 = objects.iter().filter(is_linked).map(|object| object.bytes).sum();
            let need = origin.total_bytes().saturating_sub(linked_bytes);
            room::make(&shelf, need, origin.key).inspect_err(|_| reuse::unlink_all(&linked, &directory))?;
            let is_resumed = layout::origin(&directory).exists();
            // From here on the room is promised to this load, whoever counts.
            disk::write_json(&layout::origin(&directory), &origin)?;
            let _ = disk::touch(&layout::used(&directory));
            drop(space);
            room::show(&shelf);
            Ok((is_resumed, linked))
        })
        .await
    }
}

/// Creates what is not there, and finds out whether it can be written.
fn prepare(layout: &layout::Layout, root: &Path) -> Result<(), CacheError> {
    for directory in [layout.models(), layout.partials(), layout.references(), layout.locks()] {
        disk::create_directory(&directory)?;
    }
    manage::tag(root)?;
    disk::touch(&layout.space_lock()).map_err(CacheError::io("writing", &layout.space_lock()))
}

/// A URL's content when it was last loaded.
#[derive(Debug, Clone)]
pub struct LastKnown {
    /// The root of its manifest.
    pub root: Digest,
    /// The proof of its bytes.
    pub proof: wire::proof::Proof,
    /// Its objects then.
    pub objects: Vec<Object>,
    /// The manifest's text.
    pub manifest: Vec<u8>,
}

#[cfg(test)]
mod tests;
