//! The places of a text at which some phrase may begin: a filter before the automaton, for texts in which none does.
//!
//! A phrase begins with a whole word, or with a character that is part of none. So in ASCII text a word whose first
//! eight letters are no phrase's begins nothing and is passed over as a whole. Anything but ASCII, and characters that
//! folding drops, are left to the automaton, and so is a word that the text may go on with.

use super::fold::EDGE;
use std::fmt;

/// The letters of a word that are looked at: as many as one machine word holds.
const LETTERS: usize = 8;
/// Bits of the table for each phrase: with two of them looked at, one word in a hundred passes by chance.
const BITS_A_PHRASE: usize = 16;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x80 * ONES;
/// The bits by which small letters differ from capitals.
const CASES: u64 = 0x20 * ONES;

/// The beginnings of a set of phrases.
pub(super) struct Starts {
    /// By byte: true if it alone may begin a phrase, or is not looked at here.
    stops: [bool; 256],
    /// A Bloom filter of first words (B. H. Bloom, 1970), its size a power of two.
    words: Vec<u64>,
    shift: u32,
}

impl Starts {
    /// The beginnings of folded phrases.
    pub(super) fn new<P: AsRef<[u8]>>(phrases: &[P]) -> Self {
        let mut stops = [false; 256];
        for (byte, stops) in (0..=u8::MAX).zip(&mut stops) {
            *stops = !is_plain(byte);
        }
        let bits = (phrases.len() * BITS_A_PHRASE).next_power_of_two().trailing_zeros().max(10);
        let mut starts = Self { stops, words: vec![0; 1 << (bits - 6)], shift: u64::BITS - bits };
        for phrase in phrases {
            match phrase.as_ref().split_first() {
                Some((&EDGE, word)) => starts.add(word),
                Some((&b' ', _)) => {
                    (b'\t'..=b'\r').chain([b' ']).for_each(|byte| starts.stops[usize::from(byte)] = true)
                }
                Some((&first, _)) => starts.stops[usize::from(first)] = true,
                None => {}
            }
        }
        starts
    }

    fn add(&mut self, word: &[u8]) {
        let word = &word[..word.len().min(LETTERS)];
        let length = word.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        // Where another script goes on, the text has other bytes than ASCII there too, and they stop us.
        let mut letters = [0; LETTERS];
        letters[..length].copy_from_slice(&word[..length]);
        for bit in self.bits(u64::from_le_bytes(letters)) {
            self.words[bit / 64] |= 1 << (bit % 64);
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "as many bits as the table has")]
    fn bits(&self, word: u64) -> [usize; 2] {
        let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let other = (hash ^ hash >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        [(hash >> self.shift) as usize, (other >> self.shift) as usize]
    }

    #[inline]
    fn may_begin(&self, word: u64) -> bool {
        self.bits(word).into_iter().all(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// The number of bytes before the first place where a phrase may begin. `is_in_word` says that the text goes on
    /// with a word.
    pub(super) fn next_start(&self, text: &[u8], is_in_word: bool) -> usize {
        let mut at = if is_in_word { letters(text) } else { 0 };
        while let Some(&byte) = text.get(at) {
            if !byte.is_ascii_alphanumeric() {
                if self.stops[usize::from(byte)] {
                    break;
                }
                at += 1;
                continue;
            }
            let Some(window) = text[at..].first_chunk::<LETTERS>() else { break };
            let word = u64::from_le_bytes(*window);
            let length = leading_letters(word);
            let ends_plainly = length == LETTERS || is_plain(window[length]);
            let kept = if length == LETTERS { u64::MAX } else { (1 << (8 * length)) - 1 };
            if !ends_plainly || self.may_begin((word | CASES) & kept) {
                break;
            }
            at += length;
            if length == LETTERS {
                at += letters(&text[at..]);
            }
        }
        at
    }
}

/// Shows its size alone: phrases are secrets.
impl fmt::Debug for Starts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Starts in {} bits", self.words.len() * 64)
    }
}

/// True for ASCII that folding does not drop.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii() && (!byte.is_ascii_control() || matches!(byte, b'\t'..=b'\r'))
}

/// The length of the letters and digits that a text begins with.
fn letters(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count()
}

/// The number of letters and digits of ASCII that a window begins with.
#[inline]
fn leading_letters(window: u64) -> usize {
    // Without their high bits bytes can be compared all at once: no sum carries into the next.
    let low = window & !HIGHS;
    let reaches = |bytes: u64, from: u8| bytes + u64::from(0x80 - from) * ONES;
    let lower = low | CASES;
    let letter = reaches(lower, b'a') & !reaches(lower, b'z' + 1);
    let digit = reaches(low, b'0') & !reaches(low, b'9' + 1);
    let others = !((letter | digit) & !window) & HIGHS;
    others.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn leading_letters_are_counted(window in any::<[u8; 8]>(), word in "[a-zA-Z0-9@\\[`{/:_é]{8}") {
            for window in [window, *word.as_bytes().first_chunk().expect("eight")] {
                prop_assert_eq!(leading_letters(u64::from_le_bytes(window)), letters(&window));
            }
        }
    }

    #[test]
    fn words_that_begin_no_phrase_are_passed_over() {
        let starts = Starts::new(&[[&[EDGE], &b"red button"[..]].concat(), b"$top".to_vec()]);
        for (text, rest) in [
            ("the river stores water; a dam above the turbines ", ""),
            ("the water: Red or not, it flows on", "Red or not, it flows on"),
            ("redder reds 4red xred and so on it goes on and on", "and on"),
            ("for water, $topped up", "$topped up"),
            ("water re\u{1}d button for you", "re\u{1}d button for you"),
            ("waters é and so on", "é and so on"),
            // More may come.
            ("flowing water re", "re"),
        ] {
            assert_eq!(&text[starts.next_start(text.as_bytes(), false)..], rest);
        }
        assert_eq!(starts.next_start(b"red and so on it goes on and on", true), 25);
    }
}
