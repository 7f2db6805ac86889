//! Which worker gets a request, and what happens when workers fail before an answer began.

use crate::harness::{Front, chat, streamed, wait_for};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker};

fn up(front: &Front, worker: &FaultyWorker) -> f64 {
    front.metric(&format!("forebay_router_worker_up{{worker=\"{}\"}}", worker.name()))
}

fn status(state: &str, waiting: u32) -> Value {
    json!({"version": "1", "ready": state == "ready", "draining": false, "models": [{
        "id": "m", "state": state, "proof": "trusted", "created_unix_s": 5, "weights_bytes": 1, "weights_open_ms": 1.0,
        "ready_after_ms": 1.0, "max_model_len": 64,
        "load": {"waiting": waiting, "running": 0, "kv_blocks_used": 0, "kv_blocks_total": 0}}]})
}

#[tokio::test]
async fn requests_go_where_the_load_is_least() {
    let stalled = Answer::chat(&["a"]).ending(Ending::Stall);
    let (one, two) = (FaultyWorker::start(&["m"], stalled.clone()).await, FaultyWorker::start(&["m"], stalled).await);
    let front = Front::start(&[&one, &two], |_| ()).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(front.open_chat(&streamed()).await);
    }
    assert_eq!((one.received().len(), two.received().len()), (5, 5));
    // What a worker of ours reports as waiting counts as load.
    one.status(status("ready", 50));
    wait_for_status(&front, 50).await;
    for _ in 0..3 {
        open.push(front.open_chat(&streamed()).await);
    }
    assert_eq!((one.received().len(), two.received().len()), (5, 8));
    drop(open);
    front.assert_idle(&[&one, &two]).await;
}

