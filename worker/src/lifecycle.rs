//! From models' places to a worker that serves, and to its end.
//!
//! `/livez` answers from the first moment. A model takes requests as soon as its small files and
//! headers are there (`load`): a prompt then waits for the layers it needs and for no others.
//! `/readyz` says yes when every weight of every model has arrived, so that a router sends nothing
//! before; a client that asks a worker directly gets the first token as early as the link allows. A model
//! that cannot be served fails the start. A served model may be swapped for another revision
//! (`swap`). Weights that nobody hashed are hashed while they are served (`hashing`).

mod computed;
mod context;
mod error;
mod files;
mod governing;
mod hashing;
mod identity;
mod instead;
mod load;
mod quantize;
mod resident;
mod room;
mod sharing;
mod source;
mod swap;

pub use error::{ModelError, StartError};
pub use source::ModelSource;

use crate::config::{StorageConfig, WorkerConfig};
use crate::progress::{Board, ModelProgress};
use crate::server::{self, Server, SwapRequest};
use compute::memory::MemoryError;
use context::Context;
use identity::Private;
use listen::{Drain, ListenError, Listener};
use loader::Loader;
use loader::remote::Env;
use parking_lot::Mutex;
use policy::trust::Trust;
use seeding::Seeder;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use telemetry::metrics::Registry;
use tokio::sync::{mpsc, watch};
use wire::status::ModelPhase;

/// Swaps that may be asked for at a time; one a model is under way at most.
const SWAPS_WAITING_MAX: usize = 8;

type Loaded = Option<Result<(), Arc<StartError>>>;

/// A worker: models loading or loaded, and the server before them.
#[derive(Debug)]
pub struct Worker {
    server: Arc<Server>,
    board: Arc<Board>,
    drain: Drain,
    loaded: watch::Receiver<Loaded>,
    seeder: Option<Arc<Seeder>>,
}

impl Worker {
    /// Begins to load `models`, which no peer is given. To be called within a runtime.
    ///
    /// # Errors
    /// A configuration that cannot be honoured, or two models of one name.
    pub fn start(
        config: WorkerConfig,
        storage: &StorageConfig,
        models: Vec<ModelSource>,
        registry: Registry,
        drain: Drain,
    ) -> Result<Self, StartError> {
        Self::start_seeding(config, storage, models, registry, drain, None)
    }

    /// Begins to load `models`, and gives them to peers where there is a seeder. To be called within a runtime.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start_seeding(
        config: WorkerConfig,
        storage: &StorageConfig,
        models: Vec<ModelSource>,
        registry: Registry,
        drain: Drain,
        seeder: Option<Seeder>,
    ) -> Result<Self, StartError> {
        if let Some(problem) = config.problem() {
            return Err(StartError::Config(problem));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = models.iter().find(|model| !names.insert(model.name().to_owned())) {
            return Err(StartError::SameName(twice.name().into()));
        }
        if models.len() != 1 && !config.served_model_name.is_empty() {
            let problem =
                "`served_model_name` names one model, and this worker serves several: give NAME=MODEL for each";
            return Err(StartError::Config(problem.into()));
        }
        let own = [("tokenizer", config.tokenizer.is_some()), ("chat_template", config.chat_template.is_some())];
        if let Some((key, _)) = own.into_iter().find(|(_, is_set)| *is_set && models.len() != 1) {
            let problem = format!("`{key}` is one model's, and this worker serves several: start a worker for each");
            return Err(StartError::Config(problem));
        }
        if config.api_key.is_none() {
            tracing::warn!("this worker has no tenants, limits or screening: put a router before it");
        }
        let trust = Trust::new(&storage.trust).map_err(|problem| StartError::Config(problem.to_string()))?;
        let peers = storage.peers.clone();
        let loader =
            Loader::beside(peers, &storage.loader, Env::from_process(), &registry).map_err(StartError::Loader)?;
        let board = Arc::new(Board::new(models.iter().map(|model| model.name().to_owned())));
        let (swaps, requests) = mpsc::channel(SWAPS_WAITING_MAX);
        let seeder = seeder.map(Arc::new);
        let mut server = Server::new(&config, registry.clone(), drain.clone(), Arc::clone(&board), swaps);
        server.seeder.clone_from(&seeder);
        server.loader = Some(loader.clone());
        let server = Arc::new(server);
        let residents = Mutex::new(BTreeMap::new());
        let (shared_server, shared_board) = (Arc::clone(&server), Arc::clone(&board));
        let context = Context {
            kind: computed::kind(&config).map_err(StartError::Device)?,
            config,
            loader,
            trust,
            private: Private::default(),
            registry,
            server: shared_server,
            board: shared_board,
            seeder: seeder.clone(),
            residents,
        };
        if let Some(seeder) = &seeder {
            tokio::spawn(governing::run(Arc::downgrade(&server), Arc::clone(seeder)));
        }
        tokio::spawn(server::watch(Arc::downgrade(&server)));
        let (sender, loaded) = watch::channel(None);
        tokio::spawn(work(Arc::new(context), models, sender, requests));
        Ok(Self { server, board, drain, loaded, seeder })
    }

    /// Waits until every model is ready.
    pub fn loaded(&self) -> impl Future<Output = Result<(), Arc<StartError>>> + use<> {
        let mut loaded = self.loaded.clone();
        async move {
            match loaded.wait_for(Option::is_some).await.map(|result| result.clone()) {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => Err(Arc::new(StartError::Lost)),
            }
        }
    }

    /// The progress of the models, to be watched: changes come a few times a second while weights
    /// arrive.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Vec<ModelProgress>> {
        self.board.watch()
    }

    /// The HTTP application, for tests that bring their own listener.
    pub fn app(&self) -> axum::Router {
        server::app(Arc::clone(&self.server))
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// As the listener.
    pub async fn serve(self, listener: Listener) -> Result<(), ListenError> {
        let app = self.app();
        let result = listener.serve(app, self.drain).await;
        if let Some(seeder) = &self.seeder {
            seeder.finished().await;
        }
        result
    }
}

