//! `vocab.json` and `merges.txt`: byte-level byte pairs in two files. The way of cutting is the class's, by name.

use serde_json::{Map, Value as Json, json};

use super::document::{self, Vocabulary};
use super::ways::Way;
use super::{Class, FormError, MERGES_TXT, TOKENIZER_CONFIG, VOCAB_JSON};

/// Classes of tokenizers in two files, and the way of each.
const CLASSES: [(&str, &str); 3] =
    [("GPT2Tokenizer", "gpt-2"), ("Qwen2Tokenizer", "qwen2"), ("CodeGenTokenizer", "gpt-2")];

/// The document of the two files.
pub(super) fn read(vocab: &[u8], merges: &[u8], class: &Class) -> Result<Json, FormError> {
    let vocab: Map<String, Json> =
        serde_json::from_slice(vocab).map_err(|source| FormError::Json { file: VOCAB_JSON, source })?;
    let unsupported = |feature| FormError::Unsupported { file: TOKENIZER_CONFIG, feature };
    let Some(name) = class.name() else {
        return Err(unsupported(
            "a vocabulary in two files without a `tokenizer_class`, which says how words are cut,".into(),
        ));
    };
    let way = CLASSES.iter().find(|(known, _)| *known == name).and_then(|(_, way)| Way::named(way));
    let way =
        way.ok_or_else(|| unsupported(format!("the `tokenizer_class` {name:.80} of a vocabulary in two files")))?;
    let words = way.words(class.add_prefix_space.unwrap_or_default());
    let merges = json!(pairs(merges)?);
    let vocabulary = Vocabulary { vocab, merges, added: Vec::new(), around: [None, None] };
    Ok(document::byte_level(vocabulary, words))
}

/// The pairs, one a line.
fn pairs(merges: &[u8]) -> Result<Vec<[&str; 2]>, FormError> {
    let wrong = |problem: String| FormError::Wrong { file: MERGES_TXT, problem };
    let text = str::from_utf8(merges).map_err(|error| wrong(error.to_string()))?;
    let mut pairs = Vec::new();
    // A token may hold any character but a space: lines end with line feeds alone.
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right)) if !(left.is_empty() || right.is_empty() || right.contains(' ')) => {
                pairs.push([left, right]);
            }
            _ => return Err(wrong(format!("line {} is not two tokens with a space between", number + 1))),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_lines_of_two_tokens() {
        assert_eq!(pairs(b"#version: 0.2\na b\r\nab c\n\n").expect("pairs"), [["a", "b"], ["ab", "c"]]);
        for bad in [&b"a b\na  b"[..], b"a", b"a b c", b" b", b"\xff b"] {
            assert!(pairs(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_class_that_cuts_in_another_way_is_refused_by_name() {
        for (class, found) in [(Some("CLIPTokenizer"), "CLIPTokenizer"), (None, "without a `tokenizer_class`")] {
            let class = Class { tokenizer_class: class.map(str::to_owned), ..Class::default() };
            let error = read(b"{}", b"", &class).expect_err("refused").to_string();
            assert!(error.contains(found) && error.contains("save_pretrained"), "{error}");
        }
    }
}
