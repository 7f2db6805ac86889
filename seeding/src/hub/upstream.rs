//! The hub behind the node, asked as a caller.
//!
//! It knows the hub's calls and headers. What an answer is worth, and for how long, is decided elsewhere.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LINK, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use loader::is_commit;
use loader::remote::http::{Client, HttpError, error_code};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::{Host, Url};
use wire::digest::Sha256;

use super::caller::Caller;
use super::error::NodeError;
use super::notes::Facts;
use super::path::{self, Resource};
use super::refusal::{ENTRY_NOT_FOUND, REPOSITORY_NOT_FOUND, Refusal};

/// The public hub.
const PUBLIC: &str = "https://huggingface.co";
/// The most redirections within the hub: from a renamed repository, and to where it keeps small files.
const HOPS_MAX: usize = 5;
/// The largest description of a revision or page of a tree; it lists every file.
const DESCRIPTION_BYTES_MAX: usize = 32 << 20;
/// The most pages of a tree. The hub's have a thousand entries.
const PAGES_MAX: usize = 100;
/// The most entries of a tree.
const ENTRIES_MAX: usize = 100_000;
/// The largest body of an answer to a `HEAD` or an error that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// The longest query passed on.
const QUERY_BYTES_MAX: usize = 1024;

/// The hub.
#[derive(Debug)]
pub(super) struct Upstream {
    endpoint: Url,
    client: Client,
    places: Semaphore,
    patience: Duration,
    /// A token is not sent in the clear beyond this machine.
    takes_tokens: bool,
}

/// A file as the hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The repository's name now; it may have been renamed.
    pub(super) repository: String,
    pub(super) commit: String,
    pub(super) name: String,
    /// None where the hub does not tell the file's size.
    pub(super) facts: Option<Facts>,
}

/// The hub's answers that bring nothing.
#[derive(Debug)]
pub(super) enum No {
    /// It said so.
    Refused(Refusal),
    /// It could not be asked, or asked us to come back later: the reason.
    Away(String),
}

