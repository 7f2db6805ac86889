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
    TenantConfig { name: name.into(), key_sha256: vec![hash_key(key)], requests_per_minute, ..TenantConfig::default() }
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

#[tokio::test]
async fn a_client_that_guesses_at_keys_has_to_wait_even_with_the_right_one() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", "sk-red", None)];
        config.policy.wrong_keys.per_minute = 3;
    })
    .await;
    let ask = async |from: &str, key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", from)];
        front.send(http::Method::POST, "/v1/chat/completions", &headers, chat().to_string().into_bytes()).await
    };
    for _ in 0..9 {
        assert_eq!(ask("203.0.113.1", "sk-revoked").await.status, 401, "a program that repeats itself guesses once");
    }
    assert_eq!(ask("203.0.113.1", "sk-red").await.status, 200, "its neighbour is let in");
    for guess in ["sk-rea", "sk-reb"] {
        assert_eq!(ask("203.0.113.1", guess).await.status, 401);
    }
    for key in ["sk-rec", "sk-red", "sk-revoked"] {
        let reply = ask("203.0.113.1", key).await;
        assert_eq!((reply.status, reply.error("code").as_str()), (429, "rate_limit_exceeded"), "{key}");
        let wait: u64 = reply.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((1..=20).contains(&wait), "{wait}");
    }
    assert_eq!(ask("203.0.113.1, 10.0.0.7", "sk-red").await.status, 429, "behind a second proxy, too");
    assert_eq!(ask("203.0.113.1, 203.0.113.2", "sk-red").await.status, 200, "an address that a client made up");
    for number in 0..9 {
        let reply = front.chat_as(&format!("sk-{number}"), &chat()).await;
        assert_eq!(reply.status, 401, "a proxy that names no client locks nobody out");
    }
    assert_eq!(front.metric("forebay_policy_rejections_total{reason=\"too_many_wrong_keys\"}"), 4.0);
    assert_eq!(front.metric("forebay_policy_wrong_key_addresses"), 1.0);
}

#[tokio::test]
async fn the_operators_key_cannot_be_guessed_either() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    for tenants in [vec![], vec![tenant("red", "sk-red", None)]] {
        let front = Front::start(&[&worker], |config| {
            config.policy.tenants = tenants.clone();
            config.policy.wrong_keys.per_minute = 2;
            config.admin_api_key = Some(policy::Secret::new("boss"));
        })
        .await;
        let ask = async |path: &str, from: &str, more: &[(&str, &str)]| {
            let headers = [&[("x-forwarded-for", from), ("host", "router.example")], more].concat();
            front.send(http::Method::GET, path, &headers, Vec::new()).await.status
        };
        for (path, from) in [("/admin/workers", "203.0.113.1"), ("/status", "203.0.113.2")] {
            assert_eq!(ask(path, from, &[("authorization", "Bearer boss")]).await, 200);
            // A second header or a second value hides no guess.
            for more in [
                vec![("authorization", "Bearer a"), ("x-api-key", "x")],
                vec![("authorization", "Bearer b"), ("authorization", "Bearer x")],
            ] {
                assert!(matches!(ask(path, from, &more).await, 401 | 403), "{path} {more:?}");
            }
            assert_ne!(ask(path, from, &[("authorization", "Bearer boss")]).await, 200, "{path}");
            assert_eq!(ask(path, "203.0.113.9", &[("authorization", "Bearer boss")]).await, 200);
        }
        // A tenant's key is no guess at the operators' where both are let in.
        if !tenants.is_empty() {
            for _ in 0..9 {
                assert_eq!(ask("/status", "203.0.113.3", &[("authorization", "Bearer sk-red")]).await, 200);
            }
        }
    }
}

#[tokio::test]
async fn phrases_are_replaced_and_noted_before_a_worker_sees_them() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi").with_header("x-forebay-annotations", "x")).await;
    let front = Front::start(&[&worker], |config| {
        config.policy.redact_list.phrases = vec!["4111 1111".into()];
        let list =
            |label: &str, phrase: &str| policy::AnnotateConfig { label: label.into(), phrases: vec![phrase.into()] };
        config.policy.annotate_lists = vec![list("payment", "card"), list("travel", "flight")];
    })
    .await;
    // Spelt as no serializer spells it: all but the phrase must arrive as it left.
    let body = r#" {"model" : "m","messages":[{"content":"my ca\u0072d is 4111\u00201111, ok?","role":"user"}] , "seed":1.0} "#;
    let reply = front.send(http::Method::POST, "/v1/chat/completions", &[], body.into()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["x-forebay-annotations"], "payment");
    let wanted = body.replace(r"4111\u00201111", "[redacted]");
    assert_eq!(String::from_utf8_lossy(&worker.received()[0].body), wanted);
    let reply = front.chat(&chat_about("a flight with my card")).await;
    assert_eq!(reply.headers["x-forebay-annotations"], "payment, travel");
    let plain = front.chat(&chat()).await;
    assert!(!plain.headers.contains_key("x-forebay-annotations"), "a worker's word for it is nobody's");
    assert_eq!(worker.received()[2].body, chat().to_string().as_bytes());
    let reply = front.complete(&json!({"model": "m", "prompt": [1, 2]})).await;
    assert_eq!((reply.status, reply.error("code").as_str()), (400, "unsupported_parameter"));
    assert_eq!(front.metric("forebay_policy_rewrites_total"), 1.0);
    assert_eq!(front.metric("forebay_policy_annotations_total{label=\"payment\"}"), 2.0);
    front.assert_idle(&[&worker]).await;
    assert_eq!(
        front.metric("forebay_listen_body_bytes{listener=\"router\"}"),
        0.0,
        "rewritten bodies count, and are freed"
    );
}
