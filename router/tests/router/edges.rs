//! The edge to clients and to foreign servers: heads of every shape, names, browsers, full houses.

use crate::harness::{Front, chat, streamed, wait_for};
use http::Method;
use serde_json::json;
use std::time::Duration;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

/// The router's answer to raw bytes, until it closes or pauses.
async fn raw(front: &Front, bytes: &[u8]) -> String {
    let mut client = TcpStream::connect(front.address()).await.expect("connects");
    client.write_all(bytes).await.expect("writes");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(700), client.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(head: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_request_has_one_valid_host() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let length = BODY.len();
    for (host, is_taken) in [
        ("host: x\r\n", true),
        ("Host: 127.0.0.1:8080\r\n", true),
        ("host: [::1]:8080\r\n", true),
        ("host: \r\n", true),
        ("", false),
        ("host: x\r\nhost: x\r\n", false),
        ("host: x\r\nhost: y\r\n", false),
        ("host: x/y\r\n", false),
        ("host: x y\r\n", false),
    ] {
        let answer = raw(&front, &post(&format!("{host}content-length: {length}\r\n"), BODY)).await;
        let expected = if is_taken { "HTTP/1.1 200" } else { "HTTP/1.1 400" };
        assert!(answer.starts_with(expected), "{host:?}: {answer}");
        assert!(is_taken || answer.contains("invalid_request_error"), "{answer}");
    }
    let old = raw(&front, b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200") || old.starts_with("HTTP/1.1 200"), "{old}");
}

#[tokio::test]
async fn no_two_readers_can_disagree_on_where_a_request_ends() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let smuggled = "GET /admin/workers HTTP/1.1\r\nhost: x\r\n\r\n";
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let length = BODY.len();
    for (name, head, body) in [
        ("both lengths", "content-length: 4\r\ntransfer-encoding: chunked\r\n", &chunked),
        ("two lengths", "content-length: 4\r\ncontent-length: 60\r\n", &BODY.to_owned()),
        ("a list of lengths", "content-length: 4, 60\r\n", &BODY.to_owned()),
        ("a signed length", "content-length: +57\r\n", &BODY.to_owned()),
        ("a hexadecimal length", "content-length: 0x39\r\n", &BODY.to_owned()),
        ("a space before the colon", "content-length : 57\r\n", &BODY.to_owned()),
        ("chunked not last", "transfer-encoding: chunked, identity\r\n", &chunked),
        ("an odd coding", "transfer-encoding: xchunked\r\n", &chunked),
        ("a folded line", "transfer-encoding:\r\n chunked\r\n", &chunked),
        ("a bare return", "x: a\rtransfer-encoding: chunked\r\n", &chunked),
        ("an odd chunk size", "transfer-encoding: chunked\r\n", &format!("0x39\r\n{BODY}\r\n0\r\n\r\n")),
        (
            "an overlong chunk size",
            "transfer-encoding: chunked\r\n",
            &format!("{:0>40x}\r\n{BODY}\r\n0\r\n\r\n", length),
        ),
        ("a NUL in a name", "x\0y: 1\r\n", &BODY.to_owned()),
    ] {
        let asked = || worker.received().into_iter().filter(|received| received.path == "/v1/chat/completions");
        let before = asked().count();
        let bytes = post(&format!("host: x\r\n{head}"), &format!("{body}{smuggled}"));
        let answer = raw(&front, &bytes).await;
        let answers = answer.matches("HTTP/1.1 ").count();
        let statuses: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        // Either refused and closed, or read the one way there is; never a body taken for a request.
        assert!(statuses.first().is_none_or(|status| *status == "400" || *status == "200"), "{name}: {answer}");
        if statuses.first() == Some(&"200") {
            let received: Vec<_> = asked().collect();
            assert_eq!(received.len(), before + 1, "{name}");
            assert_eq!(received[before].body, BODY.as_bytes(), "{name}");
            assert_eq!(received[before].headers.get("transfer-encoding"), None, "{name}: framed anew");
        } else {
            assert!(answers <= 1, "{name}: what follows a broken request is no request: {answer}");
            assert_eq!(asked().count(), before, "{name}");
        }
    }
    assert_eq!(front.chat(&chat()).await.status, 200);
}

#[tokio::test]
async fn credentials_and_sessions_cross_in_neither_direction() {
    let answer = Answer::whole_chat("hi")
        .with_header("set-cookie", "session=1")
        .with_header("access-control-allow-origin", "*")
        .with_header("server", "foreign")
        .with_header("keep-alive", "timeout=9")
        .with_header("x-custom", "kept");
    let worker = FaultyWorker::start(&["m"], answer.clone()).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let headers = [("x-api-key", "sk-client"), ("cookie", "a=b"), ("origin", "https://a.example"), ("x-mine", "kept")];
    for body in [chat(), streamed()] {
        worker.next(if body["stream"] == true {
            Answer { pieces: Answer::chat(&["hi"]).pieces, ..answer.clone().typed_as_stream() }
        } else {
            answer.clone()
        });
        let reply = front.send(Method::POST, "/v1/chat/completions", &headers, body.to_string().into_bytes()).await;
        assert_eq!((reply.status, &reply.headers["x-custom"]), (200, &"kept".parse().expect("a value")));
        for name in ["set-cookie", "access-control-allow-origin", "server", "keep-alive"] {
            assert!(!reply.headers.contains_key(name), "{name}");
        }
    }
    for received in worker.received() {
        assert_eq!(received.headers["x-mine"], "kept");
        for name in ["x-api-key", "cookie", "origin", "authorization"] {
            assert!(!received.headers.contains_key(name), "{name}");
        }
    }
}

trait TypedAsStream {
    fn typed_as_stream(self) -> Self;
}

impl TypedAsStream for Answer {
    fn typed_as_stream(mut self) -> Self {
        for (name, value) in &mut self.headers {
            if name == "content-type" {
                "text/event-stream; charset=utf-8".clone_into(value);
            }
        }
        self
    }
}

#[tokio::test]
async fn foreign_lists_of_models_are_understood() {
    for (list, model) in [
        (&br#"{"data":[{"id":"org/name"}]}"#[..], "org/name"),
        (&b"\xef\xbb\xbf{\"object\":\"list\",\"data\":[{\"id\":\"a/b/c\",\"created\":1.7e9}]}"[..], "a/b/c"),
        (&br#"[{"id":"plain","type":"chat","pricing":{"input":0.1}}]"#[..], "plain"),
    ] {
        let worker = FaultyWorker::start(&[], Answer::whole_chat("hi")).await;
        worker.models_body(list);
        let front = Front::start(&[&worker], |_| ()).await;
        assert_eq!(front.chat(&json!({"model": model, "messages": []})).await.status, 200, "{model}");
        let listed = front.get("/v1/models").await.json();
        assert_eq!(listed["data"][0]["id"], model);
        assert!(listed["data"][0]["created"].is_u64() && listed["data"][0]["owned_by"].is_string());
        for path in [format!("/v1/models/{model}"), format!("/v1/models/{}", model.replace('/', "%2F"))] {
            assert_eq!(front.get(&path).await.json()["id"], model, "{path}");
        }
    }
}

#[tokio::test]
async fn a_model_may_be_left_out_where_there_is_one() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let front = Front::start(&[&worker], |_| ()).await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(front.chat(&body).await.status, 200);
    assert_eq!(worker.received()[0].body, body.to_string().into_bytes(), "as the client wrote it");
}

#[tokio::test]
async fn browsers_are_let_in_by_the_setting_alone_and_to_the_api_alone() {
    let worker = FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await;
    let origin = "https://app.example";
    let preflight = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    for (origins, is_open) in
        [(&[][..], false), (&[origin][..], true), (&["*"][..], true), (&["https://b.example"][..], false)]
    {
        let front = Front::start(&[&worker], |config| {
            config.listen.cors_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        })
        .await;
        let allowed = |reply: &crate::harness::Reply| {
            reply.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text").to_owned())
        };
        let expected = is_open.then(|| origin.to_owned());
        let reply = front.send(Method::OPTIONS, "/v1/chat/completions", &preflight, Vec::new()).await;
        assert_eq!(allowed(&reply), expected, "{origins:?}");
        if is_open {
            assert_eq!(reply.status, 200);
            assert_eq!(reply.headers["access-control-allow-headers"], "authorization");
        }
        let reply = front.send(Method::POST, "/v1/chat/completions", &[("origin", origin)], BODY.into()).await;
        assert_eq!((reply.status, allowed(&reply)), (200, expected), "{origins:?}");
        for path in ["/admin/workers", "/metrics", "/status"] {
            assert_eq!(
                allowed(&front.send(Method::GET, path, &[("origin", origin)], Vec::new()).await),
                None,
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn health_and_metrics_answer_when_all_connections_are_taken() {
    let worker = FaultyWorker::start(&["m"], Answer::chat(&["a"]).ending(Ending::Stall)).await;
    let front = Front::start(&[&worker], |config| config.listen.connections_max = 3).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut client = TcpStream::connect(front.address()).await.expect("connects");
        let head = format!("host: x\r\ncontent-length: {}\r\n", BODY.len());
        client.write_all(&post(&head, BODY)).await.expect("writes");
        held.push(client);
    }
    wait_for("all to be taken", || front.total("forebay_listen_connections") >= 3.0).await;
    for path in ["/livez", "/readyz", "/metrics", "/status"] {
        let answer = raw(&front, format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{path}");
    }
    let refused = raw(&front, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after"), "{refused}");
    drop(held);
    wait_for("room", || front.total("forebay_listen_connections") <= 1.0).await;
    assert_eq!(front.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_worker_of_another_release_is_understood() {
    // As the first release wrote it, and as a later one might.
    let old = json!({"version": "0.1.0", "ready": true, "draining": false, "models": [{
        "id": "m", "state": "ready", "proof": "trusted", "created_unix_s": 5, "weights_bytes": 1, "weights_open_ms": 1.0,
        "ready_after_ms": 1.0, "max_model_len": 64,
        "load": {"waiting": 0, "running": 0, "kv_blocks_used": 0, "kv_blocks_total": 0}}]});
    let new = json!({"version": "9.0.0", "ready": true, "draining": false, "novelty": {"a": 1}, "models": [
        {"id": "m", "state": "ready", "created_unix_s": 5, "load": {"waiting": 0, "asleep": 2}, "shards": [1]},
        {"id": "n", "state": "hibernating", "load": {}}]});
    for status in [old, new] {
        let worker = FaultyWorker::start(&[], Answer::whole_chat("hi")).await;
        worker.status(status.clone());
        let front = Front::start(&[&worker], |_| ()).await;
        assert_eq!(front.chat(&chat()).await.status, 200, "{status}");
        let shown = front.get("/status").await.json();
        assert_eq!(shown["workers"][0]["version"], status["version"]);
        if status["version"] == "9.0.0" {
            let unready = front.chat(&json!({"model": "n", "messages": []})).await;
            assert_eq!(unready.status, 503, "a state nobody knows is not ready");
        }
    }
}
