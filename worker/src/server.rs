//! The worker's own OpenAI server: text in, text out, around the engine's tokens.
//!
//! `handle` takes a request through: `generate` turns it into sequences, `choice` turns a sequence's tokens back into
//! text (detokenised, stop strings cut), `chat` and `completion` write that in the API's shapes,
//! `reply` carries it over HTTP, `observed` is what tells of it; `admin` is for operators on the same machine. It knows no tenant,
//! quota or screen; the router has those. It knows no loader either: it asks for a swap and is
//! given models.

mod admin;
mod app;
mod chat;
mod choice;
mod completion;
mod embed;
mod generate;
mod handle;
mod health;
mod illness;
mod kv_events;
mod meters;
mod observed;
mod plan;
mod reply;
mod speech;
mod stop;
mod tokenize;

pub use app::app;
pub(crate) use health::watch;
pub(crate) use meters::RequestMeters;

use crate::config::WorkerConfig;
use crate::engine::{EngineHandle, Wedge};
use crate::progress::{Board, ModelProgress};
use crate::structure::Structures;
use illness::Illness;
use listen::{Bodies, Drain, HttpMeters};
use loader::Loader;
use models::calls::Format;
use models::embedding::Embedder;
use models::template::ChatTemplate;
use models::thoughts::Marks;
use models::tokenizer::Tokenizer;
use parking_lot::RwLock;
use policy::{KeyDigest, Secret};
use seeding::Seeder;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::Registry;
use tokio::sync::{mpsc, oneshot};
use wire::openai::ApiError;
use wire::status::{ModelPhase, ModelState, ModelStatus, STATUS_VERSION, Wedged, WorkerStatus};

/// The retry time for a model of which nothing is known yet.
const LOADING_RETRY: Duration = Duration::from_secs(2);

/// A request to serve another revision of a model.
#[derive(Debug)]
pub(crate) struct SwapRequest {
    /// The model's name.
    pub(crate) model: String,
    /// The place of the revision, as on the command line.
    pub(crate) source: String,
    /// Tells whether the revision fits; from then on its progress is on the board.
    pub(crate) reply: oneshot::Sender<Result<(), SwapRefusal>>,
}

/// Reasons not to begin a swap.
#[derive(Debug)]
pub(crate) enum SwapRefusal {
    /// The source means nothing.
    Source(String),
    /// The revision cannot take the place of what is served, or cannot be looked at.
    Refused(String),
    /// Something else is under way.
    Busy(String),
}

/// One model that takes requests.
#[derive(Debug)]
pub(crate) struct ServerModel {
    pub(crate) id: String,
    pub(crate) engine: EngineHandle,
    pub(crate) meters: RequestMeters,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) structures: Arc<Structures>,
    /// The making of its embeddings, or why it has none.
    pub(crate) embedder: Result<Embedder, String>,
    /// The format of its calls of tools.
    pub(crate) calls: &'static Format,
    /// The marks of its thoughts, if it has any.
    pub(crate) thoughts: Option<&'static Marks>,
    pub(crate) created_unix_s: u64,
    pub(crate) proof: String,
    pub(crate) weights_bytes: u64,
    pub(crate) weights_open: Duration,
}

/// State that the handlers share.
#[derive(Debug)]
pub struct Server {
    api_key: Option<KeyDigest>,
    admin_api_key: Option<Secret>,
    access_log: bool,
    http: HttpMeters,
    bodies: Bodies,
    /// Further names of the only model.
    aliases: Vec<String>,
    answer_bytes_max: usize,
    sequences_max: usize,
    comment_interval: Duration,
    liveness_timeout: Duration,
    /// Progress of all models, which readiness waits for.
    board: Arc<Board>,
    swaps: mpsc::Sender<SwapRequest>,
    models: RwLock<BTreeMap<String, Arc<ServerModel>>>,
    registry: Registry,
    drain: Drain,
    /// Tells of the weights that peers are given.
    pub(crate) seeder: Option<Arc<Seeder>>,
    /// Loads its models, maybe from peers.
    pub(crate) loader: Option<Loader>,
}

impl Server {
    pub(crate) fn new(
        config: &WorkerConfig,
        registry: Registry,
        drain: Drain,
        board: Arc<Board>,
        swaps: mpsc::Sender<SwapRequest>,
    ) -> Self {
        Self {
            api_key: config.api_key.as_ref().map(|key| KeyDigest::of(key.reveal())),
            admin_api_key: config.admin_api_key.clone(),
            access_log: config.access_log,
            http: HttpMeters::new(&registry),
            bodies: Bodies::new(&config.listen, &registry, "worker"),
            aliases: config.served_model_name.clone(),
            answer_bytes_max: config.answer_bytes_max,
            sequences_max: config.request_sequences_max.min(config.queue_max),
            comment_interval: Duration::from_millis(config.comment_interval_ms),
            liveness_timeout: Duration::from_millis(config.liveness_timeout_ms),
            board,
            swaps,
            models: RwLock::new(BTreeMap::new()),
            registry,
            drain,
            seeder: None,
            loader: None,
        }
    }

    /// The engines, by model.
    pub(crate) fn engines(&self) -> Vec<(String, EngineHandle)> {
        self.models.read().iter().map(|(id, model)| (id.clone(), model.engine.clone())).collect()
    }

    fn admin_api_key(&self) -> Option<&str> {
        self.admin_api_key.as_ref().map(Secret::reveal)
    }

    /// Takes requests for a model from now on, or for another revision of it.
    pub(crate) fn add(&self, model: ServerModel) {
        self.models.write().insert(model.id.clone(), Arc::new(model));
    }

