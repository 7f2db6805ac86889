//! A member of the fleet, as a load needs to know it.

/// One process of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity among the members.
    pub id: String,
    /// `HOST:PORT` of its listener for peers; an IPv6 address stands in brackets.
    pub address: String,
    /// The name that its certificate must hold.
    pub name: String,
    /// True if it is one of those to ask first.
    pub is_near: bool,
    /// Its zone, where that is known.
    pub zone: Option<String>,
}

impl Member {
    /// Host, without brackets, and port; none if the address is none.
    pub(super) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
    }
}
