//! Clocks: silence and life, held heads, slow readers, clients that leave, drains.

use crate::harness::{Front, chat, streamed, wait_for};
use http_body_util::BodyExt;
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMMENT: &[u8] = b": waiting\n\n";

fn request(body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn comments_are_life_before_and_within_an_answer() {
    let mut pieces = vec![COMMENT.to_vec(); 20];
    pieces.push(chat_event(0, "at last", None));
    pieces.extend(vec![COMMENT.to_vec(); 20]);
    pieces.push(b"data: [DONE]\n\n".to_vec());
    let worker = FaultyWorker::start(&["m"], Answer::stream(pieces).paced(Duration::from_millis(50))).await;
    let front = Front::start(&[&worker], |config| {
        config.first_event_timeout_ms = 500;
        config.idle_timeout_ms = 500;
    })
    .await;
    let reply = front.chat(&streamed()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.events().last().map(String::as_str), Some("[DONE]"), "{}", reply.body);
}

#[tokio::test]
async fn silence_before_the_first_event_has_a_limit_and_a_status() {
    let silent = Answer::stream(vec![COMMENT.to_vec()]).ending(Ending::Stall);
    let worker = FaultyWorker::start(&["m"], silent).await;
    let front = Front::start(&[&worker], |config| config.first_event_timeout_ms = 150).await;
    let reply = front.chat(&streamed()).await;
    assert_eq!((reply.status, reply.error("code").as_str()), (504, "upstream_timeout"));
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn a_head_that_is_held_too_long_goes_out_with_comments_and_the_answer_follows() {
    let late = Answer { head_delay: Duration::from_millis(400), ..Answer::chat(&["late"]) };
    let worker = FaultyWorker::start(&["m"], late).await;
    let front = Front::start(&[&worker], |config| config.comment_interval_ms = 50).await;
    let begun = Instant::now();
    let response = front.open_chat(&streamed()).await;
    assert!(begun.elapsed() < Duration::from_millis(400), "the head came first");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body().collect().await.expect("a stream").to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.starts_with(":\n\n:\n\n") && text.contains("late") && text.ends_with("data: [DONE]\n\n"), "{text}");
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn a_refusal_keeps_its_status_within_the_hold_and_is_an_error_event_after_it() {
    let pretty = "{\n  \"error\": {\"message\": \"no\", \"type\": \"invalid_request_error\", \"param\": null, \"code\": null}\n}";
    let refusal = Answer { pieces: vec![pretty.into()], ..Answer::error(400, "no") };
    for (delay_ms, is_held) in [(30, true), (500, false)] {
        let answer = Answer { head_delay: Duration::from_millis(delay_ms), ..refusal.clone() };
        let worker = FaultyWorker::start(&["m"], answer).await;
        let interval_ms = if is_held { 10_000 } else { 50 };
        let front = Front::start(&[&worker], |config| config.comment_interval_ms = interval_ms).await;
        let reply = front.chat(&streamed()).await;
        if is_held {
            assert_eq!((reply.status, reply.error("message").as_str()), (400, "no"));
        } else {
            assert_eq!(reply.status, 200);
            let events = reply.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert!(events[0].contains("\"no\""), "{events:?}");
        }
    }
}

#[tokio::test]
async fn another_worker_is_tried_even_after_comments_went_out() {
    let late = Answer { head_delay: Duration::from_millis(300), ..Answer::error(503, "full") };
    let one = FaultyWorker::start(&["m"], late.clone()).await;
    let two = FaultyWorker::start(&["m"], late).await;
    let front = Front::start(&[&one, &two], |config| config.comment_interval_ms = 50).await;
    one.always(Answer::chat(&["one"]));
    two.always(Answer { head_delay: Duration::from_millis(300), ..Answer::error(503, "full") });
    for _ in 0..3 {
        let reply = front.chat(&streamed()).await;
        assert!(reply.body.contains("one") && reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_silent_stream_gets_comments_of_ours() {
    let pieces = vec![chat_event(0, "a", None), b"data: [DONE]\n\n".to_vec()];
    let worker = FaultyWorker::start(&["m"], Answer::stream(pieces).paced(Duration::from_millis(300))).await;
    let front = Front::start(&[&worker], |config| config.comment_interval_ms = 60).await;
    let reply = front.chat(&streamed()).await;
    let (before, after) = reply.body.split_once("data: {").expect("an event");
    assert!(before.starts_with(":\n\n") && after.contains("\n\n:\n\n"), "{}", reply.body);
    assert_eq!(reply.events().len(), 2);
}

#[tokio::test]
async fn the_end_of_a_drain_cuts_streams_with_an_error_event() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"]).ending(Ending::Stall)).await;
    let stalled = Answer { pieces: vec![chat_event(0, "a", None)], ..Answer::chat(&[]) }.ending(Ending::Stall);
    worker.always(stalled);
    let front = Front::start(&[&worker], |config| config.listen.drain_timeout_ms = 100).await;
    let mut stream = front.open_chat(&streamed()).await;
    stream.body_mut().frame().await.expect("a frame").expect("data");
    front.drain.start();
    let rest = stream.into_body().collect().await.expect("a whole body, to its end").to_bytes();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("shutting down") && !rest.contains("[DONE]"), "{rest}");
    let ended = tokio::time::timeout(Duration::from_secs(10), front.served).await.expect("in time").expect("joins");
    assert!(ended.is_err(), "streams were cut: the process says so by its exit code");
}

#[tokio::test]
async fn the_end_of_a_drain_refuses_answers_that_wait() {
    let never = Answer { head_delay: Duration::from_secs(60), ..Answer::whole_chat("never") };
    let worker = FaultyWorker::start(&["m"], never).await;
    let front = Front::start(&[&worker], |config| config.listen.drain_timeout_ms = 100).await;
    let body = chat();
    let asked = front.chat(&body);
    let drain = async {
        wait_for("it to wait", || worker.received().len() == 1).await;
        front.drain.start();
    };
    let (reply, ()) = tokio::join!(asked, drain);
    assert_eq!((reply.status, reply.headers.contains_key("retry-after")), (503, true));
}

#[tokio::test]
async fn a_client_that_does_not_read_frees_its_place_and_the_workers() {
    let large = "x".repeat(60_000);
    let endless = Answer::chat(&vec![large.as_str(); 400]);
    let whole = Answer::whole_chat(&"x".repeat(12 << 20));
    for (body, answer) in [(streamed(), endless), (chat(), whole)] {
        let worker = FaultyWorker::start(&["m"], answer).await;
        let front = Front::start(&[&worker], |config| config.listen.write_timeout_ms = 300).await;
        let mut client = TcpStream::connect(front.address()).await.expect("connects");
        client.write_all(&request(&body)).await.expect("writes");
        wait_for("it to begin", || worker.received().len() == 1).await;
        wait_for("the cut", || front.total("forebay_listen_ended_connections_total") == 1.0).await;
        front.assert_idle(&[&worker]).await;
        wait_for("the connection to be gone", || {
            front.metric("forebay_listen_connections{listener=\"router\"}") <= 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_reads_is_served() {
    let large = "x".repeat(50_000);
    let worker = FaultyWorker::start(&["m"], Answer::chat(&vec![large.as_str(); 120])).await;
    let front = Front::start(&[&worker], |config| config.listen.write_timeout_ms = 600).await;
    let mut client = TcpStream::connect(front.address()).await.expect("connects");
    client.write_all(&request(&streamed())).await.expect("writes");
    let (mut seen, mut buffer) = (0, vec![0; 200_000]);
    let begun = Instant::now();
    while seen < 6_000_000 {
        // Time itself is the condition: longer in all than a reader may pause.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let read = client.read(&mut buffer).await.expect("reads");
        assert!(read > 0, "cut after {seen} bytes and {:?}", begun.elapsed());
        seen += read;
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_whatever_it_left_unread() {
    let slow = Answer { head_delay: Duration::from_secs(60), ..Answer::chat(&[]) };
    let worker = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let mut client = TcpStream::connect(front.address()).await.expect("connects");
    client.write_all(&request(&streamed())).await.expect("writes");
    // A second request that nobody reads before the first is answered.
    client.write_all(&request(&streamed())).await.expect("writes");
    wait_for("it to wait", || worker.received().len() == 1).await;
    drop(client);
    wait_for("the worker to notice", || worker.left().len() == 1).await;
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn a_whole_answer_keeps_its_place_until_it_is_written() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat(&"x".repeat(12 << 20))).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let mut client = TcpStream::connect(front.address()).await.expect("connects");
    client.write_all(&request(&chat())).await.expect("writes");
    let mut first = [0; 1_000];
    client.read_exact(&mut first).await.expect("the answer begins");
    assert_eq!(front.metric("forebay_router_in_flight_requests"), 1.0);
    drop(client);
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn an_unused_connection_has_a_clock_of_its_own() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    for (idle_ms, head_ms, is_open) in [(10_000, 150, true), (150, 10_000, false)] {
        let front = Front::start(&[&worker], |config| {
            config.listen.idle_timeout_ms = idle_ms;
            config.listen.header_read_timeout_ms = head_ms;
        })
        .await;
        let mut client = TcpStream::connect(front.address()).await.expect("connects");
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
        let mut first = [0; 12];
        client.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200");
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_millis(800), client.read_to_end(&mut rest)).await;
        assert_eq!(closed.is_err(), is_open, "idle {idle_ms} ms, head {head_ms} ms");
    }
}

#[tokio::test]
async fn a_status_that_is_asked_for_while_streams_are_held_answers() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"]).ending(Ending::Stall)).await;
    let front = Front::start(&[&worker], |config| config.in_flight_max = 1).await;
    let held = front.open_chat(&streamed()).await;
    assert_eq!(front.chat(&json!({"model": "m", "messages": []})).await.status, 503);
    for path in ["/livez", "/readyz", "/metrics", "/status", "/v1/models"] {
        assert_eq!(front.get(path).await.status, 200, "{path}");
    }
    drop(held);
}
