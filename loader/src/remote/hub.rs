//! A repository of the Hugging Face hub, or of a mirror that speaks its HTTP API:
//! `hf://ORG/NAME@REVISION`.
//!
//! The revision becomes a commit once, and everything is read from that commit, so nothing can
//! change under a reader. Large files come from a content network: the hub's redirection there is
//! signed and expires; it is kept until then, and asked for anew in the middle of a load.

mod location;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::RANGE;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, LOCATION,
};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;
use wire::digest::Sha256;
use wire::evidence::StoreChecksum;

use super::env::Env;
use super::http::{Client, HttpError, head};
use super::name::{encoded, encoded_whole};
use crate::landing::Landing;
use crate::model_url::is_commit;
use crate::source::{Object, ReadOptions, Source, SourceError, Tag};
use location::Location;
use token::Account;

/// The largest description of a revision that is read: it lists every file of the repository.
const REVISION_BYTES_MAX: usize = 32 << 20;
/// The hub knows no such repository, or does not say so to strangers.
const NO_SUCH_REVISION: &str = "the hub has no such repository or revision; correct the name, or set HF_TOKEN to a token \
                                that may read it if it is private";
/// The most redirections within the hub itself; it has one, from a renamed repository.
const HOPS_MAX: usize = 5;

/// The files of one repository at one commit.
#[derive(Debug)]
pub struct HubSource {
    url: String,
    account: String,
    repository: String,
    revision: String,
    hub: Account,
    client: Client,
    commit: OnceCell<String>,
    /// One entry for each file that was asked for; a model has some hundreds at most.
    locations: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Location>>>>,
}

/// The hub's description of a file.
struct Found {
    object: Object,
    /// The URL of its bytes.
    address: Uri,
}

/// The one thing of interest in the description of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

impl HubSource {
    /// `repository` (`ORG/NAME`) at `revision` (a branch, a tag or a commit). Address and token
    /// come from `env` as the hub's own tools read them (`HF_ENDPOINT`, `HF_TOKEN`, its file).
    ///
    /// # Errors
    /// [`SourceError::Config`]: the endpoint, the token or a name cannot be one.
    pub fn new(repository: &str, revision: &str, env: &Env, client: Client) -> Result<Self, SourceError> {
        let url = format!("hf://{repository}@{revision}");
        let fail = |problem: String| SourceError::Config { url: url.clone(), problem };
        let hub = Account::from_env(env).map_err(fail)?;
        let named = encoded(repository).zip(encoded_whole(revision));
        let (repository, revision) =
            named.ok_or_else(|| fail("no repository or revision has such a name".to_owned()))?;
        let host = hub.endpoint.host_str().unwrap_or_default();
        let account = hub.endpoint.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let (commit, locations) = (OnceCell::new(), Mutex::default());
        Ok(Self { account, repository, revision, hub, client, commit, locations, url })
    }

    /// The commit that the revision is, asked for once.
    ///
    /// # Errors
    /// The hub does not say.
    pub async fn commit(&self) -> Result<&str, SourceError> {
        self.commit.get_or_try_init(|| self.ask_commit()).await.map(String::as_str)
    }

