//! The row of `POST /v1/completions`.

use super::fields::{EXTENSIONS, GENERATION, HINTS, refused};
use super::{Endpoint, ErrorShape, Fate, Field, Kind, Replay, TextRole};

/// Text completions.
pub static COMPLETIONS: Endpoint = Endpoint {
    name: "text_completion",
    paths: &["/v1/completions"],
    prompt: "prompt",
    fields: &[FIELDS, GENERATION, HINTS, EXTENSIONS],
    errors: ErrorShape::OpenAi,
    replay: Replay::Once,
};

static FIELDS: &[Field] = &[
    Field { name: "prompt", kind: Kind::Prompt, fate: Fate::Honoured, reaches: Some(TextRole::Prompt) },
    Field { name: "echo", kind: Kind::Bool, fate: Fate::Honoured, reaches: None },
    Field { name: "logprobs", kind: Kind::Integer, fate: Fate::Honoured, reaches: None },
    refused("suffix", &["\"\""], Some(TextRole::Prompt)),
    refused("prompt_embeds", &["[]"], None),
];
