//! Reading `tokenizer.json` fast.
//!
//! The library's own reader goes through two generic JSON trees before it reaches the vocabulary. For byte-pair
//! models, which is nearly all, we read vocabulary and merges straight into place, on two threads, and hand them to the
//! library's builder; every other kind, and every file with a fault, goes to the library's reader, whose word is law.

use super::TextError;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

/// `tokenizer.json` without truncation and padding, which we never apply.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    #[serde(borrow)]
    model: &'a RawValue,
}

/// A model of the type `BPE`; vocabulary and merges not yet read.
#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(borrow)]
    merges: &'a RawValue,
}

/// Builds the tokenizer that `tokenizer.json` describes.
pub(super) fn load(json: &[u8]) -> Result<Tokenizer, TextError> {
    // The library indexes by lengths it finds in the file: a broken file must be an error of ours, not a panic.
    let built = catch_unwind(AssertUnwindSafe(|| match load_byte_pairs(json) {
        Some(tokenizer) => Ok(tokenizer),
        None => Tokenizer::from_bytes(json).map_err(|error| error.to_string()),
    }));
    match built {
        Ok(result) => result.map_err(TextError::Tokenizer),
        Err(_) => Err(TextError::Tokenizer("its vocabulary and merges contradict each other".to_owned())),
    }
}

/// The fast way; `None` when this file is not for us.
fn load_byte_pairs(json: &[u8]) -> Option<Tokenizer> {
    let document: Document<'_> = serde_json::from_slice(json).ok()?;
    let model: Model<'_> = serde_json::from_str(document.model.get()).ok()?;
    if document.version != "1.0" || model.r#type != "BPE" {
        return None;
    }
    let mut tokenizer = Tokenizer::new(build_model(model)?);
    tokenizer.with_normalizer(document.normalizer).ok()?;
    tokenizer.with_pre_tokenizer(document.pre_tokenizer);
    tokenizer.with_post_processor(document.post_processor);
    tokenizer.with_decoder(document.decoder);
    tokenizer.add_tokens(document.added_tokens).ok()?;
    Some(tokenizer)
}

fn build_model(model: Model<'_>) -> Option<BPE> {
    let (vocab, merges) = std::thread::scope(|scope| {
        let merges = scope.spawn(|| serde_json::from_str::<Vec<Merge>>(model.merges.get()).ok());
        let vocab = serde_json::from_str::<Vocab>(model.vocab.get()).ok();
        (vocab, merges.join().ok().flatten())
    });
    let merges: Merges = merges?.into_iter().filter_map(|merge| merge.0).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocab?, merges);
    if let Some(dropout) = model.dropout {
        builder = builder.dropout(dropout);
    }
    if let Some(token) = model.unk_token {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = model.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = model.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder
        .fuse_unk(model.fuse_unk.unwrap_or_default())
        .byte_fallback(model.byte_fallback.unwrap_or_default())
        .ignore_merges(model.ignore_merges.unwrap_or_default())
        .build()
        .ok()
}

/// One merge: `["a", "b"]`, or `"a b"` in older files, where a version line is no merge.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("two tokens")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
        if line.starts_with("#version") {
            return Ok(Merge(None));
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Merge(Some((left.to_owned(), right.to_owned())))),
            _ => Err(E::custom("a merge is two tokens and one space")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Merge, A::Error> {
        let missing = || A::Error::custom("a merge is two tokens");
        let left: String = tokens.next_element()?.ok_or_else(missing)?;
        let right: String = tokens.next_element()?.ok_or_else(missing)?;
        match tokens.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(Merge(Some((left, right)))),
            Some(_) => Err(missing()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/tokenizers/bpe_small/tokenizer.json");

    fn with_model(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut document: serde_json::Value = serde_json::from_slice(FIXTURE).expect("the fixture is JSON");
        edit(&mut document["model"]);
        serde_json::to_vec(&document).expect("it still is")
    }

    #[test]
    fn the_fast_way_builds_the_very_same_tokenizer() {
        let ours = load_byte_pairs(FIXTURE).expect("the fixture is a BPE model");
        let theirs = Tokenizer::from_bytes(FIXTURE).expect("and the library agrees");
        assert!(ours.get_model() == theirs.get_model());
        assert_eq!(ours.to_string(false).expect("serialises"), theirs.to_string(false).expect("serialises"));
    }

    #[test]
    fn older_merges_are_read_alike() {
        let older = with_model(|model| {
            let merges = model["merges"].as_array().expect("a list").iter();
            let lines =
                merges.map(|pair| format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text")));
            let lines: Vec<_> = std::iter::once("#version: 0.2".to_owned()).chain(lines).collect();
            model["merges"] = serde_json::json!(lines);
        });
        let ours = load_byte_pairs(&older).expect("older files are for us too");
        assert!(ours.get_model() == Tokenizer::from_bytes(FIXTURE).expect("the fixture").get_model());
    }

    #[test]
    fn a_merge_of_words_the_vocabulary_lacks_is_an_error_and_no_panic() {
        for merges in [serde_json::json!([["nobody", "knows"]]), serde_json::json!([["Ġ", "the", "Ġ"]])] {
            let broken = with_model(|model| model["merges"] = merges);
            assert!(matches!(load(&broken), Err(TextError::Tokenizer(_))));
        }
        // "Ġthe" is among the longest words: twice of it is longer than any, which the library does not expect.
        let broken = with_model(|model| {
            let vocab = model["vocab"].as_object().expect("a map");
            let longest = vocab.keys().max_by_key(|word| word.len()).expect("not empty").clone();
            model["merges"] = serde_json::json!([[longest, longest]]);
        });
        assert!(matches!(load(&broken), Err(TextError::Tokenizer(_))));
    }
}
