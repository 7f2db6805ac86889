//! The API server: one page, or one watch. Every read is bounded, in bytes and in time.

use crate::config::{ConfigError, DiscoveryConfig, Service};
use crate::http::{HttpError, Open, Server};
use crate::kubernetes::account::{self, Account, AccountError};
use crate::kubernetes::json::{self, JsonError};
use crate::kubernetes::reflector::{Heard, Page};
use crate::kubernetes::slices::Named;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// The slices of one page: at most 1.5 MB each, which is the most that Kubernetes stores as one object.
const PAGE_SLICES: u32 = 16;
/// The largest page.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// The longest line of a watch: one slice.
const LINE_BYTES_MAX: usize = 2 << 20;
/// The longest token of a page, and the longest version, that is sent back.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// How much later than it was asked to a server may end a watch.
const WATCH_GRACE: Duration = Duration::from_secs(10);

/// Errors of asking the API server.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("finding the API server")]
    Account(#[source] AccountError),
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("asking the API server for EndpointSlices")]
    Http(#[from] HttpError),
    #[error("asking the API server for EndpointSlices: no answer within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("the API server answered {status}{hint}")]
    Status { status: StatusCode, hint: &'static str },
    #[error("reading a watch of EndpointSlices")]
    Read(#[source] hyper::Error),
    #[error("reading a watch of EndpointSlices: a line has more than {LINE_BYTES_MAX} bytes")]
    Line,
    #[error("the API server ended a watch at once")]
    Brief,
    #[error("the API server's page token or version is longer than {TOKEN_BYTES_MAX} bytes")]
    Token,
    #[error("reading EndpointSlices")]
    Json(#[source] JsonError),
    #[error("reading a change of EndpointSlices")]
    Change(#[source] JsonError),
}

impl ApiError {
    /// True for a version or a token that the server has forgotten: that happens, and is no failure.
    pub(crate) fn is_expired(&self) -> bool {
        matches!(
            self,
            Self::Status { status: StatusCode::GONE, .. } | Self::Change(JsonError::Status { code: 410, .. })
        )
    }

    /// True if only a new list helps: after a change that cannot be read, the watch would bring it again.
    pub(crate) fn wants_list(&self) -> bool {
        self.is_expired() || matches!(self, Self::Change(JsonError::Json(_)) | Self::Line | Self::Token)
    }
}

/// The API server, for one Service.
#[derive(Debug)]
pub(crate) struct Api {
    account: Account,
    server: Server,
    named: Named,
    timeout: Duration,
    watch: Duration,
}

impl Api {
    /// Reads where the server is and who we are.
    pub(crate) fn open(service: &Service, config: &DiscoveryConfig) -> Result<Self, ApiError> {
        let account = Account::open(config, config.api_url()?).map_err(ApiError::Account)?;
        let namespace = service.namespace.clone().unwrap_or_else(account::namespace);
        let named = Named { namespace, service: service.name.clone(), port: service.port.clone() };
        let server = Server::new(account.url.host.clone(), account.url.port, account.tls.clone());
        Ok(Self { account, server, named, timeout: config.timeout(), watch: Duration::from_millis(config.watch_ms) })
    }

    /// One page of the list.
    pub(crate) async fn list(&mut self, token: Option<&str>) -> Result<Page, ApiError> {
        let mut query = format!("limit={PAGE_SLICES}");
        if let Some(token) = token {
            query.push_str(&format!("&continue={}", encoded(token)?));
        }
        let limit = self.timeout;
        let read = async {
            let request = self.request(&query).await?;
            let answer = self.server.ask(request, PAGE_BYTES_MAX).await?;
            check(answer.status())?;
            json::page(answer.body(), &self.named).map_err(ApiError::Json)
        };
        tokio::time::timeout(limit, read).await.unwrap_or(Err(ApiError::TimedOut { limit }))
    }

    /// The changes after a version.
    pub(crate) async fn watch(&mut self, version: &str) -> Result<Changes, ApiError> {
        let seconds = self.watch.as_secs().max(1);
        let version = encoded(version)?;
        let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}");
        let limit = self.timeout;
        let asked = async {
            let request = self.request(&query).await?;
            Ok::<_, ApiError>(self.server.send(request).await?)
        };
        let asked = tokio::time::timeout(limit, asked).await;
        let (answer, open) = asked.unwrap_or(Err(ApiError::TimedOut { limit }))?;
        check(answer.status())?;
        let until = Instant::now() + Duration::from_secs(seconds) + WATCH_GRACE;
        let (body, named) = (answer.into_body(), self.named.clone());
        Ok(Changes { body, lines: Lines::default(), named, until, _open: open })
    }

    async fn request(&self, query: &str) -> Result<Request<Empty<Bytes>>, ApiError> {
        let Named { namespace, service, .. } = &self.named;
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let uri = format!("{path}?labelSelector=kubernetes.io%2Fservice-name%3D{service}&{query}");
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.parse::<Uri>().map_err(|_| ApiError::Token)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("forebay"));
        if let Ok(host) = HeaderValue::from_str(&self.account.url.authority) {
            headers.insert(HOST, host);
        }
        if let Some(authorization) = self.account.authorization().await.map_err(ApiError::Account)? {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(request)
    }
}

fn check(status: StatusCode) -> Result<(), ApiError> {
    let hint = match status {
        StatusCode::OK => return Ok(()),
        StatusCode::UNAUTHORIZED => ": it does not know the token",
        StatusCode::FORBIDDEN => ": the account needs a Role with `list` and `watch` of `endpointslices`",
        _ => "",
    };
    Err(ApiError::Status { status, hint })
}

/// Text of the server's for a query: everything but letters and digits is escaped.
fn encoded(text: &str) -> Result<String, ApiError> {
    if text.len() > TOKEN_BYTES_MAX {
        return Err(ApiError::Token);
    }
    let escape = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    Ok(text.bytes().map(escape).collect())
}

/// The lines of a watch.
#[derive(Debug)]
pub(crate) struct Changes {
    body: Incoming,
    lines: Lines,
    named: Named,
    until: Instant,
    _open: Open,
}

impl Changes {
    /// The next change that matters; none when the watch has ended. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Heard>, ApiError> {
        loop {
            while let Some(line) = self.lines.next()? {
                if let Some(heard) = json::event(&line, &self.named).map_err(ApiError::Change)? {
                    return Ok(Some(heard));
                }
            }
            match tokio::time::timeout_at(self.until, self.body.frame()).await {
                // A server that does not end it is left.
                Err(_) | Ok(None) => return Ok(None),
                Ok(Some(Err(source))) => return Err(ApiError::Read(source)),
                Ok(Some(Ok(frame))) => self.lines.push(frame.data_ref().map_or(&[][..], Bytes::as_ref)),
            }
        }
    }
}

/// Bytes until they are lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: BytesMut,
    /// How many of them hold no line's end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line that is not empty.
    fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line = self.bytes.split_to(self.searched + end).freeze();
            self.bytes.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.bytes.len();
        if self.searched > LINE_BYTES_MAX { Err(ApiError::Line) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\n\n  \r\ntwo\nthree";
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for chunk in text.chunks(size) {
                lines.push(chunk);
                while let Some(line) = lines.next().expect("short lines") {
                    found.push(line);
                }
            }
            assert_eq!(found, ["one", "two"], "{size} bytes at a time; a line without an end is none");
        }
    }

    #[test]
    fn text_of_the_server_cannot_leave_its_place_in_a_query() {
        assert_eq!(encoded("a&b=c/../ é").expect("short"), "a%26b%3Dc%2F%2E%2E%2F%20%C3%A9");
        assert!(matches!(encoded(&"x".repeat(TOKEN_BYTES_MAX + 1)), Err(ApiError::Token)));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_BYTES_MAX]);
        assert!(matches!(lines.next(), Ok(None)));
        lines.push(b"x");
        assert!(matches!(lines.next(), Err(ApiError::Line)));
    }
}