    async fn ask_commit(&self) -> Result<String, SourceError> {
        if is_commit(&self.revision) {
            return Ok(self.revision.clone());
        }
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint(), self.repository, self.revision);
        let name = format!("revision {}", self.revision);
        let request = self.request(Method::GET, &url)?.map(|()| Bytes::new());
        let answer = self.client.send_following(request, REVISION_BYTES_MAX).await;
        let answer = answer.map_err(|error| self.about(error, &name))?;
        if answer.status().as_u16() == 404 {
            return Err(self.config(NO_SUCH_REVISION.to_owned()));
        }
        if !answer.status().is_success() {
            let error = HttpError::refused(&self.account, answer.status(), answer.headers(), answer.body());
            return Err(self.about(error, &name));
        }
        let revision: Option<Revision> = serde_json::from_slice(answer.body()).ok();
        revision.map(|revision| revision.sha).filter(|sha| is_commit(sha)).ok_or_else(|| SourceError::Protocol {
            url: self.url.clone(),
            name,
            problem: "the hub's description of it names no commit".to_owned(),
        })
    }

    /// Asks what a file is and where its bytes are.
    async fn find(&self, name: &str) -> Result<Found, SourceError> {
        let commit = self.commit().await?;
        let path = encoded(name).ok_or_else(|| self.config(format!("`{name}` leads out of the repository")))?;
        let mut url = format!("{}/{}/resolve/{commit}/{path}", self.endpoint(), self.repository);
        for _ in 0..HOPS_MAX {
            let request = self.request(Method::HEAD, &url)?;
            let parts = self.client.head(request, false).await.map_err(|error| self.about(error, name))?;
            if parts.headers.get("x-repo-commit").is_some_and(|other| other != commit) {
                let detail = format!("the hub answers for another commit than {commit}");
                return Err(SourceError::Changed { url: self.url.clone(), name: name.to_owned(), detail });
            }
            let next = parts.status.is_redirection().then(|| self.next(&url, &parts.headers)).flatten();
            match next {
                Some(next) if !parts.headers.contains_key("x-linked-size") && self.is_hub(&next) => url = next.into(),
                Some(next) => return self.found_elsewhere(name, commit, &parts.headers, next.into()).await,
                None => {
                    let bytes = self.length(&parts);
                    let bytes = match bytes {
                        Some(bytes) => bytes,
                        None => self.length_by_reading(name, &url).await?,
                    };
                    return self.found(name, commit, &parts.headers, bytes, url);
                }
            }
        }
        Err(self.config(format!("the hub redirects `{name}` for ever")))
    }

    /// A file whose bytes are at another place. The redirection's own length is none of the file's:
    /// where the hub does not tell it, the place itself is asked.
    async fn found_elsewhere(
        &self,
        name: &str,
        commit: &str,
        headers: &HeaderMap,
        address: String,
    ) -> Result<Found, SourceError> {
        let linked = headers.get("x-linked-size").and_then(|size| size.to_str().ok()?.parse().ok());
        if let Some(bytes) = linked {
            return self.found(name, commit, headers, bytes, address);
        }
        let asked = self.client.head(self.request(Method::HEAD, &address)?, true).await;
        let bytes = match asked.as_ref().ok().and_then(|parts| self.length(parts)) {
            Some(bytes) => bytes,
            // A signed address may be for reading only.
            None => self.length_by_reading(name, &address).await?,
        };
        let mut headers = headers.clone();
        if let Some(etag) = asked.ok().and_then(|mut parts| parts.headers.remove(ETAG)) {
            headers.entry(ETAG).or_insert(etag);
        }
        self.found(name, commit, &headers, bytes, address)
    }

    /// The length that an answer about a file tells; of no other answer it is the file's.
    fn length(&self, parts: &Parts) -> Option<u64> {
        let field = |name: &str| parts.headers.get(name)?.to_str().ok()?.parse().ok();
        field("x-linked-size").or_else(|| field(CONTENT_LENGTH.as_str()).filter(|_| parts.status == StatusCode::OK))
    }

    /// The length of a file, from an answer to a request for its first byte.
    async fn length_by_reading(&self, name: &str, address: &str) -> Result<u64, SourceError> {
        let mut request = self.request(Method::GET, address)?;
        request.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let parts = self.client.head(request, true).await.map_err(|error| self.about(error, name))?;
        let range = parts.headers.get(CONTENT_RANGE).map(|value| value.as_bytes());
        let bytes = match parts.status {
            StatusCode::PARTIAL_CONTENT => range.and_then(head::content_range).and_then(|(_, total)| total),
            StatusCode::RANGE_NOT_SATISFIABLE => range.and_then(head::unsatisfied_range),
            _ => self.length(&parts),
        };
        bytes.ok_or_else(|| self.wrong(name, "the hub does not tell its size"))
    }

    fn found(
        &self,
        name: &str,
        commit: &str,
        headers: &HeaderMap,
        bytes: u64,
        address: String,
    ) -> Result<Found, SourceError> {
        let field = |names: [&str; 2]| names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        let etag = field(["x-linked-etag", ETAG.as_str()]).map(|etag| etag.trim_start_matches("W/"));
        // The entity tag of a large file is its SHA-256; of a small one, git's SHA-1.
        let digest = etag.and_then(|etag| Sha256::from_hex(etag.trim_matches('"')).ok());
        let tag = Tag { etag: etag.map(str::to_owned), version: Some(commit.to_owned()), modified: None };
        let checksum = digest.map(StoreChecksum::Sha256);
        let object = Object { name: name.to_owned(), bytes, tag, checksum };
        let address = address.parse().map_err(|_| self.wrong(name, "the hub redirects to what is no URL"))?;
        Ok(Found { object, address })
    }

    /// The URL of the file's bytes; asked for once at a time, however many readers want it.
    async fn locate(&self, name: &str, location: &tokio::sync::Mutex<Location>) -> Result<Uri, SourceError> {
        let mut location = location.lock().await;
        if let Some(address) = location.address(Instant::now()) {
            return Ok(address.clone());
        }
        let found = self.find(name).await?;
        location.set(found.address.clone(), Instant::now(), SystemTime::now());
        Ok(found.address)
    }

    fn location(&self, name: &str) -> Arc<tokio::sync::Mutex<Location>> {
        Arc::clone(self.locations.lock().entry(name.to_owned()).or_default())
    }

    /// One read at one address; the address's entity tag, once known, must stay what it was.
    async fn read_at(
        &self,
        address: &Uri,
        object: &Object,
        landing: &mut Landing,
        fresh: bool,
        etag: &Mutex<Option<String>>,
    ) -> Result<(), ReadError> {
        // Known tags are compared weakly: what pins the bytes is the commit and the digest.
        let known = etag.lock().as_ref().map(|etag| format!("W/{}", etag.trim_start_matches("W/")));
        let tag = Tag { etag: known, ..Tag::default() };
        let pinned = Object { tag, ..object.clone() };
        let request = self.request(Method::GET, &address.to_string()).map_err(ReadError::Source)?;
        let parts = self.client.read_range(request, &pinned, landing, fresh).await.map_err(ReadError::Http)?;
        if let Some(found) = parts.headers.get(ETAG).and_then(|etag| etag.to_str().ok()) {
            etag.lock().get_or_insert_with(|| found.to_owned());
        }
        Ok(())
    }

    /// A request that brings the token if it goes to the hub itself, and to nobody else.
    fn request(&self, method: Method, url: &str) -> Result<Request<()>, SourceError> {
        let mut request = Request::builder().method(method).uri(url).header(ACCEPT_ENCODING, "identity");
        let to_hub = Url::parse(url).is_ok_and(|url| self.is_hub(&url));
        if let (true, Some(authorization)) = (to_hub, &self.hub.authorization) {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(()).map_err(|_| self.config("no request can be made of its name".to_owned()))
    }

    fn endpoint(&self) -> &str {
        self.hub.endpoint.as_str().trim_end_matches('/')
    }

    fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.hub.endpoint.origin()
    }

    fn next(&self, from: &str, headers: &HeaderMap) -> Option<Url> {
        let next = Url::parse(from).ok()?.join(headers.get(LOCATION)?.to_str().ok()?).ok()?;
        // Never from https to something weaker.
        (next.scheme() == "https" || next.scheme() == self.hub.endpoint.scheme()).then_some(next)
    }

    fn about(&self, error: HttpError, name: &str) -> SourceError {
        let code = if let HttpError::Refused { code, .. } = &error { code.as_deref() } else { None };
        // The hub says 404 of these, too, and it is not the file that is missing.
        if let Some(code @ ("RepoNotFound" | "RevisionNotFound")) = code {
            return self.config(format!("{} ({code})", NO_SUCH_REVISION));
        }
        let gated = matches!(&error, HttpError::Refused { code: Some(code), .. } if code == "GatedRepo");
        let fix = match (gated, &self.hub.authorization) {
            (true, _) => format!(
                "the repository is gated: accept its conditions at {}/{}, and set HF_TOKEN to a token of that account",
                self.endpoint(),
                self.repository
            ),
            (false, None) => "correct the repository's name; if it is private, set HF_TOKEN to a token that may read \
                              it, or log in with the hub's own tools"
                .to_owned(),
            (false, Some(_)) => "correct the repository's name, or set HF_TOKEN to a token that may read it".to_owned(),
        };
        error.about(&self.url, name, &fix)
    }

    fn wrong(&self, name: &str, problem: &str) -> SourceError {
        SourceError::Protocol { url: self.url.clone(), name: name.to_owned(), problem: problem.to_owned() }
    }

    fn config(&self, problem: String) -> SourceError {
        SourceError::Config { url: self.url.clone(), problem }
    }
}

