//! Checks that an answer is the very part of the very object that was asked for. Pure.

use std::ops::Range;

use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};

use super::error::HttpError;
use super::head::{Framing, Head, content_range, unsatisfied_range};
use crate::source::{Object, Tag};

/// Which bytes of `object` a body framed by `framing` brings after `head`: `wanted`, or a beginning
/// of it (RFC 9110 §15.3.7 lets a server send less than was asked for).
///
/// # Errors
/// [`HttpError::Changed`] if it is of another object, [`HttpError::Protocol`] if it is not what
/// was asked for.
pub(super) fn check(
    head: &Head,
    framing: Framing,
    object: &Object,
    wanted: &Range<u64>,
) -> Result<Range<u64>, HttpError> {
    check_tag(&head.headers, &object.tag)?;
    let encoding = text(&head.headers, CONTENT_ENCODING).unwrap_or("identity");
    if !encoding.eq_ignore_ascii_case("identity") {
        return Err(protocol(
            "the server encoded the object's bytes though they were asked for as they are".to_owned(),
        ));
    }
    let sent = match head.status {
        StatusCode::PARTIAL_CONTENT => check_range(head, object, wanted)?,
        _ => check_whole(framing, object, wanted)?,
    };
    match framing {
        Framing::Length(length) if length != sent.end - sent.start => {
            Err(protocol(format!("bytes {}..{} in a body of {length} bytes", sent.start, sent.end)))
        }
        Framing::UntilClose => Err(protocol("the server sent a part without its length".to_owned())),
        Framing::Length(_) | Framing::Chunked => Ok(sent),
    }
}

/// The error that a 416 is: a range that the object once had is gone, or the server is wrong.
pub(super) fn unsatisfied(headers: &HeaderMap, object: &Object) -> HttpError {
    let total = headers.get(CONTENT_RANGE).and_then(|value| unsatisfied_range(value.as_bytes()));
    match total {
        Some(total) if total == object.bytes => {
            protocol("the server has bytes of this range, and says it has none (416)".to_owned())
        }
        Some(total) => size_changed(object, total),
        None => HttpError::Changed { detail: "it no longer has the bytes that were asked for (416)".to_owned() },
    }
}

fn check_range(head: &Head, object: &Object, wanted: &Range<u64>) -> Result<Range<u64>, HttpError> {
    let value = head.headers.get(CONTENT_RANGE).and_then(|value| content_range(value.as_bytes()));
    let Some((sent, total)) = value else {
        return Err(protocol("a part without a Content-Range that says which".to_owned()));
    };
    if let Some(total) = total.filter(|total| *total != object.bytes) {
        return Err(size_changed(object, total));
    }
    if sent.start != wanted.start || sent.end > wanted.end {
        let (asked, came) = (wanted, sent);
        let ranges = format!("asked for bytes {}..{}, got {}..{}", asked.start, asked.end, came.start, came.end);
        return Err(protocol(ranges));
    }
    Ok(sent)
}

/// A whole object is as good as a part, if all of it was wanted.
fn check_whole(framing: Framing, object: &Object, wanted: &Range<u64>) -> Result<Range<u64>, HttpError> {
    match framing {
        _ if *wanted != (0..object.bytes) => Err(protocol(
            "the server ignores ranges (it answered 200 instead of 206); use one that supports them".to_owned(),
        )),
        Framing::Length(length) if length != object.bytes => Err(size_changed(object, length)),
        _ => Ok(wanted.clone()),
    }
}

