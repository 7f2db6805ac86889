//! Embeddings of texts: tokenized beside the runtime's threads, computed by the engine in steps of many, part by part
//! of a request, so that one with thousands of inputs takes no more of the queue than any other.

use super::generate::{apart, check_priority, priority, refused, salt};
use super::observed::Observed;
use super::{Server, ServerModel};
use crate::engine::{Cancel, Event, Pooled, SequenceParams, Submission, SubmitError};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use compute::backend::Makes;
use compute::sampler::Params;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use models::embedding::{Embedder, Pooling};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::openai::embeddings::{Embed, Encoding, answer};
use wire::openai::scan::Limits;
use wire::openai::{ApiError, Endpoint, ErrorKind, Prompt, Sampling, Usage, parse_embed, scan};

/// Bodies beyond this are read on a thread of their own: the runtime's few threads carry every stream.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Parts of a request that wait or are computed at a time: one is queued while another is computed.
const PARTS: usize = 2;
/// Pause before a part is submitted again that found the queue full.
const FULL: Duration = Duration::from_millis(20);
/// Bytes of a number of an embedding in an answer.
const NUMBER_BYTES: usize = 14;
const NUMBER_BYTES_BASE64: usize = 6;

/// A request that can be computed.
struct Work {
    model: Arc<ServerModel>,
    inputs: Vec<Vec<u32>>,
    pooled: Pooled,
    sampling: Sampling,
    headers: HeaderMap,
}

/// Answers a request.
///
/// # Errors
/// The request is refused, or cannot be computed.
pub(super) async fn embed(
    endpoint: &'static Endpoint,
    server: &Server,
    headers: &HeaderMap,
    body: Bytes,
    observed: &mut Observed,
) -> Result<(Response, Arc<ServerModel>, Vec<String>), ApiError> {
    let (request, ignored) = read(endpoint, body).await?;
    let model = server.model(request.model.as_deref())?;
    observed.model(&model.id);
    let (pooled, dimensions) = check(&model, server, &request)?;
    check_priority(&model, &request.sampling)?;
    let name = request.model.clone().unwrap_or_else(|| model.id.clone());
    let (encoding, sampling) = (request.encoding, request.sampling.clone());
    let inputs = apart({
        let model = Arc::clone(&model);
        move || tokens(&model, &request)
    })
    .await?;
    let prompt_tokens = u32::try_from(inputs.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX);
    let count = inputs.len();
    let work = Work { model: Arc::clone(&model), inputs, pooled, sampling, headers: headers.clone() };
    let states = work.states(server.sequences_max).await?;
    let written = apart({
        let model = Arc::clone(&model);
        move || {
            let embedder = embedder(&model)?;
            let vectors = states.into_iter().map(|mut state| {
                embedder.finish(&mut state, dimensions);
                state
            });
            Ok(answer(&name, &vectors.collect::<Vec<_>>(), encoding, prompt_tokens))
        }
    })
    .await?;
    model.meters.embedded(count);
    observed.ended(Usage::new(prompt_tokens, 0), std::iter::empty());
    let mut response = Response::new(Body::from(written));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((response, model, ignored))
}

/// Reads a body: the request, and the names of what nobody knows in it.
async fn read(endpoint: &'static Endpoint, body: Bytes) -> Result<(Embed, Vec<String>), ApiError> {
    let read = move |body: &[u8]| {
        let found = scan(body, endpoint, &Limits::default())?;
        Ok((parse_embed(body, &found, endpoint)?, found.unknown().to_vec()))
    };
    if body.len() <= INLINE_BYTES_MAX { read(&body) } else { apart(move || read(&body)).await }
}

fn embedder(model: &ServerModel) -> Result<&Embedder, ApiError> {
    model
        .embedder
        .as_ref()
        .map_err(|why| ApiError::unsupported("model", format!("this model has no embeddings: {why}")))
}

/// Refuses what the model or the size of answers does not allow: the pooling and the dimensions otherwise.
fn check(model: &ServerModel, server: &Server, request: &Embed) -> Result<(Pooled, Option<usize>), ApiError> {
    let (limits, embedder) = (model.engine.limits(), embedder(model)?);
    if let Makes::Classes(_) = limits.makes {
        return Err(ApiError::unsupported("model", "this model scores classes and has no embeddings"));
    }
    let pooled = match embedder.pooling {
        Pooling::First => Pooled::First,
        Pooling::Last => Pooled::Last,
        Pooling::Mean if limits.sums => Pooled::Mean,
        Pooling::Mean => {
            let message = "means of hidden states are not computed on a GPU; serve the model with `--device cpu`";
            return Err(ApiError::unsupported("model", message));
        }
    };
    let own = limits.hidden_size;
    let dimensions = request.dimensions.map(|dimensions| dimensions as usize);
    if let Some(asked) = dimensions.filter(|asked| !embedder.allows(*asked, own)) {
        let message = format!("the model was not trained for embeddings of {asked} dimensions; it has {own}");
        return Err(ApiError::invalid("dimensions", message));
    }
    let number = match request.encoding {
        Encoding::Float => NUMBER_BYTES,
        Encoding::Base64 => NUMBER_BYTES_BASE64,
    };
    let bytes = request.inputs.len().saturating_mul(dimensions.unwrap_or(own)).saturating_mul(number);
    if bytes > server.answer_bytes_max {
        let message = format!(
            "the answer to {} inputs may take {bytes} bytes, above this server's {}; send fewer, or set \
             `encoding_format` to `base64`",
            request.inputs.len(),
            server.answer_bytes_max
        );
        return Err(ApiError::invalid("input", message));
    }
    Ok((pooled, dimensions))
}

