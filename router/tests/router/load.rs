//! Crowds: clients that leave by the hundred, workers that are restarted or killed under load.

use crate::harness::{Front, streamed, wait_for};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::faulty_worker::{Answer, FaultyWorker};

fn numbered(number: usize) -> Value {
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": format!("request {number}")}]})
}

#[tokio::test]
async fn six_hundred_clients_that_leave_at_any_moment_leave_nothing_behind() {
    let paced = Answer::chat(&["a"; 12]).paced(Duration::from_millis(4));
    let one = FaultyWorker::start(&["m"], Answer { head_delay: Duration::from_millis(5), ..paced.clone() }).await;
    let two = FaultyWorker::start(&["m"], paced).await;
    let front = Front::start(&[&one, &two], |_| ()).await;
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..12 {
        let limits: Vec<u64> = (0..50).map(|_| rng.random_range(0..60)).collect();
        join_all(limits.into_iter().enumerate().map(|(number, limit_ms)| {
            let front = &front;
            async move {
                let body = numbered(number);
                let read = async { front.open_chat(&body).await.into_body().collect().await.expect("a body") };
                // Dropped by the limit, wherever it is.
                let _ = tokio::time::timeout(Duration::from_millis(limit_ms), read).await;
            }
        }))
        .await;
    }
    front.assert_idle(&[&one, &two]).await;
    assert_eq!(front.chat(&streamed()).await.status, 200);
    assert_eq!(front.total("forebay_router_ejections_total"), 0.0);
    let codes = front.total("forebay_router_requests_total");
    assert!((1.0..=601.0).contains(&codes), "{codes}");
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_no_request() {
    let answer = Answer::chat(&["a"; 5]).paced(Duration::from_millis(5));
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(FaultyWorker::start(&["m"], answer.clone()).await);
    }
    let front = Front::start(&workers.iter().collect::<Vec<_>>(), |config| config.retry.saved_max = 100.0).await;
    let load = async {
        let mut failed = Vec::new();
        for round in 0..25 {
            let bodies: Vec<Value> = (0..8).map(|number| numbered(round * 8 + number)).collect();
            for reply in join_all(bodies.iter().map(|body| front.chat(body))).await {
                if reply.status != 200 || !reply.body.ends_with("data: [DONE]\n\n") {
                    failed.push(reply);
                }
            }
        }
        failed
    };
    let restart = async {
        for worker in &workers {
            worker.status(draining(true));
            tokio::time::sleep(Duration::from_millis(120)).await;
            worker.status(draining(false));
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    };
    let (failed, ()) = tokio::join!(load, restart);
    assert!(failed.is_empty(), "{failed:?}");
    front.assert_idle(&workers.iter().collect::<Vec<_>>()).await;
}

fn draining(is_draining: bool) -> Value {
    json!({"version": "1", "ready": !is_draining, "draining": is_draining, "models": [{
        "id": "m", "state": "ready", "proof": "trusted", "created_unix_s": 5, "weights_bytes": 1, "weights_open_ms": 1.0,
        "ready_after_ms": 1.0, "max_model_len": 64,
        "load": {"waiting": 0, "running": 0, "kv_blocks_used": 0, "kv_blocks_total": 0}}]})
}

#[tokio::test]
async fn workers_killed_at_twenty_moments_end_streams_honestly() {
    let answer = Answer::chat(&["a"; 20]).paced(Duration::from_millis(3));
    let standing = FaultyWorker::start(&["m"], answer.clone()).await;
    for moment in 0..20_u64 {
        let mut dying = FaultyWorker::start(&["m"], answer.clone()).await;
        let front = Front::start(&[&dying, &standing], |config| config.retry.saved_max = 100.0).await;
        let bodies: Vec<Value> = (0..6).map(numbered).collect();
        let asked = join_all(bodies.iter().map(|body| front.chat(body)));
        let kill = async {
            tokio::time::sleep(Duration::from_millis(moment * 4)).await;
            dying.die().await;
        };
        let (replies, ()) = tokio::join!(asked, kill);
        for reply in replies {
            assert_eq!(reply.status, 200, "moment {moment}: {}", reply.body);
            let is_whole = reply.body.ends_with("data: [DONE]\n\n");
            assert_ne!(is_whole, reply.body.contains("\"error\""), "moment {moment}: {}", reply.body);
        }
        assert_eq!(front.chat(&streamed()).await.status, 200);
        front.assert_idle(&[&standing]).await;
    }
}

#[tokio::test]
async fn a_crowd_beyond_every_bound_is_refused_in_order() {
    let slow = Answer { head_delay: Duration::from_millis(150), ..Answer::whole_chat("hi") };
    let worker = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&worker], |config| config.in_flight_max = 50).await;
    let bodies: Vec<Value> = (0..300)
        .map(|number| json!({"model": "m", "messages": [{"role": "user", "content": number.to_string()}]}))
        .collect();
    let replies = join_all(bodies.iter().map(|body| front.chat(body))).await;
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(served >= 50, "{served}");
    assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 503)));
    assert!(replies.iter().filter(|reply| reply.status == 503).all(|reply| reply.headers.contains_key("retry-after")));
    wait_for("idle", || front.metric("forebay_router_in_flight_requests") == 0.0).await;
    assert_eq!(front.total("forebay_router_ejections_total"), 0.0);
}

/// Everything runs on one thread, client and worker included: the longest pause is an upper bound of what a large
/// request costs the streams beside it. Run by `evals/bench/router/run`, in a release build.
#[tokio::test]
#[ignore = "a measurement"]
async fn longest_pause_beside_large_requests() {
    let brackets = format!(r#"{{"model":"m","messages":[],"x":[{}[]]}}"#, "[[]],".repeat(3 << 20));
    let words = "the turbine stores water above the river ".repeat(10_000);
    let prompt = json!({"model": "m", "messages": [{"role": "user", "content": words}]}).to_string();
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    for (list, phrases) in [("no list", vec![]), ("a list", vec!["red button".to_owned(), "the turbine zz".to_owned()])]
    {
        let front = Front::start(&[&worker], |config| config.policy.deny_list.phrases = phrases.clone()).await;
        for (name, body) in [("brackets", &brackets), ("prompt", &prompt)] {
            let mut longest = Duration::ZERO;
            let mut took = Vec::new();
            for _ in 0..5 {
                let begun = std::time::Instant::now();
                let reply = front.send(http::Method::POST, "/v1/chat/completions", &[], body.clone().into_bytes());
                tokio::pin!(reply);
                loop {
                    let before = std::time::Instant::now();
                    tokio::select! {
                        reply = &mut reply => {
                            assert_eq!(reply.status, 200, "{}", reply.body);
                            break;
                        }
                        () = tokio::time::sleep(Duration::from_millis(1)) => longest = longest.max(before.elapsed()),
                    }
                }
                took.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            took.sort_by(f64::total_cmp);
            let name = format!("{name} of {} KB, {list}", body.len() / 1_000);
            println!("{name}: longest pause {:.1} ms, request {:.1} ms", longest.as_secs_f64() * 1e3, took[2]);
        }
    }
}
