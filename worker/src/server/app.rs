//! Routes, layers and the small handlers.

use super::{Server, admin, handle, health, kv_events, tokenize};
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, MatchedPath, Path, RawQuery, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use listen::{Access, Operator, RequestId, common_layers, error_response, key_headers, operator, refuse_pages};
use policy::Presented;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::CONTENT_TYPE as METRICS_TYPE;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use wire::openai::models::{Model, ModelList};
use wire::openai::{ApiError, ENDPOINTS, ErrorKind};
use wire::sse;
use wire::status::WorkerStatus;

/// The longest pause of `/status?watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The interval between two looks for a change.
const WATCH_LOOKS: Duration = Duration::from_millis(250);

/// The application. Behind the key: everything that costs or tells; before it: what probes and
/// scrapers ask.
pub fn app(server: Arc<Server>) -> axum::Router {
    let guarded = endpoints()
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/chat/completions/render", post(tokenize::render_chat))
        .route("/v1/completions/render", post(tokenize::render_completions))
        .route("/v1/models/{*id}", get(model))
        .route_layer(from_fn_with_state(Arc::clone(&server), require_key));
    let telling = axum::Router::new()
        .route("/status", get(status))
        .route("/load", get(load))
        .route("/status/kv-events", get(kv_events::handle))
        .route_layer(from_fn_with_state(Arc::clone(&server), require_key_or_no_page));
    let operators = axum::Router::new()
        .route("/admin/models/{id}/swap", post(admin::swap))
        .route("/admin/flight-recorder", get(admin::flight_recorder))
        .route_layer(from_fn_with_state(Arc::clone(&server), require_operator));
    let open = axum::Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(readyz))
        .route("/health", get(readyz))
        .route("/ping", get(readyz).post(readyz))
        .route("/version", get(version))
        .route("/openapi.json", get(openapi))
        .route("/metrics", get(metrics));
    let routes = guarded.merge(telling).merge(operators).merge(open);
    common_layers(routes.route_layer(from_fn_with_state(Arc::clone(&server), note_access)).with_state(server))
}

/// Leaves requests out of the access log where another role's line tells of them, and has those to the API counted.
async fn note_access(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let access = Access::of(&request);
    if !server.access_log {
        access.hide();
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if let Some(route) = route.filter(|_| request.method() == Method::POST) {
        access.count(server.http.clone(), route);
    }
    next.run(request).await
}

/// The routes of every endpoint's row.
fn endpoints() -> axum::Router<Arc<Server>> {
    let mut router = axum::Router::new();
    for &endpoint in ENDPOINTS {
        for path in endpoint.paths {
            let handler = move |State(server), Extension(RequestId(id)), Extension(access), headers, body| {
                handle::handle(endpoint, server, id, access, headers, body)
            };
            router = router.route(path, post(handler));
        }
    }
    router
}

/// Sequences that wait or run, as vLLM says it.
async fn load(State(server): State<Arc<Server>>) -> Response {
    let loads = server.engines().into_iter().map(|(_, engine)| engine.load());
    let load: u32 = loads.map(|load| load.waiting + load.running).sum();
    Json(serde_json::json!({"server_load": load})).into_response()
}

/// The description of the API, generated from the endpoints' rows.
async fn openapi() -> Response {
    Json(wire::openai::endpoint::openapi(env!("CARGO_PKG_VERSION"))).into_response()
}

/// The release, as vLLM says it.
async fn version() -> Response {
    Json(serde_json::json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

async fn require_key(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    match check_key(&server, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error_response(&error),
    }
}

/// For what tells of the process: without a key to stop it, a page in a browser on this machine could read it.
async fn require_key_or_no_page(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    if is_administrator(&server, &request) {
        return next.run(request).await;
    }
    match check_key(&server, request.headers()) {
        Ok(()) if server.api_key.is_some() => next.run(request).await,
        Ok(()) => refuse_pages(request, next).await,
        Err(error) => error_response(&error),
    }
}

/// For what changes the process or tells its insides: the administrators' key, or the worker's from this machine.
async fn require_operator(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let checked = operator(&request, server.admin_api_key()).and_then(|operator| match operator {
        Operator::Key => Ok(()),
        Operator::Near => check_key(&server, request.headers()),
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error_response(&error),
    }
}

fn is_administrator(server: &Server, request: &Request) -> bool {
    operator(request, server.admin_api_key()) == Ok(Operator::Key)
}

fn check_key(server: &Server, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(wanted) = &server.api_key else { return Ok(()) };
    if wanted.opens_for(Presented::read(key_headers(headers))) {
        return Ok(());
    }
    let message = "this worker requires its key: send `authorization: Bearer KEY`";
    Err(ApiError::new(ErrorKind::InvalidApiKey, message))
}

async fn models(State(server): State<Arc<Server>>) -> Response {
    let models = server.models();
    let names = models
        .iter()
        .flat_map(|model| std::iter::once(&model.id).chain(&server.aliases).map(move |name| (model, name)));
    Json(ModelList::new(names.map(|(model, name)| describe(model, name)).collect())).into_response()
}

async fn model(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    match server.model(Some(&id)) {
        Ok(model) => Json(describe(&model, &id)).into_response(),
        Err(error) => error_response(&error),
    }
}

fn describe(model: &super::ServerModel, name: &str) -> Model {
    let length = u32::try_from(model.engine.max_model_len()).unwrap_or(u32::MAX);
    Model::new(name, model.created_unix_s, Some(length))
}

/// One snapshot; with `?watch`, server-sent events: one when something has changed, at most four a
/// second, and one a second anyway, until the client leaves or the worker drains.
async fn status(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Response {
    let is_watch = query.unwrap_or_default().split('&').any(|part| part.split('=').next() == Some("watch"));
    if !is_watch {
        return Json(server.status()).into_response();
    }
    let mut watch = Watch { server, looks: interval(WATCH_LOOKS), last: None };
    watch.looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let status = watch.next().await;
        let mut bytes = Vec::new();
        // Strings and numbers always serialise.
        sse::encode_data(&mut bytes, &serde_json::to_string(&status).unwrap_or_default());
        let next = (!status.draining).then_some(watch);
        Some((Ok::<_, Infallible>(bytes), next))
    });
    let mut response = Response::new(Body::from_stream(events));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response
}

/// A watcher of the status, and the snapshot that it was sent last.
struct Watch {
    server: Arc<Server>,
    looks: Interval,
    last: Option<(Instant, WorkerStatus)>,
}

impl Watch {
    /// The next snapshot that is worth sending.
    async fn next(&mut self) -> WorkerStatus {
        loop {
            let now = self.looks.tick().await;
            let status = self.server.status();
            let is_news = self
                .last
                .as_ref()
                .is_none_or(|(said, last)| *last != status || now.saturating_duration_since(*said) >= WATCH_EVERY);
            if is_news {
                self.last = Some((now, status.clone()));
                return status;
            }
        }
    }
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    match server.unready() {
        None => "ok\n".into_response(),
        Some(why) => error_response(&ApiError::overloaded(why, Duration::from_secs(1))),
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let mut response = server.registry.render().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}
