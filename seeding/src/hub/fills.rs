//! Models and files that are open: found in the cache, or being filled. Each is opened once, however many ask for it.
//!
//! A fill goes on for a while when its last reader has left, since what it brings is kept. What is open cannot be
//! evicted, so what nobody reads is let go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loader::probe::Probe;
use loader::{Load, LoadError, Loader, ModelUrl, OpenOptions};
use parking_lot::Mutex;
use policy::Trust;
use thiserror::Error;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wire::evidence::{Expected, Verdict};
use wire::manifest::{MANIFEST_NAME, SIGNATURE_NAME};
use wire::peers::Role;
use wire::proof::Proof;

use super::config::NodeConfig;
use super::content::Content;
use super::meters::{Counted, Meters};
use crate::offer::Offer;

/// The interval at which it is looked whether somebody still reads what is open.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most repositories of which it is remembered that no model can be made of them.
const BARREN_MAX: usize = 1024;

/// The thing to open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// A model, all its files of weights together; those of `first` are fetched first.
    Model {
        /// Its URL.
        url: ModelUrl,
        /// The file that somebody waits for.
        first: Option<String>,
    },
    /// One file of a folder, whatever it holds.
    File {
        /// The folder.
        folder: ModelUrl,
        /// The file's name there.
        name: String,
    },
}

impl Wanted {
    /// The URL by which the cache knows it.
    pub(super) fn url(&self) -> ModelUrl {
        match self {
            Self::Model { url, .. } => url.clone(),
            Self::File { folder, name } => ModelUrl::File { folder: Box::new(folder.clone()), name: name.clone() },
        }
    }

    /// The identity of what is opened: a GGUF file may be opened as a model and, where it is none, as a file.
    fn key(&self) -> Key {
        (self.url().to_string(), matches!(self, Self::Model { .. }))
    }
}

type Key = (String, bool);

/// Errors of opening.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// Something cannot be looked at, or is no model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Policy does not believe it.
    #[error(transparent)]
    Untrusted(#[from] policy::trust::Refusal),
    /// Too much is open.
    #[error("{open_max} models and files are open on this node, which is its bound; try again")]
    TooMany {
        /// The bound.
        open_max: usize,
    },
}

/// Everything that is open.
pub(super) struct Fills {
    trust: Trust,
    config: NodeConfig,
    meters: Meters,
    places: Arc<Semaphore>,
    flights: Arc<Flights>,
    barren: Mutex<HashSet<String>>,
    /// Where peers find what is being filled; what is finished they find in the cache.
    offer: Option<Offer>,
}

type Flights = Mutex<HashMap<Key, Arc<Flight>>>;

/// Something open, or being opened. While it (or a clone) lives, it stays open.
#[derive(Debug)]
pub(super) struct Flight {
    key: Key,
    opened: OnceCell<Opened>,
    is_watched: AtomicBool,
}

/// Something open.
#[derive(Debug)]
struct Opened {
    files: BTreeMap<String, File>,
    load: Load,
    /// Held until all bytes are here.
    place: Mutex<Option<(OwnedSemaphorePermit, Counted)>>,
    _counted: Counted,
}

/// One file of what is open.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) etag: Option<String>,
}

/// Something open, for people.
#[derive(Debug, serde::Serialize)]
pub(super) struct Shown {
    url: String,
    bytes_total: u64,
    bytes_missing: u64,
    bytes_per_second: f64,
    proof: Proof,
    readers: usize,
}

impl Fills {
    pub(super) fn new(trust: Trust, config: &NodeConfig, meters: Meters, offer: Option<Offer>) -> Self {
        let places = Arc::new(Semaphore::new(config.fills_max));
        Self { trust, config: config.clone(), meters, places, flights: Arc::default(), barren: Mutex::default(), offer }
    }

