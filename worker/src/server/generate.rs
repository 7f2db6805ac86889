//! From a validated request to sequences in the engine.

use super::choice::{Choice, PreparedPrompt};
use super::plan::Plan;
use super::{RequestMeters, ServerModel};
use crate::engine::{CacheSalt, Cancel, Event, Misfit, SequenceParams, Submission, SubmitError};
use compute::sampler::Params;
use http::HeaderMap;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::headers::CACHE_SALT;
use wire::openai::{ApiError, ErrorKind, Sampling, Usage};

/// Events that may wait for a reader, per sequence. A full channel pauses its sequences.
const EVENTS_PER_SEQUENCE: usize = 64;

/// A request under way: its events, and what turns them into text. Dropping it ends everything.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) events: mpsc::Receiver<(u32, Event)>,
    pub(super) choices: Vec<Choice>,
    pub(super) prompt_tokens: u32,
    /// The tokens of each prompt, where they are wanted.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Choices per prompt, at least one.
    pub(super) choices_per_prompt: usize,
    meters: RequestMeters,
}

impl Generation {
    /// The tokens of a generation that is over, which is then measured.
    pub(super) fn sum_up(&self) -> Usage {
        for choices in self.choices.chunks(self.choices_per_prompt) {
            self.meters.finished(choices.iter().map(|choice| choice.generated).max().unwrap_or(0));
        }
        self.so_far()
    }

    /// The tokens so far.
    pub(super) fn so_far(&self) -> Usage {
        let per_prompt = || self.choices.chunks(self.choices_per_prompt);
        let completion_tokens = self.choices.iter().map(|choice| choice.generated).sum();
        // A prompt's further choices share what the first one computed: that is not what a client asks about.
        let cached = per_prompt().filter_map(|choices| Some(choices.first()?.cached)).sum();
        let thought = self.choices.iter().map(|choice| choice.thought).sum();
        Usage::new(self.prompt_tokens, completion_tokens).with_cached(cached).with_reasoning(thought)
    }
}

/// Runs `work` on a thread for blocking work. Tokenising megabytes takes seconds, and the runtime's few threads carry
/// every stream and the probes.
///
/// # Errors
/// Those of `work`.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Internal, "preparing the prompt failed")))
}

/// Submits `n` sequences per prompt, each by the plan. `param` is the field that holds the prompt; `headers` may name the tenant whose
/// prefixes it shares.
///
/// # Errors
/// 400 where a prompt is empty, holds an unknown token or does not fit; 503 where the queue is full.
pub(super) fn submit(
    model: &ServerModel,
    prompts: Vec<PreparedPrompt>,
    sampling: &Sampling,
    plan: &Plan,
    param: &str,
    headers: &HeaderMap,
) -> Result<Generation, ApiError> {
    check_bias(model, sampling)?;
    check_priority(model, sampling)?;
    let n = sampling.n as usize;
    let count = prompts.len() * n;
    let (sender, events) = mpsc::channel((count * EVENTS_PER_SEQUENCE).max(EVENTS_PER_SEQUENCE));
    // Without a seed each request draws its own; with one, the same request draws the same.
    #[expect(clippy::cast_sign_loss, reason = "any 64 bits are a seed")]
    let seed = sampling.seed.map_or_else(rand::random::<u64>, |seed| seed as u64);
    let salt = salt(headers, sampling);
    let mut submissions = Vec::with_capacity(count);
    let mut choices = Vec::with_capacity(count);
    let mut prompt_tokens = 0;
    let wanted = prompts.iter().filter(|_| plan.manner.wants_ids);
    let kept = wanted.map(|prompt| prompt.tokens.clone()).collect();
    let mut lengths_max = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let max_tokens = check_length(model, &prompt.tokens, sampling, param)?;
        lengths_max.push(max_tokens);
        prompt_tokens += u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        for _ in 0..n {
            let index = u32::try_from(submissions.len()).unwrap_or(u32::MAX);
            let cancel = Cancel::default();
            let seed = seed.wrapping_add(u64::from(index));
            let mut params = params(model, sampling, seed, max_tokens, prompt.echo.is_some());
            params.guide = model.structures.guide(plan.grammar.as_ref(), &plan.rules, max_tokens);
            choices.push(Choice::new(model, &prompt, sampling, &plan.manner, cancel.clone()));
            submissions.push(Submission {
                prompt: prompt.tokens.clone(),
                params,
                index,
                priority: priority(model, sampling),
                salt,
                events: sender.clone(),
                cancel,
            });
        }
    }
    model.engine.submit(submissions).map_err(|error| refused(error, param))?;
    lengths_max.into_iter().for_each(|max_tokens| model.meters.asked(sampling.n, max_tokens));
    let meters = model.meters.clone();
    Ok(Generation { events, choices, prompt_tokens, prompts: kept, choices_per_prompt: n.max(1), meters })
}

