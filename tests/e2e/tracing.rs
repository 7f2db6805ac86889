//! One trace per request, from router to worker, seen by a real OTLP collector's endpoint.

use crate::client::{chat, chat_body, joined, post_with, stream, try_get};
use crate::process::{Server, eventually, run};
use crate::tls::Files;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

/// Takes OTLP over HTTP and keeps the spans, and every byte for the search of content.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    fn start(&self) -> String {
        self.listen(None)
    }

    /// As `start`, over TLS with a certificate of `files`; clients show one of the same authority.
    fn start_with_tls(&self, files: &Files) -> String {
        let authority = CertificateDer::from_pem_file(files.of("ca.pem")).expect("PEM");
        let mut clients = RootCertStore::empty();
        clients.add(authority).expect("an authority");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let certificate = CertificateDer::from_pem_file(files.of("worker.pem")).expect("PEM");
        let key = PrivateKeyDer::from_pem_file(files.of("worker-key.pem")).expect("a key");
        let config = config.expect("versions").with_client_cert_verifier(verifier.build().expect("a verifier"));
        let config = config.with_single_cert(vec![certificate], key).expect("a pair");
        self.listen(Some(Arc::new(config)))
    }

    fn listen(&self, tls: Option<Arc<ServerConfig>>) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", socket.local_addr().expect("bound"));
        let collector = self.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let (collector, tls) = (collector.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => collector.serve(stream),
                    Some(tls) => {
                        let session = ServerConnection::new(tls).expect("a session");
                        collector.serve(StreamOwned::new(session, stream));
                    }
                });
            }
        });
        url
    }

    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
            let export = ExportTraceServiceRequest::decode(body.as_slice()).expect("OTLP");
            let spans = export
                .resource_spans
                .into_iter()
                .flat_map(|resource| resource.scope_spans)
                .flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans);
            self.bytes.lock().extend(body);
            let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.get_mut().flush();
        }
    }

    fn of_role(&self, role: &str) -> Option<Span> {
        self.spans.lock().iter().find(|span| role_of(span) == role).cloned()
    }
}

