//! Requests before, during and after a load.

use crate::client::PATIENCE;
use crate::model::{LAST, LOOKS, Revision, answer, at, greedy, hold, let_go, scripted, text};
use crate::worker_process::{Running, begin, chat, start, storage};
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::origin::{Fault, Origin};
use wire::status::{ModelPhase, ModelState, ModelStatus, WorkerStatus};

pub(crate) async fn status(worker: &Running) -> ModelStatus {
    let status: WorkerStatus = serde_json::from_value(worker.get("/status").await.json()).expect("a status");
    status.models.into_iter().next().expect("a model")
}

/// Waits until the model's status is so.
pub(crate) async fn until(worker: &Running, what: &str, is_so: impl Fn(&ModelStatus) -> bool) -> ModelStatus {
    let begun = Instant::now();
    loop {
        let status = status(worker).await;
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn origin(revision: &Revision) -> Origin {
    revision.on(Origin::builder().seed(1), "m").start().expect("starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_as_soon_as_headers_are_there_and_answered_with_the_last_weights() {
    let near = start(json!({"backend": "cpu"})).await;
    let expected = answer(&near, 16).await;
    let revision = Revision::new(0);
    let origin = origin(&revision);
    hold(&origin, &format!("m/{LAST}"));
    let (worker, loaded) = begin(json!({"backend": "cpu"}), storage(), vec![at(&origin, "m")]).await;
    let asked = tokio::spawn({
        let address = worker.address;
        async move {
            // Refused until the headers are there; then taken, once.
            loop {
                let body = chat(greedy(16)).to_string();
                let headers = [("content-type", "application/json")];
                let open = crate::client::open(address, "POST", "/v1/chat/completions", &headers, body.as_bytes());
                let reply = open.await.finish().await;
                if reply.status != 503 {
                    return reply;
                }
                assert!(reply.header("retry-after").is_some(), "{}", reply.text());
            }
        }
    });
    // The prompt has been computed as far as the part that is held back.
    let waiting =
        until(&worker, "the last part", |model| model.waiting_for.as_deref() == Some("the final norm and the head"))
            .await;
    assert_eq!((waiting.state, waiting.phase), (ModelState::Loading, ModelPhase::Loading));
    assert_eq!(waiting.bytes_total, revision.weight_bytes());
    assert!(waiting.bytes_loaded < waiting.bytes_total, "{waiting:?}");
    assert_eq!(waiting.load.running, 1);
    assert_eq!(worker.get("/readyz").await.status, 503);
    assert_eq!(worker.get("/livez").await.status, 200);
    let_go(&origin);
    let reply = asked.await.expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(text(&reply.json()), expected);
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    assert_eq!(worker.get("/readyz").await.status, 200);
    let ready = status(&worker).await;
    assert_eq!((ready.state, ready.phase), (ModelState::Ready, ModelPhase::Ready));
    assert_eq!(ready.bytes_loaded, revision.weight_bytes());
    assert!(waiting.ready_after_ms == 0.0 && ready.ready_after_ms > 0.0);
    assert_eq!((ready.eta_ms, ready.error, ready.waiting_for), (None, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_headers_are_known_requests_are_told_when_to_come_back() {
    let origin = origin(&Revision::new(0));
    origin.set_faults(scripted("m/config.json", 1, Fault::Delay { milliseconds: 600_000 }));
    let (worker, _) = begin(json!({}), storage(), vec![at(&origin, "m")]).await;
    let reply = worker.post("/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("still loading"), "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    let status = status(&worker).await;
    assert_eq!((status.id.as_str(), status.state), ("demo", ModelState::Loading));
    assert_eq!((status.phase, status.bytes_total), (ModelPhase::Probing, 0));
    let ready = worker.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(worker.post("/v1/chat/completions", &chat(json!({"model": "other"}))).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_ends_who_waits_with_its_reason() {
    let origin = origin(&Revision::new(0));
    hold(&origin, &format!("m/{LAST}"));
    let (worker, loaded) = begin(json!({"backend": "cpu"}), storage(), vec![at(&origin, "m")]).await;
    until(&worker, "headers", |model| model.phase == ModelPhase::Loading && model.max_model_len > 0).await;
    let asked = tokio::spawn({
        let (address, body) = (worker.address, chat(greedy(4)).to_string());
        async move {
            let headers = [("content-type", "application/json")];
            let open = crate::client::open(address, "POST", "/v1/chat/completions", &headers, body.as_bytes());
            open.await.finish().await
        }
    });
    until(&worker, "a waiting step", |model| model.waiting_for.is_some()).await;
    origin.set_faults(scripted(&format!("m/{LAST}"), LOOKS + 1, Fault::Missing));
    let reply = asked.await.expect("an answer");
    assert!(reply.status >= 500 && reply.text().contains(LAST), "{} {}", reply.status, reply.text());
    let error = tokio::time::timeout(PATIENCE, loaded).await.expect("ends in time").expect_err("fails");
    assert!(error.to_string().contains("demo"), "{error}");
    let failed = until(&worker, "failure", |model| model.phase == ModelPhase::Failed).await;
    assert_eq!(failed.state, ModelState::Failed);
    assert!(failed.error.as_deref().is_some_and(|why| why.contains(LAST)), "{failed:?}");
    assert_eq!(worker.get("/readyz").await.status, 503);
    let later = worker.post("/v1/chat/completions", &chat(greedy(4))).await;
    assert!(later.status == 503 && later.text().contains(LAST), "{}", later.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_proven_is_not_served_where_proof_is_required() {
    let origin = origin(&Revision::new(0));
    let mut storage = storage();
    storage.trust.require_proof = true;
    let (worker, loaded) = begin(json!({"backend": "cpu"}), storage, vec![at(&origin, "m")]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("ends in time").expect_err("refused");
    let failed = status(&worker).await;
    assert_eq!(failed.phase, ModelPhase::Failed);
    assert!(failed.error.as_deref().is_some_and(|why| why.contains("deciding whom to believe")), "{failed:?}");
    let read = origin.account().objects.get(&format!("m/{LAST}")).map_or(0, |object| object.requests);
    assert!(read <= LOOKS, "no weight was fetched: {read} requests");
}
