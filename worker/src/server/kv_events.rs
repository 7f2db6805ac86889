//! `GET /status/kv-events?model=M&from=N`: what changed in a model's prefix cache. Behind the key, like `/status`.

use super::Server;
use crate::engine::KvChange;
use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use listen::error_response;
use serde::Deserialize;
use std::sync::Arc;
use wire::status::{KV_EVENTS_VERSION, KvEvent, KvEvents};

/// The most events of one answer: some 100 kB of JSON.
const EVENTS_MAX: usize = 1024;

/// The query.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    model: String,
    #[serde(default)]
    from: u64,
}

pub(super) async fn handle(State(server): State<Arc<Server>>, Query(asked): Query<Asked>) -> Response {
    let model = match server.model(Some(&asked.model)) {
        Ok(model) => model,
        Err(error) => return error_response(&error),
    };
    let read = model.engine.kv_changes(asked.from, EVENTS_MAX);
    let next = read.first + read.changes.len() as u64;
    let events = read.changes.iter().map(event).collect();
    let block_tokens = u32::try_from(model.engine.limits().kv_block_tokens).unwrap_or(u32::MAX);
    let identity = model.engine.identity().map(|identity| identity.status());
    Json(KvEvents {
        kv_events_version: KV_EVENTS_VERSION,
        model: asked.model,
        block_tokens,
        identity,
        first: read.first,
        next,
        events,
    })
    .into_response()
}

fn event(change: &KvChange) -> KvEvent {
    match change {
        KvChange::Stored { block, parent } => {
            KvEvent::Stored { block: block.to_string(), parent: parent.map(|parent| parent.to_string()) }
        }
        KvChange::Removed { block } => KvEvent::Removed { block: block.to_string() },
    }
}
