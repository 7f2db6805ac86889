//! A `tokenizer.json` for vocabularies that come in another form: a GGUF file's, `tokenizer.model`, `tekken.json`, or
//! `vocab.json` with `merges.txt`.
//!
//! The document tokenizes as `transformers` does with the same files. A demand of a form that we cannot meet is an error that
//! names it: a model that is given other tokens than it was trained on answers worse, and nobody sees why.

pub(crate) mod document;
mod merges_txt;
mod message;
pub(crate) mod pieces;
mod sentencepiece;
mod tekken;
pub(crate) mod ways;

use serde_json::{Map, Value as Json};
use thiserror::Error;

/// The name of the file of byte-pair ranks that Mistral publishes.
pub const TEKKEN_JSON: &str = "tekken.json";
/// The name of SentencePiece's own file.
pub const TOKENIZER_MODEL: &str = "tokenizer.model";
/// The name of a byte-level vocabulary.
pub const VOCAB_JSON: &str = "vocab.json";
/// The name of its merges.
pub const MERGES_TXT: &str = "merges.txt";

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A vocabulary in one of the other forms, and what is said of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forms<'a> {
    /// `tekken.json`, which goes before the others.
    pub tekken_json: Option<&'a [u8]>,
    /// `tokenizer.model`, which goes before the next two.
    pub tokenizer_model: Option<&'a [u8]>,
    /// `vocab.json`.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`.
    pub merges_txt: Option<&'a [u8]>,
    /// `tokenizer_config.json`: the class of tokenizer, and switches.
    pub tokenizer_config_json: Option<&'a [u8]>,
}

/// A tokenizer that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The document.
    pub tokenizer_json: Vec<u8>,
    /// Special tokens by name, for where no other file names them.
    pub names: Map<String, Json>,
}

/// Errors of reading a vocabulary in another form.
#[derive(Debug, Error)]
pub enum FormError {
    /// A file is not JSON, or not as it must be.
    #[error("reading {file}")]
    Json {
        /// The file's name.
        file: &'static str,
        /// The place and the reason.
        #[source]
        source: serde_json::Error,
    },
    /// Contents out of bounds, or that contradict each other.
    #[error("reading {file}: {problem}")]
    Wrong {
        /// The file's name.
        file: &'static str,
        /// The fault.
        problem: String,
    },
    /// A feature that is not supported.
    #[error(
        "reading {file}: {feature} is not supported; write a tokenizer.json with transformers: \
         AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY)"
    )]
    Unsupported {
        /// The file's name.
        file: &'static str,
        /// The feature.
        feature: String,
    },
    /// One of two files that go together is missing.
    #[error("there is {file}, and no {missing}, which goes with it")]
    Missing {
        /// The file that is there.
        file: &'static str,
        /// The file that is not.
        missing: &'static str,
    },
}

/// Writes the tokenizer of the first form that is there; `None` where there is none.
///
/// # Errors
/// The form is malformed, or needs what is not supported.
pub fn write(forms: &Forms<'_>) -> Result<Option<Written>, FormError> {
    let (document, names) = if let Some(bytes) = forms.tekken_json {
        tekken::read(bytes)?
    } else if let Some(bytes) = forms.tokenizer_model {
        sentencepiece::read(bytes, &Class::read(forms)?)?
    } else {
        match (forms.vocab_json, forms.merges_txt) {
            (Some(vocab), Some(merges)) => (merges_txt::read(vocab, merges, &Class::read(forms)?)?, Map::new()),
            (Some(_), None) => return Err(FormError::Missing { file: VOCAB_JSON, missing: MERGES_TXT }),
            (None, Some(_)) => return Err(FormError::Missing { file: MERGES_TXT, missing: VOCAB_JSON }),
            (None, None) => return Ok(None),
        }
    };
    // A tree of JSON always serialises.
    Ok(Some(Written { tokenizer_json: serde_json::to_vec(&document).unwrap_or_default(), names }))
}

/// The parts of `tokenizer_config.json` that say how a vocabulary is used.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Class {
    tokenizer_class: Option<String>,
    add_prefix_space: Option<bool>,
    legacy: Option<bool>,
}

impl Class {
    fn read(forms: &Forms<'_>) -> Result<Self, FormError> {
        let Some(bytes) = forms.tokenizer_config_json else { return Ok(Self::default()) };
        serde_json::from_slice(bytes).map_err(|source| FormError::Json { file: TOKENIZER_CONFIG, source })
    }

    /// The class without the ending of its other implementation.
    fn name(&self) -> Option<&str> {
        self.tokenizer_class.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_counts_and_two_files_go_together() {
        assert_eq!(write(&Forms::default()).expect("nothing is no fault"), None);
        let half = Forms { vocab_json: Some(b"{}"), ..Forms::default() };
        assert_eq!(
            write(&half).expect_err("no merges").to_string(),
            "there is vocab.json, and no merges.txt, which goes with it"
        );
        let whole = Forms { merges_txt: Some(b""), tokenizer_config_json: Some(br#"{"tokenizer_class": 3}"#), ..half };
        assert_eq!(write(&whole).expect_err("a class is a name").to_string(), "reading tokenizer_config.json");
        let both = Forms { tekken_json: Some(b"["), ..whole };
        assert_eq!(write(&both).expect_err("not JSON").to_string(), "reading tekken.json");
    }
}
