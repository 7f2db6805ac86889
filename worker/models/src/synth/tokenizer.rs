//! A byte-level BPE tokenizer with as many tokens as a published one.
//!
//! Its merges are not learnt from text, they are made: first pairs of the letters in the order of
//! their frequency in English, then longer pieces with and without a leading space, the likely
//! ones first, until the vocabulary is full. Any text has an encoding, because every byte is a
//! token; English takes a token for about every three letters. Loading it costs what loading a
//! published tokenizer of this size costs.

use serde_json::{Map, Value, json};

use super::geometry::Geometry;

/// The cuts between words before merging, as published for GPT-4 and Qwen.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// ChatML: each message between its marks, then the mark of the answer.
const CHAT_TEMPLATE: &str = concat!(
    "{% for message in messages %}",
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
    "{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
);

const CHATML: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// `tokenizer_config.json`.
pub(super) fn config_json(geometry: &Geometry) -> Value {
    let decoder: Map<String, Value> = added_tokens(geometry).map(|(id, token)| (id.to_string(), token)).collect();
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": null,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|im_end|>",
        "model_max_length": geometry.positions,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    })
}

/// `tokenizer.json`.
pub(super) fn tokenizer_json(geometry: &Geometry) -> Value {
    let merges = merges(geometry.bpe_tokens - 256);
    let bytes = byte_characters().into_iter().map(String::from);
    let texts = bytes.chain(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let vocab: Map<String, Value> = texts.zip(0..).map(|(text, id)| (text, Value::from(id))).collect();
    let added: Vec<Value> = added_tokens(geometry)
        .map(|(id, mut token)| {
            token["id"] = id.into();
            token
        })
        .collect();
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
    let split = json!({"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(false)]},
        "post_processor": byte_level(false),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// The tokens that are matched whole, with their ids.
fn added_tokens(geometry: &Geometry) -> impl Iterator<Item = (usize, Value)> {
    let first = geometry.bpe_tokens;
    (0..geometry.added_tokens).map(move |number| {
        let content = match CHATML.get(number) {
            Some(content) => (*content).to_owned(),
            None => format!("<|reserved_{}|>", number - CHATML.len()),
        };
        let token = json!({
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        });
        (first + number, token)
    })
}

/// The character that stands for each byte, in the order of GPT-2: bytes that print stand for
/// themselves and come first, the others follow as the characters from 256 on.
fn byte_characters() -> Vec<char> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printing = (0..=u8::MAX).filter(prints);
    let others = (0..=u8::MAX).filter(|byte| !prints(byte)).count() as u32;
    printing.map(char::from).chain((256..256 + others).filter_map(char::from_u32)).collect()
}

/// A piece of a word, and how unlikely it is: the sum of its letters' ranks.
struct Piece {
    text: String,
    rank: usize,
}

/// The first `count` merges, each making one new token.
fn merges(count: usize) -> Vec<(String, String)> {
    let piece = |text: char, rank| Piece { text: text.to_string(), rank };
    let letters: Vec<_> = "etaoinshrdlcumwfgypbvkjxqz".chars().zip(0..).map(|(text, rank)| piece(text, rank)).collect();
    // The character that stands for a space.
    let space = [piece('Ġ', 0)];
    let mut merges = Merges { left: count, pairs: Vec::with_capacity(count) };
    let starts = merges.combine(&space, &letters, count);
    let pairs = merges.combine(&letters, &letters, count);
    let quarter = merges.left / 4;
    let beginnings = merges.combine(&starts, &pairs, quarter);
    merges.combine(&pairs, &letters, quarter);
    let short_words = merges.combine(&starts, &letters, quarter);
    let third = merges.left / 3;
    let middles = merges.combine(&pairs, &pairs, third);
    merges.combine(&short_words, &pairs, third);
    let rest = merges.left;
    let words = merges.combine(&beginnings, &pairs, rest);
    // Small families may have run out of pieces; there are always longer ones.
    let rest = merges.left;
    merges.combine(&words, &middles, rest);
    merges.pairs
}

struct Merges {
    left: usize,
    pairs: Vec<(String, String)>,
}

impl Merges {
    /// Merges pieces of two kinds, the likeliest first, until `limit` or until all are merged.
    fn combine(&mut self, left: &[Piece], right: &[Piece], limit: usize) -> Vec<Piece> {
        let limit = limit.min(self.left);
        let mut made = Vec::new();
        let (lefts, rights) = (by_rank(left), by_rank(right));
        for rank in 0..lefts.len() + rights.len() {
            let splits = (0..=rank).filter_map(|part| Some((lefts.get(part)?, rights.get(rank - part)?)));
            for (head, tail) in
                splits.flat_map(|(heads, tails)| heads.iter().flat_map(move |h| tails.iter().map(move |t| (h, t))))
            {
                if made.len() == limit {
                    break;
                }
                made.push(Piece { text: format!("{}{}", head.text, tail.text), rank });
                self.pairs.push((head.text.clone(), tail.text.clone()));
            }
        }
        self.left -= made.len();
        made
    }
}

/// The pieces of each rank, in their order.
fn by_rank(pieces: &[Piece]) -> Vec<Vec<&Piece>> {
    let mut ranks = Vec::new();
    ranks.resize_with(pieces.iter().map(|piece| piece.rank + 1).max().unwrap_or(0), Vec::new);
    for piece in pieces {
        ranks[piece.rank].push(piece);
    }
    ranks
}
