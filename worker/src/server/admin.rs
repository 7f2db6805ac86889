//! Administration of a running worker. `listen::operator` decides who may ask.

use super::{Server, SwapRefusal, SwapRequest};
use crate::engine::Flight;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use listen::error_response;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use wire::openai::ApiError;

/// The time after which a worker that was busy is worth another try.
const BUSY: Duration = Duration::from_secs(5);

/// `POST /admin/models/{id}/swap`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Swap {
    /// The place of the new revision, as on the command line.
    source: String,
}

/// 202 once the revision is known to fit; `/status` tells how it goes on.
pub(super) async fn swap(State(server): State<Arc<Server>>, Path(id): Path<String>, body: Bytes) -> Response {
    match ask(&server, &id, &body).await {
        Ok(()) => {
            let status = server.status().models.into_iter().find(|model| model.id == id);
            (StatusCode::ACCEPTED, Json(status)).into_response()
        }
        Err(error) => error_response(&error),
    }
}

/// The last steps of every engine, and its present one. Numbers only: see the recorder.
pub(super) async fn flight_recorder(State(server): State<Arc<Server>>) -> Response {
    let flights: Vec<Flight> = server.models().iter().map(|model| model.engine.flight(usize::MAX)).collect();
    Json(json!({"models": flights})).into_response()
}

async fn ask(server: &Server, id: &str, body: &[u8]) -> Result<(), ApiError> {
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
