//! Answers that pass, and the end of those that cannot be finished.

use crate::harness::{Front, chat, streamed, wait_for};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, Received, chat_event};

#[tokio::test]
async fn a_request_arrives_byte_for_byte_with_the_workers_key() {
    let worker =
        FaultyWorker::start(&["m"], Answer::whole_chat("hello").with_header("x-forebay-ignored", "novelty")).await;
    let front = Front::start(&[&worker], |config| config.worker_api_key = Some(policy::Secret::new("sk-worker"))).await;
    let body = br#"{ "model":"m",  "messages":[{"role":"user","content":"\u0068i"}], "novelty": {"b":1, "a":1e2} }"#;
    let headers = [("authorization", "Bearer sk-client"), ("x-request-id", "abc"), ("x-custom", "1")];
    let reply = front.send(Method::POST, "/v1/chat/completions", &headers, body.to_vec()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "hello");
    for (name, value) in
        [("x-request-id", "abc"), ("x-forebay-worker", &worker.name()), ("x-forebay-ignored", "novelty")]
    {
        assert_eq!(reply.headers[name], value);
    }
    let received = &worker.received()[0];
    assert_eq!(received.body, body);
    for (name, value) in [("authorization", "Bearer sk-worker"), ("x-request-id", "abc"), ("x-custom", "1")] {
        assert_eq!(received.headers[name], value);
    }
    assert_eq!(received.headers["host"], worker.name());
}

#[tokio::test]
async fn a_stream_passes_byte_for_byte_however_the_network_cuts_it() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let whole = Answer::chat(&["für", " Élise", " ☃🎹", "\n\ndata: x"]);
    let expected = String::from_utf8(whole.pieces.concat()).expect("text");
    for seed in 0..30 {
        worker.next(whole.clone().cut_at_random(seed, 12));
        let reply = front.chat(&streamed()).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, expected.as_str()), "seed {seed}");
    }
    front.assert_idle(&[&worker]).await;
    assert_eq!(front.metric("forebay_router_requests_total{code=\"200\",model=\"m\"}"), 30.0);
    assert_eq!(front.metric("forebay_router_time_to_first_token_seconds_count{model=\"m\"}"), 30.0);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_no_done() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = Front::start(&[&worker], |config| {
        config.idle_timeout_ms = 150;
        config.event_bytes_max = 4_096;
    })
    .await;
    let hello = chat_event(0, "hello", None);
    let half = b"data: {\"choices\":[{\"ind".to_vec();
    let huge = format!("data: {{\"x\":\"{}\"}}\n\n", "x".repeat(8_000)).into_bytes();
    let cases = [
        (vec![half.clone()], Ending::Cut, "bad_gateway", "broken_mid_answer"),
        (vec![half.clone()], Ending::Clean, "bad_gateway", "truncated"),
        (vec![], Ending::Clean, "bad_gateway", "truncated"),
        (vec![half], Ending::Stall, "upstream_timeout", "stalled"),
        (vec![huge], Ending::Clean, "bad_gateway", "too_large"),
        (vec![b"data: \xff\xfe\n\n".to_vec()], Ending::Clean, "bad_gateway", "garbage"),
    ];
    for (pieces, ending, code, kind) in cases {
        let counter = format!("forebay_router_upstream_errors_total{{kind=\"{kind}\"}}");
        let before = front.metric(&counter);
        worker.next(Answer::stream([vec![hello.clone()], pieces].concat()).ending(ending));
        let reply = front.chat(&streamed()).await;
        assert_eq!(reply.status, 200, "{kind}");
        reply.assert_broken(code);
        assert!(reply.events()[0].contains("hello"), "what was complete passed: {kind}");
        assert_eq!(reply.events().len(), 2, "{kind}: {}", reply.body);
        assert_eq!(front.metric(&counter), before + 1.0, "{kind}");
    }
    assert_eq!(front.metric("forebay_router_requests_total{code=\"502\",model=\"m\"}"), 5.0);
    // The router's own probe is not streamed.
    let is_streamed = |received: &&Received| String::from_utf8_lossy(&received.body).contains("stream");
    let tries = worker.received().iter().filter(is_streamed).count();
    assert_eq!(tries, 6, "nothing was tried again after the first byte");
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn a_slow_reader_is_not_a_silent_worker() {
    let large = "x".repeat(200_000);
    let worker = FaultyWorker::start(&["m"], Answer::chat(&[large.as_str(); 60])).await;
    let front = Front::start(&[&worker], |config| config.idle_timeout_ms = 100).await;
    let mut response = front.open_chat(&streamed()).await;
    let mut bytes = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        if bytes.is_empty() {
            // The one place where time itself is the condition: longer than the worker may pause.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        bytes.extend_from_slice(&frame.expect("a frame").into_data().expect("data"));
    }
    assert!(bytes.len() > 12_000_000 && bytes.ends_with(b"data: [DONE]\n\n"));
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn words_that_are_no_events_are_an_error() {
    let garbage = Answer::stream(vec![b"data: <html>not json</html>\n\n".to_vec()]);
    let worker = FaultyWorker::start(&["m"], garbage).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let reply = front.chat(&streamed()).await;
    assert_eq!((reply.status, reply.error("code").as_str()), (502, "bad_gateway"));
    assert!(!reply.body.contains("html"));
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_an_error_and_not_half_a_document() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hello").ending(Ending::Cut)).await;
    let front = Front::start(&[&worker], |config| config.idle_timeout_ms = 150).await;
    for (ending, status) in [(Ending::Cut, 502), (Ending::Stall, 504)] {
        worker.next(Answer::whole_chat("hello").ending(ending));
        let reply = front.chat(&chat()).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.error("type"), "server_error");
    }
    front.assert_idle(&[&worker]).await;
}

