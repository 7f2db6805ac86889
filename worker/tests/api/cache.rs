//! The prefix cache and priorities as a client sees them.

use super::client;
use super::worker_process::{Running, chat, completion, start};
use serde_json::{Value, json};
use wire::headers::CACHE_SALT;
use wire::status::{KvEvent, KvEvents};

/// A prompt of `count` tokens, different for each `kind`.
fn prompt(kind: u64, count: u64) -> Value {
    (0..count).map(|at| 10 + (at * 7 + kind * 31) % 200).collect::<Vec<u64>>().into()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("cached tokens")
}

async fn as_tenant(worker: &Running, tenant: &str, body: &Value) -> Value {
    let headers = [("content-type", "application/json"), (CACHE_SALT, tenant)];
    let body = body.to_string();
    client::open(worker.address, "POST", "/v1/completions", &headers, body.as_bytes()).await.finish().await.json()
}

#[tokio::test]
async fn a_prompt_seen_before_is_not_computed_again_and_says_the_same() {
    let worker = start(json!({})).await;
    let ask = json!({"prompt": prompt(0, 100), "max_tokens": 20, "seed": 7, "temperature": 1, "ignore_eos": true});
    let (first, second) = (worker.complete(ask.clone()).await, worker.complete(ask).await);
    assert_eq!((cached(&first), cached(&second)), (0, 96));
    assert_eq!(first["choices"], second["choices"]);
    for name in ["vllm:prefix_cache_queries_total", "forebay_worker_prefix_cache_queries_total"] {
        worker.until(name, |count| count == 200.0).await;
    }
    for name in ["vllm:prefix_cache_hits_total", "forebay_worker_prefix_cache_hits_total"] {
        worker.until(name, |count| count == 96.0).await;
    }
    // 119 tokens are computed: 7 blocks are full.
    worker.until("forebay_worker_prefix_cache_blocks", |blocks| blocks == 7.0).await;
    worker.until("forebay_worker_kv_usage_ratio", |usage| usage == 0.0).await;
}

#[tokio::test]
async fn the_choices_of_a_request_share_its_prompt() {
    let worker = start(json!({})).await;
    let answer = worker.complete(json!({"prompt": prompt(0, 100), "n": 4, "max_tokens": 2})).await;
    assert_eq!(cached(&answer), 0, "the first choice computed all of it");
    worker.until("vllm:prefix_cache_hits_total", |hits| hits == 3.0 * 96.0).await;
}

#[tokio::test]
async fn tenants_and_salts_share_with_themselves_only() {
    let worker = start(json!({})).await;
    let plain = completion(json!({"prompt": prompt(0, 64), "max_tokens": 1}));
    let salted = completion(json!({"prompt": prompt(0, 64), "max_tokens": 1, "cache_salt": "mine"}));
    for (tenant, body, expected) in [
        ("a", &plain, 0),
        ("b", &plain, 0),
        ("a", &salted, 0),
        ("a", &plain, 48),
        ("b", &plain, 48),
        ("a", &salted, 48),
        ("b", &salted, 0),
    ] {
        assert_eq!(cached(&as_tenant(&worker, tenant, body).await), expected, "{tenant} {body}");
    }
    let reply = worker.post("/v1/chat/completions", &chat(json!({"cache_salt": ""}))).await;
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("cache_salt")));
}

#[tokio::test]
async fn a_prompt_whose_log_probabilities_are_asked_for_is_computed_whole() {
    let worker = start(json!({})).await;
    let ask = json!({"prompt": prompt(0, 64), "max_tokens": 1, "echo": true, "logprobs": 1});
    let (first, second) = (worker.complete(ask.clone()).await, worker.complete(ask).await);
    assert_eq!((cached(&first), cached(&second)), (0, 0));
    assert_eq!(first["choices"], second["choices"]);
    assert_eq!(second["choices"][0]["logprobs"]["token_logprobs"].as_array().map(Vec::len), Some(65));
}

#[tokio::test]
async fn the_cache_can_be_left_out() {
    let worker = start(json!({"enable_prefix_caching": false})).await;
    let ask = json!({"prompt": prompt(0, 64), "max_tokens": 1});
    worker.complete(ask.clone()).await;
    assert_eq!(cached(&worker.complete(ask).await), 0);
}

#[tokio::test]
async fn a_router_can_follow_what_is_cached() {
    let worker = start(json!({"max_model_len": 64, "max_num_seqs": 1})).await;
    let events = async |from: u64| -> KvEvents {
        let reply = worker.get(&format!("/status/kv-events?model=demo&from={from}")).await;
        serde_json::from_value(reply.json()).expect("events")
    };
    // A storage of four blocks: the second prompt takes the place of the first.
    worker.complete(json!({"prompt": prompt(0, 40), "max_tokens": 1})).await;
    worker.until("forebay_worker_prefix_cache_blocks", |blocks| blocks == 2.0).await;
    let first = events(0).await;
    assert_eq!((first.block_tokens, first.first, first.next), (16, 0, 2));
    let [KvEvent::Stored { block, parent: None }, KvEvent::Stored { parent: Some(parent), .. }] = &first.events[..]
    else {
        panic!("{first:?}")
    };
    assert_eq!(block, parent);
    worker.complete(json!({"prompt": prompt(1, 63), "max_tokens": 1})).await;
    worker.until("forebay_worker_prefix_cache_blocks", |blocks| blocks == 3.0).await;
    let second = events(first.next).await;
    let removed = second.events.iter().filter(|event| matches!(event, KvEvent::Removed { .. })).count();
    assert_eq!((second.first, removed, second.events.len()), (2, 2, 5));
    assert_eq!(worker.get("/status/kv-events?model=other").await.status, 404);
}

#[tokio::test]
async fn two_workers_with_equal_weights_publish_equal_names() {
    let mut found = Vec::new();
    for _ in 0..2 {
        let worker = start(json!({})).await;
        worker.complete(json!({"prompt": prompt(0, 40), "max_tokens": 1})).await;
        worker.until("forebay_worker_prefix_cache_blocks", |blocks| blocks == 2.0).await;
        let events: KvEvents =
            serde_json::from_value(worker.get("/status/kv-events?model=demo").await.json()).expect("events");
        let status = worker.get("/status").await.json();
        let own = events.identity.clone().expect("the demo is compiled in");
        assert_eq!(status["models"][0]["identity"], json!({"digest": own.digest, "is_public": true}));
        found.push(events);
    }
    assert_eq!(found[0].events.len(), 2);
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn a_priority_is_honoured_or_refused() {
    let worker = start(json!({"scheduling_policy": "fcfs"})).await;
    let reply = worker.post("/v1/chat/completions", &chat(json!({"priority": -1}))).await;
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("priority")));
    let worker = start(json!({})).await;
    assert!(worker.chat(json!({"priority": -1, "max_tokens": 1})).await["choices"].is_array());
}
