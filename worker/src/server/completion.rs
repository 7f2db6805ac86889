//! `POST /v1/completions`.

use super::chat::{json_number, now_unix_s, refuse_when_ending, request_span};
use super::choice::{Piece, PreparedPrompt, TokenReport};
use super::generate::{apart, submit};
use super::reply::{Dress, annotate, collect, streamed, whole};
use super::{Server, ServerModel};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::HeaderMap;
use listen::{RequestId, error_response, read_json_body};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{Instrument, Span};
use wire::openai::completion::{Completion, CompletionChoice, CompletionLogprobs, Prompt};
use wire::openai::{ApiError, CompletionRequest, ErrorKind, Parsed, Usage};

pub(super) async fn handle(
    State(server): State<Arc<Server>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let span = request_span("text_completion", &id);
    telemetry::trace::parent_from(&span, &headers);
    let answer = answer(server, id, &headers, body, span.clone()).instrument(span);
    answer.await.unwrap_or_else(|error| error_response(&error))
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
    let Parsed { request, ignored } = CompletionRequest::parse(&body)?;
    let model = server.model(&request.model)?;
    span.record("gen_ai.request.model", model.id.as_str());
    let (request, prompts) = apart({
        let model = Arc::clone(&model);
        move || {
            let prepared = request.prompts.iter().map(|prompt| prepare(&model, prompt, request.echo));
            prepared.collect::<Result<_, _>>().map(|prompts| (request, prompts))
        }
    })
    .await?;
    let generation = submit(&model, prompts, &request.sampling, "prompt", headers)?;
    let mut dress = CompletionDress {
        id: format!("cmpl-{id}"),
        created: now_unix_s(),
        model: model.id.clone(),
        include_usage: request.include_usage,
        wants_logprobs: request.sampling.logprobs.is_some(),
        offsets: vec![0; generation.choices.len()],
    };
    let response = if request.stream {
        streamed(generation, dress, request.include_usage, span)
    } else {
        let parts = collect(generation).await?;
        let choices = (0..).zip(parts.pieces).map(|(index, piece)| dress.choice(index, piece)).collect();
        whole(&span, parts.usage, &dress.frame(choices, Some(Some(parts.usage))))
    };
    Ok(annotate(response, &model, &ignored))
}

fn prepare(model: &ServerModel, prompt: &Prompt, echo: bool) -> Result<PreparedPrompt, ApiError> {
    match prompt {
        Prompt::Text(text) => {
            let tokens = model
                .tokenizer
                .encode(text, true)
                .map_err(|cause| ApiError::new(ErrorKind::Internal, cause.to_string()))?;
            Ok(PreparedPrompt { tokens, echo: echo.then(|| text.clone()) })
        }
        Prompt::Tokens(tokens) => {
            let echo = echo.then(|| model.tokenizer.decode(tokens, true));
            Ok(PreparedPrompt { tokens: tokens.clone(), echo })
        }
    }
}

struct CompletionDress {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    wants_logprobs: bool,
    /// Per choice: where the next reported token begins, in characters.
    offsets: Vec<u32>,
}

impl CompletionDress {
    fn frame(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    fn choice(&mut self, index: u32, piece: Piece) -> CompletionChoice {
        let logprobs = self.wants_logprobs.then(|| self.logprobs(index, &piece.reports));
        CompletionChoice { text: piece.text, index, logprobs, finish_reason: piece.finish.map(Into::into) }
    }

    fn logprobs(&mut self, index: u32, reports: &[TokenReport]) -> CompletionLogprobs {
        let mut out = CompletionLogprobs::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for report in reports {
            let token = text(&report.bytes);
            if let Some(offset) = self.offsets.get_mut(index as usize) {
                out.text_offset.push(*offset);
                *offset += begun_characters(&report.bytes);
            }
            let top: BTreeMap<String, f32> =
                report.top.iter().map(|(bytes, logprob)| (text(bytes), json_number(*logprob))).collect();
            out.top_logprobs.push(report.logprob.map(|_| top));
            out.token_logprobs.push(report.logprob.map(json_number));
            out.tokens.push(token);
        }
        out
    }

    fn write(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        let chunk = self.frame(choices, self.include_usage.then_some(usage));
        // Strings and numbers always serialise.
        serde_json::to_string(&chunk).unwrap_or_default()
    }
}

/// How many characters begin in these bytes: a character split over tokens counts once.
fn begun_characters(bytes: &[u8]) -> u32 {
    let is_start = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
    u32::try_from(bytes.iter().filter(is_start).count()).unwrap_or(u32::MAX)
}

impl Dress for CompletionDress {
    fn chunk(&mut self, index: u32, piece: Piece) -> Vec<String> {
        let choice = self.choice(index, piece);
        vec![self.write(vec![choice], None)]
    }

    fn usage(&mut self, usage: Usage) -> String {
        self.write(Vec::new(), Some(usage))
    }
}
