//! The right to administer a process: of a caller on its own machine, and of anyone who brings the administrators' key.
//!
//! A browser on that machine is on that machine, too, and sends requests for whatever page it shows. Such a page can
//! have its own name resolve to loopback (DNS rebinding), post forms and fetch images across origins. It cannot choose
//! the `Host` and `Origin` that the browser writes, nor send JSON across origins unasked; a proxy on the machine says
//! that it forwards. These are what tells an operator's `curl` from them. Routes and their meaning are not known here.

use crate::request_id::RequestId;
use crate::server::Peer;
use crate::tls::Identity;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE, FORWARDED, HOST, HeaderName, ORIGIN, VIA};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use wire::openai::{ApiError, ErrorKind};

/// Headers of which a caller on this machine that speaks for itself has none.
const FORWARDING: [HeaderName; 6] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// An operator, and how it is known to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It brought the administrators' key, from wherever it is.
    Key,
    /// It is on this machine, and no web page.
    Near,
}

/// Says whether a request is an operator's. `key` is the administrators' key, where there is one.
///
/// # Errors
/// 403 for a caller elsewhere, for a proxy, and for a browser that another site's page drives; 415 for a change that
/// is not sent as JSON.
pub fn operator(request: &Request, key: Option<&str>) -> Result<Operator, ApiError> {
    if has_key(request.headers(), key) {
        return Ok(noted(request, Operator::Key));
    }
    if !is_near(request) {
        return Err(denied(
            "administration is for callers on the server's own machine, at its loopback address, and for those that \
             bring its admin_api_key",
        ));
    }
    if let Some(name) = FORWARDING.iter().find(|name| request.headers().contains_key(*name)) {
        return Err(denied(format!("`{name}` says that this comes from elsewhere; bring the server's admin_api_key")));
    }
    check_page(request.headers(), request.uri())?;
    if changes(request.method()) && !is_json(request.headers()) {
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "send `content-type: application/json`"));
    }
    Ok(noted(request, Operator::Near))
}

/// Writes down who changes something, before it is done.
fn noted(request: &Request, operator: Operator) -> Operator {
    if changes(request.method()) {
        let extensions = request.extensions();
        let identity = extensions.get::<Arc<Identity>>();
        tracing::info!(
            target: "admin",
            by = ?operator,
            peer = extensions.get::<Peer>().map(|peer| peer.0.to_string()),
            identity = identity.and_then(|identity| identity.name()),
            request_id = extensions.get::<RequestId>().map(|id| id.0.as_str()),
            method = %request.method(),
            path = request.uri().path(),
            "an operator acts"
        );
    }
    operator
}

/// A layer that refuses what a browser on this machine asks on behalf of another site's page. For answers that tell
/// something of the process and need no key.
pub async fn refuse_pages(request: Request, next: Next) -> Response {
    let refused = if is_near(&request) { check_page(request.headers(), request.uri()).err() } else { None };
    match refused {
        Some(error) => crate::error_response(&error),
        None => next.run(request).await,
    }
}

/// Returns true if the request brings the administrators' key. An empty key opens nothing.
fn has_key(headers: &HeaderMap, key: Option<&str>) -> bool {
    let Some(key) = key.filter(|key| !key.is_empty()) else { return false };
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| text.split_once(' '));
    let Some((_, given)) = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else { return false };
    // How long the comparison takes tells the key's length at most.
    given.trim().as_bytes().ct_eq(key.as_bytes()).into()
}

/// Returns true if the other end of the connection is on this machine.
fn is_near(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    peer.is_some_and(is_loopback)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Refuses requests that name another host, or that a page of another origin makes.
fn check_page(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let hosts: Vec<Option<Authority>> = headers
        .get_all(HOST)
        .iter()
        .map(|host| host.to_str().ok().and_then(|text| text.parse().ok()))
        .chain(uri.authority().cloned().map(Some))
        .collect();
    let is_ours = |host: &Option<Authority>| host.as_ref().is_some_and(names_loopback);
    if hosts.is_empty() || !hosts.iter().all(is_ours) {
        return Err(denied(
            "callers on the server's own machine name it by its loopback address or `localhost` in `Host`; others \
             bring its admin_api_key",
        ));
    }
    let is_same = |origin: &str| {
        let authority = origin.split_once("://").and_then(|(_, rest)| rest.parse::<Authority>().ok());
        authority.is_some_and(|origin| hosts.iter().all(|host| host.as_ref() == Some(&origin)))
    };
    if !headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(is_same)) {
        return Err(denied("`Origin` is another site's: a page may not administer this server"));
    }
    // Browsers send it with every request, images and forms included, to where they trust: loopback is such a place.
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(denied("`Sec-Fetch-Site` is another site's: a page may not administer this server"));
    }
    Ok(())
}

