//! Bounds: many clients, slow ones, and the end of the process.

use crate::harness::{REPOSITORY, WEIGHTS, eventually, file, hub, start, weights};
use seeding::hub::{Named, Node, NodeConfig, NodeError};
use std::time::Duration;
use telemetry::metrics::Registry;

#[tokio::test]
async fn answers_with_bytes_are_bounded_and_a_slow_reader_loses_its_place() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| {
        settings.node.bodies_max = 1;
        settings.node.listen.write_timeout_ms = 300;
    })
    .await;
    assert!(running.get(&file(WEIGHTS)).await.body == weights());
    eventually("the first answer is over", || running.metric("forebay_node_bodies") == 0.0).await;
    // It reads nothing; the sockets between hold some megabytes at most.
    let slow = running.open("GET", &file(WEIGHTS), &[]).await;
    eventually("it is being sent", || running.metric("forebay_node_bodies") == 1.0).await;
    let refused = running.get(&file(WEIGHTS)).await;
    assert_eq!(refused.status, 503);
    assert_ne!(refused.header("retry-after"), "");
    assert_eq!(running.head(&file(WEIGHTS)).await.status, 200, "a head takes no place");
    eventually("the slow one is cut", || running.metric("forebay_node_bodies") == 0.0).await;
    assert!(running.get(&file(WEIGHTS)).await.body == weights());
    drop(slow);
}

#[tokio::test]
async fn what_is_open_is_bounded() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.node.open_max = 1).await;
    assert_eq!(running.get(&file("config.json")).await.status, 200);
    assert_eq!(running.get(&file("README.md")).await.status, 503, "another one");
    assert_eq!(running.get(&file("config.json")).await.status, 200, "the one that is open");
}

#[tokio::test]
async fn a_drain_ends_behind_the_answers_under_way() {
    let origin = hub().start().expect("a hub");
    let mut running = start(&origin.url(), |_| {}).await;
    let mut conversation = running.open("GET", &file(WEIGHTS), &[]).await;
    conversation.read_body(1).await;
    running.drain.start();
    assert!(conversation.read().await.body == weights());
    tokio::time::timeout(Duration::from_secs(60), &mut running.task).await.expect("ends").expect("joins");
}

#[tokio::test]
async fn plain_files_have_ranges_and_lists() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("config.json"), b"{}").expect("writes");
    std::fs::write(directory.path().join(WEIGHTS), weights()).expect("writes");
    let url = directory.path().to_str().expect("text").parse().expect("a URL");
    let running =
        start("http://127.0.0.1:9", |settings| settings.models = vec![Named { name: "here".into(), url }]).await;
    while running.get("/models").await.json()["models"][0]["state"] != "ready" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let files = running.get("/models/here").await.json();
    assert_eq!(files["files"].as_array().map(Vec::len), Some(2), "{files}");
    assert_eq!(running.get("/models/here/config.json").await.body, b"{}");
    let part = running.ask("GET", "/models/here/model.safetensors", &[("Range", "bytes=4194000-4195000")]).await;
    assert_eq!(part.status, 206);
    assert!(part.body == weights()[4_194_000..=4_195_000]);
    assert_eq!(
        running.head("/models/here/model.safetensors").await.header("content-length"),
        weights().len().to_string()
    );
    for path in ["/models/there", "/models/there/x", "/models/here/other.json"] {
        assert_eq!(running.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_node_does_not_ask_itself() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let hub: std::net::SocketAddr = origin.url().trim_start_matches("http://").parse().expect("an address");
    assert!(matches!(running.node.check_address(hub), Err(NodeError::Itself { .. })));
    running.node.check_address(running.address).expect("another port");
    let loader =
        loader::Loader::new(&loader::LoaderConfig::default(), loader::remote::Env::default(), &Registry::new());
    let config = NodeConfig { hub_endpoint: Some("huggingface".into()), ..NodeConfig::default() };
    let made = Node::new(
        config,
        loader.expect("a loader"),
        policy::Trust::default(),
        Vec::new(),
        (&Registry::new(), listen::Drain::new()),
        None,
    );
    assert!(matches!(made, Err(NodeError::Endpoint { .. })), "{REPOSITORY}");
}
