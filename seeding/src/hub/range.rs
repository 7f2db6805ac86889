//! The part of a file that a request wants: `Range`, `If-Range` and `If-None-Match` (RFC 9110). Pure.

use std::ops::Range;

/// The part of a file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, several, or one in other units.
    Whole,
    /// These bytes, within the file; at least one.
    Part(Range<u64>),
    /// None of them exists: 416.
    Nothing,
}

/// Reads a `Range` on a file of `bytes` bytes. What is malformed, and what asks for several ranges, is ignored, as the
/// RFC allows.
#[must_use]
pub fn wanted(range: &str, bytes: u64) -> Wanted {
    let range = range.trim();
    // The unit's name has no case (RFC 9110 §14.1).
    let Some(set) = range.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).map(|_| &range[6..]) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Whole };
    match (first, last) {
        ("", last) => number(last).map_or(Wanted::Whole, |count| suffix(count, bytes)),
        (first, "") => number(first).map_or(Wanted::Whole, |first| part(first, bytes.saturating_sub(1), bytes)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => part(first, last, bytes),
            _ => Wanted::Whole,
        },
    }
}

fn part(first: u64, last: u64, bytes: u64) -> Wanted {
    if first >= bytes { Wanted::Nothing } else { Wanted::Part(first..last.saturating_add(1).min(bytes)) }
}

fn suffix(count: u64, bytes: u64) -> Wanted {
    if count == 0 || bytes == 0 { Wanted::Nothing } else { Wanted::Part(bytes.saturating_sub(count)..bytes) }
}

/// Digits alone: the standard parser takes a sign. A number too large is beyond every file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Returns true if a list of entity tags (`If-None-Match`) names this one, by weak comparison.
#[must_use]
pub fn names(list: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    list.trim() == "*" || list.split(',').any(|tag| opaque(tag) == opaque(etag))
}

/// Returns true if a `Range` counts under this `If-Range`: only a strong tag that is the same is sure to be.
#[must_use]
pub fn holds(if_range: &str, etag: &str) -> bool {
    let if_range = if_range.trim();
    if_range == etag && !etag.starts_with("W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_rfc_has_it() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-99", Wanted::Part(0..10)),
            ("Bytes=3-", Wanted::Part(3..10)),
            ("bytes=-4", Wanted::Part(6..10)),
            ("bytes=-40", Wanted::Part(0..10)),
            ("bytes=9-18446744073709551615", Wanted::Part(9..10)),
            ("bytes=9-99999999999999999999999", Wanted::Part(9..10)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=5-3", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("", Wanted::Whole),
            ("büts=1", Wanted::Whole),
        ] {
            assert_eq!(wanted(text, 10), expected, "{text}");
        }
    }

    #[test]
    fn of_an_empty_file_there_is_no_part() {
        for text in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(wanted(text, 0), Wanted::Nothing, "{text}");
        }
        assert_eq!(wanted("", 0), Wanted::Whole);
    }

    #[test]
    fn tags_are_compared_as_their_header_wants() {
        assert!(names("\"a\", W/\"b\"", "\"b\"") && names("*", "\"x\"") && !names("\"a\"", "\"b\""));
        assert!(holds("\"a\"", "\"a\"") && !holds("W/\"a\"", "W/\"a\"") && !holds("\"b\"", "\"a\""));
    }
}
