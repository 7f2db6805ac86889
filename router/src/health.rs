//! Watching workers: `GET /status` of one of ours, `GET /v1/models` of any other OpenAI server.
//!
//! Checks find what requests do not: a worker that came back, loads a model, drains, or is stopped.
//! Requests find the rest sooner (a refused connection marks a worker down). Back-pressure, 429 and
//! 503, is not ill health, and neither is a want of descriptors in this process.

use crate::config::HealthConfig;
use crate::connections::ConnectError;
use crate::core::Core;
use crate::upstream::{MODELS_BYTES_MAX, Patience, ReadError, UpstreamError, authorize, exchange, read_all};
use crate::worker::{Report, Seeds, ServedModel, State, Worker};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use policy::Secret;
use rand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::{AbortHandle, JoinSet};
use wire::Chain;
use wire::openai::models::{Model, ModelList};
use wire::status::{ModelState, WorkerStatus};

/// The most checks a second, over all workers: a large fleet is asked more seldom.
const CHECKS_PER_SECOND: usize = 1_000;

/// Errors of a health check.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    /// It cannot be reached, or broke off.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Its answer could not be read.
    #[error("reading the answer to GET {path}")]
    Read {
        path: &'static str,
        #[source]
        source: ReadError,
    },
    /// Its answer is no list of models.
    #[error("the answer to GET {path} is no list of models")]
    NoList { path: &'static str },
    /// Its answer is an error.
    #[error("GET {path} answered {status}")]
    Status { path: &'static str, status: StatusCode },
    /// It did not answer.
    #[error("no answer in time")]
    TimedOut,
}

impl CheckError {
    /// True if the worker sent nothing at all, like a stopped process.
    const fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::TimedOut
                | Self::Upstream(
                    UpstreamError::TimedOut(_)
                        | UpstreamError::Stuck(_)
                        | UpstreamError::Connect(ConnectError::TimedOut { .. })
                )
        )
    }

    /// True if nothing listens there, or not who should.
    const fn is_refusal(&self) -> bool {
        use ConnectError::{Tls, Unreachable};
        matches!(self, Self::Upstream(UpstreamError::Connect(Unreachable { .. } | Tls { .. })))
    }

    /// True if it says nothing about the worker.
    const fn is_ours(&self) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Connect(ConnectError::Exhausted { .. })))
    }
}

/// Watches all workers of the fleet as they come and go. Never returns.
pub(crate) async fn watch_all(core: Arc<Core>) {
    let mut watches = JoinSet::new();
    let mut running: HashMap<usize, AbortHandle> = HashMap::new();
    // A worker that comes back when its last request has ended is another one, even at the same address.
    let identity = |worker: &Arc<Worker>| Arc::as_ptr(worker) as usize;
    loop {
        running.retain(|_, watch| !watch.is_finished());
        for worker in core.fleet.watched() {
            let start = || watches.spawn(watch(Arc::clone(&core), Arc::clone(&worker)));
            running.entry(identity(&worker)).or_insert_with(start);
        }
        core.fleet.membership_changed().await;
        while watches.try_join_next().is_some() {}
    }
}

/// Watches one worker until it left the fleet and its last request has ended.
async fn watch(core: Arc<Core>, worker: Arc<Worker>) {
    let mut failures = 0;
    while !core.fleet.forget(&worker) {
        check(&core, &worker, &mut failures).await;
        worker.connections.expire();
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::time::sleep(interval(&core.settings().config.health, core.fleet.snapshot().size()).mul_f64(jitter))
            .await;
    }
    core.metrics.forget(&worker);
}

fn interval(config: &HealthConfig, workers: usize) -> Duration {
    let least_ms = (workers * 1_000 / CHECKS_PER_SECOND) as u64;
    Duration::from_millis(config.interval_ms.max(least_ms))
}

/// Checks a worker once and records the result.
pub(crate) async fn check(core: &Core, worker: &Arc<Worker>, failures: &mut u32) {
    let settings = core.settings();
    let limit = Duration::from_millis(settings.config.health.timeout_ms);
    let key = settings.config.worker_api_key.as_ref();
    let result = tokio::time::timeout(limit, ask(worker, key)).await.unwrap_or(Err(CheckError::TimedOut));
    let before = worker.view().state;
    match result {
        Ok(report) => {
            *failures = 0;
            if worker.heard(report) {
                core.fleet.touch();
            }
        }
        Err(cause) if cause.is_ours() => tracing::warn!(worker = worker.name, cause = %Chain(&cause), "not checked"),
        Err(cause) => {
            *failures += 1;
            let is_over = *failures >= settings.config.health.failures_max;
            worker.set_silent(cause.is_silence() && is_over);
            if (cause.is_refusal() || is_over) && worker.mark_down() {
                tracing::warn!(worker = worker.name, cause = %Chain(&cause), "a worker is down");
                core.fleet.touch();
            }
        }
    }
    let state = worker.view().state;
    if state != before && state != State::Unhealthy {
        tracing::info!(worker = worker.name, ?state, "a worker changed");
    }
    core.metrics.worker_up(worker).set(f64::from(u8::from(state == State::Healthy)));
}

async fn ask(worker: &Arc<Worker>, key: Option<&Secret>) -> Result<Report, CheckError> {
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
    let models = ModelList::read(&bytes).ok_or(CheckError::NoList { path })?;
    let ready = |model| (ServedModel { model, is_ready: true }, 0);
    Ok(Report { is_draining: false, version: None, peers: None, models: models.into_iter().map(ready).collect() })
}

fn read_status(status: WorkerStatus) -> Report {
    // Each of a model's names is a model to those who ask.
    let names = |model: wire::status::ModelStatus| {
        let is_ready = model.state == ModelState::Ready;
        let length = Some(model.max_model_len).filter(|length| *length > 0);
        std::iter::once(model.id).chain(model.aliases).map(move |name| {
            let served = Model::new(name, model.created_unix_s, length);
            (ServedModel { model: served, is_ready }, model.load.waiting)
        })
    };
    let models = status.models.into_iter().flat_map(names).collect();
    let version = Some(status.version).filter(|text| !text.is_empty());
    Report { is_draining: status.draining, version, peers: status.seeding.and_then(Seeds::read), models }
}

/// Sends a GET; returns the body of a successful answer of at most `bytes_max`.
pub(crate) async fn get(
    worker: &Arc<Worker>,
    path: &'static str,
    key: Option<&Secret>,
    bytes_max: usize,
) -> Result<Bytes, CheckError> {
    let request = || {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = Uri::from_static(path);
        authorize(request.headers_mut(), key);
        request
    };
    // The caller has a time limit of its own.
    let patience = Patience { head: Duration::from_secs(60), stuck: Duration::from_secs(60) };
    let response = match exchange(worker, request(), false, patience).await {
        Err(UpstreamError::Broken { is_unused: true, .. }) => exchange(worker, request(), true, patience).await?,
        other => other?,
    };
    let status = response.status();
    let body = read_all(response.into_body(), bytes_max, Duration::MAX).await;
    if !status.is_success() {
        return Err(CheckError::Status { path, status });
    }
    body.map_err(|source| CheckError::Read { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_is_asked_more_seldom() {
        let config = HealthConfig::default();
        assert_eq!(interval(&config, 10), Duration::from_secs(1));
        assert_eq!(interval(&config, 10_000), Duration::from_secs(10));
    }
}
