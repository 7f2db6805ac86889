//! `tokenizer.model`: SentencePiece's own file, of its kind that joins pairs.
//!
//! The field numbers are those of `sentencepiece_model.proto`. The kind that weighs whole pieces (unigram), and normalization
//! by a table of characters, are refused: no family that we serve publishes them without a `tokenizer.json`.

use serde_json::{Map, Value as Json, json};

use super::document::{self, Vocabulary, added_token};
use super::message::{Fields, Malformed, Value};
use super::pieces::{self, Prefix};
use super::{Class, FormError, TOKENIZER_MODEL};

/// The most pieces. Gemma's have a quarter of a million.
const PIECES_MAX: usize = 1 << 20;

/// The kind of a piece: `ModelProto.SentencePiece.Type`.
mod kind {
    pub(super) const NORMAL: u64 = 1;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER_DEFINED: u64 = 4;
}

/// The kind of model that joins pairs: `TrainerSpec.ModelType`.
const BYTE_PAIRS: u64 = 2;

/// The contents of the file.
#[derive(Debug)]
struct Model<'a> {
    pieces: Vec<(&'a str, u64)>,
    model_type: u64,
    byte_fallback: bool,
    /// Ids of the unknown, the first and the last token; a negative one is none.
    named: [(&'static str, i64); 3],
    has_table: bool,
    dummy_prefix: bool,
    remove_extra_spaces: bool,
    escape_spaces: bool,
    spaces_behind: bool,
}

impl Default for Model<'_> {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            named: [("unk_token", 0), ("bos_token", 1), ("eos_token", 2)],
            has_table: false,
            dummy_prefix: true,
            remove_extra_spaces: true,
            escape_spaces: true,
            spaces_behind: false,
        }
    }
}

/// The document, and the special tokens that the file names.
pub(super) fn read(bytes: &[u8], class: &Class) -> Result<(Json, Map<String, Json>), FormError> {
    let model = Model::read(bytes).map_err(wrong)?;
    model.refuse()?;
    let tokens: Vec<&str> = model.pieces.iter().map(|(piece, _)| *piece).collect();
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (piece, kind)) in model.pieces.iter().enumerate() {
        if vocab.insert((*piece).to_owned(), json!(id)).is_some() {
            return Err(wrong("a piece is there twice"));
        }
        if [kind::CONTROL, kind::USER_DEFINED].contains(kind) {
            added.push(added_token(id, piece, *kind == kind::CONTROL));
        }
    }
    let merges = pieces::merges(&tokens, None).map_err(|expected| wrong(&format!("there must be {expected}")))?;
    let named = |at: usize| {
        let (_, id) = model.named[at];
        usize::try_from(id).ok().and_then(|id| Some((id, *tokens.get(id)?)))
    };
    let vocabulary = Vocabulary { vocab, merges: json!(merges), added, around: [None, None] };
    let document = document::sentence_pieces(vocabulary, named(0).map(|(_, token)| token), model.prefix(class));
    let names = model.named.iter().enumerate();
    let names = names.filter_map(|(at, (name, _))| Some(((*name).to_owned(), json!(named(at)?.1)))).collect();
    Ok((document, names))
}

