//! Routers a release older or newer before this worker: `wire/tests/releases` keeps what those of before said.

use crate::client;
use crate::worker_process::{Running, chat, start};
use serde_json::{Value, json};
use std::path::Path;

/// The versions of `/status` that releases had.
const VERSIONS: std::ops::RangeInclusive<u32> = 0..=wire::status::STATUS_VERSION;

fn kept(version: u32, file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../wire/tests/releases/{version}/{file}"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Asserts that `now` has every member of `then`, of the same type: what a reader of then needs is there.
fn assert_holds(then: &Value, now: &Value, path: &str) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, then) in then {
                let now = now.get(name).unwrap_or_else(|| panic!("{path}.{name} is gone"));
                assert_holds(then, now, &format!("{path}.{name}"));
            }
        }
        (Value::Array(then), Value::Array(now)) => {
            let (then, now) = (then.first().expect("one to compare"), now.first().expect("one to compare"));
            assert_holds(then, now, &format!("{path}[0]"));
        }
        (Value::Null, _) => {}
        _ => assert_eq!(std::mem::discriminant(then), std::mem::discriminant(now), "{path}: {then} became {now}"),
    }
}

async fn send(worker: &Running, asked: &Value) -> client::Reply {
    let text = |name: &str| asked[name].as_str().expect("a text").to_owned();
    let headers = asked["headers"].as_object().expect("an object");
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("a text"))).collect();
    let body = asked.get("body").map(Value::to_string).unwrap_or_default();
    client::open(worker.address, &text("method"), &text("path"), &headers, body.as_bytes()).await.finish().await
}

#[tokio::test]
async fn a_router_of_every_release_has_its_requests_answered() {
    let worker = start(json!({})).await;
    for version in VERSIONS {
        for asked in kept(version, "requests.json").as_array().expect("a list") {
            let reply = send(&worker, asked).await;
            assert_eq!(Value::from(reply.status), asked["status"], "{asked}: {}", reply.text());
            assert_eq!(reply.header("x-forebay-ignored"), None, "{asked}");
            if asked["method"] == "POST" && reply.status == 200 {
                for name in ["x-forebay-queue-waiting", "x-forebay-queue-running", "x-forebay-kv-usage"] {
                    assert!(reply.header(name).is_some_and(|value| value.parse::<f64>().is_ok()), "{name}: {asked}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_router_of_every_release_finds_what_it_reads() {
    let worker = start(json!({})).await;
    worker.complete(json!({"prompt": "What is a forebay? ".repeat(20), "max_tokens": 1})).await;
    worker.until("forebay_worker_prefix_cache_blocks", |blocks| blocks > 1.0).await;
    let status = worker.get("/status").await.json();
    let events = worker.get("/status/kv-events?model=demo&from=0").await.json();
    for version in VERSIONS {
        assert_holds(&kept(version, "status.json"), &status, "status");
        assert_holds(&kept(version, "kv-events.json"), &events, "events");
    }
}

#[tokio::test]
async fn a_newer_routers_headers_fields_and_questions_change_nothing() {
    let worker = start(json!({})).await;
    let plain = worker.chat(json!({"seed": 7, "max_tokens": 5})).await;
    let novel = [
        ("content-type", "application/json; version=9"),
        ("accept", "application/vnd.forebay.status+json; version=9, application/json"),
        ("x-forebay-lease", "4f;until=1800000000"),
        ("x-forebay-priority-class", "batch"),
        ("x-forebay-ignored", "everything"),
        ("x-forebay-cache-salt", ""),
        ("tracestate", "forebay=9"),
    ];
    let body = chat(json!({"seed": 7, "max_tokens": 5, "reservation": {"tokens": 5}})).to_string();
    let path = "/v1/chat/completions?revision=9";
    let reply = client::open(worker.address, "POST", path, &novel, body.as_bytes()).await.finish().await;
    assert_eq!((reply.status, reply.header("x-forebay-ignored")), (200, Some("reservation")), "{}", reply.text());
    assert_eq!(reply.json()["choices"], plain["choices"]);
    for path in ["/status?fields=load", "/status/kv-events?model=demo&from=0&most=5&shape=9", "/v1/models?after=x"] {
        let reply = client::open(worker.address, "GET", path, &novel, b"").await.finish().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    // Events from where no worker of this age is yet: the reader is told to begin anew.
    let ahead = worker.get("/status/kv-events?model=demo&from=18446744073709551615").await.json();
    assert!(ahead["first"].as_u64().is_some_and(|first| first < 1000) && ahead["events"] == json!([]), "{ahead}");
    let unknown = worker.get("/status/leases").await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("unknown_url")));
}

/// A salt is bytes to a worker: none of another router's alphabet may fall together with another, or with none.
#[tokio::test]
async fn salts_of_any_bytes_keep_tenants_apart() {
    let worker = start(json!({})).await;
    let body = json!({"model": "demo", "prompt": "What is a forebay? ".repeat(20), "max_tokens": 1}).to_string();
    let cached = async |salt: &str| {
        let headers = [("content-type", "application/json"), ("x-forebay-cache-salt", salt)];
        let reply = client::open(worker.address, "POST", "/v1/completions", &headers, body.as_bytes()).await;
        reply.finish().await.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    for salt in ["", "red", "r\u{e9}d", "r\u{e8}d", "r\\xc3\\xa9d", "\u{e9}"] {
        assert_eq!(cached(salt).await, 0, "{salt:?} is new");
        assert!(cached(salt).await > 0, "{salt:?} is known");
    }
}