    fn models(&self) -> Vec<Arc<ServerModel>> {
        self.models.read().values().cloned().collect()
    }

    fn knows(&self, id: &str) -> bool {
        self.board.of(id).is_some()
    }

    /// The model of this name, if it takes requests. A request may leave the name out where there is one model.
    ///
    /// # Errors
    /// It is unknown, still being looked at, or cannot be served; or there are several and none is named.
    pub(crate) fn model(&self, id: Option<&str>) -> Result<Arc<ServerModel>, ApiError> {
        let id = match id {
            Some(id) if !self.aliases.iter().any(|alias| alias == id) => id.to_owned(),
            _ => self.only_model().ok_or_else(|| {
                ApiError::invalid("model", "`model` is required: this server has several, see GET /v1/models")
            })?,
        };
        let found = self.models.read().get(&id).cloned();
        match (found, self.board.of(&id)) {
            (_, Some(ModelProgress { phase: ModelPhase::Failed, error, .. })) => {
                let why = error.unwrap_or_default();
                Err(ApiError::overloaded(format!("the model `{id}` cannot be served: {why}"), Duration::from_secs(60)))
            }
            (Some(model), _) => Ok(model),
            (None, Some(progress)) => {
                let wait = progress.eta.unwrap_or(LOADING_RETRY).max(Duration::from_secs(1));
                Err(ApiError::overloaded(format!("the model `{id}` is still loading"), wait))
            }
            (None, None) => Err(ApiError::model_not_found(&id)),
        }
    }

    /// The name of the model, where there is just one.
    fn only_model(&self) -> Option<String> {
        let mut models = self.board.all().into_iter();
        models.next().filter(|_| models.next().is_none()).map(|model| model.id)
    }

    /// The reason why it is not ready; `None` when it is.
    fn unready(&self) -> Option<&'static str> {
        if self.drain.is_draining() {
            return Some("draining");
        }
        let models = self.board.all();
        if models.iter().any(|model| model.phase == ModelPhase::Failed) {
            return Some("a model cannot be served");
        }
        if !models.iter().all(ModelProgress::is_ready) {
            return Some("loading");
        }
        (!self.is_alive()).then_some("an engine has ended or hangs")
    }

    /// `true` if every engine thread beats.
    fn is_alive(&self) -> bool {
        self.models().iter().all(|model| self.illness(&model.engine).is_none())
    }

    /// The fault of an engine that shows no life.
    fn illness(&self, engine: &EngineHandle) -> Option<Illness> {
        if engine.since_beat().is_none() {
            return Some(Illness::Ended);
        }
        engine.wedge(self.liveness_timeout).map(Illness::Wedged)
    }

    fn status(&self) -> WorkerStatus {
        let models = self.board.all().into_iter().map(|progress| {
            let found = self.models.read().get(&progress.id).cloned();
            let status = status_of(progress, found.as_deref(), self.liveness_timeout);
            ModelStatus { aliases: self.aliases.clone(), ..status }
        });
        WorkerStatus {
            status_version: STATUS_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            ready: self.unready().is_none(),
            draining: self.drain.is_draining(),
            models: models.collect(),
            seeding: self.seeder.as_ref().map(|seeder| seeder.status()),
            sources: self.loader.as_ref().map(Loader::source_peers).unwrap_or_default(),
        }
    }
}

fn status_of(progress: ModelProgress, model: Option<&ServerModel>, liveness_timeout: Duration) -> ModelStatus {
    let fault = model.and_then(|model| model.engine.fault());
    let is_dead = model.is_some_and(|model| model.engine.since_beat().is_none());
    let state = if is_dead || fault.is_some() || progress.phase == ModelPhase::Failed {
        ModelState::Failed
    } else if progress.is_ready() {
        ModelState::Ready
    } else {
        ModelState::Loading
    };
    let mut status = ModelStatus {
        state,
        phase: if state == ModelState::Failed { ModelPhase::Failed } else { progress.phase },
        bytes_loaded: progress.bytes_loaded,
        bytes_total: progress.bytes_total,
        ready_after_ms: progress.ready_after.map_or(0.0, |took| took.as_secs_f64() * 1e3),
        eta_ms: progress.eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        quantization: progress.quantization,
        digests: progress.digests,
        error: progress.error.or_else(|| fault.map(str::to_owned)),
        ..ModelStatus::unknown(progress.id)
    };
    if let Some(model) = model {
        status.proof.clone_from(&model.proof);
        status.created_unix_s = model.created_unix_s;
        status.weights_bytes = model.weights_bytes;
        status.weights_open_ms = model.weights_open.as_secs_f64() * 1e3;
        status.max_model_len = u32::try_from(model.engine.max_model_len()).unwrap_or(u32::MAX);
        status.load = model.engine.load();
        status.identity = model.engine.identity().map(|identity| identity.status());
        status.waiting_for = model.engine.waiting_for().map(|part| part.to_string());
        status.wedged = model.engine.wedge(liveness_timeout).map(wedged);
    }
    status
}

fn wedged(wedge: Wedge) -> Wedged {
    Wedged {
        since_unix_ms: wedge.since_unix_ms,
        activity: wedge.activity.stage.as_str().into(),
        step: wedge.activity.step,
        sequences: wedge.activity.sequences,
        prefill_tokens: wedge.activity.prefill_tokens,
        decode_tokens: wedge.activity.decode_tokens,
        part: wedge.part.map(|part| part.to_string()),
    }
}