impl<'a> Model<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut model = Self::default();
        for field in Fields::of(bytes) {
            match field.map_err(malformed)? {
                (1, piece) if model.pieces.len() < PIECES_MAX => model.pieces.push(read_piece(piece)?),
                (1, _) => return Err("there are more than a million pieces"),
                (2, trainer) => model.read_trainer(message(trainer)?)?,
                (3, normalizer) => model.read_normalizer(message(normalizer)?)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_trainer(&mut self, fields: Fields<'_>) -> Result<(), &'static str> {
        for field in fields {
            match field.map_err(malformed)? {
                (3, Value::Number(kind)) => self.model_type = kind,
                (24, Value::Number(is)) => self.spaces_behind = is != 0,
                (35, Value::Number(is)) => self.byte_fallback = is != 0,
                // A negative number is written as its two's complement.
                (at @ 40..=42, Value::Number(id)) => {
                    self.named[usize::try_from(at - 40).unwrap_or_default()].1 = id.cast_signed()
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, fields: Fields<'_>) -> Result<(), &'static str> {
        for field in fields {
            match field.map_err(malformed)? {
                (2, Value::Bytes(table)) => self.has_table = !table.is_empty(),
                (3, Value::Number(is)) => self.dummy_prefix = is != 0,
                (4, Value::Number(is)) => self.remove_extra_spaces = is != 0,
                (5, Value::Number(is)) => self.escape_spaces = is != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what a document of ours would do in another way.
    fn refuse(&self) -> Result<(), FormError> {
        let kind = format!("a model of SentencePiece's type {}", self.model_type);
        let features = [
            (self.model_type != BYTE_PAIRS, kind.as_str()),
            (!self.byte_fallback, "a SentencePiece model without bytes for unknown characters"),
            (self.has_table, "SentencePiece's normalization by a table of characters"),
            (self.remove_extra_spaces, "SentencePiece's removal of extra spaces"),
            (!self.escape_spaces, "a SentencePiece model that leaves spaces as they are"),
            (self.spaces_behind, "a SentencePiece model with spaces behind words"),
        ];
        match features.into_iter().find(|(is_there, _)| *is_there) {
            Some((_, feature)) => Err(FormError::Unsupported { file: TOKENIZER_MODEL, feature: feature.to_owned() }),
            None => Ok(()),
        }
    }

    fn prefix(&self, class: &Class) -> Prefix {
        match (class.add_prefix_space.unwrap_or(self.dummy_prefix), class.legacy.unwrap_or_default()) {
            (false, _) => Prefix::None,
            (true, false) => Prefix::First,
            (true, true) => Prefix::Always,
        }
    }
}

/// A piece and its kind.
fn read_piece(piece: Value<'_>) -> Result<(&str, u64), &'static str> {
    let (mut text, mut kind) = ("", kind::NORMAL);
    for field in message(piece)? {
        match field.map_err(malformed)? {
            (1, value) => {
                text = value.bytes().and_then(|bytes| str::from_utf8(bytes).ok()).ok_or("a piece is no text")?
            }
            (3, value) => kind = value.number().ok_or("a piece's kind is no number")?,
            _ => {}
        }
    }
    Ok((text, kind))
}

fn message(value: Value<'_>) -> Result<Fields<'_>, &'static str> {
    value.bytes().map(Fields::of).ok_or("it is no SentencePiece model")
}

fn malformed(_: Malformed) -> &'static str {
    "it is cut short, or no SentencePiece model"
}

fn wrong(problem: &str) -> FormError {
    FormError::Wrong { file: TOKENIZER_MODEL, problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{TextFiles, Tokenizer};

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).expect("short")], bytes].concat()
    }

    /// A model with `pieces`; the trainer's and the normalizer's fields after the usual ones.
    fn model(pieces: &[(&str, u8)], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
        let piece = |(text, kind): &(&str, u8)| field(1, &[&field(1, text.as_bytes())[..], &[0x18, *kind]].concat());
        let pieces: Vec<u8> = pieces.iter().flat_map(piece).collect();
        // BPE with bytes; no extra spaces are removed.
        let trainer = [&[0x18, 2, 0x98, 0x02, 1], trainer].concat();
        let normalizer = [&[0x20, 0], normalizer].concat();
        [pieces, field(2, &trainer), field(3, &normalizer)].concat()
    }

    const PIECES: [(&str, u8); 12] = [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        ("<0xC3>", 6),
        ("<0xA9>", 6),
        ("[INST]", 4),
        ("ab", 1),
        ("▁ab", 1),
        ("a", 1),
        ("b", 1),
        ("▁", 1),
        ("c", 1),
    ];

    fn ids(bytes: &[u8], class: &Class, text: &str) -> Vec<u32> {
        let (document, names) = read(bytes, class).expect("a model");
        assert_eq!(Json::from(names), json!({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}));
        let document = document.to_string();
        let tokenizer = Tokenizer::parse(&TextFiles::new(document.as_bytes())).expect("a tokenizer");
        tokenizer.encode(text, false).expect("has tokens")
    }

    #[test]
    fn pairs_join_and_the_space_in_front_is_the_class_s() {
        let bytes = model(&PIECES, &[], &[]);
        assert_eq!(ids(&bytes, &Class::default(), "ab[INST]abé"), [7, 5, 6, 3, 4]);
        let legacy = Class { legacy: Some(true), ..Class::default() };
        assert_eq!(ids(&bytes, &legacy, "ab[INST]abé"), [7, 5, 7, 3, 4]);
        let bare = Class { add_prefix_space: Some(false), ..Class::default() };
        assert_eq!(ids(&bytes, &bare, "ab ab"), [6, 7]);
        assert_eq!(ids(&model(&PIECES, &[], &[0x18, 0]), &Class::default(), "ab ab"), [6, 7]);
    }

    #[test]
    fn what_would_be_done_in_another_way_is_refused_by_name() {
        for (trainer, normalizer, found) in [
            (&[0x18, 1][..], &[][..], "type 1"),
            (&[0x98, 0x02, 0], &[], "without bytes"),
            (&[0xc0, 0x01, 1], &[], "behind words"),
            (&[], &[0x12, 1, 0], "a table"),
            (&[], &[0x20, 1], "extra spaces"),
            (&[], &[0x28, 0], "as they are"),
        ] {
            let error = read(&model(&PIECES, trainer, normalizer), &Class::default()).expect_err("refused").to_string();
            assert!(error.contains(found) && error.contains("tokenizer.model"), "{error}");
        }
        for bad in [&b"\x0a"[..], b"\x0a\x02\x0a\x05", b"\x08\x01\x0a", b"\x0a\x03\x0a\x01\xff"] {
            assert!(matches!(read(bad, &Class::default()), Err(FormError::Wrong { .. })), "{bad:?}");
        }
        assert!(read(&model(&[("a", 1), ("a", 1)], &[], &[]), &Class::default()).is_err(), "twice");
    }
}
