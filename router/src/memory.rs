//! The memory that whole answers take together: each is read before any of it goes out.

use prometheus::Gauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use telemetry::metrics::Registry;
use telemetry::names;

/// A bound on bytes held, shared by all requests.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    max: usize,
    gauge: Gauge,
}

/// Bytes taken from it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(max: usize, registry: &Registry) -> Arc<Self> {
        let gauge = registry.gauge(&names::ROUTER_ANSWER_BYTES).with_label_values::<&str>(&[]);
        Arc::new(Self { used: AtomicUsize::new(0), max, gauge })
    }

    /// A share of nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: Arc::clone(self), bytes: 0 }
    }
}

impl Share {
    /// Takes more; returns whether there was so much.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.memory.max);
        let is_there = self.memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if is_there {
            self.bytes += bytes;
            self.memory.show();
        }
        is_there
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

    #[test]
    fn shares_stay_within_the_bound_and_come_back() {
        let memory = Memory::new(10, &Registry::new());
        let (mut one, mut two) = (memory.share(), memory.share());
        assert!(one.grow(6) && two.grow(4) && !two.grow(1));
        drop(one);
        assert!(two.grow(6) && !two.grow(usize::MAX));
        drop(two);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
