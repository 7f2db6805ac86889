//! Requests as they arrive: heads, ranges and conditions (RFC 9110, RFC 9112), parsed and nothing
//! more. It knows no object and no fault.

use std::io::{self, Read};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The largest head read.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The largest body read: only control and token requests have one.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The most header lines read.
const HEADERS_MAX: usize = 100;

/// A request, body included.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// The path, percent-decoded, without its leading slash.
    pub(super) path: String,
    /// The part after the question mark, as sent.
    pub(super) query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) keep_alive: bool,
}

impl Request {
    /// The first header of this name, given in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query's or form's parameter, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let form = String::from_utf8_lossy(&self.body);
        let pairs = self.query.split('&').chain(form.split('&'));
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| decoded(&key.replace('+', " ")).eq_ignore_ascii_case(name))
            .map(|(_, value)| decoded(&value.replace('+', " ")))
    }

    /// True if only the head is wanted.
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The `Range` header; Azure's `x-ms-range` goes before it.
    pub(super) fn range(&self) -> Option<&str> {
        self.header("x-ms-range").or_else(|| self.header("range"))
    }
}

/// Reasons for which a request cannot be answered as it is.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection is gone, or was quiet for too long.
    Gone,
    /// It is no request we read; the status to say so with.
    Bad(u16),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads the next request; what was read beyond it stays in `buffer`.
pub(super) fn read(from: &mut impl Read, buffer: &mut Vec<u8>) -> Result<Request, Broken> {
    let (mut request, head_bytes) = loop {
        if let Some(found) = parse(buffer)? {
            break found;
        }
        if buffer.len() >= HEAD_BYTES_MAX {
            return Err(Broken::Bad(431));
        }
        more(from, buffer)?;
    };
    buffer.drain(..head_bytes);
    if request.header("transfer-encoding").is_some() {
        return Err(Broken::Bad(501));
    }
    let length = request.header("content-length").map_or(Ok(0), |text| text.trim().parse::<usize>());
    let length = length.map_err(|_| Broken::Bad(400))?;
    if length > BODY_BYTES_MAX {
        return Err(Broken::Bad(413));
    }
    while buffer.len() < length {
        more(from, buffer)?;
    }
    request.body = buffer.drain(..length).collect();
    Ok(request)
}

fn more(from: &mut impl Read, buffer: &mut Vec<u8>) -> Result<(), Broken> {
    let mut piece = [0; 8192];
    match from.read(&mut piece)? {
        0 => Err(Broken::Gone),
        count => {
            buffer.extend_from_slice(&piece[..count]);
            Ok(())
        }
    }
}

/// The head at the start of `buffer` and its length, if it is all there.
fn parse(buffer: &[u8]) -> Result<Option<(Request, usize)>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Broken::Bad(400)),
    };
    let target = head.path.unwrap_or("/");
    // A proxy's absolute form names the host first.
    let target = target.split_once("://").map_or(target, |(_, rest)| &rest[rest.find('/').unwrap_or(rest.len())..]);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned()));
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: decoded(path.strip_prefix('/').unwrap_or(path)),
        query: query.to_owned(),
        headers: headers.collect(),
        ..Request::default()
    };
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    request.keep_alive = if head.version == Some(0) { connection == "keep-alive" } else { connection != "close" };
    Ok(Some((request, length)))
}

/// Percent-decoding; what is not well formed stays as it is.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = hex.filter(|_| bytes[at] == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        out.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The demand of a `Range` header on an object of a known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No range, or one we are free to ignore (RFC 9110 §14.2): several, or not in bytes.
    Whole,
    /// Half-open and within the object.
    Part(Range<u64>),
    /// None of it exists: 416.
    Nothing,
}

/// Reads a single byte range (RFC 9110 §14.1.2).
pub(super) fn wanted(header: Option<&str>, len: u64) -> Wanted {
    let Some(specification) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = specification.split_once('-') else {
        return Wanted::Whole;
    };
    let (first, last) = (first.trim().parse::<u64>().ok(), last.trim().parse::<u64>().ok());
    let dash_only = specification.trim().starts_with('-');
    let end_given = !specification.trim().ends_with('-');
    match (first, last) {
        // The last so many bytes.
        (None, Some(0)) if dash_only => Wanted::Nothing,
        (None, Some(_)) if dash_only && len == 0 => Wanted::Nothing,
        (None, Some(count)) if dash_only => Wanted::Part(len.saturating_sub(count)..len),
        (Some(first), Some(last)) if last < first => Wanted::Whole,
        (Some(first), _) if first >= len => Wanted::Nothing,
        (Some(first), Some(last)) => Wanted::Part(first..last.saturating_add(1).min(len)),
        (Some(first), None) if !end_given => Wanted::Part(first..len),
        _ => Wanted::Whole,
    }
}

/// The outcome of the conditions of a request for an object (RFC 9110 §13.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Go on.
    Holds,
    /// Go on, with the whole object instead of the range.
    IgnoreRange,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Weighs a request's conditions against an object's tag and time.
pub(super) fn condition(request: &Request, etag: &str, modified: SystemTime) -> Condition {
    let same = |given: &str| date(modified) == given.trim();
    if let Some(list) = request.header("if-match") {
        if !names(list, etag, false) {
            return Condition::Failed;
        }
    } else if request.header("if-unmodified-since").is_some_and(|given| !same(given) && is_before(given, modified)) {
        return Condition::Failed;
    }
    if let Some(list) = request.header("if-none-match") {
        if names(list, etag, true) {
            return Condition::NotModified;
        }
    } else if request.header("if-modified-since").is_some_and(|given| same(given) || !is_before(given, modified)) {
        return Condition::NotModified;
    }
    match request.header("if-range") {
        Some(given) if given.trim() != etag && !same(given) => Condition::IgnoreRange,
        _ => Condition::Holds,
    }
}