/// An attribute of a span, as text.
fn attribute(span: &Span, name: &str) -> String {
    let value =
        span.attributes.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(bool)) => bool.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::ArrayValue(list)) => {
            let texts = list.values.iter().filter_map(|value| match &value.value {
                Some(Value::StringValue(text)) => Some(text.as_str()),
                _ => None,
            });
            texts.collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

fn role_of(span: &Span) -> String {
    attribute(span, "forebay.role")
}

#[test]
fn a_span_lasts_as_long_as_its_stream_whatever_is_logged() {
    let collector = Collector::default();
    let endpoint = collector.start();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", "gateway")];
    let server = Server::start_with(&["serve", "--log", "error"], &environment);
    let begun = std::time::Instant::now();
    let (_, is_done) = joined(stream(&server.url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":200"#));
    let took = begun.elapsed();
    assert!(is_done);
    server.signal("-TERM");
    let (status, log) = server.wait();
    assert_eq!((status.code(), log.as_str()), (Some(0), ""));
    eventually("the router's span", || collector.of_role("router").is_some());
    let span = collector.of_role("router").expect("there");
    let lasted = std::time::Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    // The client sees the stream a little later than the server, at both ends.
    assert!(lasted * 10 > took * 8, "{lasted:?} of {took:?}");
    assert_eq!(span.name, "chat demo");
    for (name, value) in [("gen_ai.request.model", "demo"), ("http.response.status_code", "200"), ("error.type", "")] {
        assert_eq!(attribute(&span, name), value, "{name}");
    }
    let bytes = collector.bytes.lock();
    assert!(bytes.windows(7).any(|window| window == b"gateway"), "the service has the name it was given");
}

#[test]
fn a_stream_that_dies_is_an_error_in_its_span_and_in_the_log() {
    let collector = Collector::default();
    let endpoint = collector.start();
    let environment = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{endpoint}/v1/traces"))];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = Server::start(&["worker", "demo"]);
    let router = Server::start_with(&["router", "--worker", &worker.url], &environment);
    let mut events = stream(&router.url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":1500"#);
    events.next().expect("a first event");
    worker.signal("-KILL");
    let rest: Vec<String> = events.collect();
    assert!(rest.last().is_some_and(|event| event.contains("\"error\"")), "{rest:?}");
    router.signal("-TERM");
    let (_, log) = router.wait();
    eventually("the router's span", || collector.of_role("router").is_some());
    let span = collector.of_role("router").expect("there");
    assert_eq!(attribute(&span, "http.response.status_code"), "502");
    assert!(!attribute(&span, "error.type").is_empty(), "{span:?}");
    assert_eq!(span.status.as_ref().map(|status| status.code), Some(2), "an error");
    let lines = access_lines(&log);
    assert_eq!(lines.len(), 1, "one line a request: {log}");
    let line = &lines[0];
    for (field, value) in [("outcome", "error"), ("model", "demo"), ("tenant", "anonymous")] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["status"], 502);
    assert!(line["worker"].is_string() && line["trace_id"].is_string() && line["fault"].is_string(), "{line}");
    assert!(!log.contains("What is Forebay"), "content in the log");
}

#[test]
fn a_workers_span_says_what_was_asked_and_what_came_of_it() {
    let collector = Collector::default();
    let endpoint = collector.start();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let worker = Server::start_with(&["worker", "demo"], &environment);
    eventually("ready", || try_get(&format!("{}/readyz", worker.url)).is_ok_and(|answer| answer.status == 200));
    let asked = r#","top_p":0.9,"top_k":5,"seed":-7,"max_tokens":3,"ignore_eos":true,"n":2,
        "presence_penalty":0.1,"stop":["canaryword"]"#;
    let (_, is_done) = joined(stream(&worker.url, "What is Forebay?", asked));
    assert!(is_done);
    let form = r#","response_format":{"type":"json_object"},"max_tokens":2"#;
    assert_eq!(chat(&worker.url, "In JSON", form).status, 200);
    worker.signal("-TERM");
    let (_, log) = worker.wait();
    let types = |spans: &[Span]| -> Vec<String> {
        let types = spans.iter().map(|span| attribute(span, "gen_ai.output.type"));
        types.filter(|kind| !kind.is_empty()).collect()
    };
    eventually("both spans of requests", || types(&collector.spans.lock()).len() > 1);
    let types = types(&collector.spans.lock());
    assert_eq!(types, ["text", "json"]);
    eventually("the worker's span", || collector.of_role("worker").is_some());
    let span = collector.of_role("worker").expect("there");
    assert_eq!(span.name, "chat demo");
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "forebay"),
        ("gen_ai.output.type", "text"),
        ("gen_ai.request.model", "demo"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.request.choice.count", "2"),
        ("gen_ai.request.temperature", "0"),
        ("gen_ai.request.top_p", "0.9"),
        ("gen_ai.request.top_k", "5"),
        ("gen_ai.request.seed", "-7"),
        ("gen_ai.request.max_tokens", "3"),
        ("gen_ai.request.presence_penalty", "0.1"),
        ("gen_ai.request.frequency_penalty", ""),
        ("gen_ai.response.model", "demo"),
        ("gen_ai.response.finish_reasons", "length,length"),
        ("gen_ai.usage.output_tokens", "6"),
        ("http.response.status_code", "200"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(&span, name), value, "{name}");
    }
    assert!(attribute(&span, "gen_ai.response.id").starts_with("chatcmpl-"));
    for name in ["gen_ai.usage.input_tokens", "gen_ai.response.time_to_first_chunk"] {
        assert!(attribute(&span, name).parse::<f64>().is_ok_and(|number| number > 0.0), "{name}");
    }
    let bytes = collector.bytes.lock();
    assert!(!bytes.windows(10).any(|window| window == b"canaryword"), "a client's text in a trace");
    let line = access_lines(&log).swap_remove(0);
    assert_eq!((&line["model"], &line["outcome"], &line["status"]), (&"demo".into(), &"ok".into(), &200.into()));
    assert!(line["trace_id"].is_string(), "{line}");
}

/// The lines of the access log, of requests that ask for something.
fn access_lines(log: &str) -> Vec<serde_json::Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["target"] == "access" && line["method"] == "POST").collect()
}

