//! Weights that are quantized as they arrive: readiness, swaps, and the memory that the copies take.

use crate::arrival::{status, until};
use crate::client::PATIENCE;
use crate::model::{CHANGED_FILE, LAST, Revision, answer, at, greedy, hold, let_go, text};
use crate::worker_process::{Running, begin, start, storage};
use serde_json::{Value, json};
use testkit::origin::Origin;
use wire::status::{ModelPhase, Quantization};
use worker::lifecycle::ModelSource;

const TOKENS: u32 = 64;

fn settings() -> Value {
    json!({"backend": "cpu", "quantization": "q8_0"})
}

async fn serve(origin: &Origin, folder: &str) -> Running {
    let (worker, loaded) = begin(settings(), storage(), vec![at(origin, folder)]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    worker
}

async fn told(worker: &Running) -> Quantization {
    status(worker).await.quantization.expect("it says what was lost")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_quantizing_lost_is_told() {
    let worker = start(settings()).await;
    let told = told(&worker).await;
    assert_eq!(told.format, "q8_0");
    assert!(told.matrices > 7 && told.bytes > 0, "{told:?}");
    assert!(told.relative_error_mean > 0.003 && told.relative_error_mean <= told.relative_error_max, "{told:?}");
    assert!(told.relative_error_max < 0.012, "trained weights have larger ones than normal numbers: {told:?}");
    assert!(told.worst.ends_with(".weight"), "{told:?}");
    let bytes = worker.metric("forebay_worker_quantized_bytes");
    assert_eq!(bytes, told.bytes as f64);
    let plain = start(json!({"backend": "cpu"})).await;
    assert_eq!(status(&plain).await.quantization, None);
    let request = json!({"prompt": "The forebay holds water", "max_tokens": 0, "echo": true, "logprobs": 1});
    let (of_plain, found) = (plain.complete(request.clone()).await, worker.complete(request).await);
    let numbers = |answer: &Value| -> Vec<f64> {
        let all = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list").clone();
        all.iter().filter_map(Value::as_f64).collect()
    };
    let apart: Vec<f64> =
        numbers(&of_plain).iter().zip(numbers(&found)).map(|(one, other)| (one - other).abs()).collect();
    assert!(apart.iter().any(|apart| *apart > 0.0), "8 bits are not 16");
    assert!(apart.iter().all(|apart| *apart < 0.5), "{apart:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_layers_it_needs_and_for_no_others() {
    let expected = answer(&start(settings()).await, 16).await;
    let origin = Revision::new(0).on(Origin::builder().seed(1), "m").start().expect("starts");
    hold(&origin, &format!("m/{LAST}"));
    let (worker, loaded) = begin(settings(), storage(), vec![at(&origin, "m")]).await;
    until(&worker, "the headers", |model| model.phase == ModelPhase::Loading && model.load.kv_blocks_total > 0).await;
    let asked = async { text(&worker.chat(greedy(16)).await) };
    let held = async {
        let is_there = |part: Option<&str>| part == Some("the final norm and the head");
        let waiting = until(&worker, "the last part", |model| is_there(model.waiting_for.as_deref())).await;
        assert_eq!((waiting.load.running, waiting.quantization), (1, None));
        assert_eq!(worker.get("/readyz").await.status, 503);
        assert_eq!(worker.get("/livez").await.status, 200);
        let_go(&origin);
    };
    let (found, ()) = tokio::join!(asked, held);
    assert_eq!(found, expected);
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    assert_eq!(worker.get("/readyz").await.status, 200);
    assert!(told(&worker).await.matrices > 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_quantized_before_it_takes_the_place_of_the_old_one() {
    let both = || {
        let builder = Revision::new(0).published().on(Origin::builder().seed(1), "old");
        Revision::new(1).published().on(builder, "new").start().expect("starts")
    };
    let new = answer(&serve(&both(), "new").await, TOKENS).await;
    let origin = both();
    let worker = serve(&origin, "old").await;
    let (old, before) = (answer(&worker, TOKENS).await, told(&worker).await);
    assert_ne!(old, new, "the revisions can be told apart");
    hold(&origin, &format!("new/{CHANGED_FILE}"));
    let body = json!({"source": format!("{}/new/", origin.url())});
    assert_eq!(worker.post("/admin/models/demo/swap", &body).await.status, 202);
    assert_eq!(answer(&worker, TOKENS).await, old, "the old revision answers while the new one arrives");
    assert_eq!(status(&worker).await.phase, ModelPhase::Swapping);
    let_go(&origin);
    let ready = until(&worker, "the end of the swap", |model| model.phase == ModelPhase::Ready).await;
    assert_eq!(ready.error, None);
    assert_eq!(answer(&worker, TOKENS).await, new);
    // The changed matrix has the same rows in another order, which no number of the loss depends on but for rounding.
    let after = told(&worker).await;
    assert_eq!((after.matrices, after.bytes), (before.matrices, before.bytes));
    assert!((after.relative_error_mean - before.relative_error_mean).abs() < 1e-6, "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copies_count_in_the_one_budget() {
    let worker = start(settings()).await;
    let (copies, mapped) = (told(&worker).await.bytes, status(&worker).await.weights_bytes);
    let load = |budget: u64| async move {
        let mut settings = settings();
        settings["memory_bytes"] = json!(budget);
        let (worker, loaded) = begin(settings, storage(), vec![ModelSource::Demo]).await;
        (tokio::time::timeout(PATIENCE, loaded).await.expect("ends in time"), worker)
    };
    let (refused, _) = load(mapped + copies - 1).await;
    let error = refused.expect_err("too little for the weights and their copies");
    let mut causes = vec![error.to_string()];
    let mut cause = std::error::Error::source(&*error);
    while let Some(next) = cause {
        causes.push(next.to_string());
        cause = next.source();
    }
    let said = causes.join(": ");
    assert!(said.contains(&format!("weights {mapped}, their quantized copies {copies}, activations")), "{said}");
    let (fits, _worker) = load(mapped + copies + (256 << 20)).await;
    fits.expect("there is room");
}