async fn wait_for_status(front: &Front, waiting: u64) {
    for _ in 0..2_000 {
        if front.get("/status").await.json()["workers"][0]["models"][0]["waiting"] == waiting {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the status was not read");
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_replaced_before_the_first_byte() {
    let one = FaultyWorker::start(&["m"], Answer::silence()).await;
    let two = FaultyWorker::start(&["m"], Answer::whole_chat("from two")).await;
    let front = Front::start(&[&one, &two], |_| ()).await;
    for _ in 0..8 {
        let reply = front.chat(&chat()).await;
        assert_eq!((reply.status, reply.headers["x-forebay-worker"].to_str().ok()), (200, Some(two.name().as_str())));
    }
    assert_eq!(two.received().len(), 8);
    let retries = front.metric("forebay_router_retries_total{reason=\"broke\"}");
    // A connection that a health check left may be the one that breaks: once more, for free.
    let stale = front.metric("forebay_router_tries_total{outcome=\"stale\",phase=\"head_sent\"}");
    assert_eq!(retries + stale, one.received().len() as f64);
    front.assert_idle(&[&one, &two]).await;
}

#[tokio::test]
async fn a_worker_that_died_is_marked_down_and_found_again() {
    let mut one = FaultyWorker::start(&["m"], Answer::whole_chat("one")).await;
    let two = FaultyWorker::start(&["m"], Answer::whole_chat("two")).await;
    let front = Front::start(&[&one, &two], |_| ()).await;
    one.die().await;
    for _ in 0..6 {
        assert_eq!(front.chat(&chat()).await.status, 200);
    }
    wait_for("one to be down", || up(&front, &one) == 0.0).await;
    two.refuse_checks(true);
    wait_for("two to be down", || up(&front, &two) == 0.0).await;
    let reply = front.chat(&chat()).await;
    assert_eq!(reply.status, 503, "the model is known and nobody is there: {}", reply.body);
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(front.get("/readyz").await.status, 503);
    two.refuse_checks(false);
    wait_for("two to be up", || up(&front, &two) == 1.0).await;
    assert_eq!(front.get("/readyz").await.status, 200);
    assert_eq!(front.chat(&chat()).await.status, 200);
}

#[tokio::test]
async fn a_full_worker_is_left_alone_as_long_as_it_asks_and_stays_up() {
    for code in [429, 503] {
        let full = Answer::error(code, "full").with_header("retry-after", "7");
        let (one, two) = (FaultyWorker::start(&["m"], full.clone()).await, FaultyWorker::start(&["m"], full).await);
        let front = Front::start(&[&one, &two], |_| ()).await;
        let reply = front.chat(&chat()).await;
        assert_eq!(
            (reply.status, reply.error("message").as_str()),
            (code, "full"),
            "both were asked; the last one's word"
        );
        assert_eq!(reply.headers["retry-after"], "7");
        for _ in 0..10 {
            let reply = front.chat(&chat()).await;
            assert_eq!(reply.status, 503);
            assert!(reply.headers["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds") >= 5);
        }
        assert_eq!((one.received().len(), two.received().len()), (1, 1));
        assert_eq!((up(&front, &one), up(&front, &two)), (1.0, 1.0), "busy is not dead");
    }
}

#[tokio::test]
async fn when_everything_fails_load_grows_by_a_fifth_at_most() {
    let full = Answer::error(503, "full");
    let (one, two) = (FaultyWorker::start(&["m"], full.clone()).await, FaultyWorker::start(&["m"], full).await);
    let front = Front::start(&[&one, &two], |_| ()).await;
    for _ in 0..300 {
        assert_eq!(front.chat(&chat()).await.status, 503);
    }
    let tries = one.received().len() + two.received().len();
    assert!((2..=360).contains(&tries), "{tries} tries for 300 requests");
}

#[tokio::test]
async fn a_model_that_loads_is_unavailable_and_one_nobody_has_unknown() {
    let worker = FaultyWorker::start(&[], Answer::whole_chat("hi")).await;
    worker.status(status("loading", 0));
    let front = Front::start(&[&worker], |_| ()).await;
    assert_eq!(front.chat(&chat()).await.status, 503);
    assert_eq!(front.get("/readyz").await.status, 503);
    assert_eq!(front.get("/v1/models").await.json()["data"], json!([]));
    let unknown = json!({"model": "x", "messages": []});
    assert_eq!(front.chat(&unknown).await.error("code"), "model_not_found");
    worker.status(status("ready", 0));
    for _ in 0..2_000 {
        if front.get("/readyz").await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(front.chat(&chat()).await.status, 200);
    assert_eq!(front.get("/v1/models").await.json()["data"][0]["max_model_len"], 64);
}

#[tokio::test]
async fn a_worker_that_drains_gets_nothing_new() {
    let one = FaultyWorker::start(&["m"], Answer::whole_chat("one")).await;
    let two = FaultyWorker::start(&["m"], Answer::whole_chat("two")).await;
    let mut draining = status("ready", 0);
    draining["draining"] = true.into();
    one.status(draining);
    let front = Front::start(&[&one, &two], |_| ()).await;
    for _ in 0..5 {
        assert_eq!(front.chat(&chat()).await.status, 200);
    }
    assert_eq!((one.received().len(), two.received().len()), (0, 5));
    assert_eq!(front.get("/status").await.json()["workers"][0]["state"], "draining");
}

#[tokio::test]
async fn two_workers_models_are_one_list() {
    let one = FaultyWorker::start(&["m", "both"], Answer::whole_chat("one")).await;
    let two = FaultyWorker::start(&["both", "org/x"], Answer::whole_chat("two")).await;
    let front = Front::start(&[&one, &two], |_| ()).await;
    let list = front.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, ["m", "both", "org/x"]);
    assert_eq!(front.get("/v1/models/org/x").await.json()["id"], "org/x");
    let reply = front.chat(&json!({"model": "org/x", "messages": []})).await;
    assert_eq!(reply.headers["x-forebay-worker"], two.name());
}

#[tokio::test]
async fn a_drain_flips_readiness_refuses_new_requests_and_loses_no_stream() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"; 20]).paced(Duration::from_millis(25))).await;
    let front = Front::start(&[&worker], |config| config.listen.drain_notice_ms = 60_000).await;
    let mut stream = front.open_chat(&streamed()).await;
    stream.body_mut().frame().await.expect("a frame").expect("data");
    front.drain.start();
    // Each on a connection of its own: unused ones are closed when the notice ends.
    for (path, status) in [("/readyz", 503), ("/livez", 200)] {
        let reply = front.send(Method::GET, path, &[("connection", "close")], Vec::new()).await;
        assert_eq!(reply.status, status, "{path}");
    }
    front.drain.refuse();
    let refused = front.chat(&chat()).await;
    assert_eq!((refused.status, refused.headers.contains_key("retry-after")), (503, true));
    let rest = stream.into_body().collect().await.expect("the whole stream").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn serve_returns_when_its_streams_have_finished() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"; 10]).paced(Duration::from_millis(25))).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let mut stream = front.open_chat(&streamed()).await;
    stream.body_mut().frame().await.expect("a frame").expect("data");
    front.drain.start();
    let rest = stream.into_body().collect().await.expect("the whole stream").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    let done = tokio::time::timeout(Duration::from_secs(10), front.served).await;
    done.expect("in time").expect("no panic").expect("drained");
}

#[tokio::test]
async fn more_requests_than_the_bound_are_refused() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"]).ending(Ending::Stall)).await;
    let front = Front::start(&[&worker], |config| config.in_flight_max = 2).await;
    let open = [front.open_chat(&streamed()).await, front.open_chat(&streamed()).await];
    let refused = front.chat(&chat()).await;
    assert_eq!((refused.status, refused.error("code").as_str()), (503, "overloaded"));
    assert_eq!(front.metric("forebay_router_in_flight_requests"), 2.0);
    drop(open);
    front.assert_idle(&[&worker]).await;
}
