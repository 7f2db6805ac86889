//! Limits of tokens and of requests at a time, as clients and workers meet them.

use crate::harness::{Front, chat, streamed};
use http_body_util::BodyExt;
use policy::{LimitsConfig, ModelLimitsConfig, TenantConfig, hash_key};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

/// A tenant whose key is its name.
fn tenant(name: &str) -> TenantConfig {
    TenantConfig { name: name.into(), key_sha256: vec![hash_key(name)], ..TenantConfig::default() }
}

fn limited_to(tokens: u64) -> TenantConfig {
    TenantConfig { tokens_per_minute: Some(tokens), ..tenant("red") }
}

/// A stream of texts that ends with a count of tokens.
fn counted(texts: &[&str], prompt_tokens: u32, completion_tokens: u32) -> Answer {
    let mut pieces: Vec<Vec<u8>> = texts.iter().map(|text| chat_event(0, text, None)).collect();
    let total_tokens = prompt_tokens + completion_tokens;
    let usage =
        json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total_tokens});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage});
    pieces.push(chat_event(0, "", Some("stop")));
    pieces.push(format!("data: {chunk}\n\n").into_bytes());
    pieces.push(b"data: [DONE]\n\n".to_vec());
    Answer::stream(pieces)
}

/// The rest of a tenant's tokens of this minute, as a request shows it that takes one of them.
async fn left(front: &Front, key: &str) -> u64 {
    let body = json!({"model": "m", "messages": [], "max_tokens": 1});
    let reply = front.chat_as(key, &body).await;
    let left = reply.headers["x-ratelimit-remaining-tokens"].to_str().expect("text");
    left.parse::<u64>().expect("a number") + u64::from(reply.status == 200)
}

fn with(body: Value, member: &str, value: Value) -> Value {
    let mut body = body;
    body[member] = value;
    body
}

#[tokio::test]
async fn tokens_are_reserved_and_what_is_not_used_comes_back() {
    let worker = FaultyWorker::start(&["m"], counted(&["a", "b"], 30, 20)).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![limited_to(1_000)];
        config.policy.assumed_max_tokens = 100;
    })
    .await;
    let begun = std::time::Instant::now();
    let ask = with(streamed(), "max_tokens", json!(800));
    let reply = front.chat_as("red", &ask).await;
    assert_eq!(reply.headers["x-ratelimit-limit-tokens"], "1000");
    assert_eq!(reply.headers["x-ratelimit-remaining-tokens"], "199", "800, and one for the prompt");
    assert!(reply.headers.contains_key("x-ratelimit-reset-tokens"));
    // The client did not ask for a count, so it sees none.
    assert!(reply.events().iter().all(|event| !event.contains("usage")), "{:?}", reply.events());
    let sent: Value = serde_json::from_slice(&worker.received()[0].body).expect("json");
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    worker.always(Answer::whole_chat("hi"));
    let after = left(&front, "red").await;
    let refilled = begun.elapsed().as_secs_f64() * 1_000.0 / 60.0;
    assert!((950.0..951.0 + refilled).contains(&(after as f64)), "{after}: 50 were used, {refilled} came back");
    assert_eq!(front.metric("forebay_policy_tokens_total{tenant=\"red\",type=\"prompt\"}"), 31.0);
    // Who asks for the count gets it, and the body as it was.
    worker.always(counted(&["a"], 3, 4));
    let asked = with(streamed(), "stream_options", json!({"include_usage": true}));
    let reply = front.chat_as("red", &asked).await;
    assert!(reply.events().iter().any(|event| event.contains("completion_tokens")), "{:?}", reply.events());
    assert_eq!(worker.received().last().expect("one").body, asked.to_string().as_bytes());
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn who_has_no_tokens_left_is_told_when_and_who_never_will_is_told_not_to_try() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let mut budgeted = tenant("blue");
    budgeted.tokens_per_day = Some(300);
    let front = Front::start(&[&worker], |config| config.policy.tenants = vec![limited_to(600), budgeted]).await;
    let ask = async |key: &str, max: u64| front.chat_as(key, &with(chat(), "max_tokens", json!(max))).await;
    let reply = ask("red", 700).await;
    assert_eq!((reply.status, reply.error("code").as_str()), (429, "rate_limit_exceeded"));
    assert!(reply.error("message").contains("max_tokens"), "{}", reply.error("message"));
    assert_eq!(
        (&reply.headers["x-should-retry"], reply.headers.get("retry-after")),
        (&"false".parse().expect("v"), None)
    );
    // A worker that does not answer yet holds what it may come to.
    worker.next(Answer { head_delay: Duration::from_secs(30), ..Answer::whole_chat("hi") });
    let body = with(chat(), "max_tokens", json!(500));
    let slow = front.chat_as("red", &body);
    let refused = async {
        while worker.received().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ask("red", 500).await
    };
    let refused = tokio::select! {
        _ = slow => panic!("the worker waits"),
        refused = refused => refused,
    };
    assert_eq!((refused.status, refused.error("code").as_str()), (429, "rate_limit_exceeded"));
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((30..=41).contains(&wait), "{wait}");
    assert!(refused.headers.contains_key("retry-after-ms") && !refused.headers.contains_key("x-should-retry"));
    assert_eq!(ask("blue", 290).await.status, 200);
    let over = ask("blue", 299).await;
    assert_eq!(
        (over.status, over.error("code").as_str(), over.error("type").as_str()),
        (429, "insufficient_quota", "insufficient_quota")
    );
    assert_eq!(over.headers["x-should-retry"], "false");
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"budget\"}"), 1.0);
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"tokens\"}"), 2.0);
}