/// Returns true if a host names this machine, whoever resolves names.
fn names_loopback(host: &Authority) -> bool {
    if host.as_str().contains('@') {
        return false;
    }
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = name.parse() {
        return is_loopback(address);
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // RFC 6761: browsers do not ask the network for these.
    name == "localhost" || name.ends_with(".localhost")
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn denied(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::HeaderValue;

    const KEY: &str = "admin-key";

    /// A change asked for on loopback by a program, but for `more`.
    fn asked(peer: &str, more: &[(&str, &str)]) -> Result<Operator, u16> {
        let mut request = http::Request::post("/admin").body(Body::empty()).expect("a request");
        if !peer.is_empty() {
            request.extensions_mut().insert(Peer(peer.parse().expect("an address")));
        }
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8081"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in more {
            headers
                .insert(HeaderName::try_from(*name).expect("a name"), HeaderValue::from_str(value).expect("a value"));
        }
        operator(&request, Some(KEY)).map_err(|error| error.kind.status())
    }

    const NEAR: &str = "127.0.0.1:9";

    #[test]
    fn only_callers_on_this_machine_are_let_in_without_the_key() {
        for near in [NEAR, "127.8.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(asked(near, &[]), Ok(Operator::Near), "{near}");
        }
        let bearer = format!("Bearer {KEY}");
        for far in ["10.0.0.1:9", "[2001:db8::1]:9", ""] {
            assert_eq!(asked(far, &[]), Err(403), "{far}");
            assert_eq!(asked(far, &[("authorization", &bearer)]), Ok(Operator::Key), "{far}");
            for wrong in ["Bearer", "Bearer ", "Bearer admin-ke", "Bearer admin-keyy", "Basic admin-key", KEY] {
                assert_eq!(asked(far, &[("authorization", wrong)]), Err(403), "{far} {wrong}");
            }
        }
    }

    #[test]
    fn an_empty_key_opens_nothing() {
        let mut request = http::Request::get("/admin").body(Body::empty()).expect("a request");
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer "));
        for key in [None, Some("")] {
            assert!(operator(&request, key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn a_name_that_resolves_to_loopback_is_not_loopback() {
        for ours in
            ["localhost", "LOCALHOST:8081", "localhost.", "a.localhost:1", "127.0.0.1", "[::1]:8081", "127.1.2.3"]
        {
            assert_eq!(asked(NEAR, &[("host", ours)]), Ok(Operator::Near), "{ours}");
        }
        for other in [
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil@127.0.0.1",
            "notlocalhost",
            "0.0.0.0:8081",
            "10.0.0.1",
            "[::]:8081",
            "",
            "a b",
        ] {
            assert_eq!(asked(NEAR, &[("host", other)]), Err(403), "{other}");
        }
    }

    #[test]
    fn a_second_host_and_an_absolute_target_count_too() {
        let near = |uri: &str, hosts: &[&'static str]| {
            let mut request = http::Request::get(uri).body(Body::empty()).expect("a request");
            request.extensions_mut().insert(Peer(NEAR.parse().expect("an address")));
            for host in hosts {
                request.headers_mut().append(HOST, HeaderValue::from_static(host));
            }
            operator(&request, None).is_ok()
        };
        assert!(near("/admin", &["localhost"]) && near("http://localhost/admin", &["localhost"]));
        assert!(!near("/admin", &[]), "no host at all");
        assert!(!near("/admin", &["localhost", "evil.example"]));
        assert!(!near("http://evil.example/admin", &["localhost"]));
    }

    #[test]
    fn another_sites_page_is_refused_whatever_it_can_send() {
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "http://127.0.0.1:3000"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("via", "1.1 proxy"),
        ] {
            assert_eq!(asked(NEAR, &[(name, value)]), Err(403), "{name}: {value}");
        }
        for (name, value) in [("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin")] {
            assert_eq!(asked(NEAR, &[(name, value)]), Ok(Operator::Near), "{name}: {value}");
        }
    }

    #[test]
    fn a_change_is_json() {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""]
        {
            assert_eq!(asked(NEAR, &[("content-type", kind)]), Err(415), "{kind}");
        }
        for kind in ["Application/JSON", "application/json; charset=utf-8"] {
            assert_eq!(asked(NEAR, &[("content-type", kind)]), Ok(Operator::Near), "{kind}");
        }
    }
}
