//! Token ids of one sequence to text, as they come.
//!
//! A token may end inside a character, so the text of a token is known only when its character is whole. Held-back
//! text is bounded: three bytes where the vocabulary's bytes are known, [`HELD_TOKENS_MAX`] tokens elsewhere.

use super::Tokenizer;
use super::bytes::{Spelling, append_stripped};
use std::sync::Arc;

/// The most tokens held back while their text ends in U+FFFD, for vocabularies whose bytes are not known. A character
/// is at most four tokens long; more than that is not a character on its way.
const HELD_TOKENS_MAX: usize = 8;

/// Prompt tokens that such vocabularies see before the first new one, so that its spacing comes out right.
const CONTEXT_TOKENS: usize = 6;

/// The incremental detokenizer of one sequence.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The bytes of each token are known.
    Bytes { pending: Vec<u8>, leading: usize },
    /// Only the tokenizer's decoder knows: a window is decoded, and the text beyond the last one shown.
    Window { ids: Vec<u32>, shown_ids: usize, shown: String },
}

impl Detokenizer {
    /// A detokenizer of the tokens after `prompt`, of which the last few ids suffice.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32], skip_special: bool) -> Self {
        let state = match tokenizer.spelling {
            Spelling::Other => State::window(&tokenizer, prompt, skip_special),
            spelling @ (Spelling::ByteLevel | Spelling::SentencePiece { .. }) => {
                let tail = visible_tail(&tokenizer, prompt, skip_special);
                let leading = if tail.is_empty() { spelling.leading_spaces() } else { 0 };
                let mut pending = tail;
                take_certain(&mut pending);
                State::Bytes { pending, leading }
            }
        };
        Self { tokenizer, skip_special, state }
    }

    /// Takes the next id and returns the text that became certain, which may be empty.
    ///
    /// U+FFFD is returned only for bytes that no later token can complete.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) {
            return String::new();
        }
        match &mut self.state {
            State::Bytes { pending, leading } => {
                append_stripped(pending, &self.tokenizer.token_bytes(id), leading);
                take_certain(pending)
            }
            State::Window { ids, shown_ids, shown } => {
                ids.push(id);
                let text = self.tokenizer.decode(ids, self.skip_special);
                if text.ends_with(char::REPLACEMENT_CHARACTER) && ids.len() - *shown_ids < HELD_TOKENS_MAX {
                    return String::new();
                }
                let added = after_common_prefix(shown, &text).to_owned();
                ids.drain(..*shown_ids);
                *shown_ids = ids.len();
                *shown = self.tokenizer.decode(ids, self.skip_special);
                added
            }
        }
    }

    /// Ends the sequence: returns the text still held back, with U+FFFD for a character that will not be completed.
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::Bytes { pending, .. } => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
            State::Window { ids, shown_ids, shown } => {
                let text = self.tokenizer.decode(ids, self.skip_special);
                let added = after_common_prefix(shown, &text).to_owned();
                *shown_ids = ids.len();
                *shown = text;
                added
            }
        }
    }
}

impl State {
    fn window(tokenizer: &Tokenizer, prompt: &[u32], skip_special: bool) -> Self {
        let visible = prompt.iter().rev().copied().filter(|id| !(skip_special && tokenizer.is_special(*id)));
        let mut ids: Vec<u32> = visible.take(CONTEXT_TOKENS).collect();
        ids.reverse();
        let shown = tokenizer.decode(&ids, skip_special);
        Self::Window { shown_ids: ids.len(), ids, shown }
    }
}

/// The last bytes of the prompt's text, enough to hold a whole character; empty when the prompt has no text.
fn visible_tail(tokenizer: &Tokenizer, prompt: &[u32], skip_special: bool) -> Vec<u8> {
    let mut tail = Vec::new();
    for id in prompt.iter().rev().filter(|id| !(skip_special && tokenizer.is_special(**id))) {
        let mut bytes = tokenizer.token_bytes(*id);
        bytes.append(&mut tail);
        tail = bytes;
        if tail.len() >= 4 {
            break;
        }
    }
    tail
}

/// Takes the text in front of a character that may still be on its way; bytes that are no UTF-8 become U+FFFD, one
/// for each maximal part of a character, as [`String::from_utf8_lossy`] does.
fn take_certain(pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(pending.len());
    let mut start = 0;
    while let Err(error) = std::str::from_utf8(&pending[start..]) {
        let valid = start + error.valid_up_to();
        text.push_str(&String::from_utf8_lossy(&pending[start..valid]));
        start = valid;
        let Some(invalid) = error.error_len() else {
            pending.drain(..start);
            return text;
        };
        text.push(char::REPLACEMENT_CHARACTER);
        start += invalid;
    }
    text.push_str(&String::from_utf8_lossy(&pending[start..]));
    pending.clear();
    text
}

/// The part of `text` beyond its common beginning with `shown`.
fn after_common_prefix<'a>(shown: &str, text: &'a str) -> &'a str {
    if let Some(added) = text.strip_prefix(shown) {
        return added;
    }
    let shared: usize = shown.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    &text[shared..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_on_its_way_is_held() {
        let mut pending = b"a\xE2\x82".to_vec();
        assert_eq!(take_certain(&mut pending), "a");
        assert_eq!(pending, [0xE2, 0x82]);
        pending.push(0xAC);
        assert_eq!(take_certain(&mut pending), "€");
        pending.extend_from_slice(b"\xE2\x82x\xFF\xF0");
        assert_eq!(take_certain(&mut pending), "\u{FFFD}x\u{FFFD}");
        assert_eq!(pending, [0xF0]);
    }

    #[test]
    fn only_the_difference_of_a_corrected_text_is_shown() {
        assert_eq!(after_common_prefix("ab", "abc"), "c");
        assert_eq!(after_common_prefix("né", "nèe"), "èe");
    }
}
