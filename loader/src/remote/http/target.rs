//! The target of a request: the parts of its URL that decide about the connection.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

use super::error::HttpError;

/// Scheme, host and port: requests to one target may share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// True if TLS is spoken.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// The target of an absolute `http` or `https` URL.
    pub(super) fn of(uri: &Uri) -> Result<Self, HttpError> {
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(HttpError::Config { problem: "a URL that is neither http nor https".to_owned() }),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(HttpError::Config { problem: "a URL without a host".to_owned() });
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.tls { 443 } else { 80 };
        match (self.host.contains(':'), self.port == default) {
            (true, true) => write!(formatter, "[{}]", self.host),
            (true, false) => write!(formatter, "[{}]:{}", self.host, self.port),
            (false, true) => write!(formatter, "{}", self.host),
            (false, false) => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, HttpError> {
        Target::of(&url.parse().expect("a URL"))
    }

    #[test]
    fn a_url_tells_scheme_host_and_port_and_nothing_else() {
        let all = ["https://Store.example/a?sig=1", "http://[::1]:8080/", "http://127.0.0.1/"];
        let shown = all.map(|url| target(url).expect("a target").to_string());
        assert_eq!(shown, ["store.example", "[::1]:8080", "127.0.0.1"]);
        assert!(target("ftp://store.example/").is_err());
        assert!(target("/only/a/path").is_err());
    }
}
