//! A model's small files, read from far or near, or embedded.

use std::borrow::Cow;

use loader::Probe;
use loader::gguf::Gguf;

use super::error::ModelError;
use models::demo;
use models::gguf;
use models::tokenizer::TextFiles;

type Bytes = Cow<'static, [u8]>;

/// The small files of a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) config: Bytes,
    generation_config: Option<Bytes>,
    tokenizer: Bytes,
    tokenizer_config: Option<Bytes>,
    chat_template: Option<Cow<'static, str>>,
}

impl Files {
    /// Those of the bundled model.
    pub(super) fn demo() -> Self {
        Self {
            config: demo::CONFIG.into(),
            generation_config: Some(demo::GENERATION_CONFIG.into()),
            tokenizer: demo::TOKENIZER.into(),
            tokenizer_config: Some(demo::TOKENIZER_CONFIG.into()),
            chat_template: Some(demo::CHAT_TEMPLATE.into()),
        }
    }

    /// Those that a first look found.
    pub(super) fn of(probe: &Probe) -> Result<Self, ModelError> {
        if let Some(header) = probe.gguf() {
            return Self::of_gguf(probe, header);
        }
        let may = |name: &str| probe.file(name).map(|bytes| Bytes::Owned(bytes.to_vec()));
        let need = |name| may(name).ok_or_else(|| ModelError::NoFile { name, place: probe.url().to_string() });
        let template = probe.file("chat_template.jinja");
        Ok(Self {
            config: need("config.json")?,
            generation_config: may("generation_config.json"),
            tokenizer: need("tokenizer.json")?,
            tokenizer_config: may("tokenizer_config.json"),
            chat_template: template.map(|bytes| String::from_utf8_lossy(bytes).into_owned().into()),
        })
    }

    /// What a GGUF file says in their stead. A tokenizer beside the file goes before the file's own.
    fn of_gguf(probe: &Probe, header: &Gguf) -> Result<Self, ModelError> {
        let beside = |name: &str| probe.file(name).map(|bytes| Bytes::Owned(bytes.to_vec()));
        let config = gguf::config_json(header).map_err(ModelError::Gguf)?.into();
        let chat_template =
            probe.file("chat_template.jinja").map(|bytes| String::from_utf8_lossy(bytes).into_owned().into());
        let own = gguf::text(header);
        if let Some(tokenizer) = beside("tokenizer.json") {
            let generation_config = own.ok().map(|own| own.generation_config.into());
            let tokenizer_config = beside("tokenizer_config.json");
            return Ok(Self { config, generation_config, tokenizer, tokenizer_config, chat_template });
        }
        let own = own.map_err(ModelError::Gguf)?;
        Ok(Self {
            config,
            generation_config: Some(own.generation_config.into()),
            tokenizer: own.tokenizer.into(),
            tokenizer_config: Some(own.tokenizer_config.into()),
            chat_template,
        })
    }

    /// Those that make a tokenizer.
    pub(super) fn text(&self) -> TextFiles<'_> {
        TextFiles {
            tokenizer_json: &self.tokenizer,
            tokenizer_config_json: self.tokenizer_config.as_deref(),
            generation_config_json: self.generation_config.as_deref(),
            config_json: &self.config,
            chat_template_jinja: self.chat_template.as_deref(),
        }
    }

    /// A file of another revision that would make other tokens of the same text.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.tokenizer != other.tokenizer {
            return Some("tokenizer.json");
        }
        (self.tokenizer_config != other.tokenizer_config).then_some("tokenizer_config.json")
    }
}
