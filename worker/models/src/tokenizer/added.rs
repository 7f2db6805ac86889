//! Special tokens that only the files beside `tokenizer.json` name.
//!
//! transformers adds them to the tokenizer when it loads one; so do we, or a template's `<|im_start|>` would be cut into
//! pieces. A token that has an id keeps it; a file that gives it another is refused.

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::settings::{Settings, object};
use super::{TextError, TextFiles};

/// The file and what it says of one token.
struct Listed {
    file: &'static str,
    token: AddedToken,
}

/// Adds what is missing.
pub(super) fn add(tokenizer: &mut Tokenizer, files: &TextFiles<'_>, settings: &Settings) -> Result<(), TextError> {
    for (id, Listed { file, token }) in listed(files)? {
        if let Some(found) = tokenizer.token_to_id(&token.content) {
            same_id(file, &token, id, found)?;
        }
        let known = tokenizer.get_added_tokens_decoder().get(&id).cloned();
        if known.is_none_or(|known| token.special && !known.special) {
            let name = token.content.clone();
            add_one(tokenizer, token)?;
            let found = tokenizer.token_to_id(&name).unwrap_or(u32::MAX);
            same_id(file, &AddedToken::from(name, true), id, found)?;
        }
    }
    // Named, and somewhere in the vocabulary as a word like others.
    for text in settings.special_texts() {
        let Some(id) = tokenizer.token_to_id(text) else { continue };
        if tokenizer.get_added_tokens_decoder().get(&id).is_none_or(|token| !token.special) {
            add_one(tokenizer, AddedToken::from(text, true).normalized(false))?;
        }
    }
    Ok(())
}

fn add_one(tokenizer: &mut Tokenizer, token: AddedToken) -> Result<(), TextError> {
    let added = if token.special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
    added.map(drop).map_err(|error| TextError::Tokenizer(error.to_string()))
}

fn same_id(file: &'static str, token: &AddedToken, listed: u32, found: u32) -> Result<(), TextError> {
    if listed == found {
        return Ok(());
    }
    let token = token.content.chars().take(80).collect();
    Err(TextError::Id { file, token, listed, found })
}

/// The tokens that files give an id, by it; `tokenizer_config.json` goes before `added_tokens.json`.
fn listed(files: &TextFiles<'_>) -> Result<BTreeMap<u32, Listed>, TextError> {
    let mut all = BTreeMap::new();
    let file = "added_tokens.json";
    for (text, id) in object(file, files.added_tokens_json)? {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let wrong = TextError::Field { file, field: "a token", expected: "the token's id" };
        all.insert(id.ok_or(wrong)?, Listed { file, token: AddedToken::from(text, false).normalized(false) });
    }
    let file = "tokenizer_config.json";
    let field = "added_tokens_decoder";
    let wrong = || TextError::Field { file, field, expected: "a map of ids to tokens with their `content`" };
    let config = object(file, files.tokenizer_config_json)?;
    let decoder = match config.get(field) {
        None | Some(Value::Null) => return Ok(all),
        Some(decoder) => decoder.as_object().ok_or_else(wrong)?,
    };
    for (id, token) in decoder {
        let (id, content) = (id.parse().ok(), token["content"].as_str());
        let (Some(id), Some(content)) = (id, content) else { return Err(wrong()) };
        let flag = |name: &str| token[name].as_bool().unwrap_or_default();
        let token = AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        all.insert(id, Listed { file, token });
    }
    Ok(all)
}
