//! Configurations that change while the router runs.

use crate::harness::{Front, chat, streamed, wait_for};
use http_body_util::BodyExt;
use policy::{Secret, TenantConfig, hash_key};
use router::RouterConfig;
use std::time::Duration;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

fn tenant(name: &str, requests_per_minute: u32) -> TenantConfig {
    TenantConfig {
        name: name.into(),
        key_sha256: vec![hash_key(name)],
        requests_per_minute: Some(requests_per_minute),
        ..TenantConfig::default()
    }
}

/// A router with this configuration, and the configuration to change.
async fn start(workers: &[&FaultyWorker], adjust: impl FnOnce(&mut RouterConfig)) -> (Front, RouterConfig) {
    let mut config = RouterConfig::default();
    let front = Front::start(workers, |made| {
        adjust(made);
        config = made.clone();
    })
    .await;
    (front, config)
}

#[tokio::test]
async fn another_policy_holds_for_the_next_request_and_forgets_nothing() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let (front, mut config) = start(&[&worker], |config| config.policy.tenants = vec![tenant("red", 3)]).await;
    let left = async |key: &str| {
        let reply = front.chat_as(key, &chat()).await;
        (
            reply.status,
            reply.headers.get("x-ratelimit-remaining-requests").map(|left| left.to_str().expect("text").to_owned()),
        )
    };
    assert_eq!(left("red").await, (200, Some("2".into())));
    assert_eq!(left("blue").await, (401, None));
    // The new one stands before the old one, whose place and key changed.
    let mut red = tenant("red", 3);
    red.key_sha256.insert(0, hash_key("rosy"));
    config.policy.tenants = vec![tenant("blue", 9), red];
    config.policy.deny_list.phrases = vec!["hi".into()];
    front.router.reload(config.clone(), "a test").expect("valid");
    assert_eq!(left("blue").await, (400, Some("8".into())), "the list holds");
    config.policy.deny_list.phrases.clear();
    front.router.reload(config.clone(), "a test").expect("valid");
    assert_eq!(left("rosy").await, (200, Some("1".into())), "a key that overlaps with the old one shares its limit");
    assert_eq!(left("red").await, (200, Some("0".into())));
    config.policy.tenants.remove(0);
    front.router.reload(config, "a test").expect("valid");
    assert_eq!(left("blue").await.0, 401, "a tenant that is gone has no key");
    assert_eq!(left("red").await, (429, Some("0".into())));
    assert_eq!(front.metric("forebay_router_config_reloads_total{result=\"ok\"}"), 3.0);
    assert_eq!(front.get("/status").await.json()["config"]["generation"], 3);
}

