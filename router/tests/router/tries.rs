//! Whose fault a failed try is, and what follows: a worker's, the request's, back-pressure, or ours.

use crate::harness::{Front, chat, streamed, wait_for};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

fn asking(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]})
}

fn asking_model(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

async fn wait_for_ejection(front: &Front, worker: &FaultyWorker, is_ejected: bool) {
    for _ in 0..2_000 {
        let status = front.get("/status").await.json();
        let workers = status["workers"].as_array().expect("a list").clone();
        let one = workers.iter().find(|one| one["name"] == worker.name().as_str()).expect("known");
        if one["models"][0]["ejected"] == is_ejected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 10 s for ejected: {is_ejected}");
}

#[tokio::test]
async fn a_worker_that_refuses_our_key_draws_no_traffic_and_no_client_sees_a_401() {
    for code in [401, 403, 407] {
        let bad = FaultyWorker::start(&["m"], Answer::error(code, "wrong key")).await;
        let good = FaultyWorker::start(&["m"], Answer::whole_chat("good")).await;
        let front = Front::start(&[&bad, &good], |_| ()).await;
        let body = chat();
        let replies = join_all((0..20).map(|_| front.chat(&body))).await;
        assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 502)), "{code}");
        wait_for_ejection(&front, &bad, true).await;
        let before = bad.received().len();
        for _ in 0..50 {
            assert_eq!(front.chat(&body).await.status, 200, "{code}");
        }
        assert!(bad.received().len() <= before + 2, "only probes of ours: {} then {}", before, bad.received().len());
        // Mended, it is found again.
        bad.always(Answer::whole_chat("mended"));
        wait_for_ejection(&front, &bad, false).await;
    }
}

#[tokio::test]
async fn the_only_worker_that_refuses_our_key_is_a_502_that_names_the_setting() {
    let bad = FaultyWorker::start(&["m"], Answer::error(401, "Incorrect API key provided: sk-worker")).await;
    let front = Front::start(&[&bad], |_| ()).await;
    for _ in 0..5 {
        let reply = front.chat(&chat()).await;
        assert_eq!(reply.status, 502);
        assert!(reply.error("message").contains("worker_api_key") && !reply.body.contains("sk-worker"));
    }
}

#[tokio::test]
async fn what_one_input_provokes_sheds_nobody() {
    for poisoned in
        [Answer::error(500, "boom"), Answer::json(204, &Value::Null), Answer::stream(vec![b"x\n\n".to_vec()])]
    {
        let worker = FaultyWorker::start(&["m"], Answer::whole_chat("fine")).await;
        worker.poison("poison", poisoned);
        let front = Front::start(&[&worker], |_| ()).await;
        for _ in 0..15 {
            assert!(front.chat(&asking("poison")).await.status >= 500);
        }
        wait_for("a probe", || front.metric("forebay_router_probes_total{outcome=\"success\"}") > 0.0).await;
        for _ in 0..10 {
            assert_eq!(front.chat(&asking("harmless")).await.status, 200);
        }
        assert_eq!(front.metric("forebay_router_ejections_total"), 0.0);
        assert_eq!(front.get("/readyz").await.status, 200);
    }
}

#[tokio::test]
async fn a_worker_that_fails_everything_is_ejected_and_comes_back() {
    let bad = FaultyWorker::start(&["m"], Answer::error(500, "broken")).await;
    let slow = Answer { head_delay: Duration::from_millis(50), ..Answer::whole_chat("good") };
    let good = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&bad, &good], |_| ()).await;
    for round in 0..50 {
        let body = asking(&round.to_string());
        join_all((0..20).map(|_| front.chat(&body))).await;
        if front.metric("forebay_router_ejections_total") > 0.0 {
            break;
        }
    }
    wait_for_ejection(&front, &bad, true).await;
    for _ in 0..20 {
        assert_eq!(front.chat(&chat()).await.status, 200);
    }
    bad.always(Answer::whole_chat("mended"));
    wait_for_ejection(&front, &bad, false).await;
}

