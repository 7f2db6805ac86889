//! Living with clients and operators: those who leave, those who do not read, full queues, drains, probes, metrics.

use crate::worker_process::{Running, begin, chat, start, storage};
use serde_json::{Value, json};
use std::time::Duration;
use wire::status::{ModelState, WorkerStatus};
use worker::lifecycle::ModelSource;

const RUNNING: &str = "vllm:num_requests_running";
const WAITING: &str = "vllm:num_requests_waiting";
const KV: &str = "vllm:kv_cache_usage_perc";
/// 16 positions of 4 bytes.
const SCRIPTED_BLOCK_BYTES: u64 = 64;

fn endless(max_tokens: u32) -> Value {
    chat(json!({"stream": true, "max_tokens": max_tokens, "ignore_eos": true, "seed": 1}))
}

async fn open_stream(worker: &Running, request: &Value) -> crate::client::Open {
    let mut open = worker.open("POST", "/v1/chat/completions", request.to_string().as_bytes()).await;
    assert_eq!(open.reply.status, 200);
    while open.events().len() < 3 {
        assert!(open.more().await, "the stream ended early");
    }
    open
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_sequences_and_blocks() {
    let worker = start(json!({"scripted_step_ms": 5})).await;
    let mut request = endless(1500);
    request["n"] = json!(4);
    let open = open_stream(&worker, &request).await;
    worker.until(RUNNING, |running| running == 4.0).await;
    assert!(worker.metric(KV) > 0.0);
    drop(open);
    worker.until(RUNNING, |running| running == 0.0).await;
    worker.until(KV, |usage| usage == 0.0).await;
    // 1500 steps of 5 ms would have taken 7.5 s; it was noticed long before.
    assert!(worker.metric("vllm:generation_tokens_total") < 4.0 * 1500.0);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_frees_its_place() {
    let worker = start(json!({"scripted_step_ms": 5})).await;
    let body = chat(json!({"max_tokens": 1500, "ignore_eos": true})).to_string();
    let asked =
        tokio::time::timeout(Duration::from_millis(200), worker.open("POST", "/v1/chat/completions", body.as_bytes()));
    assert!(asked.await.is_err(), "a whole answer of 1500 steps is not there in 200 ms");
    worker.until(RUNNING, |running| running == 0.0).await;
    worker.until(KV, |usage| usage == 0.0).await;
}

#[tokio::test]
async fn a_slow_reader_pauses_only_itself() {
    let worker = start(json!({"max_num_seqs": 4})).await;
    let slow = open_stream(&worker, &endless(1900)).await;
    for _ in 0..5 {
        let answer = worker.chat(json!({"max_tokens": 50, "ignore_eos": true})).await;
        assert_eq!(answer["usage"]["completion_tokens"], 50);
    }
    let whole = slow.finish().await;
    assert!(whole.text().ends_with("data: [DONE]\n\n"), "the slow one loses nothing");
}

#[tokio::test]
async fn a_full_queue_is_a_503_with_a_time_to_come_back() {
    let worker = start(json!({"scripted_step_ms": 5, "max_num_seqs": 1, "queue_max": 1})).await;
    let first = open_stream(&worker, &endless(1500)).await;
    let second = tokio::spawn({
        let (address, body) = (worker.address, endless(1500).to_string());
        async move {
            let headers = [("content-type", "application/json")];
            crate::client::open(address, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
        }
    });
    worker.until(WAITING, |waiting| waiting == 1.0).await;
    let refused = worker.post("/v1/chat/completions", &endless(5)).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "overloaded");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|seconds| seconds >= 1)));
    assert!(refused.header("retry-after-ms").is_some());
    second.abort();
    drop(first);
    worker.until(WAITING, |waiting| waiting == 0.0).await;
    worker.until(RUNNING, |running| running == 0.0).await;
}

