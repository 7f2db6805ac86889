//! The shadow of a text: what is left when differences that do not change its meaning are gone.
//!
//! Character by character, looking ahead only over combining marks:
//! - invisible characters (Unicode's `Default_Ignorable_Code_Point`, and control characters that
//!   are not white space) are dropped;
//! - a run of white space becomes one space;
//! - anything else is taken apart (NFKD: `é` becomes `e` and an accent, `Ａ`, `𝐀` and `ⓐ` a letter,
//!   `ﬁ` two) and becomes the lower case of its upper case, which is Unicode's full case folding
//!   for all but a handful of letters (`ß` and `SS` meet as `ss`, `ς` and `Σ` as `σ`);
//! - combining marks stand in their canonical order and belong to the character before them;
//! - between a letter or digit and anything else, and at the ends of the text, stands `EDGE`, a
//!   byte no UTF-8 text has. Phrases are folded the same way, so `ass` is `EDGE a s s EDGE` and is
//!   found in `ass.` but not in `class`. Scripts written without spaces, or whose particles cling
//!   to the word, have no words for us: Hangul and kana have an edge before every syllable, so
//!   that `가` is not found in `각`; Han, Thai, Lao, Khmer and Burmese have none.
//!
//! A text has a second shadow by what its characters look like (`looks`): letters of other scripts become those of ASCII
//! that they look like, and characters that spell ASCII without being seen become it.
//!
//! Not folded: accents, letters with something between them, text in another language (`docs/policy.md`).

use super::looks;
use std::ops::RangeInclusive;
use unicode_normalization::char::{
    canonical_combining_class, decompose_canonical, decompose_compatible, is_combining_mark,
};

/// Marks the edge of a word in the shadow.
pub(super) const EDGE: u8 = 0xFF;
/// The most combining marks on one character that are put in order: Unicode's stream-safe format allows 30.
const MARKS_MAX: usize = 32;

/// Folds one text.
#[derive(Debug, Default, Clone)]
pub(super) struct Folder {
    before: Before,
    /// Marks of the last character that wait for others, with their classes and offsets.
    marks: Vec<(u8, char, usize)>,
    /// True if characters count as what they look like.
    by_look: bool,
}

/// The class of the last visible character.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// No letter: punctuation, Han, the text's beginning.
    #[default]
    Other,
    /// White space.
    Space,
    /// A letter or digit of a word.
    Word,
    /// A syllable that is a word by itself.
    Syllable,
}

impl Before {
    /// True if an edge follows, unless a word goes on.
    fn is_open(self) -> bool {
        matches!(self, Self::Word | Self::Syllable)
    }
}

impl Folder {
    /// A folder for which characters are what they look like.
    pub(super) fn by_look() -> Self {
        Self { by_look: true, ..Self::default() }
    }

    /// Stands where another folder stands.
    pub(super) fn follow(&mut self, other: &Self) {
        self.before = other.before;
        self.marks.clone_from(&other.marks);
    }

    /// True if what follows is folded by both alike, as far as it is what it looks like.
    pub(super) fn stands_as(&self, other: &Self) -> bool {
        self.before == other.before && self.marks == other.marks
    }

    /// The shadow of a whole text.
    pub(super) fn all(mut self, text: &str) -> Vec<u8> {
        let mut folded = Vec::new();
        for character in text.chars() {
            self.push(character, 0, |byte, _| folded.push(byte));
        }
        self.finish(0, |byte, _| folded.push(byte));
        folded
    }

    /// True if nothing waits for what follows.
    pub(super) fn is_settled(&self) -> bool {
        self.marks.is_empty()
    }

    /// True if a letter that follows is no word's first.
    pub(super) fn is_in_word(&self) -> bool {
        self.before == Before::Word
    }

    /// Says that visible ASCII was passed over, the last of it this byte.
    pub(super) fn passed(&mut self, last: u8) {
        self.before = match last {
            letter if letter.is_ascii_alphanumeric() => Before::Word,
            // As `char::is_whitespace` has it.
            b'\t'..=b'\r' | b' ' => Before::Space,
            _ => Before::Other,
        };
    }

