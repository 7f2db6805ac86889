//! An answer over HTTP: whole, or as server-sent events.

mod pieces;

use super::ServerModel;
use super::choice::Piece;
use super::generate::{Generation, apart};
use super::observed::Observed;
use super::speech::{self, Part};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use listen::error_response;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use wire::headers;
use wire::openai::generate::Output;
use wire::openai::{ApiError, ErrorKind, Usage};
use wire::sse;

/// Writes answers in the shapes of one endpoint.
pub(super) trait ChunkWriter: Send {
    /// Chunks for what was added to a choice, with the tokens so far where they are wanted.
    fn chunk(&mut self, index: u32, piece: Piece, so_far: Option<Usage>) -> Vec<String>;
    /// The last chunk, with `include_usage`.
    fn usage(&mut self, usage: Usage) -> String;
    /// An answer that is not streamed.
    fn whole(&mut self, parts: Whole) -> serde_json::Result<Vec<u8>>;
}

/// The members that are the same on every chunk, and what was sent.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) include_usage: bool,
    pub(super) wants_logprobs: bool,
    pub(super) wants_ids: bool,
    /// The tokens of each prompt, where they are wanted and were not sent.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Per choice: whether its beginning was sent.
    pub(super) has_begun: Vec<bool>,
}

impl Frame {
    /// True for a choice of which nothing was sent yet; it counts as begun then.
    pub(super) fn begins(&mut self, index: u32) -> bool {
        self.has_begun.get_mut(index as usize).is_some_and(|has_begun| !std::mem::replace(has_begun, true))
    }

    /// The tokens of a choice's prompt, where they are wanted.
    pub(super) fn prompt_of(&self, index: u32) -> Option<Vec<u32>> {
        let per_prompt = self.has_begun.len().checked_div(self.prompts.len())?.max(1);
        self.prompts.get(index as usize / per_prompt).cloned()
    }

    /// Ids of tokens, where they are wanted.
    pub(super) fn ids(&self, tokens: Vec<u32>) -> Option<Vec<u32>> {
        self.wants_ids.then_some(tokens)
    }
}

/// JSON has no −∞; OpenAI writes −9999 for what is as good as impossible.
pub(super) fn json_number(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// A whole answer's parts, per choice.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) pieces: Vec<Piece>,
    pub(super) usage: Usage,
}

impl Whole {
    /// The log probabilities in it.
    fn logprobs(&self) -> usize {
        let of_prompts = self.pieces.iter().filter_map(|piece| piece.prompt.as_ref()).flatten().flatten();
        let of_answers = self.pieces.iter().flat_map(|piece| &piece.reports);
        of_answers.map(|report| 1 + report.top.len()).chain(of_prompts.map(std::collections::BTreeMap::len)).sum()
    }

    /// The reason of each choice's end.
    fn reasons(&self) -> Vec<&'static str> {
        self.pieces.iter().filter_map(|piece| piece.finish).collect()
    }
}

/// Waits for every choice.
///
/// # Errors
/// A sequence failed, or the engine ended.
pub(super) async fn collect(mut generation: Generation) -> Result<Whole, ApiError> {
    let mut pieces: Vec<Piece> = generation.choices.iter().map(|_| Piece::default()).collect();
    while generation.choices.iter().any(|choice| choice.finish.is_none()) {
        let (index, piece) = next(&mut generation).await?;
        let whole = &mut pieces[index as usize];
        piece.parts.into_iter().for_each(|part| speech::add(&mut whole.parts, part));
        whole.tokens.extend(piece.tokens);
        whole.reports.extend(piece.reports);
        whole.prompt = whole.prompt.take().or(piece.prompt);
        whole.finish = whole.finish.or(piece.finish);
    }
    Ok(Whole { pieces, usage: generation.sum_up() })
}

async fn next(generation: &mut Generation) -> Result<(u32, Piece), ApiError> {
    let Some((index, event)) = generation.events.recv().await else {
        return Err(ApiError::new(ErrorKind::Internal, "the engine has ended"));
    };
    let Some(choice) = generation.choices.get_mut(index as usize) else {
        return Err(ApiError::new(ErrorKind::Internal, "an event of an unknown choice"));
    };
    Ok((index, choice.take(event)?))
}

/// Answers with more log probabilities are written on a thread of their own: the largest takes a second.
const INLINE_LOGPROBS_MAX: usize = 4_096;

