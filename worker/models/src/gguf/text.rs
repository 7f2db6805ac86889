//! The text side of a GGUF file: a `tokenizer.json`, special tokens, end tokens, a chat template and how its
//! makers want it sampled.
//!
//! Byte-level BPE of the kinds that the supported families use, and SentencePiece. How byte-level BPE cuts a text into
//! words before merging is not in the file, only the name of a way; ways that are not known are refused by name, since a model that is given other
//! tokens than it was trained on answers worse and nobody sees why.

use serde_json::{Map, Value as Json, json};

use super::keys::refuse_unknown_text_keys;
use super::{GgufModelError, pieces};
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

/// Cutting a text into words as some model does.
struct Way {
    /// The names that files use.
    names: &'static [&'static str],
    /// The cuts between words.
    cuts: Cuts,
    /// True if a word that is a token is never merged from parts.
    ignore_merges: bool,
    /// True if characters are composed first.
    composes: bool,
    /// True if a text begins with the token that begins a sequence, where the file does not say.
    adds_bos: bool,
}

#[derive(Clone, Copy)]
enum Cuts {
    /// As published for GPT-2: contractions, words with a space before them, numbers, punctuation, spaces.
    Gpt2,
    /// The same behind a cut around every digit.
    DigitsThenGpt2,
    /// As published for GPT-4, and taken up by Llama 3 and Qwen: contractions, words with one character before them,
    /// digits by this pattern, punctuation, line breaks, spaces.
    Gpt4 { digits: &'static str },
    /// The same, with marks in words.
    Gpt4WithMarks { digits: &'static str },
    /// As published for GPT-4o, and taken up by Mistral's Tekken: words end where a capital follows, contractions belong to
    /// the word before them if there are any, and slashes to the punctuation.
    Gpt4o { contractions: bool, digits: &'static str },
}

const WAYS: [Way; 9] = [
    Way { names: &["gpt-2", "gpt2"], cuts: Cuts::Gpt2, ignore_merges: false, composes: false, adds_bos: false },
    Way {
        names: &["smollm", "starcoder", "refact"],
        cuts: Cuts::DigitsThenGpt2,
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}{1,3}" },
        ignore_merges: true,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["dbrx", "smaug-bpe"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["qwen35"],
        cuts: Cuts::Gpt4WithMarks { digits: r"\p{N}" },
        ignore_merges: false,
        composes: true,
        adds_bos: false,
    },
    Way {
        names: &["tekken"],
        cuts: Cuts::Gpt4o { contractions: false, digits: r"\p{N}" },
        ignore_merges: true,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["gpt-4o"],
        cuts: Cuts::Gpt4o { contractions: true, digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: false,
    },
    Way {
        names: &["llama4"],
        cuts: Cuts::Gpt4o { contractions: true, digits: r"\p{N}{1,3}" },
        ignore_merges: false,
        composes: false,
        adds_bos: true,
    },
    Way {
        names: &["qwen2", "deepseek-r1-qwen"],
        cuts: Cuts::Gpt4 { digits: r"\p{N}" },
        ignore_merges: false,
        composes: true,
        adds_bos: false,
    },
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
    let way = WAYS.iter().find(|way| way.names.contains(&name)).ok_or_else(|| unsupported(pre, name))?;
    let merges = texts(gguf, "tokenizer.ggml.merges")?;
    let Vocabulary { vocab, added } = vocabulary(gguf, tokens)?;
    let around = around(gguf, tokens, way.adds_bos)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": way.composes.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": pre_tokenizer(way.cuts), "post_processor": post_processor(around).unwrap_or(byte_level(false)),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": way.ignore_merges, "vocab": vocab, "merges": merges,
        },
    }))
}

