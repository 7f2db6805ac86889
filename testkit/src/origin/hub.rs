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
    match parts.as_slice() {
        ["api", "models", org, name] | ["api", "models", org, name, "revision", _] => model(state, request, org, name),
        [org, name, "resolve", _, file @ ..] if !file.is_empty() => {
            resolve(state, request, &format!("{org}/{name}"), &file.join("/"))
        }
        _ => Route::Reply(tell(state, request, &Problem::new(404, "the hub has no such path"))),
    }
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

fn model(state: &State, request: &Request, org: &str, name: &str) -> Route {
    let prefix = format!("{org}/{name}/");
    let names = state.catalogue.names(&prefix);
    if names.is_empty() {
        let code = Some("RepoNotFound");
        return Route::Reply(tell(
            state,
            request,
            &Problem { status: 404, code, message: "Repository not found".into() },
        ));
    }
    let siblings = names.iter().map(|name| json!({"rfilename": &name[prefix.len()..]}));
    let sha = commit(state, &format!("{org}/{name}"));
    let id = format!("{org}/{name}");
    let value =
        json!({"id": id, "modelId": id, "sha": sha, "private": false, "siblings": siblings.collect::<Vec<_>>()});
    Route::Reply(Reply::json(200, &value))
}

fn resolve(state: &State, request: &Request, repository: &str, file: &str) -> Route {
    let name = format!("{repository}/{file}");
    let commit = ("X-Repo-Commit", commit(state, repository));
    let object = match state.catalogue.find(&name) {
        Ok(Some(object)) => object,
        // Counted as a request for the object that is not there.
        Ok(None) => return Route::Object(name, Vec::new()),
        Err(error) => return Route::Reply(tell(state, request, &Problem::new(500, error.to_string()))),
    };
    if !file.ends_with(".safetensors") && object.len < LARGE_BYTES {
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
