//! The row of `POST /v1/embeddings`.

use super::fields::{HINTS, PLACE, honoured, refused, refused_text};
use super::row::{Answers, Endpoint, ErrorShape, Field, Kind, Replay, TextRole};
use crate::openai::draft::{DIMENSIONS_MAX, Encoding};
use crate::openai::prompt;

/// Embeddings.
pub static EMBEDDINGS: Endpoint = Endpoint {
    name: "embeddings",
    paths: &["/v1/embeddings"],
    prompt: "input",
    logprobs: "",
    id_prefix: "embd",
    fields: &[FIELDS, PLACE, HINTS],
    max_tokens: None,
    errors: ErrorShape::OpenAi,
    replay: Replay::Free,
    answers: Answers::Vectors,
};

static FIELDS: &[Field] = &[
    honoured("model", Kind::Text, |draft, given| given.json().map(|name| draft.model = Some(name))),
    Field {
        reaches: Some(TextRole::Prompt),
        ..honoured("input", Kind::Prompt, |draft, given| {
            prompt::prompts(given).map(|prompts| draft.prompts = Some(prompts))
        })
    },
    honoured("encoding_format", Kind::Text, |draft, given| {
        Encoding::read(given).map(|encoding| draft.encoding = encoding)
    }),
    honoured("dimensions", Kind::Integer, |draft, given| {
        let most = i64::from(DIMENSIONS_MAX);
        draft.dimensions = u32::try_from(given.integer(1, most)?).ok();
        Ok(())
    }),
    // vLLM
    honoured("add_special_tokens", Kind::Bool, |draft, given| {
        draft.has_no_special_tokens = !given.boolean();
        Ok(())
    }),
    honoured("truncate_prompt_tokens", Kind::Integer, |draft, given| {
        // All that the model takes, at -1.
        let most = given.integer(-1, u32::MAX.into())?;
        draft.truncate_prompt_tokens = Some(u32::try_from(most).unwrap_or(u32::MAX));
        if most == 0 { Err(given.wrong("-1 or at least 1")) } else { Ok(()) }
    }),
    Field { kind: Kind::Bool, ..refused("stream", &["false"]) },
    refused("normalize", &["true"]),
    refused("use_activation", &["true"]),
    refused("embed_dtype", &["\"float32\""]),
    refused("endianness", &["\"native\"", "\"little\""]),
    refused("truncation_side", &["\"right\""]),
    refused_text("messages", &[], TextRole::Unknown),
    refused_text("chat_template", &["\"\""], TextRole::Variable),
    refused_text("chat_template_kwargs", &["{}"], TextRole::Variable),
    refused_text("mm_processor_kwargs", &["{}"], TextRole::Variable),
    // Other servers, whose models read such a word before the text.
    refused_text("input_type", &["\"\""], TextRole::Variable),
    refused_text("prompt_name", &["\"\""], TextRole::Variable),
    refused_text("task", &["\"\""], TextRole::Variable),
];
