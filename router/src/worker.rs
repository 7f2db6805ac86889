//! One worker as the router sees it: how to reach it, what it said of itself, what it holds of ours.

use crate::config::RouterConfig;
use crate::pick::{Candidate, Serves};
use arc_swap::ArcSwap;
use axum::http::uri::{Authority, Scheme};
use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use policy::Moment;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use wire::openai::models::Model;

/// How long an unused connection to a worker is kept. Under the 75 s after which common servers
/// close theirs, so that we seldom write into a connection that is about to close.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// The most unused connections kept per worker.
const POOL_IDLE_MAX: usize = 256;
/// The longest a worker may ask to be left alone: a wrong clock there must not lose it for an hour.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// So many server errors in a row, and the worker is left alone for a while.
const FAILURE_STREAK_MAX: u32 = 5;
/// How long it is left alone then.
const FAILURE_BACK_OFF: Duration = Duration::from_secs(5);

/// Whether a worker takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Not heard yet.
    Unknown,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It finishes its streams and takes no more.
    Draining,
}

/// What a worker said of itself when it was last heard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) was_heard: bool,
    pub(crate) models: Vec<ServedModel>,
}

/// One model of a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServedModel {
    pub(crate) model: Model,
    pub(crate) is_ready: bool,
    /// Sequences it says are waiting; 0 where it does not say.
    pub(crate) waiting: u32,
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `HOST:PORT`, as `x-forebay-worker` shows it.
    pub(crate) name: String,
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
    authority: Authority,
    view: ArcSwap<View>,
    in_flight: AtomicU32,
    failures: AtomicU32,
    back_off_until_ms: AtomicU64,
}

impl Worker {
    /// A worker not heard yet.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn new(url: &str, config: &RouterConfig) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|cause| format!("is {url:?}, not a URL: {cause}"))?;
        let parts = uri.into_parts();
        if parts.scheme != Some(Scheme::HTTP) {
            return Err(format!("is {url:?}; workers are reached by http://HOST:PORT"));
        }
        if parts.path_and_query.is_some_and(|path| !matches!(path.as_str(), "/" | "")) {
            return Err(format!("is {url:?}; leave out the path, the router adds /v1/…"));
        }
        let authority = parts.authority.ok_or_else(|| format!("is {url:?}, which names no host"))?;
        if authority.as_str().contains('@') {
            return Err("holds a user name; use `worker_api_key`".into());
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout()));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .build(connector);
        let view = View { state: State::Unknown, was_heard: false, models: Vec::new() };
        Ok(Self {
            name: authority.to_string(),
            client,
            authority,
            view: ArcSwap::from_pointee(view),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            back_off_until_ms: AtomicU64::new(0),
        })
    }

    /// The address of a path there.
    pub(crate) fn uri(&self, path: &'static str) -> Uri {
        let built = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path).build();
        built.unwrap_or_else(|_| Uri::from_static("/"))
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes over what a health check found.
    pub(crate) fn heard(&self, state: State, models: Vec<ServedModel>) {
        self.view.store(Arc::new(View { state, was_heard: true, models }));
    }

    /// Notes that it does not answer; what it served stays known, or its models would turn from
    /// unavailable into unknown.
    pub(crate) fn mark_down(&self) {
        self.view.rcu(|view| View { state: State::Unhealthy, ..View::clone(view) });
    }

    /// Leaves it alone for a while, as it asked.
    pub(crate) fn back_off(&self, now: Moment, wait: Duration) {
        let until = now.0 + wait.min(BACK_OFF_MAX);
        self.back_off_until_ms.fetch_max(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Counts an answer that is no fault of the worker.
    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Counts a server error; many in a row and it is left alone.
    pub(crate) fn failed(&self, now: Moment) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURE_STREAK_MAX {
            self.failures.store(0, Ordering::Relaxed);
            self.back_off(now, FAILURE_BACK_OFF);
        }
    }

    /// How it looks to a request for `model`.
    pub(crate) fn candidate(&self, model: &str, was_tried: bool, now: Moment) -> Candidate {
        let view = self.view.load();
        let served = view.models.iter().find(|served| served.model.id == model);
        let serves = match served {
            Some(served) if served.is_ready => Serves::Ready,
            Some(_) => Serves::NotReady,
            None if view.was_heard => Serves::No,
            None => Serves::Unknown,
        };
        let until = Duration::from_millis(self.back_off_until_ms.load(Ordering::Relaxed));
        let wait = until.saturating_sub(now.0);
        Candidate {
            serves,
            is_up: view.state == State::Healthy,
            backs_off_for: (!wait.is_zero()).then_some(wait),
            was_tried,
            load: self.in_flight().saturating_add(served.map_or(0, |served| served.waiting)),
        }
    }
}

/// One request at one worker; its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) worker: Arc<Worker>,
    gauge: prometheus::Gauge,
}

impl Ticket {
    pub(crate) fn take(worker: &Arc<Worker>, gauge: prometheus::Gauge) -> Self {
        worker.in_flight.fetch_add(1, Ordering::Relaxed);
        gauge.inc();
        Self { worker: Arc::clone(worker), gauge }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.worker.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        let config = RouterConfig::default();
        for url in ["", "localhost:8081", "https://h:1", "http://h:1/v1", "http://u:p@h:1"] {
            assert!(Worker::new(url, &config).is_err(), "{url}");
        }
        let worker = Worker::new("http://127.0.0.1:8081", &config).expect("valid");
        assert_eq!(worker.uri("/v1/models"), "http://127.0.0.1:8081/v1/models");
    }
}
