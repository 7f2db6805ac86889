//! The answer to `GET /fleet`: the workers that serve weights to peers.
//!
//! Thousands may ask every few seconds. The body is written once for each state of the fleet, and not sent again to who
//! has it.

use crate::fleet::Snapshot;
use crate::worker::{State, Worker};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use discovery::MEMBERS_MAX;
use http::StatusCode;
use http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use wire::fleet::{FLEET_VERSION, FleetMember, FleetView};

/// The view of the last state of the fleet that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<Option<Written>>);

#[derive(Debug, Clone)]
struct Written {
    of: Arc<Snapshot>,
    body: Bytes,
    tag: HeaderValue,
}

impl Views {
    /// Answers who asks for the workers as they are now.
    pub(crate) fn answer(&self, snapshot: Arc<Snapshot>, headers: &HeaderMap) -> Response {
        let Written { body, tag, .. } = self.of(snapshot);
        if headers.get(IF_NONE_MATCH) == Some(&tag) {
            return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
        }
        let json = HeaderValue::from_static("application/json");
        ([(CONTENT_TYPE, json), (ETAG, tag)], Body::from(body)).into_response()
    }

    fn of(&self, snapshot: Arc<Snapshot>) -> Written {
        let mut last = self.0.lock();
        if let Some(written) = last.as_ref().filter(|written| Arc::ptr_eq(&written.of, &snapshot)) {
            return written.clone();
        }
        last.insert(write(snapshot)).clone()
    }
}

fn write(snapshot: Arc<Snapshot>) -> Written {
    let members = snapshot.workers().iter().filter_map(|worker| member(worker)).take(MEMBERS_MAX).collect();
    let view = FleetView { fleet_version: FLEET_VERSION, members };
    let body = Bytes::from(serde_json::to_vec(&view).unwrap_or_default());
    // The same text has the same tag, whichever router wrote it.
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = HeaderValue::from_str(&format!("\"{:016x}-{:x}\"", hasher.finish(), body.len()));
    Written { of: snapshot, body, tag: tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")) }
}

/// A worker as a peer; none for one that is down, and for one that serves nothing to peers.
fn member(worker: &Worker) -> Option<FleetMember> {
    let view = worker.view();
    let peers = view.peers.as_ref().filter(|_| view.state != State::Unhealthy)?;
    let host = worker.connections.authority().host();
    Some(FleetMember {
        address: format!("{host}:{}", peers.port),
        id: None,
        zone: peers.zone.clone(),
        name: Some(worker.connections.tls_name().to_owned()),
    })
}