#[tokio::test]
async fn a_worker_that_fails_fast_looks_busy() {
    let bad = FaultyWorker::start(&["m"], Answer::error(500, "broken")).await;
    let slow = Answer { head_delay: Duration::from_millis(3), ..Answer::whole_chat("good") };
    let good = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&bad, &good], |_| ()).await;
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(front.chat(&chat()).await.status != 200);
    }
    assert!(failed <= 5, "{failed} of 200 met the worker that fails");
}

#[tokio::test]
async fn a_poison_request_breaks_two_workers_at_most() {
    let mut workers = Vec::new();
    for _ in 0..4 {
        let worker = FaultyWorker::start(&["m"], Answer::whole_chat("fine")).await;
        worker.poison("poison", Answer::silence());
        workers.push(worker);
    }
    let front = Front::start(&workers.iter().collect::<Vec<_>>(), |config| config.retry.saved_max = 100.0).await;
    for _ in 0..5 {
        let reply = front.chat(&asking("poison")).await;
        assert_eq!((reply.status, reply.headers["x-should-retry"].to_str().ok()), (502, Some("false")));
    }
    let broke = |worker: &&FaultyWorker| {
        worker.received().iter().any(|request| String::from_utf8_lossy(&request.body).contains("poison"))
    };
    assert_eq!(workers.iter().filter(broke).count(), 2);
    for _ in 0..10 {
        assert_eq!(front.chat(&asking("harmless")).await.status, 200);
    }
}

#[tokio::test]
async fn what_waits_at_a_killed_worker_is_answered_by_another() {
    let slow = Answer { head_delay: Duration::from_secs(60), ..Answer::whole_chat("never") };
    let mut dying = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&dying], |config| config.retry.saved_max = 100.0).await;
    drop(front);
    let other = FaultyWorker::start(&["m"], Answer::whole_chat("other")).await;
    other.refuse_checks(true);
    let front = Front::start(&[&dying, &other], |config| config.retry.saved_max = 100.0).await;
    let bodies: Vec<Value> = (0..30).map(|number| asking(&format!("number {number}"))).collect();
    let asked = join_all(bodies.iter().map(|body| front.chat(body)));
    let kill = async {
        wait_for("all to wait", || dying.received().len() == 30).await;
        other.refuse_checks(false);
        let is_up = format!("forebay_router_worker_up{{worker=\"{}\"}}", other.name());
        wait_for("the other to be up", || front.metric(&is_up) == 1.0).await;
        // One more snapshot of the fleet.
        tokio::time::sleep(Duration::from_millis(250)).await;
        dying.die().await;
    };
    let (replies, ()) = tokio::join!(asked, kill);
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        replies.iter().map(|r| r.status).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_request_that_may_still_run_is_not_sent_again() {
    let slow = Answer { head_delay: Duration::from_secs(60), ..Answer::whole_chat("late") };
    let (one, two) = (FaultyWorker::start(&["m"], slow.clone()).await, FaultyWorker::start(&["m"], slow).await);
    let front = Front::start(&[&one, &two], |config| config.head_timeout_ms = 150).await;
    assert_eq!(front.chat(&chat()).await.status, 504);
    assert_eq!(one.received().len() + two.received().len(), 1);
    let failed = Answer::error(500, "failed half way");
    one.always(failed.clone());
    two.always(failed);
    assert_eq!(front.chat(&chat()).await.status, 500);
    assert_eq!(one.received().len() + two.received().len(), 2);
}

