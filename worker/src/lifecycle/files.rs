//! A model's small files: read from a probe, or embedded.

use std::borrow::Cow;

use loader::Probe;
use loader::gguf::Gguf;

use super::error::ModelError;
use models::demo;
use models::gguf::{self, GgufText};
use models::tokenizer::TextFiles;
use serde_json::json;
use wire::digest::Digest;

type Bytes = Cow<'static, [u8]>;

/// The small files of a model.
#[derive(Debug, PartialEq)]
pub(super) struct Files {
    pub(super) config: Bytes,
    generation_config: Option<Bytes>,
    tokenizer: Bytes,
    tokenizer_config: Option<Bytes>,
    special_tokens_map: Option<Bytes>,
    added_tokens: Option<Bytes>,
    chat_template_jinja: Option<Cow<'static, str>>,
    chat_template_json: Option<Bytes>,
    /// A GGUF file's metadata beside its vocabulary.
    gguf: Option<GgufText>,
}

impl Files {
    /// Those of the bundled model.
    pub(super) fn demo() -> Self {
        Self {
            config: demo::CONFIG.into(),
            generation_config: Some(demo::GENERATION_CONFIG.into()),
            tokenizer: demo::TOKENIZER.into(),
            tokenizer_config: Some(demo::TOKENIZER_CONFIG.into()),
            special_tokens_map: None,
            added_tokens: None,
            chat_template_jinja: Some(demo::CHAT_TEMPLATE.into()),
            chat_template_json: None,
            gguf: None,
        }
    }

    /// Those that a probe found, and what a GGUF file says in the stead of those that it did not.
    pub(super) fn of(probe: &Probe) -> Result<Self, ModelError> {
        let may = |name: &str| probe.file(name).map(|bytes| Bytes::Owned(bytes.to_vec()));
        let (config, tokenizer, gguf) = match probe.gguf() {
            Some(header) => Self::of_gguf(header, may("tokenizer.json"))?,
            None => {
                let config = may("config.json").ok_or_else(|| missing(probe, "config.json"))?;
                (config, may("tokenizer.json").ok_or_else(|| missing(probe, "tokenizer.json"))?, None)
            }
        };
        let template = probe.file("chat_template.jinja");
        Ok(Self {
            config,
            generation_config: may("generation_config.json"),
            tokenizer,
            tokenizer_config: may("tokenizer_config.json"),
            special_tokens_map: may("special_tokens_map.json"),
            added_tokens: may("added_tokens.json"),
            chat_template_jinja: template.map(|bytes| String::from_utf8_lossy(bytes).into_owned().into()),
            chat_template_json: may("chat_template.json"),
            gguf,
        })
    }

    /// Config, tokenizer (the one beside the file, where there is one) and what else a GGUF file says.
    fn of_gguf(header: &Gguf, beside: Option<Bytes>) -> Result<(Bytes, Bytes, Option<GgufText>), ModelError> {
        let config = gguf::config_json(header).map_err(ModelError::Gguf)?.into();
        let text = gguf::text(header).map_err(ModelError::Gguf)?;
        let own = || gguf::tokenizer(header).map(Bytes::Owned);
        let tokenizer = beside.map_or_else(own, Ok).map_err(ModelError::Gguf)?;
        Ok((config, tokenizer, Some(text)))
    }

    /// Those that make a tokenizer.
    pub(super) fn text(&self) -> TextFiles<'_> {
        TextFiles {
            tokenizer_json: &self.tokenizer,
            tokenizer_config_json: self.tokenizer_config.as_deref(),
            special_tokens_map_json: self.special_tokens_map.as_deref(),
            added_tokens_json: self.added_tokens.as_deref(),
            generation_config_json: self.generation_config.as_deref(),
            config_json: &self.config,
            chat_template_jinja: self.chat_template_jinja.as_deref(),
            chat_template_json: self.chat_template_json.as_deref(),
            gguf: self.gguf.as_ref(),
        }
    }

    /// A digest of all that makes tokens of a text, and text of tokens: tokenizer, special tokens and chat template.
    pub(super) fn text_digest(&self) -> Digest {
        let gguf = self.gguf.as_ref().map(|gguf| json!([gguf.names, gguf.chat_template]).to_string());
        let parts = [
            Some(&*self.tokenizer),
            self.tokenizer_config.as_deref(),
            self.special_tokens_map.as_deref(),
            self.added_tokens.as_deref(),
            self.chat_template_jinja.as_deref().map(str::as_bytes),
            self.chat_template_json.as_deref(),
            gguf.as_deref().map(str::as_bytes),
        ];
        let mut hasher = blake3::Hasher::new_derive_key("forebay text 1");
        for part in parts {
            // A length goes first, and one that no file has for a file that is not there.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hasher.update(&length.to_le_bytes()).update(part.unwrap_or_default());
        }
        Digest(hasher.finalize().into())
    }

    /// The first file of another revision that would make other tokens of the same text.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let names = |files: &Self| files.gguf.as_ref().map(|gguf| gguf.names.clone());
        let files = [
            ("tokenizer.json", self.tokenizer == other.tokenizer),
            ("tokenizer_config.json", self.tokenizer_config == other.tokenizer_config),
            ("special_tokens_map.json", self.special_tokens_map == other.special_tokens_map),
            ("added_tokens.json", self.added_tokens == other.added_tokens),
            ("the GGUF file's special tokens", names(self) == names(other)),
        ];
        files.into_iter().find(|(_, same)| !same).map(|(file, _)| file)
    }
}

/// The error that a file is not there, with a way out where others of its kind are.
fn missing(probe: &Probe, name: &'static str) -> ModelError {
    let place = probe.url().to_string();
    let has = |name| probe.file(name).is_some();
    let advice = match name {
        "tokenizer.json" if has("vocab.json") || has("merges.txt") || has("tokenizer.model") => {
            "its tokenizer is in an older form (vocab.json, merges.txt or tokenizer.model); write a tokenizer.json with \
             transformers: AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIRECTORY)"
        }
        _ => "a model directory as Hugging Face publishes it has one",
    };
    ModelError::NoFile { name, place, advice }
}
