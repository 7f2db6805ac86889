//! Refusals as answers. All that a peer may not have is one answer, to the byte.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use wire::peers::{OTHERS_HEADER, RETRY_AFTER_MS_HEADER, Refusal, VERSION, VERSION_HEADER};

/// The answer that a refusal is.
pub(crate) fn refusal(refusal: &Refusal) -> Response {
    let mut response = Response::new(Body::from(text(refusal)));
    *response.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(VERSION_HEADER, HeaderValue::from(VERSION));
    if let Refusal::Busy(others) = refusal {
        headers.insert(RETRY_AFTER, HeaderValue::from(others.retry_after_s()));
        let milliseconds = u64::try_from(others.retry_after.as_millis()).unwrap_or(u64::MAX);
        headers.insert(RETRY_AFTER_MS_HEADER, HeaderValue::from(milliseconds));
        if let Some(names) = HeaderValue::from_str(&others.names()).ok().filter(|names| !names.is_empty()) {
            headers.insert(OTHERS_HEADER, names);
        }
    }
    response
}

const fn text(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unknown => "there is no such thing here, or not for you\n",
        Refusal::Absent => "this extent is not here; see have\n",
        Refusal::Range => "ask for `Range: bytes=a-b` over 1 to 4 whole extents of 4 MiB\n",
        Refusal::Version => "this version of the protocol is no longer spoken; upgrade the asker\n",
        Refusal::Busy(_) => "enough extents are being sent; ask again, or the peers that took this one\n",
    }
}
