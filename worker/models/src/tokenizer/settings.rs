//! What a model's small JSON files say beside the vocabulary: which tokens are special by name, which end a sequence,
//! and how the makers want the model sampled.

use super::{TextError, TextFiles};
use serde_json::{Map, Value};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// Sampling defaults of `generation_config.json`; `None` where it is silent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Zero (greedy) where the file says `do_sample: false`.
    pub temperature: Option<f32>,
    /// Nucleus sampling: the probability mass to keep.
    pub top_p: Option<f32>,
    /// How many of the likeliest tokens to keep.
    pub top_k: Option<u32>,
    /// The least probability, relative to the likeliest token's.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens seen before (CTRL, arXiv:1909.05858).
    pub repetition_penalty: Option<f32>,
}

/// What we keep of the small files.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) bos_token: Option<String>,
    pub(super) eos_token: Option<String>,
    pub(super) pad_token: Option<String>,
    pub(super) unk_token: Option<String>,
    pub(super) eos_ids: Vec<u32>,
    pub(super) defaults: GenerationDefaults,
}

impl Settings {
    /// Reads the files; `eos_ids` still lacks the id of `eos_token`, which only the vocabulary knows.
    pub(super) fn parse(files: &TextFiles<'_>) -> Result<Self, TextError> {
        let names = object(TOKENIZER_CONFIG, files.tokenizer_config_json)?;
        let generation = object(GENERATION_CONFIG, files.generation_config_json)?;
        let config = object(CONFIG, Some(files.config_json))?;
        let mut eos_ids = token_ids(GENERATION_CONFIG, &generation)?;
        eos_ids.extend(token_ids(CONFIG, &config)?);
        let mut settings = Self {
            bos_token: token_text(&names, "bos_token")?,
            eos_token: token_text(&names, "eos_token")?,
            pad_token: token_text(&names, "pad_token")?,
            unk_token: token_text(&names, "unk_token")?,
            eos_ids: Vec::new(),
            defaults: defaults(&generation)?,
        };
        eos_ids.into_iter().for_each(|id| settings.add_eos(id));
        Ok(settings)
    }

    /// Adds a token that ends a sequence, unless it is there already.
    pub(super) fn add_eos(&mut self, id: u32) {
        if !self.eos_ids.contains(&id) {
            self.eos_ids.push(id);
        }
    }
}

/// The JSON object a file holds; empty for a file that is not there.
pub(crate) fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TextError> {
    bytes.map_or(Ok(Map::new()), |bytes| {
        serde_json::from_slice(bytes).map_err(|source| TextError::Json { file, source })
    })
}

/// A special token's text: a string, or an object that holds it as `content`.
fn token_text(names: &Map<String, Value>, field: &'static str) -> Result<Option<String>, TextError> {
    match names.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(token) => token["content"].as_str().map(|text| Some(text.to_owned())).ok_or(TextError::Field {
            file: TOKENIZER_CONFIG,
            field,
            expected: "a token's text, or an object with its `content`",
        }),
    }
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

fn defaults(generation: &Map<String, Value>) -> Result<GenerationDefaults, TextError> {
    let greedy = generation.get("do_sample").and_then(Value::as_bool) == Some(false);
    // Makers write 0 or -1 for "all tokens", which is what saying nothing means too.
    let top_k = number(generation, "top_k")?.filter(|k| *k >= 1.0);
    Ok(GenerationDefaults {
        temperature: if greedy { Some(0.0) } else { number(generation, "temperature")? },
        top_p: number(generation, "top_p")?,
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least one; saturates above")]
        top_k: top_k.map(|k| k as u32),
        min_p: number(generation, "min_p")?,
        repetition_penalty: number(generation, "repetition_penalty")?,
    })
}

fn number(generation: &Map<String, Value>, field: &'static str) -> Result<Option<f32>, TextError> {
    match generation.get(field) {
        None | Some(Value::Null) => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "sampling is done in f32")]
        Some(value) => value.as_f64().map(|number| Some(number as f32)).ok_or(TextError::Field {
            file: GENERATION_CONFIG,
            field,
            expected: "a number",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &str, generation: &str, config: &str) -> Result<Settings, TextError> {
        Settings::parse(&TextFiles {
            tokenizer_json: b"",
            tokenizer_config_json: Some(names.as_bytes()),
            generation_config_json: Some(generation.as_bytes()),
            config_json: config.as_bytes(),
            chat_template_jinja: None,
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
        assert_eq!((settings.bos_token.as_deref(), settings.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
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
}
