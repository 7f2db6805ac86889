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

/// Every way to make a piece of two others, best piece first.
pub(super) fn merges<'a>(tokens: &[&'a str], scores: &[f64]) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut ways = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let first = ways.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&one), Some(&other)) = (ids.get(left), ids.get(right)) {
                ways.push((*score, [left, right], [one, other]));
            }
        }
        ways[first..].sort_by_key(|(_, _, ids)| *ids);
    }
    // A sort keeps the order of equals: as the reference sorts, downwards by score, then by the parts' lengths.
    let lengths = |[left, right]: &[&str; 2]| (left.chars().count(), right.chars().count());
    ways.sort_by(|(one, parts, _), (other, others, _)| {
        other.total_cmp(one).then_with(|| lengths(others).cmp(&lengths(parts)))
    });
    ways.into_iter().map(|(_, parts, _)| parts).collect()
}

/// Spaces become their character; where pieces have a space before the first word, one is put there.
pub(super) fn normalizer(is_prefixed: bool) -> Json {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if is_prefixed {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
    } else {
        replace
    }
}

/// The way back.
pub(super) fn decoder(is_prefixed: bool) -> Json {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if is_prefixed {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}