/// Vectors have no completions, so nothing is reserved for any.
#[tokio::test]
async fn embeddings_reserve_their_texts_alone() {
    let vector = json!({"object": "embedding", "index": 0, "embedding": [0.5]});
    let usage = json!({"prompt_tokens": 70, "total_tokens": 70});
    let answer = json!({"object": "list", "data": [vector], "model": "m", "usage": usage});
    let worker = FaultyWorker::start(&["m"], Answer::json(200, &answer)).await;
    let front = Front::start(&[&worker], |config| config.policy.tenants = vec![limited_to(1_000)]).await;
    let body = json!({"model": "m", "input": vec!["four"; 64]}).to_string().into_bytes();
    let reply = front.send(http::Method::POST, "/v1/embeddings", &[("authorization", "Bearer red")], body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.headers["x-ratelimit-remaining-tokens"], "936");
    front.assert_idle(&[&worker]).await;
    assert_eq!(front.total("forebay_policy_tokens_total"), 70.0);
}

/// However an answer ends: what a client was given is paid for, and what nobody gave is not.
#[tokio::test]
async fn every_end_of_an_answer_settles_it() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![TenantConfig { concurrent_requests: Some(1), ..limited_to(1_000_000) }];
        config.retry.attempts_max = 1;
        // A connection that closes under a request is tried anew; here each is new.
        config.pool_idle_ms = 0;
    })
    .await;
    let texts = ["w"; 100];
    let cut = Answer { pieces: texts.iter().map(|text| chat_event(0, text, None)).collect(), ..Answer::chat(&[]) };
    let mut uncounted = Answer::whole_chat(&"four".repeat(50));
    uncounted.pieces =
        vec![String::from_utf8(uncounted.pieces.concat()).expect("text").replace("usage", "use").into_bytes()];
    for (what, answer, body, used) in [
        ("a count", counted(&texts, 7, 100), streamed(), 107..=107),
        ("no count", Answer::chat(&texts), streamed(), 101..=101),
        ("a stream that breaks", cut.ending(Ending::Cut), streamed(), 101..=101),
        ("a whole answer", Answer::whole_chat("hi"), chat(), 2..=2),
        ("a whole answer without a count", uncounted, chat(), 51..=51),
        ("a refusal", Answer::error(400, "no"), chat(), 0..=0),
        ("a failure", Answer::error(500, "no"), chat(), 0..=0),
        ("silence", Answer::silence(), chat(), 0..=0),
        ("no answer", Answer::json(200, &json!({"no": "choices"})), chat(), 0..=0),
    ] {
        let before = front.total("forebay_policy_tokens_total");
        worker.next(answer);
        let mut reply = front.chat_as("red", &body).await;
        while reply.status == 503 {
            // The worker rests for a moment after a failure.
            tokio::time::sleep(Duration::from_millis(20)).await;
            reply = front.chat_as("red", &body).await;
        }
        front.assert_idle(&[&worker]).await;
        let used_now = front.total("forebay_policy_tokens_total") - before;
        assert!(used.contains(&(used_now as u64)), "{what}: {used_now} tokens, {}", reply.status);
    }
}

