//! State that all loads and swaps of a worker share.

use super::identity::Private;
use super::resident::Resident;
use crate::config::WorkerConfig;
use crate::progress::Board;
use crate::server::Server;
use compute::Kind;
use loader::Loader;
use parking_lot::Mutex;
use policy::trust::Trust;
use seeding::Seeder;
use std::collections::BTreeMap;
use std::sync::Arc;
use telemetry::metrics::Registry;

/// State that all loads and swaps share.
pub(super) struct Context {
    pub(super) config: WorkerConfig,
    /// The configured kind of backend.
    pub(super) kind: Arc<dyn Kind>,
    pub(super) loader: Loader,
    pub(super) trust: Trust,
    /// Names of weights that nobody hashed.
    pub(super) private: Private,
    pub(super) registry: Registry,
    pub(super) server: Arc<Server>,
    pub(super) board: Arc<Board>,
    /// Gives the weights to peers; none where it is off.
    pub(super) seeder: Option<Arc<Seeder>>,
    /// The models that are ready, by name.
    pub(super) residents: Mutex<BTreeMap<String, Arc<Resident>>>,
}

impl Context {
    /// The parts of a model that is ready.
    pub(super) fn resident(&self, model: &str) -> Option<Arc<Resident>> {
        self.residents.lock().get(model).cloned()
    }

    /// Notes the parts of a model that is ready from now on.
    pub(super) fn settle(&self, model: &str, resident: Resident) {
        self.residents.lock().insert(model.to_owned(), Arc::new(resident));
    }
}
