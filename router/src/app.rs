//! The router as a whole: what it is made of, its routes, and how it runs.

use crate::access::{identify, require_key_or_no_page, require_member, require_operator};
use crate::budget::RetryBudget;
use crate::config::RouterConfig;
use crate::connections::Limits;
use crate::core::Core;
use crate::explain::explain;
use crate::fleet::Fleet;
use crate::health;
use crate::membership;
use crate::meter::{Metrics, Slots};
use crate::offload::Offload;
use crate::serve::{chat, completions};
use crate::strikes::Digester;
use crate::support;
use crate::view::Views;
use crate::worker::{Address, State as WorkerState, Worker};
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, body::Body};
use discovery::{Means, Members};
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use listen::{Bodies, CertificateMeters, ClientTls, Drain, Listener, Memory, TlsError};
use parking_lot::Mutex;
use policy::{Moment, Policy, Secret};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, Registry};
use telemetry::names;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::fleet::FLEET_PATH;
use wire::openai::ApiError;
use wire::openai::models::{Model, ModelList};

/// The most workers of one router.
const WORKERS_MAX: usize = 16_384;
/// Connections to workers beyond those of requests being answered: idle ones, health checks, probes.
const CONNECTIONS_SPARE: usize = 2_048;

/// How long the start waits for workers to be found. Who comes later is found all the same.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Errors that keep the router from running.
#[derive(Debug, Error)]
pub enum RouterError {
    /// A field of the configuration is wrong.
    #[error("checking the router's configuration: `{field}` {problem}")]
    Config {
        /// The field's path.
        field: String,
        /// The problem with it.
        problem: String,
    },
    /// The files for TLS with workers are missing or wrong.
    #[error("checking the router's configuration: `worker_tls`")]
    WorkerTls(#[source] Box<TlsError>),
    /// The policy is wrong.
    #[error("checking the router's configuration")]
    Policy(#[from] policy::ConfigError),
    /// The listener failed.
    #[error("serving clients")]
    Listen(#[from] listen::ListenError),
}

/// A router that is configured and not yet listening.
#[derive(Debug, Clone)]
pub struct Router {
    core: Arc<Core>,
    /// The workers of the configuration.
    configured: Vec<Address>,
    /// Those that are found.
    found: Members,
}

impl Router {
    /// Checks the configuration and compiles the policy. Call it within a tokio runtime.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn new(config: RouterConfig, registry: &Registry, drain: Drain) -> Result<Self, RouterError> {
        check_fields(&config)?;
        let begun = Instant::now();
        let addresses = addresses(&config)?;
        let is_tls = addresses.iter().any(Address::is_tls) || (config.discovery.is_on() && config.discovery_tls);
        let tls = is_tls.then(|| ClientTls::new(&config.worker_tls));
        let tls = tls.transpose().map_err(|error| RouterError::WorkerTls(error.into()))?;
        let found = find(&config, tls.clone(), registry)?;
        let fleet = Fleet::new(limits(&config, tls.clone()));
        fleet.replace(addresses.clone());
        let core = Core {
            policy: Policy::new(&config.policy)?,
            fleet,
            views: Views::default(),
            strikes: Mutex::default(),
            digester: Digester::default(),
            budget: RetryBudget::new(config.retry.clone(), Moment(begun.elapsed())),
            slots: Arc::new(Slots::new(config.in_flight_max, registry)),
            memory: Memory::new(
                config.answers_bytes_max,
                registry.gauge(&names::ROUTER_ANSWER_BYTES).with_label_values::<&str>(&[]),
            ),
            bodies: Bodies::new(&config.listen, registry, "router"),
            offload: Arc::new(Offload::new(config.large_at_once_max, registry)),
            metrics: Arc::new(Metrics::new(registry, &config.policy.annotate_lists)),
            registry: registry.clone(),
            config,
            drain,
            begun,
            tls,
        };
        Ok(Self { core: Arc::new(core), configured: addresses, found })
    }

    /// The routes. Outermost layer first: what `listen` gives every process of ours (request id,
    /// log line, panic barrier, OpenAI-shaped 404 and 405). Bodies are bounded where they are
    /// read; time limits belong to the hop to the worker, for only it may take long.
    pub fn app(&self) -> axum::Router {
        let routes = axum::Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(completions))
            .route("/v1/models", get(models))
            .route("/v1/models/{*id}", get(model))
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .route("/health", get(readyz))
            .route("/ping", get(readyz).post(readyz))
            .route("/version", get(version))
            .route("/openapi.json", get(openapi))
            .route("/metrics", get(metrics))
            .merge(
                axum::Router::new()
                    .route("/status", get(status))
                    .route_layer(from_fn_with_state(Arc::clone(&self.core), require_key_or_no_page)),
            )
            .merge(
                axum::Router::new()
                    .route(FLEET_PATH, get(fleet))
                    .route_layer(from_fn_with_state(Arc::clone(&self.core), require_member)),
            )
            .merge(
                axum::Router::new()
                    .route("/admin/workers", get(support::workers))
                    .route("/admin/explain/{*path}", post(explain))
                    .route_layer(from_fn_with_state(Arc::clone(&self.core), require_operator)),
            )
            .with_state(Arc::clone(&self.core));
        listen::common_layers(routes)
    }

    /// Looks for workers for a moment and asks each once, so that the first request finds what is there.
    pub async fn look_around(&self) {
        let core = &self.core;
        if core.config.discovery.is_on() {
            let found = self.found.settled(FIRST_LOOK).await;
            core.fleet.replace(membership::addresses(&self.configured, &found, core.config.discovery_tls));
        }
        let workers = core.fleet.workers();
        join_all(workers.iter().map(|worker| async move { health::check(core, worker, &mut 0).await })).await;
        core.fleet.rebuild();
    }

    /// Watches the workers until the set is dropped.
    #[must_use]
    pub fn watch(&self) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        watches.spawn(health::watch_all(Arc::clone(&self.core)));
        let core = Arc::clone(&self.core);
        watches.spawn(async move { core.fleet.follow().await });
        watches.spawn(membership::follow(Arc::clone(&self.core), self.configured.clone(), self.found.clone()));
        if let Some(tls) = self.core.tls.clone() {
            watches.spawn(tls.watch(Some(certificate_meters(&self.core))));
        }
        watches
    }
}

