//! Another revision takes the place of the one that serves.

use crate::arrival::{status, until};
use crate::client::PATIENCE;
use crate::model::{CHANGED_FILE, LAST, LOOKS, Revision, WHOLE, answer, at, greedy, let_go, scripted, text};
use crate::worker_process::{Running, begin, chat, storage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::origin::{Fault, Origin};
use wire::EXTENT_BYTES;
use wire::status::{KvEvent, KvEvents, ModelPhase};

const SWAP: &str = "/admin/models/demo/swap";
/// Tokens of an answer: some hundreds of steps, so that swaps fall within answers.
const TOKENS: u32 = 200;
/// Bytes that the loader reads of a file at first, to find its header.
const HEADER_READ_BYTES: u64 = 256 << 10;

async fn serve(origin: &Origin, folder: &str) -> Running {
    let (worker, loaded) = begin(json!({"backend": "cpu"}), storage(), vec![at(origin, folder)]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    worker
}

fn source(origin: &Origin, folder: &str) -> Value {
    json!({"source": format!("{}/{folder}/", origin.url())})
}

fn two_revisions() -> Origin {
    let builder = Revision::new(0).on(Origin::builder().seed(1), "old");
    Revision::new(1).on(builder, "new").start().expect("starts")
}

/// Requests for a shard file of the new revision beyond the look at it.
fn fetches(origin: &Origin, file: &str) -> u64 {
    origin.account().objects.get(&format!("new/{file}")).map_or(0, |object| object.requests).saturating_sub(LOOKS)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_wholly_of_the_old_or_of_the_new_revision_and_none_fails() {
    let origin = two_revisions();
    let new = answer(&serve(&origin, "new").await, TOKENS).await;
    let worker = Arc::new(serve(&origin, "old").await);
    let old = answer(&worker, TOKENS).await;
    assert_ne!(old, new, "the revisions can be told apart");
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (worker, is_over) = (Arc::clone(&worker), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !is_over.load(Ordering::Acquire) {
                    answers.push(text(&worker.chat(greedy(TOKENS)).await));
                }
                answers
            })
        })
        .collect();
    worker.until("vllm:num_requests_running", |running| running == 3.0).await;
    let accepted = worker.post(SWAP, &source(&origin, "new")).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    assert_eq!(accepted.json()["phase"], "swapping");
    let ready = until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!(ready.error, None);
    assert_eq!(answer(&worker, TOKENS).await, new, "who asks after the swap is answered by the new revision");
    is_over.store(true, Ordering::Release);
    for reader in readers {
        let answers = reader.await.expect("every answer comes");
        assert_eq!(answers.first(), Some(&old), "it began before the swap");
        assert_eq!(answers.last(), Some(&new), "it began after the swap");
        assert!(answers.iter().all(|answer| *answer == old || *answer == new), "an answer of both");
        assert!(answers.is_sorted_by_key(|answer| *answer == new), "none of the old after the new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_fetched_and_what_is_the_same_is_shared() {
    let (old, new) = (Revision::whole(0).published(), Revision::whole(1).published());
    let origin = new.on(old.on(Origin::builder().seed(1), "old"), "new").start().expect("starts");
    let sent = || origin.account().objects.get(&format!("new/{WHOLE}")).map_or(0, |object| object.bytes_sent);
    let mut strict = storage();
    strict.trust.require_proof = true;
    let (worker, loaded) = begin(json!({"backend": "cpu"}), strict, vec![at(&origin, "old")]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    assert_eq!(status(&worker).await.proof, "proven");
    assert_eq!(worker.post(SWAP, &source(&origin, "new")).await.status, 202);
    let swapped = until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!((swapped.error, swapped.proof.as_str()), (None, "proven"));
    assert_eq!(swapped.bytes_loaded, new.weight_bytes());
    // The two looks at the header, and the extent that holds the header and the matrix that changed.
    assert!(new.weight_bytes() > 2 * EXTENT_BYTES, "there is more to fetch");
    assert!(sent() <= EXTENT_BYTES + 2 * HEADER_READ_BYTES, "{} bytes were sent", sent());
    let swapped = answer(&worker, TOKENS).await;
    assert_eq!(swapped, answer(&serve(&origin, "new").await, TOKENS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_more_than_weights_is_refused_before_any_is_fetched() {
    let mut builder = Revision::new(0).on(Origin::builder().seed(1), "old");
    let theta = Revision::new(1).with_config("rope_theta", json!(500_000.0));
    let mut words = Revision::new(1);
    words.0.get_mut("tokenizer_config.json").expect("a file").push(b'\n');
    builder = theta.on(builder, "new");
    builder = words.on(builder, "words");
    let origin = builder.start().expect("starts");
    let worker = serve(&origin, "old").await;
    let expected = answer(&worker, 8).await;
    for (folder, field) in [("new", "rope_parameters"), ("words", "tokenizer_config.json")] {
        let reply = worker.post(SWAP, &source(&origin, folder)).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.text().contains(field), "{}", reply.text());
    }
    assert_eq!(fetches(&origin, LAST), 0, "no weights were fetched");
    let status = status(&worker).await;
    assert_eq!(status.phase, ModelPhase::Ready);
    assert!(status.error.is_some_and(|why| why.contains("tokenizer_config.json")));
    assert_eq!(answer(&worker, 8).await, expected);
    assert_eq!(worker.post(SWAP, &json!({"source": "no/such/place"})).await.status, 400);
    assert_eq!(worker.post(SWAP, &json!({"sauce": "demo"})).await.status, 400);
    assert_eq!(worker.post("/admin/models/other/swap", &source(&origin, "new")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_fails_leaves_the_old_revision_serving() {
    let origin = two_revisions();
    let worker = serve(&origin, "old").await;
    let expected = answer(&worker, TOKENS).await;
    origin.set_faults(scripted(&format!("new/{CHANGED_FILE}"), LOOKS + 1, Fault::Missing));
    let accepted = worker.post(SWAP, &source(&origin, "new")).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let failed = until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert!(failed.error.as_deref().is_some_and(|why| why.contains(CHANGED_FILE)), "{failed:?}");
    assert_eq!(answer(&worker, TOKENS).await, expected);
    assert_eq!(worker.get("/readyz").await.status, 200);
    let_go(&origin);
    assert_eq!(worker.post(SWAP, &source(&origin, "new")).await.status, 202);
    let swapped = until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!(swapped.error, None);
    assert_ne!(answer(&worker, TOKENS).await, expected, "the new revision");
    assert_eq!(worker.metric("forebay_worker_swaps_total"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_swap_at_a_time() {
    let origin = two_revisions();
    let worker = serve(&origin, "old").await;
    crate::model::hold(&origin, &format!("new/{CHANGED_FILE}"));
    assert_eq!(worker.post(SWAP, &source(&origin, "new")).await.status, 202);
    let second = worker.post(SWAP, &source(&origin, "new")).await;
    assert_eq!(second.status, 503, "{}", second.text());
    assert!(second.text().contains("under way"));
    assert_eq!(worker.post("/v1/chat/completions", &chat(greedy(2))).await.status, 200);
    let_go(&origin);
    until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
}

/// Tokens of a prompt of four blocks that are found in the cache.
async fn cached(worker: &Running) -> u64 {
    let prompt: Vec<u32> = (0..64).map(|at| 100 + at * 7 % 300).collect();
    let reply = worker.post("/v1/completions", &json!({"model": "demo", "prompt": prompt, "max_tokens": 1})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

async fn events(worker: &Running) -> KvEvents {
    serde_json::from_value(worker.get("/status/kv-events?model=demo&from=0").await.json()).expect("events")
}

async fn swap(worker: &Running, origin: &Origin, folder: &str) {
    let accepted = worker.post(SWAP, &source(origin, folder)).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let ready = until(worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!(ready.error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_weights_from_elsewhere_have_equal_names_and_a_swap_to_them_keeps_the_cache() {
    let same = Revision::new(0);
    let builder = same.on(same.on(Origin::builder().seed(1), "old"), "same");
    let origin = Revision::new(1).on(builder, "new").start().expect("starts");
    let (worker, other) = (serve(&origin, "old").await, serve(&origin, "same").await);
    for one in [&worker, &other] {
        assert_eq!((cached(one).await, cached(one).await), (0, 48));
    }
    let before = events(&worker).await;
    assert!(before.identity.as_ref().is_some_and(|identity| identity.is_public), "{before:?}");
    assert_eq!(before, events(&other).await, "whoever loaded them, from wherever");

    swap(&worker, &origin, "same").await;
    assert_eq!(cached(&worker).await, 48, "nothing was installed");
    assert_eq!(events(&worker).await, before);

    swap(&worker, &origin, "new").await;
    assert_eq!((cached(&worker).await, cached(&worker).await), (0, 48));
    let after = events(&worker).await;
    assert_ne!(after.identity, before.identity);
    let name = |event: &KvEvent| match event {
        KvEvent::Stored { block, .. } | KvEvent::Removed { block } => block.clone(),
        KvEvent::Other => unreachable!("the worker is as old as this test"),
    };
    let old: Vec<String> = before.events.iter().map(name).collect();
    let new = after.events.iter().filter(|event| !old.contains(&name(event))).count();
    assert_eq!(new, 4, "four blocks by new names: {after:?}");
    let gone = after.events.iter().filter(|event| matches!(event, KvEvent::Removed { .. })).count();
    assert_eq!(gone, 4, "the old ones are gone: {after:?}");
}