enum ReadError {
    Source(SourceError),
    Http(HttpError),
}

#[async_trait]
impl Source for HubSource {
    fn url(&self) -> &str {
        &self.url
    }

    fn account(&self) -> &str {
        &self.account
    }

    async fn stat(&self, name: &str) -> Result<Object, SourceError> {
        let found = self.find(name).await?;
        self.location(name).lock().await.set(found.address, Instant::now(), SystemTime::now());
        Ok(found.object)
    }

    async fn read(&self, object: &Object, landing: &mut Landing, options: ReadOptions) -> Result<(), SourceError> {
        let name = &object.name;
        let commit = self.commit().await?;
        if object.tag.version.as_deref() != Some(commit) {
            let detail = format!("from commit {} to {commit}", object.tag.version.as_deref().unwrap_or("unknown"));
            return Err(SourceError::Changed { url: self.url.clone(), name: name.clone(), detail });
        }
        let location = self.location(name);
        let etag = Arc::clone(&location.lock().await.etag);
        let mut renewed = false;
        while landing.remaining() > 0 {
            let address = self.locate(name, &location).await?;
            let outcome = self.read_at(&address, object, landing, options.fresh_connection, &etag).await;
            match outcome {
                Ok(()) => {}
                // An address that has expired is refused; one that is new is refused for a reason.
                Err(ReadError::Http(error)) if !renewed && matches!(error.status(), Some(400 | 401 | 403 | 410)) => {
                    location.lock().await.refused(&address);
                    renewed = true;
                }
                Err(ReadError::Http(error)) => return Err(self.about(error, name)),
                Err(ReadError::Source(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