/// The workers that are found from now on.
fn find(config: &RouterConfig, tls: Option<ClientTls>, registry: &Registry) -> Result<Members, RouterError> {
    let key = config.worker_api_key.as_ref().map(|key| key.reveal().to_owned());
    let means = Means { of: "workers", own_port: None, key, tls };
    discovery::start(&config.discovery, &means, registry).map_err(discovery_error)
}

fn discovery_error(error: discovery::ConfigError) -> RouterError {
    RouterError::Config { field: format!("discovery.{}", error.field), problem: error.problem }
}

/// The meters of the files for TLS with workers.
fn certificate_meters(core: &Core) -> CertificateMeters {
    core.registry.begin(&names::ROUTER_CERTIFICATE_RELOADS, &[]);
    let not_after = || core.registry.gauge(&names::ROUTER_CERTIFICATE_NOT_AFTER).with_label_values::<&str>(&[]);
    let reloads = core.registry.counter(&names::ROUTER_CERTIFICATE_RELOADS);
    CertificateMeters {
        not_after: core.config.worker_tls.certificate_file.is_some().then(not_after),
        loaded: reloads.with_label_values(&["ok"]),
        failed: reloads.with_label_values(&["error"]),
    }
}

/// The bounds of connections to workers.
fn limits(config: &RouterConfig, tls: Option<ClientTls>) -> Limits {
    let wanted = config.in_flight_max.saturating_add(CONNECTIONS_SPARE);
    // Clients' connections take their half of the limit of open files.
    let places = listen::connections_within_limit(wanted, 2);
    Limits {
        tls,
        connect_timeout: config.connect_timeout(),
        idle: config.pool_idle(),
        places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
        places_spare: places / 10,
    }
}

/// Says what is wrong with a configuration, if anything is, without starting.
///
/// # Errors
/// The field that is wrong.
pub fn check(config: &RouterConfig) -> Result<(), RouterError> {
    check_fields(config)?;
    addresses(config)?;
    Policy::new(&config.policy)?;
    Ok(())
}

fn addresses(config: &RouterConfig) -> Result<Vec<Address>, RouterError> {
    let address = |(index, url): (usize, &String)| {
        Address::parse(url).map_err(|problem| RouterError::Config { field: format!("workers[{index}]"), problem })
    };
    config.workers.iter().enumerate().map(address).collect()
}

fn check_fields(config: &RouterConfig) -> Result<(), RouterError> {
    let wrong = |field: &str, problem: &str| Err(RouterError::Config { field: field.into(), problem: problem.into() });
    if config.workers.len() > WORKERS_MAX {
        return wrong("workers", "has more than 16,384 entries");
    }
    for (field, key) in [("worker_api_key", &config.worker_api_key), ("admin_api_key", &config.admin_api_key)] {
        if let Some(problem) = key.as_ref().and_then(Secret::key_problem) {
            return wrong(field, problem);
        }
    }
    if let Some((field, problem)) = config.listen.problem() {
        return wrong(&format!("listen.{field}"), problem);
    }
    config.discovery.check().map_err(discovery_error)?;
    if let Some((field, problem)) = config.worker_tls.problem() {
        return wrong(&format!("worker_tls.{field}"), problem);
    }
    if config.retry.attempts_max == 0 {
        return wrong("retry.attempts_max", "is 0; 1 means no retry");
    }
    for (field, value) in [
        ("retry.ratio", config.retry.ratio),
        ("retry.floor_per_second", config.retry.floor_per_second),
        ("retry.saved_max", config.retry.saved_max),
    ] {
        if !value.is_finite() || value < 0.0 {
            return wrong(field, "must be a number of at least 0");
        }
    }
    if !config.pick.load_max_over_mean.is_finite() || config.pick.load_max_over_mean < 1.0 {
        return wrong("pick.load_max_over_mean", "must be a number of at least 1");
    }
    for (field, value) in [
        ("health.interval_ms", config.health.interval_ms),
        ("health.timeout_ms", config.health.timeout_ms),
        ("connect_timeout_ms", config.connect_timeout_ms),
        ("head_timeout_ms", config.head_timeout_ms),
        ("first_event_timeout_ms", config.first_event_timeout_ms),
        ("idle_timeout_ms", config.idle_timeout_ms),
        ("stuck_after_ms", config.stuck_after_ms),
        ("comment_interval_ms", config.comment_interval_ms),
        ("in_flight_max", config.in_flight_max as u64),
        ("large_at_once_max", config.large_at_once_max as u64),
        ("event_bytes_max", config.event_bytes_max as u64),
        ("answer_bytes_max", config.answer_bytes_max as u64),
        ("answers_bytes_max", config.answers_bytes_max as u64),
    ] {
        if value == 0 {
            return wrong(field, "must be above 0");
        }
    }
    Ok(())
}