/// With and without a list: a client that cannot read an answer must not take it for one.
#[tokio::test]
async fn what_is_no_answer_is_a_502() {
    for phrases in [vec![], vec!["red button".to_owned()]] {
        // A worker and a router for each: what one request broke is not to change the next.
        let ask = async |answer: Answer, body: &serde_json::Value| {
            let worker = FaultyWorker::start(&["m"], answer).await;
            let front = Front::start(&[&worker], |config| config.policy.deny_list.phrases = phrases.clone()).await;
            let reply = front.chat(body).await;
            assert!(!worker.received().is_empty());
            reply
        };
        let as_kind =
            |answer: Answer, kind: &str| Answer { headers: vec![("content-type".into(), kind.into())], ..answer };
        let body = |status: u16, body: &str| Answer {
            pieces: vec![body.as_bytes().to_vec()],
            ..Answer::json(status, &json!(null))
        };
        let whole = Answer::whole_chat("hello").pieces.concat();
        let whole = String::from_utf8(whole).expect("text");
        for (name, answer) in [
            ("cut at its end", body(200, &whole[..whole.len() - 3])),
            ("cut in the middle", body(200, &whole[..40])),
            ("empty", body(200, "")),
            ("more behind it", body(200, &format!("{whole}{whole}"))),
            ("a page", as_kind(body(200, "<html>hello</html>"), "text/html")),
            ("JSON said to be a page", as_kind(Answer::whole_chat("hello"), "text/html")),
            ("a page said to be JSON", body(200, "<html>hello</html>")),
            ("204", body(204, "")),
            ("202", body(202, &whole)),
            ("302", body(302, "").with_header("location", "http://127.0.0.1/")),
            ("304", body(304, "")),
            ("a list", body(200, "[]")),
            ("a word", body(200, "null")),
            ("no choices", body(200, "{}")),
            ("choices of nothing", body(200, r#"{"choices":[]}"#)),
            ("choices of null", body(200, r#"{"choices":null}"#)),
            ("a chunk", body(200, r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#)),
            ("an error", body(200, r#"{"error":{"message":"oops"}}"#)),
            ("vLLM's error", body(200, r#"{"object":"error","message":"oops"}"#)),
            ("FastAPI's error", body(200, r#"{"detail":"oops"}"#)),
            ("a stream", Answer::chat(&["hello"])),
            ("a stream said to be JSON", as_kind(Answer::chat(&["hello"]), "application/json")),
            ("choices twice", body(200, &whole.replacen("{\"id\"", "{\"choices\":[],\"id\"", 1))),
        ] {
            let reply = ask(answer, &chat()).await;
            assert_eq!(reply.status, 502, "{name}: {}", reply.body);
            assert!(reply.json()["error"]["message"].is_string(), "{name}: {}", reply.body);
            assert!(!reply.body.contains("hello"), "{name}");
        }
        for (name, answer) in [
            ("JSON", Answer::whole_chat("hello")),
            ("JSON said to be a stream", as_kind(Answer::whole_chat("hello"), "text/event-stream")),
            ("a stream said to be JSON", as_kind(Answer::chat(&["hello"]), "application/json")),
            ("a page", as_kind(body(200, "<html>hello</html>"), "text/html")),
        ] {
            let reply = ask(answer, &streamed()).await;
            assert!(!reply.body.contains("[DONE]") && !reply.body.contains("hello"), "{name}: {}", reply.body);
            assert!(reply.body.contains("bad_gateway"), "{name}: {}", reply.body);
        }
    }
}

/// Whatever shares a read with it, and whatever its shape: after an error there is nothing.
#[tokio::test]
async fn an_error_ends_a_stream_without_done_in_any_shape() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let hello = String::from_utf8(chat_event(0, "hello", None)).expect("text");
    let shapes = [
        r#"data: {"error":{"message":"oops","type":"server_error","param":null,"code":null}}"#,
        r#"data:{"error": "oops"}"#,
        r#"data: { "error" : {"message":"oops"}, "choices": [] }"#,
        r#"data: {"object":"error","message":"oops","type":"InternalServerError","code":500}"#,
        r#"data: {"type":"error","error":{"type":"overloaded_error","message":"oops"}}"#,
        "event: error\ndata: oops",
        "event: error\ndata: {\"message\":\"oops\"}",
        r#"data: {"detail":"oops"}"#,
        r#"data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"message":"oops"}}]}"#,
    ];
    for (seed, shape) in shapes.iter().enumerate() {
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            for cuts in [0, 9] {
                let stream = format!("{hello}{shape}{end}data: [DONE]{end}{hello}");
                let stream = Answer::stream(vec![stream.into_bytes()]).cut_at_random(seed as u64, cuts);
                worker.next(stream);
                // A router of its own: one that heard of an overload lets the worker rest.
                let front = Front::start(&[&worker], |_| ()).await;
                let reply = front.chat(&streamed()).await;
                let events = reply.events();
                assert_eq!(events.len(), 2, "{shape}: {}", reply.body);
                assert!(events[0].contains("hello") && events[1].contains("oops"), "{shape}: {}", reply.body);
                assert!(events[1].contains("\"error\""), "OpenAI's clients see it: {}", reply.body);
                assert!(!reply.body.contains("[DONE]"), "{shape}: {}", reply.body);
                assert_eq!(front.metric("forebay_router_requests_total{code=\"502\",model=\"m\"}"), 1.0);
                let outcome = if shape.contains("overloaded") { "back_pressure" } else { "failed" };
                let tries = format!("forebay_router_tries_total{{outcome=\"{outcome}\",phase=\"after\"}}");
                assert_eq!(front.metric(&tries), 1.0, "{shape}");
                front.assert_idle(&[&worker]).await;
            }
        }
    }
}

#[tokio::test]
async fn nothing_follows_done_however_it_is_written() {
    let worker = FaultyWorker::start(&["m"], Answer::silence()).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let hello = String::from_utf8(chat_event(0, "hello", Some("stop"))).expect("text");
    let mut seed = 0;
    for done in ["data: [DONE]", "data:[DONE]", "data: [DONE] ", "data:   [DONE]", "event: done\ndata: [DONE]"] {
        for end in ["\n\n", "\r\n\r\n", "\r\r", "\n", ""] {
            // What ends nothing is followed by nothing.
            let more = if end.len() > 1 { format!("{hello}data: {{\"error\":\"late\"}}\n\n") } else { String::new() };
            let stream = format!("{hello}{done}{end}{more}");
            worker.next(Answer::stream(vec![stream.into_bytes()]).cut_at_random(seed, 7));
            seed += 1;
            let reply = front.chat(&streamed()).await;
            assert_eq!(reply.body.trim_end(), format!("{hello}{done}").trim_end(), "{done:?} {end:?}");
        }
    }
    assert_eq!(front.metric("forebay_router_requests_total{code=\"200\",model=\"m\"}"), seed as f64);
    front.assert_idle(&[&worker]).await;
}

#[tokio::test]
async fn a_workers_own_error_passes_as_it_is() {
    let worker = FaultyWorker::start(&["m"], Answer::error(400, "`temperature` is too hot")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let reply = front.chat(&chat()).await;
    assert_eq!((reply.status, reply.error("message").as_str()), (400, "`temperature` is too hot"));
    assert_eq!(worker.received().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_worker_at_once() {
    let slow = Answer::chat(&["a"; 100]).paced(Duration::from_millis(30));
    let silent = Answer { head_delay: Duration::from_secs(60), ..Answer::chat(&[]) };
    let worker = FaultyWorker::start(&["m"], slow).await;
    let front = Front::start(&[&worker], |_| ()).await;
    // In the middle of a stream.
    let mut response = front.open_chat(&streamed()).await;
    response.body_mut().frame().await.expect("a frame").expect("data");
    let left_at = Instant::now();
    drop(response);
    wait_for("the worker to notice", || worker.left().len() == 1).await;
    assert!(worker.left()[0] - left_at < Duration::from_millis(100), "{:?}", worker.left()[0] - left_at);
    // Before the head.
    worker.always(silent);
    let body = streamed();
    let waiting = front.open_chat(&body);
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting).await.is_err());
    wait_for("the worker to notice", || worker.left().len() == 2).await;
    front.assert_idle(&[&worker]).await;
    assert_eq!(front.metric("forebay_router_requests_total{code=\"499\",model=\"m\"}"), 2.0);
}

#[tokio::test]
async fn bad_requests_never_reach_a_worker() {
    let worker = FaultyWorker::start(&["m", "n"], Answer::chat(&[])).await;
    let front = Front::start(&[&worker], |config| config.listen.body_bytes_max = 1_000).await;
    let path = "/v1/chat/completions";
    for (method, path, body, status, param) in [
        (Method::POST, path, "{", 400, None),
        (Method::POST, path, "[]", 400, None),
        (Method::POST, path, r#"{"messages":[]}"#, 400, Some("model")),
        (Method::POST, path, r#"{"model":7}"#, 400, Some("model")),
        (Method::POST, path, r#"{"model":"nobody"}"#, 404, Some("model")),
        (Method::POST, path, &" ".repeat(2_000), 413, None),
        (Method::GET, path, "", 405, None),
        (Method::POST, "/v1/responses", "{}", 404, None),
        (Method::GET, "/v1/models/nobody", "", 404, Some("model")),
    ] {
        let reply = front.send(method, path, &[], body.as_bytes().to_vec()).await;
        assert_eq!(reply.status, status, "{path} {body}");
        assert_eq!(reply.json()["error"]["param"].as_str(), param, "{path} {body}");
        assert!(reply.headers.contains_key("x-request-id"));
    }
    assert!(worker.received().is_empty());
    assert_eq!(front.metric("forebay_router_requests_total{code=\"404\",model=\"other\"}"), 1.0);
    assert_eq!(front.get("/v1/models/m").await.json()["id"], "m");
}
