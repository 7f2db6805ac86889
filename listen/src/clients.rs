//! The connections of each client that a certificate names: none may take all the places there are.
//!
//! A client is a certificate at an address, since machines may share one. Pure but for a lock.

use crate::tls::Identity;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Connections by client. Each entry is an open connection's, so there are no more than those.
#[derive(Debug)]
pub(crate) struct Clients {
    each_max: usize,
    open: Mutex<HashMap<Key, usize>>,
}

/// A certificate's SHA-256, and an address, of IPv6 the half that names a network.
type Key = ([u8; 32], u128);

/// One connection of a client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    clients: Arc<Clients>,
    key: Key,
}

impl Clients {
    pub(crate) fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { each_max, open: Mutex::default() })
    }

    /// Counts one more connection of a client; none where it has its share.
    pub(crate) fn enter(self: &Arc<Self>, identity: &Identity, address: IpAddr) -> Option<Entered> {
        let key = (identity.thumbprint, network(address));
        let mut open = self.open.lock();
        let count = open.entry(key).or_default();
        // One that has none yet is let in, whatever the bound.
        if *count >= self.each_max.max(1) {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Entered { clients: Arc::clone(self), key })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.clients.open.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u8) -> Identity {
        Identity { dns: Vec::new(), uris: Vec::new(), thumbprint: [number; 32] }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_client_has_its_share_and_leaves_nothing_behind() {
        let clients = Clients::new(2);
        let enter = |number: u8, at: &str| clients.enter(&identity(number), address(at));
        let (first, second) = (enter(1, "10.0.0.1"), enter(1, "10.0.0.1"));
        assert!(first.is_some() && second.is_some() && enter(1, "10.0.0.1").is_none());
        assert!(enter(2, "10.0.0.1").is_some(), "another certificate");
        assert!(enter(1, "10.0.0.2").is_some(), "another machine with the same");
        drop(first);
        let third = enter(1, "::ffff:10.0.0.1");
        assert!(third.is_some() && enter(1, "10.0.0.1").is_none());
        drop((second, third));
        assert!(clients.open.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_machine() {
        let clients = Clients::new(1);
        let held = clients.enter(&identity(1), address("2001:db8::1"));
        assert!(held.is_some() && clients.enter(&identity(1), address("2001:db8::2")).is_none());
        assert!(clients.enter(&identity(1), address("2001:db8:0:1::1")).is_some());
    }
}