/// Runs a router on a bound listener until `drain` starts and its streams have finished.
///
/// # Errors
/// A wrong configuration, or a listener that fails.
pub async fn serve(
    config: RouterConfig,
    registry: Registry,
    listener: Listener,
    drain: Drain,
) -> Result<(), RouterError> {
    let router = Router::new(config, &registry, drain.clone())?;
    router.look_around().await;
    let watches = router.watch();
    let listener = listener.with_metrics(&registry, "router").with_descriptors_per_connection(2);
    let result = listener.serve(router.app(), drain).await;
    drop(watches);
    Ok(result?)
}

async fn models(State(core): State<Arc<Core>>, request: Request) -> Response {
    match identify(&core, request.headers(), request.extensions()) {
        Ok(who) => {
            let snapshot = core.fleet.snapshot();
            let models = snapshot.models().iter().filter(|model| core.policy.may_use(&who, &model.id));
            Json(ModelList::new(models.cloned().collect())).into_response()
        }
        Err(error) => listen::error_response(&error),
    }
}

async fn model(State(core): State<Arc<Core>>, Path(id): Path<String>, request: Request) -> Response {
    let snapshot = core.fleet.snapshot();
    let found = |who| {
        let is_it = |model: &&Model| model.id == id && core.policy.may_use(who, &model.id);
        snapshot.models().iter().find(is_it).cloned()
    };
    match identify(&core, request.headers(), request.extensions()).map(|who| found(&who)) {
        Ok(Some(model)) => Json(model).into_response(),
        Ok(None) => listen::error_response(&ApiError::model_not_found(&id)),
        Err(error) => listen::error_response(&error),
    }
}

/// Ready: a worker serves a model, and no shutdown began.
async fn readyz(State(core): State<Arc<Core>>) -> (StatusCode, &'static str) {
    if core.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    if !core.fleet.snapshot().is_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no worker is ready");
    }
    (StatusCode::OK, "ok")
}

/// The release, as vLLM says it.
async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// The description of the API, generated from the endpoints' rows.
async fn openapi() -> Json<Value> {
    Json(wire::openai::endpoint::openapi(env!("CARGO_PKG_VERSION")))
}

async fn fleet(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    core.views.answer(core.fleet.snapshot(), &headers)
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let mut response = Response::new(Body::from(core.registry.render()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_CONTENT_TYPE));
    response
}

/// The version of [`RouterStatus`].
const STATUS_VERSION: u32 = 1;

/// `GET /status`: the router's own snapshot.
#[derive(Debug, Serialize)]
struct RouterStatus {
    /// The version of these fields; it grows when one changes its meaning or goes.
    status_version: u32,
    version: &'static str,
    ready: bool,
    draining: bool,
    in_flight: usize,
    workers: Vec<WorkerSummary>,
}

#[derive(Debug, Serialize)]
struct WorkerSummary {
    name: String,
    state: WorkerState,
    /// Its release, where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    in_flight: u32,
    models: Vec<ModelSummary>,
}

#[derive(Debug, Serialize)]
struct ModelSummary {
    id: String,
    ready: bool,
    waiting: u32,
    /// True while requests go elsewhere because a probe failed.
    ejected: bool,
}

async fn status(State(core): State<Arc<Core>>) -> Json<RouterStatus> {
    let summary = |worker: &Arc<Worker>| {
        let view = worker.view();
        let model = |served: &crate::worker::ServedModel| {
            let pair = worker.pair(&served.model.id);
            ModelSummary {
                id: served.model.id.clone(),
                ready: served.is_ready,
                waiting: pair.waiting(),
                ejected: pair.is_ejected(),
            }
        };
        WorkerSummary {
            name: worker.name.clone(),
            state: view.state,
            version: view.version.clone(),
            in_flight: worker.in_flight(),
            models: view.models.iter().map(model).collect(),
        }
    };
    Json(RouterStatus {
        status_version: STATUS_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        ready: core.fleet.snapshot().is_ready() && !core.drain.is_draining(),
        draining: core.drain.is_draining(),
        in_flight: core.slots.used(),
        workers: core.fleet.workers().iter().map(summary).collect(),
    })
}
