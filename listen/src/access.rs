//! The access log: one line for each request, written when its answer is over, however it ends. It holds no content.
//!
//! Handlers know what a request is about and say so through [`Access`], which rides in the request's extensions.

use crate::request_id::RequestId;
use crate::tls::Identity;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use prometheus::{HistogramVec, IntCounterVec};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use telemetry::metrics::Registry;
use telemetry::names;

/// The status of a request whose client left before its answer was over (nginx's convention).
const CLIENT_LEFT: u16 = 499;

/// Facts about a request for the access log, as handlers learn them. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Access(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    model: Option<String>,
    tenant: Option<String>,
    worker: Option<String>,
    trace_id: Option<String>,
    ended: Option<(u16, Option<&'static str>)>,
    is_hidden: bool,
    counted: Option<(HttpMeters, String)>,
}

/// Counts of an API's requests, by the names that FastAPI's users know.
#[derive(Debug, Clone)]
pub struct HttpMeters {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl HttpMeters {
    /// Those in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self { requests: registry.counter(&names::HTTP_REQUESTS), seconds: registry.histogram(&names::HTTP_DURATION) }
    }

    fn count(&self, route: &str, method: &Method, status: u16, seconds: f64) {
        let class = format!("{}xx", status / 100);
        self.requests.with_label_values(&[route, method.as_str(), &class]).inc();
        self.seconds.with_label_values(&[route, method.as_str()]).observe(seconds);
    }
}

impl Access {
    /// The access log's entry of a request; one that nobody reads where there is none.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Names the model.
    pub fn model(&self, name: &str) {
        self.0.lock().model = Some(name.into());
    }

    /// Names who asks.
    pub fn tenant(&self, name: &str) {
        self.0.lock().tenant = Some(name.into());
    }

    /// Names who answers.
    pub fn worker(&self, name: &str) {
        self.0.lock().worker = Some(name.into());
    }

    /// Names the trace.
    pub fn trace_id(&self, id: Option<String>) {
        self.0.lock().trace_id = id;
    }

    /// Says how the request ended, where that is not what its head said: the status that the client would have got,
    /// and a word for what went wrong.
    pub fn ended(&self, status: u16, fault: Option<&'static str>) {
        self.0.lock().ended = Some((status, fault));
    }

    /// Counts the request, once it is over, as one for `route`: of the application's own, or there is no end of them.
    pub fn count(&self, meters: HttpMeters, route: &str) {
        self.0.lock().counted = Some((meters, route.into()));
    }

    /// Leaves the request out: another process's or role's line tells of it.
    pub fn hide(&self) {
        self.0.lock().is_hidden = true;
    }
}

/// The layer that writes the log.
pub(crate) async fn log_request(mut request: Request, next: Next) -> Response {
    let mut line = Line::new(&request);
    request.extensions_mut().insert(line.access.clone());
    let response = next.run(request).await;
    line.head = Some((response.status().as_u16(), line.begun.elapsed().as_secs_f64()));
    response.map(|body| Body::new(Logged { body, is_over: false, line }))
}

/// A line of the log; written when it is dropped.
#[derive(Debug)]
struct Line {
    access: Access,
    method: Method,
    path: String,
    request_id: String,
    /// The client that a certificate named.
    identity: Option<Arc<Identity>>,
    begun: Instant,
    /// The status and the seconds until the head was there.
    head: Option<(u16, f64)>,
    is_whole: bool,
}

