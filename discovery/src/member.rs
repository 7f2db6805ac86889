//! A member of a fleet: its identity, address, zone and name in certificates.

use std::net::Ipv6Addr;
use thiserror::Error;

/// The longest host name of DNS, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// One process of a fleet, as it can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its identity among the members: a pod's name where there is one, or else its address. A process that restarts
    /// may keep it, and may have another address then.
    pub id: String,
    /// `HOST:PORT`; an IPv6 address stands in brackets.
    pub address: String,
    /// The zone that it runs in, where that is known.
    pub zone: Option<String>,
    /// The name that its certificate must hold.
    pub name: String,
    /// True if it is one of those that this process should ask first: Kubernetes hints at it, or its zone is ours.
    pub is_near: bool,
}

/// Errors of an address in a list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{address:?} is no address of a member; write HOST:PORT, with an IPv6 address in brackets")]
pub struct AddressError {
    address: String,
}

impl Member {
    /// The member at `HOST:PORT`, named after its host.
    ///
    /// # Errors
    /// Text that is no such address.
    pub fn at(address: &str) -> Result<Self, AddressError> {
        let host = host(address).ok_or_else(|| AddressError { address: address.to_owned() })?;
        let (id, name) = (address.to_owned(), host.to_owned());
        Ok(Self { id: id.clone(), address: id, zone: None, name, is_near: false })
    }

    /// The host of its address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        host(&self.address).unwrap_or(&self.address)
    }

    /// The port of its address.
    pub(crate) fn port(&self) -> Option<u16> {
        self.address.rsplit_once(':')?.1.parse().ok()
    }
}

/// The host of `HOST:PORT`, without brackets; none if the text is no address.
fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').filter(|inside| inside.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| is_host_name(host))?,
    };
    is_port.then_some(host)
}

/// Returns true for names and IPv4 addresses.
pub(crate) fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.len() <= HOST_BYTES_MAX && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, host) in [
            ("10.0.0.5:8082", "10.0.0.5"),
            ("[fd00::5]:8082", "fd00::5"),
            ("worker-0.workers.forebay.svc:8082", "worker-0.workers.forebay.svc"),
            ("_peers.example.:1", "_peers.example."),
        ] {
            let member = Member::at(address).expect(address);
            assert_eq!((member.address.as_str(), member.id.as_str()), (address, address));
            assert_eq!((member.name.as_str(), member.host()), (host, host));
        }
    }

    #[test]
    fn other_text_is_no_address() {
        let long = format!("{}:1", "a.".repeat(150));
        for address in [
            "",
            ":",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "host:+1",
            "fd00::5:8082",
            "[10.0.0.1]:1",
            "[::1:1",
            "http://host:1",
            "a b:1",
            "a/b:1",
            "user@host:1",
            "a..b:1",
            "[::1]",
            "é:1",
            &long,
        ] {
            let error = Member::at(address).expect_err(address);
            assert!(error.to_string().contains("HOST:PORT"), "{error}");
        }
    }
}