/// Checks that the answer is of the object with this tag. Strong tags must be equal; a weak one is
/// compared weakly and joined by the date. Without a tag the date must be equal.
fn check_tag(headers: &HeaderMap, pinned: &Tag) -> Result<(), HttpError> {
    let etag = text(headers, ETAG);
    let modified = text(headers, LAST_MODIFIED);
    let same_date = pinned.modified.is_none() || modified == pinned.modified.as_deref();
    let same = match (pinned.etag.as_deref(), etag) {
        (Some(pinned), Some(etag)) if pinned.starts_with("W/") => opaque(pinned) == opaque(etag) && same_date,
        (Some(pinned), Some(etag)) => pinned == etag,
        (Some(_), None) => pinned.modified.is_some() && same_date,
        (None, _) => same_date,
    };
    if same {
        return Ok(());
    }
    let shown = |etag: Option<&str>, date: Option<&str>| etag.or(date).unwrap_or("no tag").to_owned();
    let was = shown(pinned.etag.as_deref(), pinned.modified.as_deref());
    let is = if pinned.etag.is_some() { shown(etag, modified) } else { shown(None, modified) };
    Err(HttpError::Changed { detail: format!("from {was} to {is}") })
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn size_changed(object: &Object, total: u64) -> HttpError {
    HttpError::Changed { detail: format!("from {} to {total} bytes", object.bytes) }
}

fn protocol(problem: String) -> HttpError {
    HttpError::Protocol { problem }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use http::header::HeaderValue;

    use super::*;

    fn object(etag: Option<&str>, modified: Option<&str>) -> Object {
        let tag = Tag { etag: etag.map(Into::into), modified: modified.map(Into::into), version: None };
        Object { name: "a".to_owned(), bytes: 100, tag, checksum: None }
    }

    fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Head {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Head { status: StatusCode::from_u16(status).expect("a status"), version: Version::HTTP_11, headers }
    }

    fn outcome(head: &Head, length: u64, object: &Object) -> &'static str {
        match check(head, Framing::Length(length), object, &(10..20)) {
            Ok(sent) => {
                assert!(sent.start == 10 && sent.end > 10 && sent.end <= 20, "{sent:?}");
                if sent.end == 20 { "good" } else { "short" }
            }
            Err(HttpError::Changed { .. }) => "changed",
            Err(HttpError::Protocol { .. }) => "protocol",
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn only_the_very_range_of_the_very_size_is_good() {
        let pinned = object(Some("\"a\""), None);
        let range = |range| answer(206, &[("etag", "\"a\""), ("content-range", range)]);
        assert_eq!(outcome(&range("bytes 10-19/100"), 10, &pinned), "good");
        assert_eq!(outcome(&range("bytes 10-19/100"), 9, &pinned), "protocol");
        assert_eq!(outcome(&range("bytes 11-20/100"), 10, &pinned), "protocol");
        assert_eq!(outcome(&range("bytes 10-19/101"), 10, &pinned), "changed");
        assert_eq!(outcome(&range("bytes 10-19/*"), 10, &pinned), "good", "a total may be unknown");
        assert_eq!(outcome(&range("bytes 10-14/100"), 5, &pinned), "short");
        assert_eq!(outcome(&range("bytes 10-10/*"), 1, &pinned), "short");
        assert_eq!(outcome(&range("bytes 10-20/100"), 11, &pinned), "protocol");
        assert_eq!(outcome(&range("bytes 9-19/100"), 11, &pinned), "protocol");
        assert_eq!(outcome(&answer(206, &[("etag", "\"a\"")]), 10, &pinned), "protocol");
        assert_eq!(outcome(&answer(200, &[("etag", "\"a\"")]), 100, &pinned), "protocol");
    }

    #[test]
    fn a_whole_object_is_good_where_all_of_it_was_wanted() {
        let pinned = object(Some("\"a\""), None);
        let head = answer(200, &[("etag", "\"a\"")]);
        assert!(check(&head, Framing::Length(100), &pinned, &(0..100)).is_ok());
        assert!(check(&head, Framing::Length(99), &pinned, &(0..100)).is_err());
    }

    #[test]
    fn tags_are_compared_as_strongly_as_they_can_be() {
        let part = |fields: &[(&'static str, &'static str)]| {
            answer(206, &[&[("content-range", "bytes 10-19/100")], fields].concat())
        };
        let cases = [
            (Some("\"a\""), None, part(&[("etag", "\"a\"")]), "good"),
            (Some("\"a\""), None, part(&[("etag", "\"b\"")]), "changed"),
            (Some("\"a\""), None, part(&[("etag", "W/\"a\"")]), "changed"),
            (Some("\"a\""), None, part(&[]), "changed"),
            (Some("\"a\""), Some("then"), part(&[("last-modified", "then")]), "good"),
            (Some("\"a\""), Some("then"), part(&[("last-modified", "now")]), "changed"),
            (Some("W/\"a\""), Some("then"), part(&[("etag", "\"a\""), ("last-modified", "then")]), "good"),
            (Some("W/\"a\""), Some("then"), part(&[("etag", "W/\"a\""), ("last-modified", "now")]), "changed"),
            (None, Some("then"), part(&[("etag", "\"b\""), ("last-modified", "then")]), "good"),
            (None, Some("then"), part(&[]), "changed"),
            (None, None, part(&[]), "good"),
        ];
        for (etag, modified, head, wanted) in cases {
            assert_eq!(outcome(&head, 10, &object(etag, modified)), wanted, "{etag:?} {modified:?} {head:?}");
        }
    }

    #[test]
    fn encoded_bytes_are_refused() {
        let fields = [("content-range", "bytes 10-19/100"), ("content-encoding", "gzip")];
        assert_eq!(outcome(&answer(206, &fields), 10, &object(None, None)), "protocol");
    }

    #[test]
    fn an_unsatisfied_range_means_a_change_unless_the_size_is_the_same() {
        let told = |value| unsatisfied(&answer(416, &[("content-range", value)]).headers, &object(None, None));
        assert!(matches!(told("bytes */50"), HttpError::Changed { .. }));
        assert!(matches!(told("bytes */100"), HttpError::Protocol { .. }));
        assert!(matches!(told("?"), HttpError::Changed { .. }));
    }
}
