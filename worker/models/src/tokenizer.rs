//! Text to token ids and back, as the model's own files say it is done.
//!
//! Everything is read from bytes; this room does not know where the files lie. The merging itself is the
//! `tokenizers` crate's; ours are a faster way to read its file, the bytes behind each token, and a detokenizer that
//! never shows half a character. It does not know chat templates, sampling or HTTP.

mod added;
mod around;
mod bytes;
mod detokenizer;
mod error;
mod files;
mod load;
pub(crate) mod settings;

pub(crate) use bytes::byte_of;
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use files::TextFiles;
pub use settings::GenerationDefaults;

use bytes::Spelling;
use settings::Settings;
use std::collections::HashSet;
use std::sync::OnceLock;

/// A model's tokenizer: immutable, shared between threads by `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    spelling: Spelling,
    settings: Settings,
    /// The bytes of the longest token as it is spelled; found where it is asked for, since that takes milliseconds.
    longest: OnceLock<usize>,
}

/// Normalization makes a text shorter than its tokens' bytes by this much at most: NFC makes a third of some texts.
const SHRINKS: usize = 4;

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
        added::add(&mut inner, files, &settings)?;
        around::put(&mut inner, &settings)?;
        let special =
            inner.get_added_tokens_decoder().iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let spelling = Spelling::of(&inner);
        if let Some(id) = settings.text("eos_token").and_then(|token| inner.token_to_id(token)) {
            settings.add_eos(id);
        }
        Ok(Self { inner, special, spelling, settings, longest: OnceLock::new() })
    }

    /// True if a text is longer than so many of the longest tokens: cutting it into tokens is of no use, and takes
    /// seconds where it has megabytes.
    #[must_use]
    pub fn is_beyond(&self, text: &str, tokens: usize) -> bool {
        let longest = || self.inner.get_vocab(true).keys().map(String::len).max().unwrap_or(usize::MAX);
        // Of most vocabularies the longest has more.
        let is_short = text.len() <= tokens.saturating_mul(SHRINKS);
        !is_short
            && self.has_bytes()
            && text.len() / SHRINKS > tokens.saturating_mul(*self.longest.get_or_init(longest))
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

    /// True if the bytes of its tokens, put together, are the text.
    pub(crate) fn has_bytes(&self) -> bool {
        self.spelling != Spelling::Other
    }

    /// Tokens in the vocabulary, added ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token that is spelled so in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// True if the token steers the model and is no part of its text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Tokens that end a sequence: those of `generation_config.json`, of `config.json` and of the GGUF file, and the
    /// one that is named `eos_token`, in this order, each once.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.settings.eos_ids
    }

    /// The text of the token that begins a sequence, when some file names one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.settings.text("bos_token")
    }

    /// The text of the token that ends a sequence, when some file names one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.settings.text("eos_token")
    }

    /// The makers' sampling defaults, for requests that are silent.
    #[must_use]
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.settings.defaults
    }

    /// Special tokens by name, as chat templates see them: texts, and lists of texts.
    pub(crate) fn named_tokens(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.settings.names.iter().map(|(name, token)| (name.as_str(), token))
    }
}