/// A request's priority: its own, or that of its tier.
pub(super) fn priority(model: &ServerModel, sampling: &Sampling) -> i64 {
    let of_tier = if model.engine.has_priorities() { sampling.tier_priority } else { 0 };
    if sampling.priority == 0 { of_tier } else { sampling.priority }
}

/// Refuses a priority that would have no effect, as vLLM does.
pub(super) fn check_priority(model: &ServerModel, sampling: &Sampling) -> Result<(), ApiError> {
    if sampling.priority == 0 || model.engine.has_priorities() {
        return Ok(());
    }
    let message = "this worker serves first come, first served; leave `priority` out, or start it with \
                   `--scheduling-policy priority`";
    Err(ApiError::unsupported("priority", message))
}

/// The salt of a request's prefixes: its tenant, as a router names it in whatever bytes, and its own `cache_salt`.
pub(super) fn salt(headers: &HeaderMap, sampling: &Sampling) -> CacheSalt {
    let tenant = headers.get(CACHE_SALT).map(|value| value.as_bytes().escape_ascii().to_string());
    CacheSalt::new(&tenant.unwrap_or_default(), &sampling.cache_salt)
}

/// Refuses a bias on a token that does not exist: it would have no effect.
fn check_bias(model: &ServerModel, sampling: &Sampling) -> Result<(), ApiError> {
    let vocabulary = model.engine.limits().vocab_size;
    match sampling.logit_bias.iter().find(|(token, _)| *token as usize >= vocabulary) {
        None => Ok(()),
        Some((token, _)) => {
            let message = format!("the token id {token} is not below the vocabulary's {vocabulary}");
            Err(ApiError::invalid(format!("logit_bias.{token}"), message))
        }
    }
}

pub(super) fn refused(error: SubmitError, param: &str) -> ApiError {
    match error {
        SubmitError::Misfit(misfit @ Misfit::Length { .. }) => {
            ApiError::new(ErrorKind::ContextLengthExceeded, misfit.to_string()).with_param(param)
        }
        SubmitError::Misfit(misfit) => ApiError::invalid(param, misfit.to_string()),
        SubmitError::TooMany { .. } => ApiError::invalid("n", error.to_string()),
        SubmitError::Full { retry_after, .. } => ApiError::overloaded("the queue is full", retry_after),
        SubmitError::NoWeights(why) => ApiError::overloaded(why, Duration::from_secs(30)),
        SubmitError::Ended => ApiError::overloaded("the engine has ended", Duration::from_secs(5)),
    }
}

/// The number of tokens that may be generated after a prompt, which the field `param` holds.
///
/// # Errors
/// 400: the prompt is empty, holds an unknown token or does not fit.
pub(super) fn check_length(
    model: &ServerModel,
    tokens: &[u32],
    sampling: &Sampling,
    param: &str,
) -> Result<usize, ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::invalid(param, format!("`{param}` is empty: the model needs at least one token")));
    }
    let vocabulary = model.engine.limits().vocab_size;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(ApiError::invalid(
            param,
            format!("the token id {token} is not below the vocabulary's {vocabulary}"),
        ));
    }
    let limit = model.engine.max_model_len();
    let room = limit.saturating_sub(tokens.len());
    let wanted = sampling.max_tokens.map_or(room.max(1), |wanted| wanted as usize);
    if tokens.len() > limit || wanted > room {
        // LiteLLM and LangChain know an overflow by these words and the code.
        let message = format!(
            "this model's maximum context length is {limit} tokens; the prompt has {} and up to {wanted} were to be \
             generated; shorten the prompt or lower `max_tokens`",
            tokens.len()
        );
        return Err(ApiError::new(ErrorKind::ContextLengthExceeded, message).with_param(param));
    }
    Ok(wanted)
}

fn params(model: &ServerModel, sampling: &Sampling, seed: u64, max_tokens: usize, echo: bool) -> SequenceParams {
    let defaults = model.tokenizer.defaults();
    let mut stop_ids = sampling.stop_token_ids.clone();
    // Clients send one list to models of several vocabularies: an id beyond it never comes up.
    stop_ids.retain(|&id| (id as usize) < model.engine.limits().vocab_size);
    if !sampling.ignore_eos {
        stop_ids.extend_from_slice(model.tokenizer.eos_ids());
    }
    let logprobs = sampling.logprobs.map(|count| count as usize);
    SequenceParams {
        sampling: Params {
            temperature: sampling.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_p: sampling.top_p.or(defaults.top_p).unwrap_or(1.0),
            top_k: sampling.top_k.or(defaults.top_k).unwrap_or(0) as usize,
            min_p: sampling.min_p,
            seed,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            repetition_penalty: sampling.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            logit_bias: sampling.logit_bias.clone(),
            logprobs,
        },
        max_tokens,
        min_tokens: sampling.min_tokens as usize,
        stop_ids,
        guide: None,
        prompt_logprobs: logprobs.filter(|_| echo).max(sampling.prompt_logprobs.map(|count| count as usize)),
        pooled: None,
    }
}
