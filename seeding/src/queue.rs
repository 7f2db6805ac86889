//! The short queue before the link: a request beyond it is refused at once, so that its peer asks somebody else.
//!
//! Extents count from when their request is taken until they are handed to the socket. Half of the places are one
//! peer's at most, and half are for extents that were not given to anybody yet. A peer that does not read on loses its
//! places, not its connection. Pure but for a lock.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time without progress after which a peer's extents are no longer counted.
const STALLED: Duration = Duration::from_secs(5);

/// A peer, by the SHA-256 of its certificate.
pub(crate) type PeerKey = [u8; 32];

/// The extents that are being sent.
#[derive(Debug)]
pub(crate) struct Queue {
    extents_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    places: BTreeMap<u64, Places>,
}

#[derive(Debug)]
struct Places {
    peer: PeerKey,
    extents: usize,
    progress: Instant,
    /// It waits for us, not we for it.
    is_paced: bool,
}

/// The places of one request, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    id: u64,
}

impl Queue {
    pub(crate) fn new(extents_max: usize) -> Arc<Self> {
        Arc::new(Self { extents_max, held: Mutex::default() })
    }

    /// Takes places for `extents`; none where there is no room. `is_first`: nobody took them from here before.
    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: PeerKey,
        extents: usize,
        is_first: bool,
        now: Instant,
    ) -> Option<Place> {
        let mut held = self.held.lock();
        let (all, own) = held.count(&peer, now);
        let half = self.extents_max.div_ceil(2);
        let most = if is_first { self.extents_max } else { half };
        // A request of its own size always fits where nobody else is.
        let fits = |taken: usize, most: usize| taken == 0 || taken + extents <= most;
        if !fits(all, most) || !fits(own, half) {
            return None;
        }
        let id = held.next;
        held.next += 1;
        held.places.insert(id, Places { peer, extents, progress: now, is_paced: false });
        Some(Place { queue: Arc::clone(self), id })
    }

    /// The extents that are counted now.
    pub(crate) fn extents(&self, now: Instant) -> usize {
        self.held.lock().count(&[0; 32], now).0
    }
}

impl Held {
    /// The places of all, and of one peer.
    fn count(&self, peer: &PeerKey, now: Instant) -> (usize, usize) {
        let lives = |place: &&Places| place.is_paced || now.saturating_duration_since(place.progress) < STALLED;
        let sum = |of: &dyn Fn(&Places) -> bool| {
            self.places.values().filter(lives).filter(|place| of(place)).map(|place| place.extents).sum()
        };
        (sum(&|_| true), sum(&|place| place.peer == *peer))
    }
}

impl Place {
    /// Notes that its peer read on.
    pub(crate) fn progress(&self, now: Instant) {
        self.change(|place| place.progress = now);
    }

    /// Notes that it waits for us, or does no longer.
    pub(crate) fn paced(&self, is_paced: bool, now: Instant) {
        self.change(|place| (place.is_paced, place.progress) = (is_paced, now));
    }

    /// Gives one extent's place back.
    pub(crate) fn sent_one(&self) {
        self.change(|place| place.extents = place.extents.saturating_sub(1));
    }

    fn change(&self, change: impl FnOnce(&mut Places)) {
        if let Some(place) = self.queue.held.lock().places.get_mut(&self.id) {
            change(place);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.held.lock().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: PeerKey = [1; 32];
    const B: PeerKey = [2; 32];

    #[test]
    fn one_peer_has_half_of_it_and_second_copies_have_the_other_half_at_most() {
        let (queue, now) = (Queue::new(8), Instant::now());
        let first = queue.enter(A, 4, true, now).expect("room");
        assert!(queue.enter(A, 1, true, now).is_none(), "its half is full");
        assert!(queue.enter(B, 1, false, now).is_none(), "the queue is half full");
        let second = queue.enter(B, 4, true, now).expect("room for first copies");
        assert!(queue.enter([3; 32], 1, true, now).is_none(), "full");
        first.sent_one();
        assert!(queue.enter([3; 32], 1, true, now).is_some());
        drop((first, second));
        assert_eq!(queue.extents(now), 0);
        assert!(queue.enter(A, 4, false, now).is_some());
    }

    #[test]
    fn a_peer_that_does_not_read_on_keeps_nobody_out() {
        let (queue, now) = (Queue::new(2), Instant::now());
        let slow = queue.enter(A, 4, true, now).expect("room");
        let later = now + STALLED;
        assert!(queue.enter(B, 1, true, later - Duration::from_millis(1)).is_none());
        let other = queue.enter(B, 1, true, later).expect("room");
        drop(other);
        slow.progress(later);
        assert!(queue.enter(B, 1, true, later).is_none(), "it reads again");
        slow.paced(true, later);
        assert!(queue.enter(B, 1, true, later + STALLED * 9).is_none(), "it is we who are slow");
    }

    proptest! {
        #[test]
        fn beyond_one_request_the_queue_is_never_longer_than_its_bound(
            most in 1_usize..12,
            requests in prop::collection::vec((0_u8..4, 1_usize..5, any::<bool>(), any::<bool>()), 0..40),
        ) {
            let (queue, now, mut places) = (Queue::new(most), Instant::now(), Vec::new());
            for (peer, extents, is_first, leaves) in requests {
                if leaves && !places.is_empty() {
                    places.remove(0);
                }
                places.extend(queue.enter([peer; 32], extents, is_first, now));
                prop_assert!(queue.extents(now) <= most.max(4));
                for peer in 0..4 {
                    let (_, own) = queue.held.lock().count(&[peer; 32], now);
                    prop_assert!(own <= most.div_ceil(2).max(4));
                }
            }
            drop(places);
            prop_assert_eq!(queue.extents(now), 0);
        }
    }
}
