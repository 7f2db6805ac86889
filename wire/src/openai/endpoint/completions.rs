//! The row of `POST /v1/completions`.

use super::fields::{GENERATION, HINTS, PLACE, STRUCTURE, UNDONE, honoured, refused, refused_text};
use super::row::{Answers, Endpoint, ErrorShape, Field, Kind, Replay, TextRole};
use crate::openai::prompt;
use crate::openai::sampling::N_MAX;

/// The most alternatives per token here. OpenAI's bound is 5; vLLM and the evaluation harnesses
/// that use this endpoint go to 20.
const LOGPROBS_MAX: u32 = 20;

/// Text completions.
pub static COMPLETIONS: Endpoint = Endpoint {
    name: "text_completion",
    paths: &["/v1/completions"],
    prompt: "prompt",
    logprobs: "logprobs",
    id_prefix: "cmpl",
    fields: &[FIELDS, GENERATION, PLACE, STRUCTURE, HINTS, UNDONE],
    // OpenAI's default.
    max_tokens: Some(16),
    errors: ErrorShape::OpenAi,
    replay: Replay::Once,
    answers: Answers::Choices,
};

static FIELDS: &[Field] = &[
    Field {
        reaches: Some(TextRole::Prompt),
        ..honoured("prompt", Kind::Prompt, |draft, given| {
            prompt::prompts(given).map(|prompts| draft.prompts = Some(prompts))
        })
    },
    honoured("echo", Kind::Bool, |draft, given| {
        draft.output.echo = given.boolean();
        Ok(())
    }),
    honoured("logprobs", Kind::Integer, |draft, given| {
        given.count(LOGPROBS_MAX).map(|count| draft.sampling.logprobs = Some(count))
    }),
    honoured("best_of", Kind::Integer, |draft, given| given.count(N_MAX).map(|best_of| draft.best_of = Some(best_of))),
    refused_text("suffix", &["\"\""], TextRole::Prompt),
    refused("add_special_tokens", &["true"]),
    // Completions have no thoughts of their own.
    refused("include_reasoning", &["true"]),
    refused("separate_reasoning", &["true", "false"]),
    refused("thinking_token_budget", &["-1"]),
];
