//! Requests as bytes, and what becomes of them when they are redirected. Pure.

use std::ops::Range;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use url::Url;

use super::error::HttpError;
use super::proxy::Proxy;
use super::target::Target;
use crate::source::Tag;

/// Fields that are ours to write, whatever the request brought.
const OURS: [HeaderName; 4] = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT];
/// Fields that may follow a redirection to another host: none of them is a credential.
const HARMLESS: [HeaderName; 7] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::IF_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::USER_AGENT,
    header::CACHE_CONTROL,
];

/// The head of `request` as it goes over the wire, for a body of `body_bytes`. To a proxy it names the
/// whole URL (RFC 9112 §3.2.2).
pub(super) fn head_bytes<B>(
    request: &Request<B>,
    target: &Target,
    proxy: Option<&Proxy>,
    body_bytes: usize,
) -> Vec<u8> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.is_empty() { "/" } else { path };
    let origin = proxy.map(|_| format!("http://{target}")).unwrap_or_default();
    let mut bytes = Vec::with_capacity(512);
    for part in [request.method().as_str(), " ", &origin, path, " HTTP/1.1\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    let headers = request.headers();
    if !headers.contains_key(header::HOST) {
        field(&mut bytes, "host", target.to_string().as_bytes());
    }
    if !headers.contains_key(header::USER_AGENT) {
        field(&mut bytes, "user-agent", concat!("forebay/", env!("CARGO_PKG_VERSION")).as_bytes());
    }
    for (name, value) in headers.iter().filter(|(name, _)| !OURS.contains(name)) {
        field(&mut bytes, name.as_str(), value.as_bytes());
    }
    if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        field(&mut bytes, "proxy-authorization", authorization.as_bytes());
    }
    if body_bytes > 0 || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        field(&mut bytes, "content-length", body_bytes.to_string().as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}

/// Returns true if sending it twice does no more than sending it once, so that a connection that turns
/// out to be closed may be replaced without asking.
pub(super) fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Asks for `range`, on condition of `tag`, unencoded. What the request says itself stays, as a
/// signature may cover it.
pub(super) fn add_range(headers: &mut HeaderMap, range: &Range<u64>, tag: &Tag) {
    let set = |headers: &mut HeaderMap, name: HeaderName, value: &str| {
        if let (false, Ok(value)) = (headers.contains_key(&name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    if !headers.contains_key("x-ms-range") {
        set(headers, header::RANGE, &format!("bytes={}-{}", range.start, range.end - 1));
    }
    set(headers, header::ACCEPT_ENCODING, "identity");
    // If-Match compares strongly (RFC 9110 §13.1.1): a weak tag would never match.
    match (&tag.etag, &tag.modified) {
        (Some(etag), _) if !etag.starts_with("W/") => set(headers, header::IF_MATCH, etag),
        (None, Some(modified)) => set(headers, header::IF_UNMODIFIED_SINCE, modified),
        _ => {}
    }
}

/// Returns true if an answer with this status sends a reader elsewhere.
pub(super) fn is_redirection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Resolves a redirection from `from`.
///
/// # Errors
/// There is none, it is no URL, or it leads from https to http.
pub(super) fn redirected(from: &Uri, location: Option<&HeaderValue>) -> Result<Uri, HttpError> {
    let problem = |text: &str| HttpError::Config { problem: format!("a redirection {text}") };
    let location = location.and_then(|value| value.to_str().ok()).ok_or_else(|| problem("without a Location"))?;
    let base = Url::parse(&from.to_string()).map_err(|_| problem("from a URL that is none"))?;
    let mut to = base.join(location).map_err(|_| problem("to a URL that is none"))?;
    if base.scheme() == "https" && to.scheme() != "https" {
        return Err(problem("from https to something weaker was not followed"));
    }
    to.set_fragment(None);
    let _ = (to.set_username(""), to.set_password(None));
    to.as_str().parse().map_err(|_| problem("to a URL that is none"))
}

/// Leaves out what another host must not see, if `to` is another host.
pub(super) fn strip_credentials(headers: &mut HeaderMap, from: &Target, to: &Target) {
    headers.remove(header::HOST);
    if from != to {
        let secret = |name: &HeaderName| !HARMLESS.contains(name);
        let names: Vec<_> = headers.keys().filter(|name| secret(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::of(&url.parse().expect("a URL")).expect("a target")
    }

    #[test]
    fn a_request_is_written_in_origin_form() {
        let request =
            Request::get("https://store.example/a%20b?c=d").header("Connection", "close").body(()).expect("ok");
        let text = String::from_utf8(head_bytes(&request, &target("https://store.example/"), None, 0)).expect("text");
        assert!(text.starts_with("GET /a%20b?c=d HTTP/1.1\r\nhost: store.example\r\nuser-agent: forebay/"), "{text}");
        assert!(text.ends_with("\r\n\r\n") && !text.contains("onnection"), "{text}");
    }

    #[test]
    fn a_range_is_conditional_on_a_strong_tag_or_a_date() {
        let pinned = |etag: Option<&str>, modified: Option<&str>| {
            let tag = Tag { etag: etag.map(Into::into), modified: modified.map(Into::into), version: None };
            let mut headers = HeaderMap::new();
            add_range(&mut headers, &(4..8), &tag);
            assert_eq!(headers[header::RANGE], "bytes=4-7");
            (headers.contains_key(header::IF_MATCH), headers.contains_key(header::IF_UNMODIFIED_SINCE))
        };
        assert_eq!(pinned(Some("\"a\""), Some("then")), (true, false));
        assert_eq!(pinned(Some("W/\"a\""), Some("then")), (false, false));
        assert_eq!(pinned(None, Some("then")), (false, true));
    }

    #[test]
    fn what_was_signed_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-9"));
        add_range(&mut headers, &(4..8), &Tag::default());
        assert_eq!(headers[header::RANGE], "bytes=0-9");
    }

    #[test]
    fn a_redirection_takes_no_credential_to_another_host() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-amz-security-token", "x-ms-date", "range"] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let mut same = headers.clone();
        strip_credentials(&mut same, &target("https://a.example/"), &target("https://a.example/b"));
        assert_eq!(same.len(), 5);
        for other in ["https://b.example/", "https://a.example:8443/", "http://a.example/"] {
            let mut stripped = headers.clone();
            strip_credentials(&mut stripped, &target("https://a.example/"), &target(other));
            assert_eq!(stripped.keys().collect::<Vec<_>>(), [header::RANGE], "{other}");
        }
    }

    #[test]
    fn a_location_may_be_relative_and_never_weaker() {
        let from: Uri = "https://hub.example/a/b?c".parse().expect("a URL");
        let to = |location: &'static str| redirected(&from, Some(&HeaderValue::from_static(location)));
        assert_eq!(to("../d").expect("followed").to_string(), "https://hub.example/d");
        assert_eq!(
            to("https://me:pw@cdn.example/x?sig=1#f").expect("followed").to_string(),
            "https://cdn.example/x?sig=1"
        );
        assert!(to("http://cdn.example/").is_err());
        assert!(to("ftp://cdn.example/").is_err());
        assert!(redirected(&from, None).is_err());
    }
}
