//! `POST /v1/chat/completions`.

use super::choice::{Piece, PreparedPrompt, TokenReport};
use super::generate::{apart, submit};
use super::reply::{Dress, annotate, collect, streamed, whole};
use super::{Server, ServerModel};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::HeaderMap;
use listen::{RequestId, error_response, read_json_body};
use models::template::TemplateError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::{Instrument, Span, field, info_span};
use wire::openai::chat::{
    AnswerMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatLogprobs, Delta, TokenLogprob,
    TopLogprob,
};
use wire::openai::{ApiError, ChatRequest, ErrorKind, Parsed, Usage};

pub(super) async fn handle(
    State(server): State<Arc<Server>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let span = request_span("chat", &id);
    telemetry::trace::parent_from(&span, &headers);
    let answer = answer(server, id, &headers, body, span.clone()).instrument(span);
    answer.await.unwrap_or_else(|error| error_response(&error))
}

/// The span of a request; content is never part of it (OpenTelemetry's GenAI conventions).
pub(super) fn request_span(operation: &str, id: &str) -> Span {
    info_span!(
        "worker.request",
        otel.name = operation,
        otel.kind = "server",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        error.type = field::Empty,
        forebay.role = "worker",
        gen_ai.provider.name = "forebay",
        gen_ai.operation.name = operation,
        gen_ai.request.model = field::Empty,
        gen_ai.usage.input_tokens = field::Empty,
        gen_ai.usage.output_tokens = field::Empty,
        request_id = id,
    )
}

/// Refuses work while the process is ending.
pub(super) fn refuse_when_ending(server: &Server) -> Result<(), ApiError> {
    if server.drain.is_refusing() {
        return Err(ApiError::overloaded("this worker is shutting down", Duration::from_secs(1)));
    }
    Ok(())
}

pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn answer(
    server: Arc<Server>,
    id: String,
    headers: &HeaderMap,
    body: Body,
    span: Span,
) -> Result<Response, ApiError> {
    refuse_when_ending(&server)?;
    let body = read_json_body(headers, body, server.body_bytes_max).await?;
    let Parsed { request, ignored } = ChatRequest::parse(&body)?;
    let model = server.model(&request.model)?;
    span.record("gen_ai.request.model", model.id.as_str());
    let (request, prompt) = apart({
        let model = Arc::clone(&model);
        move || prompt(&model, &request).map(|prompt| (request, prompt))
    })
    .await?;
    let generation = submit(&model, vec![prompt], &request.sampling, "messages", headers)?;
    let frame = Frame { id: format!("chatcmpl-{id}"), created: now_unix_s(), model: model.id.clone() };
    let response = if request.stream {
        let choices = request.sampling.n as usize;
        let dress = ChatDress { frame, include_usage: request.include_usage, has_begun: vec![false; choices] };
        streamed(generation, dress, request.include_usage, span)
    } else {
        let parts = collect(generation).await?;
        let choices =
            (0..).zip(parts.pieces).map(|(index, piece)| choice(index, piece, request.sampling.logprobs.is_some()));
        let completion = ChatCompletion {
            id: frame.id,
            object: "chat.completion".into(),
            created: frame.created,
            model: frame.model,
            choices: choices.collect(),
            usage: parts.usage,
        };
        whole(&span, parts.usage, &completion)
    };
    Ok(annotate(response, &model, &ignored))
}

fn prompt(model: &ServerModel, request: &ChatRequest) -> Result<PreparedPrompt, ApiError> {
    let Some(template) = &model.template else {
        let message = "this model has no chat template; use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    };
    let text =
        template.render(&request.messages, &request.template_variables, now_unix_s()).map_err(|cause| match cause {
            TemplateError::Unusable { .. } => ApiError::unsupported("messages", cause.to_string()),
            _ => ApiError::invalid("messages", cause.to_string()),
        })?;
    // The template wrote the special tokens; none are to be added.
    let tokens =
        model.tokenizer.encode(&text, false).map_err(|cause| ApiError::new(ErrorKind::Internal, cause.to_string()))?;
    Ok(PreparedPrompt { tokens, echo: None })
}

fn choice(index: u32, piece: Piece, wants_logprobs: bool) -> ChatChoice {
    ChatChoice {
        index,
        message: AnswerMessage { role: "assistant".into(), content: piece.text },
        logprobs: wants_logprobs.then(|| logprobs(&piece.reports)),
        finish_reason: piece.finish.map(Into::into),
    }
}

fn logprobs(reports: &[TokenReport]) -> ChatLogprobs {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let content = reports.iter().map(|report| TokenLogprob {
        token: text(&report.bytes),
        logprob: json_number(report.logprob.unwrap_or_default()),
        bytes: Some(report.bytes.clone()),
        top_logprobs: report
            .top
            .iter()
            .map(|(bytes, logprob)| TopLogprob {
                token: text(bytes),
                logprob: json_number(*logprob),
                bytes: Some(bytes.clone()),
            })
            .collect(),
    });
    ChatLogprobs { content: content.collect() }
}

/// JSON has no −∞; OpenAI writes −9999 for what is as good as impossible.
pub(super) fn json_number(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// What is the same on every chunk.
struct Frame {
    id: String,
    created: u64,
    model: String,
}

struct ChatDress {
    frame: Frame,
    include_usage: bool,
    /// Per choice: whether its role was sent.
    has_begun: Vec<bool>,
}

impl ChatDress {
    fn write(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> String {
        let chunk = ChatChunk {
            id: self.frame.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.frame.created,
            model: self.frame.model.clone(),
            choices,
            usage: self.include_usage.then_some(usage),
        };
        // Strings and numbers always serialise.
        serde_json::to_string(&chunk).unwrap_or_default()
    }
}

impl Dress for ChatDress {
    fn chunk(&mut self, index: u32, piece: Piece) -> Vec<String> {
        let mut chunks = Vec::new();
        let part = |delta, logprobs, finish: Option<&str>| ChatChunkChoice {
            index,
            delta,
            logprobs,
            finish_reason: finish.map(Into::into),
        };
        if let Some(has_begun) = self.has_begun.get_mut(index as usize).filter(|has_begun| !**has_begun) {
            *has_begun = true;
            let delta = Delta { role: Some("assistant".into()), content: Some(String::new()) };
            chunks.push(self.write(vec![part(delta, None, None)], None));
        }
        let reports = (!piece.reports.is_empty()).then(|| logprobs(&piece.reports));
        if !piece.text.is_empty() || reports.is_some() {
            let delta = Delta { role: None, content: Some(piece.text) };
            chunks.push(self.write(vec![part(delta, reports, None)], None));
        }
        if piece.finish.is_some() {
            chunks.push(self.write(vec![part(Delta::default(), None, piece.finish)], None));
        }
        chunks
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.write(Vec::new(), Some(usage))
    }
}