impl Upstream {
    /// The hub at `endpoint`, else at `HF_ENDPOINT` (`from_env`), else the public one.
    ///
    /// # Errors
    /// [`NodeError::Endpoint`]: it is no address.
    pub(super) fn new(
        endpoint: Option<&str>,
        from_env: Option<&str>,
        client: Client,
        places: usize,
        patience: Duration,
    ) -> Result<Self, NodeError> {
        let text = endpoint.or(from_env).unwrap_or(PUBLIC).trim_end_matches('/');
        // What stands before an `@` may be a secret.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let wrong = |problem| NodeError::Endpoint { endpoint: shown.to_owned(), problem };
        let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("is no http:// or https:// URL"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("holds a user or a query"));
        }
        let takes_tokens = url.scheme() == "https" || is_loopback(&url);
        Ok(Self { endpoint: url, client, places: Semaphore::new(places), patience, takes_tokens })
    }

    /// Its address, without a slash at the end.
    pub(super) fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    pub(super) fn url(&self) -> &Url {
        &self.endpoint
    }

    /// Asks what a file is, as the caller: the hub's yes is the caller's right to read it.
    pub(super) async fn look(
        &self,
        caller: &Caller,
        repository: &str,
        revision: &str,
        name: &str,
    ) -> Result<Found, No> {
        let mut repository = repository.to_owned();
        let mut url = self.file(&repository, revision, name)?;
        for _ in 0..HOPS_MAX {
            let answer = self.ask(Method::HEAD, &url, caller).await?;
            let next = answer.status().is_redirection().then(|| self.next(&url, answer.headers())).flatten();
            match next {
                Some(next) if self.is_hub(&next) && !answer.headers().contains_key("x-linked-size") => {
                    if let Some(Resource::File { repository: renamed, .. }) = path::parse(next.path()) {
                        repository = renamed;
                    }
                    url = next;
                }
                // The bytes are at another place; what they are is said here.
                Some(_) => return self.found(caller, repository, revision, name, answer.headers(), false).await,
                None if answer.status() == StatusCode::OK => {
                    return self.found(caller, repository, revision, name, answer.headers(), true).await;
                }
                None => return Err(self.no(&answer)),
            }
        }
        Err(No::Refused(Refusal::new(StatusCode::BAD_GATEWAY, format!("the hub redirects `{name}` for ever"))))
    }

    /// The description of a revision, without what would lead a client past this node.
    pub(super) async fn info(
        &self,
        caller: &Caller,
        repository: &str,
        revision: &str,
        query: Option<&str>,
    ) -> Result<Value, No> {
        let parts: Vec<&str> = repository.split('/').collect();
        let mut url = self.at(&[&["api", "models"], &parts[..], &["revision", revision]].concat())?;
        set_query(&mut url, query)?;
        let answer = self.ask(Method::GET, &url, caller).await?;
        Ok(without_shortcuts(self.json(&answer)?))
    }

    /// The files of a folder of a repository, all pages of them.
    pub(super) async fn tree(
        &self,
        caller: &Caller,
        repository: &str,
        revision: &str,
        folder: &str,
        query: Option<&str>,
    ) -> Result<Vec<Value>, No> {
        let parts: Vec<&str> = repository.split('/').collect();
        let folders: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        let mut url = self.at(&[&["api", "models"], &parts[..], &["tree", revision], &folders[..]].concat())?;
        set_query(&mut url, query)?;
        let mut entries = Vec::new();
        for _ in 0..PAGES_MAX {
            let answer = self.ask(Method::GET, &url, caller).await?;
            let Value::Array(page) = without_shortcuts(self.json(&answer)?) else { return Err(malformed()) };
            entries.extend(page);
            if entries.len() > ENTRIES_MAX {
                break;
            }
            match next_page(answer.headers()).and_then(|next| url.join(&next).ok()) {
                Some(next) if self.is_hub(&next) => url = next,
                _ => return Ok(entries),
            }
        }
        let message = format!("the repository has more than {ENTRIES_MAX} files; ask for a folder of it");
        Err(No::Refused(Refusal::new(StatusCode::BAD_GATEWAY, message)))
    }

    async fn found(
        &self,
        caller: &Caller,
        repository: String,
        revision: &str,
        name: &str,
        headers: &HeaderMap,
        is_here: bool,
    ) -> Result<Found, No> {
        let field = |name: &str| headers.get(name)?.to_str().ok();
        let commit = match field("x-repo-commit").filter(|commit| is_commit(commit)) {
            Some(commit) => commit.to_owned(),
            None if is_commit(revision) => revision.to_owned(),
            None => {
                let info = self.info(caller, &repository, revision, None).await?;
                sha_of(&info).ok_or_else(malformed)?
            }
        };
        let length = field(CONTENT_LENGTH.as_str()).filter(|_| is_here);
        let bytes = field("x-linked-size").or(length).and_then(|text| text.parse().ok());
        let etag = field("x-linked-etag").or_else(|| field(ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").to_owned());
        // The tag of a large file is its SHA-256; of a small one, git's SHA-1.
        let sha256 = etag.as_deref().and_then(|etag| Sha256::from_hex(etag.trim_matches('"')).ok());
        let facts = bytes.map(|bytes| Facts { bytes, etag, sha256 });
        Ok(Found { repository, commit, name: name.to_owned(), facts })
    }

    /// One question, within its time. Redirections of a `GET` are followed; those of a `HEAD` are answers.
    async fn ask(&self, method: Method, url: &Url, caller: &Caller) -> Result<Response<Bytes>, No> {
        let mut request = Request::builder().method(&method).uri(url.as_str()).header(ACCEPT_ENCODING, "identity");
        match caller.authorization() {
            Some(authorization) if self.takes_tokens => request = request.header(AUTHORIZATION, authorization),
            Some(_) => {
                let message = format!(
                    "the hub is at {}, plain HTTP beyond this machine: a token is not sent there; use https://",
                    self.endpoint()
                );
                return Err(No::Refused(Refusal::new(StatusCode::FORBIDDEN, message)));
            }
            None => {}
        }
        let unsaid = |_| No::Refused(Refusal::unknown_path());
        let request = request.body(Bytes::new()).map_err(unsaid)?;
        let asking = async {
            let _place = self.places.acquire().await;
            match method {
                Method::HEAD => self.client.send(request, ERROR_BYTES_MAX).await,
                _ => self.client.send_following(request, DESCRIPTION_BYTES_MAX).await,
            }
        };
        match tokio::time::timeout(self.patience, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unanswered(&error)),
            Err(_) => Err(No::Away(format!("the hub did not answer within {} ms", self.patience.as_millis()))),
        }
    }

    fn json(&self, answer: &Response<Bytes>) -> Result<Value, No> {
        if answer.status() != StatusCode::OK {
            return Err(self.no(answer));
        }
        serde_json::from_slice(answer.body()).map_err(|_| malformed())
    }

    fn unanswered(&self, error: &HttpError) -> No {
        No::Away(format!("the hub cannot be asked ({})", wire::Chain(error)))
    }

    /// The hub's no: an answer to pass on, or a reason to come back later.
    fn no(&self, answer: &Response<Bytes>) -> No {
        let status = answer.status();
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            return No::Away(format!("the hub answered {}", status.as_u16()));
        }
        let headers = answer.headers();
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let message = field("x-error-message").map_or_else(|| said(answer.body(), status), str::to_owned);
        // What is neither an answer nor an error is the hub's fault.
        let status = if status.is_client_error() { status } else { StatusCode::BAD_GATEWAY };
        let mut refusal = Refusal::new(status, message);
        refusal.code = error_code(headers, b"");
        if refusal.code.as_deref() == Some(ENTRY_NOT_FOUND) {
            refusal.commit = field("x-repo-commit").filter(|commit| is_commit(commit)).map(str::to_owned);
        }
        No::Refused(refusal)
    }

    fn file(&self, repository: &str, revision: &str, name: &str) -> Result<Url, No> {
        let (parts, names): (Vec<&str>, Vec<&str>) = (repository.split('/').collect(), name.split('/').collect());
        self.at(&[&parts[..], &["resolve", revision], &names[..]].concat())
    }

    /// The URL of these segments; each is encoded whole.
    fn at(&self, segments: &[&str]) -> Result<Url, No> {
        let mut url = self.endpoint.clone();
        let base = url.path_segments_mut();
        base.map_err(|()| No::Refused(Refusal::unknown_path()))?.pop_if_empty().extend(segments);
        Ok(url)
    }

    fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    fn next(&self, from: &Url, headers: &HeaderMap) -> Option<Url> {
        from.join(headers.get(LOCATION)?.to_str().ok()?).ok()
    }
}

