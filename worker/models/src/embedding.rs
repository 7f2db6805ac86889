//! The making of embeddings from a model's hidden states, by what its directory says: `sentence-transformers`'
//! `modules.json`, the files of its modules, and `config.json`.
//!
//! It knows no tensor and computes nothing but the last step over one vector.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// The state that stands for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// That of its first token.
    First,
    /// That of its last one.
    Last,
    /// The mean of all.
    Mean,
}

/// The numbers of dimensions that embeddings may be cut to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimensions {
    /// None but their own.
    Own,
    /// Any up to their own.
    Any,
    /// These.
    These(Vec<usize>),
}

/// The making of embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedder {
    /// The state that stands for a text.
    pub pooling: Pooling,
    /// True if embeddings have the length one.
    pub is_normalized: bool,
    /// The most tokens of a text, where the model takes more than it was made for.
    pub max_tokens: Option<usize>,
    /// True if texts are read in lower case.
    pub is_lower_case: bool,
    /// The numbers of dimensions that the model was trained for.
    pub dimensions: Dimensions,
}

/// The files that say how embeddings are made; only `config.json` is always there.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingFiles<'a> {
    /// `modules.json`.
    pub modules_json: Option<&'a [u8]>,
    /// `1_Pooling/config.json`.
    pub pooling_json: Option<&'a [u8]>,
    /// `sentence_bert_config.json`.
    pub sentence_json: Option<&'a [u8]>,
    /// `config.json`.
    pub config_json: &'a [u8],
}

/// Errors of reading these files.
#[derive(Debug, Error)]
pub enum EmbeddingError {
    /// A file is not JSON, or has another form.
    #[error("reading {file}")]
    Malformed {
        /// The file.
        file: &'static str,
        /// Its fault.
        #[source]
        source: serde_json::Error,
    },
    /// There is a module that nothing here computes.
    #[error("modules.json: `{kind}` is not supported; supported: Transformer, Pooling (1_Pooling), Normalize")]
    Module {
        /// Its type.
        kind: String,
    },
    /// A file is missing that `modules.json` speaks of.
    #[error("modules.json has a Pooling module, and 1_Pooling/config.json is missing")]
    NoPooling,
    /// The states are pooled in a way that nothing here computes.
    #[error("1_Pooling/config.json: {found} is not supported; supported: one of cls, mean and lasttoken")]
    Pooling {
        /// The way.
        found: String,
    },
}

#[derive(Deserialize)]
struct Module {
    r#type: String,
}

#[derive(Deserialize)]
struct Sentences {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling/config.json";
const SENTENCES: &str = "sentence_bert_config.json";

impl Embedder {
    /// Reads the files. Without `modules.json` an encoder's states are averaged and of a decoder the last one counts;
    /// embeddings then have the length one.
    ///
    /// # Errors
    /// A file is malformed, or asks for something that nothing here computes.
    pub fn parse(files: &EmbeddingFiles<'_>, is_encoder: bool) -> Result<Self, EmbeddingError> {
        let sentences: Option<Sentences> = read(files.sentence_json, SENTENCES)?;
        let config: Option<Value> = read(Some(files.config_json), "config.json")?;
        let (pooling, is_normalized) = match read::<Vec<Module>>(files.modules_json, MODULES)? {
            None => (if is_encoder { Pooling::Mean } else { Pooling::Last }, true),
            Some(modules) => of_modules(&modules, files, is_encoder)?,
        };
        let length = |sentences: &Sentences| sentences.max_seq_length.filter(|length| *length > 0);
        Ok(Self {
            pooling,
            is_normalized,
            max_tokens: sentences.as_ref().and_then(length),
            is_lower_case: sentences.is_some_and(|sentences| sentences.do_lower_case),
            dimensions: dimensions(&config.unwrap_or_default()),
        })
    }

    /// True if embeddings of `own` dimensions may be cut to so many.
    #[must_use]
    pub fn allows(&self, dimensions: usize, own: usize) -> bool {
        match &self.dimensions {
            _ if dimensions == own => true,
            Dimensions::Own => false,
            Dimensions::Any => dimensions < own,
            Dimensions::These(these) => dimensions < own && these.contains(&dimensions),
        }
    }