#[tokio::test]
async fn a_drain_flips_readiness_refuses_and_finishes_streams() {
    let worker = start(json!({"scripted_step_ms": 2, "listen": {"drain_notice_ms": 600}})).await;
    let stream = open_stream(&worker, &endless(900)).await;
    worker.drain.start();
    let ready = worker.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(worker.get("/livez").await.status, 200);
    let whole = stream.finish().await;
    assert!(whole.text().ends_with("data: [DONE]\n\n"), "the stream finished");
    worker.task.await.expect("serve returns");
}

#[tokio::test]
async fn blocks_run_out_and_every_answer_is_whole_all_the_same() {
    // Few blocks: sequences preempt each other. What they say must not change.
    let roomy = start(json!({})).await;
    let request = |seed: u64| json!({"seed": seed, "max_tokens": 120, "temperature": 1, "ignore_eos": true});
    let expected = futures_util::future::join_all((0..6).map(|seed| roomy.chat(request(seed)))).await;
    let tight = start(json!({"kv_cache_memory_bytes": 24 * SCRIPTED_BLOCK_BYTES, "max_model_len": 256})).await;
    let found = futures_util::future::join_all((0..6).map(|seed| tight.chat(request(seed)))).await;
    for (seed, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected["choices"], found["choices"], "seed {seed}");
    }
    assert!(tight.metric("vllm:num_preemptions_total") > 0.0, "the test was to be tight");
    tight.until(KV, |usage| usage == 0.0).await;
}

#[tokio::test]
async fn status_says_what_the_router_needs() {
    let worker = start(json!({"max_model_len": 512})).await;
    let status: WorkerStatus = serde_json::from_value(worker.get("/status").await.json()).expect("a status");
    assert!(status.ready && !status.draining);
    let model = &status.models[0];
    assert_eq!((model.id.as_str(), model.state, model.max_model_len), ("demo", ModelState::Ready, 512));
    assert!(model.load.kv_blocks_total > 0 && model.load.running == 0);
    worker.drain.start();
    let status: WorkerStatus = serde_json::from_value(worker.get("/status").await.json()).expect("a status");
    assert!(status.draining && !status.ready);
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_our_names_and_vllms() {
    let worker = start(json!({})).await;
    worker.chat(json!({"max_tokens": 7, "ignore_eos": true})).await;
    // The last token is on its way before the sequence is counted as finished.
    worker.until("vllm:request_success_total", |count| count == 1.0).await;
    let reply = worker.get("/metrics").await;
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let text = reply.text();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let bare = name.split('{').next().expect("a name");
        assert!(bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte)), "{line}");
    }
    for name in [
        RUNNING,
        WAITING,
        KV,
        "vllm:cache_config_info",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "forebay_worker_time_to_first_token_seconds_count",
        "forebay_worker_inter_token_latency_seconds_count",
        "forebay_worker_step_seconds_count",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing");
    }
    assert_eq!(worker.metric("vllm:generation_tokens_total"), 7.0);
    assert_eq!(worker.metric("vllm:inter_token_latency_seconds_count"), 6.0, "measured per token, at the engine");
}

#[tokio::test]
async fn a_watched_status_says_how_the_load_changes_and_ends_with_the_drain() {
    let worker = start(json!({"scripted_step_ms": 5})).await;
    let mut watch = worker.open("GET", "/status?watch", b"").await;
    while watch.events().is_empty() {
        assert!(watch.more().await, "the watch ended early");
    }
    let first: WorkerStatus = serde_json::from_str(&watch.events()[0].data).expect("a status");
    assert!(first.ready && first.models[0].load.running == 0);
    worker.drain.start();
    while watch.more().await {}
    let last: WorkerStatus = serde_json::from_str(&watch.events().last().expect("an event").data).expect("a status");
    assert!(last.draining);
}

