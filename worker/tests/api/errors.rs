//! Bad input is answered with OpenAI's error object: the right status, and the field at fault.

use crate::client;
use crate::worker_process::{chat, completion, start};
use serde_json::{Value, json};

/// All four members are there, and the message says something.
fn check(body: &Value, param: Option<&str>, code: Option<&str>, what: &str) {
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|text| text.len() > 8), "{what}: {body}");
    assert!(error["type"].is_string(), "{what}: {body}");
    assert_eq!(error.get("param").expect("always there").as_str(), param, "{what}: {body}");
    assert_eq!(error.get("code").expect("always there").as_str(), code, "{what}: {body}");
}

#[tokio::test]
async fn a_wrong_chat_field_is_a_400_that_names_it() {
    let worker = start(json!({})).await;
    let unsupported = Some("unsupported_parameter");
    let cases = [
        (json!({"messages": []}), "messages", None),
        (json!({"messages": [{"role": "owner", "content": "x"}]}), "messages[0].role", None),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", None),
        (json!({"temperature": "hot"}), "temperature", None),
        (json!({"temperature": 3}), "temperature", None),
        (json!({"n": 17}), "n", None),
        (json!({"n": 0}), "n", None),
        (json!({"top_p": 0}), "top_p", None),
        (json!({"max_tokens": -1}), "max_tokens", None),
        (json!({"stop": [""]}), "stop[0]", None),
        (json!({"logit_bias": {"99999999": 1}}), "logit_bias.99999999", None),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", None),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", None),
        (json!({"functions": [{"name": "f"}]}), "functions", unsupported),
    ];
    for (fields, param, code) in cases {
        let reply = worker.post("/v1/chat/completions", &chat(fields.clone())).await;
        assert_eq!(reply.status, 400, "{fields}: {}", reply.text());
        check(&reply.json(), Some(param), code, &fields.to_string());
    }
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let worker = start(json!({"listen": {"body_bytes_max": 4096}})).await;
    for body in ["", "{", "[]", "nul", r#"{"model":"demo","messages":[],}"#] {
        let reply = worker.open("POST", "/v1/chat/completions", body.as_bytes()).await.finish().await;
        assert_eq!(reply.status, 400, "{body:?}: {}", reply.text());
        check(&reply.json(), None, None, body);
    }
    for number in ["NaN", "Infinity", "1e999"] {
        let text = chat(json!({})).to_string().replacen('{', &format!(r#"{{"temperature":{number},"#), 1);
        let reply = worker.open("POST", "/v1/chat/completions", text.as_bytes()).await.finish().await;
        assert_eq!(reply.status, 400, "{number}: {}", reply.text());
    }
    let large = chat(json!({"user": "x".repeat(5000)}));
    let reply = worker.post("/v1/chat/completions", &large).await;
    assert_eq!(reply.status, 413, "{}", reply.text());
    check(&reply.json(), None, Some("payload_too_large"), "a large body");
    let headers = [("content-type", "text/plain")];
    let reply = client::open(worker.address, "POST", "/v1/completions", &headers, b"{}").await.finish().await;
    assert_eq!(reply.status, 415, "{}", reply.text());
}

#[tokio::test]
async fn unknown_models_and_paths_are_404_and_wrong_methods_405() {
    let worker = start(json!({})).await;
    for (path, request) in
        [("/v1/chat/completions", chat(json!({"model": "x"}))), ("/v1/completions", completion(json!({"model": "x"})))]
    {
        let reply = worker.post(path, &request).await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        check(&reply.json(), Some("model"), Some("model_not_found"), path);
    }
    let reply = worker.get("/v1/nothing").await;
    assert_eq!(reply.status, 404);
    check(&reply.json(), None, Some("unknown_url"), "a path");
    let reply = worker.get("/v1/chat/completions").await;
    assert_eq!(reply.status, 405);
    check(&reply.json(), None, Some("method_not_allowed"), "a method");
}

#[tokio::test]
async fn what_cannot_fit_the_model_is_refused_before_it_is_queued() {
    let worker = start(json!({"max_model_len": 64})).await;
    let long = "word ".repeat(500);
    let code = Some("context_length_exceeded");
    let reply =
        worker.post("/v1/chat/completions", &chat(json!({"messages": [{"role": "user", "content": long}]}))).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    check(&reply.json(), Some("messages"), code, "a long conversation");
    let reply = worker.post("/v1/completions", &completion(json!({"prompt": long}))).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    check(&reply.json(), Some("prompt"), code, "a long prompt");
    let reply = worker.post("/v1/chat/completions", &chat(json!({"max_tokens": 1000}))).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    check(&reply.json(), Some("messages"), code, "prompt and answer together");
    // Without `max_tokens` the answer may be as long as the model allows, and no longer.
    let answer = worker.chat(json!({"ignore_eos": true})).await;
    assert_eq!(
        (&answer["usage"]["total_tokens"], &answer["choices"][0]["finish_reason"]),
        (&json!(64), &json!("length"))
    );
}

#[tokio::test]
async fn a_worker_with_a_key_takes_nothing_without_it() {
    let worker = start(json!({"api_key": "sesame"})).await;
    assert_eq!(worker.chat(json!({"max_tokens": 1, "ignore_eos": true})).await["object"], "chat.completion");
    let body = chat(json!({})).to_string();
    for key in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic sesame"), Some("sesame"), Some("")] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("authorization", key)));
        for (method, path, body) in
            [("POST", "/v1/chat/completions", body.as_bytes()), ("GET", "/v1/models", b""), ("GET", "/status", b"")]
        {
            let reply = client::open(worker.address, method, path, &headers, body).await.finish().await;
            assert_eq!(reply.status, 401, "{path} with {key:?}");
            check(&reply.json(), None, Some("invalid_api_key"), path);
            assert!(reply.header("www-authenticate").is_some());
        }
    }
    for (name, status) in [("x-api-key", 200), ("api-key", 200), ("x-key", 401)] {
        let reply = client::open(worker.address, "GET", "/v1/models", &[(name, "sesame")], b"").await.finish().await;
        assert_eq!(reply.status, status, "{name}");
    }
    let twice = [("authorization", "Bearer sesame"), ("x-api-key", "wrong")];
    assert_eq!(client::open(worker.address, "GET", "/v1/models", &twice, b"").await.finish().await.status, 401);
    // Probes carry no key.
    for path in ["/livez", "/readyz", "/health"] {
        let reply = client::open(worker.address, "GET", path, &[], b"").await.finish().await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

/// Requests to the process rather than to a model.
const ABOUT_THE_PROCESS: [(&str, &str); 4] = [
    ("GET", "/status"),
    ("GET", "/status/kv-events?model=demo"),
    ("GET", "/admin/flight-recorder"),
    ("POST", "/admin/models/demo/swap"),
];

#[tokio::test]
async fn another_sites_page_reads_and_changes_nothing() {
    let worker = start(json!({})).await;
    let swap = json!({"source": "/nowhere"}).to_string();
    for (method, path) in ABOUT_THE_PROCESS {
        for page in [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")] {
            let headers = [("content-type", "application/json"), page];
            let reply = client::open(worker.address, method, path, &headers, swap.as_bytes()).await.finish().await;
            assert_eq!(reply.status, 403, "{path} with {page:?}");
            check(&reply.json(), None, Some("permission_denied"), path);
        }
        let headers = [("content-type", "application/json"), ("host", "localhost:8081")];
        let reply = client::open(worker.address, method, path, &headers, swap.as_bytes()).await.finish().await;
        assert_ne!(reply.status, 403, "{path} from a program: {}", reply.text());
    }
    let form = [("content-type", "text/plain")];
    let (method, path) = ABOUT_THE_PROCESS[3];
    let reply = client::open(worker.address, method, path, &form, swap.as_bytes()).await.finish().await;
    assert_eq!(reply.status, 415, "what a form can send: {}", reply.text());
}

#[tokio::test]
async fn the_administrators_key_opens_administration_and_no_model() {
    let worker = start(json!({"api_key": "sesame", "admin_api_key": "boss"})).await;
    for (method, path) in ABOUT_THE_PROCESS {
        let ask = |key: &'static str| {
            let headers = [("content-type", "application/json"), ("host", "worker.example"), ("authorization", key)];
            async move { client::open(worker.address, method, path, &headers, b"{}").await.finish().await.status }
        };
        assert!(!matches!(ask("Bearer boss").await, 401 | 403), "{path}");
        assert!(matches!(ask("Bearer bos").await, 401 | 403), "{path}");
    }
    let boss = [("authorization", "Bearer boss")];
    let reply = client::open(worker.address, "GET", "/v1/models", &boss, b"").await.finish().await;
    assert_eq!(reply.status, 401, "models are asked with the worker's key");
}

#[tokio::test]
async fn ignored_fields_are_named_and_the_request_id_comes_back() {
    let worker = start(json!({})).await;
    let body = chat(json!({"max_tokens": 1, "novelty": {"a": 1}, "store": true})).to_string();
    let headers = [("content-type", "application/json"), ("x-request-id", "abc-123")];
    let reply =
        client::open(worker.address, "POST", "/v1/chat/completions", &headers, body.as_bytes()).await.finish().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-request-id"), Some("abc-123"));
    let ignored = reply.header("x-forebay-ignored").expect("named");
    assert_eq!(ignored, "novelty", "`store` is a hint, which is known");
    for name in ["x-forebay-queue-waiting", "x-forebay-queue-running", "x-forebay-kv-usage"] {
        assert!(reply.header(name).is_some_and(|value| value.parse::<f64>().is_ok()), "{name}");
    }
}
