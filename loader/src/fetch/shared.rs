//! The state that all attempts of one load share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::budget::Budgets;
use super::clock::now;
use super::config::FetchConfig;
use super::hedge::HedgeBudget;
use super::metrics::Tally;
use super::stall::{Observed, Others};
use super::supply::{OriginOnly, Supply};
use crate::Region;
use crate::landing::LandingError;
use crate::source::{Object, Source};

/// Decides about extents that have arrived and keeps those that are right: a manifest's digests
/// and the cache's journal, or whatever stands for them.
pub trait Keeper: Send + Sync {
    /// Checks that this is the digest that the extent must have. `source_url` is for the message.
    ///
    /// # Errors
    /// [`LandingError::Corrupt`] if it is not.
    fn check(&self, extent: u64, digest: blake3::Hash, source_url: &str) -> Result<(), LandingError>;

    /// Notes a checked extent whose bytes are in place. Called once for each extent, before anyone
    /// may read it; it must not block for long, since it runs where bytes are received.
    ///
    /// # Errors
    /// [`LandingError::Keep`] if it cannot be kept; that ends the load.
    fn keep(&self, extent: u64, digest: blake3::Hash, bytes: &[u8]) -> Result<(), LandingError>;
}

/// The destination of one file.
#[derive(Clone)]
pub struct Target {
    /// The object at each of the job's sources, in their order. All are the same bytes.
    pub objects: Vec<Object>,
    /// Its memory.
    pub region: Arc<Region>,
    /// The judge of its extents.
    pub keeper: Arc<dyn Keeper>,
}

impl Target {
    /// The object at this source of the job. Sources that joined later have the same bytes under the same name.
    pub(super) fn object(&self, source: usize) -> &Object {
        self.objects.get(source).unwrap_or(&self.objects[0])
    }
}

/// A source and what it has shown so far.
struct Known {
    source: Arc<dyn Source>,
    observed: Mutex<Observed>,
    /// Bytes received from it so far, verified or not.
    landed: AtomicU64,
}

/// The state that all attempts of one load share.
pub(super) struct Shared {
    pub(super) targets: Vec<Target>,
    /// Those of the job, and those that joined later, each at the place that names it.
    sources: RwLock<Vec<Arc<Known>>>,
    pub(super) budgets: Budgets,
    pub(super) config: FetchConfig,
    pub(super) tally: Tally,
    /// Bytes received so far, verified or not.
    landed: AtomicU64,
    /// Requests being read.
    active: AtomicUsize,
    hedges: Mutex<HedgeBudget>,
    supply: Mutex<Box<dyn Supply>>,
}

impl Shared {
    pub(super) fn new(
        targets: Vec<Target>,
        sources: Vec<Arc<dyn Source>>,
        budgets: Budgets,
        config: &FetchConfig,
        tally: Tally,
    ) -> Self {
        let supply = OriginOnly::new(Vec::new(), sources.len(), config, now());
        Self {
            sources: RwLock::new(sources.into_iter().map(Known::new).collect()),
            hedges: Mutex::new(HedgeBudget::new(config.hedge_ratio, config.hedge_floor_bytes)),
            supply: Mutex::new(Box::new(supply)),
            targets,
            budgets,
            config: config.clone(),
            tally,
            landed: AtomicU64::new(0),
            active: AtomicUsize::new(0),
        }
    }

    /// Takes orders from `supply`; without, there are none.
    pub(super) fn supplied_by(mut self, supply: Box<dyn Supply>) -> Self {
        self.supply = Mutex::new(supply);
        self
    }

    pub(super) fn supply(&self) -> MutexGuard<'_, Box<dyn Supply>> {
        self.supply.lock()
    }

    /// Takes a peer in, behind the sources that are there.
    pub(super) fn join(&self, source: Arc<dyn Source>, is_near: bool) {
        self.tally.join(source.url(), is_near);
        self.sources.write().push(Known::new(source));
    }

    pub(super) fn source(&self, source: usize) -> Arc<dyn Source> {
        Arc::clone(&self.known(source).source)
    }

    fn known(&self, source: usize) -> Arc<Known> {
        Arc::clone(&self.sources.read()[source])
    }

    /// Reads or changes what a source has shown.
    pub(super) fn observed<T>(&self, source: usize, look: impl FnOnce(&mut Observed) -> T) -> T {
        look(&mut self.known(source).observed.lock())
    }

    /// Counts bytes received from a source, and gives the count of all.
    pub(super) fn receive(&self, source: usize, bytes: u64) -> u64 {
        self.known(source).landed.fetch_add(bytes, Ordering::Relaxed);
        self.landed.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Bytes received so far, by source.
    pub(super) fn landed_by_source(&self) -> Vec<u64> {
        self.sources.read().iter().map(|known| known.landed.load(Ordering::Relaxed)).collect()
    }

    pub(super) fn hedges(&self) -> MutexGuard<'_, HedgeBudget> {
        self.hedges.lock()
    }

    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Relaxed)
    }

    /// The rest of the load, seen from one of its requests.
    pub(super) fn others(&self) -> Others {
        Others { active: self.active.load(Ordering::Relaxed) > 1, landed: self.landed() }
    }

    /// Counts a request as being read until the guard drops.
    pub(super) fn reading(&self) -> Reading<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        Reading(self)
    }
}

impl Known {
    fn new(source: Arc<dyn Source>) -> Arc<Self> {
        Arc::new(Self { source, observed: Mutex::default(), landed: AtomicU64::new(0) })
    }
}

/// One request being read.
pub(super) struct Reading<'a>(&'a Shared);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
