//! From a string as it stands between its quotes to its characters.

use std::borrow::Cow;
use std::ops::Range;

/// The characters of a string. Escapes that stand for none are kept as they are, so that a text which is not JSON
/// comes through whole.
#[must_use]
pub fn unescape(raw: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(raw);
    let Some(first) = text.find('\\') else { return text };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(after) = rest.strip_prefix('\\') {
        let (character, length) = escaped(after).unwrap_or(('\\', 0));
        out.push(character);
        let tail = &after[length..];
        let next = tail.find('\\').unwrap_or(tail.len());
        out.push_str(&tail[..next]);
        rest = &tail[next..];
    }
    Cow::Owned(out)
}

/// The places in a string as it stands of ranges of its characters' bytes, which are sorted and disjoint and begin
/// and end at characters. An escape is in a range as a whole.
pub(super) fn places(raw: &str, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut bounds = ranges.iter().flat_map(|range| [range.start, range.end]).peekable();
    let mut places = Vec::with_capacity(2 * ranges.len());
    let (mut rest, mut characters) = (raw, 0);
    loop {
        while bounds.next_if(|bound| *bound <= characters).is_some() {
            places.push(raw.len() - rest.len());
        }
        let Some(first) = rest.chars().next() else { break };
        let escape = rest.strip_prefix('\\').and_then(escaped);
        let (character, length) =
            escape.map_or((first, first.len_utf8()), |(character, length)| (character, 1 + length));
        characters += character.len_utf8();
        rest = &rest[length..];
    }
    places.extend(bounds.map(|_| raw.len()));
    places.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
}

/// The character that an escape stands for, and the escape's length after its backslash in bytes.
fn escaped(after: &str) -> Option<(char, usize)> {
    let character = match after.as_bytes().first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(after),
        _ => return None,
    };
    Some((character, 1))
}

fn unicode(after: &str) -> Option<(char, usize)> {
    let high = code_unit(after)?;
    if let Some(character) = char::from_u32(high) {
        return Some((character, 5));
    }
    let low = code_unit(after.get(5..)?.strip_prefix('\\')?)?;
    if !(0xd800..0xdc00).contains(&high) || !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|character| (character, 11))
}

fn code_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('u')?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}