    /// Hands the bytes that `character`, at offset `at`, adds to the shadow to `emit`, each with
    /// the offset of the character it came from.
    #[inline]
    pub(super) fn push(&mut self, character: char, at: usize, mut emit: impl FnMut(u8, usize)) {
        let spelled = if self.by_look { looks::spelled(character) } else { None };
        let character = spelled.unwrap_or(character);
        if character.is_ascii_alphanumeric() {
            self.flush(&mut emit);
            self.turn(Before::Word, at, &mut emit);
            emit(character.to_ascii_lowercase() as u8, at);
        } else if character.is_whitespace() {
            self.flush(&mut emit);
            if self.before != Before::Space {
                self.turn(Before::Space, at, &mut emit);
                emit(b' ', at);
            }
        } else if character.is_ascii() {
            if !character.is_ascii_control() {
                self.flush(&mut emit);
                self.turn(Before::Other, at, &mut emit);
                emit(character as u8, at);
            }
        } else if !is_invisible(character) {
            self.decompose(character, at, &mut emit);
        }
    }

    /// Ends the text, at offset `at`.
    pub(super) fn finish(&mut self, at: usize, mut emit: impl FnMut(u8, usize)) {
        self.flush(&mut emit);
        self.turn(Before::Other, at, &mut emit);
    }

    fn decompose(&mut self, character: char, at: usize, emit: &mut impl FnMut(u8, usize)) {
        if is_plain(character) {
            self.flush(emit);
            return self.letter(character, at, emit);
        }
        // Some symbols are a space and a mark by compatibility; a space would end a word. Latin letters are none.
        let mut has_space = false;
        if !LATIN.contains(&character) {
            decompose_compatible(character, |part| has_space |= part == ' ');
        }
        let take = |part| self.part(part, at, emit);
        if has_space { decompose_canonical(character, take) } else { decompose_compatible(character, take) }
    }

    /// A character that is nothing but itself: put out, or kept with the marks before it.
    fn part(&mut self, part: char, at: usize, emit: &mut impl FnMut(u8, usize)) {
        let class = if part.is_ascii() { 0 } else { canonical_combining_class(part) };
        if class != 0 && self.marks.len() < MARKS_MAX {
            // Marks of one class keep their order.
            let place = self.marks.partition_point(|(other, ..)| *other <= class);
            self.marks.insert(place, (class, part, at));
            return;
        }
        self.flush(emit);
        self.folded(part, at, emit);
    }

    fn flush(&mut self, emit: &mut impl FnMut(u8, usize)) {
        if self.marks.is_empty() {
            return;
        }
        // Taken out and put back: most accents need no memory of their own.
        let mut marks = std::mem::take(&mut self.marks);
        for (_, mark, at) in marks.drain(..) {
            if ACCENTS.contains(&mark) {
                // Its own folding, and never a letter.
                let mut bytes = [0; 4];
                mark.encode_utf8(&mut bytes).bytes().for_each(|byte| emit(byte, at));
            } else {
                self.folded(mark, at, emit);
            }
        }
        self.marks = marks;
    }

    fn folded(&mut self, part: char, at: usize, emit: &mut impl FnMut(u8, usize)) {
        let looks = if self.by_look { looks::letter(part) } else { None };
        let part = looks.unwrap_or(part);
        if part.is_ascii() {
            return self.letter(part.to_ascii_lowercase(), at, emit);
        }
        for folded in part.to_uppercase().flat_map(char::to_lowercase) {
            self.letter(folded, at, emit);
        }
    }

