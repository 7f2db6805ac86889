//! Ranges of whole extents, as `Range` and `Content-Range` write them.

use super::REQUEST_EXTENTS_MAX;
use crate::extent::{self, EXTENT_BYTES};
use std::ops::Range;
use thiserror::Error;

/// Errors of a request's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("`Range` must be `bytes=a-b` over 1 to {REQUEST_EXTENTS_MAX} whole extents of {EXTENT_BYTES} bytes")]
pub struct RangeError;

/// The `Range` of these extents of a file of `file_bytes`; none where they are not 1 to [`REQUEST_EXTENTS_MAX`] of it.
///
/// ```
/// assert_eq!(wire::peers::range_header(1..2, 5 << 20).as_deref(), Some("bytes=4194304-5242879"));
/// ```
#[must_use]
pub fn range_header(extents: Range<u64>, file_bytes: u64) -> Option<String> {
    let bytes = bytes_of(&extents, file_bytes)?;
    Some(format!("bytes={}-{}", bytes.start, bytes.end - 1))
}

/// Reads a `Range` as a range of extents.
///
/// # Errors
/// It is not one range of 1 to [`REQUEST_EXTENTS_MAX`] whole extents of a file of `file_bytes`.
pub fn parse_range(text: &str, file_bytes: u64) -> Result<Range<u64>, RangeError> {
    let bytes = text.strip_prefix("bytes=").and_then(inclusive).ok_or(RangeError)?;
    extents_of(&bytes, file_bytes).ok_or(RangeError)
}

/// The `Content-Range` of these extents.
#[must_use]
pub fn content_range(extents: Range<u64>, file_bytes: u64) -> Option<String> {
    let bytes = bytes_of(&extents, file_bytes)?;
    Some(format!("bytes {}-{}/{file_bytes}", bytes.start, bytes.end - 1))
}

/// Reads a `Content-Range` as a range of extents of a file of `file_bytes`; none where it is anything else.
#[must_use]
pub fn parse_content_range(text: &str, file_bytes: u64) -> Option<Range<u64>> {
    let (bytes, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    if number(whole)? != file_bytes {
        return None;
    }
    extents_of(&inclusive(bytes)?, file_bytes)
}

/// The bytes of extents, of which there is at least one.
fn bytes_of(extents: &Range<u64>, file_bytes: u64) -> Option<Range<u64>> {
    let count = extents.end.checked_sub(extents.start)?;
    if !(1..=REQUEST_EXTENTS_MAX).contains(&count) {
        return None;
    }
    Some(extent::range(file_bytes, extents.start)?.start..extent::range(file_bytes, extents.end - 1)?.end)
}

fn extents_of(bytes: &Range<u64>, file_bytes: u64) -> Option<Range<u64>> {
    let extents = bytes.start / EXTENT_BYTES..bytes.end.div_ceil(EXTENT_BYTES);
    (bytes_of(&extents, file_bytes)? == *bytes).then_some(extents)
}

/// Reads `a-b`, where `b` is the last byte.
fn inclusive(text: &str) -> Option<Range<u64>> {
    let (start, last) = text.split_once('-')?;
    Some(number(start)?..number(last)?.checked_add(1)?)
}

/// Digits alone: `u64`'s own parser takes a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
