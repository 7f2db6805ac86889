//! Budgets of what is asked for at once: requests a second per account and per object, and bytes asked
//! for that have not been verified yet. Loads of one process share a [`Budgets`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::config::FetchConfig;

/// Buckets remembered at most; beyond it the full ones are forgotten, which changes nothing.
const BUCKETS_MAX: usize = 1024;

/// A token bucket that knows no clock: tokens flow in at a rate up to a tenth of a second's worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TokenBucket {
    per_second: f64,
    depth: f64,
    /// May be negative: tokens promised to those who are told to wait.
    tokens: f64,
    as_of: Instant,
}

impl TokenBucket {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        let depth = (per_second / 10.0).max(1.0);
        Self { per_second, depth, tokens: depth, as_of: now }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.depth);
        self.as_of = self.as_of.max(now);
    }

    /// The time until the next token is there.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.0))
    }

    /// Takes a token, one that is yet to come if need be: [`TokenBucket::wait`] said when.
    pub(super) fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// The budgets of one process.
#[derive(Debug, Clone)]
pub struct Budgets {
    in_flight: InFlight,
    buckets: Arc<Mutex<HashMap<String, TokenBucket>>>,
    per_second_object: u32,
    per_second_account: u32,
}

impl Budgets {
    /// Budgets as configured, nothing spent.
    #[must_use]
    pub fn new(config: &FetchConfig) -> Self {
        Self {
            in_flight: InFlight::new(config.in_flight_bytes),
            buckets: Arc::default(),
            per_second_object: config.requests_per_second_object,
            per_second_account: config.requests_per_second_account,
        }
    }

    /// The bytes in flight.
    #[must_use]
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Takes one request to `object` of `account` and says how long to wait before making it.
    pub(super) fn request(&self, account: &str, object: &str, now: Instant) -> Duration {
        let mut buckets = self.buckets.lock();
        self.with_both(&mut buckets, account, object, now, true).1
    }

    /// Takes one request if it may be made at once.
    pub(super) fn request_now(&self, account: &str, object: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        self.with_both(&mut buckets, account, object, now, false).0
    }

    /// Takes a request if it may be made, and gives the time that it has to wait.
    fn with_both(
        &self,
        buckets: &mut HashMap<String, TokenBucket>,
        account: &str,
        object: &str,
        now: Instant,
        even_later: bool,
    ) -> (bool, Duration) {
        if buckets.len() > BUCKETS_MAX {
            buckets.retain(|_, bucket| !bucket.wait(now).is_zero());
        }
        let keys = [(account, self.per_second_account), (object, self.per_second_object)];
        let wait = keys.map(|(key, per_second)| match buckets.get_mut(key) {
            Some(bucket) => bucket.wait(now),
            None => {
                buckets.insert(key.to_owned(), TokenBucket::new(per_second, now));
                Duration::ZERO
            }
        });
        let wait = wait[0].max(wait[1]);
        let taken = even_later || wait.is_zero();
        if taken {
            keys.iter().filter_map(|(key, _)| buckets.get_mut(*key).map(TokenBucket::take)).count();
        }
        (taken, wait)
    }
}

/// Bytes asked for and not yet verified. Clones share.
#[derive(Debug, Clone)]
pub struct InFlight(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    limit: u64,
    used: AtomicU64,
    most: AtomicU64,
    freed: Notify,
}

impl InFlight {
    fn new(limit: u64) -> Self {
        Self(Arc::new(Counts { limit, used: AtomicU64::new(0), most: AtomicU64::new(0), freed: Notify::new() }))
    }

    /// Reserves `bytes`, if there is room for them.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let counts = &self.0;
        let room = |used: u64| used.checked_add(bytes).filter(|used| *used <= counts.limit);
        let before = counts.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        counts.most.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Reservation { of: self.clone(), left: AtomicU64::new(bytes) })
    }

    /// Resolves when bytes have been given back since the last call.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    /// Bytes in flight now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Acquire)
    }

    /// The most bytes that were in flight at any time.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.0.most.load(Ordering::Acquire)
    }
}

/// Bytes reserved; what has not been released is released by the drop.
#[derive(Debug)]
pub struct Reservation {
    of: InFlight,
    left: AtomicU64,
}

impl Reservation {
    /// Gives some of the bytes back, at most those that are left.
    pub fn release(&self, bytes: u64) {
        let take = |left: u64| Some(left - bytes.min(left));
        let Ok(before) = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return };
        self.of.0.used.fetch_sub(bytes.min(before), Ordering::AcqRel);
        self.of.0.freed.notify_waiters();
        self.of.0.freed.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the arrivals, those who wait as told never exceed the rate by more than the depth.
        #[test]
        fn requests_keep_the_rate(per_second in 1u32..2000, gaps in prop::collection::vec(0u64..20_000, 1..300)) {
            let begin = Instant::now();
            let mut bucket = TokenBucket::new(per_second, begin);
            let mut now = begin;
            let mut made: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_micros(gap);
                let wait = bucket.wait(now);
                bucket.take();
                made.push(now + wait - begin);
            }
            for (first, from) in made.iter().enumerate() {
                for (last, to) in made.iter().enumerate().skip(first) {
                    let allowed = (*to - *from).as_secs_f64() * f64::from(per_second) + bucket.depth + 1e-6;
                    prop_assert!((last - first + 1) as f64 <= allowed + 1.0);
                }
            }
        }

        #[test]
        fn bytes_in_flight_never_exceed_the_budget_and_all_come_back(
            limit in 1u64..1000,
            wants in prop::collection::vec((1u64..400, 0u64..500), 1..100),
        ) {
            let in_flight = InFlight::new(limit);
            let mut held = Vec::new();
            for (bytes, released) in wants {
                let before = in_flight.used();
                match in_flight.reserve(bytes) {
                    Some(reservation) => {
                        prop_assert_eq!(in_flight.used(), before + bytes);
                        reservation.release(released);
                        prop_assert_eq!(in_flight.used(), before + bytes - released.min(bytes));
                        held.push(reservation);
                    }
                    None => prop_assert!(before + bytes > limit),
                }
                prop_assert!(in_flight.used() <= limit && in_flight.most() <= limit);
                if held.len() > 3 {
                    held.remove(0);
                }
            }
            held.clear();
            prop_assert_eq!(in_flight.used(), 0);
        }
    }

    #[test]
    fn an_object_is_slowed_down_while_its_account_has_room() {
        let config = FetchConfig { requests_per_second_object: 10, ..FetchConfig::default() };
        let budgets = Budgets::new(&config);
        let now = Instant::now();
        assert!(budgets.request_now("account", "hot", now));
        assert!(!budgets.request_now("account", "hot", now), "a depth of one at ten a second");
        assert!(budgets.request_now("account", "cool", now));
        assert_eq!(budgets.request("account", "hot", now), Duration::from_millis(100));
        assert_eq!(budgets.request("account", "hot", now), Duration::from_millis(200));
    }
}