#[tokio::test]
async fn back_pressure_concerns_one_model_unless_the_worker_says_otherwise() {
    let worker = FaultyWorker::start(&["m", "n"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    worker.next(Answer::error(503, "full").with_header("retry-after", "20"));
    assert_eq!(front.chat(&asking_model("m")).await.status, 503);
    assert_eq!(front.chat(&asking_model("m")).await.status, 503, "it rests");
    assert_eq!(front.chat(&asking_model("n")).await.status, 200);
    worker
        .next(Answer::error(503, "draining").with_header("retry-after", "20").with_header("x-forebay-scope", "worker"));
    assert_eq!(front.chat(&asking_model("n")).await.status, 503);
    assert_eq!(front.chat(&asking_model("n")).await.status, 503);
    assert_eq!(worker.received().len(), 3);
}

#[tokio::test]
async fn a_path_that_a_worker_lacks_takes_only_that_path_out() {
    let chat_only = FaultyWorker::start(&["m"], Answer::whole_chat("chat")).await;
    chat_only.poison("prompt", Answer::error(404, "no such path"));
    let both = FaultyWorker::start(&["m"], Answer::whole_chat("both")).await;
    let front = Front::start(&[&chat_only, &both], |config| config.retry.saved_max = 100.0).await;
    let body = json!({"model": "m", "prompt": "hi"});
    for _ in 0..20 {
        assert_eq!(front.complete(&body).await.status, 200);
    }
    wait_for_ejection(&front, &chat_only, true).await;
    let before = both.received().len();
    let replies = join_all((0..40).map(|_| front.chat(&CHAT))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(both.received().len() < before + 40, "chat goes to both");
}

static CHAT: std::sync::LazyLock<Value> = std::sync::LazyLock::new(chat);

#[tokio::test]
async fn a_connection_that_closed_under_a_request_costs_nothing() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    worker.drop_reused(true);
    let front = Front::start(&[&worker], |_| ()).await;
    for _ in 0..10 {
        assert_eq!(front.chat(&chat()).await.status, 200);
    }
    assert!(front.metric("forebay_router_tries_total{outcome=\"stale\",phase=\"head_sent\"}") > 0.0);
    assert_eq!(front.total("forebay_router_retries_total"), 0.0, "outside the budget");
    assert_eq!(front.total("forebay_router_probes_total"), 0.0);
}

#[tokio::test]
async fn a_stopped_worker_is_noticed_within_seconds() {
    let adjust = |config: &mut router::RouterConfig| {
        config.stuck_after_ms = 300;
        config.health.timeout_ms = 100;
    };
    let stopped = FaultyWorker::start(&["m"], Answer::whole_chat("stopped")).await;
    let other = FaultyWorker::start(&["m"], Answer::whole_chat("other")).await;
    let front = Front::start(&[&stopped, &other], adjust).await;
    stopped.freeze(true);
    let begun = Instant::now();
    let bodies: Vec<Value> = (0..6).map(|number| asking(&number.to_string())).collect();
    let replies = join_all(bodies.iter().map(|body| front.chat(body))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(begun.elapsed() < Duration::from_secs(20));
    wait_for("it to be down", || front.total("forebay_router_worker_up") == 1.0).await;
    // In the middle of a stream.
    let alone = FaultyWorker::start(&["m"], Answer::chat(&["a"; 500]).paced(Duration::from_millis(20))).await;
    let front = Front::start(&[&alone], adjust).await;
    let mut stream = front.open_chat(&streamed()).await;
    stream.body_mut().frame().await.expect("a frame").expect("data");
    alone.freeze(true);
    let rest = stream.into_body().collect().await.expect("an end").to_bytes();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("\"error\"") && !rest.contains("[DONE]"), "{rest}");
    front.assert_idle(&[&alone]).await;
}

#[tokio::test]
async fn a_refused_connection_of_a_draining_worker_ends_no_answer() {
    // A worker that drains closes its socket, which refuses checks, and finishes what it has.
    let slow = Answer { head_delay: Duration::from_millis(900), ..Answer::whole_chat("finished") };
    let worker = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&worker], |config| config.stuck_after_ms = 100).await;
    let body = chat();
    let asked = front.chat(&body);
    let refuse = async {
        wait_for("it to wait", || worker.received().len() == 1).await;
        worker.refuse_checks(true);
    };
    let (reply, ()) = tokio::join!(asked, refuse);
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_502() {
    let cut = br#"{"id":"c","object":"chat.completion","choices":[{"index":0,"mess"#.to_vec();
    let html = Answer { pieces: vec![b"<html>welcome</html>".to_vec()], ..typed("text/html") };
    let events = Answer { pieces: vec![chat_event(0, "hi", None)], ..typed("application/json") };
    for (name, answer) in [
        ("html", html),
        ("empty", Answer { pieces: vec![], ..typed("application/json") }),
        ("cut", Answer { pieces: vec![cut], ..typed("application/json") }),
        ("204", Answer::json(204, &Value::Null)),
        ("302", Answer::json(302, &json!({})).with_header("location", "http://127.0.0.1:1/")),
        ("gzip", Answer::whole_chat("hi").with_header("content-encoding", "gzip")),
        ("events under another type", events),
        ("an array", Answer { pieces: vec![b"[1]".to_vec()], ..typed("application/json") }),
    ] {
        let worker = FaultyWorker::start(&["m"], answer.clone()).await;
        let front = Front::start(&[&worker], |_| ()).await;
        let reply = front.chat(&chat()).await;
        assert_eq!((reply.status, reply.error("code").as_str()), (502, "bad_gateway"), "{name}");
        assert_eq!(front.chat(&streamed()).await.status, 502, "{name}, streamed");
        assert_eq!(worker.received().len(), 2, "{name} is not tried again");
        let garbage = front.metric("forebay_router_tries_total{outcome=\"garbage\",phase=\"first_byte\"}");
        assert_eq!(garbage, 2.0, "{name}");
    }
}

fn typed(kind: &str) -> Answer {
    Answer { headers: vec![("content-type".into(), kind.into())], ..Answer::json(200, &Value::Null) }
}

#[tokio::test]
async fn an_error_inside_an_answer_has_the_status_of_its_class() {
    for (error, status) in [
        (json!({"error": {"message": "too long", "type": "BadRequestError", "param": null, "code": 400}}), 400),
        (json!({"error": {"message": "later", "type": "overloaded_error"}}), 503),
        (json!({"object": "error", "message": "oom", "code": 500}), 502),
    ] {
        let event = format!("data: {error}\n\ndata: [DONE]\n\n").into_bytes();
        for answer in [Answer::stream(vec![event]), Answer::json(200, &error)] {
            let worker = FaultyWorker::start(&["m"], answer).await;
            let front = Front::start(&[&worker], |_| ()).await;
            let reply = front.chat(&streamed()).await;
            assert_eq!(reply.status, status, "{error}");
            assert!(!reply.body.contains("[DONE]"));
            assert_eq!(reply.headers["content-type"], "application/json");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_overloaded_before_its_first_event_is_tried_elsewhere() {
    let error = json!({"error": {"message": "queue is full", "code": 503}});
    let refused = Answer::stream(vec![b": waiting\n\n".to_vec(), format!("data: {error}\n\n").into_bytes()]);
    let full = FaultyWorker::start(&["m"], refused).await;
    let free = FaultyWorker::start(&["m"], Answer::chat(&["free"])).await;
    let front = Front::start(&[&full, &free], |_| ()).await;
    for _ in 0..4 {
        let reply = front.chat(&streamed()).await;
        assert_eq!(reply.status, 200);
        assert!(reply.body.contains("free") && reply.body.contains("[DONE]"));
    }
}

#[tokio::test]
async fn faults_in_the_middle_of_streams_raise_a_suspicion_too() {
    let broken = Answer::stream(vec![chat_event(0, "hi", None)]).ending(Ending::Cut);
    let worker = FaultyWorker::start(&["m"], broken).await;
    let front = Front::start(&[&worker], |_| ()).await;
    for _ in 0..5 {
        front.chat(&streamed()).await.assert_broken("bad_gateway");
    }
    assert_eq!(front.metric("forebay_router_tries_total{outcome=\"broke\",phase=\"after\"}"), 5.0);
    wait_for("a probe", || front.total("forebay_router_probes_total") > 0.0).await;
}