#[tokio::test]
async fn a_stream_ends_as_it_began_whatever_is_configured_meanwhile() {
    let worker =
        FaultyWorker::start(&["m"], Answer::chat(&["the ", "red ", "button"]).paced(Duration::from_millis(40))).await;
    let (front, mut config) = start(&[&worker], |config| config.policy.tenants = vec![tenant("red", 9)]).await;
    let bearer = [("authorization", "Bearer red")];
    let mut response =
        front.open(http::Method::POST, "/v1/chat/completions", &bearer, streamed().to_string().into_bytes()).await;
    response.body_mut().frame().await.expect("an event").expect("bytes");
    config.policy.tenants.clear();
    config.policy.deny_list.phrases = vec!["button".into()];
    config.workers.clear();
    front.router.reload(config, "a test").expect("valid");
    let rest = response.into_body().collect().await.expect("whole").to_bytes();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("button") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn workers_and_keys_come_and_go_with_the_configuration() {
    let old = FaultyWorker::start(&["m"], Answer::whole_chat("old")).await;
    let new = FaultyWorker::start(&["m"], Answer::whole_chat("new")).await;
    let (front, mut config) = start(&[&old], |_| ()).await;
    assert!(front.chat(&chat()).await.body.contains("old"));
    config.workers = vec![new.url()];
    config.worker_api_key = Some(Secret::new("sk-new"));
    config.admin_api_key = Some(Secret::new("boss"));
    front.router.reload(config, "a test").expect("valid");
    wait_for("the new worker alone", || {
        front.total("forebay_router_worker_up") == 1.0
            && front.metric(&format!("forebay_router_worker_up{{worker=\"{}\"}}", new.name())) == 1.0
    })
    .await;
    let mut reply = front.chat(&chat()).await;
    for _ in 0..400 {
        if reply.body.contains("new") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        reply = front.chat(&chat()).await;
    }
    assert!(reply.body.contains("new"), "{}", reply.body);
    assert_eq!(new.received().last().expect("one").headers["authorization"], "Bearer sk-new");
    let elsewhere = [("host", "router.example"), ("authorization", "Bearer boss")];
    assert_eq!(front.send(http::Method::GET, "/admin/workers", &elsewhere, Vec::new()).await.status, 200);
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_says_why() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let (front, config) = start(&[&worker], |config| config.policy.tenants = vec![tenant("red", 9)]).await;
    type Adjust = fn(&mut RouterConfig);
    let change = |adjust: Adjust| {
        let mut changed = config.clone();
        // What is right beside it is not taken either.
        changed.policy.tenants.push(tenant("blue", 9));
        adjust(&mut changed);
        changed
    };
    let mut count = 0.0;
    let wrong: [(Adjust, &str); 7] = [
        (|config| config.policy.tenants[0].key_sha256 = vec!["sk".into()], "tenants[0].key_sha256[0]"),
        (|config| config.workers = vec!["nowhere".into()], "workers[0]"),
        (|config| config.retry.attempts_max = 0, "retry.attempts_max"),
        (|config| config.pick.load_max_over_mean = 0.5, "pick.load_max_over_mean"),
        (|config| config.in_flight_max += 1, "in_flight_max"),
        (|config| config.listen.body_bytes_max += 1, "listen"),
        (|config| config.workers = vec!["https://127.0.0.1:1".into()], "workers"),
    ];
    for (adjust, field) in wrong {
        let error = front.router.reload(change(adjust), "a test").expect_err(field);
        count += 1.0;
        assert!(format!("{}", wire::Chain(&error)).contains(field), "{field}: {}", wire::Chain(&error));
        assert_eq!(
            (front.chat_as("red", &chat()).await.status, front.chat_as("blue", &chat()).await.status),
            (200, 401)
        );
        let status = front.get("/status").await.json();
        assert!(status["config"]["problem"].as_str().expect("a problem").contains(field), "{}", status["config"]);
        assert_eq!(status["config"]["generation"], 0);
        assert_eq!(front.metric("forebay_router_config_reloads_total{result=\"error\"}"), count);
        assert_eq!(front.metric("forebay_router_config_current"), 0.0);
    }
    front.router.reload(config, "a test").expect("what runs");
    assert_eq!(front.metric("forebay_router_config_current"), 1.0);
    assert!(front.get("/status").await.json()["config"]["problem"].is_null());
}

/// Requests under a configuration that changes all the time: none fails, and none is somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_notice_that_configurations_change() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let (front, config) = start(&[&worker], |config| {
        config.policy.tenants = vec![tenant("red", 100_000), tenant("blue", 200_000)];
    })
    .await;
    let router = front.router.clone();
    let changing = tokio::spawn(async move {
        for round in 0_u64.. {
            let mut changed = config.clone();
            if round % 2 == 0 {
                changed.policy.tenants.reverse();
            }
            changed.idle_timeout_ms += round;
            router.reload(changed, "a test").expect("valid");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for round in 0..150 {
        let (key, limit) = if round % 2 == 0 { ("red", "100000") } else { ("blue", "200000") };
        let reply = front.chat_as(key, &chat()).await;
        assert_eq!((reply.status, reply.headers["x-ratelimit-limit-requests"].to_str().expect("text")), (200, limit));
    }
    changing.abort();
    let endless = Answer::stream(vec![chat_event(0, "a", None)]).ending(Ending::Stall);
    worker.always(endless);
    front.assert_idle(&[&worker]).await;
}
