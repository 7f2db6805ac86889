//! The files, or parts of one, that a tokenizer and a chat template are made of.

use serde_json::{Map, Value};

use crate::gguf::GgufText;

/// The small files that say how a model's text is read and written.
///
/// Several may say the same thing. Each fact is taken from the first source that has it, not each file as a whole;
/// `docs/models.md` has the order.
#[derive(Debug, Clone, Copy)]
pub struct TextFiles<'a> {
    /// `tokenizer.json`, in the format of the `tokenizers` crate.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`: names of special tokens, often the chat template.
    pub tokenizer_config_json: Option<&'a [u8]>,
    /// `special_tokens_map.json`: names of special tokens, in older models.
    pub special_tokens_map_json: Option<&'a [u8]>,
    /// `added_tokens.json`: tokens beside the vocabulary and their ids, in older models.
    pub added_tokens_json: Option<&'a [u8]>,
    /// `generation_config.json`: the maker's sampling defaults and end tokens.
    pub generation_config_json: Option<&'a [u8]>,
    /// `config.json`, read here for its end tokens only.
    pub config_json: &'a [u8],
    /// `chat_template.jinja`, which goes before every other template.
    pub chat_template_jinja: Option<&'a str>,
    /// `chat_template.json`, as processors of several media publish theirs.
    pub chat_template_json: Option<&'a [u8]>,
    /// The settings of a GGUF file, for facts that no file beside it has.
    pub gguf: Option<&'a GgufText>,
    /// Special tokens by name, of a vocabulary in another form than `tokenizer.json`, for names that no other file gives.
    pub names: Option<&'a Map<String, Value>>,
}

impl<'a> TextFiles<'a> {
    /// A tokenizer alone.
    #[must_use]
    pub fn new(tokenizer_json: &'a [u8]) -> Self {
        Self {
            tokenizer_json,
            tokenizer_config_json: None,
            special_tokens_map_json: None,
            added_tokens_json: None,
            generation_config_json: None,
            config_json: b"{}",
            chat_template_jinja: None,
            chat_template_json: None,
            gguf: None,
            names: None,
        }
    }
}
