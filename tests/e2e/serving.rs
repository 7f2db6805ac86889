//! `forebay serve`: the main job.

use crate::client::{chat, get, joined, post, stream, try_get};
use crate::process::{Server, eventually};

#[test]
fn serve_answers_whole_and_streamed_alike() {
    let server = Server::start(&["serve"]);
    let whole = chat(&server.url, "What is Forebay?", "");
    assert_eq!(whole.status, 200, "{}", whole.text);
    let text = whole.json()["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.contains("Forebay"), "{text}");
    let (streamed, is_done) = joined(stream(&server.url, "What is Forebay?", ""));
    assert_eq!((streamed, is_done), (text, true));
    assert!(!whole.header("x-request-id").is_empty() && !whole.header("x-forebay-worker").is_empty());
}

#[test]
fn health_models_and_metrics_are_served() {
    let server = Server::start(&["serve"]);
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(get(&format!("{}{path}", server.url)).status, 200, "{path}");
    }
    assert_eq!(get(&format!("{}/v1/models", server.url)).json()["data"][0]["id"], "demo");
    chat(&server.url, "Hello", "");
    let metrics = get(&format!("{}/metrics", server.url));
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for name in [
        "forebay_router_requests_total{",
        "forebay_worker_running{",
        "vllm:num_requests_running{",
        "forebay_listen_connections{listener=\"worker\"}",
        "process_resident_memory_bytes ",
        "forebay_build_info{",
        "forebay_router_retry_budget_exhausted_total 0",
    ] {
        assert!(metrics.text.lines().any(|line| line.starts_with(name)), "{name}: {}", metrics.text);
    }
}

#[test]
fn a_drain_flips_readiness_then_finishes_streams_then_exits_with_zero() {
    let server = Server::start(&["serve", "--set", "router.listen.drain_notice_ms=700"]);
    let url = server.url.clone();
    let mut events = stream(&url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":400"#);
    events.next().expect("a first event");
    server.signal("-TERM");
    eventually("readiness says no", || try_get(&format!("{url}/readyz")).is_ok_and(|answer| answer.status == 503));
    let (_, is_done) = joined(events);
    assert!(is_done, "the stream was cut");
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    let worker = Server::start(&["worker", "demo"]);
    let gauge = |name: &str| {
        let text = get(&format!("{}/metrics", worker.url)).text;
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok()))
    };
    {
        let mut events = stream(&worker.url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":1500"#);
        events.next().expect("a first event");
        eventually("it runs", || gauge("vllm:num_requests_running") == Some(1.0));
    }
    eventually("the sequence is gone", || gauge("vllm:num_requests_running") == Some(0.0));
    eventually("its blocks are free", || gauge("vllm:kv_cache_usage_perc") == Some(0.0));
}

#[test]
fn bad_requests_get_openai_errors_that_name_the_field() {
    let server = Server::start_with(&["serve"], &[("FOREBAY_ROUTER__LISTEN__BODY_BYTES_MAX", "100000")]);
    let url = format!("{}/v1/chat/completions", server.url);
    let hi = r#""messages":[{"role":"user","content":"hi"}]"#;
    let long = "word ".repeat(8000);
    let huge = "x".repeat(100_001);
    let cases = [
        ("{".to_owned(), 400, ""),
        (r#"{"model":"demo","messages":"hi"}"#.to_owned(), 400, "messages"),
        (format!(r#"{{"model":"nobody",{hi}}}"#), 404, "model"),
        (r#"{"model":"demo","messages":[{"role":"owner","content":"x"}]}"#.to_owned(), 400, "messages[0].role"),
        (format!(r#"{{"model":"demo",{hi},"n":99}}"#), 400, "n"),
        (format!(r#"{{"model":"demo",{hi},"temperature":NaN}}"#), 400, "temperature"),
        (format!(r#"{{"model":"demo",{hi},"tools":[{{"type":"function"}}]}}"#), 400, "tools[0].function"),
        (format!(r#"{{"model":"demo","messages":[{{"role":"user","content":"{long}"}}]}}"#), 400, "messages"),
        (format!(r#"{{"model":"demo","messages":[{{"role":"user","content":"{huge}"}}]}}"#), 413, ""),
    ];
    for (body, status, param) in cases {
        let answer = post(&url, &body);
        let shown = &body[..body.len().min(80)];
        assert_eq!(answer.status, status, "{shown}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"].as_str().unwrap_or_default(), param, "{shown}: {}", answer.text);
    }
}

#[test]
fn a_request_has_one_line_in_the_log_without_its_content() {
    let server = Server::start(&["serve"]);
    assert_eq!(chat(&server.url, "Repeat canaryword", "").status, 200);
    assert!(joined(stream(&server.url, "Repeat canaryword", "")).1);
    server.signal("-TERM");
    let (_, log) = server.wait();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["target"] == "access" && line["level"] == "INFO").collect();
    assert_eq!(lines.len(), 2, "two requests: {log}");
    for line in lines {
        for (field, value) in [("outcome", "ok"), ("model", "demo"), ("tenant", "anonymous")] {
            assert_eq!(line[field], value, "{line}");
        }
        assert!(line["worker"].is_string() && line["duration_ms"].is_number(), "{line}");
    }
    assert!(!log.contains("canaryword"), "content in the log: {log}");
}
