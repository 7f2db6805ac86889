//! Refusals, in the words of the hub's protocol: a status, `X-Error-Code`, `X-Error-Message`.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use loader::{LoadError, SourceError};

/// The hub's word for a file that a repository does not have. Clients remember it by the commit.
pub(super) const ENTRY_NOT_FOUND: &str = "EntryNotFound";
/// The hub's word for a repository that is not there, or not for this caller.
pub(super) const REPOSITORY_NOT_FOUND: &str = "RepoNotFound";
/// The hub's word for a repository whose conditions this caller has not accepted.
const GATED: &str = "GatedRepo";
/// The longest message passed on.
const MESSAGE_BYTES_MAX: usize = 512;
/// The time after which the hub, or a place, may be there again.
const AGAIN: Duration = Duration::from_secs(5);

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The hub's word for it.
    pub(super) code: Option<String>,
    pub(super) message: String,
    /// The commit that a missing file is missing from.
    pub(super) commit: Option<String>,
    retry_after: Option<Duration>,
    /// The file's size, of a range beyond it.
    bytes: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code: None, message, commit: None, retry_after: None, bytes: None }
    }

    pub(super) fn with_code(self, code: &str) -> Self {
        Self { code: Some(code.to_owned()), ..self }
    }

    /// A file that the repository does not have at this commit.
    pub(super) fn no_entry(name: &str, commit: &str) -> Self {
        let refusal = Self::new(StatusCode::NOT_FOUND, format!("there is no `{name}` at this revision"));
        Self { commit: Some(commit.to_owned()), ..refusal.with_code(ENTRY_NOT_FOUND) }
    }

    /// A path that means nothing.
    pub(super) fn unknown_path() -> Self {
        let message = "there is no such path; this is a forebay node, which has the hub's read calls for models and \
                       /models/NAME/FILE";
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A part of the hub that is not here.
    pub(super) fn elsewhere(what: &str) -> Self {
        let message = format!(
            "a forebay node serves files of models, and not {what}; unset HF_ENDPOINT for that, so that the hub itself \
             is asked"
        );
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// The hub cannot be asked.
    pub(super) fn away(why: &str) -> Self {
        let message = format!("{why}, and the cache does not hold what is asked for, or may not give it unasked");
        Self::busy(message)
    }

    /// Too much is under way.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self { retry_after: Some(AGAIN), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// A range beyond a file's end.
    pub(super) fn beyond(bytes: u64) -> Self {
        let refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {bytes} bytes"));
        Self { bytes: Some(bytes), ..refusal }
    }

    /// The refusal that a failed load is.
    pub(super) fn of_load(error: &LoadError, name: &str, commit: &str) -> Self {
        let message = wire::Chain(error).to_string();
        match error {
            LoadError::Ended(error) => Self::of_load(error, name, commit),
            LoadError::Source(SourceError::NotFound { .. }) => Self::no_entry(name, commit),
            LoadError::Source(SourceError::Denied { .. }) => Self::new(StatusCode::FORBIDDEN, message).with_code(GATED),
            LoadError::Source(SourceError::Throttled { .. } | SourceError::Transient { .. })
            | LoadError::Offline { .. } => Self::busy(message),
            LoadError::NoSpace { .. } | LoadError::NoMemory { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, message)
            }
            _ => Self::new(StatusCode::BAD_GATEWAY, message),
        }
    }

    /// The answer. Its body is as the hub writes errors.
    pub(super) fn into_response(self) -> Response {
        let message: String = telemetry::mask(&self.message).chars().filter(|char| !char.is_control()).collect();
        let body = serde_json::json!({ "error": message }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let mut set = |name: &'static str, value: Option<HeaderValue>| {
            value.map(|value| response.headers_mut().insert(name, value));
        };
        set(CONTENT_TYPE.as_str(), Some(HeaderValue::from_static("application/json")));
        set("x-error-code", self.code.and_then(|code| HeaderValue::from_str(&code).ok()));
        set("x-error-message", header_text(&message));
        set("x-repo-commit", self.commit.and_then(|commit| HeaderValue::from_str(&commit).ok()));
        set(RETRY_AFTER.as_str(), self.retry_after.map(|wait| HeaderValue::from(wait.as_secs())));
        set(
            CONTENT_RANGE.as_str(),
            self.bytes.and_then(|bytes| HeaderValue::from_str(&format!("bytes */{bytes}")).ok()),
        );
        let allowed = (self.status == StatusCode::METHOD_NOT_ALLOWED).then(|| HeaderValue::from_static("GET, HEAD"));
        set(ALLOW.as_str(), allowed);
        response
    }
}

/// A message as a header may hold it.
fn header_text(message: &str) -> Option<HeaderValue> {
    let plain = message.chars().map(|char| if char.is_ascii() { char } else { '?' });
    HeaderValue::from_str(&plain.take(MESSAGE_BYTES_MAX).collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_a_header_whatever_it_holds() {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, format!("a\r\nb: ü{}", "x".repeat(2000)));
        let response = refusal.into_response();
        let text = response.headers()["x-error-message"].to_str().expect("plain");
        assert!(text.starts_with("ab: ?x") && text.len() <= MESSAGE_BYTES_MAX, "{text}");
    }

    #[test]
    fn a_missing_file_names_its_commit() {
        let response = Refusal::no_entry("a.json", "c0ffee").into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["x-error-code"], ENTRY_NOT_FOUND);
        assert_eq!(response.headers()["x-repo-commit"], "c0ffee");
    }
}
