//! Workers that are found: they come and go while requests are answered.

use crate::harness::{Front, chat, streamed, wait_for};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use testkit::api_server::{ApiServer, Fault, pod};
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

/// Replaces a file of members.
fn write(path: &Path, workers: &[&FaultyWorker]) {
    let members: Vec<Value> = workers.iter().map(|worker| json!({"address": worker.name()})).collect();
    std::fs::write(path.with_extension("new"), json!({ "members": members }).to_string()).expect("writes");
    std::fs::rename(path.with_extension("new"), path).expect("renames");
}

async fn front_of(path: &Path) -> Front {
    let path = path.to_owned();
    Front::start(&[], |config| {
        config.discovery.file = Some(path);
        config.discovery.interval_ms = 20;
    })
    .await
}

async fn names(front: &Front) -> Vec<String> {
    let status = front.get("/status").await.json();
    let workers = status["workers"].as_array().expect("workers").iter();
    let mut names: Vec<String> = workers.filter_map(|worker| Some(worker["name"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

async fn wait_for_workers(front: &Front, workers: &[&FaultyWorker]) {
    let mut expected: Vec<String> = workers.iter().map(|worker| worker.name()).collect();
    expected.sort();
    for _ in 0..2_000 {
        if names(front).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 10 s for {expected:?}");
}

#[tokio::test]
async fn workers_come_and_go_and_no_request_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("workers.json");
    let slow = Answer::chat(&["a"; 20]).paced(Duration::from_millis(25));
    let (one, two) =
        (FaultyWorker::start(&["m"], slow).await, FaultyWorker::start(&["m"], Answer::whole_chat("two")).await);
    write(&path, &[&one]);
    let front = front_of(&path).await;
    let mut stream = front.open_chat(&streamed()).await;
    assert_eq!(stream.status(), 200, "found before the first request");
    stream.body_mut().frame().await.expect("a frame").expect("data");
    write(&path, &[&two]);
    wait_for_workers(&front, &[&two]).await;
    let up = |worker: &FaultyWorker| format!("forebay_router_worker_up{{worker=\"{}\"}}", worker.name());
    wait_for("the new one to be up", || front.metric(&up(&two)) == 1.0).await;
    while front.get("/readyz").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        let reply = front.chat(&chat()).await;
        assert_eq!((reply.status, reply.headers["x-forebay-worker"].to_str().ok()), (200, Some(two.name().as_str())));
    }
    assert!(front.registry.render().contains(&up(&one)), "it has a request still");
    let rest = stream.into_body().collect().await.expect("the whole stream").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"), "the stream of a worker that left ends well");
    wait_for("the series of the one that left to go", || !front.registry.render().contains(&one.name())).await;
    write(&path, &[&two, &one]);
    wait_for_workers(&front, &[&two, &one]).await;
    front.assert_idle(&[&one, &two]).await;
}

#[tokio::test]
async fn a_worker_that_left_and_then_stopped_is_noticed_by_the_request_that_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("workers.json");
    let stalled = Answer::stream(vec![chat_event(0, "a", None)]).ending(Ending::Stall);
    let one = FaultyWorker::start(&["m"], stalled).await;
    write(&path, &[&one]);
    let given = path.clone();
    let front = Front::start(&[], |config| {
        config.discovery.file = Some(given);
        config.discovery.interval_ms = 20;
        (config.health.timeout_ms, config.stuck_after_ms) = (100, 300);
    })
    .await;
    let mut stream = front.open_chat(&streamed()).await;
    stream.body_mut().frame().await.expect("a frame").expect("data");
    write(&path, &[]);
    wait_for_workers(&front, &[]).await;
    one.freeze(true);
    let rest = tokio::time::timeout(Duration::from_secs(20), stream.into_body().collect()).await;
    let rest = rest.expect("long before the idle timeout").expect("an error event").to_bytes();
    assert!(!rest.ends_with(b"data: [DONE]\n\n"), "the stream ends with an error");
    front.assert_idle(&[&one]).await;
}

#[tokio::test]
async fn endpoint_slices_feed_the_fleet_and_last_ones_stand_while_kubernetes_is_away() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let mut server = ApiServer::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (url, token) = (server.url(), server.token_file(dir.path()));
    let port = worker.name().rsplit_once(':').expect("a port").1.to_owned();
    let front = Front::start(&[], |config| {
        config.discovery.kubernetes = Some(format!("forebay/workers:{port}"));
        config.discovery.kubernetes_api = Some(url);
        config.discovery.kubernetes_token_file = Some(token);
    })
    .await;
    assert_eq!(front.chat(&chat()).await.status, 503, "nobody is there yet, and somebody may come");
    server.put("s1", json!([pod("w-0", "127.0.0.1", "a")]));
    wait_for("a worker", || front.total("forebay_router_worker_up") == 1.0).await;
    assert_eq!(front.chat(&chat()).await.status, 200);
    server.die().await;
    wait_for("the loss", || {
        front.metric("forebay_discovery_answers_total{of=\"workers\",outcome=\"error\",source=\"kubernetes\"}") > 1.0
    })
    .await;
    assert_eq!(front.chat(&chat()).await.status, 200);
    server.remove("s1");
    server.fail(Fault::None);
    server.revive().await;
    wait_for_workers(&front, &[]).await;
    assert_eq!(front.chat(&chat()).await.status, 503);
}

fn with_peers(port: u16) -> Value {
    json!({"version": "1", "ready": true, "draining": false, "models": [],
        "seeding": {"address": format!("https://0.0.0.0:{port}"), "zone": "a", "sent_bytes": 0, "queue_extents": 0,
            "roots": [], "peers": []}})
}

#[tokio::test]
async fn members_of_the_fleet_learn_which_workers_serve_weights_to_peers() {
    let (one, two) = (
        FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await,
        FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await,
    );
    one.status(with_peers(8_082));
    let key = "a-key-that-routers-and-workers-share";
    let front = Front::start(&[&one, &two], |config| {
        config.worker_api_key = Some(serde_json::from_value(json!(key)).expect("a key"));
    })
    .await;
    let expected = json!({"fleet_version": 1, "members": [
        {"address": "127.0.0.1:8082", "zone": "a", "name": "127.0.0.1"}]});
    // From elsewhere, as a proxy says.
    let elsewhere = ("x-forwarded-for", "192.0.2.1");
    let bearer = format!("Bearer {key}");
    let ask = |headers: Vec<(&'static str, String)>| {
        let front = &front;
        async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            front.send(Method::GET, "/fleet", &headers, Vec::new()).await
        }
    };
    let far = || (elsewhere.0, elsewhere.1.to_owned());
    let reply = ask(vec![far(), ("authorization", bearer.clone())]).await;
    assert_eq!((reply.status, reply.json()), (200, expected));
    let tag = reply.headers["etag"].to_str().expect("text").to_owned();
    let again = ask(vec![far(), ("authorization", bearer), ("if-none-match", tag)]).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(ask(vec![far()]).await.status, 403);
    assert_eq!(ask(vec![far(), ("authorization", "Bearer another".into())]).await.status, 403);
    assert_eq!(ask(Vec::new()).await.status, 200, "an operator on the router's own machine");
}

#[tokio::test]
async fn a_fleet_view_is_a_source_of_members() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    worker.status(with_peers(8_082));
    let front = Front::start(&[&worker], |_| ()).await;
    let config = discovery::DiscoveryConfig {
        router: Some(format!("http://{}", front.address())),
        interval_ms: 20,
        forget_after_ms: 200,
        ..Default::default()
    };
    let means = discovery::Means { of: "peers", ..Default::default() };
    let members = discovery::start(&config, &means, &front.registry).expect("settings");
    let named = || members.current().iter().map(|member| member.id.clone()).collect::<Vec<_>>();
    wait_for("a member", || named() == ["127.0.0.1:8082"]).await;
    worker.status(with_peers(8_083));
    wait_for("another address", || members.current().iter().any(|member| member.address == "127.0.0.1:8083")).await;
    worker.refuse_checks(true);
    wait_for("nobody", || named().is_empty()).await;
}
