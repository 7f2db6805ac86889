//! Characters by what they look like: letters of other scripts that are drawn as those of ASCII (UTS #39), and the
//! characters that spell ASCII without being seen (tags, variation selectors).
//!
//! Capitals look like capitals: `В` is a `B`, `в` is not. A phrase of another script gets its looks as patterns besides, so
//! that a few letters of ASCII in it hide nothing either.

use std::sync::LazyLock;
use unicode_normalization::char::decompose_compatible;
use unicode_security::confusable_detection::skeleton;

/// The planes whose characters are looked at.
const CHARACTERS: usize = 0x2_0000;
const PAGE: usize = 256;

/// Letters by what they look like, in pages of which most are the empty one.
struct Table {
    pages: Vec<u16>,
    letters: Vec<[u8; PAGE]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// The letter of ASCII that a character looks like; `None` where it is one, or looks like none.
#[inline]
pub(super) fn letter(character: char) -> Option<char> {
    let code = u32::from(character) as usize;
    if code < 0x80 {
        return None;
    }
    let page = *TABLE.pages.get(code / PAGE)?;
    Some(TABLE.letters[usize::from(page)][code % PAGE]).filter(|letter| *letter != 0).map(char::from)
}

/// The character of ASCII that one spells without being seen: a tag by its number, a variation selector by the byte that
/// it stands for where text is hidden behind a picture.
#[inline]
pub(super) fn spelled(character: char) -> Option<char> {
    let byte = match u32::from(character) {
        tag @ 0xE0020..=0xE007E => tag - 0xE0000,
        // The first sixteen bytes, which are controls, are the selectors of another block.
        selector @ 0xE0110..=0xE016E => selector - 0xE0100 + 16,
        _ => return None,
    };
    char::from_u32(byte)
}

/// True if a character is read in two ways.
pub(super) fn looks_other(character: char) -> bool {
    if letter(character).is_some() || spelled(character).is_some() {
        return true;
    }
    let mut parts = false;
    // `ё` is a letter that looks like `e`, and an accent.
    if matches!(u32::from(character), 0x80..0x3000) {
        decompose_compatible(character, |part| parts |= letter(part).is_some());
    }
    parts
}

impl Table {
    fn new() -> Self {
        let mut table = Self { pages: vec![0; CHARACTERS / PAGE], letters: vec![[0; PAGE]] };
        let all = (0x80..CHARACTERS).filter_map(|code| char::from_u32(u32::try_from(code).ok()?));
        // Han and Hangul, most of all characters, look like no letter.
        for character in all.filter(|character| !matches!(character, '\u{3100}'..='\u{A48F}' | '\u{AC00}'..='\u{D7A3}'))
        {
            if let Some(letter) = prototype(character) {
                table.set(character, letter);
            }
        }
        table
    }

    #[expect(clippy::cast_possible_truncation, reason = "fewer pages than that")]
    fn set(&mut self, character: char, letter: u8) {
        let code = u32::from(character) as usize;
        let mut page = usize::from(self.pages[code / PAGE]);
        if page == 0 {
            page = self.letters.len();
            self.letters.push([0; PAGE]);
            self.pages[code / PAGE] = page as u16;
        }
        self.letters[page][code % PAGE] = letter;
    }
}

/// The one letter of ASCII by which Unicode's table of confusable characters stands for a character.
fn prototype(character: char) -> Option<u8> {
    let mut bytes = [0; 4];
    let mut skeleton = skeleton(character.encode_utf8(&mut bytes));
    let (first, rest) = (skeleton.next()?, skeleton.next());
    let letter = u8::try_from(first).ok().filter(|_| rest.is_none())?.to_ascii_lowercase();
    match letter {
        // The table draws a capital I and a small l alike.
        b'l' if character.is_uppercase() => Some(b'i'),
        letter => letter.is_ascii_alphabetic().then_some(letter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_look_like_those_they_are_drawn_as() {
        for (other, ascii) in
            [("асеорѕухіј", "aceopsyxij"), ("АВЕКМНОРСТХІ", "abekmhopctxi"), ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "abezhikmnoptyxo")]
        {
            let seen: String = other.chars().filter_map(letter).collect();
            assert_eq!(seen, ascii);
        }
        // Small letters that are no smaller drawing of the capital.
        assert!("вкмнтбдж毒가カéß".chars().all(|character| letter(character).is_none()));
        assert!(('\0'..='\x7f').all(|character| letter(character).is_none() && !looks_other(character)));
    }

    #[test]
    fn unseen_characters_spell_ascii() {
        assert_eq!(('\u{E0020}'..='\u{E007E}').filter_map(spelled).collect::<String>().trim(), printable().trim());
        assert_eq!(('\u{E0110}'..='\u{E016E}').filter_map(spelled).collect::<String>().trim(), printable().trim());
        assert!("\u{E0001}\u{E007F}\u{FE0F}\u{E01EF}a".chars().all(|character| spelled(character).is_none()));
    }

    fn printable() -> String {
        (' '..='~').collect()
    }
}
