//! The parts of a `tokenizer.json` that all forms share.

use serde_json::{Map, Value as Json, json};

use super::pieces::{self, Prefix};
use super::ways::{Words, bytes};

/// The tokens before and behind every text, by id and spelling.
pub(crate) type Around<'a> = [Option<(usize, &'a str)>; 2];

/// A vocabulary and what is made of it.
pub(crate) struct Vocabulary<'a> {
    /// Ids by spelling; added tokens are here, too: the library numbers those that are not after all others.
    pub(crate) vocab: Map<String, Json>,
    /// Pairs that are joined, in order.
    pub(crate) merges: Json,
    /// Tokens that are found in a text before anything else: see [`added_token`].
    pub(crate) added: Vec<Json>,
    /// The tokens around a text.
    pub(crate) around: Around<'a>,
}

/// A token that is found in a text before anything else.
pub(crate) fn added_token(id: usize, content: &str, is_special: bool) -> Json {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": is_special,
    })
}

/// Byte-level byte pairs.
pub(crate) fn byte_level(vocabulary: Vocabulary<'_>, words: Words) -> Json {
    let Words { pre_tokenizer, ignore_merges, composes } = words;
    let Vocabulary { vocab, merges, added, around } = vocabulary;
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": composes.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(around).unwrap_or_else(|| bytes(false, false)),
        "decoder": bytes(false, false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    })
}

/// SentencePiece's byte pairs; `unknown` stands for characters that neither a piece nor bytes have.
pub(crate) fn sentence_pieces(vocabulary: Vocabulary<'_>, unknown: Option<&str>, prefix: Prefix) -> Json {
    let Vocabulary { vocab, merges, added, around } = vocabulary;
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pieces::normalizer(prefix), "pre_tokenizer": pieces::pre_tokenizer(prefix),
        "post_processor": post_processor(around), "decoder": pieces::decoder(prefix),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// The tokens around every text; none where there are none.
pub(crate) fn post_processor([begins_with, ends_with]: Around<'_>) -> Option<Json> {
    if begins_with.is_none() && ends_with.is_none() {
        return None;
    }
    let special = |(_, token): (usize, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single: Vec<Json> = begins_with.map(special).into_iter().collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(ends_with.map(special));
    let mut tokens = Map::new();
    for (id, token) in begins_with.into_iter().chain(ends_with) {
        tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    Some(json!({
        "type": "TemplateProcessing", "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": tokens,
    }))
}
