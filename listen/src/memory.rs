//! Memory that many requests take together: bodies of requests, and answers that are read as a whole.

use bytes::Bytes;
use prometheus::Gauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes held, shared by all requests.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    max: usize,
    gauge: Gauge,
}

/// Bytes taken from it, until this is dropped.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    /// Up to `max` bytes; `gauge` shows how many are taken.
    #[must_use]
    pub fn new(max: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, gauge })
    }

    /// A share of nothing yet.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), bytes: 0 }
    }
}

impl Share {
    /// Takes more; returns whether there was so much.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.memory.max);
        let is_there = self.memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if is_there {
            self.bytes += bytes;
            self.memory.show();
        }
        is_there
    }

    /// Ties the share to what it was taken for: it is free again when the last slice of `bytes` is gone.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self })
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory {
    #[expect(clippy::cast_precision_loss, reason = "a bound far below 2^52")]
    fn show(&self) {
        self.gauge.set(self.used.load(Ordering::Relaxed) as f64);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn shares_stay_within_the_bound_and_come_back() {
        let memory = Memory::new(10, Gauge::new("held", "bytes").expect("a gauge"));
        let (mut one, mut two) = (memory.share(), memory.share());
        assert!(one.grow(6) && two.grow(4) && !two.grow(1));
        drop(one);
        assert!(two.grow(6) && !two.grow(usize::MAX));
        drop(two);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn held_bytes_are_free_when_their_last_slice_is_gone() {
        let memory = Memory::new(10, Gauge::new("held", "bytes").expect("a gauge"));
        let mut share = memory.share();
        assert!(share.grow(4));
        let bytes = share.hold(BytesMut::from("abcd").freeze());
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(memory.used.load(Ordering::Relaxed), 4);
        drop(slice);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