    /// Opens something, or joins whoever does. The bytes may still be on their way.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) async fn open(&self, loader: &Loader, wanted: &Wanted) -> Result<Arc<Flight>, OpenError> {
        let flight = self.flight(wanted.key())?;
        let opening = Opening { flight: Some(Arc::clone(&flight)), flights: Arc::clone(&self.flights) };
        flight.opened.get_or_try_init(|| self.begin(loader, wanted)).await?;
        opening.done();
        if !flight.is_watched.swap(true, Ordering::AcqRel) {
            let watch = Watch {
                flights: Arc::clone(&self.flights),
                meters: self.meters.clone(),
                abandoned: self.config.abandoned_fill(),
                idle: self.config.idle_open(),
            };
            if let Some(offer) = &self.offer {
                flight.share(offer.clone());
            }
            tokio::spawn(watch.run(Arc::clone(&flight)));
        }
        Ok(flight)
    }

    /// Returns true if it is open, or being opened.
    pub(super) fn is_open(&self, wanted: &Wanted) -> bool {
        self.flights.lock().contains_key(&wanted.key())
    }

    /// Returns true if a model was tried, and did not hold this file.
    pub(super) fn is_barren(&self, url: &ModelUrl, file: &str) -> bool {
        self.barren.lock().contains(&format!("{url} {file}"))
    }

    /// Remembers that a model does not hold a file.
    pub(super) fn note_barren(&self, url: &ModelUrl, file: &str) {
        let mut barren = self.barren.lock();
        if barren.len() >= BARREN_MAX {
            // Found out again when it matters.
            barren.clear();
        }
        barren.insert(format!("{url} {file}"));
    }

    /// Everything that is open, for people.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let flights: Vec<Arc<Flight>> = self.flights.lock().values().cloned().collect();
        flights.iter().filter_map(|flight| flight.shown()).collect()
    }

    fn flight(&self, key: Key) -> Result<Arc<Flight>, OpenError> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&key) {
            return Ok(Arc::clone(flight));
        }
        if flights.len() >= self.config.open_max {
            return Err(OpenError::TooMany { open_max: self.config.open_max });
        }
        let flight = Arc::new(Flight { key: key.clone(), opened: OnceCell::new(), is_watched: AtomicBool::new(false) });
        flights.insert(key, Arc::clone(&flight));
        Ok(flight)
    }

    async fn begin(&self, loader: &Loader, wanted: &Wanted) -> Result<Opened, OpenError> {
        // What the cache has waits for nobody's fill.
        let place = if is_kept(loader, &wanted.url()).await { None } else { self.place().await };
        let (probe, first) = match wanted {
            Wanted::Model { url, first } => (loader.probe(url).await?, first.as_deref()),
            Wanted::File { folder, name } => (loader.probe_file(folder, name).await?, None),
        };
        let verdict = self.trust.decide(probe.evidence())?;
        verdict.reasons.iter().for_each(|reason| tracing::debug!(url = %probe.url(), "{reason}"));
        let etags = etags(&probe);
        let small = small_files(&probe, &verdict);
        let options = OpenOptions {
            order: first.map(|first| order(&probe, first)).unwrap_or_default(),
            ..OpenOptions::default()
        };
        let load = loader.open(probe, &verdict, options).await?;
        let weights = load.files().map(|(name, region)| (name.to_owned(), Content::Region(Arc::clone(region))));
        let contents: Vec<(String, Content)> = small.into_iter().chain(weights).collect();
        let file = |(name, content): (String, Content)| {
            let etag = etags.get(&name).cloned();
            (name, File { content, etag })
        };
        let files = contents.into_iter().map(file).collect();
        Ok(Opened { files, load, place: Mutex::new(place), _counted: Counted::new(&self.meters.open) })
    }

    async fn place(&self) -> Option<(OwnedSemaphorePermit, Counted)> {
        // Nobody closes the semaphore.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some((place, Counted::new(&self.meters.filling)))
    }
}

impl Flight {
    /// One of its files.
    pub(super) fn file(&self, name: &str) -> Option<&File> {
        self.opened.get()?.files.get(name)
    }

    /// Its files, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.opened.get().into_iter().flat_map(|opened| opened.files.iter().map(|(name, file)| (name.as_str(), file)))
    }

    /// Waits until every byte is here and kept.
    ///
    /// # Errors
    /// The load failed.
    pub(super) async fn finished(&self) -> Result<(), Arc<LoadError>> {
        match self.opened.get() {
            Some(opened) => opened.load.finished().await.map(drop),
            None => Ok(()),
        }
    }

    /// Offers it to peers while it is being filled. Afterwards it is the cache's, which is offered anyway.
    fn share(&self, offer: Offer) {
        let Some(opened) = self.opened.get() else { return };
        let (mut content, finished) = (opened.load.content(), opened.load.finished());
        tokio::spawn(async move {
            let known = async {
                let content = content.wait_for(Option::is_some).await.ok().and_then(|content| content.clone());
                let sharing = content.map(|content| offer.add(content, Role::Loading));
                std::future::pending::<()>().await;
                drop(sharing);
            };
            tokio::select! {
                () = known => {}
                _ = finished => {}
            }
        });
    }

    fn shown(self: &Arc<Self>) -> Option<Shown> {
        let opened = self.opened.get()?;
        let now = opened.load.progress().snapshot();
        Some(Shown {
            url: self.key.0.clone(),
            bytes_total: opened.files.values().map(|file| file.content.len()).sum(),
            bytes_missing: now.bytes_total.saturating_sub(now.bytes_done),
            bytes_per_second: now.bytes_per_second,
            proof: opened.load.weights.proof(),
            // The map's, the watch's and this look's are no readers.
            readers: Arc::strong_count(self).saturating_sub(3),
        })
    }
}

