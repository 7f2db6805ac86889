//! A request as it is seen from outside: its span, which lives as long as its answer, and its line in the access log.
//! Neither holds content.

use http::HeaderMap;
use listen::Access;
use tracing::Span;
use tracing::field::Empty;
use wire::openai::Endpoint;

/// The lowest status that is a server's fault.
const SERVER_FAULT: u16 = 500;

/// The span and the log entry of one request. It is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) span: Span,
    access: Access,
    operation: &'static str,
    fault: Option<&'static str>,
}

impl Observed {
    /// Begins the span of this hop, a child of the caller's (OpenTelemetry's GenAI conventions).
    pub(crate) fn begin(endpoint: &Endpoint, headers: &HeaderMap, access: Access) -> Self {
        let operation = endpoint.name;
        let span = tracing::info_span!(
            "router.request",
            otel.name = operation,
            otel.kind = "server",
            otel.status_code = Empty,
            otel.status_description = Empty,
            gen_ai.operation.name = operation,
            gen_ai.provider.name = "forebay",
            gen_ai.request.model = Empty,
            gen_ai.request.stream = Empty,
            gen_ai.request.choice.count = Empty,
            forebay.role = "router",
            forebay.tenant = Empty,
            forebay.worker = Empty,
            forebay.policy.annotations = Empty,
            forebay.policy.version = Empty,
            http.response.status_code = Empty,
            error.type = Empty,
        );
        telemetry::trace::parent_from(&span, headers);
        if let Some(id) = telemetry::trace::trace_id(&span) {
            access.trace_id(Some(id));
        }
        Self { span, access, operation, fault: None }
    }

    /// Names who asks.
    pub(crate) fn tenant(&self, name: &str) {
        self.span.record("forebay.tenant", name);
        self.access.tenant(name);
    }

    /// Names the model; only one that a worker has, since a span's name comes of a bounded set.
    pub(crate) fn model(&self, name: &str) {
        self.span.record("gen_ai.request.model", name);
        telemetry::trace::rename(&self.span, &format!("{} {name}", self.operation));
        self.access.model(name);
    }

    /// Notes the labels that policy gave the prompt.
    pub(crate) fn annotated(&self, labels: &str) {
        self.span.record("forebay.policy.annotations", labels);
    }

    /// Notes the version of the rules that decided.
    pub(crate) fn decided(&self, version: &str) {
        self.span.record("forebay.policy.version", version);
    }

    /// Notes what is asked for.
    pub(crate) fn asked(&self, is_stream: bool, choices: usize) {
        self.span.record("gen_ai.request.stream", is_stream);
        self.span.record("gen_ai.request.choice.count", choices);
    }

    /// Names who answers.
    pub(crate) fn worker(&self, name: &str) {
        self.span.record("forebay.worker", name);
        self.access.worker(name);
    }

    /// Notes what went wrong, in a word of those that metrics have.
    pub(crate) fn fault(&mut self, kind: &'static str) {
        self.fault = Some(kind);
    }

    /// Notes the end: the status that the client got, or would have got had its answer not been under way.
    pub(crate) fn end(&self, code: u16) {
        self.span.record("http.response.status_code", code);
        if code >= SERVER_FAULT || self.fault.is_some() {
            let kind = self.fault.map_or_else(|| code.to_string(), str::to_owned);
            telemetry::trace::failed(&self.span, &kind, "the answer failed");
        }
        self.access.ended(code, self.fault);
        telemetry::trace::ends_now(&self.span);
    }
}