impl Line {
    fn new(request: &Request) -> Self {
        let access = Access::default();
        access.trace_id(telemetry::trace::trace_id_of(request.headers()));
        Self {
            access,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            request_id: request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
            identity: request.extensions().get().cloned(),
            begun: Instant::now(),
            head: None,
            is_whole: false,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let facts = self.access.0.lock();
        let of_head = self.head.map_or(CLIENT_LEFT, |(status, _)| status);
        let (status, fault) = facts.ended.unwrap_or((of_head, None));
        // Whatever was to be said, the client did not stay for it.
        let status = if status < 400 && !self.is_whole { CLIENT_LEFT } else { status };
        let outcome = match status {
            CLIENT_LEFT => "client_left",
            400.. => "error",
            _ => "ok",
        };
        let identity = self.identity.as_ref().and_then(|identity| identity.name());
        let head_ms = self.head.map(|(_, seconds)| seconds * 1e3);
        let duration_s = self.begun.elapsed().as_secs_f64();
        if let Some((meters, route)) = &facts.counted {
            meters.count(route, &self.method, status, duration_s);
        }
        let duration_ms = duration_s * 1e3;
        macro_rules! write_line {
            ($level:expr) => {
                tracing::event!(
                    target: "access",
                    $level,
                    method = %self.method,
                    path = self.path,
                    status,
                    outcome,
                    fault,
                    model = facts.model,
                    tenant = facts.tenant,
                    worker = facts.worker,
                    identity,
                    head_ms,
                    duration_ms,
                    trace_id = facts.trace_id,
                    request_id = self.request_id,
                    "request"
                )
            };
        }
        // Probes and scrapers ask all the time.
        if self.method == Method::GET || facts.is_hidden {
            write_line!(tracing::Level::DEBUG);
        } else {
            write_line!(tracing::Level::INFO);
        }
    }
}

/// An answer's body, and the line that is written when it is over.
struct Logged {
    body: Body,
    is_over: bool,
    line: Line,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.is_over |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // A body whose length is known may be dropped before it has said that it is over.
        self.line.is_whole = self.is_over || self.body.is_end_stream();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common_layers;
    use axum::extract::Extension;
    use axum::routing::post;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use std::convert::Infallible;
    use std::sync::LazyLock;
    use tower::ServiceExt;
    use tracing_subscriber::fmt::MakeWriter;

    /// The log of this process's tests, each line of which names its request.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    static LINES: LazyLock<Lines> = LazyLock::new(|| {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(lines.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("the first one");
        lines
    });

    fn lines_of(id: &str) -> Vec<serde_json::Value> {
        let text = String::from_utf8(LINES.0.lock().clone()).expect("text");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        lines.filter(|line| line["target"] == "access" && line["request_id"] == id).collect()
    }

    async fn send(id: &str) -> Response {
        LazyLock::force(&LINES);
        let answer = |Extension(access): Extension<Access>| async move {
            access.model("m");
            access.tenant("red");
            Response::new(Body::from_stream(stream::iter(["a", "b"].map(Ok::<_, Infallible>))))
        };
        let app = common_layers(axum::Router::new().route("/v1/chat", post(answer)));
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = http::Request::post("/v1/chat").header("x-request-id", id).header("traceparent", trace);
        app.oneshot(request.body(Body::from("a secret prompt")).expect("a request")).await.expect("infallible")
    }

    #[tokio::test]
    async fn a_request_has_one_line_when_its_answer_is_over() {
        let response = send("whole").await;
        assert_eq!(lines_of("whole").len(), 0, "the answer is not over");
        response.into_body().collect().await.expect("a body");
        let lines = lines_of("whole");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        for (field, value) in [("model", "m"), ("tenant", "red"), ("outcome", "ok"), ("path", "/v1/chat")] {
            assert_eq!(line[field], value, "{line}");
        }
        assert_eq!((&line["status"], &line["trace_id"]), (&200.into(), &"0af7651916cd43dd8448eb211c80319c".into()));
        assert!(line["duration_ms"].is_number() && !line.to_string().contains("secret"), "{line}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_told_from_one_that_stayed() {
        let mut body = send("left").await.into_body();
        body.frame().await.expect("a first event").expect("bytes");
        drop(body);
        let lines = lines_of("left");
        assert_eq!((&lines[0]["outcome"], &lines[0]["status"]), (&"client_left".into(), &499.into()));
    }

    #[tokio::test]
    async fn a_stream_that_failed_after_its_head_is_an_error() {
        LazyLock::force(&LINES);
        let mut line = Line::new(&http::Request::post("/x").body(Body::empty()).expect("a request"));
        line.request_id = "broken".into();
        line.head = Some((200, 0.0));
        line.is_whole = true;
        line.access.ended(502, Some("truncated"));
        drop(line);
        let last = lines_of("broken").pop().expect("a line");
        assert_eq!(
            (&last["outcome"], &last["fault"], &last["status"]),
            (&"error".into(), &"truncated".into(), &502.into())
        );
    }
}
