//! The parts of a model that is served: kept while it is, compared with the revision that is to replace it.

use super::files::Files;
use super::identity::{self, Private, Stamp};
use super::sharing::Shared;
use crate::engine::Identity;
use compute::Kind;
use compute::backend::{Generation, Prepared};
use loader::{Load, Weights};
use models::Config;
use std::sync::Arc;
use tensor::Decoder;

/// A served model's parts.
#[derive(Clone)]
pub(super) struct Resident {
    pub(super) files: Arc<Files>,
    pub(super) config: Config,
    /// None where the backend has no weights. A revision with equal weights shares them.
    pub(super) weights: Option<Arc<Arrived>>,
    /// The weights' number in the engine.
    pub(super) generation: Generation,
    /// Root of its KV block names.
    pub(super) identity: Identity,
}

impl Resident {
    /// True if these are its weights.
    pub(super) fn has(&self, weights: &Arc<Arrived>) -> bool {
        self.weights.as_ref().is_some_and(|own| Arc::ptr_eq(own, weights))
    }
}

/// Weights that are opened; their bytes may still be on their way.
pub(super) struct Opened {
    pub(super) weights: Weights,
    pub(super) load: Option<Load>,
    pub(super) stamps: Option<Vec<Stamp>>,
    pub(super) shared: Option<Shared>,
}

impl Opened {
    /// With what is computed with them.
    pub(super) fn arrived(self, decoder: Arc<Decoder>, prepared: Arc<dyn Prepared>) -> Arrived {
        let Self { weights, load, stamps, shared } = self;
        Arrived { decoder, prepared, weights, load, stamps, _shared: shared }
    }
}

/// Weights that a backend uses.
pub(super) struct Arrived {
    pub(super) decoder: Arc<Decoder>,
    /// The same, prepared for the backend.
    pub(super) prepared: Arc<dyn Prepared>,
    pub(super) weights: Weights,
    /// Dropping it would cancel what is on its way, to memory or to the cache's disk.
    pub(super) load: Option<Load>,
    /// The local files they lie in, as they were before they were opened; none where they are elsewhere.
    pub(super) stamps: Option<Vec<Stamp>>,
    /// Their offer to peers.
    pub(super) _shared: Option<Shared>,
}

impl Arrived {
    /// The identity of these weights; none before it is known.
    pub(super) fn known_identity(&self, config: &Config, kind: &dyn Kind) -> Option<Identity> {
        let embedded = || self.load.is_none().then(|| identity::of_embedded(&self.weights, config, kind));
        identity::public(&self.weights, config, kind).or_else(embedded)
    }

    /// The same once all of them have arrived: a name of their own where nobody hashed them.
    pub(super) fn identity(&self, private: &Private, config: &Config, kind: &dyn Kind) -> Identity {
        let made_up = || private.identity(self.stamps.clone(), config, kind);
        self.known_identity(config, kind).unwrap_or_else(made_up)
    }
}
