//! A request from its body to its answer, whatever its endpoint.

use super::chat::ChatWriter;
use super::choice::PreparedPrompt;
use super::completion::CompletionWriter;
use super::embed::embed;
use super::generate::{Generation, apart, submit};
use super::observed::Observed;
use super::plan::{begun, plan};
use super::reply::{ChunkWriter, Frame, annotate, collect, failed, streamed, whole};
use super::{Server, ServerModel};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use compute::backend::Makes;
use http::HeaderMap;
use listen::Access;
use models::calls::in_words;
use models::template::TemplateError;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::Instrument;
use wire::openai::endpoint::Answers;
use wire::openai::generate::{Input, Opening, Output};
use wire::openai::scan::Limits;
use wire::openai::tools::{Tool, ToolChoice};
use wire::openai::{ApiError, CHAT, ChatMessage, Endpoint, ErrorKind, Generate, Prompt, parse, scan};

/// Bodies beyond this are read on a thread of their own: the runtime's few threads carry every stream.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Answers a request; errors are answers, too.
pub(super) async fn handle(
    endpoint: &'static Endpoint,
    server: Arc<Server>,
    id: String,
    access: Access,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let observed = Observed::begin(endpoint, &id, &headers, access);
    let span = observed.span.clone();
    let answered = async move {
        if endpoint.answers == Answers::Vectors {
            return embedded(endpoint, &server, &headers, body, observed).await;
        }
        match begin(endpoint, &server, &id, &headers, body, &observed).await {
            Ok(begun) => begun.answer(server.comment_interval, observed).await,
            Err(error) => failed(observed, &error),
        }
    };
    answered.instrument(span).await
}

/// Answers a request for embeddings.
async fn embedded(
    endpoint: &'static Endpoint,
    server: &Server,
    headers: &HeaderMap,
    body: Body,
    mut observed: Observed,
) -> Response {
    let answered = async {
        refuse_when_ending(server)?;
        let body = server.bodies.read(headers, body).await?;
        embed(endpoint, server, headers, body, &mut observed).await
    };
    match answered.await {
        Ok((response, model, ignored)) => annotate(response, &model, &ignored),
        Err(error) => failed(observed, &error),
    }
}

/// A request whose sequences the engine has.
struct Begun {
    model: Arc<ServerModel>,
    generation: Generation,
    writer: Box<dyn ChunkWriter>,
    output: Output,
    /// Names of what nobody knows in it.
    ignored: Vec<String>,
}

async fn begin(
    endpoint: &'static Endpoint,
    server: &Server,
    id: &str,
    headers: &HeaderMap,
    body: Body,
    observed: &Observed,
) -> Result<Begun, ApiError> {
    refuse_when_ending(server)?;
    let body = server.bodies.read(headers, body).await?;
    let (request, ignored) = read(endpoint, body, server.sequences_max).await?;
    let model = server.model(request.model.as_deref())?;
    observed.model(&model.id);
    observed.asked(&request);
    if model.engine.limits().makes != Makes::Logits {
        let message = "this model makes no text; it is served at /v1/embeddings";
        return Err(ApiError::unsupported("model", message));
    }
    let (request, prompts) = apart({
        let model = Arc::clone(&model);
        // What is truncated may be as long as it likes.
        let limit = request.truncate_prompt_tokens.is_none().then(|| model.engine.max_model_len());
        move || prompts(&model, &request, limit).map(|prompts| (request, prompts))
    })
    .await?;
    if !request.output.stream {
        check_size(endpoint, server, &model, &request, &prompts)?;
    }
    let plan = plan(&model, &request, prompts.first().and_then(|prompt| prompt.begun)).await?;
    let generation = submit(&model, prompts, &request.sampling, &plan, endpoint.prompt, headers)?;
    // The answer's model is the one that was asked for, whichever of its names that is.
    let name = request.model.clone().unwrap_or_else(|| model.id.clone());
    let id = format!("{}-{id}", endpoint.id_prefix);
    observed.answered_as(&id, &name);
    let writer = writer(endpoint, id, name, &request, &generation);
    Ok(Begun { model, generation, writer, output: request.output, ignored })
}

