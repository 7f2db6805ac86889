//! The row of `POST /v1/chat/completions`.

use super::fields::{GENERATION, HINTS, UNDONE, honoured, ignored, refused, refused_text};
use super::row::{Endpoint, ErrorShape, Field, Kind, Replay, TextRole};
use crate::openai::message;
use crate::openai::sampling::TOP_LOGPROBS_MAX;

/// Chat completions.
pub static CHAT: Endpoint = Endpoint {
    name: "chat",
    paths: &["/v1/chat/completions"],
    prompt: "messages",
    logprobs: "top_logprobs",
    id_prefix: "chatcmpl",
    fields: &[FIELDS, GENERATION, HINTS, UNDONE],
    max_tokens: None,
    errors: ErrorShape::OpenAi,
    replay: Replay::Once,
};

static FIELDS: &[Field] = &[
    Field {
        reaches: Some(TextRole::Unknown),
        ..honoured("messages", Kind::Messages, |draft, given| {
            message::messages(given).map(|messages| draft.messages = Some(messages))
        })
    },
    honoured("max_completion_tokens", Kind::Integer, |draft, given| {
        given.count(u32::MAX).map(|max| draft.max_completion_tokens = Some(max))
    }),
    honoured("logprobs", Kind::Bool, |draft, given| {
        draft.wants_logprobs = given.boolean();
        Ok(())
    }),
    honoured("top_logprobs", Kind::Integer, |draft, given| {
        given.count(TOP_LOGPROBS_MAX).map(|top| draft.top_logprobs = Some(top))
    }),
    Field {
        reaches: Some(TextRole::Variable),
        ..honoured("chat_template_kwargs", Kind::Object, |draft, given| {
            given.json().map(|variables| draft.variables = variables)
        })
    },
    // As in vLLM, a variable of the template.
    Field {
        reaches: Some(TextRole::Variable),
        ..honoured("reasoning_effort", Kind::Text, |draft, given| {
            given.json().map(|effort| draft.reasoning_effort = Some(effort))
        })
    },
    // Without tools there are no calls, and a prediction changes only how soon an answer comes.
    ignored("parallel_tool_calls"),
    Field { reaches: Some(TextRole::Unknown), ..ignored("prediction") },
    refused_text("tools", &["[]"], TextRole::Definition),
    refused_text("tool_choice", &["\"none\"", "\"auto\""], TextRole::Definition),
    refused_text("functions", &["[]"], TextRole::Definition),
    refused_text("function_call", &["\"none\"", "\"auto\""], TextRole::Definition),
    refused_text("audio", &[], TextRole::Unknown),
    refused("modalities", &["[]", "[\"text\"]"]),
    refused_text("verbosity", &["\"medium\""], TextRole::Variable),
    refused_text("web_search_options", &[], TextRole::Unknown),
    refused_text("moderation", &[], TextRole::Unknown),
    refused_text("documents", &["[]"], TextRole::Variable),
    refused_text("chat_template", &["\"\""], TextRole::Variable),
    refused("best_of", &["1"]),
    refused("echo", &["false"]),
    refused("add_generation_prompt", &["true"]),
    refused("continue_final_message", &["false"]),
    refused("add_special_tokens", &["false"]),
    refused_text("reasoning", &[], TextRole::Variable),
    refused_text("reasoning_format", &["\"none\"", "\"auto\""], TextRole::Variable),
    refused("reasoning_budget", &["-1"]),
    refused("thinking_forced_open", &["false"]),
    refused("parse_tool_calls", &["false", "true"]),
    refused_text("task", &[], TextRole::Variable),
    refused_text("latest_reminder", &[], TextRole::Variable),
];
