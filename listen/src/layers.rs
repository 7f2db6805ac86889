//! The layers around every route: a request id, one line in the access log, and an OpenAI-shaped
//! error where nobody handled it.

use crate::access::log_request;
use crate::request::error_response;
use crate::request_id::request_id;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use futures_util::FutureExt;
use http::{Method, Uri};
use std::panic::AssertUnwindSafe;
use wire::openai::{ApiError, ErrorKind};

/// Wraps `app`. Outermost first: the id (everything else names it), the access log (it sees the
/// end of the answer), the panic barrier (a bug in a handler ends one request, not the connection).
pub fn common_layers(app: axum::Router) -> axum::Router {
    app.fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(catch_panic))
        .layer(from_fn(log_request))
        .layer(from_fn(request_id))
}

async fn unknown_path(method: Method, uri: Uri) -> Response {
    let message = format!("there is no {method} {}; the API begins at /v1", uri.path());
    error_response(&ApiError::new(ErrorKind::UnknownPath, message))
}

/// The routes add the methods that the path takes.
async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    error_response(&ApiError::new(ErrorKind::MethodNotAllowed, message))
}

async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a handler panicked");
            error_response(&ApiError::new(ErrorKind::Internal, "an internal error; the request id names it in the log"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use wire::headers::REQUEST_ID;
    use wire::openai::error::ErrorBody;

    async fn send(request: http::Request<Body>) -> Response {
        let app = axum::Router::new().route("/v1/models", get(|| async { "ok" })).route(
            "/bug",
            post(|| async {
                if true {
                    panic!("a bug")
                }
            }),
        );
        common_layers(app).oneshot(request).await.expect("infallible")
    }

    async fn error_of(response: Response) -> (u16, ErrorBody) {
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        (status, serde_json::from_slice(&bytes).expect("an OpenAI error"))
    }

    #[tokio::test]
    async fn unhandled_requests_get_openai_errors() {
        for (method, path, status, code) in [
            ("GET", "/nowhere", 404, "unknown_url"),
            ("DELETE", "/v1/models", 405, "method_not_allowed"),
            ("POST", "/bug", 500, "internal_error"),
        ] {
            let request = http::Request::builder().method(method).uri(path).body(Body::empty()).expect("valid");
            let (got, body) = error_of(send(request).await).await;
            assert_eq!((got, body.error.code.as_deref()), (status, Some(code)), "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_refused_method_comes_with_those_that_the_path_takes() {
        for (method, path, allowed) in [("POST", "/v1/models", "GET,HEAD"), ("GET", "/bug", "POST")] {
            let request = http::Request::builder().method(method).uri(path).body(Body::empty()).expect("valid");
            let response = send(request).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()[http::header::ALLOW]),
                (405, &allowed.parse().expect("a value"))
            );
        }
    }

    #[tokio::test]
    async fn a_sane_request_id_is_echoed_and_a_wild_one_replaced() {
        for (given, kept) in [("abc-1", true), ("a b", false), ("", false)] {
            let request = http::Request::builder()
                .uri("/v1/models")
                .header(REQUEST_ID, given)
                .body(Body::empty())
                .expect("valid");
            let response = send(request).await;
            let id = response.headers()[REQUEST_ID].to_str().expect("ascii").to_owned();
            assert_eq!(id == given, kept, "{given:?} became {id:?}");
            assert!(!id.is_empty());
        }
    }
}
