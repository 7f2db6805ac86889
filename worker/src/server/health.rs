//! Liveness of the worker's engines: for `/livez`, and for the log, the metric and the flight recorder
//! once when one stops showing life.
//!
//! Being busy, idle or waiting for weights is life; a step that does not end within
//! `liveness_timeout_ms` is not.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use telemetry::names;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Server;

/// The longest time between two looks at the engines: a second late is early enough for a hang.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// The shortest: a look costs nothing to speak of.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// `GET /livez`: fails while any engine shows no life, and says what it was doing.
pub(super) async fn livez(State(server): State<Arc<Server>>) -> Response {
    let mut report = String::new();
    for model in server.models() {
        if let Some(illness) = server.illness(&model.engine) {
            report.push_str(&format!("{}: {illness}\n", model.id));
        }
    }
    if report.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, report).into_response()
}

/// Looks at the engines for as long as there is a server, and reports each that stops showing life, once.
pub(crate) async fn watch(server: Weak<Server>) {
    let mut ill = BTreeSet::new();
    loop {
        let Some(every) = server.upgrade().map(|server| {
            look(&server, &mut ill);
            (server.liveness_timeout / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
        }) else {
            return;
        };
        sleep(every).await;
    }
}

fn look(server: &Server, ill: &mut BTreeSet<String>) {
    for model in server.models() {
        let illness = server.illness(&model.engine);
        let wedged = server.registry.gauge(&names::WORKER_WEDGED).with_label_values(&[&model.id]);
        wedged.set(f64::from(u8::from(illness.is_some())));
        match illness {
            Some(illness) if ill.insert(model.id.clone()) => {
                tracing::error!(model = model.id, "{illness}; liveness fails");
                // Dumping may write a file, and a wedged machine's disk may hang too.
                let engine = model.engine.clone();
                spawn_blocking(move || engine.dump(illness.cause()));
            }
            Some(_) => {}
            None if ill.remove(&model.id) => tracing::warn!(model = model.id, "the engine shows life again"),
            None => {}
        }
    }
}