/// Returns true if the cache holds what a URL was when it was last loaded, and need not ask whether it still is.
async fn is_kept(loader: &Loader, url: &ModelUrl) -> bool {
    let Some(cache) = loader.cache().filter(|_| url.is_immutable() || loader.is_offline(url)) else {
        return url.is_local();
    };
    cache.kept(&url.to_string()).await.is_ok_and(|kept| kept.is_some())
}

fn etags(probe: &Probe) -> HashMap<String, String> {
    let objects = probe.evidence().objects.iter();
    objects.filter_map(|object| Some((object.name.clone(), object.etag.clone()?))).collect()
}

/// The small files that a load under this verdict has checked, if it succeeds.
fn small_files(probe: &Probe, verdict: &Verdict) -> Vec<(String, Content)> {
    let is_covered = |name: &str| {
        let speaks_for_others = name == MANIFEST_NAME || name == SIGNATURE_NAME;
        speaks_for_others || *verdict.expected(name) != Expected::NotCovered
    };
    let files = probe.files().filter(|name| is_covered(name));
    let content = |name: &str| Some((name.to_owned(), Content::Small(probe.file(name)?.to_vec().into())));
    files.filter_map(content).collect()
}

/// The tensors of one file in the order of its bytes: it is read from its beginning, before the others.
fn order(probe: &Probe, first: &str) -> Vec<String> {
    let shard = probe.shards().iter().find(|shard| shard.object.name == first);
    let tensors = shard.into_iter().flat_map(|shard| &shard.header.tensors);
    tensors.map(|tensor| tensor.name.clone()).collect()
}

/// Lets go of a flight that was not opened when nobody else waits for it, however that ended.
struct Opening {
    flight: Option<Arc<Flight>>,
    flights: Arc<Flights>,
}

impl Opening {
    fn done(mut self) {
        self.flight = None;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        let mut flights = self.flights.lock();
        // The map's, this one, and the caller's that is about to go.
        if flight.opened.get().is_none() && Arc::strong_count(&flight) <= 3 {
            remove(&mut flights, &flight);
        }
    }
}

/// Takes a flight, and no later one of the same thing, from the map.
fn remove(flights: &mut HashMap<Key, Arc<Flight>>, flight: &Arc<Flight>) {
    if flights.get(&flight.key).is_some_and(|other| Arc::ptr_eq(other, flight)) {
        flights.remove(&flight.key);
    }
}

/// Watches something open: lets go of it when it failed, or when nobody has read it for a while.
struct Watch {
    flights: Arc<Flights>,
    meters: Meters,
    abandoned: Duration,
    idle: Duration,
}

impl Watch {
    async fn run(self, flight: Arc<Flight>) {
        let Some(opened) = flight.opened.get() else { return };
        let mut finished = Box::pin(opened.load.finished());
        let (mut is_filling, mut used) = (true, Instant::now());
        loop {
            tokio::select! {
                result = &mut finished, if is_filling => {
                    is_filling = false;
                    // Held until the outcome is counted: where nothing is filling, all that ended is known.
                    let place = opened.place.lock().take();
                    match result {
                        Ok(_) if place.is_some() => self.meters.filled("done"),
                        Ok(_) => {}
                        Err(error) => {
                            tracing::warn!(url = flight.key.0, cause = %wire::Chain(&*error), "filling the cache failed");
                            self.meters.filled("failed");
                            // The next request begins anew.
                            remove(&mut self.flights.lock(), &flight);
                            return;
                        }
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let limit = if is_filling { self.abandoned } else { self.idle };
            let mut flights = self.flights.lock();
            // The map's and ours are no readers; others are made under the map's lock alone.
            if Arc::strong_count(&flight) > 2 {
                used = Instant::now();
            } else if used.elapsed() >= limit {
                remove(&mut flights, &flight);
                if is_filling {
                    self.meters.filled("abandoned");
                }
                return;
            }
        }
    }
}
