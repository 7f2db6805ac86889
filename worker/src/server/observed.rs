//! A request as it is seen from outside: its span, which lives as long as its answer, and its line in the access log.
//! Neither holds content: no prompt, no stop string, no answer.

use http::HeaderMap;
use listen::Access;
use std::time::Instant;
use telemetry::trace;
use tracing::Span;
use tracing::field::Empty;
use wire::openai::structure::Form;
use wire::openai::{ApiError, Endpoint, Generate, Sampling, Usage};

/// The lowest status that is a server's fault.
const SERVER_FAULT: u16 = 500;
/// The status noted for a client that left before its answer ended (nginx's convention).
const CLIENT_LEFT: u16 = 499;

/// The span and the log's line of one request. The request is over when this is dropped.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) span: Span,
    access: Access,
    operation: &'static str,
    begun: Instant,
    has_chunk: bool,
    /// The status that the client got, or would have got had its answer not been under way.
    code: u16,
}

impl Observed {
    /// Begins the span, a child of the caller's (OpenTelemetry's GenAI conventions).
    pub(super) fn begin(endpoint: &Endpoint, id: &str, headers: &HeaderMap, access: Access) -> Self {
        let operation = endpoint.name;
        let span = tracing::info_span!(
            "worker.request",
            otel.name = operation,
            otel.kind = "server",
            otel.status_code = Empty,
            otel.status_description = Empty,
            error.type = Empty,
            http.response.status_code = Empty,
            forebay.role = "worker",
            gen_ai.provider.name = "forebay",
            gen_ai.operation.name = operation,
            gen_ai.output.type = Empty,
            gen_ai.request.model = Empty,
            request_id = id,
        );
        trace::parent_from(&span, headers);
        if let Some(id) = trace::trace_id(&span) {
            access.trace_id(Some(id));
        }
        Self { span, access, operation, begun: Instant::now(), has_chunk: false, code: CLIENT_LEFT }
    }

    /// Names the model; only one that is served, since a span's name comes of a bounded set.
    pub(super) fn model(&self, name: &str) {
        self.span.record("gen_ai.request.model", name);
        trace::rename(&self.span, &format!("{} {name}", self.operation));
        self.access.model(name);
    }

    /// Notes the parameters that the request gives. Stop strings are the client's text and stay out.
    pub(super) fn asked(&self, request: &Generate) {
        let Sampling { temperature, top_p, top_k, seed, max_tokens, frequency_penalty, presence_penalty, n, .. } =
            request.sampling;
        let span = &self.span;
        let is_json =
            request.structure.as_ref().is_some_and(|asked| matches!(asked.form, Form::Json | Form::Schema(_)));
        span.record("gen_ai.output.type", if is_json { "json" } else { "text" });
        trace::attribute(span, "gen_ai.request.stream", request.output.stream);
        trace::attribute(span, "gen_ai.request.choice.count", i64::from(n));
        let numbers = [
            ("gen_ai.request.temperature", temperature),
            ("gen_ai.request.top_p", top_p),
            ("gen_ai.request.frequency_penalty", Some(frequency_penalty).filter(|penalty| *penalty != 0.0)),
            ("gen_ai.request.presence_penalty", Some(presence_penalty).filter(|penalty| *penalty != 0.0)),
        ];
        for (name, value) in numbers {
            value.into_iter().for_each(|value| trace::attribute(span, name, as_written(value)));
        }
        let integers = [
            ("gen_ai.request.max_tokens", max_tokens.map(i64::from)),
            ("gen_ai.request.top_k", top_k.map(i64::from)),
            ("gen_ai.request.seed", seed),
        ];
        for (name, value) in integers {
            value.into_iter().for_each(|value| trace::attribute(span, name, value));
        }
    }

    /// Names the answer, and the model as the answer has it.
    pub(super) fn answered_as(&self, id: &str, model: &str) {
        trace::attribute(&self.span, "gen_ai.response.id", id.to_owned());
        trace::attribute(&self.span, "gen_ai.response.model", model.to_owned());
    }

    /// Notes a chunk of a stream; the first one counts.
    pub(super) fn chunk(&mut self) {
        if !std::mem::replace(&mut self.has_chunk, true) {
            let seconds = self.begun.elapsed().as_secs_f64();
            trace::attribute(&self.span, "gen_ai.response.time_to_first_chunk", seconds);
        }
    }

    /// Notes a whole answer: its tokens, and why each of its choices ended.
    pub(super) fn ended(&mut self, usage: Usage, reasons: impl Iterator<Item = &'static str>) {
        self.code = 200;
        let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        trace::attribute(&self.span, "gen_ai.usage.input_tokens", i64::from(usage.prompt_tokens));
        trace::attribute(&self.span, "gen_ai.usage.output_tokens", i64::from(usage.completion_tokens));
        trace::attribute(&self.span, "gen_ai.usage.cache_read.input_tokens", i64::from(cached));
        if let Some(details) = usage.completion_tokens_details {
            trace::attribute(&self.span, "gen_ai.usage.reasoning.output_tokens", i64::from(details.reasoning_tokens));
        }
        trace::attribute_list(&self.span, "gen_ai.response.finish_reasons", reasons);
    }

    /// Notes a request that was refused, or an answer that failed.
    pub(super) fn failed(&mut self, error: &ApiError) {
        self.code = error.kind.status();
        if self.code >= SERVER_FAULT {
            trace::failed(&self.span, &self.code.to_string(), "the answer failed");
            self.access.ended(self.code, Some("failed"));
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.span.record("http.response.status_code", self.code);
        trace::ends_now(&self.span);
    }
}

/// A number as the client wrote it: 0.7 is not 0.699999988079071.
fn as_written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| f64::from(number))
}
