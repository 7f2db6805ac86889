//! Reading bodies within bounds, and answering with OpenAI-shaped errors.

use crate::config::ListenConfig;
use crate::memory::Memory;
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::Registry;
use telemetry::names;
use wire::headers::{KEYS, SHOULD_RETRY};
use wire::openai::{ApiError, ErrorKind};

/// The time a body may take to arrive: a client on a slow line sends a 400 KB prompt in this time
/// at 14 KB/s; a slower one is holding a connection for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The most memory that is set aside for a body before it arrives; a longer one grows by doubling. Untouched, it takes
/// none of the machine's.
const ANNOUNCED_BYTES_MAX: usize = 1 << 20;
/// The retry time while bodies take all their memory: about what a large one takes to arrive.
const BODIES_RETRY: Duration = Duration::from_secs(1);

/// An error as a response: status, JSON body, `retry-after` in seconds and milliseconds, and where a program should not
/// wait for it, the word for that.
#[must_use]
pub fn error_response(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(error.to_json()));
    *response.status_mut() = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.kind == ErrorKind::InvalidApiKey {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if error.kind == ErrorKind::InsufficientQuota
        || error.kind == ErrorKind::RateLimitExceeded && error.retry_after.is_none()
    {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(wait) = error.retry_after {
        // Whole seconds are rounded up: a client that comes back early is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert("retry-after-ms", HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
    }
    response
}

/// The values of the headers that carry keys, each with its header's name, those of one header together.
pub fn key_headers(headers: &HeaderMap) -> impl Iterator<Item = (&'static str, &[u8])> {
    KEYS.into_iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value.as_bytes())))
}

/// Reads requests' bodies: each within a bound, and all together within another.
#[derive(Debug)]
pub struct Bodies {
    bytes_max: usize,
    memory: Arc<Memory>,
}

impl Bodies {
    /// The bounds of a listener of this name.
    #[must_use]
    pub fn new(config: &ListenConfig, registry: &Registry, listener: &str) -> Self {
        let gauge = registry.gauge(&names::LISTEN_BODY_BYTES).with_label_values(&[listener]);
        Self { bytes_max: config.body_bytes_max, memory: Memory::new(config.bodies_bytes_max, gauge) }
    }

    /// Reads a JSON request's body. Its memory counts as held until the last slice of it is dropped.
    ///
    /// # Errors
    /// 415 where the content type is present and not JSON, 413 beyond the bound, 408 where the body
    /// does not arrive within 30 s, 400 where it breaks off, 503 where all bodies together are too much.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
        check_type(headers)?;
        let announced = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > self.bytes_max as u64) {
            return Err(too_large(self.bytes_max));
        }
        let announced = announced.and_then(|text| text.parse::<usize>().ok()).unwrap_or_default();
        match tokio::time::timeout(BODY_TIMEOUT, self.collect(body, announced)).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                Err(ApiError::new(ErrorKind::RequestTimeout, message))
            }
        }
    }

    /// Counts a body that was made from one of these as held, in its place.
    ///
    /// # Errors
    /// 503 where all bodies together are too much.
    pub fn hold(&self, body: Bytes) -> Result<Bytes, ApiError> {
        let mut share = self.memory.share();
        if share.grow(body.len()) { Ok(share.hold(body)) } else { Err(too_much()) }
    }

    /// Joins a body's pieces. The length that is `announced` is only believed so far: nothing of it may come.
    async fn collect(&self, mut body: Body, announced: usize) -> Result<Bytes, ApiError> {
        let mut whole = BytesMut::with_capacity(announced.min(ANNOUNCED_BYTES_MAX));
        let mut share = self.memory.share();
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|cause| ApiError::new(ErrorKind::InvalidRequest, format!("reading the body: {cause}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            if !share.grow(data.len()) {
                return Err(too_much());
            }
            whole.extend_from_slice(&data);
        }
        Ok(share.hold(whole.freeze()))
    }
}

/// A body that is said not to be JSON, or to be compressed, is refused before it is read.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message: String| Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        let text = kind.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            return unsupported(format!("the content type is {text:?}; send `content-type: application/json`"));
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            unsupported(format!("the body is encoded as {encoding:?}; send it as it is, without `content-encoding`"))
        }
        _ => Ok(()),
    }
}

fn too_much() -> ApiError {
    ApiError::overloaded("this server holds too many large requests", BODIES_RETRY)
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::new(ErrorKind::PayloadTooLarge, format!("the body exceeds {bytes_max} bytes; shorten the prompt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(body_bytes_max: usize, bodies_bytes_max: usize) -> (Bodies, Registry) {
        let registry = Registry::new();
        let config = ListenConfig { body_bytes_max, bodies_bytes_max, ..ListenConfig::default() };
        (Bodies::new(&config, &registry, "test"), registry)
    }

    #[tokio::test]
    async fn bodies_are_bounded_and_json() {
        let (bodies, _) = bodies(2, 100);
        let mut headers = HeaderMap::new();
        let read = bodies.read(&headers, Body::from("{}")).await;
        assert_eq!(read.expect("small"), "{}");
        let error = bodies.read(&headers, Body::from("{ }")).await.expect_err("large");
        assert_eq!(error.kind, ErrorKind::PayloadTooLarge);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let error = bodies.read(&headers, Body::from("{}")).await.expect_err("compressed");
        assert_eq!(error.kind, ErrorKind::UnsupportedMediaType);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("identity"));
        bodies.read(&headers, Body::from("{}")).await.expect("as it is");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let error = bodies.read(&headers, Body::from("{}")).await.expect_err("text");
        assert_eq!(error.kind, ErrorKind::UnsupportedMediaType);
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_shown() {
        let (bodies, registry) = bodies(8, 10);
        let held = bodies.read(&HeaderMap::new(), Body::from("1234567")).await.expect("fits");
        assert!(registry.render().contains("forebay_listen_body_bytes{listener=\"test\"} 7"), "{}", registry.render());
        let error = bodies.read(&HeaderMap::new(), Body::from("1234")).await.expect_err("too much");
        assert_eq!(error.kind, ErrorKind::Overloaded);
        assert!(error.retry_after.is_some());
        let slice = held.slice(..1);
        drop(held);
        assert!(bodies.read(&HeaderMap::new(), Body::from("1234")).await.is_err(), "a slice holds the body");
        drop(slice);
        bodies.read(&HeaderMap::new(), Body::from("12345678")).await.expect("all is free again");
        assert!(registry.render().contains("forebay_listen_body_bytes{listener=\"test\"} 0"));
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let error = ApiError::overloaded("full", Duration::from_millis(1200));
        let response = error_response(&error);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()["retry-after-ms"], "1200");
    }
}