impl No {
    /// Returns true if the hub says that this repository is not for this caller.
    pub(super) fn is_about_repository(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let is_missing = refusal.code.as_deref() == Some(REPOSITORY_NOT_FOUND);
        is_missing || matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }
}

/// The commit in a description.
pub(super) fn sha_of(info: &Value) -> Option<String> {
    info.get("sha").and_then(Value::as_str).filter(|sha| is_commit(sha)).map(str::to_owned)
}

fn malformed() -> No {
    No::Refused(Refusal::new(StatusCode::BAD_GATEWAY, "the hub's answer is not what its protocol says"))
}

/// The words of an error's body.
fn said(body: &[u8], status: StatusCode) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let words = value.as_ref().and_then(|value| value.get("error")?.as_str());
    words.map_or_else(|| format!("the hub answered {}", status.as_u16()), str::to_owned)
}

/// Passes a client's query on, if it is a plain one.
fn set_query(url: &mut Url, query: Option<&str>) -> Result<(), No> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(()) };
    let is_plain = query.len() <= QUERY_BYTES_MAX && query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_plain {
        return Err(No::Refused(Refusal::new(StatusCode::BAD_REQUEST, "the query is too long, or not one")));
    }
    url.set_query(Some(query));
    Ok(())
}

/// The next page of a listing (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|text| {
        let (target, parameters) = text.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |part: &str| matches!(part.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then(|| target.to_owned())
    })
}

/// Removes everything about the hub's other way of fetching bytes (Xet): a client that is told of it takes it.
fn without_shortcuts(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.to_ascii_lowercase().starts_with("xet"));
            fields.values_mut().for_each(|field| *field = without_shortcuts(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_shortcuts(item.take())),
        _ => {}
    }
    value
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use loader::remote::http::HttpConfig;
    use serde_json::json;

    fn upstream(endpoint: &str) -> Result<Upstream, NodeError> {
        let client = Client::new(&HttpConfig::default()).expect("a client");
        Upstream::new(Some(endpoint), None, client, 1, Duration::from_secs(1))
    }

    #[test]
    fn an_endpoint_is_a_plain_address() {
        for wrong in ["hub.example", "ftp://hub", "https://user:secret@hub", "https://hub/?token=x"] {
            let error = upstream(wrong).expect_err("refused").to_string();
            assert!(error.contains("node.hub_endpoint"), "{error}");
        }
        let hub = upstream("https://hub.example/base/").expect("an address");
        let url = hub.file("org/name", "refs/pr/1", "a b/c?.json").unwrap_or_else(|_| panic!("a URL"));
        assert_eq!(url.as_str(), "https://hub.example/base/org/name/resolve/refs%2Fpr%2F1/a%20b/c%3F.json");
    }

    #[test]
    fn tokens_stay_off_plain_lines() {
        let takes = |endpoint: &str| upstream(endpoint).expect("an address").takes_tokens;
        assert!(takes("https://hub.example") && takes("http://127.0.0.1:8000") && takes("http://[::1]:8000"));
        assert!(!takes("http://hub.example") && !takes("http://10.0.0.1"));
    }

    #[test]
    fn a_listing_says_nothing_of_xet() {
        let given = json!([{"path": "a", "xetHash": "x", "lfs": {"oid": "o", "xetEnabled": true}}]);
        assert_eq!(without_shortcuts(given), json!([{"path": "a", "lfs": {"oid": "o"}}]));
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let link = |text: &'static str| next_page(&HeaderMap::from_iter([(LINK, HeaderValue::from_static(text))]));
        assert_eq!(link("<https://hub/x?cursor=1>; rel=\"next\"").as_deref(), Some("https://hub/x?cursor=1"));
        assert_eq!(link("<https://hub/x>; rel=\"xet-auth\""), None);
        assert_eq!(link("next"), None);
    }
}
