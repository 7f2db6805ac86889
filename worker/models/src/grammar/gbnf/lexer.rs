//! The words of GBNF: names, texts, sets of characters, marks of repetition.

use super::set::Set;

/// A word of a grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Name(&'t str),
    /// `::=`
    Is,
    Or,
    Open,
    Close,
    Text(String),
    /// One character of these.
    Character(Set),
    /// The least and the most times; `None`: any number.
    Repeat(u32, Option<u32>),
}

/// Splits a grammar into words.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The next word; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Token<'t>>, String> {
        self.skip();
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(None) };
        if is_of_name(first) {
            let length = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
            self.at += length;
            return Ok(Some(Token::Name(&rest[..length])));
        }
        if rest.starts_with("::=") {
            self.at += 3;
            return Ok(Some(Token::Is));
        }
        self.at += first.len_utf8();
        Ok(Some(match first {
            '|' => Token::Or,
            '(' => Token::Open,
            ')' => Token::Close,
            '*' => Token::Repeat(0, None),
            '+' => Token::Repeat(1, None),
            '?' => Token::Repeat(0, Some(1)),
            '.' => Token::Character(Set::all()),
            '"' => self.string()?,
            '[' => self.set()?,
            '{' => self.counts()?,
            _ => return Err(self.error(&format!("`{}` is no part of a grammar", first.escape_debug()))),
        }))
    }

    /// True if the word that comes is `::=`.
    pub(super) fn is_before_mark(&self) -> bool {
        let mut ahead = Self { text: self.text, at: self.at };
        ahead.skip();
        ahead.text[ahead.at..].starts_with("::=")
    }

    /// A reason, and the line where the lexer is.
    pub(super) fn error(&self, reason: &str) -> String {
        format!("line {}: {reason}", self.text[..self.at].matches('\n').count() + 1)
    }

    /// Skips white space and comments.
    fn skip(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let after = rest.trim_start();
            self.at += rest.len() - after.len();
            if !after.starts_with('#') {
                return;
            }
            self.at += after.find('\n').unwrap_or(after.len());
        }
    }

    fn character(&mut self) -> Option<char> {
        let next = self.text[self.at..].chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// The character that an escape stands for, after its backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let digits = match self.character() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(same @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'')) => return Ok(same),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.error("an escape is none of \\n \\r \\t \\\\ \\\" \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH")),
        };
        let number = self.text.get(self.at..self.at + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += if number.is_some() { digits } else { 0 };
        number.and_then(char::from_u32).ok_or_else(|| self.error("an escape names no character"))
    }

    fn string(&mut self) -> Result<Token<'t>, String> {
        let mut text = String::new();
        loop {
            match self.character() {
                None => return Err(self.error("a text does not end")),
                Some('"') => return Ok(Token::Text(text)),
                Some('\\') => text.push(self.escaped()?),
                Some(other) => text.push(other),
            }
        }
    }

    fn set(&mut self) -> Result<Token<'t>, String> {
        let is_negated = self.text[self.at..].starts_with('^');
        self.at += usize::from(is_negated);
        let mut set = Set::default();
        while let Some(first) = self.of_set()? {
            let rest = &self.text[self.at..];
            let mut last = first;
            if rest.starts_with('-') && !rest.starts_with("-]") {
                self.at += 1;
                last = self.of_set()?.ok_or_else(|| self.error("a range does not end"))?;
            }
            if last < first {
                return Err(self.error("a range ends before it begins"));
            }
            set.add(&Set::of(first, last));
        }
        let set = if is_negated { set.complement() } else { set };
        if set == Set::default() { Err(self.error("a set of characters is empty")) } else { Ok(Token::Character(set)) }
    }

    /// A character of a set; `None` at its end.
    fn of_set(&mut self) -> Result<Option<char>, String> {
        match self.character() {
            None => Err(self.error("a set of characters does not end")),
            Some(']') => Ok(None),
            Some('\\') => self.escaped().map(Some),
            Some(other) => Ok(Some(other)),
        }
    }

    /// `{2}`, `{2,}`, `{,3}` or `{2,3}`, after its bracket.
    fn counts(&mut self) -> Result<Token<'t>, String> {
        let rest = &self.text[self.at..];
        let end = rest.find('}').ok_or_else(|| self.error("a number of times does not end"))?;
        let inner = &rest[..end];
        self.at += end + 1;
        let number = |text: &str| {
            text.trim().parse::<u32>().map_err(|_| self.error("a number of times is none of {2}, {2,} and {2,3}"))
        };
        Ok(match inner.split_once(',') {
            None => Token::Repeat(number(inner)?, Some(number(inner)?)),
            Some((least, most)) => {
                let least = if least.trim().is_empty() { 0 } else { number(least)? };
                Token::Repeat(least, if most.trim().is_empty() { None } else { Some(number(most)?) })
            }
        })
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}
