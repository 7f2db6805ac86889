//! Keys, quotas and prompts, as a client meets them.

use crate::harness::{Front, chat, chat_about};
use listen::Drain;
use policy::{TenantConfig, hash_key};
use router::{Router, RouterConfig};
use serde_json::json;
use std::time::Duration;
use telemetry::metrics::Registry;
use testkit::faulty_worker::{Answer, FaultyWorker};

fn tenant(name: &str, key: &str, requests_per_minute: Option<u32>) -> TenantConfig {
    TenantConfig { name: name.into(), key_sha256: vec![hash_key(key)], requests_per_minute }
}

#[tokio::test]
async fn a_key_is_needed_where_keys_are_configured() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| config.policy.tenants = vec![tenant("red", "sk-red", None)]).await;
    for reply in [front.chat(&chat()).await, front.chat_as("sk-wrong", &chat()).await, front.get("/v1/models").await] {
        assert_eq!((reply.status, reply.error("code").as_str()), (401, "invalid_api_key"));
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    assert_eq!(front.chat_as("sk-red", &chat()).await.status, 200);
    assert_eq!(worker.received().len(), 1);
    assert!(!worker.received()[0].headers.contains_key("authorization"), "the client's key stays here");
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        assert_eq!(front.get(path).await.status, 200, "{path} needs no key");
    }
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"wrong_key\"}"), 1.0);
}

/// Opens the door to anonymous requests too: a header that carries no key must not pass for none.
#[tokio::test]
async fn a_header_without_a_key_is_a_wrong_key_and_never_anonymous() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", "sk-red", None)];
        config.policy.anonymous.allowed = Some(true);
    })
    .await;
    let good = ("authorization", "Bearer sk-red");
    let send = async |headers: &[(&str, &str)]| {
        let path = "/v1/chat/completions";
        front.send(http::Method::POST, path, headers, chat().to_string().into_bytes()).await.status
    };
    for headers in [
        vec![("authorization", "")],
        vec![("authorization", "Bearer")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", "Bearer \u{e9}")],
        vec![("authorization", "Basic c2stcmVk")],
        vec![("authorization", "sk-red")],
        vec![("authorization", "Digest username=x"), good],
        vec![good, ("authorization", "Bearer sk-blue")],
        vec![good, good],
        vec![("api-key", "")],
        vec![("x-api-key", " ")],
        vec![("x-api-key", "sk-\u{e9}")],
        vec![good, ("x-api-key", "sk-blue")],
    ] {
        assert_eq!(send(&headers).await, 401, "{headers:?}");
    }
    assert!(worker.received().is_empty());
    for headers in [
        vec![],
        vec![good],
        vec![("authorization", "bEARER   sk-red ")],
        vec![("api-key", "sk-red")],
        vec![("x-api-key", "sk-red")],
        vec![good, ("x-api-key", "sk-red"), ("api-key", "sk-red")],
    ] {
        assert_eq!(send(&headers).await, 200, "{headers:?}");
    }
    for received in worker.received() {
        for name in ["authorization", "api-key", "x-api-key"] {
            assert!(!received.headers.contains_key(name), "{name} stays here");
        }
    }
}

#[test]
fn a_blank_worker_key_is_a_config_error() {
    for key in ["", " ", "k\n", "\u{e9}"] {
        let config = RouterConfig { worker_api_key: Some(policy::Secret::new(key)), ..RouterConfig::default() };
        let error = Router::new(config, &Registry::new(), Drain::new()).expect_err(key);
        assert!(error.to_string().contains("worker_api_key"), "{error}");
    }
}

#[tokio::test]
async fn what_tells_of_the_router_is_for_operators_and_key_holders() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", "sk-red", None)];
        config.admin_api_key = Some(policy::Secret::new("boss"));
    })
    .await;
    let ask = |path: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let front = &front;
        async move { front.send(http::Method::GET, path, &headers, Vec::new()).await.status }
    };
    for path in ["/status", "/admin/workers"] {
        assert_eq!(ask(path, vec![]).await, 200, "{path} from this machine");
        assert_eq!(ask(path, vec![("host", "evil.example"), ("authorization", "Bearer boss")]).await, 200, "{path}");
        for page in [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")] {
            assert!(matches!(ask(path, vec![page]).await, 401 | 403), "{path} with {page:?}");
        }
    }
    let from_elsewhere = ("host", "router.example");
    assert_eq!(ask("/status", vec![from_elsewhere, ("authorization", "Bearer sk-red")]).await, 200);
    assert_eq!(ask("/admin/workers", vec![from_elsewhere, ("authorization", "Bearer sk-red")]).await, 403);
}

