//! A model's small files: read from a probe, or embedded.

use std::borrow::Cow;

use loader::Probe;

use super::error::ModelError;
use super::instead::Instead;
use models::demo;
use models::embedding::EmbeddingFiles;
use models::gguf::{self, GgufText};
use models::tokenizer::TextFiles;
use models::tokenizer_json::{self, Forms, MERGES_TXT, TEKKEN_JSON, TOKENIZER_MODEL, VOCAB_JSON, Written};
use serde_json::{Map, Value, json};
use wire::digest::Digest;

type Bytes = Cow<'static, [u8]>;

/// The small files of a model.
#[derive(Debug, PartialEq)]
pub(super) struct Files {
    pub(super) config: Bytes,
    generation_config: Option<Bytes>,
    /// `tokenizer.json`, the model's own or written from another form.
    tokenizer: Bytes,
    /// Special tokens that the other form names.
    names: Option<Map<String, Value>>,
    tokenizer_config: Option<Bytes>,
    special_tokens_map: Option<Bytes>,
    added_tokens: Option<Bytes>,
    chat_template_jinja: Option<Cow<'static, str>>,
    chat_template_json: Option<Bytes>,
    /// `sentence-transformers`' files: `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`.
    modules: [Option<Bytes>; 3],
    /// A GGUF file's metadata beside its vocabulary.
    gguf: Option<GgufText>,
}

impl Files {
    /// Those of the bundled model.
    pub(super) fn demo(instead: &Instead) -> Result<Self, ModelError> {
        let own = |name: &str| match name {
            "generation_config.json" => Some(demo::GENERATION_CONFIG),
            "tokenizer.json" => Some(demo::TOKENIZER),
            "tokenizer_config.json" => Some(demo::TOKENIZER_CONFIG),
            "chat_template.jinja" => Some(demo::CHAT_TEMPLATE.as_bytes()),
            _ => None,
        };
        let pick = |name: &str| instead.pick(name, own(name));
        let written = written(&pick)?.ok_or_else(|| missing(demo::NAME.to_owned(), "tokenizer.json"))?;
        Ok(Self::gather(demo::CONFIG.into(), written, None, &pick))
    }

    /// Those that a probe found, and what a GGUF file says in the stead of those that it did not.
    pub(super) fn of(probe: &Probe, instead: &Instead) -> Result<Self, ModelError> {
        let pick = |name: &str| instead.pick(name, probe.file(name));
        let place = || probe.url().to_string();
        let Some(header) = probe.gguf() else {
            let config = probe.file("config.json").ok_or_else(|| missing(place(), "config.json"))?;
            let written = written(&pick)?.ok_or_else(|| missing(place(), "tokenizer.json"))?;
            return Ok(Self::gather(config.to_vec().into(), written, None, &pick));
        };
        let config = gguf::config_json(header).map_err(ModelError::Gguf)?;
        let text = gguf::text(header).map_err(ModelError::Gguf)?;
        // A tokenizer beside the file goes before its own.
        let written = match written(&pick)? {
            Some(beside) => beside,
            None => (gguf::tokenizer(header).map_err(ModelError::Gguf)?.into(), None),
        };
        Ok(Self::gather(config.into(), written, Some(text), &pick))
    }

    fn gather<'a>(
        config: Bytes,
        (tokenizer, names): Vocabulary,
        gguf: Option<GgufText>,
        pick: &impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Self {
        let may = |name: &str| pick(name).map(|bytes| Bytes::Owned(bytes.to_vec()));
        let template = pick("chat_template.jinja");
        Self {
            config,
            generation_config: may("generation_config.json"),
            tokenizer,
            names,
            tokenizer_config: may("tokenizer_config.json"),
            special_tokens_map: may("special_tokens_map.json"),
            added_tokens: may("added_tokens.json"),
            chat_template_jinja: template.map(|bytes| String::from_utf8_lossy(bytes).into_owned().into()),
            chat_template_json: may("chat_template.json"),
            modules: ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"].map(may),
            gguf,
        }
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
            names: self.names.as_ref(),
        }
    }

    /// Those that say how embeddings are made.
    pub(super) fn embedding(&self) -> EmbeddingFiles<'_> {
        let [modules_json, pooling_json, sentence_json] = self.modules.each_ref().map(Option::as_deref);
        EmbeddingFiles { modules_json, pooling_json, sentence_json, config_json: &self.config }
    }

    /// A digest of all that makes tokens of a text, and text of tokens: tokenizer, special tokens and chat template.
    pub(super) fn text_digest(&self) -> Digest {
        let gguf = self.gguf.as_ref().map(|gguf| json!([gguf.names, gguf.chat_template]).to_string());
        let names = self.names.as_ref().map(|names| json!(names).to_string());
        let parts = [
            Some(&*self.tokenizer),
            self.tokenizer_config.as_deref(),
            self.special_tokens_map.as_deref(),
            self.added_tokens.as_deref(),
            self.chat_template_jinja.as_deref().map(str::as_bytes),
            self.chat_template_json.as_deref(),
            gguf.as_deref().map(str::as_bytes),
            names.as_deref().map(str::as_bytes),
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
            ("tokenizer.json", self.tokenizer == other.tokenizer && self.names == other.names),
            ("tokenizer_config.json", self.tokenizer_config == other.tokenizer_config),
            ("special_tokens_map.json", self.special_tokens_map == other.special_tokens_map),
            ("added_tokens.json", self.added_tokens == other.added_tokens),
            ("the GGUF file's special tokens", names(self) == names(other)),
        ];
        files.into_iter().find(|(_, same)| !same).map(|(file, _)| file)
    }
}

/// A `tokenizer.json`, and the special tokens that it does not name.
type Vocabulary = (Bytes, Option<Map<String, Value>>);

/// `tokenizer.json`, or the one that another form makes; none where there is neither.
fn written<'a>(pick: &impl Fn(&str) -> Option<&'a [u8]>) -> Result<Option<Vocabulary>, ModelError> {
    if let Some(own) = pick("tokenizer.json") {
        return Ok(Some((own.to_vec().into(), None)));
    }
    let forms = Forms {
        tekken_json: pick(TEKKEN_JSON),
        tokenizer_model: pick(TOKENIZER_MODEL),
        vocab_json: pick(VOCAB_JSON),
        merges_txt: pick(MERGES_TXT),
        tokenizer_config_json: pick("tokenizer_config.json"),
    };
    let written = tokenizer_json::write(&forms).map_err(ModelError::Form)?;
    Ok(written.map(|Written { tokenizer_json, names }| (tokenizer_json.into(), Some(names))))
}

/// The error that a file is not there.
fn missing(place: String, name: &'static str) -> ModelError {
    let advice = match name {
        "tokenizer.json" => {
            "a model directory as Hugging Face publishes it has one, or a tekken.json, a tokenizer.model, or a vocab.json with \
             a merges.txt; `worker.tokenizer` names one elsewhere"
        }
        _ => "a model directory as Hugging Face publishes it has one",
    };
    ModelError::NoFile { name, place, advice }
}
