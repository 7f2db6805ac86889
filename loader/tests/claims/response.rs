//! Claims about every answer's head, whatever a server sends.

use http::{HeaderMap, HeaderValue, Method};
use loader::remote::http::head::{self, Framing};
use loader::remote::http::{error_code, retry_after};

const BYTES_MAX: usize = 4096;
const FIELDS_MAX: usize = 16;

/// Reads `data` as an answer, as fields after a status line, and as the values of fields.
pub(crate) fn check(data: &[u8]) {
    whole(data);
    whole(&[&b"HTTP/1.1 206 x\r\n"[..], data].concat());
    values(data);
}

fn whole(data: &[u8]) {
    let Ok(Some((head, length))) = head::parse(data, BYTES_MAX, FIELDS_MAX) else { return };
    assert!(length <= data.len().min(BYTES_MAX) && head.headers.len() <= FIELDS_MAX);
    let again = head::parse(&data[..length], BYTES_MAX, FIELDS_MAX).expect("is as good without what follows");
    assert_eq!(again.expect("is as whole").1, length);
    for cut in [length / 2, length - 1] {
        let part = head::parse(&data[..cut], BYTES_MAX, FIELDS_MAX);
        assert!(!matches!(part, Ok(Some(_))), "a head has one end");
    }
    let lengths: Vec<_> = head.headers.get_all("content-length").iter().collect();
    match head.framing(&Method::GET) {
        Ok(Framing::Length(_) | Framing::UntilClose) if head.headers.contains_key("transfer-encoding") => {
            assert!(head.status.as_u16() < 200 || matches!(head.status.as_u16(), 204 | 304));
        }
        Ok(Framing::Chunked) => assert!(lengths.is_empty(), "a length beside chunks is refused"),
        _ => {}
    }
    assert!(!matches!(head.framing(&Method::HEAD), Ok(Framing::Chunked | Framing::UntilClose)));
    let _ = head.keeps_alive();
}

fn values(data: &[u8]) {
    if let Some((range, total)) = head::content_range(data) {
        assert!(range.start < range.end && range.end <= total.unwrap_or(u64::MAX));
        let size = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        assert_eq!(head::content_range(text.as_bytes()), Some((range, total)));
    }
    if let Some(length) = head::chunk_length(data) {
        assert_eq!(head::chunk_length(format!("{length:x}").as_bytes()), Some(length));
    }
    let _ = head::unsatisfied_range(data);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(data) {
        headers.insert("retry-after", value.clone());
        headers.insert("x-ms-error-code", value);
    }
    let _ = retry_after(&headers, std::time::SystemTime::UNIX_EPOCH);
    let code = error_code(&headers, data).unwrap_or_default();
    assert!(code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}
