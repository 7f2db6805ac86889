//! The one network hop: a request to a worker, and its answer's head.

use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use policy::Admitted;
use policy::Secret;
use std::time::Duration;
use thiserror::Error;
use wire::headers::KEYS;
use wire::openai::{ApiError, ErrorKind};

/// The largest list of models or status we read.
pub(crate) const MODELS_BYTES_MAX: usize = 1 << 20;

/// A request as every worker would get it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The path, the same at the worker as here.
    pub(crate) path: &'static str,
    /// The client's headers, as far as they are the worker's business.
    pub(crate) headers: HeaderMap,
    /// The client's body, byte for byte.
    pub(crate) body: Bytes,
}

/// Why a worker gave no answer.
#[derive(Debug, Error)]
pub(crate) enum UpstreamError {
    /// No connection: the request did not reach it.
    #[error("connecting to the worker")]
    Connect(#[source] legacy::Error),
    /// The connection broke before the answer began.
    #[error("waiting for the worker's answer")]
    Broken(#[source] legacy::Error),
    /// The answer did not begin in time.
    #[error("the worker's answer did not begin within {0:?}")]
    Timeout(Duration),
}

impl UpstreamError {
    /// A stable word for metrics.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken_before_head",
            Self::Timeout(_) => "head_timeout",
        }
    }

    /// What a client is told where nobody else can answer.
    pub(crate) fn to_api_error(&self) -> ApiError {
        match self {
            Self::Connect(_) => ApiError::overloaded("no worker can be reached; try again", crate::pick::RETRY_AFTER),
            Self::Broken(_) => {
                ApiError::new(ErrorKind::BadGateway, "the worker broke off before it answered; try again")
            }
            Self::Timeout(after) => {
                let message = format!("the worker did not answer within {} s", after.as_secs());
                ApiError::new(ErrorKind::UpstreamTimeout, message)
            }
        }
    }
}

/// Sends an admitted request and waits for the answer's head.
pub(crate) async fn send(
    worker: &Worker,
    _admitted: &Admitted,
    call: &Call,
    head_timeout: Duration,
) -> Result<Response<Incoming>, UpstreamError> {
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = worker.uri(call.path);
    *request.headers_mut() = call.headers.clone();
    match tokio::time::timeout(head_timeout, worker.client.request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(cause)) if cause.is_connect() => Err(UpstreamError::Connect(cause)),
        Ok(Err(cause)) => Err(UpstreamError::Broken(cause)),
        Err(_) => Err(UpstreamError::Timeout(head_timeout)),
    }
}

/// What of a client's headers a worker gets: all but those that concern this hop, the client's
/// credentials (ours take their place) and its wish for compression (a screen reads plain text).
pub(crate) fn forwarded_headers(client: &HeaderMap, key: Option<&Secret>) -> HeaderMap {
    let mut headers = client.clone();
    strip_hop_by_hop(&mut headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT, COOKIE, ACCEPT_ENCODING] {
        headers.remove(name);
    }
    for name in KEYS {
        headers.remove(name);
    }
    authorise(&mut headers, key);
    headers
}

/// Removes the headers that belong to one connection (RFC 9110, section 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain([CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"] {
        headers.remove(name);
    }
}

/// Adds the workers' key.
pub(crate) fn authorise(headers: &mut HeaderMap, key: Option<&Secret>) {
    if let Some(mut value) = key.and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok()) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

/// How long a worker asked to be left alone. A date is not understood: clocks differ.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("retry-after-ms").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

/// Why a body could not be read as a whole.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    #[error("the body exceeds {0} bytes")]
    TooLarge(usize),
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    #[error("the body paused for more than {0:?}")]
    Stalled(Duration),
}

/// Reads a body to its end.
pub(crate) async fn read_all(mut body: Incoming, bytes_max: usize, idle: Duration) -> Result<Bytes, ReadError> {
    let mut whole = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(ReadError::Stalled(idle)),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(cause))) => return Err(ReadError::Broken(cause)),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > bytes_max {
                return Err(ReadError::TooLarge(bytes_max));
            }
            whole.extend_from_slice(&data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_hop_by_hop_headers_stay_here() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer sk-client"),
            ("authorization", "Bearer sk-second"),
            ("api-key", "sk-client"),
            ("x-api-key", "sk-client"),
            ("cookie", "a=b"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip"),
            ("x-custom", "kept"),
            ("traceparent", "kept"),
        ] {
            client.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let headers = forwarded_headers(&client, Some(&Secret::new("sk-worker")));
        assert_eq!(headers.len(), 3, "{headers:?}");
        assert_eq!(headers["authorization"], "Bearer sk-worker");
        assert_eq!(
            (&headers["x-custom"], &headers["traceparent"]),
            (&"kept".parse().expect("v"), &"kept".parse().expect("v"))
        );
    }

    #[test]
    fn milliseconds_win_over_seconds_and_dates_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("Wed, 21 Oct 2026 07:28:00 GMT"));
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", HeaderValue::from_static("7"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after-ms", HeaderValue::from_static("250"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(250)));
    }
}
