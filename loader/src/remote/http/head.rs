//! Heads of answers: parsing them within bounds, and what they say of the body that follows
//! (RFC 9112 §6). Pure; the bytes are foreign.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};
use thiserror::Error;

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Its fields.
    pub headers: HeaderMap,
}

/// The ways in which the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes follow; none after an answer to `HEAD`, 204 and 304.
    Length(u64),
    /// In chunks that say their length.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Errors of a head.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// Not HTTP/1.
    #[error("the answer's head is not HTTP/1.1: {0}")]
    Malformed(String),
    /// Too large.
    #[error("the answer's head is longer than {bytes_max} bytes or has more than {fields_max} fields")]
    TooLarge {
        /// The bound on its bytes.
        bytes_max: usize,
        /// The bound on its fields.
        fields_max: usize,
    },
    /// Its length is told twice, or in a way that could be read in two ways.
    #[error("the length of the answer's body is ambiguous: {0}")]
    Framing(&'static str),
}

/// Parses a head from the first `bytes` of an answer: the head and its length, or none if more
/// bytes are needed. Fields are at most `fields_max`; the caller bounds the bytes.
///
/// # Errors
/// It is not the head of an HTTP/1.0 or HTTP/1.1 answer.
pub fn parse(bytes: &[u8], bytes_max: usize, fields_max: usize) -> Result<Option<(Head, usize)>, HeadError> {
    let mut fields = vec![httparse::EMPTY_HEADER; fields_max];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= bytes_max => length,
        Ok(httparse::Status::Partial) if bytes.len() < bytes_max => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge { bytes_max, fields_max }),
        Err(error) => return Err(HeadError::Malformed(error.to_string())),
    };
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = StatusCode::from_u16(answer.code.unwrap_or_default())
        .map_err(|_| HeadError::Malformed("a status that is none".to_owned()))?;
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    for field in answer.headers.iter() {
        let malformed = || HeadError::Malformed("a field that is none".to_owned());
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed())?;
        headers.append(name, value);
    }
    Ok(Some((Head { status, version, headers }, length)))
}

impl Head {
    /// The framing of the body that follows, as an answer to `method`.
    ///
    /// # Errors
    /// [`HeadError::Framing`]: different lengths, a length beside chunks, or an unknown coding. A
    /// proxy may have read it otherwise, so nothing after such a head can be believed.
    pub fn framing(&self, method: &Method) -> Result<Framing, HeadError> {
        let length = self.content_length()?;
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if method == Method::HEAD || bodiless || self.status.is_informational() {
            return Ok(Framing::Length(0));
        }
        match (codings.next(), codings.next(), length) {
            (None, _, Some(length)) => Ok(Framing::Length(length)),
            (None, _, None) => Ok(Framing::UntilClose),
            (Some(_), _, Some(_)) => Err(HeadError::Framing("Content-Length beside Transfer-Encoding")),
            (Some(_), Some(_), None) => Err(HeadError::Framing("Transfer-Encoding is given twice")),
            (Some(coding), None, None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(_), None, None) => Err(HeadError::Framing("a Transfer-Encoding other than chunked")),
        }
    }

    /// Returns true if the connection may carry another request once the body has been read.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        let options = self.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let closes = options.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("close"));
        self.version == Version::HTTP_11 && !closes
    }

    fn content_length(&self) -> Result<Option<u64>, HeadError> {
        let mut found = None;
        for value in self.headers.get_all(CONTENT_LENGTH) {
            let length = decimal(value.as_bytes()).ok_or(HeadError::Framing("Content-Length is not a number"))?;
            if found.is_some_and(|earlier| earlier != length) {
                return Err(HeadError::Framing("two different Content-Lengths"));
            }
            found = Some(length);
        }
        Ok(found)
    }
}

/// A number in decimal digits and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` as a half-open range and the whole's size, which is `None`
/// where the server does not know it (`*`).
///
/// A range whose end is before its start, or beyond the whole, is none.
#[must_use]
pub fn content_range(value: &[u8]) -> Option<(std::ops::Range<u64>, Option<u64>)> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (range, total) = text.strip_prefix("bytes ")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (decimal(first.as_bytes())?, decimal(last.as_bytes())?);
    let total = if total == "*" { None } else { Some(decimal(total.as_bytes())?) };
    let is_range = first <= last && last < total.unwrap_or(u64::MAX);
    is_range.then(|| (first..last + 1, total))
}

/// `Content-Range: bytes */TOTAL`, as answers with status 416 carry it.
#[must_use]
pub fn unsatisfied_range(value: &[u8]) -> Option<u64> {
    decimal(value.trim_ascii().strip_prefix(b"bytes */")?)
}

/// The length in the line before a chunk, extensions left aside.
#[must_use]
pub fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii_end();
    let hexadecimal = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    if hexadecimal { u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        parse(text.as_bytes(), 1 << 16, 128).expect("parses").expect("is whole").0
    }

    #[test]
    fn a_head_in_pieces_is_whole_only_at_its_end() {
        let text = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\nabc";
        let end = text.len() - 3;
        for cut in 0..end {
            assert!(parse(&text[..cut], 1 << 16, 128).expect("so far it is well").is_none(), "{cut}");
        }
        let (head, length) = parse(text, 1 << 16, 128).expect("parses").expect("is whole");
        assert_eq!((head.status.as_u16(), length), (206, end));
        assert_eq!(head.framing(&Method::GET), Ok(Framing::Length(3)));
    }

    #[test]
    fn bounds_are_kept() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(9));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(5000));
        for text in [many, long] {
            assert_eq!(
                parse(text.as_bytes(), 4096, 8).expect_err("too large"),
                HeadError::TooLarge { bytes_max: 4096, fields_max: 8 }
            );
        }
    }

    #[test]
    fn an_ambiguous_length_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let head = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
            assert!(matches!(head.framing(&Method::GET), Err(HeadError::Framing(_))), "{fields}");
        }
    }

    #[test]
    fn a_head_answer_has_no_body_and_an_old_server_closes() {
        let old = head("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(old.framing(&Method::HEAD), Ok(Framing::Length(0)));
        assert!(!old.keeps_alive());
        assert!(!head("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n").keeps_alive());
        assert!(head("HTTP/1.1 200 OK\r\n\r\n").keeps_alive());
    }

    #[test]
    fn a_content_range_is_taken_exactly_or_not_at_all() {
        assert_eq!(content_range(b"bytes 0-0/1"), Some((0..1, Some(1))));
        assert_eq!(content_range(b"bytes 4-7/9"), Some((4..8, Some(9))));
        assert_eq!(content_range(b"bytes 4-7/*"), Some((4..8, None)));
        let most = u64::MAX;
        assert_eq!(content_range(format!("bytes 0-{most}/*").as_bytes()), None);
        for wrong in [
            "bytes 4-9/9",
            "bytes 5-4/9",
            "bytes 5-4/*",
            "bytes 0-1/**",
            "items 0-1/9",
            "bytes 0-1",
            "bytes -1-2/9",
            "",
        ] {
            assert_eq!(content_range(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(unsatisfied_range(b"bytes */77"), Some(77));
    }

    #[test]
    fn a_chunks_length_is_hexadecimal_and_may_have_extensions() {
        assert_eq!(chunk_length(b"1aF;name=value"), Some(0x1af));
        for wrong in [&b""[..], b"-1", b"0x10", b"11111111111111111", b";x"] {
            assert_eq!(chunk_length(wrong), None);
        }
    }
}
