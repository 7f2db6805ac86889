//! A GGUF file's tokenizer as the files that Hugging Face publishes.
//!
//! Byte-level BPE of the three kinds that the supported families use. How a text is cut into words before
//! merging is not in the file, only the name of a way; ways that are not known are refused by name, since
//! a model that is given other tokens than it was trained on answers worse and nobody sees why.

use serde_json::{Map, Value as Json, json};

use super::GgufModelError;
use loader::gguf::{Gguf, Value};

/// The small files that say how text is read and written.
#[derive(Debug)]
pub struct Text {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Vec<u8>,
    /// `generation_config.json`, for the tokens that end a sequence.
    pub generation_config: Vec<u8>,
}

/// Kinds of tokens (`llama_token_type` of llama.h).
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const FIX: &str = "put the model's own tokenizer.json beside the file";

/// A way of cutting text into words: the names that files use, digits taken at a time, whether a word that is a
/// token is never merged from parts, whether characters are composed first, whether a text begins with the
/// token that begins a sequence unless the file says.
struct Way {
    names: &'static [&'static str],
    digits: &'static str,
    ignore_merges: bool,
    composes: bool,
    adds_bos: bool,
}

/// As published for GPT-4 (and taken up by Llama 3 and Qwen with a change each): contractions, words with one
/// character before them, digits, punctuation, line breaks, spaces.
const WAYS: [Way; 2] = [
    Way {
        names: &["llama-bpe", "llama3", "llama-v3"],
        digits: r"\p{N}{1,3}",
        ignore_merges: true,
        composes: false,
        adds_bos: true,
    },
    Way { names: &["qwen2"], digits: r"\p{N}", ignore_merges: false, composes: true, adds_bos: false },
];

/// The tokenizer's files.
///
/// # Errors
/// Another kind of tokenizer, or values that are missing or contradict each other.
pub fn text(gguf: &Gguf) -> Result<Text, GgufModelError> {
    let model = need_str(gguf, "tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(unsupported("tokenizer.ggml.model", model));
    }
    let pre = gguf.metadata.get("tokenizer.ggml.pre").and_then(Value::as_str).unwrap_or("gpt-2");
    let way = WAYS.iter().find(|way| way.names.contains(&pre));
    if way.is_none() && pre != "gpt-2" {
        return Err(unsupported("tokenizer.ggml.pre", pre));
    }
    let tokens = texts(gguf, "tokenizer.ggml.tokens")?;
    let merges = texts(gguf, "tokenizer.ggml.merges")?;
    let named = |key: &str| token_named(gguf, key, &tokens);
    let (bos, eos) = (named("tokenizer.ggml.bos_token_id")?, named("tokenizer.ggml.eos_token_id")?);
    let adds_bos = gguf.metadata.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool);
    let adds_bos = adds_bos.unwrap_or(way.is_some_and(|way| way.adds_bos));
    let tokenizer = tokenizer_json(gguf, way, &tokens, &merges, bos.filter(|_| adds_bos))?;
    let ends = ["eos_token_id", "eot_token_id", "eom_token_id"].map(|key| format!("tokenizer.ggml.{key}"));
    let mut end_ids = Vec::new();
    for key in &ends {
        end_ids.extend(named(key)?.map(|(id, _)| id));
    }
    let mut names = Map::new();
    for (key, token) in
        [("bos_token", bos), ("eos_token", eos), ("pad_token", named("tokenizer.ggml.padding_token_id")?)]
    {
        names.insert(key.into(), token.map_or(Json::Null, |(_, text)| json!(text)));
    }
    if let Some(template) = gguf.metadata.get("tokenizer.chat_template").and_then(Value::as_str) {
        names.insert("chat_template".into(), json!(template));
    }
    // Trees of JSON always serialise.
    Ok(Text {
        tokenizer: serde_json::to_vec(&tokenizer).unwrap_or_default(),
        tokenizer_config: serde_json::to_vec(&names).unwrap_or_default(),
        generation_config: serde_json::to_vec(&json!({"eos_token_id": end_ids})).unwrap_or_default(),
    })
}

fn tokenizer_json(
    gguf: &Gguf,
    way: Option<&Way>,
    tokens: &[&str],
    merges: &[&str],
    begins_with: Option<(usize, &str)>,
) -> Result<Json, GgufModelError> {
    let kinds = match gguf.metadata.get("tokenizer.ggml.token_type") {
        None => Vec::new(),
        Some(kinds) => {
            let kinds = kinds.as_list().filter(|kinds| kinds.len() == tokens.len());
            kinds.ok_or_else(|| wrong("tokenizer.ggml.token_type", "a list with one number for each token"))?.to_vec()
        }
    };
    let kind = |id: usize| kinds.get(id).and_then(Value::as_i64).unwrap_or_default();
    let is_added = |id: usize| [CONTROL, USER_DEFINED].contains(&kind(id));
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, token) in tokens.iter().enumerate() {
        if is_added(id) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind(id) == CONTROL,
            }));
        } else if vocab.insert((*token).to_owned(), json!(id)).is_some() {
            return Err(wrong("tokenizer.ggml.tokens", "a list in which no token is twice"));
        }
    }
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
    let pre_tokenizer = match way {
        None => byte_level(true),
        Some(way) => {
            let words = format!(
                "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                way.digits
            );
            let split = json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        }
    };
    let post_processor = match begins_with {
        None => byte_level(false),
        Some((id, token)) => json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
        }),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": way.filter(|way| way.composes).map(|_| json!({"type": "NFC"})),
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": way.is_some_and(|way| way.ignore_merges), "vocab": vocab, "merges": merges,
        },
    }))
}

fn need_str<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a str, GgufModelError> {
    let value = gguf.metadata.get(key).ok_or_else(|| GgufModelError::Missing { key: key.into() })?;
    value.as_str().ok_or_else(|| wrong(key, "a text"))
}

fn texts<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>, GgufModelError> {
    let value = gguf.metadata.get(key).ok_or_else(|| GgufModelError::Missing { key: key.into() })?;
    let texts = value.as_list().and_then(|values| values.iter().map(Value::as_str).collect());
    texts.ok_or_else(|| wrong(key, "a list of texts"))
}

/// The id and text of the token that a key names.
fn token_named<'a>(gguf: &Gguf, key: &str, tokens: &[&'a str]) -> Result<Option<(usize, &'a str)>, GgufModelError> {
    let Some(value) = gguf.metadata.get(key) else { return Ok(None) };
    let id = value.as_u64().and_then(|id| usize::try_from(id).ok());
    let token = id.and_then(|id| Some((id, *tokens.get(id)?)));
    token.map(Some).ok_or_else(|| wrong(key, "the number of a token"))
}

fn wrong(key: &str, expected: &'static str) -> GgufModelError {
    GgufModelError::Wrong { key: key.into(), expected }
}

fn unsupported(key: &str, found: &str) -> GgufModelError {
    GgufModelError::Unsupported { key: key.into(), found: found.chars().take(80).collect(), fix: FIX }
}
