//! The path of a place in a body, such as `messages[0].content[1].text`. It is computed only for an error, so that a
//! valid body pays nothing for it.

use super::span::Span;
use super::unescape::unescape;
use std::fmt::Write;

/// The most characters of a member's name in a path.
const NAME_MAX: usize = 64;
/// The most levels of a path.
const LEVELS_MAX: usize = 16;

enum Level {
    /// An object, and its member's name once that is read.
    Object(Option<Span>),
    Array(u32),
}

/// The path of the value at `at`; empty at the top. The body is valid JSON up to there.
pub(super) fn path(body: &[u8], at: usize) -> String {
    let mut levels = Vec::new();
    let mut place = 0;
    while place < at.min(body.len()) {
        match body[place] {
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => _ = levels.pop(),
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object(name)) => *name = None,
                None => {}
            },
            b'"' => {
                let end = string_end(body, place + 1);
                // A string that holds the place is a value, or a name that the fault is in.
                if end >= at {
                    break;
                }
                if let Some(Level::Object(name @ None)) = levels.last_mut() {
                    *name = Some(Span::new(place + 1, end));
                }
                place = end;
            }
            _ => {}
        }
        place += 1;
    }
    render(body, &levels)
}

/// The offset of the closing quote.
fn string_end(body: &[u8], mut at: usize) -> usize {
    while at < body.len() && body[at] != b'"' {
        at += if body[at] == b'\\' { 2 } else { 1 };
    }
    at.min(body.len())
}

fn render(body: &[u8], levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels.iter().take(LEVELS_MAX) {
        // Writing to a string does not fail.
        _ = match level {
            Level::Array(index) => write!(path, "[{index}]"),
            Level::Object(None) => Ok(()),
            Level::Object(Some(name)) => {
                let dot = if path.is_empty() { "" } else { "." };
                let name: String = unescape(name.of(body)).chars().take(NAME_MAX).collect();
                write!(path, "{dot}{name}")
            }
        };
    }
    path
}
