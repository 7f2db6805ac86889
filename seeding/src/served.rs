//! The peers that were given weights, for people to look at: the latest of them.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Instant;
use wire::status::ServedPeer;

/// The most peers that are remembered.
const PEERS_MAX: usize = 256;

/// Bytes by peer.
#[derive(Debug, Default)]
pub(crate) struct Served {
    peers: Mutex<BTreeMap<String, (u64, Instant)>>,
}

impl Served {
    /// Counts bytes that a peer was given.
    pub(crate) fn count(&self, peer: &str, bytes: u64, now: Instant) {
        let mut peers = self.peers.lock();
        if let Some((total, last)) = peers.get_mut(peer) {
            (*total, *last) = (*total + bytes, now);
            return;
        }
        if peers.len() >= PEERS_MAX {
            let oldest = peers.iter().min_by_key(|(_, (_, last))| *last).map(|(peer, _)| peer.clone());
            if let Some(oldest) = oldest {
                peers.remove(&oldest);
            }
        }
        peers.insert(peer.to_owned(), (bytes, now));
    }

    /// All that are remembered, by name.
    pub(crate) fn list(&self) -> Vec<ServedPeer> {
        let peers = self.peers.lock();
        peers.iter().map(|(peer, (bytes, _))| ServedPeer { peer: peer.clone(), bytes: *bytes }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_latest_peers_are_remembered() {
        let (served, now) = (Served::default(), Instant::now());
        for number in 0..2 * PEERS_MAX as u64 {
            served.count(&format!("{number:04}"), 1, now + Duration::from_millis(number));
            served.count("0000", 1, now + Duration::from_millis(number));
        }
        let list = served.list();
        assert_eq!(list.len(), PEERS_MAX);
        assert_eq!(list[0].peer, "0000");
        assert_eq!(list[0].bytes, 2 * PEERS_MAX as u64 + 1);
        assert!(list[1].peer > format!("{PEERS_MAX:04}"));
    }
}
