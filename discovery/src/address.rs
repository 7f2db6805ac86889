//! Addresses that a member may have, and those that are this machine's own.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Returns false for addresses that no member can have.
pub(crate) fn is_reachable(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_multicast() && !is_link_local
}

/// Returns true for an address of this machine: only to those can a socket be bound. Nothing is sent.
pub(crate) fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_of_this_machine_and_a_documented_example_is_not() {
        assert!(is_of_this_machine([127, 0, 0, 1].into()));
        assert!(!is_of_this_machine([192, 0, 2, 1].into()));
    }
}
