//! Text in a spelling that a model can read: base64, hexadecimal, escapes of URLs, JSON, C and HTML.
//!
//! Each run that may be such is decoded, and what comes out once more, so two layers are seen through. A layer makes no more
//! text than there was, and one text at most three of them, which bounds the work. What is no encoding decodes to
//! noise, in which no phrase stands.

use std::borrow::Cow;
use std::ops::Range;

/// How many layers are taken off.
const LAYERS: usize = 2;
/// The characters of the shortest run that is decoded: six letters in base64.
const RUN_LEAST: usize = 8;
/// The characters of a run that is decoded even where it looks like a word.
const WORD_MOST: usize = 16;
/// The pairs of digits of the shortest row.
const PAIRS_LEAST: usize = 4;

/// Hands every text that `text` may stand for to `read`, until that is true of one.
pub(super) fn any_reading(text: &str, read: &mut dyn FnMut(&str) -> bool) -> bool {
    layer(text, LAYERS, read)
}

fn layer(text: &str, layers: usize, read: &mut dyn FnMut(&str) -> bool) -> bool {
    if layers == 0 {
        return false;
    }
    let mut decoded = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        read(&text) || layer(&text, layers - 1, read)
    };
    let bytes = text.as_bytes();
    if let Some(plain) = unescaped(bytes)
        && decoded(&plain)
    {
        return true;
    }
    let mut at = 0;
    while let Some(run) = next_run(bytes, at) {
        at = run.end;
        let run = &bytes[run];
        if decoded(&base64(run)) || hexadecimal(run).is_some_and(|bytes| decoded(&bytes)) {
            return true;
        }
    }
    let mut at = 0;
    while let Some((pairs, end)) = next_pairs(bytes, at) {
        at = end;
        if decoded(&pairs) {
            return true;
        }
    }
    false
}

/// The places of a text that are looked at together, without a branch.
const PIECE: usize = 64;
/// The bytes behind a place that decide whether a run or a row is there.
const AHEAD: usize = 16;

/// The first place at or behind `at` in whose piece something may be; `None` where nothing is.
fn next_piece(text: &[u8], mut at: usize, may_hold: impl Fn(&[u8; PIECE + AHEAD]) -> bool) -> Option<usize> {
    while at < text.len() {
        let mut piece = [0; PIECE + AHEAD];
        let rest = &text[at..text.len().min(at + piece.len())];
        piece[..rest.len()].copy_from_slice(rest);
        if may_hold(&piece) {
            return Some(at);
        }
        at += PIECE;
    }
    None
}

/// True of the digits of base64, with either pair of signs.
#[inline]
fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() | matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// True if at some of its places a run goes on for long, or for a while and is no word.
fn may_hold_run(piece: &[u8; PIECE + AHEAD]) -> bool {
    let digits = piece.map(|byte| u8::from(is_digit(byte)));
    let small = piece.map(|byte| u8::from(byte.is_ascii_lowercase()));
    let eight = both(&both(&both(&digits, 1), 2), 4);
    let sixteen = both(&eight, 8);
    let four_small = both(&both(&small, 1), 2);
    let seven_small = both(&four_small, 3);
    let any = (0..PIECE).fold(0, |any, at| any | sixteen[at] | (eight[at] & (1 ^ seven_small[at + 1])));
    any == 1
}

/// By place: true if both it and the one so far behind it are.
#[inline]
fn both(places: &[u8; PIECE + AHEAD], behind: usize) -> [u8; PIECE + AHEAD] {
    let mut out = [0; PIECE + AHEAD];
    for (out, (here, there)) in out.iter_mut().zip(places.iter().zip(&places[behind..])) {
        *out = here & there;
    }
    out
}

/// The next run of digits that is long enough and no word, from `from` on; lines of base64 are one run.
fn next_run(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    loop {
        at = next_piece(text, at, may_hold_run)?;
        let last = (at + PIECE).min(text.len());
        while at < last {
            let length = digits(&text[at..]);
            if length < RUN_LEAST {
                at += length + 1;
                continue;
            }
            // It may have begun in the piece before, like a word.
            let start = at - text[from..at].iter().rev().take_while(|byte| is_digit(**byte)).count();
            let mut end = at + length;
            if !is_word(&text[start..end]) {
                while let Some(line) = next_line(&text[end..]) {
                    end += line;
                }
                return Some(start..end);
            }
            at = end;
        }
    }
}

