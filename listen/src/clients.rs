//! Shares of what many want: no client may take all the places there are.
//!
//! A client is an address, of IPv6 the half that names a network, or a certificate at one, since machines may share a
//! certificate. Pure but for a lock.

use crate::tls::Identity;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// The places that each client has. An entry is one that has some, so there are no more than places.
#[derive(Debug)]
pub(crate) struct Clients<K> {
    each_max: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// A certificate's SHA-256, and an address.
pub(crate) type Named = ([u8; 32], u128);

/// One place of a client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered<K: Eq + Hash> {
    clients: Arc<Clients<K>>,
    key: K,
}

impl<K: Eq + Hash + Copy> Clients<K> {
    pub(crate) fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { each_max, taken: Mutex::default() })
    }

    /// Takes one more place for a client; none where it has its share.
    pub(crate) fn enter(self: &Arc<Self>, key: K) -> Option<Entered<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(key).or_default();
        // One that has none yet is let in, whatever the bound.
        if *count >= self.each_max.max(1) {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Entered { clients: Arc::clone(self), key })
    }
}

impl<K: Eq + Hash> Drop for Entered<K> {
    fn drop(&mut self) {
        let mut taken = self.clients.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// A client that its certificate names.
pub(crate) fn named(identity: &Identity, address: IpAddr) -> Named {
    (identity.thumbprint, network(address))
}

/// A client by its address alone.
pub(crate) fn network(address: IpAddr) -> u128 {
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
        let enter = |number: u8, at: &str| clients.enter(named(&identity(number), address(at)));
        let (first, second) = (enter(1, "10.0.0.1"), enter(1, "10.0.0.1"));
        assert!(first.is_some() && second.is_some() && enter(1, "10.0.0.1").is_none());
        assert!(enter(2, "10.0.0.1").is_some(), "another certificate");
        assert!(enter(1, "10.0.0.2").is_some(), "another machine with the same");
        drop(first);
        let third = enter(1, "::ffff:10.0.0.1");
        assert!(third.is_some() && enter(1, "10.0.0.1").is_none());
        drop((second, third));
        assert!(clients.taken.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_machine() {
        let clients = Clients::new(1);
        let enter = |at: &str| clients.enter(network(address(at)));
        let held = enter("2001:db8::1");
        assert!(held.is_some() && enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::1").is_some() && enter("10.0.0.1").is_some());
    }
}
