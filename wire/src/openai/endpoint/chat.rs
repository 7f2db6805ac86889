//! The row of `POST /v1/chat/completions`.

use super::fields::{EXTENSIONS, GENERATION, HINTS, refused};
use super::{Endpoint, ErrorShape, Fate, Field, Kind, Replay, TextRole};

/// Chat completions.
pub static CHAT: Endpoint = Endpoint {
    name: "chat",
    paths: &["/v1/chat/completions"],
    prompt: "messages",
    fields: &[FIELDS, GENERATION, HINTS, EXTENSIONS],
    errors: ErrorShape::OpenAi,
    replay: Replay::Once,
};

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, fate: Fate::Honoured, reaches: None }
}

static FIELDS: &[Field] = &[
    Field { reaches: Some(TextRole::Unknown), ..field("messages", Kind::Messages) },
    field("max_completion_tokens", Kind::Integer),
    field("logprobs", Kind::Bool),
    field("top_logprobs", Kind::Integer),
    Field { reaches: Some(TextRole::Variable), ..field("chat_template_kwargs", Kind::Object) },
    Field { reaches: Some(TextRole::Variable), ..field("reasoning_effort", Kind::Text) },
    Field { fate: Fate::Ignored, ..field("parallel_tool_calls", Kind::Any) },
    Field { fate: Fate::Ignored, ..field("prediction", Kind::Any) },
    refused("tools", &["[]"], Some(TextRole::Definition)),
    refused("tool_choice", &["\"none\"", "\"auto\""], Some(TextRole::Definition)),
    refused("functions", &["[]"], Some(TextRole::Definition)),
    refused("function_call", &["\"none\"", "\"auto\""], Some(TextRole::Definition)),
    refused("audio", &[], Some(TextRole::Unknown)),
    refused("modalities", &["[]", "[\"text\"]"], None),
    refused("verbosity", &["\"medium\""], Some(TextRole::Variable)),
    refused("web_search_options", &[], Some(TextRole::Unknown)),
    refused("echo", &["false"], None),
    refused("documents", &["[]"], Some(TextRole::Variable)),
    refused("chat_template", &["\"\""], Some(TextRole::Variable)),
    refused("add_generation_prompt", &["true"], None),
    refused("continue_final_message", &["false"], None),
];
