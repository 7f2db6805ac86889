//! Reads an error's head and body: the store's code, and when to come back. Pure; only what is
//! certain to be no secret is kept.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};
use wire::peers::{OTHERS_HEADER, Others, RETRY_AFTER_MS_HEADER};

/// The longest error code believed to be one.
const CODE_BYTES_MAX: usize = 64;
/// Fields in which stores give their error code: Azure's and Hugging Face's.
const CODE_FIELDS: [&str; 2] = ["x-ms-error-code", "x-error-code"];

/// The store's error code: in a field, or in the body as `<Code>…</Code>` (S3, Azure).
#[must_use]
pub fn error_code(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let field = CODE_FIELDS.iter().find_map(|name| headers.get(*name)?.to_str().ok()).and_then(plain);
    field.or_else(|| {
        let body = String::from_utf8_lossy(body);
        let (_, rest) = body.split_once("<Code>")?;
        plain(rest.split_once("</Code>")?.0)
    })
}

/// A word of letters and digits: nothing that could be a URL, a signature or a token's text.
fn plain(text: &str) -> Option<String> {
    let text = text.trim();
    let sound = !text.is_empty() && text.len() <= CODE_BYTES_MAX;
    (sound && text.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| text.to_owned())
}

/// The time that `Retry-After` asks to wait, as seconds or as a date seen at `now`.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

/// The longest wait that a peer is believed.
const PEER_WAIT_MAX: Duration = Duration::from_secs(60);

/// The way on that a peer names in a refusal; none in that of others.
pub(super) fn others(headers: &HeaderMap) -> Option<Others> {
    let text = |name| headers.get(name)?.to_str().ok();
    let wait = text(RETRY_AFTER_MS_HEADER)?;
    Some(Others::read(Some(wait), text(OTHERS_HEADER), PEER_WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_code_is_found_in_a_field_or_in_xml() {
        assert_eq!(error_code(&fields("x-ms-error-code", "ServerBusy"), b"").as_deref(), Some("ServerBusy"));
        let body = b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>m</Message></Error>";
        assert_eq!(error_code(&HeaderMap::new(), body).as_deref(), Some("SlowDown"));
        for wrong in [&b"<Code>a b</Code>"[..], b"<Code></Code>", b"<Code>half", b"<Code>x?sig=abc</Code>", b"\xff"] {
            assert_eq!(error_code(&HeaderMap::new(), wrong), None);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let asked = |value| retry_after(&fields("retry-after", value), now);
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
    }
}