#[tokio::test]
async fn requests_at_a_time_are_bounded_and_a_client_that_leaves_frees_its_place() {
    let endless = Answer::stream(vec![chat_event(0, "a", None)]).ending(Ending::Stall);
    let worker = FaultyWorker::start(&["m"], endless).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![TenantConfig { concurrent_requests: Some(2), ..tenant("red") }, tenant("blue")];
    })
    .await;
    let bearer = [("authorization", "Bearer red")];
    let open = || front.open(http::Method::POST, "/v1/chat/completions", &bearer, streamed().to_string().into_bytes());
    let (mut one, two) = (open().await, open().await);
    one.body_mut().frame().await.expect("an event").expect("bytes");
    let refused = front.chat_as("red", &streamed()).await;
    assert_eq!((refused.status, refused.error("code").as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(refused.headers["retry-after"], "1");
    worker.next(Answer::whole_chat("hi"));
    assert_eq!(front.chat_as("blue", &chat()).await.status, 200, "others are not concerned");
    drop((one, two));
    front.assert_idle(&[&worker]).await;
    worker.always(Answer::whole_chat("hi"));
    assert_eq!(front.chat_as("red", &chat()).await.status, 200);
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"concurrency\"}"), 1.0);
}

#[tokio::test]
async fn keys_and_models_have_limits_of_their_own_and_other_models_do_not_exist() {
    let worker = FaultyWorker::start(&["m", "n", "secret"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        let key_sha256 = vec![hash_key("old"), hash_key("new")];
        let per_key = LimitsConfig { requests_per_minute: Some(3), ..LimitsConfig::default() };
        let of_model =
            ModelLimitsConfig { model: "n".into(), requests_per_minute: Some(1), ..ModelLimitsConfig::default() };
        let models = vec!["m".into(), "n".into()];
        config.policy.tenants =
            vec![TenantConfig { key_sha256, models, per_key, per_model: vec![of_model], ..tenant("red") }];
    })
    .await;
    let ask = async |key: &str, model: &str| front.chat_as(key, &with(chat(), "model", json!(model))).await;
    assert_eq!(ask("old", "n").await.status, 200);
    let refused = ask("new", "n").await;
    assert!(refused.status == 429 && refused.error("message").contains("of this model"), "{}", refused.body);
    assert_eq!(
        (ask("old", "m").await.status, ask("old", "m").await.status, ask("old", "m").await.status),
        (200, 200, 429)
    );
    assert_eq!(ask("new", "m").await.status, 200, "a key that takes its place");
    let hidden = ask("new", "secret").await;
    assert_eq!((hidden.status, hidden.error("code").as_str()), (404, "model_not_found"));
    assert_eq!(hidden.body.replace("secret", "x"), ask("new", "nobody").await.body.replace("nobody", "x"));
    let bearer = [("authorization", "Bearer new")];
    let listed = front.send(http::Method::GET, "/v1/models", &bearer, Vec::new()).await.json();
    let ids: Vec<&str> =
        listed["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["m", "n"]);
    assert_eq!(front.send(http::Method::GET, "/v1/models/secret", &bearer, Vec::new()).await.status, 404);
    assert_eq!(worker.received().len(), 4);
}
