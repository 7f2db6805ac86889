//! The worker's own OpenAI server: text in, text out, around the engine's tokens.
//!
//! `generate` turns a request into sequences, `choice` turns a sequence's tokens back into text
//! (detokenised, stop strings cut), `chat` and `completion` dress that in the API's shapes,
//! `reply` carries it over HTTP. It knows no tenant, quota or screen; the router has those.

mod app;
mod chat;
mod choice;
mod completion;
mod generate;
mod reply;
mod stop;

pub use app::app;

use crate::config::WorkerConfig;
use crate::engine::EngineHandle;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use listen::Drain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use telemetry::metrics::Registry;
use wire::openai::ApiError;
use wire::status::{ModelState, ModelStatus, WorkerStatus};

/// One model that is ready.
#[derive(Debug)]
pub struct ServerModel {
    pub(crate) id: String,
    pub(crate) engine: EngineHandle,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) created_unix_s: u64,
    pub(crate) proof: String,
    pub(crate) weights_bytes: u64,
    pub(crate) weights_open: Duration,
    pub(crate) ready_after: Duration,
}

/// What the handlers share.
#[derive(Debug)]
pub struct Server {
    api_key_sha256: Option<String>,
    body_bytes_max: usize,
    liveness_timeout: Duration,
    /// The models to come, by name; what readiness waits for.
    expected: BTreeSet<String>,
    models: RwLock<BTreeMap<String, Arc<ServerModel>>>,
    registry: Registry,
    drain: Drain,
}

impl Server {
    pub(crate) fn new(config: &WorkerConfig, registry: Registry, drain: Drain, expected: BTreeSet<String>) -> Self {
        Self {
            api_key_sha256: config.api_key.as_ref().map(|key| policy::hash_key(key.reveal())),
            body_bytes_max: config.listen.body_bytes_max,
            liveness_timeout: Duration::from_millis(config.liveness_timeout_ms),
            expected,
            models: RwLock::new(BTreeMap::new()),
            registry,
            drain,
        }
    }

    pub(crate) fn add(&self, model: ServerModel) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(model.id.clone(), Arc::new(model));
    }

    fn models(&self) -> Vec<Arc<ServerModel>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn model(&self, id: &str) -> Result<Arc<ServerModel>, ApiError> {
        let found = self.models.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        match found {
            Some(model) => Ok(model),
            None if self.expected.contains(id) => {
                Err(ApiError::overloaded(format!("the model `{id}` is still loading"), Duration::from_secs(2)))
            }
            None => Err(ApiError::model_not_found(id)),
        }
    }

    /// Why it is not ready; `None` when it is.
    fn unready(&self) -> Option<&'static str> {
        if self.drain.is_draining() {
            return Some("draining");
        }
        let is_complete = self.models.read().unwrap_or_else(PoisonError::into_inner).len() == self.expected.len();
        if !is_complete {
            return Some("loading");
        }
        (!self.is_alive()).then_some("an engine has ended or hangs")
    }

    /// Whether every engine thread beats.
    fn is_alive(&self) -> bool {
        let beats = |model: &Arc<ServerModel>| model.engine.since_beat().is_some_and(|age| age < self.liveness_timeout);
        self.models().iter().all(beats)
    }

    fn status(&self) -> WorkerStatus {
        let ready = self.models().into_iter().map(|model| ModelStatus {
            id: model.id.clone(),
            state: if model.engine.since_beat().is_some() { ModelState::Ready } else { ModelState::Failed },
            proof: model.proof.clone(),
            created_unix_s: model.created_unix_s,
            weights_bytes: model.weights_bytes,
            weights_open_ms: model.weights_open.as_secs_f64() * 1e3,
            ready_after_ms: model.ready_after.as_secs_f64() * 1e3,
            max_model_len: u32::try_from(model.engine.max_model_len()).unwrap_or(u32::MAX),
            load: model.engine.load(),
        });
        WorkerStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            ready: self.unready().is_none(),
            draining: self.drain.is_draining(),
            models: ready.collect(),
        }
    }
}
