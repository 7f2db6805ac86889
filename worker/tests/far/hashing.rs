//! A trusted directory has a name of its own until its weights were hashed.

use crate::arrival::{status, until};
use crate::client::PATIENCE;
use crate::model::{Revision, at};
use crate::worker_process::{Running, begin, storage};
use serde_json::{Value, json};
use std::path::Path;
use testkit::origin::Origin;
use wire::status::{ModelPhase, ModelStatus};
use worker::lifecycle::ModelSource;

/// The revision's files in a folder of this machine.
fn write(revision: &Revision, folder: &Path) -> ModelSource {
    for (name, bytes) in &revision.0 {
        std::fs::write(folder.join(name), bytes).expect("writes");
    }
    format!("demo={}", folder.display()).parse().expect("a directory")
}

async fn serve(model: ModelSource, hash_bytes_per_second: u64) -> Running {
    let settings = json!({"backend": "cpu", "hash_bytes_per_second": hash_bytes_per_second});
    let (worker, loaded) = begin(settings, storage(), vec![model]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    worker
}

fn is_public(model: &ModelStatus) -> bool {
    model.identity.as_ref().is_some_and(|identity| identity.is_public)
}

/// Tokens of a prompt that were found in the cache.
async fn cached(worker: &Running) -> Value {
    let prompt = "The forebay is the pool above the turbines, where water waits until it falls. ".repeat(3);
    let answer = worker.complete(json!({"prompt": prompt, "max_tokens": 1})).await;
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_hashed_has_the_names_of_equal_weights_from_storage() {
    let revision = Revision::new(0);
    let origin = revision.clone().published().on(Origin::builder().seed(1), "far").start().expect("starts");
    let far = serve(at(&origin, "far"), 0).await;
    let folder = tempfile::tempdir().expect("a folder");
    let near = serve(write(&revision, folder.path()), 1 << 30).await;
    let hashed = until(&near, "a public name", is_public).await;
    let proven = status(&far).await;
    assert_eq!((&hashed.identity, &hashed.digests), (&proven.identity, &proven.digests));
    assert_eq!((hashed.proof.as_str(), proven.proof.as_str()), ("trusted", "proven"));
    assert!(hashed.digests.is_some_and(|digests| digests.weights.is_some() && digests.text.starts_with("blake3:")));
    assert_eq!(near.metric("forebay_worker_hashed_bytes"), near.metric("forebay_worker_weights_bytes"));
    // The same files again: the name is remembered, and nothing is installed.
    cached(&near).await;
    let warm = cached(&near).await;
    assert!(warm.as_u64().is_some_and(|tokens| tokens > 0), "{warm}");
    let source = json!({"source": folder.path().display().to_string()});
    assert_eq!(near.post("/admin/models/demo/swap", &source).await.status, 202);
    let swapped = until(&near, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!((swapped.identity, cached(&near).await), (proven.identity, warm));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_hashed_keeps_a_name_of_its_own() {
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut found = Vec::new();
    for folder in [&first, &second] {
        let worker = serve(write(&Revision::new(0), folder.path()), 0).await;
        let model = status(&worker).await;
        assert!(!is_public(&model) && worker.metric("forebay_worker_hashed_bytes") == 0.0, "{model:?}");
        found.push(model);
    }
    assert_ne!(found[0].identity, found[1].identity);
    let digests = found[0].digests.clone().expect("digests of its text");
    assert_eq!((found[1].digests.as_ref(), &digests.weights), (Some(&digests), &None));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_text_has_another_digest_and_the_same_name() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let revision = Revision::new(0);
    let mut reworded = revision.clone();
    reworded.0.insert("chat_template.jinja".into(), b"{{ messages[0].content }}".to_vec());
    let mut found = Vec::new();
    for (revision, folder) in [(&revision, &folder), (&reworded, &other)] {
        let worker = serve(write(revision, folder.path()), 1 << 30).await;
        found.push(until(&worker, "a public name", is_public).await);
    }
    assert_eq!(found[0].identity, found[1].identity);
    let [one, two] = [0, 1].map(|index| found[index].digests.clone().expect("digests"));
    assert_eq!((&one.weights, &one.kv_layout), (&two.weights, &two.kv_layout));
    assert_ne!(one.text, two.text);
}