#[test]
fn an_exporter_that_fails_is_mentioned_once_and_counted() {
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ];
    let server = Server::start_with(&["serve"], &environment);
    let failed = || {
        let metrics = crate::client::get(&format!("{}/metrics", server.url)).text;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("forebay_telemetry_spans_total{outcome=\"failed\"} "));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
    };
    for _ in 0..3 {
        chat(&server.url, "Hello", r#","max_tokens":1"#);
        let before = failed();
        eventually("failures are counted", || failed() > before || before > 2);
    }
    server.signal("-TERM");
    let (_, log) = server.wait();
    assert_eq!(log.matches("spans cannot be exported").count(), 1, "{log}");
    assert!(log.contains("OTEL_EXPORTER_OTLP_COMPRESSION is not honoured"), "{log}");
}

#[test]
fn spans_reach_a_collector_over_mutual_tls_and_none_that_proves_nothing() {
    let (files, others) = (Files::make(), Files::make());
    for (ca, is_trusted) in [(&files, true), (&others, false)] {
        let collector = Collector::default();
        let endpoint = collector.start_with_tls(&files);
        let (ca, certificate, key) = (ca.of("ca.pem"), files.of("router.pem"), files.of("router-key.pem"));
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &key),
        ];
        let server = Server::start_with(&["serve"], &environment);
        chat(&server.url, "Hello", r#","max_tokens":1"#);
        server.signal("-TERM");
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(collector.of_role("router").is_some(), is_trusted, "{log}");
        assert_eq!(log.contains("spans cannot be exported"), !is_trusted, "{log}");
    }
}

#[test]
fn files_for_tls_with_a_collector_that_are_wrong_are_named_and_end_nobody_whom_a_platform_set_them() {
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem")];
    let server = Server::start_with(&["serve"], &environment);
    server.signal("-TERM");
    let (status, log) = server.wait();
    assert!(status.success() && log.contains("no spans are exported") && log.contains("/nowhere.pem"), "{log}");
    let asked = ["serve", "--set", "telemetry.otlp_endpoint=grpc://127.0.0.1:4317"];
    let output = run(&asked);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("telemetry.otlp_endpoint"));
}

#[test]
fn a_request_is_one_trace_from_client_to_worker_without_its_content() {
    let collector = Collector::default();
    let endpoint = collector.start();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("FOREBAY_TELEMETRY__LOG_FILTER", "debug")];
    let worker = Server::start_with(&["worker", "demo"], &environment);
    let router = Server::start_with(&["router", "--worker", &worker.url], &environment);
    eventually("ready", || try_get(&format!("{}/readyz", router.url)).is_ok_and(|answer| answer.status == 200));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let url = format!("{}/v1/chat/completions", router.url);
    let answer = post_with(&url, &chat_body("Repeat after me: canaryword", ""), &[("traceparent", parent)]);
    assert_eq!(answer.status, 200, "{}", answer.text);
    chat(&router.url, "Repeat after me: canaryword", "");
    for server in [router, worker] {
        server.signal("-TERM");
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("canaryword"), "content in the log: {log}");
    }
    eventually("both spans", || collector.of_role("router").is_some() && collector.of_role("worker").is_some());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let spans = collector.spans.lock().clone();
    let ours: Vec<&Span> =
        spans.iter().filter(|span| hex(&span.trace_id) == "0af7651916cd43dd8448eb211c80319c").collect();
    let router_span = ours.iter().find(|span| role_of(span) == "router").expect("the router's span");
    let worker_span = ours.iter().find(|span| role_of(span) == "worker").expect("the worker's span");
    assert_eq!(hex(&router_span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(worker_span.parent_span_id, router_span.span_id);
    let bytes = collector.bytes.lock();
    assert!(!bytes.windows(10).any(|window| window == b"canaryword"), "content in a trace");
}
