//! A list of calls in Python's syntax, `[f(a=1, b="x"), g()]`, with literals for arguments.

use super::object::{Head, Progress};
use serde_json::{Map, Number, Value};

/// The deepest nesting of literals.
const DEPTH_MAX: usize = 32;

/// A list under way: where its brackets end.
#[derive(Debug)]
pub(super) struct Brackets {
    from: usize,
    depth: usize,
    quote: Option<char>,
    is_escaped: bool,
    has_begun: bool,
}

impl Brackets {
    /// A list whose bracket, the next to be pushed, was the last of what is held from `from` on.
    pub(super) fn new(from: usize) -> Self {
        Self { from, depth: 1, quote: None, is_escaped: false, has_begun: false }
    }

    pub(super) fn from(&self) -> usize {
        self.from
    }

    /// Takes the next character after the first bracket.
    pub(super) fn push(&mut self, character: char) -> Progress {
        if !self.has_begun && !character.is_ascii_whitespace() {
            self.has_begun = true;
            // A list of JSON, or prose in brackets, is none of calls.
            if !is_name_start(character) {
                return Progress::Never;
            }
        }
        match (self.quote, character) {
            (Some(_), _) if self.is_escaped => self.is_escaped = false,
            (Some(_), '\\') => self.is_escaped = true,
            (Some(quote), _) if quote == character => self.quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => self.quote = Some(character),
            (None, '(' | '[' | '{') => self.depth += 1,
            (None, ')' | ']' | '}') => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Progress::Complete;
                }
            }
            (None, _) => {}
        }
        Progress::Within
    }
}

fn is_name_start(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

/// The calls of a complete list; `None` where it is none.
pub(super) fn calls(text: &str) -> Option<Vec<Head>> {
    let mut parser = Parser { text, at: 0 };
    parser.expect('[')?;
    let mut calls = Vec::new();
    loop {
        let name = parser.name()?;
        parser.expect('(')?;
        let mut arguments = Map::new();
        while !parser.take(')') {
            let name = parser.name()?;
            parser.expect('=')?;
            let value = parser.value(DEPTH_MAX)?;
            if arguments.insert(name, value).is_some() {
                return None;
            }
            if !parser.take(',') {
                parser.expect(')')?;
                break;
            }
        }
        calls.push(Head { name, arguments: Value::Object(arguments).to_string() });
        if !parser.take(',') {
            parser.expect(']')?;
            return parser.rest().is_empty().then_some(calls);
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        self.text[self.at..].trim_start()
    }

    fn skip(&mut self) {
        self.at = self.text.len() - self.rest().len();
    }

    fn take(&mut self, character: char) -> bool {
        self.skip();
        let is_next = self.rest().starts_with(character);
        self.at += if is_next { character.len_utf8() } else { 0 };
        is_next
    }

    fn expect(&mut self, character: char) -> Option<()> {
        self.take(character).then_some(())
    }

    /// A name, of a function perhaps with dots and hyphens in it.
    fn name(&mut self) -> Option<String> {
        self.skip();
        let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
        let rest = self.rest();
        let name = &rest[..rest.find(|character| !is_part(character)).unwrap_or(rest.len())];
        self.at += name.len();
        name.starts_with(is_name_start).then(|| name.to_owned())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.skip();
        match self.rest().chars().next()? {
            quote @ ('"' | '\'') => self.string(quote).map(Value::String),
            '[' => self.items('[', ']', depth).map(Value::Array),
            '(' => self.items('(', ')', depth).map(Value::Array),
            '{' => self.dictionary(depth),
            _ => self.word(),
        }
    }

    fn items(&mut self, open: char, close: char, depth: usize) -> Option<Vec<Value>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.value(depth)?);
            if !self.take(',') {
                self.expect(close)?;
                break;
            }
        }
        Some(items)
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.expect('{')?;
        let mut members = Map::new();
        while !self.take('}') {
            let Value::String(name) = self.value(depth)? else { return None };
            self.expect(':')?;
            members.insert(name, self.value(depth)?);
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        Some(Value::Object(members))
    }

    /// `True`, `None` and their like, or a number.
    fn word(&mut self) -> Option<Value> {
        let rest = self.rest();
        let end = rest.find([',', ')', ']', '}', ':']).unwrap_or(rest.len());
        let word = rest[..end].trim_end();
        self.at += end;
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            _ => word.parse::<Number>().ok().map(Value::Number),
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        self.expect(quote)?;
        let mut text = String::new();
        let mut characters = self.text[self.at..].char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => {
                    let (_, escaped) = characters.next()?;
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '\\' | '\'' | '"' => text.push(escaped),
                        'x' => text.push(code(&mut characters, 2)?),
                        'u' => text.push(code(&mut characters, 4)?),
                        // Python leaves what is no escape as it stands.
                        other => text.extend(['\\', other]),
                    }
                }
                _ if character == quote => {
                    self.at += at + quote.len_utf8();
                    return Some(text);
                }
                _ => text.push(character),
            }
        }
        None
    }
}

/// A character by its hexadecimal number.
fn code(characters: &mut std::str::CharIndices<'_>, digits: usize) -> Option<char> {
    let mut number = 0;
    for _ in 0..digits {
        number = number * 16 + characters.next()?.1.to_digit(16)?;
    }
    char::from_u32(number)
}