    /// Makes an embedding of a pooled state: cut to so many dimensions where asked for, and of the length one where the
    /// model says so.
    pub fn finish(&self, state: &mut Vec<f32>, dimensions: Option<usize>) {
        if let Some(dimensions) = dimensions {
            state.truncate(dimensions);
        }
        if self.is_normalized {
            let squares: f64 = state.iter().map(|number| f64::from(*number) * f64::from(*number)).sum();
            #[expect(clippy::cast_possible_truncation, reason = "a factor of f32")]
            let factor = (1.0 / squares.sqrt().max(1e-12)) as f32;
            state.iter_mut().for_each(|number| *number *= factor);
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(json: Option<&[u8]>, file: &'static str) -> Result<Option<T>, EmbeddingError> {
    let read = json.map(serde_json::from_slice).transpose();
    read.map_err(|source| EmbeddingError::Malformed { file, source })
}

fn of_modules(
    modules: &[Module],
    files: &EmbeddingFiles<'_>,
    is_encoder: bool,
) -> Result<(Pooling, bool), EmbeddingError> {
    let (mut pooling, mut is_normalized) = (None, false);
    for Module { r#type } in modules {
        match r#type.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" if pooling.is_none() => {
                let json = files.pooling_json.ok_or(EmbeddingError::NoPooling)?;
                pooling = Some(of_pooling(json)?);
            }
            "Normalize" => is_normalized = true,
            _ => return Err(EmbeddingError::Module { kind: crate::fields::short(r#type) }),
        }
    }
    Ok((pooling.unwrap_or(if is_encoder { Pooling::Mean } else { Pooling::Last }), is_normalized))
}

fn of_pooling(json: &[u8]) -> Result<Pooling, EmbeddingError> {
    let config: Value =
        serde_json::from_slice(json).map_err(|source| EmbeddingError::Malformed { file: POOLING, source })?;
    let named = config["pooling_mode"].as_str().map(str::to_owned);
    let switched = config.as_object().into_iter().flatten().filter(|(name, value)| {
        // The sum of the modes that are on would be longer than a state.
        name.starts_with("pooling_mode_") && **value == Value::Bool(true)
    });
    let mut modes: Vec<String> = switched.map(|(name, _)| name["pooling_mode_".len()..].to_owned()).collect();
    modes.extend(named);
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cls" | "cls_token"] => Ok(Pooling::First),
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["lasttoken"] => Ok(Pooling::Last),
        [] => Err(EmbeddingError::Pooling { found: "no mode".into() }),
        _ => Err(EmbeddingError::Pooling { found: crate::fields::short(&modes.join(" and ")) }),
    }
}

/// The dimensions in `config.json`, by the names that vLLM reads.
fn dimensions(config: &Value) -> Dimensions {
    let these = config["matryoshka_dimensions"].as_array().map(|list| {
        let numbers = list.iter().filter_map(|number| usize::try_from(number.as_u64()?).ok());
        Dimensions::These(numbers.collect())
    });
    let any = (config["is_matryoshka"] == Value::Bool(true)).then_some(Dimensions::Any);
    these.or(any).unwrap_or(Dimensions::Own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MINILM: &str = r#"[
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

    fn parse(modules: Option<&str>, pooling: Option<Value>, config: &Value) -> Result<Embedder, EmbeddingError> {
        let (pooling, config) = (pooling.map(|value| value.to_string()), config.to_string());
        let files = EmbeddingFiles {
            modules_json: modules.map(str::as_bytes),
            pooling_json: pooling.as_deref().map(str::as_bytes),
            sentence_json: Some(br#"{"max_seq_length": 256, "do_lower_case": false}"#),
            config_json: config.as_bytes(),
        };
        Embedder::parse(&files, true)
    }

    #[test]
    fn published_modules_are_read() {
        let mean =
            json!({"word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
        let found = parse(Some(MINILM), Some(mean), &json!({})).expect("MiniLM");
        assert_eq!((found.pooling, found.is_normalized, found.max_tokens), (Pooling::Mean, true, Some(256)));
        let last = json!({"pooling_mode_lasttoken": true, "include_prompt": true});
        assert_eq!(parse(Some(MINILM), Some(last), &json!({})).expect("a decoder").pooling, Pooling::Last);
        let named = json!({"pooling_mode": "cls"});
        assert_eq!(parse(Some(MINILM), Some(named), &json!({})).expect("today's").pooling, Pooling::First);
        assert_eq!(parse(None, None, &json!({})).expect("none").pooling, Pooling::Mean);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let pooling = |value: Value| parse(Some(MINILM), Some(value), &json!({})).expect_err("refused").to_string();
        assert!(pooling(json!({"pooling_mode_max_tokens": true})).contains("max_tokens"));
        let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
        assert!(pooling(both).contains("cls_token and mean_tokens"));
        assert!(pooling(json!([1])).contains("no mode"));
        let dense = r#"[{"type": "sentence_transformers.models.Dense"}]"#;
        assert!(parse(Some(dense), None, &json!({})).expect_err("refused").to_string().contains("Dense"));
        assert!(matches!(parse(Some(MINILM), None, &json!({})), Err(EmbeddingError::NoPooling)));
        assert!(matches!(parse(Some("{}"), None, &json!({})), Err(EmbeddingError::Malformed { .. })));
    }

    #[test]
    fn dimensions_are_those_that_the_model_was_trained_for() {
        let allows = |config: Value, dimensions| parse(None, None, &config).expect("a config").allows(dimensions, 384);
        assert!(allows(json!({}), 384) && !allows(json!({}), 128) && !allows(json!({}), 385));
        let any = json!({"is_matryoshka": true});
        assert!(allows(any.clone(), 1) && !allows(any, 385));
        let these = json!({"is_matryoshka": true, "matryoshka_dimensions": [64, 128]});
        assert!(allows(these.clone(), 64) && !allows(these, 65));
    }

    #[test]
    fn an_embedding_is_cut_and_then_has_the_length_one() {
        let embedder = parse(None, None, &json!({"is_matryoshka": true})).expect("a config");
        let mut state = vec![3.0, 4.0, 12.0];
        embedder.finish(&mut state, Some(2));
        assert_eq!(state, [0.6, 0.8]);
        let mut zero = vec![0.0; 3];
        embedder.finish(&mut zero, None);
        assert_eq!(zero, [0.0; 3]);
    }
}
