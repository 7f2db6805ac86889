//! SentencePiece's vocabulary of pieces with scores, as a byte-pair model.
//!
//! SentencePiece joins the two neighbours whose piece has the highest score, the leftmost first; a byte-pair model joins
//! by the order of its list. So the list has every way to make a piece of two others, best piece first, as
//! `transformers` converts these models. Spaces are written as a character of their own, and characters that no piece has
//! as their bytes.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

/// The character that stands for a space.
const SPACE: &str = "\u{2581}";

/// The place of the space before a text's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Nowhere.
    None,
    /// Before the text.
    First,
    /// Before every part of the text that lies between added tokens, unless one is there already.
    Always,
    /// The same, even if one is there.
    AlwaysOneMore,
}

/// The longest piece. Published ones have some fifty bytes.
const PIECE_BYTES_MAX: usize = 512;
/// The most ways to make pieces. Gemma's have half a million.
const WAYS_MAX: usize = 4 << 20;

/// Every way to make a piece of two others, best piece first; `scores` are the pieces', or their place counts where
/// there are none.
///
/// # Errors
/// The expectation that the pieces do not meet: their lengths, and the ways to make them, are bounded.
pub(crate) fn merges<'a>(tokens: &[&'a str], scores: Option<&[f64]>) -> Result<Vec<[&'a str; 2]>, &'static str> {
    if tokens.iter().any(|token| token.len() > PIECE_BYTES_MAX) {
        return Err("pieces of at most 512 bytes");
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut ways = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let first = ways.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&one), Some(&other)) = (ids.get(left), ids.get(right)) {
                ways.push((place, [left, right], [one, other]));
            }
        }
        if ways.len() > WAYS_MAX {
            return Err("pieces that four million ways make of others at most");
        }
        ways[first..].sort_by_key(|(_, _, ids)| *ids);
    }
    let lengths = |[left, right]: &[&str; 2]| (left.chars().count(), right.chars().count());
    // A sort keeps the order of equals. The reference sorts by score and then by the parts' lengths, all of it downwards;
    // without scores by place and lengths, all upwards.
    ways.sort_by(|(one, parts, _), (other, others, _)| match scores {
        Some(scores) => scores[*other].total_cmp(&scores[*one]).then_with(|| lengths(others).cmp(&lengths(parts))),
        None => one.cmp(other).then_with(|| lengths(parts).cmp(&lengths(others))),
    });
    Ok(ways.into_iter().map(|(_, parts, _)| parts).collect())
}

/// Spaces become their character, where cutting does not see to it.
pub(super) fn normalizer(prefix: Prefix) -> Json {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    match prefix {
        Prefix::None => replace,
        Prefix::First | Prefix::Always => Json::Null,
        Prefix::AlwaysOneMore => {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
        }
    }
}

/// A space comes first, and spaces become their character; nothing is cut.
pub(super) fn pre_tokenizer(prefix: Prefix) -> Json {
    let scheme = match prefix {
        Prefix::None | Prefix::AlwaysOneMore => return Json::Null,
        Prefix::First => "first",
        Prefix::Always => "always",
    };
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false})
}

/// The way back.
pub(super) fn decoder(prefix: Prefix) -> Json {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix != Prefix::None {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_piece_is_made_first_and_of_every_two() {
        let tokens = ["a", "b", "ab", "ba", "aba", "\u{2581}"];
        let found = merges(&tokens, Some(&[0.0, 0.0, -2.0, -1.0, -3.0, 0.0])).expect("few");
        assert_eq!(found, [["b", "a"], ["a", "b"], ["ab", "a"], ["a", "ba"]]);
        let by_place = merges(&tokens, None).expect("few");
        assert_eq!(by_place, [["a", "b"], ["b", "a"], ["a", "ba"], ["ab", "a"]]);
    }

    #[test]
    fn work_and_memory_are_bounded_before_they_are_spent() {
        let long = "a".repeat(PIECE_BYTES_MAX + 1);
        assert!(merges(&[&long], None).is_err());
        // Every run of one of a thousand letters is made in as many ways as it has places.
        let letters: Vec<char> = ('\u{4e00}'..).take(1000).collect();
        let runs: Vec<String> =
            letters.iter().flat_map(|letter| (1..=100).map(|count| letter.to_string().repeat(count))).collect();
        let tokens: Vec<&str> = runs.iter().map(String::as_str).collect();
        assert!(merges(&tokens, None).is_err());
    }
}
