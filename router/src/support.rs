//! Reports of all workers for a support bundle: asked on behalf of an operator on the router's
//! own machine, who need not know where the workers are nor their key.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use wire::Chain;

use crate::core::Core;
use crate::health::get;
use crate::worker::Worker;

/// The most bytes of one answer: a flight recorder of ten thousand steps has some three million.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long one answer may take: whoever looks into a hang does not want another.
const PATIENCE: Duration = Duration::from_secs(5);

/// One worker's own words; each is JSON, or an object that says why it is missing.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerReport {
    worker: String,
    status: Value,
    metrics: Value,
    flight_recorder: Value,
}

/// `GET /admin/workers`.
pub(crate) async fn workers(State(core): State<Arc<Core>>) -> Json<Vec<WorkerReport>> {
    Json(join_all(core.fleet.workers().iter().map(|worker| report(&core, worker))).await)
}

async fn report(core: &Core, worker: &Arc<Worker>) -> WorkerReport {
    let asked = ["/status", "/metrics", "/admin/flight-recorder"].map(|path| ask(core, worker, path));
    let [status, metrics, flight_recorder] = asked;
    let (status, metrics, flight_recorder) = tokio::join!(status, metrics, flight_recorder);
    WorkerReport { worker: worker.name.clone(), status, metrics, flight_recorder }
}

async fn ask(core: &Core, worker: &Arc<Worker>, path: &'static str) -> Value {
    let settings = core.settings();
    let key = settings.config.worker_api_key.as_ref();
    match tokio::time::timeout(PATIENCE, get(worker, path, key, ANSWER_BYTES_MAX)).await {
        Ok(Ok(body)) => {
            serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()))
        }
        Ok(Err(error)) => json!({"missing": Chain(&error).to_string()}),
        Err(_) => json!({"missing": format!("no answer within {} s", PATIENCE.as_secs())}),
    }
}