    /// A folded character that is not white space.
    fn letter(&mut self, character: char, at: usize, emit: &mut impl FnMut(u8, usize)) {
        if let Some(jamo) = Jamo::of(character) {
            return self.jamo(jamo, at, emit);
        }
        let mut bytes = [0; 4];
        let mut bytes = character.encode_utf8(&mut bytes).as_bytes();
        if KANA.contains(&character) && !is_combining_mark(character) {
            self.turn(Before::Syllable, at, emit);
            // The edge stands for the byte that all kana begin with.
            bytes = &bytes[1..];
        } else if is_word(character) {
            self.turn(Before::Word, at, emit);
        } else if !is_combining_mark(character) {
            self.turn(Before::Other, at, emit);
        }
        bytes.iter().for_each(|byte| emit(*byte, at));
    }

    /// A part of a Hangul syllable, as one byte: after an edge its first consonant, then a vowel.
    fn jamo(&mut self, jamo: Jamo, at: usize, emit: &mut impl FnMut(u8, usize)) {
        let byte = match jamo {
            Jamo::First(index) => {
                self.turn(Before::Syllable, at, emit);
                index + 1
            }
            Jamo::Later(index) => {
                if self.before != Before::Syllable {
                    self.turn(Before::Syllable, at, emit);
                    emit(NO_CONSONANT, at);
                }
                index + 0x80
            }
        };
        emit(byte, at);
    }

    /// Puts an edge where one class of character ends and another begins; each syllable is alone.
    fn turn(&mut self, next: Before, at: usize, emit: &mut impl FnMut(u8, usize)) {
        let before = std::mem::replace(&mut self.before, next);
        let goes_on = before == Before::Word && next == Before::Word;
        if !goes_on && (before.is_open() || next.is_open()) {
            emit(EDGE, at);
        }
    }
}

/// Accented letters of Latin scripts, none of which is a space and a mark.
const LATIN: RangeInclusive<char> = '\u{C0}'..='\u{24F}';
/// The accents of Latin, Greek and Cyrillic that have no upper case; `U+0345` behind them has one.
const ACCENTS: RangeInclusive<char> = '\u{300}'..='\u{344}';

/// Hiragana and katakana that a voicing mark may follow.
const KANA: RangeInclusive<char> = '\u{3041}'..='\u{30FF}';

/// Stands where a Hangul syllable lacks its first consonant.
const NO_CONSONANT: u8 = 0x14;

/// A conjoining letter of Hangul.
#[derive(Debug, Clone, Copy)]
enum Jamo {
    /// A consonant that begins a syllable.
    First(u8),
    /// A vowel, or a consonant that ends it.
    Later(u8),
}

impl Jamo {
    #[expect(clippy::cast_possible_truncation, reason = "within the ranges")]
    fn of(character: char) -> Option<Self> {
        match u32::from(character) {
            code @ 0x1100..=0x1112 => Some(Self::First((code - 0x1100) as u8)),
            code @ 0x1161..=0x11C2 => Some(Self::Later((code - 0x1161) as u8)),
            _ => None,
        }
    }
}

/// True if a character is its own folding: Han and other letters without case that fill whole texts.
fn is_plain(character: char) -> bool {
    matches!(u32::from(character), 0x3400..=0x9FFF | 0x0E01..=0x0E30 | 0x0E40..=0x0E45)
}

/// A combining mark: it belongs to the character before it.
pub(super) fn is_mark(character: char) -> bool {
    is_combining_mark(character)
}

/// A letter or digit of a script that separates words.
pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() && !is_combining_mark(character) && !is_unspaced(character)
}

fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF       // Thai, Lao
        | 0x1000..=0x109F     // Burmese
        | 0x1780..=0x17FF     // Khmer
        | 0x2E80..=0x9FFF     // Han radicals, kana, Han
        | 0xA960..=0xA97F | 0xAC00..=0xD7FF // Hangul
        | 0xF900..=0xFAFF     // Han compatibility
        | 0x1AFF0..=0x1B16F   // kana extensions
        | 0x20000..=0x3FFFF) // Han extensions
}

/// `Default_Ignorable_Code_Point` of Unicode 17 (DerivedCoreProperties.txt), and controls.
pub(super) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character),
            0x00AD | 0x034F | 0x061C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F
            | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
            | 0xE0000..=0xE0FFF)
}