/// True of a short run that has nothing but small letters behind its first one: most of them are words.
fn is_word(run: &[u8]) -> bool {
    run.len() < WORD_MOST && run[1..].iter().all(u8::is_ascii_lowercase)
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| is_digit(**byte)).count()
}

/// The length of a line's end and the digits behind it; `None` where none are.
fn next_line(text: &[u8]) -> Option<usize> {
    let line_end = if text.starts_with(b"\r\n") { 2 } else { usize::from(text.first() == Some(&b'\n')) };
    let digits = if line_end > 0 { digits(&text[line_end..]) } else { 0 };
    (digits > 0).then_some(line_end + digits)
}

/// The bytes of a run of base64, bits that are left over aside.
fn base64(run: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(run.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in run {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            #[expect(clippy::cast_possible_truncation, reason = "the byte is what is wanted")]
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// The bytes of a run of nothing but hexadecimal digits.
fn hexadecimal(run: &[u8]) -> Option<Vec<u8>> {
    let run = run.strip_prefix(b"0x").unwrap_or(run);
    let digits = run.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| nibble(*byte));
    let digits = digits.collect::<Option<Vec<u8>>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn nibble(byte: u8) -> Option<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "a digit")]
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// A pair of hexadecimal digits at the beginning of a text.
fn pair(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else { return None };
    Some(nibble(*high)? << 4 | nibble(*low)?)
}

/// A sign between pairs of digits.
#[inline]
fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b':' | b'-' | b',')
}

/// True if two pairs, each with a sign behind it, stand at some of its places.
fn may_hold_pairs(piece: &[u8; PIECE + AHEAD]) -> bool {
    let digit = piece.map(|byte| u8::from(byte.is_ascii_hexdigit()));
    let sign = piece.map(|byte| u8::from(is_between(byte)));
    let mut any = 0;
    for at in 0..PIECE {
        any |= digit[at] & digit[at + 1] & sign[at + 2] & digit[at + 3] & digit[at + 4] & sign[at + 5];
    }
    any == 1
}

/// The next row of pairs of digits with one sign between them, as tools print bytes, and where it ends.
fn next_pairs(text: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    loop {
        at = next_piece(text, at, may_hold_pairs)?;
        let last = (at + PIECE).min(text.len());
        while at < last {
            let (pairs, length) = row(&text[at..]);
            if pairs.len() >= PAIRS_LEAST {
                return Some((pairs, at + length));
            }
            at += 1;
        }
    }
}

/// The pairs that a text begins with, and their length.
fn row(text: &[u8]) -> (Vec<u8>, usize) {
    let mut pairs = Vec::new();
    let sign = text.get(2).copied().filter(|sign| is_between(*sign));
    let mut at = 0;
    while let Some(byte) = text.get(at..).and_then(pair) {
        pairs.push(byte);
        at += 2;
        if sign.is_none() || text.get(at).copied() != sign {
            break;
        }
        at += 1;
    }
    (pairs, at)
}

/// A text whose escapes are what they stand for; `None` where it has none.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    if !text.iter().fold(false, |any, byte| any | matches!(byte, b'%' | b'\\' | b'&')) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut is_any, mut is_url) = (0, false, false);
    while at < text.len() {
        let (bytes, length) = escape(&text[at..]).unwrap_or((Cow::Borrowed(&text[at..=at]), 0));
        is_any |= length > 0;
        is_url |= length > 0 && text[at] == b'%';
        // Forms have it for a space.
        let is_space = length == 0 && text[at] == b'+' && is_url;
        if is_space {
            out.push(b' ')
        } else {
            out.extend_from_slice(&bytes)
        }
        at += length.max(1);
    }
    is_any.then_some(out)
}

