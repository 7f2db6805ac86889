//! What an operator may ask of a running worker, from the same machine only.
//!
//! Requests must come over loopback, carry the key where there is one, and be JSON: a page in a
//! browser on this machine can send neither that content type nor the key across origins.

use super::{Server, SwapRefusal, SwapRequest};
use crate::engine::Flight;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use listen::error_response;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use wire::openai::{ApiError, ErrorKind};

/// When a refusal for being busy is worth another try.
const BUSY: Duration = Duration::from_secs(5);

/// `POST /admin/models/{id}/swap`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Swap {
    /// Where the new revision is, as on the command line.
    source: String,
}

/// 202 once the revision is known to fit; `/status` tells how it goes on.
pub(super) async fn swap(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match ask(&server, &id, &headers, &body).await {
        Ok(()) => {
            let status = server.status().models.into_iter().find(|model| model.id == id);
            (StatusCode::ACCEPTED, Json(status)).into_response()
        }
        Err(error) => error_response(&error),
    }
}

/// What the last steps of every engine were, and what it does now. Numbers only: see the recorder.
pub(super) async fn flight_recorder(State(server): State<Arc<Server>>) -> Response {
    let flights: Vec<Flight> = server.models().iter().map(|model| model.engine.flight(usize::MAX)).collect();
    Json(json!({"models": flights})).into_response()
}

async fn ask(server: &Server, id: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "send `content-type: application/json`"));
    }
    let Swap { source } = serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid("source", format!("send {{\"source\": \"DIR or URL\"}}: {error}")))?;
    if !server.knows(id) {
        return Err(ApiError::model_not_found(id));
    }
    let (reply, answer) = oneshot::channel();
    let request = SwapRequest { model: id.to_owned(), source, reply };
    let busy = || ApiError::overloaded("swaps are not taken now: the worker is loading or ending", BUSY);
    server.swaps.try_send(request).map_err(|_| busy())?;
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(SwapRefusal::Source(why))) => Err(ApiError::invalid("source", why)),
        Ok(Err(SwapRefusal::Refused(why))) => Err(ApiError::invalid("source", format!("the swap is refused: {why}"))),
        Ok(Err(SwapRefusal::Busy(why))) => Err(ApiError::overloaded(why, BUSY)),
        Err(_) => Err(busy()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use listen::{Peer, require_loopback};
    use tower::ServiceExt;

    async fn from(peer: Option<&str>) -> StatusCode {
        let app = axum::Router::new().route("/admin", post(|| async { "done" })).layer(from_fn(require_loopback));
        let mut request = http::Request::post("/admin").body(axum::body::Body::empty()).expect("a request");
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer.parse().expect("an address")));
        }
        app.oneshot(request).await.expect("an answer").status()
    }

    #[tokio::test]
    async fn only_callers_on_this_machine_are_let_in() {
        for near in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(from(Some(near)).await, StatusCode::OK, "{near}");
        }
        for far in [Some("10.0.0.1:9"), Some("[2001:db8::1]:9"), None] {
            assert_eq!(from(far).await, StatusCode::FORBIDDEN, "{far:?}");
        }
    }
}
