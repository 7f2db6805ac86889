//! One trace per request, from router to worker, seen by a real OTLP collector's endpoint.

use crate::client::{chat, chat_body, post_with, try_get};
use crate::process::{Server, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Takes OTLP over HTTP and keeps the spans, and every byte for the search of content.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    fn start(&self) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("http://{}", socket.local_addr().expect("bound"));
        let collector = self.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let collector = collector.clone();
                std::thread::spawn(move || collector.serve(stream));
            }
        });
        url
    }

    fn serve(&self, stream: std::net::TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("clones"));
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
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
            reader.read_exact(&mut body).expect("a body");
            let export = ExportTraceServiceRequest::decode(body.as_slice()).expect("OTLP");
            let spans = export
                .resource_spans
                .into_iter()
                .flat_map(|resource| resource.scope_spans)
                .flat_map(|scope| scope.spans);
            self.spans.lock().expect("unpoisoned").extend(spans);
            self.bytes.lock().expect("unpoisoned").extend(body);
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    }

    fn named(&self, name: &str) -> Option<Span> {
        self.spans.lock().expect("unpoisoned").iter().find(|span| span.name.contains(name)).cloned()
    }
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
    eventually("both spans", || {
        collector.named("router.request").is_some() && collector.named("worker.request").is_some()
    });
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let spans = collector.spans.lock().expect("unpoisoned").clone();
    let ours: Vec<&Span> =
        spans.iter().filter(|span| hex(&span.trace_id) == "0af7651916cd43dd8448eb211c80319c").collect();
    let router_span = ours.iter().find(|span| span.name.contains("router.request")).expect("the router's span");
    let worker_span = ours.iter().find(|span| span.name.contains("worker.request")).expect("the worker's span");
    assert_eq!(hex(&router_span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(worker_span.parent_span_id, router_span.span_id);
    let bytes = collector.bytes.lock().expect("unpoisoned");
    assert!(!bytes.windows(10).any(|window| window == b"canaryword"), "content in a trace");
}
