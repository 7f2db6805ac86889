//! Passwords and signatures in URLs, taken out of whatever is printed or logged.

use std::borrow::Cow;

/// The text that stands for a secret.
const MASKED: &str = "[redacted]";
/// Parameters of queries that hold secrets: signatures, tokens and keys of storage services and hubs.
const SECRET_PARAMETERS: [&str; 14] = [
    "access_token",
    "api_key",
    "apikey",
    "authorization",
    "awsaccesskeyid",
    "key",
    "password",
    "secret",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-credential",
];

/// The text without user information and secret parameters of the URLs in it.
///
/// ```
/// assert_eq!(telemetry::mask("asking http://me:hush@host/a"), "asking http://[redacted]@host/a");
/// assert_eq!(telemetry::mask("https://host/a?sv=1&sig=hush"), "https://host/a?sv=1&sig=[redacted]");
/// ```
#[must_use]
pub fn mask(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    if !text.contains(SCHEME_END) {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(SCHEME_END) {
        let (before, url) = rest.split_at(at + SCHEME_END.len());
        let end = url.find(ends_url).unwrap_or(url.len());
        // A URL in the path of another is one of its own.
        let (url, after) = url.split_at(url[..end].find(SCHEME_END).unwrap_or(end));
        masked.push_str(before);
        mask_url(&mut masked, url);
        rest = after;
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

fn ends_url(char: char) -> bool {
    char.is_whitespace() || char.is_control() || "\"'`<>\\{}|".contains(char)
}

/// Writes what follows a scheme.
fn mask_url(masked: &mut String, url: &str) {
    let end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let (authority, _) = url.split_at(end);
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let url = match authority.rfind('@') {
        Some(at) => masked_user(masked, url, at),
        // A password with a slash in it: what looks like a host ends in a port that is none.
        None if !port.bytes().all(|byte| byte.is_ascii_digit()) && !authority.ends_with(']') => match url.rfind('@') {
            Some(at) => masked_user(masked, url, at),
            None => url,
        },
        None => url,
    };
    let Some((path, query)) = url.split_once('?') else {
        masked.push_str(url);
        return;
    };
    masked.push_str(path);
    for (number, parameter) in query.split('&').enumerate() {
        masked.push(if number == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, _)) if is_secret(name) => {
                masked.push_str(name);
                masked.push('=');
                masked.push_str(MASKED);
            }
            _ => masked.push_str(parameter),
        }
    }
}

fn masked_user<'a>(masked: &mut String, url: &'a str, at: usize) -> &'a str {
    masked.push_str(MASKED);
    &url[at..]
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str()) || name.ends_with("signature") || name.ends_with("token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_url_is_left() {
        for text in [
            "http://hush@h",
            "http://u:hush@h:1/p?q=1",
            "a http://u:hush@h and https://u:hush@h/x b",
            "{\"url\":\"http://u:hush@h\"}",
            "http://u:p@hush@h/",
            "http://u:pa/hush@h/x",
            "http://u:pa?hush@h/x",
            "s3://b/k?X-Amz-Signature=hush&X-Amz-Credential=hush&X-Amz-Security-Token=hush",
            "https://a/b?sv=1&SIG=hush",
            "https://a/b?token=hush#f",
            "x://://u:hush@h",
            "http://proxy/http://u:hush@h/p",
            "http://u:hush@proxy/http://h/p",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hush") && masked.contains(MASKED), "{text}: {masked}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "",
            "no url",
            "hf://org/name@main",
            "http://127.0.0.1:8080/v1?a=b&keys=1",
            "http://[::1]:80/x@y",
            "http://host:8080/a@b",
            "a://b c@d",
            "mail me@there",
        ] {
            assert_eq!(mask(text), text);
        }
    }
}
