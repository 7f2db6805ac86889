//! An address to listen on, as people write it.

use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Reads `ADDRESS:PORT`, `localhost:PORT` or `PORT`. The latter two are loopback: being reachable is a choice.
///
/// # Errors
/// The form to write instead.
///
/// ```
/// let here = "127.0.0.1:8000".parse().unwrap();
/// assert_eq!(listen::parse_address("8000"), Ok(here));
/// assert_eq!(listen::parse_address("localhost:8000"), Ok(here));
/// ```
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(loopback).map_err(|_| "a port is at most 65535".into());
    }
    if text.contains("://") {
        return Err("write the address without a scheme, as ADDRESS:PORT".into());
    }
    if text.parse::<IpAddr>().is_ok() || !text.contains(':') {
        return Err("write the port, too, as ADDRESS:PORT, e.g. 127.0.0.1:8080".into());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let Ok(port) = port.parse() else { return Err("write ADDRESS:PORT with a port of at most 65535".into()) };
    match host {
        "localhost" => Ok(loopback(port)),
        "" | "*" => Err(format!("write 127.0.0.1:{port} for this machine alone, or 0.0.0.0:{port} for everybody")),
        _ => Err(format!("{host:?} is no address of this machine; write one, e.g. 127.0.0.1:{port} or 0.0.0.0:{port}")),
    }
}

/// Reads an address of the configuration.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_address(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, address) in [
            ("8080", "127.0.0.1:8080"),
            ("0", "127.0.0.1:0"),
            ("localhost:8080", "127.0.0.1:8080"),
            (" 127.0.0.1:1 ", "127.0.0.1:1"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_answered_with_one() {
        for (text, hint) in [
            ("", "127.0.0.1:8080"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("::1", "127.0.0.1:8080"),
            ("localhost", "127.0.0.1:8080"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "127.0.0.1:8080"),
            ("host:8080", "0.0.0.0:8080"),
            ("http://127.0.0.1:8080", "without a scheme"),
            ("70000", "at most 65535"),
            ("127.0.0.1:70000", "at most 65535"),
            ("localhost:http", "at most 65535"),
        ] {
            let why = parse_address(text).expect_err(text);
            assert!(why.contains(hint), "{text}: {why}");
        }
    }
}