impl Begun {
    async fn answer(self, comment_interval: Duration, observed: Observed) -> Response {
        let Self { model, generation, writer, output, ignored } = self;
        let response = if output.stream {
            streamed(generation, writer, output, comment_interval, observed)
        } else {
            match collect(generation).await {
                Ok(parts) => whole(observed, parts, writer).await,
                Err(error) => failed(observed, &error),
            }
        };
        annotate(response, &model, &ignored)
    }
}

/// Refuses work while the process is ending.
fn refuse_when_ending(server: &Server) -> Result<(), ApiError> {
    if server.drain.is_refusing() {
        return Err(ApiError::overloaded("this worker is shutting down", Duration::from_secs(1)));
    }
    Ok(())
}

/// Reads a body: the request, and the names of what nobody knows in it.
async fn read(
    endpoint: &'static Endpoint,
    body: Bytes,
    sequences_max: usize,
) -> Result<(Generate, Vec<String>), ApiError> {
    let read = move |body: &[u8]| {
        let found = scan(body, endpoint, &Limits::default())?;
        let sequences = (found.prompts() as usize).saturating_mul(found.n().max(1) as usize);
        if sequences > sequences_max {
            let message = format!(
                "the request asks for {sequences} sequences, prompts times `n`; this server takes {sequences_max} in \
                 one request; send several"
            );
            return Err(ApiError::invalid("n", message));
        }
        Ok((parse(body, &found, endpoint)?, found.unknown().to_vec()))
    };
    if body.len() <= INLINE_BYTES_MAX { read(&body) } else { apart(move || read(&body)).await }
}

/// The prompts as tokens. Texts that must have more than `limit` of them are refused before they are cut.
pub(super) fn prompts(
    model: &ServerModel,
    request: &Generate,
    limit: Option<usize>,
) -> Result<Vec<PreparedPrompt>, ApiError> {
    let mut prompts = match &request.input {
        Input::Conversation { messages, variables, opening } => {
            let text = conversation(model, request, messages, variables, *opening)?;
            let begun = begun(model, request, &text);
            check_text(model, &text, limit, "messages")?;
            // The template wrote the special tokens; none are to be added.
            vec![PreparedPrompt { tokens: tokens(model, &text, false)?, echo: None, begun }]
        }
        Input::Prompts(prompts) => {
            for prompt in prompts {
                if let Prompt::Text(text) = prompt {
                    check_text(model, text, limit, "prompt")?;
                }
            }
            let prompts = prompts.iter().map(|prompt| prepare(model, prompt, request.output.echo));
            prompts.collect::<Result<Vec<_>, _>>()?
        }
    };
    if let Some(most) = request.truncate_prompt_tokens {
        for prompt in &mut prompts {
            let from = prompt.tokens.len().saturating_sub(most as usize);
            prompt.tokens.drain(..from);
        }
    }
    Ok(prompts)
}

/// Refuses a text whose tokens cannot be few enough.
fn check_text(model: &ServerModel, text: &str, limit: Option<usize>, param: &str) -> Result<(), ApiError> {
    let Some(limit) = limit.filter(|limit| model.tokenizer.is_beyond(text, *limit)) else { return Ok(()) };
    let message = format!(
        "this model's maximum context length is {limit} tokens; the prompt has {} bytes, which are more; shorten it",
        text.len()
    );
    Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(param))
}

