//! The router as a whole: what it is made of, its routes, and how it runs.

use crate::access::{identify, require_key_or_no_page, require_member, require_operator};
use crate::budget::RetryBudget;
use crate::check::{RouterError, addresses, check_fields, discovery_error};
use crate::config::RouterConfig;
use crate::connections::Limits;
use crate::core::{Core, Settings};
use crate::explain::explain;
use crate::fleet::Fleet;
use crate::health;
use crate::ledger::Ledger;
use crate::membership;
use crate::meter::{Metrics, Slots};
use crate::offload::Offload;
use crate::reload;
use crate::reload_status::{ReloadStatus, Reloads};
use crate::serve::{chat, completions, embeddings};
use crate::strikes::Digester;
use crate::support;
use crate::view::Views;
use crate::worker::{Address, State as WorkerState, Worker};
use arc_swap::ArcSwap;
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, body::Body};
use discovery::{Means, Members};
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use listen::{Bodies, CertificateMeters, ClientTls, Drain, Memory};
use parking_lot::Mutex;
use policy::{Identified, Moment, Policy};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, Registry};
use telemetry::names;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::fleet::FLEET_PATH;
use wire::openai::ApiError;
use wire::openai::models::{Model, ModelList};

/// Connections to workers beyond those of requests being answered: idle ones, health checks, probes.
const CONNECTIONS_SPARE: usize = 2_048;

/// How long the start waits for workers to be found. Who comes later is found all the same.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// A router that is configured and not yet listening.
#[derive(Debug, Clone)]
pub struct Router {
    core: Arc<Core>,
    /// The workers that are found.
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
        let ledger = Ledger::open(&config.usage, registry).map_err(RouterError::Usage)?;
        let fleet = Fleet::new(limits(&config, tls.clone()));
        fleet.replace(addresses.clone());
        let core = Core {
            fleet,
            configured: watch::Sender::new(addresses),
            views: Views::default(),
            strikes: Mutex::default(),
            digester: Digester::default(),
            budget: RetryBudget::new(&config.retry, Moment(begun.elapsed())),
            slots: Arc::new(Slots::new(config.in_flight_max, registry)),
            memory: Memory::new(
                config.answers_bytes_max,
                registry.gauge(&names::ROUTER_ANSWER_BYTES).with_label_values::<&str>(&[]),
            ),
            bodies: Bodies::new(&config.listen, registry, "router"),
            offload: Arc::new(Offload::new(config.large_at_once_max, registry)),
            metrics: Arc::new(Metrics::new(registry, &config.policy.annotate_lists)),
            registry: registry.clone(),
            settings: ArcSwap::from_pointee(Settings { policy: Policy::new(&config.policy)?, config }),
            reloads: Reloads::new(registry),
            ledger,
            drain,
            begun,
            tls,
        };
        Ok(Self { core: Arc::new(core), found })
    }

    /// The routes. Outermost layer first: what `listen` gives every process of ours (request id,
    /// log line, panic barrier, OpenAI-shaped 404 and 405). Bodies are bounded where they are
    /// read; time limits belong to the hop to the worker, for only it may take long.
    pub fn app(&self) -> axum::Router {
        let routes = axum::Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(completions))
            .route("/v1/embeddings", post(embeddings))
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
        let settings = core.settings();
        if settings.config.discovery.is_on() {
            let found = self.found.settled(FIRST_LOOK).await;
            let configured = core.configured.borrow().clone();
            core.fleet.replace(membership::addresses(&configured, &found, settings.config.discovery_tls));
        }
        let workers = core.fleet.workers();
        join_all(workers.iter().map(|worker| async move { health::check(core, worker, &mut 0).await })).await;
        core.fleet.rebuild();
    }

    /// Puts another configuration in the place of the one that runs, all of it or nothing; `by` says at whose wish.
    /// Requests that are under way end as they began. The log, `/status` and a metric tell of it.
    ///
    /// # Errors
    /// The field that is wrong, or that only a restart can change: the configuration that runs stays.
    pub fn reload(&self, config: RouterConfig, by: &str) -> Result<(), RouterError> {
        reload::reload(&self.core, config, by)
    }

    /// Records that a configuration could not be read; the one that runs stays.
    pub fn reload_failed(&self, problem: &str, by: &str) {
        self.core.reloads.failed(problem, by);
    }

    /// Waits for the last usage records, once nothing is served any more.
    pub async fn flush(&self) {
        if let Some(ledger) = &self.core.ledger {
            ledger.flush().await;
        }
    }

    /// Watches the workers until the set is dropped.
    #[must_use]
    pub fn watch(&self) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        watches.spawn(health::watch_all(Arc::clone(&self.core)));
        let core = Arc::clone(&self.core);
        watches.spawn(async move { core.fleet.follow().await });
        watches.spawn(membership::follow(Arc::clone(&self.core), self.found.clone()));
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

/// The meters of the files for TLS with workers.
fn certificate_meters(core: &Core) -> CertificateMeters {
    core.registry.begin(&names::ROUTER_CERTIFICATE_RELOADS, &[]);
    let not_after = || core.registry.gauge(&names::ROUTER_CERTIFICATE_NOT_AFTER).with_label_values::<&str>(&[]);
    let reloads = core.registry.counter(&names::ROUTER_CERTIFICATE_RELOADS);
    CertificateMeters {
        not_after: core.settings().config.worker_tls.certificate_file.is_some().then(not_after),
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

async fn models(State(core): State<Arc<Core>>, request: Request) -> Response {
    let settings = core.settings();
    match identify(&core, &settings, request.headers(), request.extensions()) {
        Ok(who) => {
            let snapshot = core.fleet.snapshot();
            let models = snapshot.models().iter().filter(|model| settings.policy.may_use(&who, &model.id));
            Json(ModelList::new(models.cloned().collect())).into_response()
        }
        Err(error) => listen::error_response(&error),
    }
}

async fn model(State(core): State<Arc<Core>>, Path(id): Path<String>, request: Request) -> Response {
    let snapshot = core.fleet.snapshot();
    let settings = core.settings();
    let found = |who: Identified| {
        let is_it = |model: &&Model| model.id == id && settings.policy.may_use(&who, &model.id);
        snapshot.models().iter().find(is_it).cloned()
    };
    match identify(&core, &settings, request.headers(), request.extensions()).map(found) {
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
    config: ReloadStatus,
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
        config: core.reloads.status(),
        workers: core.fleet.workers().iter().map(summary).collect(),
    })
}
