//! The tokens that a tokenizer puts before and behind every text.
//!
//! A model's `tokenizer.json` says which, in its post-processor. Other forms of a vocabulary do not: then `add_bos_token` and
//! `add_eos_token` of `tokenizer_config.json` do. transformers (version 5) ignores these two beside a `tokenizer.json`, and so do we.

use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::TextError;
use super::settings::Settings;
use crate::tokenizer_json::document::post_processor;

/// Puts the tokens that the switches ask for around every text.
pub(super) fn put(tokenizer: &mut Tokenizer, settings: &Settings) -> Result<(), TextError> {
    let Some([begins, ends]) = settings.around else { return Ok(()) };
    let token = |is_on: bool, name| {
        let token = settings.text(name).filter(|_| is_on)?;
        Some((usize::try_from(tokenizer.token_to_id(token)?).ok()?, token))
    };
    let around = post_processor([token(begins, "bos_token"), token(ends, "eos_token")]);
    let around: Option<PostProcessorWrapper> =
        around.map(serde_json::from_value).transpose().map_err(|error| TextError::Tokenizer(error.to_string()))?;
    tokenizer.with_post_processor(around);
    Ok(())
}