/// The text of a conversation, through the model's chat template.
fn conversation(
    model: &ServerModel,
    request: &Generate,
    messages: &[ChatMessage],
    variables: &Map<String, Value>,
    opening: Opening,
) -> Result<String, ApiError> {
    let Some(template) = &model.template else {
        let message = "this model has no chat template; use /v1/completions";
        return Err(ApiError::unsupported("messages", message));
    };
    let tools = request.tools.as_ref().filter(|tools| tools.choice != ToolChoice::None);
    let tools: Vec<&Tool> = tools.into_iter().flat_map(|tools| &tools.all).collect();
    let rendered = if template.reads("tools") {
        let tools: Vec<&Value> = tools.iter().map(|tool| &tool.given).collect();
        template.render(messages, &tools, variables, opening, now_unix_s())
    } else {
        template.render(&in_words(messages, &tools), &[], variables, opening, now_unix_s())
    };
    rendered.map_err(|cause| match cause {
        TemplateError::Unusable { .. } => ApiError::unsupported("messages", cause.to_string()),
        _ => ApiError::invalid("messages", cause.to_string()),
    })
}

fn tokens(model: &ServerModel, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, ApiError> {
    let tokens = model.tokenizer.encode(text, add_special_tokens);
    tokens.map_err(|cause| ApiError::new(ErrorKind::Internal, cause.to_string()))
}

fn prepare(model: &ServerModel, prompt: &Prompt, echo: bool) -> Result<PreparedPrompt, ApiError> {
    match prompt {
        Prompt::Text(text) => {
            Ok(PreparedPrompt { tokens: tokens(model, text, true)?, echo: echo.then(|| text.clone()), begun: None })
        }
        Prompt::Tokens(tokens) => {
            let echo = echo.then(|| model.tokenizer.decode(tokens, true));
            Ok(PreparedPrompt { tokens: tokens.clone(), echo, begun: None })
        }
    }
}

/// Bytes of one log probability in an answer: its token's text and bytes, its number and the names of all three.
const LOGPROB_BYTES: usize = 128;

/// Refuses a whole answer whose log probabilities could outgrow what routers relay, before it is computed.
fn check_size(
    endpoint: &Endpoint,
    server: &Server,
    model: &ServerModel,
    request: &Generate,
    prompts: &[PreparedPrompt],
) -> Result<(), ApiError> {
    let (of_answer, of_prompt) = (request.sampling.logprobs, request.sampling.prompt_logprobs);
    let Some(top) = of_answer.max(of_prompt) else { return Ok(()) };
    let limit = model.engine.max_model_len();
    let reports = prompts.iter().map(|prompt| {
        let room = limit.saturating_sub(prompt.tokens.len());
        let generated = request.sampling.max_tokens.map_or(room, |max| room.min(max as usize));
        let generated = if of_answer.is_some() { generated } else { 0 };
        let scored = usize::from(of_answer.is_some() && prompt.echo.is_some()) + usize::from(of_prompt.is_some());
        generated + scored * prompt.tokens.len()
    });
    let reports = reports.sum::<usize>().saturating_mul(request.sampling.n as usize);
    let bytes = reports.saturating_mul(top as usize + 1).saturating_mul(LOGPROB_BYTES);
    if bytes <= server.answer_bytes_max {
        return Ok(());
    }
    let message = format!(
        "the log probabilities of up to {reports} tokens may take {bytes} bytes, above the {} of an answer that is not \
         streamed; set `stream`, or lower `max_tokens`, `n` or the number of log probabilities",
        server.answer_bytes_max
    );
    Err(ApiError::invalid(if of_answer.is_some() { endpoint.logprobs } else { "prompt_logprobs" }, message))
}

fn writer(
    endpoint: &Endpoint,
    id: String,
    model: String,
    request: &Generate,
    generation: &Generation,
) -> Box<dyn ChunkWriter> {
    let frame = Frame {
        id,
        created: now_unix_s(),
        model,
        include_usage: request.output.include_usage,
        wants_logprobs: request.sampling.logprobs.is_some(),
        wants_ids: request.output.token_ids,
        prompts: generation.prompts.clone(),
        has_begun: vec![false; generation.choices.len()],
    };
    if *endpoint == CHAT { Box::new(ChatWriter(frame)) } else { Box::new(CompletionWriter(frame)) }
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
