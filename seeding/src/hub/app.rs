//! The node's HTTP application: health, metrics, status, and a fallback that reads the hub's paths itself, since a
//! revision in them may hold encoded slashes.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use listen::{Peer, common_layers, key_headers, refuse_pages};
use loader::is_commit;
use policy::Presented;
use serde_json::Value;
use std::time::Instant;
use telemetry::metrics::CONTENT_TYPE as METRICS_TYPE;

use super::answer::{self, Head, Part};
use super::caller::Caller;
use super::granted::Asked;
use super::node::Node;
use super::path::{self, Resource};
use super::refusal::Refusal;
use super::status::Status;
use super::upstream::{No, sha_of};

/// The application. A page in a browser on this machine is refused, whatever name it gave this machine.
pub fn app(node: Arc<Node>) -> axum::Router {
    let telling =
        axum::Router::new().route("/status", get(status)).route("/", any(files)).route("/{*path}", any(files));
    let open = axum::Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/health", get(ready))
        .route("/metrics", get(metrics));
    common_layers(telling.route_layer(from_fn(refuse_pages)).merge(open).with_state(node))
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(node): State<Arc<Node>>) -> Response {
    if node.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    "ok\n".into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let mut response = node.registry.render().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

async fn status(State(node): State<Arc<Node>>, request: Request) -> Response {
    match operators_only(&node, &request.into_parts().0) {
        Ok(()) => Json(Status::of(&node)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// A request for anything that is not the node's own.
async fn files(State(node): State<Arc<Node>>, request: Request) -> Response {
    // A body, if there is one, is none of ours.
    let request = request.into_parts().0;
    let resource = path::parse(request.uri.path());
    let call = match &resource {
        Some(Resource::Info { .. }) => "info",
        Some(Resource::Tree { .. }) => "tree",
        Some(Resource::File { .. }) => "file",
        Some(Resource::Plain { .. }) => "plain",
        Some(Resource::Elsewhere(_)) | None => "other",
    };
    let answered = match resource {
        _ if !matches!(request.method, Method::GET | Method::HEAD) => {
            Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this node is read only; ask with GET or HEAD"))
        }
        None => Err(Refusal::unknown_path()),
        Some(Resource::Elsewhere(what)) => Err(Refusal::elsewhere(what)),
        Some(Resource::Info { repository, revision }) => info(&node, &request, &repository, &revision).await,
        Some(Resource::Tree { repository, revision, folder }) => {
            tree(&node, &request, &repository, &revision, &folder).await
        }
        Some(Resource::File { repository, revision, name }) => {
            file(&node, &request, &Asked { repository, revision, name }).await
        }
        Some(Resource::Plain { model, file }) => plain(&node, &request, model.as_deref(), file.as_deref()),
    };
    let response = answered.unwrap_or_else(Refusal::into_response);
    node.meters.request(call, response.status().as_u16());
    response
}

/// A file of the hub.
async fn file(node: &Arc<Node>, request: &Parts, asked: &Asked) -> Result<Response, Refusal> {
    let caller = Caller::of(&request.headers)?;
    let is_head = request.method == Method::HEAD;
    let granted = node.find(&caller, asked, !is_head).await?;
    let head = Head::of(&granted);
    let part = head.part(&request.method, &request.headers)?;
    if is_head || part == Part::Unchanged {
        return Ok(head.response(&part, Body::empty()));
    }
    let (flight, file) = node.open(&caller, &granted).await?;
    if file.content.len() != head.bytes() {
        let message =
            format!("the hub says that `{}` has {} bytes, and it has {}", asked.name, head.bytes(), file.content.len());
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, message));
    }
    let body = answer::body(file.content, &part, node.sending(flight)?, node.meters.bytes.clone());
    Ok(head.response(&part, body))
}

/// The description of a revision.
async fn info(node: &Node, request: &Parts, repository: &str, revision: &str) -> Result<Response, Refusal> {
    let caller = Caller::of(&request.headers)?;
    let query = request.uri.query();
    let asked = match node.is_offline() {
        true => Err(No::Away("this node is offline".to_owned())),
        false => node.upstream.info(&caller, repository, revision, query).await,
    };
    let value = match asked {
        Ok(value) => {
            note_info(node, repository, revision, query, &value);
            value
        }
        Err(No::Refused(refusal)) => return Err(refusal),
        Err(No::Away(why)) => remembered(node, &caller, repository, revision, &why, |commit| commit.info.clone())?,
    };
    let mut response = Json(&value).into_response();
    let commit = sha_of(&value).and_then(|commit| HeaderValue::from_str(&commit).ok());
    commit.map(|commit| response.headers_mut().insert("x-repo-commit", commit));
    Ok(response)
}

fn note_info(node: &Node, repository: &str, revision: &str, query: Option<&str>, value: &Value) {
    // A query may leave fields out.
    let Some(commit) = sha_of(value).filter(|_| query.is_none_or(|query| !query.contains("expand"))) else { return };
    node.notes.note(repository, Instant::now(), |noted| {
        noted.learn(revision, &commit).info = Some(value.clone());
    });
}

/// The files of a folder of a repository.
async fn tree(
    node: &Node,
    request: &Parts,
    repository: &str,
    revision: &str,
    folder: &str,
) -> Result<Response, Refusal> {
    let caller = Caller::of(&request.headers)?;
    let query = request.uri.query();
    let is_whole = folder.is_empty() && query.is_some_and(|query| query.split('&').any(is_recursive));
    let asked = match node.is_offline() {
        true => Err(No::Away("this node is offline".to_owned())),
        false => node.upstream.tree(&caller, repository, revision, folder, query).await,
    };
    let entries = match asked {
        Ok(entries) => {
            if is_whole {
                note_tree(node, repository, revision, &entries);
            }
            entries
        }
        Err(No::Refused(refusal)) => return Err(refusal),
        Err(No::Away(why)) if is_whole => {
            remembered(node, &caller, repository, revision, &why, |commit| commit.tree.clone())?
        }
        Err(No::Away(why)) => return Err(Refusal::away(&why)),
    };
    Ok(Json(entries).into_response())
}

fn is_recursive(parameter: &str) -> bool {
    matches!(parameter.to_ascii_lowercase().as_str(), "recursive=true" | "recursive=1" | "recursive")
}

fn note_tree(node: &Node, repository: &str, revision: &str, entries: &[Value]) {
    // The answer names no commit.
    if is_commit(revision) {
        node.notes.note(repository, Instant::now(), |noted| {
            noted.learn(revision, revision).tree = Some(entries.to_vec());
        });
    }
}

/// The notes about a commit, while the hub cannot be asked.
fn remembered<T>(
    node: &Node,
    caller: &Caller,
    repository: &str,
    revision: &str,
    why: &str,
    read: impl FnOnce(&super::notes::Commit) -> Option<T>,
) -> Result<T, Refusal> {
    let now = Instant::now();
    let may_read = node.may_read_unasked(caller, repository, now);
    let noted = node.notes.read(repository, now, |noted| {
        let commit = noted.commit_of(revision).and_then(|commit| noted.commit(&commit).cloned());
        (noted.is_public, commit)
    });
    let (is_public, commit) = noted;
    let found = commit.as_ref().filter(|_| is_public || may_read).and_then(read);
    found.ok_or_else(|| Refusal::away(why))
}

/// Models that the operator named.
fn plain(node: &Node, request: &Parts, model: Option<&str>, file: Option<&str>) -> Result<Response, Refusal> {
    operators_only(node, request)?;
    let Some(name) = model else {
        return Ok(Json(serde_json::json!({ "models": node.plain.shown() })).into_response());
    };
    let unknown = || {
        Refusal::new(StatusCode::NOT_FOUND, format!("this node was given no model `{name}`; GET /models lists them"))
    };
    let model = node.plain.get(name).ok_or_else(unknown)?;
    let waiting = || Refusal::busy(format!("`{name}` is not there yet; GET /models says why"));
    let flight = model.flight().ok_or_else(waiting)?;
    let Some(file) = file else {
        let list = flight.files().map(|(name, file)| serde_json::json!({"name": name, "bytes": file.content.len()}));
        return Ok(Json(serde_json::json!({ "files": list.collect::<Vec<_>>() })).into_response());
    };
    let missing =
        || Refusal::new(StatusCode::NOT_FOUND, format!("`{name}` has no file `{file}`; GET /models/{name} lists them"));
    let found = flight.file(file).cloned().ok_or_else(missing)?;
    let head = Head::plain(found.content.len(), found.etag);
    let part = head.part(&request.method, &request.headers)?;
    if request.method == Method::HEAD || part == Part::Unchanged {
        return Ok(head.response(&part, Body::empty()));
    }
    let body = answer::body(found.content, &part, node.sending(flight)?, node.meters.bytes.clone());
    Ok(head.response(&part, body))
}

/// Lets in who is on this machine, and who brings the node's key.
fn operators_only(node: &Node, request: &Parts) -> Result<(), Refusal> {
    let peer = request.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    let has_key = |headers: &HeaderMap| {
        node.api_key.as_ref().is_some_and(|key| key.opens_for(Presented::read(key_headers(headers))))
    };
    if peer.is_some_and(|peer| peer.is_loopback()) || has_key(&request.headers) {
        return Ok(());
    }
    let message = "from other machines this wants the node's key: set node.api_key, and send it as a bearer token";
    Err(Refusal::new(StatusCode::FORBIDDEN, message))
}