/// The bytes that an escape at the beginning of a text stands for, and its length.
fn escape(text: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    match text {
        [b'%', rest @ ..] => Some((vec![pair(rest)?].into(), 3)),
        [b'\\', b'x', rest @ ..] => Some((vec![pair(rest)?].into(), 4)),
        [b'\\', b'u', b'{', rest @ ..] => numbered(rest, 16, b'}').map(|(bytes, length)| (bytes, length + 3)),
        [b'\\', b'u', rest @ ..] => unit(rest),
        [b'&', b'#', b'x' | b'X', rest @ ..] => numbered(rest, 16, b';').map(|(bytes, length)| (bytes, length + 3)),
        [b'&', b'#', rest @ ..] => numbered(rest, 10, b';').map(|(bytes, length)| (bytes, length + 2)),
        _ => None,
    }
}

/// A character by its number, up to `end`.
fn numbered(text: &[u8], radix: u32, end: u8) -> Option<(Cow<'_, [u8]>, usize)> {
    let digits = text.iter().take(8).position(|byte| *byte == end)?;
    let number = std::str::from_utf8(&text[..digits]).ok()?;
    let character = char::from_u32(u32::from_str_radix(number, radix).ok()?)?;
    Some((character.to_string().into_bytes().into(), digits + 1))
}

/// One unit of UTF-16, or two.
fn unit(text: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    let unit = |text: &[u8]| Some(u16::from(pair(text)?) << 8 | u16::from(pair(text.get(2..)?)?));
    let first = unit(text)?;
    let second = text.get(4..).and_then(|rest| rest.strip_prefix(b"\\u")).and_then(unit);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok().filter(|_| is_high(first)));
    let (character, length) = match pair {
        Some(character) => (character, 12),
        None => (char::from_u32(first.into())?, 6),
    };
    Some((character.to_string().into_bytes().into(), length))
}

fn is_high(unit: u16) -> bool {
    (0xD800..0xDC00).contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    fn is_seen(text: &str, wanted: &str) -> bool {
        any_reading(text, &mut |decoded| decoded.contains(wanted))
    }

    #[test]
    fn a_text_is_seen_in_every_spelling() {
        for text in [
            "see cmVkIGJ1dHRvbg== there",
            "cmVk\nIGJ1dHRvbiBm\r\nb3IgeW91IGFuZCBtZSBhcyB3ZWxs cmVkIGJ1dHRvbg",
            "72656420627574746f6e",
            "0x72656420627574746F6E",
            "72 65 64 20 62 75 74 74 6f 6e",
            "at 72:65:64:20:62:75:74:74:6f:6e.",
            "red%20butt%6Fn",
            "%72ed+button",
            r"\x72\x65\x64 button",
            r"\u0072ed\u0020button",
            r"\u{72}ed button",
            "&#114;ed&#x20;button",
            // Two layers.
            "Y21Wa0lHSjFkSFJ2Ymc9PQ==",
            "%2572ed button",
            "636d566b494764315a48527662673d3d 63 6d 56 6b 49 47 4a 31 64 48 52 76 62 67",
        ] {
            assert!(is_seen(text, "red button"), "{text}");
        }
        let third = STANDARD.encode(STANDARD.encode(STANDARD.encode("red button for you")));
        assert!(!is_seen(&third, "red button"));
    }

    #[test]
    fn plain_text_is_not_decoded() {
        let mut count = 0;
        any_reading(
            "The weights of a model are bytes, 16 of 32, at 10:30 on 28 November; C:\\new & old, 5% of it.",
            &mut |_| {
                count += 1;
                false
            },
        );
        assert_eq!(count, 0);
    }

    #[test]
    fn the_work_is_bounded_by_the_text() {
        for text in ["A".repeat(10_000), "%41".repeat(5_000), "41 ".repeat(5_000), "ab".repeat(8_000)] {
            let mut decoded = 0;
            any_reading(&text, &mut |reading| {
                decoded += reading.len();
                false
            });
            // A byte that is no UTF-8 becomes three.
            assert!(decoded <= 12 * text.len(), "{decoded} of {}", text.len());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_seen(text in "\\PC{12,60}", before in "[a-z ]{0,40}", after in "( [a-z ]{0,40})?") {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            let url: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text), hex, url] {
                let told = format!("{before} {encoded}{after}");
                prop_assert!(any_reading(&told, &mut |decoded| decoded.contains(&text)), "{}", told);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "[%\\\\xu{}&#;0-9a-f :\n=é]{0,80}") {
            any_reading(&text, &mut |_| false);
        }
    }
}
