//! Fields that several endpoints share, and the members of messages. Names are those that OpenAI, vLLM, SGLang and
//! llama.cpp publish.

use super::{Fate, Field, Kind, TextRole};

/// A field that is known and not done, save for values that ask for nothing.
pub(super) const fn refused(name: &'static str, unless: &'static [&'static str], reaches: Option<TextRole>) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Refused(unless), reaches }
}

const fn honoured(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, fate: Fate::Honoured, reaches: None }
}

const fn ignored(name: &'static str) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Ignored, reaches: None }
}

/// What is generated, and how tokens are chosen.
pub(super) static GENERATION: &[Field] = &[
    honoured("model", Kind::Text),
    honoured("stream", Kind::Bool),
    honoured("stream_options", Kind::StreamOptions),
    honoured("temperature", Kind::Number),
    honoured("top_p", Kind::Number),
    honoured("top_k", Kind::Integer),
    honoured("min_p", Kind::Number),
    honoured("seed", Kind::Integer),
    honoured("presence_penalty", Kind::Number),
    honoured("frequency_penalty", Kind::Number),
    honoured("repetition_penalty", Kind::Number),
    honoured("logit_bias", Kind::Object),
    honoured("n", Kind::Integer),
    honoured("max_tokens", Kind::Integer),
    honoured("min_tokens", Kind::Integer),
    honoured("ignore_eos", Kind::Bool),
    honoured("stop", Kind::Texts),
    honoured("stop_token_ids", Kind::Integers),
    honoured("priority", Kind::Integer),
    honoured("cache_salt", Kind::Text),
];

/// Hints: whatever they say, the answer is the same.
pub(super) static HINTS: &[Field] = &[
    ignored("user"),
    ignored("metadata"),
    ignored("store"),
    ignored("service_tier"),
    ignored("safety_identifier"),
    ignored("prompt_cache_key"),
    ignored("prompt_cache_retention"),
    ignored("request_id"),
    ignored("rid"),
    ignored("cache_prompt"),
    ignored("id_slot"),
];

/// Extensions of other servers that ask for something we do not do.
pub(super) static EXTENSIONS: &[Field] = &[
    refused("response_format", &[r#"{"type":"text"}"#], Some(TextRole::Definition)),
    refused("structured_outputs", &[], Some(TextRole::Definition)),
    refused("prompt_logprobs", &[], None),
    refused("best_of", &["1"], None),
];

const fn member(name: &'static str, kind: Kind, fate: Fate) -> Field {
    Field { name, kind, fate, reaches: None }
}

/// Members of a message. `scan` finds the texts in them whatever their names are.
pub(crate) static MESSAGE: &[Field] = &[
    member("role", Kind::Text, Fate::Honoured),
    member("content", Kind::Any, Fate::Honoured),
    member("cache_control", Kind::Any, Fate::Ignored),
    member("refusal", Kind::Any, Fate::Refused(&["\"\""])),
    member("audio", Kind::Any, Fate::Refused(&[])),
    member("tool_calls", Kind::Any, Fate::Refused(&["[]"])),
    member("function_call", Kind::Any, Fate::Refused(&[])),
    member("tool_call_id", Kind::Any, Fate::Refused(&[])),
    member("prefix", Kind::Any, Fate::Refused(&["false"])),
    member("partial", Kind::Any, Fate::Refused(&["false"])),
];

/// Members of a content part.
pub(crate) static PART: &[Field] = &[
    member("type", Kind::Text, Fate::Honoured),
    member("text", Kind::Text, Fate::Honoured),
    member("cache_control", Kind::Any, Fate::Ignored),
    member("annotations", Kind::Any, Fate::Ignored),
];

/// Members of `stream_options`.
pub(crate) static STREAM_OPTIONS: &[Field] = &[
    member("include_usage", Kind::Bool, Fate::Honoured),
    member("include_obfuscation", Kind::Any, Fate::Ignored),
    member("continuous_usage_stats", Kind::Any, Fate::Refused(&["false"])),
];
