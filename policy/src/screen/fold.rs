//! The shadow of a text: what is left when differences that do not change its meaning are gone.
//!
//! Character by character, without looking ahead:
//! - invisible characters (Unicode's `Default_Ignorable_Code_Point`, and control characters that
//!   are not white space) are dropped;
//! - a run of white space becomes one space;
//! - anything else becomes the lower case of its upper case, which is Unicode's full case folding
//!   for all but a handful of letters (`ß` and `SS` meet as `ss`, `ς` and `Σ` as `σ`);
//! - between a letter or digit and anything else, and at the ends of the text, stands `EDGE`, a
//!   byte no UTF-8 text has. Phrases are folded the same way, so `ass` is `EDGE a s s EDGE` and is
//!   found in `ass.` but not in `class`. Scripts written without spaces, or whose particles cling
//!   to the word (Han, kana, Hangul, Thai, Lao, Khmer, Burmese), get no edges inside them.
//!
//! Not folded yet: look-alike letters, full-width and other compatibility forms, letters built of
//! a base and a combining mark, text in another encoding.

/// Marks the edge of a word in the shadow.
pub(super) const EDGE: u8 = 0xFF;

/// Folds one text.
#[derive(Debug, Default)]
pub(super) struct Folder {
    in_word: bool,
    in_space: bool,
}

impl Folder {
    /// Hands the bytes that `character` adds to the shadow to `emit`.
    pub(super) fn push(&mut self, character: char, mut emit: impl FnMut(u8)) {
        if character.is_whitespace() {
            if !self.in_space {
                self.edge(false, &mut emit);
                emit(b' ');
                self.in_space = true;
            }
            return;
        }
        if is_invisible(character) {
            return;
        }
        self.in_space = false;
        if character.is_ascii() {
            self.visible(character.to_ascii_lowercase(), &mut emit);
            return;
        }
        for folded in character.to_uppercase().flat_map(char::to_lowercase) {
            self.visible(folded, &mut emit);
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(u8)) {
        self.edge(false, &mut emit);
    }

    fn visible(&mut self, character: char, emit: &mut impl FnMut(u8)) {
        self.edge(is_word(character), emit);
        character.encode_utf8(&mut [0; 4]).bytes().for_each(emit);
    }

    fn edge(&mut self, is_word: bool, emit: &mut impl FnMut(u8)) {
        if std::mem::replace(&mut self.in_word, is_word) != is_word {
            emit(EDGE);
        }
    }
}

/// A letter or digit of a script that separates words.
pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() && !is_unspaced(character)
}

fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF       // Thai, Lao
        | 0x1000..=0x109F     // Burmese
        | 0x1100..=0x11FF     // Hangul letters
        | 0x1780..=0x17FF     // Khmer
        | 0x2E80..=0x9FFF     // Han radicals, kana, Hangul compatibility letters, Han
        | 0xA960..=0xA97F | 0xAC00..=0xD7FF // Hangul
        | 0xF900..=0xFAFF     // Han compatibility
        | 0xFF66..=0xFFDC     // half-width kana and Hangul
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
