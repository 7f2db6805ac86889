//! A router without a descriptor left blames no worker. A test binary of its own: the limit of open
//! files is the process's.

#[allow(dead_code, reason = "this binary uses a part of what the others share")]
#[path = "router/harness.rs"]
mod harness;

use harness::{Front, chat, wait_for};
use std::fs::File;
use std::time::Duration;
use testkit::faulty_worker::{Answer, FaultyWorker};

fn exhaust() -> Vec<File> {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn want_of_descriptors_is_no_workers_fault() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    // No connection to the worker is kept, so that each request and each check needs a new one.
    let front = Front::start(&[&worker], |config| config.pool_idle_ms = 0).await;
    assert_eq!(front.chat(&chat()).await.status, 200);
    let mut files = exhaust();
    // What was under way gives some back.
    tokio::time::sleep(Duration::from_millis(200)).await;
    files.extend(exhaust());
    for _ in 0..20 {
        // Over the connection of the request before.
        assert_eq!(front.chat(&chat()).await.status, 503);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let up = format!("forebay_router_worker_up{{worker=\"{}\"}}", worker.name());
    assert_eq!(front.metric(&up), 1.0);
    assert_eq!(front.total("forebay_router_probes_total"), 0.0);
    assert_eq!(front.get("/readyz").await.status, 200);
    drop(files);
    wait_for("room", || File::open("/dev/null").is_ok()).await;
    assert_eq!(front.chat(&chat()).await.status, 200);
    assert!(front.metric("forebay_router_tries_total{outcome=\"ours\",phase=\"not_begun\"}") > 0.0);
}
