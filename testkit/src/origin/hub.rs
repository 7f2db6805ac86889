//! The Hugging Face hub's manner: a repository's list of files, and files by revision, the large ones
//! by way of a redirect to another path with their SHA-256 told beforehand. A repository is a folder
//! `org/name`; every revision has the same files.

use super::draw::{mix, name_number};
use super::reply::{Payload, Reply};
use super::request::Request;
use super::shapes::{Problem, Shape};
use super::state::State;
use serde_json::json;

/// Files of this many bytes are redirected like safetensors are.
const LARGE_BYTES: u64 = 10 << 20;

/// Whom a request is for.
#[derive(Debug)]
pub(super) enum Route {
    /// Answered here.
    Reply(Reply),
    /// An object, with headers on top of its own.
    Object(String, Vec<(&'static str, String)>),
}

/// Reads a hub's paths.
pub(super) fn route(state: &State, request: &Request) -> Route {
    // The redirect's target carries its own leave, as signed addresses do.
    if let Some(name) = request.path.strip_prefix("cdn/") {
        return Route::Object(name.to_owned(), Vec::new());
    }
    if let Err(problem) = state.access.check(Shape::Hub, request) {
        return Route::Reply(tell(state, request, &problem));
    }
    let parts: Vec<&str> = request.path.split('/').collect();
    let (org, name) = match parts.as_slice() {
        ["api", "models", org, name, ..] | [org, name, "resolve", ..] => (*org, *name),
        _ => return Route::Reply(tell(state, request, &Problem::new(404, "the hub has no such path"))),
    };
    let repository = format!("{org}/{name}");
    if let Err(problem) = checked(state, request, &repository) {
        return Route::Reply(tell(state, request, &problem));
    }
    match parts.as_slice() {
        ["api", _, _, _] | ["api", _, _, _, "revision", _] => model(state, &repository),
        ["api", _, _, _, "tree", _, folder @ ..] => tree(state, request, &repository, &folder.join("/")),
        [_, _, "resolve", _, file @ ..] if !file.is_empty() => resolve(state, request, &repository, &file.join("/")),
        _ => Route::Reply(tell(state, request, &Problem::new(404, "the hub has no such path"))),
    }
}

/// Lets a request into a repository that exists.
fn checked(state: &State, request: &Request, repository: &str) -> Result<(), Problem> {
    state.access.check_repository(repository, request)?;
    if state.catalogue.names(&format!("{repository}/")).is_empty() {
        return Err(Problem { status: 404, code: Some("RepoNotFound"), message: "Repository not found".into() });
    }
    Ok(())
}

fn tell(state: &State, request: &Request, problem: &Problem) -> Reply {
    Shape::Hub.problem(problem, request, state.answer_id())
}

/// The commit a repository is at: it changes with the seed and with any of its files' tags.
fn commit(state: &State, repository: &str) -> String {
    let names = state.catalogue.names(&format!("{repository}/"));
    let tags = names.iter().filter_map(|name| state.catalogue.find(name).ok().flatten()).map(|object| object.etag);
    let number = tags.fold(mix(state.seed ^ name_number(repository)), |number, tag| mix(number ^ name_number(&tag)));
    format!("{number:016x}{:016x}{:08x}", mix(number), mix(mix(number)) >> 32)
}

fn model(state: &State, repository: &str) -> Route {
    state.books.metadata("hub_revision");
    let prefix = format!("{repository}/");
    let names = state.catalogue.names(&prefix);
    let siblings: Vec<_> = names.iter().map(|name| json!({"rfilename": &name[prefix.len()..]})).collect();
    let sha = commit(state, repository);
    let value = json!({"id": repository, "modelId": repository, "sha": sha, "private": false, "gated": false,
                       "tags": ["safetensors"], "siblings": siblings});
    Route::Reply(Reply::json(200, &value))
}

/// The files of a repository, or of a folder of it; a page at a time where `limit` is given.
fn tree(state: &State, request: &Request, repository: &str, folder: &str) -> Route {
    state.books.metadata("hub_tree");
    let root = format!("{repository}/");
    let folder = if folder.is_empty() { root.clone() } else { format!("{root}{folder}/") };
    let mut entries = Vec::new();
    for name in state.catalogue.names(&folder) {
        match entry(state, &name, &root) {
            Ok(entry) => entries.push(entry),
            Err(error) => return Route::Reply(tell(state, request, &Problem::new(500, error.to_string()))),
        }
    }
    let number = |name: &str| request.parameter(name).and_then(|text| text.parse::<usize>().ok());
    let (from, limit) = (number("cursor").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let to = from.saturating_add(limit).min(entries.len());
    let page = entries.get(from..to).unwrap_or_default();
    let reply = Reply::json(200, &json!(page));
    if to >= entries.len() {
        return Route::Reply(reply);
    }
    let next = format!("</{}?limit={limit}&cursor={to}>; rel=\"next\"", request.path);
    Route::Reply(reply.with("Link", next))
}

fn entry(state: &State, name: &str, root: &str) -> std::io::Result<serde_json::Value> {
    let object = state.catalogue.find(name)?.ok_or(std::io::ErrorKind::NotFound)?;
    let path = &name[root.len()..];
    let oid = object.etag.trim_matches('"');
    if !is_large(path, object.len) {
        return Ok(json!({"type": "file", "path": path, "size": object.len, "oid": oid}));
    }
    let sha256 = state.catalogue.sha256(name, &object)?;
    let lfs = json!({"oid": sha256, "size": object.len, "pointerSize": 134});
    Ok(json!({"type": "file", "path": path, "size": object.len, "oid": oid, "lfs": lfs}))
}

/// Returns true if a file is kept in large file storage.
fn is_large(file: &str, bytes: u64) -> bool {
    file.ends_with(".safetensors") || bytes >= LARGE_BYTES
}

fn resolve(state: &State, request: &Request, repository: &str, file: &str) -> Route {
    let name = format!("{repository}/{file}");
    let commit = ("X-Repo-Commit", commit(state, repository));
    let object = match state.catalogue.find(&name) {
        Ok(Some(object)) => object,
        // Counted as a request for the object that is not there. The answer names the commit that lacks it.
        Ok(None) => return Route::Object(name, vec![commit]),
        Err(error) => return Route::Reply(tell(state, request, &Problem::new(500, error.to_string()))),
    };
    if !is_large(file, object.len) {
        return Route::Object(name, vec![commit]);
    }
    let sha256 = match state.catalogue.sha256(&name, &object) {
        Ok(sha256) => sha256,
        Err(error) => return Route::Reply(tell(state, request, &Problem::new(500, error.to_string()))),
    };
    state.books.metadata("hub_redirect");
    let mut reply = Reply::empty(302)
        .with("Location", format!("/cdn/{}", encoded(&name)))
        .with("X-Linked-Size", object.len.to_string())
        .with("X-Linked-ETag", format!("\"{sha256}\""))
        .with("ETag", format!("\"{sha256}\""))
        .with("Accept-Ranges", "bytes");
    reply.headers.push(commit);
    reply.payload = Payload::Nothing(Some(0));
    Route::Reply(reply)
}

/// A name as a path may hold it.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
