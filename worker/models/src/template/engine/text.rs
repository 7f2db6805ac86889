//! Python's texts: `str(value)`, `repr(value)`, white space, cases and lines.

use std::borrow::Cow;

use minijinja::{Error, State, Value};

use super::namespace::Namespace;
use super::words::{Kind, kind};
use super::{budget, json};

/// The value as Python's `str` writes it.
pub(super) fn of<'a>(state: &mut State, value: &'a Value) -> Result<Cow<'a, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.into());
    }
    if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
        let fields = Value::from_pairs(namespace.fields());
        return Ok(format!("<Namespace {}>", of(state, &fields)?).into());
    }
    Ok(match kind(value) {
        Kind::Undefined => "".into(),
        Kind::Iterator | Kind::Namespace | Kind::Other => value.to_string().into(),
        _ => json::python_repr(value, budget::left(state)).ok_or_else(budget::exhausted)?.into(),
    })
}

/// White space, as `str.strip` and `str.split` see it.
pub(super) const fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1C}'..='\u{1F}')
}

/// Lines as `str.splitlines` cuts them, without their ends unless they are to be kept.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    while let Some(at) = rest.find(ends) {
        let first = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { first };
        lines.push(if keep_ends { &rest[..end] } else { &rest[..at] });
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The first character in upper case, the others in lower case.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map_or_else(String::new, titled);
    first + &characters.as_str().to_lowercase()
}

/// One character as it begins a word: `ß` is `Ss`.
fn titled(character: char) -> String {
    let mut upper = character.to_uppercase();
    let first = upper.next().map_or_else(String::new, String::from);
    upper.flat_map(char::to_lowercase).fold(first, |mut text, next| {
        text.push(next);
        text
    })
}

/// `str.title`: every run of letters begins in upper case.
pub(super) fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let is_letter = character.is_lowercase() || character.is_uppercase();
        match (is_letter, inside) {
            (true, true) => out.extend(character.to_lowercase()),
            (true, false) => out.push_str(&titled(character)),
            (false, _) => out.push(character),
        }
        inside = is_letter;
    }
    out
}

/// The filter `title`, which cuts words at white space, dashes and opening brackets.
pub(super) fn title_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for character in text.chars() {
        let cuts = is_space(character) || "-({[<".contains(character);
        if begins && !cuts {
            out.extend(character.to_uppercase());
        } else {
            out.extend(character.to_lowercase());
        }
        begins = cuts;
    }
    out
}

/// True if there is a letter with a case, and all of them have this one.
pub(super) fn is_cased(text: &str, is_it: fn(char) -> bool) -> bool {
    let mut cased = text.chars().filter(|c| c.is_lowercase() || c.is_uppercase()).peekable();
    cased.peek().is_some() && cased.all(is_it)
}

/// The first digit of every run of ten in Unicode, beyond those of Latin.
const ZEROS: [u32; 36] = [
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0,
    0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
];

/// True for a decimal digit of any script.
pub(super) fn is_decimal(character: char) -> bool {
    character.is_ascii_digit() || ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&u32::from(character)))
}

/// A text with HTML's five signs as entities.
pub(super) fn escaped(state: &mut State, own: &str) -> Result<String, Error> {
    budget::charge(state, own.len() * 6)?;
    let mut out = String::with_capacity(own.len());
    for character in own.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            other => out.push(other),
        }
    }
    Ok(out)
}
