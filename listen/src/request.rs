//! Reading bodies within bounds, and answering with OpenAI-shaped errors.

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use std::time::Duration;
use wire::headers::KEYS;
use wire::openai::{ApiError, ErrorKind};

/// How long a body may take to arrive: a client on a slow line sends a 400 KB prompt in this time
/// at 14 KB/s; a slower one is holding a connection for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// An error as a response: status, JSON body, `retry-after` in seconds and milliseconds.
#[must_use]
pub fn error_response(error: &ApiError) -> Response {
    let mut response = Response::new(Body::from(error.to_json()));
    *response.status_mut() = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match error.kind {
        ErrorKind::InvalidApiKey => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        ErrorKind::MethodNotAllowed if !headers.contains_key(ALLOW) => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        }
        _ => {}
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

/// Reads a JSON request's body.
///
/// # Errors
/// 415 where the content type is present and not JSON, 413 beyond `bytes_max`, 408 where the body
/// does not arrive within 30 s, 400 where it breaks off.
pub async fn read_json_body(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        let text = kind.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            let message = format!("the content type is {text:?}; send `content-type: application/json`");
            return Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
        }
    }
    let announced = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max)).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiError::new(ErrorKind::RequestTimeout, message))
        }
    }
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|cause| ApiError::new(ErrorKind::InvalidRequest, format!("reading the body: {cause}")))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::new(ErrorKind::PayloadTooLarge, format!("the body exceeds {bytes_max} bytes; shorten the prompt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_are_bounded_and_json() {
        let mut headers = HeaderMap::new();
        let read = read_json_body(&headers, Body::from("{}"), 2).await;
        assert_eq!(read.expect("small"), "{}");
        let error = read_json_body(&headers, Body::from("{ }"), 2).await.expect_err("large");
        assert_eq!(error.kind, ErrorKind::PayloadTooLarge);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let error = read_json_body(&headers, Body::from("{}"), 2).await.expect_err("text");
        assert_eq!(error.kind, ErrorKind::UnsupportedMediaType);
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
