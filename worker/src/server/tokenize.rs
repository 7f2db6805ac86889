//! `POST /tokenize`, `/detokenize` and `…/render`, as vLLM has them: prompts and conversations are read as the endpoints
//! that generate read them.

use super::Server;
use super::generate::{apart, check_length};
use super::handle::prompts;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use listen::{RequestId, error_response};
use std::sync::Arc;
use wire::openai::scan::Limits;
use wire::openai::tokens::{Detokenize, Detokenized, Rendered, RenderedSampling, Tokenize, Tokenized};
use wire::openai::{ApiError, CHAT, COMPLETIONS, Endpoint, ErrorKind, parse, scan};

/// The tokens of a prompt, or of a conversation.
pub(super) async fn tokenize(State(server): State<Arc<Server>>, headers: HeaderMap, body: Body) -> Response {
    answer(tokens(&server, &headers, body).await)
}

/// The text of tokens.
pub(super) async fn detokenize(State(server): State<Arc<Server>>, headers: HeaderMap, body: Body) -> Response {
    answer(text(&server, &headers, body).await)
}

/// The prompt that a conversation is, and how it would be answered.
pub(super) async fn render_chat(
    State(server): State<Arc<Server>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(rendered(&server, &CHAT, &id, &headers, body).await)
}

/// The same of each prompt of a completion.
pub(super) async fn render_completions(
    State(server): State<Arc<Server>>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(rendered(&server, &COMPLETIONS, &id, &headers, body).await)
}

async fn rendered(
    server: &Server,
    endpoint: &'static Endpoint,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, ApiError> {
    let body = server.bodies.read(headers, body).await?;
    let request = apart(move || {
        let found = scan(&body, endpoint, &Limits::default())?;
        parse(&body, &found, endpoint)
    })
    .await?;
    let model = server.model(request.model.as_deref())?;
    let request_id = format!("{}-{id}", endpoint.id_prefix);
    apart(move || {
        let sampling = &request.sampling;
        // What is truncated may be as long as it likes.
        let limit = request.truncate_prompt_tokens.is_none().then(|| model.engine.max_model_len());
        let prompts = prompts(&model, &request, limit)?.into_iter().map(|prompt| {
            let max_tokens = check_length(&model, &prompt.tokens, sampling, endpoint.prompt)?;
            Ok(Rendered {
                request_id: request_id.clone(),
                model: request.model.clone().unwrap_or_else(|| model.id.clone()),
                token_ids: prompt.tokens,
                sampling_params: RenderedSampling {
                    n: sampling.n,
                    max_tokens,
                    min_tokens: sampling.min_tokens,
                    temperature: sampling.temperature,
                    top_p: sampling.top_p,
                    top_k: sampling.top_k,
                    seed: sampling.seed,
                    stop: sampling.stop.clone(),
                },
                stream: request.output.stream,
            })
        });
        let mut prompts: Vec<Rendered> = prompts.collect::<Result<_, ApiError>>()?;
        // A conversation is one prompt.
        if *endpoint == CHAT { written(&prompts.pop()) } else { written(&prompts) }
    })
    .await
}

/// The response; the JSON was written on a thread of its own, since it may be megabytes.
fn answer(result: Result<Vec<u8>, ApiError>) -> Response {
    match result {
        Ok(json) => {
            let mut response = Response::new(Body::from(json));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => error_response(&error),
    }
}

fn written(answer: &impl serde::Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(answer)
        .map_err(|cause| ApiError::new(ErrorKind::Internal, format!("writing the answer: {cause}")))
}

async fn tokens(server: &Server, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let body = server.bodies.read(headers, body).await?;
    let (request, options) = apart(move || {
        let options = Tokenize::read(&body)?;
        let endpoint = if options.is_conversation { &CHAT } else { &COMPLETIONS };
        let found = scan(&body, endpoint, &Limits::default())?;
        Ok((parse(&body, &found, endpoint)?, options))
    })
    .await?;
    let model = server.model(request.model.as_deref())?;
    let max_model_len = model.engine.max_model_len();
    apart(move || {
        let mut prompts = prompts(&model, &request, None)?;
        if prompts.len() != 1 {
            return Err(ApiError::invalid("prompt", "one prompt is tokenized at a time"));
        }
        let tokens = prompts.swap_remove(0).tokens;
        let spelled = |id: &u32| String::from_utf8_lossy(&model.tokenizer.token_bytes(*id)).into_owned();
        let token_strs = options.wants_texts.then(|| tokens.iter().map(spelled).collect());
        written(&Tokenized { count: tokens.len(), max_model_len, tokens, token_strs })
    })
    .await
}

async fn text(server: &Server, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let body = server.bodies.read(headers, body).await?;
    let request = apart(move || Detokenize::read(&body)).await?;
    let model = server.model(request.model.as_deref())?;
    let vocabulary = model.engine.limits().vocab_size;
    if let Some(token) = request.tokens.iter().find(|token| **token as usize >= vocabulary) {
        let message = format!("the token id {token} is not below the vocabulary's {vocabulary}");
        return Err(ApiError::invalid("tokens", message));
    }
    apart(move || written(&Detokenized { prompt: model.tokenizer.decode(&request.tokens, false) })).await
}
