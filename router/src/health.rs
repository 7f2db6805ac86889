//! Watching workers: `GET /status` of one of ours, `GET /v1/models` of any other OpenAI server.
//!
//! Checks find what requests do not: a worker that came back, loads a model, drains. Requests find
//! the rest sooner (`dispatch` marks a worker down whose connection is refused). Back-pressure,
//! 429 and 503, is not ill health.

use crate::config::HealthConfig;
use crate::upstream::{MODELS_BYTES_MAX, authorise, read_all};
use crate::worker::{ServedModel, State, Worker};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use policy::Secret;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use wire::openai::models::{Model, ModelList};
use wire::status::{ModelState, WorkerStatus};

/// Why a check failed.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    #[error("connecting")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("reading the answer to GET {path}")]
    Exchange {
        path: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("GET {path} answered {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("no answer in time")]
    Timeout,
}

/// Watches one worker for ever; `up` shows whether it takes requests.
pub(crate) async fn watch(worker: Arc<Worker>, config: HealthConfig, key: Option<Secret>, up: prometheus::Gauge) {
    let mut failures = 0;
    loop {
        check(&worker, &config, key.as_ref(), &mut failures).await;
        up.set(f64::from(u8::from(worker.view().state == State::Healthy)));
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::time::sleep(Duration::from_millis(config.interval_ms).mul_f64(jitter)).await;
    }
}

/// Checks once and notes what was found.
pub(crate) async fn check(worker: &Worker, config: &HealthConfig, key: Option<&Secret>, failures: &mut u32) {
    let limit = Duration::from_millis(config.timeout_ms);
    let before = worker.view().state;
    let result = tokio::time::timeout(limit, ask(worker, key)).await.unwrap_or(Err(CheckError::Timeout));
    match result {
        Ok((state, models)) => {
            *failures = 0;
            worker.heard(state, models);
            if state != before {
                tracing::info!(worker = worker.name, ?state, "worker changed");
            }
        }
        Err(cause) => {
            *failures += 1;
            let is_gone = matches!(cause, CheckError::Connect(_)) || *failures >= config.failures_max;
            if is_gone && before != State::Unhealthy {
                tracing::warn!(worker = worker.name, cause = %Chain(&cause), "worker is down");
                worker.mark_down();
            }
        }
    }
}

async fn ask(worker: &Worker, key: Option<&Secret>) -> Result<(State, Vec<ServedModel>), CheckError> {
    match get(worker, "/status", key, MODELS_BYTES_MAX).await {
        Ok(bytes) => {
            if let Ok(status) = serde_json::from_slice::<WorkerStatus>(&bytes) {
                return Ok(read_status(status));
            }
        }
        // It is not one of ours. A broken connection would not say so.
        Err(CheckError::Status { .. }) => {}
        Err(cause) => return Err(cause),
    }
    let path = "/v1/models";
    let bytes = get(worker, path, key, MODELS_BYTES_MAX).await?;
    let list: ModelList =
        serde_json::from_slice(&bytes).map_err(|source| CheckError::Exchange { path, source: source.into() })?;
    let ready = |model| ServedModel { model, is_ready: true, waiting: 0 };
    Ok((State::Healthy, list.data.into_iter().map(ready).collect()))
}

fn read_status(status: WorkerStatus) -> (State, Vec<ServedModel>) {
    let state = if status.draining { State::Draining } else { State::Healthy };
    let model = |model: wire::status::ModelStatus| ServedModel {
        model: Model::new(model.id, model.created_unix_s, Some(model.max_model_len)),
        is_ready: model.state == ModelState::Ready,
        waiting: model.load.waiting,
    };
    (state, status.models.into_iter().map(model).collect())
}

/// What a worker answers to a GET, if that is well and at most `bytes_max`.
pub(crate) async fn get(
    worker: &Worker,
    path: &'static str,
    key: Option<&Secret>,
    bytes_max: usize,
) -> Result<Bytes, CheckError> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = worker.uri(path);
    authorise(request.headers_mut(), key);
    let response = worker.client.request(request).await.map_err(|cause| {
        if cause.is_connect() {
            CheckError::Connect(cause)
        } else {
            CheckError::Exchange { path, source: cause.into() }
        }
    })?;
    let status = response.status();
    let body = read_all(response.into_body(), bytes_max, Duration::MAX).await;
    if !status.is_success() {
        return Err(CheckError::Status { path, status });
    }
    body.map_err(|source| CheckError::Exchange { path, source: source.into() })
}

/// Shows an error with its causes on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            write!(f, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}