#[tokio::test]
async fn memory_is_given_as_asked_or_refused_with_the_numbers() {
    let wanting = json!({"backend": "cpu", "memory_bytes": 1_000_000, "max_model_len": 64});
    let (_worker, loaded) = begin(wanting, storage(), vec![ModelSource::Demo]).await;
    let error = loaded.await.expect_err("too little");
    let causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(text.contains("exceed the budget of 1000000 bytes") && text.contains("kv_cache_memory_bytes"), "{text}");
    let budgets = [200_000_000, 200_100_000];
    let mut blocks = Vec::new();
    for memory_bytes in budgets {
        let worker = start(json!({"backend": "cpu", "memory_bytes": memory_bytes, "max_model_len": 64})).await;
        let status: WorkerStatus = serde_json::from_value(worker.get("/status").await.json()).expect("a status");
        blocks.push(u64::from(status.models[0].load.kv_blocks_total));
        assert_eq!(worker.chat(json!({"max_tokens": 1})).await["object"], "chat.completion");
    }
    assert!(blocks[0] * 1000 < budgets[0] && blocks[1] > blocks[0], "more memory is more blocks: {blocks:?}");
}

#[tokio::test]
async fn a_kv_cache_of_a_given_size_has_its_memory_before_the_model_is_ready() {
    const TOOK: &str = "forebay_worker_load_seconds{model=\"demo\",phase=\"kv_cache\"}";
    let said = async |settings: Value| start(settings).await.registry.render().contains(TOOK);
    let sized = json!({"backend": "cpu", "max_model_len": 64, "kv_cache_memory_bytes": 8_000_000});
    assert!(said(sized.clone()).await);
    assert!(!said(json!({"backend": "cpu"})).await, "where nobody gave one, nothing is taken");
    let mut lazy = sized;
    lazy["kv_cache_populate"] = false.into();
    assert!(!said(lazy).await);
}

#[tokio::test]
async fn a_step_that_hangs_fails_liveness_and_says_what_it_was_doing() {
    // Longer than any test: its thread is left to the end of the process.
    let worker = start(json!({"scripted_step_ms": 3_600_000, "liveness_timeout_ms": 500})).await;
    let body = chat(json!({"max_tokens": 1, "ignore_eos": true})).to_string();
    let _asked = tokio::spawn({
        let address = worker.address;
        async move {
            let headers = [("content-type", "application/json")];
            crate::client::open(address, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await
        }
    });
    worker.until(RUNNING, |running| running == 1.0).await;
    worker.until("forebay_worker_wedged", |wedged| wedged == 1.0).await;
    let (livez, ready) = (worker.get("/livez").await, worker.get("/readyz").await);
    assert_eq!((livez.status, ready.status), (503, 503));
    assert!(livez.text().contains("demo: no sign of life for"), "{}", livez.text());
    assert!(livez.text().contains("computing step 1 of 1 sequences"), "{}", livez.text());
    let status = worker.get("/status").await.json();
    let wedged = &status["models"][0]["wedged"];
    assert_eq!(
        (&wedged["activity"], &wedged["step"], &wedged["sequences"]),
        (&json!("computing"), &json!(1), &json!(1))
    );
    assert!(wedged["since_unix_ms"].as_u64().is_some_and(|since| since > 1_600_000_000_000));
}

#[tokio::test]
async fn the_flight_recorder_is_read_and_holds_no_content() {
    let worker = start(json!({})).await;
    let secret = "xylophone quartz";
    let messages = json!([{"role": "user", "content": secret}]);
    let answer = worker.chat(json!({"messages": messages, "max_tokens": 20, "ignore_eos": true})).await;
    let said = answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    worker.until(RUNNING, |running| running == 0.0).await;
    let reply = worker.get("/admin/flight-recorder").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let flight = &reply.json()["models"][0];
    let steps = flight["steps"].as_array().expect("steps");
    let sum = |field: &str| steps.iter().map(|step| step[field].as_u64().expect("a number")).sum::<u64>();
    assert_eq!(flight["model"], "demo");
    assert_eq!(sum("prefill_tokens"), answer["usage"]["prompt_tokens"].as_u64().expect("usage"));
    // The first token comes of the prompt's own step.
    assert_eq!(sum("decode_tokens"), 19);
    for word in [secret, "xylophone", said.as_str()] {
        assert!(!reply.text().contains(word), "{word:?} is in the flight recorder");
    }
}