fn sentence_pieces(gguf: &Gguf, tokens: &[&str]) -> Result<Json, GgufModelError> {
    let key = "tokenizer.ggml.scores";
    let scores = gguf.metadata.get(key).ok_or_else(|| GgufModelError::Missing { key: key.into() })?;
    let scores = scores.as_list().filter(|scores| scores.len() == tokens.len());
    let scores: Option<Vec<f64>> = scores.and_then(|scores| scores.iter().map(Value::as_f64).collect());
    let scores = scores.filter(|scores| scores.iter().all(|score| !score.is_nan()));
    let scores = scores.ok_or_else(|| wrong(key, "a list with one number for each token"))?;
    let is_prefixed = switch(gguf, "tokenizer.ggml.add_space_prefix", true)?;
    let unknown = token_named(gguf, "tokenizer.ggml.unknown_token_id", tokens)?.map(|(_, token)| token);
    let Vocabulary { vocab, added } = vocabulary(gguf, tokens)?;
    let merges = pieces::merges(tokens, &scores).map_err(|expected| wrong("tokenizer.ggml.tokens", expected))?;
    let around = around(gguf, tokens, true)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pieces::normalizer(is_prefixed), "pre_tokenizer": null, "post_processor": post_processor(around),
        "decoder": pieces::decoder(is_prefixed),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// The tokens that the file puts before and behind every text.
fn around<'a>(
    gguf: &Gguf,
    tokens: &[&'a str],
    adds_bos: bool,
) -> Result<[Option<(usize, &'a str)>; 2], GgufModelError> {
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

/// Tokens by their text, and those that are found in a text before anything else.
struct Vocabulary {
    vocab: Map<String, Json>,
    added: Vec<Json>,
}

fn vocabulary(gguf: &Gguf, tokens: &[&str]) -> Result<Vocabulary, GgufModelError> {
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
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": is_special,
            }));
        }
    }
    Ok(Vocabulary { vocab, added })
}

/// The kind of each token; none where the file says nothing of kinds.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<i64>, GgufModelError> {
    let key = "tokenizer.ggml.token_type";
    let Some(kinds) = gguf.metadata.get(key) else { return Ok(Vec::new()) };
    let kinds = kinds.as_list().filter(|kinds| kinds.len() == count);
    let kinds = kinds.and_then(|kinds| kinds.iter().map(Value::as_i64).collect());
    kinds.ok_or_else(|| wrong(key, "a list with one number for each token"))
}

fn byte_level(regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex})
}

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";

fn pre_tokenizer(cuts: Cuts) -> Json {
    let words = match cuts {
        Cuts::Gpt2 => return byte_level(true),
        Cuts::DigitsThenGpt2 => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            return json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]});
        }
        Cuts::Gpt4 { digits } => {
            let words = r"[^\r\n\p{L}\p{N}]?\p{L}+";
            format!(r"{CONTRACTIONS}|{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}")
        }
        Cuts::Gpt4WithMarks { digits } => {
            let words = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+";
            format!(r"{CONTRACTIONS}|{words}|{digits}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}")
        }
        Cuts::Gpt4o { contractions, digits } => {
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            let (before, behind) =
                (r"[^\r\n\p{L}\p{N}]?", if contractions { format!("{CONTRACTIONS}?") } else { String::new() });
            let words = format!("{before}{upper}*{lower}+{behind}|{before}{upper}+{lower}*{behind}");
            format!(r"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}")
        }
    };
    let pattern = json!({"Regex": words});
    let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

/// The tokens around every text; none where there are none.
fn post_processor([begins_with, ends_with]: [Option<(usize, &str)>; 2]) -> Option<Json> {
    if begins_with.is_none() && ends_with.is_none() {
        return None;
    }
    let special = |(_, token): (usize, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single: Vec<Json> = begins_with.map(special).into_iter().collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(ends_with.map(special));
    let mut tokens = Map::new();
    for (id, token) in begins_with.into_iter().chain(ends_with) {
        tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    Some(json!({
        "type": "TemplateProcessing", "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": tokens,
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
