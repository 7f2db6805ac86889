//! The small JSON files beside the vocabulary: which tokens are special by name, which end a sequence, and how
//! the makers want the model sampled.
//!
//! Files are merged field by field: of several that name `bos_token` the first counts, and one that does not name it
//! takes nothing from another.

use super::{TextError, TextFiles};
use serde_json::{Map, Value};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// The names that every tokenizer may give.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The names of lists of further special tokens, in older files and newer ones.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Sampling defaults of the makers; `None` where they are silent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Zero (greedy) where `do_sample` is false.
    pub temperature: Option<f32>,
    /// Nucleus sampling: the probability mass to keep.
    pub top_p: Option<f32>,
    /// The number of likeliest tokens to keep.
    pub top_k: Option<u32>,
    /// The least probability, relative to the likeliest token's.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens seen before (CTRL, arXiv:1909.05858).
    pub repetition_penalty: Option<f32>,
}

/// The facts that the small files give.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Special tokens by name: a text, or a list of texts.
    pub(super) names: Map<String, Value>,
    pub(super) eos_ids: Vec<u32>,
    /// Switches that put the first and the last token around every text, where they count.
    pub(super) around: Option<[bool; 2]>,
    pub(super) defaults: GenerationDefaults,
}

impl Settings {
    /// Reads the files; `eos_ids` still lacks the id of `eos_token`, which only the vocabulary knows.
    pub(super) fn parse(files: &TextFiles<'_>) -> Result<Self, TextError> {
        let generation = object(GENERATION_CONFIG, files.generation_config_json)?;
        let config = object(CONFIG, Some(files.config_json))?;
        let mut settings = Self { names: names(files)?, around: around(files)?, ..Self::default() };
        let ids = token_ids(GENERATION_CONFIG, &generation)?.into_iter().chain(token_ids(CONFIG, &config)?);
        ids.for_each(|id| settings.add_eos(id));
        let mut sampling = Map::new();
        if let Some(gguf) = files.gguf {
            gguf.end_ids.iter().for_each(|id| settings.add_eos(*id));
            sampling.clone_from(&gguf.sampling);
        }
        sampling.extend(generation.into_iter().filter(|(_, value)| !value.is_null()));
        settings.defaults = defaults(&sampling)?;
        Ok(settings)
    }

