//! Answers with files: whole, in part or by their heads alone, as they are, never encoded.

use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use prometheus::IntCounter;
use std::ops::Range;

use super::content::Content;
use super::granted::Granted;
use super::node::Sending;
use super::range::{self, Wanted};
use super::refusal::Refusal;

/// A file as a client sees it before any of its bytes.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: u64,
    etag: Option<String>,
    /// Of a file of the hub: the commit, and the tag and size that a large file has there.
    commit: Option<String>,
    is_large: bool,
}

/// The part of a file that an answer has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Some(Range<u64>),
    /// The client has it.
    Unchanged,
}

impl Head {
    /// The head of a file of the hub.
    pub(super) fn of(granted: &Granted) -> Self {
        let facts = &granted.facts;
        let (commit, is_large) = (Some(granted.commit.clone()), facts.sha256.is_some());
        Self { bytes: facts.bytes, etag: facts.etag.clone(), commit, is_large }
    }

    /// The head of a plain file.
    pub(super) fn plain(bytes: u64, etag: Option<String>) -> Self {
        Self { bytes, etag, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The part that a request wants. A `HEAD` wants the whole file's head.
    ///
    /// # Errors
    /// 416 for a range beyond the file's end.
    pub(super) fn part(&self, method: &Method, headers: &HeaderMap) -> Result<Part, Refusal> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let etag = self.etag.as_deref().unwrap_or_default();
        if text(IF_NONE_MATCH).is_some_and(|list| range::names(list, etag)) {
            return Ok(Part::Unchanged);
        }
        let counts = method == Method::GET && text(IF_RANGE).is_none_or(|tag| range::holds(tag, etag));
        match text(RANGE).filter(|_| counts).map(|text| range::wanted(text, self.bytes)) {
            None | Some(Wanted::Whole) => Ok(Part::Whole),
            Some(Wanted::Part(range)) => Ok(Part::Some(range)),
            Some(Wanted::Nothing) => Err(Refusal::beyond(self.bytes)),
        }
    }

    /// The answer without its bytes.
    pub(super) fn response(&self, part: &Part, body: Body) -> Response {
        let mut response = Response::new(body);
        let (status, bytes) = match part {
            Part::Whole => (StatusCode::OK, Some(self.bytes)),
            Part::Some(range) => (StatusCode::PARTIAL_CONTENT, Some(range.end - range.start)),
            Part::Unchanged => (StatusCode::NOT_MODIFIED, None),
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: Option<String>| {
            let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
            value.map(|value| headers.insert(name, value));
        };
        set(ETAG.as_str(), self.etag.clone());
        set("x-repo-commit", self.commit.clone());
        if self.is_large {
            set("x-linked-etag", self.etag.clone());
            set("x-linked-size", Some(self.bytes.to_string()));
        }
        set(CONTENT_LENGTH.as_str(), bytes.map(|bytes| bytes.to_string()));
        if let Part::Some(range) = part {
            set(CONTENT_RANGE.as_str(), Some(format!("bytes {}-{}/{}", range.start, range.end - 1, self.bytes)));
        }
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response
    }
}

/// The bytes of a part, sent as they land; `sending` lives as long as the body does.
pub(super) fn body(content: Content, part: &Part, sending: Sending, counter: IntCounter) -> Body {
    let range = match part {
        Part::Whole => 0..content.len(),
        Part::Some(range) => range.clone(),
        Part::Unchanged => return Body::empty(),
    };
    let pieces = content.stream(range).map(move |piece| {
        let _sending = &sending;
        match &piece {
            Ok(bytes) => counter.inc_by(bytes.len() as u64),
            Err(error) => tracing::warn!(cause = %wire::Chain(error), "an answer ends before its end"),
        }
        piece
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn head() -> Head {
        let etag = Some("\"e\"".to_owned());
        Head { bytes: 10, etag, commit: Some("c".into()), is_large: true }
    }

    fn part(method: Method, fields: &[(HeaderName, &'static str)]) -> Result<Part, StatusCode> {
        let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        head().part(&method, &fields.collect()).map_err(|refusal| refusal.status)
    }

    #[test]
    fn a_part_is_what_range_and_conditions_say() {
        assert_eq!(part(Method::GET, &[]), Ok(Part::Whole));
        assert_eq!(part(Method::GET, &[(RANGE, "bytes=4-")]), Ok(Part::Some(4..10)));
        assert_eq!(part(Method::HEAD, &[(RANGE, "bytes=4-")]), Ok(Part::Whole));
        assert_eq!(part(Method::GET, &[(RANGE, "bytes=10-")]), Err(StatusCode::RANGE_NOT_SATISFIABLE));
        assert_eq!(part(Method::GET, &[(RANGE, "bytes=4-"), (IF_RANGE, "\"e\"")]), Ok(Part::Some(4..10)));
        assert_eq!(part(Method::GET, &[(RANGE, "bytes=4-"), (IF_RANGE, "\"f\"")]), Ok(Part::Whole));
        assert_eq!(part(Method::GET, &[(IF_NONE_MATCH, "W/\"e\"")]), Ok(Part::Unchanged));
    }

    #[test]
    fn an_answer_names_the_clients_blob_and_no_other_way_to_it() {
        let response = head().response(&Part::Some(4..10), Body::empty());
        let headers = response.headers();
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        for (name, value) in [
            ("etag", "\"e\""),
            ("x-linked-etag", "\"e\""),
            ("x-linked-size", "10"),
            ("x-repo-commit", "c"),
            ("content-length", "6"),
            ("content-range", "bytes 4-9/10"),
            ("accept-ranges", "bytes"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        let leads_elsewhere =
            |name: &HeaderName| name.as_str().starts_with("x-xet") || name == "link" || name == "location";
        assert!(!headers.keys().any(leads_elsewhere));
    }
}