#[tokio::test]
async fn a_page_reads_nothing_of_a_router_without_keys() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    for page in [("host", "evil.example"), ("origin", "null"), ("sec-fetch-site", "same-site")] {
        for path in ["/status", "/admin/workers"] {
            let reply = front.send(http::Method::GET, path, &[page], Vec::new()).await;
            assert_eq!((reply.status, reply.error("code").as_str()), (403, "permission_denied"), "{path} {page:?}");
        }
    }
}

#[tokio::test]
async fn a_quota_is_shown_on_every_answer_and_its_end_is_429() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", "r", Some(3)), tenant("blue", "b", None)];
    })
    .await;
    for left in ["2", "1"] {
        let reply = front.chat_as("r", &chat()).await;
        assert_eq!(reply.headers["x-ratelimit-limit-requests"], "3");
        assert_eq!(reply.headers["x-ratelimit-remaining-requests"], left);
        assert!(reply.headers.contains_key("x-ratelimit-reset-requests"));
    }
    // A model that is not here costs nothing.
    assert_eq!(front.chat_as("r", &json!({"model": "nobody"})).await.status, 404);
    // An admitted request shows it whatever became of it.
    worker.next(Answer::error(400, "no"));
    let reply = front.chat_as("r", &chat()).await;
    assert_eq!((reply.status, &reply.headers["x-ratelimit-remaining-requests"]), (400, &"0".parse().expect("v")));
    let refused = front.chat_as("r", &chat()).await;
    assert_eq!((refused.status, refused.error("code").as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(refused.headers["x-ratelimit-remaining-requests"], "0");
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=20).contains(&wait), "{wait}");
    assert!(refused.headers.contains_key("retry-after-ms"));
    let blue = front.chat_as("b", &chat()).await;
    assert_eq!((blue.status, blue.headers.contains_key("x-ratelimit-limit-requests")), (200, false));
    assert_eq!(worker.received().len(), 4);
}

#[tokio::test]
async fn a_quota_is_not_spent_by_what_the_server_fails_at() {
    let worker = FaultyWorker::start(&["m"], Answer::error(503, "full")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", "r", Some(2))];
        config.policy.deny_list.phrases = vec!["red button".into()];
    })
    .await;
    let left = async |reply: crate::harness::Reply| {
        (reply.status, reply.headers["x-ratelimit-remaining-requests"].to_str().expect("text").to_owned())
    };
    for _ in 0..5 {
        assert_eq!(left(front.chat_as("r", &chat()).await).await, (503, "2".into()), "a full worker");
    }
    let breaks = [Answer::silence(), Answer::error(500, "oops"), Answer::json(200, &json!({"no": "choices"}))];
    for (number, broken) in breaks.into_iter().enumerate() {
        worker.always(broken);
        let (status, left) = left(front.chat_as("r", &chat_about(&number.to_string())).await).await;
        assert!(status >= 500 && left == "2", "{status}, {left} left");
    }
    // What the client did wrong, and what it was given, is spent.
    worker.always(Answer::whole_chat("hi"));
    assert_eq!(left(front.chat_as("r", &chat_about("the red button")).await).await, (400, "1".into()));
    let mut last = (503, String::new());
    while last.0 == 503 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        last = left(front.chat_as("r", &chat_about("the worker, once it is back")).await).await;
    }
    assert_eq!(last, (200, "0".into()));
    assert_eq!(front.chat_as("r", &chat()).await.status, 429);
}

#[tokio::test]
async fn a_denied_prompt_does_not_reach_a_worker() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| config.policy.deny_list.phrases = vec!["red button".into()]).await;
    let parts = json!([{"type": "text", "text": "press the Red"}, {"type": "text", "text": " But\u{200b}ton"}]);
    let reply = front.chat(&json!({"model": "m", "messages": [{"role": "user", "content": parts}]})).await;
    assert_eq!(
        (reply.status, reply.error("code").as_str(), reply.error("param").as_str()),
        (400, "content_filter", "messages")
    );
    let named = json!([{"role": "user", "content": "press the red button", "name": "a"}]);
    assert_eq!(front.chat(&json!({"model": "m", "messages": named})).await.error("code"), "content_filter");
    let reply = front.complete(&json!({"model": "m", "prompt": ["ok", "red\nbutton"]})).await;
    assert_eq!(
        (reply.status, reply.error("code").as_str(), reply.error("param").as_str()),
        (400, "content_filter", "prompt")
    );
    let reply = front.complete(&json!({"model": "m", "prompt": [1, 2]})).await;
    assert_eq!(
        (reply.status, reply.error("code").as_str(), reply.error("param").as_str()),
        (400, "unsupported_parameter", "prompt")
    );
    assert!(worker.received().is_empty());
    assert_eq!(front.chat(&chat()).await.status, 200);
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"prompt_blocked\"}"), 3.0);
}