/// The tokens of every input.
fn tokens(model: &ServerModel, request: &Embed) -> Result<Vec<Vec<u32>>, ApiError> {
    let embedder = embedder(model)?;
    let limit = embedder.max_tokens.unwrap_or(usize::MAX).min(model.engine.max_model_len());
    let most = request.truncate_prompt_tokens.map(|most| (most as usize).min(limit));
    let vocabulary = model.engine.limits().vocab_size;
    let one = |(index, input): (usize, &Prompt)| {
        let param = if request.inputs.len() == 1 { "input".to_owned() } else { format!("input[{index}]") };
        let mut tokens = match input {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => of_text(model, embedder, text, request.add_special_tokens, most)?,
        };
        if let Some(most) = most {
            tokens.truncate(most);
        }
        if tokens.is_empty() {
            return Err(ApiError::invalid(param, "the input is empty: the model needs at least one token"));
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            let message = format!("the token id {token} is not below the vocabulary's {vocabulary}");
            return Err(ApiError::invalid(param, message));
        }
        if tokens.len() > limit {
            let message = format!(
                "this model's maximum context length is {limit} tokens; the input has {}; shorten it, or set \
                 `truncate_prompt_tokens` to -1",
                tokens.len()
            );
            return Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(param));
        }
        Ok(tokens)
    };
    request.inputs.iter().enumerate().map(one).collect()
}

/// The tokens of a text. Of a longer one than `most` those at its beginning are kept, and the special ones around them.
fn of_text(
    model: &ServerModel,
    embedder: &Embedder,
    text: &str,
    add_special_tokens: bool,
    most: Option<usize>,
) -> Result<Vec<u32>, ApiError> {
    let lower;
    let text = if embedder.is_lower_case {
        lower = text.to_lowercase();
        &lower
    } else {
        text
    };
    let encode = |add_special_tokens| {
        let tokens = model.tokenizer.encode(text, add_special_tokens);
        tokens.map_err(|cause| ApiError::new(ErrorKind::Internal, cause.to_string()))
    };
    let mut tokens = encode(add_special_tokens)?;
    let Some(most) = most.filter(|most| add_special_tokens && tokens.len() > *most) else { return Ok(tokens) };
    let own = encode(false)?;
    let special = tokens.len().saturating_sub(own.len());
    let before = (0..=special).find(|before| tokens[*before..].starts_with(&own)).unwrap_or(special);
    let after = special - before;
    // The text's own tokens give way to the special ones after them.
    let kept = most.saturating_sub(after).max(before.min(most));
    let end = tokens.len() - after;
    tokens.drain(kept.min(end)..end);
    Ok(tokens)
}

impl Work {
    /// The pooled state of every input.
    async fn states(self, sequences_max: usize) -> Result<Vec<Vec<f32>>, ApiError> {
        let (size, count, work) = ((sequences_max / PARTS).max(1), self.inputs.len(), Arc::new(self));
        let part = |first: usize| {
            let work = Arc::clone(&work);
            async move { work.part(first..count.min(first + size)).await }
        };
        let parts: Vec<_> = (0..count).step_by(size).map(part).collect();
        let parts: Vec<Vec<Vec<f32>>> = stream::iter(parts).buffered(PARTS).try_collect().await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The pooled states of some inputs. Only the first part of a request is refused where the queue is full: the others
    /// wait. Dropping this frees its sequences.
    async fn part(&self, range: Range<usize>) -> Result<Vec<Vec<f32>>, ApiError> {
        let (is_first, inputs) = (range.start == 0, &self.inputs[range]);
        let mut events = loop {
            let (sender, events) = mpsc::channel(inputs.len().saturating_mul(16).max(64));
            let sequences = inputs.iter().zip(0..).map(|(input, index)| self.sequence(input, index, &sender));
            match self.model.engine.submit(sequences.collect()) {
                Ok(()) => break events,
                Err(SubmitError::Full { .. }) if !is_first => tokio::time::sleep(FULL).await,
                Err(error) => return Err(refused(error, "input")),
            }
        };
        let mut states = vec![Vec::new(); inputs.len()];
        let mut missing = inputs.len();
        while missing > 0 {
            let Some((index, event)) = events.recv().await else {
                return Err(ApiError::new(ErrorKind::Internal, "the engine has ended"));
            };
            match event {
                Event::Pooled(state) => {
                    missing -= 1;
                    states[index as usize] = state;
                }
                Event::Failed(why) | Event::Stuck(why) => return Err(ApiError::new(ErrorKind::Internal, why)),
                Event::Cached(_) | Event::PromptLogprobs(_) | Event::Token { .. } | Event::PromptDone => {}
            }
        }
        Ok(states)
    }

    fn sequence(&self, input: &[u32], index: u32, events: &mpsc::Sender<(u32, Event)>) -> Submission {
        Submission {
            prompt: input.to_vec(),
            params: SequenceParams {
                sampling: Params::default(),
                max_tokens: 0,
                min_tokens: 0,
                stop_ids: Vec::new(),
                guide: None,
                prompt_logprobs: None,
                pooled: Some(self.pooled),
            },
            index,
            priority: priority(&self.model, &self.sampling),
            salt: salt(&self.headers, &self.sampling),
            events: events.clone(),
            cancel: Cancel::default(),
        }
    }
}
