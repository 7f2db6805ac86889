//! The pace of all bodies together: the governor's rate, within the configuration's bound.

use crate::bucket::Bucket;
use parking_lot::Mutex as Lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify};

/// A rate without a bound.
pub(crate) const FREE: u64 = u64::MAX;
/// The longest wait before the rate is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The pace of all bodies.
#[derive(Debug)]
pub(crate) struct Upload {
    governed: AtomicU64,
    /// The same outside of the governor's short pauses.
    steady: AtomicU64,
    bound: AtomicU64,
    /// Held by the next to send: pieces go out in the order in which they were ready.
    turn: Mutex<()>,
    bucket: Lock<Bucket>,
    changed: Notify,
    sent: AtomicU64,
}

impl Upload {
    pub(crate) fn new() -> Self {
        Self {
            governed: AtomicU64::new(FREE),
            steady: AtomicU64::new(FREE),
            bound: AtomicU64::new(FREE),
            turn: Mutex::default(),
            bucket: Lock::default(),
            changed: Notify::new(),
            sent: AtomicU64::new(0),
        }
    }

    /// The rate in force, in bytes per second.
    pub(crate) fn rate(&self) -> u64 {
        self.governed.load(Ordering::Relaxed).min(self.bound.load(Ordering::Relaxed))
    }

    /// The rate in force, pauses aside: what peers may count on.
    pub(crate) fn steady(&self) -> u64 {
        self.steady.load(Ordering::Relaxed).min(self.bound.load(Ordering::Relaxed))
    }

    /// Sets the rate that running requests tolerate, now and outside of pauses.
    pub(crate) fn govern(&self, bytes_per_second: u64, steady: u64) {
        self.steady.store(steady, Ordering::Relaxed);
        self.set(&self.governed, bytes_per_second);
    }

    /// Sets the bound of the configuration.
    pub(crate) fn bound(&self, bytes_per_second: u64) {
        self.set(&self.bound, bytes_per_second);
    }

    fn set(&self, rate: &AtomicU64, bytes_per_second: u64) {
        if rate.swap(bytes_per_second, Ordering::Relaxed) != bytes_per_second {
            self.changed.notify_waiters();
        }
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns true if nothing has to be waited for.
    pub(crate) fn is_free(&self) -> bool {
        self.rate() == FREE
    }

    /// Waits until so many bytes may be sent, and counts them.
    pub(crate) async fn take(&self, bytes: u64) {
        if !self.is_free() {
            let _turn = self.turn.lock().await;
            while let Err(wait) = self.try_take(bytes) {
                let changed = self.changed.notified();
                let _ = tokio::time::timeout(wait.min(LOOK_EVERY), changed).await;
            }
        }
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn try_take(&self, bytes: u64) -> Result<(), Duration> {
        match self.rate() {
            FREE => Ok(()),
            rate => self.bucket.lock().take(bytes, rate, Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_rate_that_rises_wakes_those_who_wait() {
        let upload = Arc::new(Upload::new());
        upload.govern(0, FREE);
        let waiting = tokio::spawn({
            let upload = Arc::clone(&upload);
            async move { upload.take(1 << 30).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(upload.sent(), 0);
        upload.bound(7);
        assert_eq!(upload.rate(), 0, "the lower of both");
        upload.bound(FREE);
        upload.govern(FREE, FREE);
        waiting.await.expect("ends");
        assert_eq!(upload.sent(), 1 << 30);
    }
}