    /// The text of a named token.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.names.get(name)?.as_str()
    }

    /// The texts of all named tokens.
    pub(super) fn special_texts(&self) -> impl Iterator<Item = &str> {
        let texts = self.names.values().flat_map(|token| match token {
            Value::Array(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        });
        texts.filter_map(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Adds a token that ends a sequence, unless it is there already.
    pub(super) fn add_eos(&mut self, id: u32) {
        if !self.eos_ids.contains(&id) {
            self.eos_ids.push(id);
        }
    }
}

/// Special tokens by name: `tokenizer_config.json`, then `special_tokens_map.json`, then the file with the vocabulary.
fn names(files: &TextFiles<'_>) -> Result<Map<String, Value>, TextError> {
    let sources =
        [(TOKENIZER_CONFIG, files.tokenizer_config_json), (SPECIAL_TOKENS_MAP, files.special_tokens_map_json)];
    let mut names = Map::new();
    for (file, bytes) in sources {
        for (name, token) in object(file, bytes)? {
            let found =
                if LISTS.contains(&name.as_str()) { list(file, &name, &token)? } else { one(file, &name, &token)? };
            match found {
                Named::Nothing => {}
                Named::One(token) => {
                    names.entry(name).or_insert(token);
                }
                // A map of further tokens gives each its own name.
                Named::Several(tokens) => tokens.into_iter().for_each(|(name, token)| {
                    names.entry(name).or_insert(token);
                }),
            }
        }
    }
    let own = files.gguf.iter().flat_map(|gguf| &gguf.names).chain(files.names.into_iter().flatten());
    for (name, token) in own {
        names.entry(name.clone()).or_insert_with(|| token.clone());
    }
    Ok(names)
}

/// `add_bos_token` and `add_eos_token`, if one of them is there and no `tokenizer.json`, which says it itself.
fn around(files: &TextFiles<'_>) -> Result<Option<[bool; 2]>, TextError> {
    if files.names.is_none() {
        return Ok(None);
    }
    let config = object(TOKENIZER_CONFIG, files.tokenizer_config_json)?;
    let switch = |field: &'static str| match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(is_on)) => Ok(Some(*is_on)),
        Some(_) => Err(TextError::Field { file: TOKENIZER_CONFIG, field, expected: "true or false" }),
    };
    let switches = [switch("add_bos_token")?, switch("add_eos_token")?];
    Ok(switches.iter().any(Option::is_some).then(|| switches.map(Option::unwrap_or_default)))
}

enum Named {
    Nothing,
    One(Value),
    Several(Map<String, Value>),
}

/// A field that names one token: one of [`NAMES`], or a model's own whose name ends as theirs do.
fn one(file: &'static str, name: &str, token: &Value) -> Result<Named, TextError> {
    let known = NAMES.iter().find(|known| **known == name);
    if token.is_null() || !(known.is_some() || name.ends_with("_token")) {
        return Ok(Named::Nothing);
    }
    match (token_text(token), known) {
        (Some(text), _) => Ok(Named::One(text.into())),
        // A switch such as `add_bos_token`.
        (None, None) => Ok(Named::Nothing),
        (None, Some(field)) => {
            let expected = "a token's text, or an object with its `content`";
            Err(TextError::Field { file, field, expected })
        }
    }
}

/// A list of further tokens, or a map of names to them.
fn list(file: &'static str, name: &str, tokens: &Value) -> Result<Named, TextError> {
    let field = if name == LISTS[0] { LISTS[0] } else { LISTS[1] };
    let wrong = || TextError::Field { file, field, expected: "a list of tokens, or a map of names to them" };
    match tokens {
        Value::Null => Ok(Named::Nothing),
        Value::Array(all) => {
            let texts: Option<Vec<Value>> = all.iter().map(|token| token_text(token).map(Value::from)).collect();
            Ok(Named::One(texts.ok_or_else(wrong)?.into()))
        }
        Value::Object(all) => {
            let text = |(name, token): (&String, &Value)| Some((name.clone(), token_text(token)?.into()));
            Ok(Named::Several(all.iter().map(text).collect::<Option<_>>().ok_or_else(wrong)?))
        }
        _ => Err(wrong()),
    }
}

/// A special token's text: a string, or an object that holds it as `content`.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The JSON object a file holds; empty for a file that is not there.
pub(crate) fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TextError> {
    bytes.map_or(Ok(Map::new()), |bytes| {
        serde_json::from_slice(bytes).map_err(|source| TextError::Json { file, source })
    })
}

/// `eos_token_id`: one id or a list.
fn token_ids(file: &'static str, fields: &Map<String, Value>) -> Result<Vec<u32>, TextError> {
    let values = match fields.get("eos_token_id") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let wrong = || TextError::Field { file, field: "eos_token_id", expected: "a token id or a list of them" };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
    values.iter().map(id).collect()
}

/// The defaults, within the bounds that a request's fields have.
fn defaults(generation: &Map<String, Value>) -> Result<GenerationDefaults, TextError> {
    let greedy = generation.get("do_sample").and_then(Value::as_bool) == Some(false);
    let temperature = number(generation, "temperature", "a number from 0 to 2", |it| (0.0..=2.0).contains(&it))?;
    let top_p = number(generation, "top_p", "a number above 0, up to 1", |it| it > 0.0 && it <= 1.0)?;
    let top_k = number(generation, "top_k", "a whole number, -1 or more", |it| it >= -1.0 && it.fract() == 0.0)?;
    let min_p = number(generation, "min_p", "a number from 0 to 1", |it| (0.0..=1.0).contains(&it))?;
    let penalty = number(generation, "repetition_penalty", "a number above 0, up to 10", |it| it > 0.0 && it <= 10.0)?;
    #[expect(clippy::cast_possible_truncation, reason = "sampling is done in f32")]
    let narrow = |number: f64| number as f32;
    Ok(GenerationDefaults {
        temperature: if greedy { Some(0.0) } else { temperature.map(narrow) },
        top_p: top_p.map(narrow),
        // Makers write 0 or -1 for "all tokens", which is what saying nothing means too.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least one; saturates above")]
        top_k: top_k.filter(|k| *k >= 1.0).map(|k| k as u32),
        min_p: min_p.map(narrow),
        repetition_penalty: penalty.map(narrow),
    })
}

fn number(
    generation: &Map<String, Value>,
    field: &'static str,
    expected: &'static str,
    fits: impl Fn(f64) -> bool,
) -> Result<Option<f64>, TextError> {
    match generation.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let wrong = TextError::Field { file: GENERATION_CONFIG, field, expected };
            value.as_f64().filter(|number| fits(*number)).map(Some).ok_or(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufText;

    fn parse(names: &str, generation: &str, config: &str) -> Result<Settings, TextError> {
        Settings::parse(&TextFiles {
            tokenizer_config_json: Some(names.as_bytes()),
            generation_config_json: Some(generation.as_bytes()),
            config_json: config.as_bytes(),
            ..TextFiles::new(b"")
        })
    }

    #[test]
    fn end_tokens_of_both_files_are_joined_each_once() {
        let settings = parse("{}", r#"{"eos_token_id": [7, 5, 7]}"#, r#"{"eos_token_id": 5}"#).expect("valid");
        assert_eq!(settings.eos_ids, [7, 5]);
        let settings = parse("{}", "{}", r#"{"eos_token_id": null}"#).expect("valid");
        assert!(settings.eos_ids.is_empty());
    }

    #[test]
    fn a_named_token_is_text_or_an_object() {
        let settings = parse(r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#, "{}", "{}").expect("valid");
        assert_eq!((settings.text("bos_token"), settings.text("eos_token")), (Some("<s>"), Some("</s>")));
        let error = parse(r#"{"pad_token": 3}"#, "{}", "{}").expect_err("a number is no token");
        assert_eq!(
            error.to_string(),
            "tokenizer_config.json: `pad_token` must be a token's text, or an object with its `content`"
        );
    }

    #[test]
    fn sampling_defaults_are_the_makers() {
        let generation = r#"{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}"#;
        let defaults = parse("{}", generation, "{}").expect("valid").defaults;
        let expected = GenerationDefaults {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: None,
            repetition_penalty: Some(1.05),
        };
        assert_eq!(defaults, expected);
        let greedy = parse("{}", r#"{"do_sample": false, "temperature": 0.6, "top_k": -1}"#, "{}").expect("valid");
        assert_eq!((greedy.defaults.temperature, greedy.defaults.top_k), (Some(0.0), None));
    }

    #[test]
    fn a_fault_names_its_file() {
        let error = parse("{}", r#"{"eos_token_id": -1}"#, "{}").expect_err("negative");
        assert_eq!(error.to_string(), "generation_config.json: `eos_token_id` must be a token id or a list of them");
        let error = parse("{}", "{}", "[").expect_err("not JSON");
        assert_eq!(error.to_string(), "config.json is not valid JSON");
    }

    #[test]
    fn values_that_a_request_may_not_have_are_refused_by_name() {
        for (generation, field) in [
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"repetition_penalty": 11}"#, "repetition_penalty"),
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"temperature": 3.5}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"top_k": "40"}"#, "top_k"),
            (r#"{"min_p": -0.1}"#, "min_p"),
        ] {
            let error = parse("{}", generation, "{}").expect_err(generation).to_string();
            assert!(error.starts_with(&format!("generation_config.json: `{field}` must be")), "{error}");
        }
    }

    #[test]
    fn several_sources_are_merged_field_by_field() {
        let gguf = GgufText {
            names: [("bos_token", "<g>"), ("eos_token", "</g>"), ("pad_token", "<gpad>")]
                .into_iter()
                .map(|(name, text)| (name.to_owned(), Value::from(text)))
                .collect(),
            end_ids: vec![7, 9],
            sampling: [("temperature", 0.7), ("top_p", 0.8)]
                .into_iter()
                .map(|(name, number)| (name.to_owned(), Value::from(number)))
                .collect(),
            chat_template: None,
        };
        let files = TextFiles {
            tokenizer_config_json: Some(br#"{"bos_token": "<c>", "eos_token": null, "add_bos_token": true}"#),
            special_tokens_map_json: Some(
                br#"{"bos_token": "<m>", "eos_token": {"content": "</m>"}, "image_token": "<i>",
                    "additional_special_tokens": ["<x>", {"content": "<y>"}]}"#,
            ),
            generation_config_json: Some(br#"{"eos_token_id": 9, "top_p": 0.9, "temperature": null}"#),
            gguf: Some(&gguf),
            ..TextFiles::new(b"")
        };
        let settings = Settings::parse(&files).expect("valid");
        assert_eq!(
            Value::from(settings.names),
            serde_json::json!({
                "bos_token": "<c>", "eos_token": "</m>", "image_token": "<i>",
                "additional_special_tokens": ["<x>", "<y>"], "pad_token": "<gpad>",
            })
        );
        assert_eq!(settings.eos_ids, [9, 7]);
        assert_eq!((settings.defaults.temperature, settings.defaults.top_p), (Some(0.7), Some(0.9)));
    }
}
