//! Chooses the extent to ask a peer for.

use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use super::Swarm;
use super::peer::Peer;
use super::work::State;

/// The share of the window that is asked for first.
const URGENT: usize = 4;

impl Swarm {
    /// The extent to ask a peer for. Of one that serves, alone: the first. Beside others that load: first copies of one
    /// that serves, its own before theirs; of one that loads, one of the next at random, so that all get different ones.
    pub(super) fn pick(&mut self, at: usize, swaps: bool, now: Instant, random: &mut StdRng) -> Option<usize> {
        if self.peers[at].is_late(now) {
            return self.work.missing().rev().find(|&place| self.gives(at, place, now));
        }
        if !swaps {
            return self.work.missing().find(|&place| self.gives(at, place, now));
        }
        let given: Vec<usize> = self.work.missing_at_front().filter(|&place| self.gives(at, place, now)).collect();
        if self.peers[at].swaps() {
            return self.any_urgent(&given, random);
        }
        let firsts: Vec<usize> = given.iter().copied().filter(|&place| !self.is_copied(place, now)).collect();
        let mut is_own =
            |place| self.owners.turn(self.work.get(place).number, now).is_some_and(|turn| turn.before == 0);
        let own = firsts.iter().copied().find(|&place| is_own(place));
        own.or_else(|| self.any_urgent(&firsts, random)).or_else(|| self.any_urgent(&given, random))
    }

    fn gives(&self, at: usize, place: usize, now: Instant) -> bool {
        let extent = self.work.get(place);
        extent.state == State::Missing
            && extent.is_free_for(self.origin.count + at, now)
            && self.peers[at].may_give(extent.number, now)
    }

    /// One of the most urgent of some places, at random.
    fn any_urgent(&self, places: &[usize], random: &mut StdRng) -> Option<usize> {
        let is_urgent = |place: &&usize| self.work.distance(**place) < self.work.window() / URGENT;
        let urgent = places.iter().take_while(is_urgent).count();
        let among = if urgent > 0 { &places[..urgent] } else { places };
        (!among.is_empty()).then(|| among[random.random_range(0..among.len())])
    }

    /// Returns true if another load has an extent, or says that it will have it soon, and can be counted on.
    pub(super) fn is_copied(&self, place: usize, now: Instant) -> bool {
        let number = self.work.get(place).number;
        let mut others = self.peers.iter().filter(|peer| peer.swaps());
        others.any(|peer| {
            let counts = |peer: &Peer| !peer.is_late(now) && !self.owners.is_late(peer.member, now);
            peer.holds_or_claims(number) && counts(peer)
        })
    }
}