/// The whole answer's response.
pub(super) async fn whole(mut observed: Observed, parts: Whole, mut writer: Box<dyn ChunkWriter>) -> Response {
    let (usage, reasons) = (parts.usage, parts.reasons());
    let is_large = parts.logprobs() > INLINE_LOGPROBS_MAX;
    let write = move || {
        let written = writer.whole(parts);
        written.map_err(|cause| ApiError::new(ErrorKind::Internal, format!("writing the answer: {cause}")))
    };
    let written = if is_large { apart(write).await } else { write() };
    match written {
        Ok(json) => {
            observed.ended(usage, reasons.into_iter());
            let mut response = Response::new(Body::from(json));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => failed(observed, &error),
    }
}

/// The response to a request that was refused or failed.
pub(super) fn failed(mut observed: Observed, error: &ApiError) -> Response {
    observed.failed(error);
    error_response(error)
}

struct Streaming {
    generation: Generation,
    writer: Box<dyn ChunkWriter>,
    include_usage: bool,
    continuous_usage: bool,
    ready: VecDeque<Bytes>,
    is_over: bool,
    /// Ticks while nothing else is sent.
    silence: Interval,
    observed: Observed,
}

/// The streamed answer's response. Dropping its body drops the generation, and with it the
/// sequences and their KV blocks.
///
/// While there is nothing to send, because the request is queued or its prompt computed, a comment goes out every
/// `comment_interval`: readers in between take silence for death.
pub(super) fn streamed(
    generation: Generation,
    writer: Box<dyn ChunkWriter>,
    output: Output,
    comment_interval: Duration,
    observed: Observed,
) -> Response {
    let mut silence = interval_at(Instant::now() + comment_interval, comment_interval);
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ready = VecDeque::new();
    let Output { include_usage, continuous_usage, .. } = output;
    let state =
        Streaming { generation, writer, include_usage, continuous_usage, ready, is_over: false, silence, observed };
    let body = stream::unfold(state, |mut state| async move {
        loop {
            if let Some(bytes) = state.ready.pop_front() {
                return Some((Ok::<_, Infallible>(bytes), state));
            }
            if state.is_over {
                return None;
            }
            state.advance().await;
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would otherwise hold tokens back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Streaming {
    async fn advance(&mut self) {
        let next = tokio::select! {
            biased;
            next = next(&mut self.generation) => next,
            _ = self.silence.tick() => {
                self.ready.push_back(Bytes::from_static(sse::COMMENT));
                return;
            }
        };
        match next {
            Ok((_, piece)) if piece.is_empty() => {}
            Ok((index, piece)) => {
                self.silence.reset();
                self.observed.chunk();
                let so_far = self.continuous_usage.then(|| self.generation.so_far());
                for piece in pieces::split(piece) {
                    let chunks = self.writer.chunk(index, piece, so_far);
                    chunks.iter().for_each(|chunk| self.send(chunk));
                }
                if self.generation.choices.iter().all(|choice| choice.finish.is_some()) {
                    self.end();
                }
            }
            Err(error) => {
                self.observed.failed(&error);
                // An error event ends the stream; no `[DONE]` follows it.
                self.send(&error.to_json());
                self.is_over = true;
            }
        }
    }

    fn end(&mut self) {
        let usage = self.generation.sum_up();
        self.observed.ended(usage, self.generation.choices.iter().filter_map(|choice| choice.finish));
        if self.include_usage {
            let chunk = self.writer.usage(usage);
            self.send(&chunk);
        }
        self.send(sse::DONE);
        self.is_over = true;
    }

    fn send(&mut self, data: &str) {
        let mut bytes = Vec::with_capacity(data.len() + 8);
        sse::encode_data(&mut bytes, data);
        self.ready.push_back(bytes.into());
    }
}

/// Adds what a router wants to know, and the fields nobody knew.
pub(super) fn annotate(mut response: Response, model: &ServerModel, ignored: &[String]) -> Response {
    let load = model.engine.load();
    let facts = [
        (headers::QUEUE_WAITING, load.waiting.to_string()),
        (headers::QUEUE_RUNNING, load.running.to_string()),
        (headers::KV_USAGE, format!("{:.3}", load.kv_usage())),
        (headers::IGNORED, ignored.join(", ")),
    ];
    for (name, text) in facts {
        // The scan has written names so that a header can carry them.
        if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(&text)) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
