//! The text side of a GGUF file: a `tokenizer.json`, special tokens, end tokens, a chat template and how its
//! makers want it sampled.
//!
//! Byte-level BPE of the kinds that the supported families use, and SentencePiece. How byte-level BPE cuts a text into
//! words before merging is not in the file, only the name of a way; ways that are not known are refused by name, since a model that is given other
//! tokens than it was trained on answers worse and nobody sees why.

use serde_json::{Map, Value as Json, json};

use super::GgufModelError;
use super::keys::refuse_unknown_text_keys;
use crate::tokenizer_json::document::{self, Around, Vocabulary, added_token};
use crate::tokenizer_json::pieces::{self, Prefix};
use crate::tokenizer_json::ways::Way;
use loader::gguf::{Gguf, Value};

/// The text settings of a GGUF file, without the vocabulary. Files beside it take precedence, fact by fact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufText {
    /// Special tokens by name, as `tokenizer_config.json` names them.
    pub names: Map<String, Json>,
    /// Tokens that end a sequence.
    pub end_ids: Vec<u32>,
    /// The chat template.
    pub chat_template: Option<String>,
    /// Sampling defaults, by the names of `generation_config.json`.
    pub sampling: Map<String, Json>,
}

/// Kinds of tokens (`llama_token_type` of llama.h).
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const FIX: &str = "put the model's own tokenizer.json beside the file";

/// Texts of tokens that end a sequence wherever they are in a vocabulary, as llama.cpp takes them: converters often
/// name only one of a model's end tokens.
const ENDS: [&str; 32] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<eos>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|tool_response>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<|file_sep|>",
];

/// Keys of special tokens: GGUF's, and the name in `tokenizer_config.json`.
const NAMED: [(&str, &str); 7] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("padding", "pad_token"),
    ("unknown", "unk_token"),
    ("seperator", "sep_token"),
    ("cls", "cls_token"),
    ("mask", "mask_token"),
];

/// Sampling defaults: the last part of GGUF's key (`general.sampling.…`), the field of `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];

/// Reads the text settings, without the vocabulary.
///
/// # Errors
/// Values of another type, or that contradict each other; a key of the tokenizer's that is not known.
pub fn text(gguf: &Gguf) -> Result<GgufText, GgufModelError> {
    refuse_unknown_text_keys(gguf)?;
    let tokens = match gguf.metadata.get("tokenizer.ggml.tokens") {
        None => Vec::new(),
        Some(_) => texts(gguf, "tokenizer.ggml.tokens")?,
    };
    let mut names = Map::new();
    for (key, name) in NAMED {
        if let Some((_, token)) = token_named(gguf, &format!("tokenizer.ggml.{key}_token_id"), &tokens)? {
            names.insert(name.into(), json!(token));
        }
    }
    let template = gguf.metadata.get("tokenizer.chat_template");
    let template = template
        .map(|template| template.as_str().map(str::to_owned).ok_or_else(|| wrong("tokenizer.chat_template", "a text")));
    Ok(GgufText {
        names,
        end_ids: end_ids(gguf, &tokens)?,
        chat_template: template.transpose()?,
        sampling: sampling(gguf)?,
    })
}

/// Tokens that end a sequence: those that the file names, then those that are known by their text.
fn end_ids(gguf: &Gguf, tokens: &[&str]) -> Result<Vec<u32>, GgufModelError> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(token_named(gguf, &format!("tokenizer.ggml.{key}"), tokens)?.map(|(id, _)| id));
    }
    let known = tokens.iter().enumerate().filter(|(_, token)| ENDS.contains(token));
    // Where a reply ends with one of these two, `<|end|>` ends only a message within it.
    let has = |text| tokens.contains(&text);
    let inner = has("<|return|>") && has("<|call|>");
    ids.extend(known.filter(|(_, token)| !(inner && **token == "<|end|>")).map(|(id, _)| id));
    let mut each_once: Vec<u32> = Vec::new();
    for id in ids.into_iter().filter_map(|id| u32::try_from(id).ok()) {
        if !each_once.contains(&id) {
            each_once.push(id);
        }
    }
    Ok(each_once)
}

fn sampling(gguf: &Gguf) -> Result<Map<String, Json>, GgufModelError> {
    let mut found = Map::new();
    for (last, field) in SAMPLING {
        let key = format!("general.sampling.{last}");
        let Some(value) = gguf.metadata.get(&key) else { continue };
        let number = value.as_f64().map(Json::from).or_else(|| value.as_i64().map(Json::from));
        found.insert(field.into(), number.ok_or_else(|| wrong(&key, "a number"))?);
    }
    Ok(found)
}