/// Loads all models, then swaps them when asked, for as long as there is a server.
async fn work(
    context: Arc<Context>,
    models: Vec<ModelSource>,
    loaded: watch::Sender<Loaded>,
    mut requests: mpsc::Receiver<SwapRequest>,
) {
    let result = load_all(&context, &models).await;
    loaded.send_replace(Some(result.map_err(Arc::new)));
    while let Some(request) = requests.recv().await {
        tokio::spawn(swap::handle(Arc::clone(&context), request));
    }
}

/// Looks at every model, divides the memory between them, begins one after the other, and waits for the weights of
/// all of them at once.
async fn load_all(context: &Arc<Context>, models: &[ModelSource]) -> Result<(), StartError> {
    let mut arrivals = tokio::task::JoinSet::new();
    let mut looked = Vec::with_capacity(models.len());
    for source in models {
        looked.push(load::look(context, source).await.map_err(|cause| failed(context, source.name(), cause))?);
    }
    let demands: Vec<_> = looked.iter().map(|model| model.demand(context)).collect();
    let shares = computed::shares(&*context.kind, &context.config, &demands)
        .map_err(|cause| over_budget(context, models, cause))?;
    for (model, share) in looked.into_iter().zip(shares) {
        let name = model.name().to_owned();
        let begun = model.begin(context, share).await.map_err(|cause| failed(context, &name, cause))?;
        let context = Arc::clone(context);
        arrivals.spawn(async move {
            let name = begun.name.clone();
            begun.finish(&context).await.map_err(|cause| failed(&context, &name, cause))
        });
    }
    while let Some(arrived) = arrivals.join_next().await {
        arrived.unwrap_or(Err(StartError::Lost))?;
    }
    Ok(())
}

/// All models together want more memory than there is.
fn over_budget(context: &Context, models: &[ModelSource], cause: MemoryError) -> StartError {
    let names: Vec<&str> = models.iter().map(ModelSource::name).collect();
    let why = ModelError::Memory(cause.clone());
    names.iter().for_each(|name| drop(failed(context, name, ModelError::Memory(cause.clone()))));
    StartError::Load { model: names.join(", "), source: Box::new(why) }
}

fn failed(context: &Context, model: &str, cause: ModelError) -> StartError {
    let why = error::describe(&cause);
    tracing::error!(model, %why, "a model cannot be served");
    context.board.update(model, |model| (model.phase, model.error) = (ModelPhase::Failed, Some(why)));
    StartError::Load { model: model.into(), source: Box::new(cause) }
}
