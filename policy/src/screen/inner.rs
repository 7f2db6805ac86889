//! Text within text: a tool call's arguments are JSON in a string. Whoever reads them unescapes
//! once more, so a phrase may be hidden by an escape that is itself text here.

use super::cursor::Cursor;
use super::phrases::Phrases;

/// Reads the characters that another unescaping makes of a text, however it is cut.
#[derive(Debug)]
pub(super) struct Inner {
    cursor: Cursor,
    escape: Escape,
}

/// How much of an escape was seen.
#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// A backslash, at this offset.
    Begun { at: usize },
    /// `\u` and so many digits.
    Unicode { at: usize, digits: u8, unit: u16, high: Option<u16> },
    /// A high surrogate; the low one must follow.
    High { at: usize, high: u16 },
    /// A high surrogate and a backslash.
    HighBegun { at: usize, high: u16 },
}

impl Inner {
    pub(super) fn new() -> Self {
        Self { cursor: Cursor::new(), escape: Escape::None }
    }

    /// Reads on by one character of the outer text, which stands at `at`.
    pub(super) fn character(&mut self, list: &Phrases, character: char, at: usize) -> Option<usize> {
        match (self.escape, character) {
            (Escape::None, '\\') => self.escape = Escape::Begun { at },
            (Escape::None, plain) => return self.cursor.character(list, plain, at),
            (Escape::Begun { at }, 'u') => self.escape = Escape::Unicode { at, digits: 0, unit: 0, high: None },
            (Escape::Begun { at }, escaped) => return self.end(list, unescaped(escaped), at),
            (Escape::Unicode { at, digits, unit, high }, digit) => match digit.to_digit(16) {
                #[expect(clippy::cast_possible_truncation, reason = "a digit")]
                Some(value) => return self.digit(list, at, digits + 1, unit << 4 | value as u16, high),
                None => return self.broken(list, at, character),
            },
            (Escape::High { at, high }, '\\') => self.escape = Escape::HighBegun { at, high },
            (Escape::HighBegun { at, high }, 'u') => {
                self.escape = Escape::Unicode { at, digits: 0, unit: 0, high: Some(high) };
            }
            (Escape::High { at, .. }, other) => return self.broken(list, at, other),
            (Escape::HighBegun { at, .. }, other) => {
                let found = self.end(list, char::REPLACEMENT_CHARACTER, at);
                self.escape = Escape::Begun { at };
                return found.or_else(|| self.character(list, other, at));
            }
        }
        None
    }

    fn digit(&mut self, list: &Phrases, at: usize, digits: u8, unit: u16, high: Option<u16>) -> Option<usize> {
        self.escape = Escape::Unicode { at, digits, unit, high };
        if digits < 4 {
            return None;
        }
        if high.is_none() && (0xd800..0xdc00).contains(&unit) {
            self.escape = Escape::High { at, high: unit };
            return None;
        }
        let units = high.into_iter().chain([unit]);
        let character = char::decode_utf16(units).next().and_then(Result::ok);
        self.end(list, character.unwrap_or(char::REPLACEMENT_CHARACTER), at)
    }

    /// An escape that stands for no character, and the character after it.
    fn broken(&mut self, list: &Phrases, at: usize, next: char) -> Option<usize> {
        let found = self.end(list, char::REPLACEMENT_CHARACTER, at);
        found.or_else(|| self.character(list, next, at))
    }

    fn end(&mut self, list: &Phrases, character: char, at: usize) -> Option<usize> {
        self.escape = Escape::None;
        self.cursor.character(list, character, at)
    }

    pub(super) fn finish(&mut self, list: &Phrases, at: usize) -> Option<usize> {
        self.cursor.finish(list, at)
    }

    /// Where what may still become a phrase begins: also an escape of which more may come, which
    /// could make a character that begins one.
    pub(super) fn unsettled(&self, list: &Phrases) -> Option<usize> {
        let escape = match self.escape {
            Escape::None => None,
            Escape::Begun { at }
            | Escape::Unicode { at, .. }
            | Escape::High { at, .. }
            | Escape::HighBegun { at, .. } => Some(at),
        };
        self.cursor.unsettled(list).into_iter().chain(escape).min()
    }
}

fn unescaped(escaped: char) -> char {
    match escaped {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        other => other,
    }
}
