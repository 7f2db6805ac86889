//! Text to token ids and back, as the model's own files say it is done.
//!
//! Everything is read from bytes; this room does not know where the files lie. The merging itself is the
//! `tokenizers` crate's; ours are a faster way to read its file, the bytes behind each token, and a detokenizer that
//! never shows half a character. It does not know chat templates, sampling or HTTP.

mod bytes;
mod detokenizer;
mod load;
pub(crate) mod settings;

pub use detokenizer::Detokenizer;
pub use settings::GenerationDefaults;

use bytes::Spelling;
use settings::Settings;
use std::collections::HashSet;

/// The small files of a model directory that say how its text is read and written.
#[derive(Debug, Clone, Copy)]
pub struct TextFiles<'a> {
    /// `tokenizer.json`, in the format of the `tokenizers` crate.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`: names of special tokens, often the chat template.
    pub tokenizer_config_json: Option<&'a [u8]>,
    /// `generation_config.json`: the maker's sampling defaults and end tokens.
    pub generation_config_json: Option<&'a [u8]>,
    /// `config.json`, read here for its end tokens only.
    pub config_json: &'a [u8],
    /// `chat_template.jinja`, which goes before the template in `tokenizer_config.json`.
    pub chat_template_jinja: Option<&'a str>,
}

/// Why a model's text files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file is not JSON.
    #[error("{file} is not valid JSON")]
    Json {
        /// The file's name in the model directory.
        file: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A field of a file has an unexpected shape.
    #[error("{file}: `{field}` must be {expected}")]
    Field {
        /// The file's name in the model directory.
        file: &'static str,
        /// The field.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
    /// `tokenizer.json` is JSON, but no tokenizer.
    #[error("tokenizer.json describes no tokenizer we can use: {0}")]
    Tokenizer(String),
    /// A chat template is not a template.
    #[error("the chat template in {file} does not compile: {problem}")]
    Template {
        /// The file's name in the model directory.
        file: &'static str,
        /// The line and the reason.
        problem: String,
    },
    /// A text could not be turned into tokens.
    #[error("this text has no tokens in the model's vocabulary: {0}")]
    Encode(String),
}

/// A model's tokenizer: immutable, shared between threads by `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    spelling: Spelling,
    settings: Settings,
}

impl Tokenizer {
    /// Reads the tokenizer and what the other files say about its special tokens.
    ///
    /// Truncation and padding that `tokenizer.json` may ask for are switched off, as transformers does: a prompt is
    /// never shortened silently.
    ///
    /// # Errors
    /// When a file is not JSON, not a tokenizer, or a field we read has the wrong type.
    pub fn parse(files: &TextFiles<'_>) -> Result<Self, TextError> {
        let mut settings = Settings::parse(files)?;
        let mut inner = load::load(files.tokenizer_json)?;
        inner.with_truncation(None).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        inner.with_padding(None);
        let special =
            inner.get_added_tokens_decoder().iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let spelling = Spelling::of(&inner);
        if let Some(id) = settings.eos_token.as_deref().and_then(|token| inner.token_to_id(token)) {
            settings.add_eos(id);
        }
        Ok(Self { inner, special, spelling, settings })
    }

    /// The ids of a text. Special tokens written out in it, such as `<|im_start|>`, become their ids.
    ///
    /// `add_special_tokens` adds what the tokenizer's post-processor puts around every text (often a first token); a
    /// rendered chat template already holds it.
    ///
    /// # Errors
    /// When the vocabulary cannot spell the text and has no token for the unknown.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a whole sequence of ids; bytes that are no UTF-8 become U+FFFD and unknown ids are left out.
    ///
    /// This is what [`Detokenizer`] yields piece by piece. It equals transformers' `decode` except where a run of
    /// byte-fallback tokens is not valid UTF-8: there we keep the characters that are whole.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        match self.spelling {
            Spelling::Other => self.inner.decode(ids, skip_special).unwrap_or_default(),
            Spelling::ByteLevel | Spelling::SentencePiece { .. } => {
                let mut leading = self.spelling.leading_spaces();
                let mut bytes = Vec::with_capacity(ids.len() * 4);
                for id in ids.iter().filter(|id| !(skip_special && self.is_special(**id))) {
                    bytes::append_stripped(&mut bytes, &self.token_bytes(*id), &mut leading);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// The bytes one token stands for, which need not be whole characters; empty for an unknown id.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.inner.id_to_token(id).map_or_else(Vec::new, |token| self.spelling.bytes_of(&token))
    }

    /// Tokens in the vocabulary, added ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether this token steers the model and is not part of what it says.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Tokens that end a sequence: `eos_token_id` of `generation_config.json` and of `config.json`, and
    /// `tokenizer_config.json`'s `eos_token`, in this order, each once.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.settings.eos_ids
    }

    /// The text of the token that begins a sequence, when `tokenizer_config.json` names one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.settings.bos_token.as_deref()
    }

    /// The text of the token that ends a sequence, when `tokenizer_config.json` names one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.settings.eos_token.as_deref()
    }

    /// How the model's makers want it sampled when the client does not say.
    #[must_use]
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.settings.defaults
    }

    /// Names and texts of the special tokens `tokenizer_config.json` names, as chat templates see them.
    pub(crate) fn named_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let settings = &self.settings;
        [
            ("bos_token", &settings.bos_token),
            ("eos_token", &settings.eos_token),
            ("pad_token", &settings.pad_token),
            ("unk_token", &settings.unk_token),
        ]
        .into_iter()
        .filter_map(|(name, text)| text.as_deref().map(|text| (name, text)))
    }
}
