//! From a string as it stands between its quotes to its characters.

use std::borrow::Cow;

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
