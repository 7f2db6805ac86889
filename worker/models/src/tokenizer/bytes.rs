//! The bytes behind a token's spelling in the vocabulary.
//!
//! Vocabularies are JSON, so they must spell bytes as text. Byte-level vocabularies (GPT-2's invention) map each byte
//! to a printable character; SentencePiece ones write `▁` for a space and `<0x0A>` for a byte no piece covers.

use serde_json::Value;

/// The spelling of bytes in a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// One printable character a byte.
    ByteLevel,
    /// `▁` for a space, `<0xNN>` for a lone byte; this many spaces are stripped from the front of a text.
    SentencePiece {
        /// Spaces to strip.
        leading: usize,
    },
    /// Anything else: only the tokenizer's own decoder knows.
    Other,
}

impl Spelling {
    /// Reads the spelling off the tokenizer's decoder.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        let steps = match decoder["decoders"].as_array() {
            Some(steps) if decoder["type"] == "Sequence" => steps.clone(),
            _ => vec![decoder],
        };
        let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or_default()).collect();
        match kinds.as_slice() {
            ["ByteLevel"] => Self::ByteLevel,
            ["Replace", "ByteFallback", "Fuse"] if replaces_space(&steps[0]) => Self::SentencePiece { leading: 0 },
            ["Replace", "ByteFallback", "Fuse", "Strip"] if replaces_space(&steps[0]) => strip_of(&steps[3]),
            _ => Self::Other,
        }
    }

    /// Spaces that are stripped from the front of a text.
    pub(super) const fn leading_spaces(self) -> usize {
        match self {
            Self::SentencePiece { leading } => leading,
            Self::ByteLevel | Self::Other => 0,
        }
    }

    /// The bytes a token of this vocabulary stands for.
    pub(super) fn bytes_of(self, token: &str) -> Vec<u8> {
        match self {
            // A token with a character outside the map is an added token, spelled as it is.
            Self::ByteLevel => token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.into()),
            Self::SentencePiece { .. } | Self::Other => match fallback_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

fn replaces_space(step: &Value) -> bool {
    step["pattern"]["String"] == "▁" && step["content"] == " "
}

fn strip_of(step: &Value) -> Spelling {
    let leading = step["start"].as_u64().and_then(|start| usize::try_from(start).ok());
    match leading {
        Some(leading) if step["content"] == " " && step["stop"] == 0 => Spelling::SentencePiece { leading },
        _ => Spelling::Other,
    }
}

/// The byte that `<0xNN>` names.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of a byte-level vocabulary stands for.
///
/// Printable Latin-1 stands for itself; the 68 other bytes, in order, are the characters from U+0100 on.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Appends a token's bytes, dropping spaces while the text has not begun and `leading` allows.
pub(super) fn append_stripped(text: &mut Vec<u8>, token: &[u8], leading: &mut usize) {
    let mut rest = token;
    while *leading > 0 {
        match rest {
            [b' ', after @ ..] => {
                rest = after;
                *leading -= 1;
            }
            [] => return,
            _ => *leading = 0,
        }
    }
    text.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character_in_a_byte_level_vocabulary() {
        let mut bytes: Vec<u8> = (0..0x400).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        // From the GPT-2 vocabulary: the space, the line feed, and the end of the first gap.
        assert_eq!([byte_of('Ġ'), byte_of('Ċ'), byte_of('ł')], [Some(b' '), Some(b'\n'), Some(0xA0)]);
    }

    #[test]
    fn an_added_token_outside_the_map_is_spelled_as_it_is() {
        assert_eq!(Spelling::ByteLevel.bytes_of("<｜User｜>"), "<｜User｜>".as_bytes());
        assert_eq!(Spelling::ByteLevel.bytes_of("ĠÃ©"), " é".as_bytes());
    }

    #[test]
    fn sentencepiece_spells_spaces_and_lone_bytes() {
        let spelling = Spelling::SentencePiece { leading: 1 };
        assert_eq!(spelling.bytes_of("▁▁a"), b"  a");
        assert_eq!(spelling.bytes_of("<0xe2>"), [0xE2]);
        assert_eq!(spelling.bytes_of("<0xZZ>"), b"<0xZZ>");
        assert_eq!(spelling.bytes_of("<0x+1>"), [1], "as the library's decoder reads it");
    }

    #[test]
    fn leading_spaces_are_stripped_once_and_only_in_front() {
        let (mut text, mut leading) = (Vec::new(), 1);
        for token in [&b""[..], b"  a", b" b"] {
            append_stripped(&mut text, token, &mut leading);
        }
        assert_eq!(text, b" a b");
    }
}
