//! Which web pages may call the API from a browser. Off unless the configuration names origins.

use axum::http::request::Parts;
use http::{HeaderValue, Method};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer, ExposeHeaders};

/// How long a browser may remember the permission.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The layer for these origins; none where none is named. Only the API is opened, never status,
/// metrics or administration.
pub(crate) fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = origins.to_vec();
    let is_allowed = move |origin: &HeaderValue, parts: &Parts| {
        let is_api = parts.uri.path().starts_with("/v1/");
        is_api && origins.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
    };
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(is_allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(MAX_AGE);
    Some(layer)
}