/// True if a list of tags names this one; a weak tag matches only where weak comparison will do.
fn names(list: &str, etag: &str, weak: bool) -> bool {
    list.split(',').map(str::trim).any(|given| {
        let given = if weak { given.strip_prefix("W/").unwrap_or(given) } else { given };
        // Azure's and S3's clients sometimes leave the quotes out.
        given == "*" || given.trim_matches('"') == etag.trim_matches('"')
    })
}

/// True if an HTTP date lies before a time; one we cannot read does not.
fn is_before(given: &str, modified: SystemTime) -> bool {
    let seconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    read_date(given).is_some_and(|given| given < seconds)
}

/// Days of the week from the epoch's own on, and the months.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A time as year, month (1 to 12), day, and seconds of the day; the calendar is Hinnant's.
pub(super) fn civil(time: SystemTime) -> (u64, u64, u64, u64) {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1, seconds % 86_400)
}

/// A time as HTTP writes it.
pub(super) fn date(time: SystemTime) -> String {
    let (year, month, day, of_day) = civil(time);
    let days = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 86_400;
    let index = |number: u64| usize::try_from(number).unwrap_or(0);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[index(days % 7)],
        MONTHS[index(month - 1)],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// The seconds since the epoch of an HTTP date in its preferred form.
fn read_date(text: &str) -> Option<u64> {
    let mut words = text.trim().split([' ', ':']).skip(1);
    let mut number = || words.next()?.parse::<u64>().ok();
    let day = number()?;
    let mut words = text.trim().split([' ', ':']).skip(2);
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let mut number = || words.next()?.parse::<u64>().ok();
    let (year, hours, minutes, seconds) = (number()?, number()?, number()?, number()?);
    let years = if month <= 2 { year.checked_sub(1)? } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let of_era = (years % 400) * 365 + (years % 400) / 4 - (years % 400) / 100 + of_year;
    let days = ((years / 400) * 146_097 + of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Request { headers, ..Request::default() }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_wants() {
        for (header, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-99", Wanted::Part(0..10)),
            ("bytes=3-", Wanted::Part(3..10)),
            ("bytes=-4", Wanted::Part(6..10)),
            ("bytes=-40", Wanted::Part(0..10)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-20", Wanted::Nothing),
            ("bytes=5-3", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=x-1", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }

    #[test]
    fn dates_are_written_and_read_back() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date(time), "Sun, 06 Nov 1994 08:49:37 GMT", "the RFC's own example");
        for seconds in [0, 951_782_399, 951_868_800, 1_790_000_000, 4_102_444_800] {
            assert_eq!(read_date(&date(UNIX_EPOCH + Duration::from_secs(seconds))), Some(seconds));
        }
        assert_eq!(read_date("yesterday"), None);
    }

    #[test]
    fn conditions_are_weighed_in_the_order_of_the_rfc() {
        let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let weigh = |headers: &[(&str, &str)]| condition(&request(headers), "\"a\"", modified);
        assert_eq!(weigh(&[]), Condition::Holds);
        assert_eq!(weigh(&[("if-match", "\"a\"")]), Condition::Holds);
        assert_eq!(weigh(&[("if-match", "\"b\", \"a\"")]), Condition::Holds);
        assert_eq!(weigh(&[("if-match", "*")]), Condition::Holds);
        assert_eq!(weigh(&[("if-match", "\"b\"")]), Condition::Failed);
        assert_eq!(weigh(&[("if-match", "W/\"a\"")]), Condition::Failed, "strong comparison");
        assert_eq!(weigh(&[("if-none-match", "W/\"a\"")]), Condition::NotModified, "weak comparison");
        assert_eq!(weigh(&[("if-none-match", "\"b\"")]), Condition::Holds);
        assert_eq!(weigh(&[("if-range", "\"b\"")]), Condition::IgnoreRange);
        assert_eq!(weigh(&[("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")]), Condition::Holds);
        assert_eq!(weigh(&[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")]), Condition::Failed);
        assert_eq!(weigh(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]), Condition::NotModified);
        assert_eq!(weigh(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")]), Condition::Holds);
    }

    #[test]
    fn a_head_is_read_in_pieces_and_what_follows_is_kept() {
        let text = b"POST /a%20b/c?x=1&y=%2F HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nz=4GET / HTTP/1.1\r\n\r\n";
        let mut buffer = Vec::new();
        let mut from = &text[..];
        let first = read(&mut from, &mut buffer).expect("a request");
        assert_eq!((first.path.as_str(), first.body.as_slice(), first.keep_alive), ("a b/c", &b"z=4"[..], true));
        assert_eq!((first.parameter("y"), first.parameter("z")), (Some("/".into()), Some("4".into())));
        assert_eq!(read(&mut from, &mut buffer).expect("another").method, "GET");
        assert!(matches!(read(&mut from, &mut buffer), Err(Broken::Gone)));
    }

    #[test]
    fn foreign_bytes_are_refused_and_heads_are_bounded() {
        let mut endless = io::repeat(b'a');
        assert!(matches!(read(&mut endless, &mut Vec::new()), Err(Broken::Bad(431))));
        assert!(matches!(read(&mut &b"\x00\x01\r\n\r\n"[..], &mut Vec::new()), Err(Broken::Bad(400))));
    }
}
