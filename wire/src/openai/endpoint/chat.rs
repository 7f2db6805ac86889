//! The row of `POST /v1/chat/completions`.

use super::fields::{GENERATION, HINTS, PLACE, STRUCTURE, UNDONE, honoured, ignored, refused, refused_text};
use super::row::{Answers, Endpoint, ErrorShape, Field, Kind, Replay, TextRole};
use crate::openai::sampling::TOP_LOGPROBS_MAX;
use crate::openai::{message, tools};

/// Chat completions.
pub static CHAT: Endpoint = Endpoint {
    name: "chat",
    paths: &["/v1/chat/completions"],
    prompt: "messages",
    logprobs: "top_logprobs",
    id_prefix: "chatcmpl",
    fields: &[FIELDS, GENERATION, PLACE, STRUCTURE, HINTS, UNDONE],
    max_tokens: None,
    errors: ErrorShape::OpenAi,
    replay: Replay::Once,
    answers: Answers::Choices,
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
    honoured("include_reasoning", Kind::Bool, |draft, given| {
        draft.reasoning.is_hidden = !given.boolean();
        Ok(())
    }),
    // SGLang
    honoured("separate_reasoning", Kind::Bool, |draft, given| {
        draft.reasoning.is_raw = !given.boolean();
        Ok(())
    }),
    // vLLM; -1 is no budget.
    honoured("thinking_token_budget", Kind::Integer, |draft, given| {
        given.integer(-1, u32::MAX.into()).map(|most| draft.reasoning.budget = u32::try_from(most).ok())
    }),
    honoured("add_generation_prompt", Kind::Bool, |draft, given| {
        draft.add_generation_prompt = Some(given.boolean());
        Ok(())
    }),
    honoured("continue_final_message", Kind::Bool, |draft, given| {
        draft.continue_final_message = given.boolean();
        Ok(())
    }),
    Field {
        reaches: Some(TextRole::Definition),
        ..honoured("tools", Kind::Any, |draft, given| tools::tools(given).map(|tools| draft.tools = tools))
    },
    Field {
        reaches: Some(TextRole::Definition),
        ..honoured("tool_choice", Kind::Any, |draft, given| {
            tools::tool_choice(given).map(|choice| draft.tool_choice = Some(choice))
        })
    },
    honoured("parallel_tool_calls", Kind::Bool, |draft, given| {
        draft.parallel_tool_calls = Some(given.boolean());
        Ok(())
    }),
    // A prediction changes only how soon an answer comes.
    Field { reaches: Some(TextRole::Unknown), ..ignored("prediction") },
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
    refused("add_special_tokens", &["false"]),
    refused_text("reasoning", &[], TextRole::Variable),
    refused_text("reasoning_format", &["\"none\"", "\"auto\""], TextRole::Variable),
    refused("reasoning_budget", &["-1"]),
    // Other services' switches; here it is a variable of the template.
    refused_text("thinking", &[], TextRole::Variable),
    refused("enable_thinking", &[]),
    refused("thinking_forced_open", &["false"]),
    refused("parse_tool_calls", &["true"]),
    refused_text("task", &[], TextRole::Variable),
    refused_text("latest_reminder", &[], TextRole::Variable),
];
