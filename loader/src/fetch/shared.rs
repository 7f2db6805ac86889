//! The state that all attempts of one load share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::budget::Budgets;
use super::config::FetchConfig;
use super::hedge::HedgeBudget;
use super::metrics::Tally;
use super::stall::{Observed, Others};
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

/// The state that all attempts of one load share.
pub(super) struct Shared {
    pub(super) targets: Vec<Target>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) budgets: Budgets,
    pub(super) config: FetchConfig,
    pub(super) tally: Tally,
    /// Bytes received so far, verified or not.
    pub(super) landed: AtomicU64,
    /// Requests being read.
    pub(super) active: AtomicUsize,
    observed: Vec<Mutex<Observed>>,
    hedges: Mutex<HedgeBudget>,
}

impl Shared {
    pub(super) fn new(
        targets: Vec<Target>,
        sources: Vec<Arc<dyn Source>>,
        budgets: Budgets,
        config: &FetchConfig,
        tally: Tally,
    ) -> Self {
        Self {
            observed: sources.iter().map(|_| Mutex::default()).collect(),
            hedges: Mutex::new(HedgeBudget::new(config.hedge_ratio, config.hedge_floor_bytes)),
            targets,
            sources,
            budgets,
            config: config.clone(),
            tally,
            landed: AtomicU64::new(0),
            active: AtomicUsize::new(0),
        }
    }

    pub(super) fn observed(&self, source: usize) -> MutexGuard<'_, Observed> {
        self.observed[source].lock()
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

/// One request being read.
pub(super) struct Reading<'a>(&'a Shared);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
