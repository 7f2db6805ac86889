//! Watching workers: `GET /status` of one of ours, `GET /v1/models` of any other OpenAI server.
//!
//! Checks find what requests do not: a worker that came back, loads a model, drains, or is stopped.
//! Requests find the rest sooner (a refused connection marks a worker down). Back-pressure, 429 and
//! 503, is not ill health, and neither is a want of descriptors in this process.

use crate::config::HealthConfig;
use crate::connections::ConnectError;
use crate::core::Core;
use crate::upstream::{MODELS_BYTES_MAX, Patience, ReadError, UpstreamError, authorize, exchange, read_all};
use crate::worker::{Report, ServedModel, State, Worker};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use policy::Secret;
use rand::Rng;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::{AbortHandle, JoinSet};
use wire::openai::models::Model;
use wire::status::{ModelState, WorkerStatus};

/// The most checks a second, over all workers: a large fleet is asked more seldom.
const CHECKS_PER_SECOND: usize = 1_000;

/// Why a check failed.
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
    /// Whether the worker did not say anything at all, as a stopped process does.
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

    /// Whether nothing is there that could answer later.
    const fn is_refusal(&self) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Connect(ConnectError::Unreachable { .. })))
    }

    /// Whether it says nothing of the worker.
    const fn is_ours(&self) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Connect(ConnectError::Exhausted { .. })))
    }
}

/// Watches every worker of the fleet, as they come and go, for ever.
pub(crate) async fn watch_all(core: Arc<Core>) {
    let mut watches = JoinSet::new();
    let mut running: HashMap<usize, AbortHandle> = HashMap::new();
    // A worker that goes and comes back is another one, even at the same address.
    let identity = |worker: &Arc<Worker>| Arc::as_ptr(worker) as usize;
    loop {
        let workers = core.fleet.workers();
        let there: HashSet<usize> = workers.iter().map(identity).collect();
        running.retain(|worker, watch| {
            let is_there = there.contains(worker);
            if !is_there {
                watch.abort();
            }
            is_there
        });
        for worker in &workers {
            let start = || watches.spawn(watch(Arc::clone(&core), Arc::clone(worker)));
            running.entry(identity(worker)).or_insert_with(start);
        }
        core.fleet.membership_changed().await;
        while watches.try_join_next().is_some() {}
    }
}

/// Watches one worker for ever.
async fn watch(core: Arc<Core>, worker: Arc<Worker>) {
    let mut failures = 0;
    loop {
        check(&core, &worker, &mut failures).await;
        worker.connections.expire();
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::time::sleep(interval(&core.config.health, core.fleet.snapshot().size()).mul_f64(jitter)).await;
    }
}

fn interval(config: &HealthConfig, workers: usize) -> Duration {
    let least_ms = (workers * 1_000 / CHECKS_PER_SECOND) as u64;
    Duration::from_millis(config.interval_ms.max(least_ms))
}

/// Checks once and notes what was found.
pub(crate) async fn check(core: &Core, worker: &Arc<Worker>, failures: &mut u32) {
    let limit = Duration::from_millis(core.config.health.timeout_ms);
    let key = core.config.worker_api_key.as_ref();
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
            let is_over = *failures >= core.config.health.failures_max;
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
    let models = read_models(&bytes).ok_or(CheckError::NoList { path })?;
    let ready = |model| (ServedModel { model, is_ready: true }, 0);
    Ok(Report { is_draining: false, version: None, models: models.into_iter().map(ready).collect() })
}

fn read_status(status: WorkerStatus) -> Report {
    let model = |model: wire::status::ModelStatus| {
        let is_ready = model.state == ModelState::Ready;
        let served = Model::new(model.id, model.created_unix_s, Some(model.max_model_len).filter(|len| *len > 0));
        (ServedModel { model: served, is_ready }, model.load.waiting)
    };
    let models = status.models.into_iter().map(model).collect();
    Report { is_draining: status.draining, version: Some(status.version).filter(|text| !text.is_empty()), models }
}

/// A list of models as servers really send it: with a byte order mark, as a bare array, without
/// `created` and `owned_by`, with numbers as floats. Only a name is needed.
fn read_models(bytes: &[u8]) -> Option<Vec<Model>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let list: Value = serde_json::from_slice(bytes).ok()?;
    let data = list.as_array().or_else(|| list.get("data").or_else(|| list.get("models"))?.as_array())?;
    let number = |model: &Value, name: &str| {
        let value = model.get(name)?.as_f64().filter(|value| value.is_finite() && *value >= 0.0)?;
        Some(value as u64)
    };
    let read = |model: &Value| {
        let id = model.get("id").or_else(|| model.get("name"))?.as_str().filter(|id| !id.is_empty())?;
        let length = ["max_model_len", "context_length", "context_window"].iter().find_map(|name| number(model, name));
        let length = length.and_then(|length| u32::try_from(length).ok()).filter(|length| *length > 0);
        let mut read = Model::new(id, number(model, "created").unwrap_or(0), length);
        if let Some(owner) = model.get("owned_by").and_then(Value::as_str) {
            owner.clone_into(&mut read.owned_by);
        }
        Some(read)
    };
    Some(data.iter().filter_map(read).collect())
}

/// What a worker answers to a GET, if that is well and at most `bytes_max`.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(json: &str) -> Option<Vec<String>> {
        read_models(json.as_bytes()).map(|models| models.into_iter().map(|model| model.id).collect())
    }

    #[test]
    fn lists_of_models_are_read_as_servers_send_them() {
        for (json, expected) in [
            (r#"{"object":"list","data":[{"id":"a","object":"model","created":1,"owned_by":"x"}]}"#, &["a"][..]),
            (r#"{"data":[{"id":"a"},{"id":"org/b","created":1.7e9,"owned_by":null}]}"#, &["a", "org/b"]),
            (r#"[{"id":"a","type":"chat"}]"#, &["a"]),
            (r#"{"models":[{"name":"a"}],"data":[{"id":"b"}]}"#, &["b"]),
            ("\u{feff}{\"data\":[{\"id\":\"a\"}]}", &["a"]),
            (r#"{"data":[{"object":"model"},{"id":7},{"id":""},"x"]}"#, &[]),
            (r#"{"data":[]}"#, &[]),
        ] {
            assert_eq!(ids(json).expect("a list"), expected, "{json}");
        }
        for json in ["", "{}", "<html>", r#"{"data":7}"#] {
            assert_eq!(ids(json), None, "{json}");
        }
        let model = &read_models(br#"{"data":[{"id":"a","created":1.5,"max_model_len":64.0}]}"#).expect("a list")[0];
        assert_eq!((model.created, model.max_model_len), (1, Some(64)));
    }

    #[test]
    fn a_large_fleet_is_asked_more_seldom() {
        let config = HealthConfig::default();
        assert_eq!(interval(&config, 10), Duration::from_secs(1));
        assert_eq!(interval(&config, 10_000), Duration::from_secs(10));
    }
}
