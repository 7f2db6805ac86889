//! A JSON reader over one slice: what is where, and nothing built. It knows no field of any API.
//!
//! Accepts what RFC 8259 accepts. Nesting costs one bit a level, a value nothing; no input makes it recurse.

use super::span::Span;

/// Deepest nesting that [`Lexer::walk`] can follow: one bit a level.
pub(in crate::openai) const DEPTH_MAX: u16 = 256;

/// A problem with a body, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::openai) struct Fault {
    pub(in crate::openai) at: usize,
    pub(in crate::openai) problem: Problem,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::openai) enum Problem {
    /// The text is no JSON; names what was expected.
    Syntax(&'static str),
    /// A string holds bytes that are not UTF-8.
    NotUtf8,
    /// A string holds an escape that stands for no character.
    Escape,
    /// A known field has the wrong type; names the right one.
    Kind(&'static str),
    /// A known member is there twice.
    Twice,
    /// Arrays and objects are nested deeper than this.
    Deep(u16),
    /// More of something than this.
    Many(&'static str, u32),
}

/// A scalar that [`Lexer::walk`] passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::openai) enum Leaf {
    /// A member's name.
    Name,
    /// A string.
    Text,
    /// A number.
    Number,
}

/// Cheap to clone: a clone looks ahead.
#[derive(Debug, Clone)]
pub(in crate::openai) struct Lexer<'b> {
    body: &'b [u8],
    at: usize,
    /// The offset of the first byte that is not UTF-8.
    valid_to: usize,
    /// Containers that may still be opened.
    depth_left: u16,
    depth_max: u16,
    /// Halves of surrogate pairs may stand alone in escapes: some servers cut answers between them.
    allows_halves: bool,
}

impl<'b> Lexer<'b> {
    /// A lexer at the first byte of `body`, after a byte-order mark.
    pub(in crate::openai) fn new(body: &'b [u8], depth_max: u16) -> Self {
        let valid_to = std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len);
        let at = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let depth_max = depth_max.min(DEPTH_MAX);
        Self { body, at, valid_to, depth_left: depth_max, depth_max, allows_halves: false }
    }

    /// A lexer for answers: halves of surrogate pairs may stand alone.
    pub(in crate::openai) fn lenient(body: &'b [u8], depth_max: u16) -> Self {
        Self { allows_halves: true, ..Self::new(body, depth_max) }
    }

    pub(in crate::openai) fn at(&self) -> usize {
        self.at
    }

    pub(in crate::openai) fn bytes(&self, span: Span) -> &'b [u8] {
        span.of(self.body)
    }

    pub(in crate::openai) fn fault<T>(&self, problem: Problem) -> Result<T, Fault> {
        Err(Fault { at: self.at, problem })
    }

    /// The first byte of the next token; `0` at the end of the body.
    pub(in crate::openai) fn peek(&mut self) -> u8 {
        while let Some(&byte) = self.body.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return byte;
            }
            self.at += 1;
        }
        0
    }

    /// Takes `byte` if it is the next token.
    pub(in crate::openai) fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == byte && self.at < self.body.len();
        self.at += usize::from(is_next);
        is_next
    }

    /// # Errors
    /// Something follows.
    pub(in crate::openai) fn end(&mut self) -> Result<(), Fault> {
        self.peek();
        if self.at < self.body.len() { self.fault(Problem::Syntax("the end of the body")) } else { Ok(()) }
    }

    /// Takes `null` if it is the next value.
    pub(in crate::openai) fn eat_null(&mut self) -> Result<bool, Fault> {
        if self.peek() != b'n' {
            return Ok(false);
        }
        self.word(b"null").map(|()| true)
    }

    /// `true` or `false`.
    pub(in crate::openai) fn boolean(&mut self) -> Result<bool, Fault> {
        let value = self.peek() == b't';
        self.word(if value { b"true" } else { b"false" }).map(|()| value)
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        if !self.body[self.at..].starts_with(word) {
            return self.fault(Problem::Syntax("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// A string; the span lies between its quotes.
    pub(in crate::openai) fn string(&mut self) -> Result<Span, Fault> {
        if self.peek() != b'"' {
            return self.fault(Problem::Syntax("a string"));
        }
        let start = self.at + 1;
        self.at = start;
        loop {
            self.at += plain(&self.body[self.at..]);
            match self.body.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fault(Problem::Syntax("control characters to be escaped in strings")),
                None => return self.fault(Problem::Syntax("the end of a string")),
            }
        }
        let span = Span::new(start, self.at);
        if self.valid_to < self.at {
            self.at = start;
            return self.fault(Problem::NotUtf8);
        }
        self.at += 1;
        Ok(span)
    }

    /// An escape; a high surrogate needs its low one, and no low one stands alone.
    fn escape(&mut self) -> Result<(), Fault> {
        match self.body.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return self.fault(Problem::Escape),
        }
        match self.code_unit(self.at) {
            Some(0xd800..0xdc00) if matches!(self.code_unit(self.at + 6), Some(0xdc00..0xe000)) => self.at += 12,
            Some(0xd800..0xe000) if self.allows_halves => self.at += 6,
            None | Some(0xd800..0xe000) => return self.fault(Problem::Escape),
            Some(_) => self.at += 6,
        }
        Ok(())
    }

    /// The code unit of an escape `\uXXXX` at `at`.
    fn code_unit(&self, at: usize) -> Option<u32> {
        let digits = self.body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    }

    /// A number.
    pub(in crate::openai) fn number(&mut self) -> Result<Span, Fault> {
        self.peek();
        let start = self.at;
        self.at += usize::from(self.body.get(self.at) == Some(&b'-'));
        if self.body.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.body.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.body.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.body.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(Span::new(start, self.at))
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let count = self.body[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return self.fault(Problem::Syntax("a digit"));
        }
        self.at += count;
        Ok(())
    }

    /// Takes the `{` or `[` that is next.
    pub(in crate::openai) fn open(&mut self) -> Result<(), Fault> {
        if self.depth_left == 0 {
            return self.fault(Problem::Deep(self.depth_max));
        }
        self.depth_left -= 1;
        self.at += 1;
        Ok(())
    }

    /// True if another member or element follows in what was opened; if not, closes it. `is_first` is right after
    /// `open`.
    pub(in crate::openai) fn another(&mut self, close: u8, is_first: bool) -> Result<bool, Fault> {
        if self.eat(close) {
            self.depth_left += 1;
            return Ok(false);
        }
        if is_first || self.eat(b',') {
            return Ok(true);
        }
        self.fault(Problem::Syntax(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" }))
    }

    /// A member's name and its colon.
    pub(in crate::openai) fn name(&mut self) -> Result<Span, Fault> {
        if self.peek() != b'"' {
            return self.fault(Problem::Syntax("a member's name"));
        }
        let name = self.string()?;
        if !self.eat(b':') {
            return self.fault(Problem::Syntax("`:`"));
        }
        Ok(name)
    }

    /// Passes one value and says what scalars it holds.
    pub(in crate::openai) fn walk(
        &mut self,
        mut each: impl FnMut(Leaf, Span) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut levels = Levels::default();
        loop {
            match self.peek() {
                b'"' => each(Leaf::Text, self.string()?)?,
                b'-' | b'0'..=b'9' => each(Leaf::Number, self.number()?)?,
                b't' | b'f' => _ = self.boolean()?,
                b'n' => _ = self.eat_null()?,
                b'[' => {
                    self.open()?;
                    if self.another(b']', true)? {
                        levels.push(false);
                        continue;
                    }
                }
                b'{' => {
                    self.open()?;
                    if self.another(b'}', true)? {
                        levels.push(true);
                        each(Leaf::Name, self.name()?)?;
                        continue;
                    }
                }
                _ => return self.fault(Problem::Syntax("a value")),
            }
            // The value has ended, and with it perhaps what holds it.
            loop {
                let Some(is_object) = levels.top() else { return Ok(()) };
                if self.another(if is_object { b'}' } else { b']' }, false)? {
                    if is_object {
                        each(Leaf::Name, self.name()?)?;
                    }
                    break;
                }
                levels.pop();
            }
        }
    }
}

/// How many bytes at the start stand for themselves in a string. Looked at in blocks, which the compiler makes vectors of.
fn plain(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let is_plain_block = |block: &&[u8]| block.iter().fold(true, |all, byte| all & is_plain(*byte));
    let whole = bytes.chunks_exact(BLOCK).take_while(is_plain_block).count() * BLOCK;
    whole + bytes[whole..].iter().take_while(|byte| is_plain(**byte)).count()
}

/// Bytes that stand for themselves in a string.
fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// One bit for each open level: set for an object, clear for an array.
#[derive(Debug, Default)]
struct Levels {
    bits: [u64; DEPTH_MAX as usize / 64],
    len: usize,
}

impl Levels {
    /// The lexer has counted the level, so there is room for it.
    fn push(&mut self, is_object: bool) {
        let (word, bit) = (self.len / 64, self.len % 64);
        self.bits[word] = self.bits[word] & !(1 << bit) | u64::from(is_object) << bit;
        self.len += 1;
    }

    fn pop(&mut self) {
        self.len -= 1;
    }

    fn top(&self) -> Option<bool> {
        let last = self.len.checked_sub(1)?;
        Some(self.bits[last / 64] >> (last % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_end_where_bytes_do(before in 0_usize..100, end: u8, after in prop::collection::vec(any::<u8>(), 0..70)) {
            let bytes = [vec![b'a'; before], vec![end], after].concat();
            let expected = bytes.iter().take_while(|byte| is_plain(**byte)).count();
            prop_assert_eq!(plain(&bytes), expected);
        }
    }
}
