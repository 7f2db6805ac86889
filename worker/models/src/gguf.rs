//! A GGUF file's metadata and names, in the form of a model directory of Hugging Face.
//!
//! Everything after it (config, tokenizer, names of tensors) is the same for both kinds of model. What a
//! file asks for and we cannot do is an error that names it. The loader reads the format; this room knows
//! what llama.cpp's converters mean by it (`gguf-py/gguf/constants.py`, `tensor_mapping.py`).

mod config;
mod keys;
mod names;
mod text;

pub use config::config_json;
pub use text::GgufText;
pub use text::{text, tokenizer};

use loader::Probe;
use loader::gguf::{Gguf, Value};
use thiserror::Error;

/// Errors of reading a GGUF file as a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GgufModelError {
    /// A value is missing.
    #[error("reading the GGUF metadata: there is no `{key}`; write the file again with today's converter")]
    Missing {
        /// The value's key.
        key: String,
    },
    /// A value is of another type or out of bounds.
    #[error("reading the GGUF metadata: `{key}` must be {expected}")]
    Wrong {
        /// The value's key.
        key: String,
        /// The expected value.
        expected: &'static str,
    },
    /// A feature that is not supported.
    #[error("reading the GGUF metadata: `{key}` is {found}, which is not supported; {fix}")]
    Unsupported {
        /// The value's key, or a tensor's name.
        key: String,
        /// The value found.
        found: String,
        /// The way out.
        fix: &'static str,
    },
}

/// The sizes that a first look found: `config.json`, or what a GGUF file says in its stead, whose tensors are from then
/// on called by a checkpoint's names. None where there is neither.
///
/// # Errors
/// The GGUF file is no model of ours.
pub fn config_of(probe: &mut Probe) -> Result<Option<Vec<u8>>, GgufModelError> {
    let Some(config) = probe.gguf().map(config_json).transpose()? else {
        return Ok(probe.file("config.json").map(<[u8]>::to_vec));
    };
    rename(probe);
    Ok(Some(config))
}

/// Calls the tensors of a GGUF file by a checkpoint's names.
pub fn rename(probe: &mut Probe) {
    let architecture = |gguf: &Gguf| gguf.metadata.get("general.architecture")?.as_str().map(str::to_owned);
    if let Some(architecture) = probe.gguf().and_then(architecture) {
        probe.rename(&|tensor| names::name(&architecture, tensor));
    }
}

/// The metadata of one file, its architecture's keys by their last part.
struct Metadata<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    fn new(gguf: &'a Gguf) -> Result<Self, GgufModelError> {
        let key = "general.architecture";
        let value = gguf.metadata.get(key).ok_or_else(|| GgufModelError::Missing { key: key.into() })?;
        let architecture =
            value.as_str().ok_or_else(|| GgufModelError::Wrong { key: key.into(), expected: "a text" })?;
        Ok(Self { gguf, architecture })
    }

    /// `ARCHITECTURE.last`.
    fn key(&self, last: &str) -> String {
        format!("{}.{last}", self.architecture)
    }

    fn get(&self, last: &str) -> Option<&'a Value> {
        self.gguf.metadata.get(&self.key(last))
    }

    fn number(&self, last: &str) -> Result<Option<u64>, GgufModelError> {
        let wrong = || GgufModelError::Wrong { key: self.key(last), expected: "one whole number" };
        self.get(last).map(|value| value.as_u64().ok_or_else(wrong)).transpose()
    }

    fn need_number(&self, last: &str) -> Result<u64, GgufModelError> {
        self.number(last)?.ok_or_else(|| GgufModelError::Missing { key: self.key(last) })
    }

    fn float(&self, last: &str) -> Result<Option<f64>, GgufModelError> {
        let wrong = || GgufModelError::Wrong { key: self.key(last), expected: "a number" };
        let read = |value: &Value| value.as_f64().filter(|number| number.is_finite()).ok_or_else(wrong);
        self.get(last).map(read).transpose()
    }

    fn tensor(&self, name: &str) -> Option<&'a [usize]> {
        self.gguf.tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.shape[..])
    }
}