/// The `tokenizer.json` that the file's vocabulary, merges and way of cutting make.
///
/// # Errors
/// Another kind of tokenizer, or values that are missing or contradict each other.
pub fn tokenizer(gguf: &Gguf) -> Result<Vec<u8>, GgufModelError> {
    let model = need_str(gguf, "tokenizer.ggml.model")?;
    let tokens = texts(gguf, "tokenizer.ggml.tokens")?;
    let tokenizer = match model {
        "gpt2" => byte_level_bpe(gguf, &tokens)?,
        "llama" => sentence_pieces(gguf, &tokens)?,
        other => return Err(unsupported("tokenizer.ggml.model", other)),
    };
    // A tree of JSON always serialises.
    Ok(serde_json::to_vec(&tokenizer).unwrap_or_default())
}

fn byte_level_bpe(gguf: &Gguf, tokens: &[&str]) -> Result<Json, GgufModelError> {
    let pre = "tokenizer.ggml.pre";
    let name = gguf.metadata.get(pre).map(|name| name.as_str().ok_or_else(|| wrong(pre, "a text"))).transpose()?;
    let name = name.ok_or_else(|| unsupported(pre, "missing, so that nobody knows how words are cut"))?;
    let way = Way::named(name).ok_or_else(|| unsupported(pre, name))?;
    let merges = json!(texts(gguf, "tokenizer.ggml.merges")?);
    let (vocab, added) = vocabulary(gguf, tokens)?;
    let around = around(gguf, tokens, way.adds_bos)?;
    Ok(document::byte_level(Vocabulary { vocab, merges, added, around }, way.words(false)))
}

fn sentence_pieces(gguf: &Gguf, tokens: &[&str]) -> Result<Json, GgufModelError> {
    let key = "tokenizer.ggml.scores";
    let scores = gguf.metadata.get(key).ok_or_else(|| GgufModelError::Missing { key: key.into() })?;
    let scores = scores.as_list().filter(|scores| scores.len() == tokens.len());
    let scores: Option<Vec<f64>> = scores.and_then(|scores| scores.iter().map(Value::as_f64).collect());
    let scores = scores.filter(|scores| scores.iter().all(|score| !score.is_nan()));
    let scores = scores.ok_or_else(|| wrong(key, "a list with one number for each token"))?;
    let is_prefixed = switch(gguf, "tokenizer.ggml.add_space_prefix", true)?;
    let prefix = if is_prefixed { Prefix::AlwaysOneMore } else { Prefix::None };
    let unknown = token_named(gguf, "tokenizer.ggml.unknown_token_id", tokens)?.map(|(_, token)| token);
    let (vocab, added) = vocabulary(gguf, tokens)?;
    let merges = pieces::merges(tokens, Some(&scores)).map_err(|expected| wrong("tokenizer.ggml.tokens", expected))?;
    let vocabulary = Vocabulary { vocab, merges: json!(merges), added, around: around(gguf, tokens, true)? };
    Ok(document::sentence_pieces(vocabulary, unknown, prefix))
}

/// The tokens that the file puts before and behind every text.
fn around<'a>(gguf: &Gguf, tokens: &[&'a str], adds_bos: bool) -> Result<Around<'a>, GgufModelError> {
    let mut around = [None, None];
    for (place, name, default) in [(0, "bos", adds_bos), (1, "eos", false)] {
        let token = token_named(gguf, &format!("tokenizer.ggml.{name}_token_id"), tokens)?;
        if switch(gguf, &format!("tokenizer.ggml.add_{name}_token"), default)? {
            around[place] = token;
        }
    }
    Ok(around)
}

fn switch(gguf: &Gguf, key: &str, default: bool) -> Result<bool, GgufModelError> {
    match gguf.metadata.get(key) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false")),
    }
}

/// Ids of tokens by their text, and the tokens that are found in a text before anything else.
fn vocabulary(gguf: &Gguf, tokens: &[&str]) -> Result<(Map<String, Json>, Vec<Json>), GgufModelError> {
    let kinds = kinds(gguf, tokens.len())?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, token) in tokens.iter().enumerate() {
        let kind = kinds.get(id).copied().unwrap_or_default();
        // Every token is in the vocabulary, added ones too: the library numbers those that are not after all others,
        // whatever their `id` says.
        if vocab.insert((*token).to_owned(), json!(id)).is_some() {
            return Err(wrong("tokenizer.ggml.tokens", "a list in which no token is twice"));
        }
        let is_special = kind == CONTROL || ENDS.contains(token);
        if is_special || kind == USER_DEFINED {
            added.push(added_token(id, token, is_special));
        }
    }
    Ok((vocab, added))
}

/// The kind of each token; none where the file says nothing of kinds.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<i64>, GgufModelError> {
    let key = "tokenizer.ggml.token_type";
    let Some(kinds) = gguf.metadata.get(key) else { return Ok(Vec::new()) };
    let kinds = kinds.as_list().filter(|kinds| kinds.len() == count);
    let kinds = kinds.and_then(|kinds| kinds.iter().map(Value::as_i64).collect());
    kinds.ok_or_else(|| wrong(key, "a list with one number for each token"))
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
