//! Requests per minute: buckets that are arithmetic, told the time.
//!
//! A bucket as large as the limit refills evenly, so any window of `w` seconds grants at most
//! `limit × (1 + w / 60)`. What is given back counts as never taken, and no more: a bucket that has
//! refilled since gets nothing. It lives in this process: several routers grant several times as
//! much (a shared store belongs to a later issue, and `docs/` says so).

use crate::config::{ConfigError, PolicyConfig};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const MINUTE_NS: u64 = 60_000_000_000;
/// The most leases of one bucket that may still be given back; the oldest go first.
const LEASES_MAX: usize = 4_096;

/// A point on the caller's monotonic clock: the time since whatever start it chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

/// The rest of a tenant's limit: the `x-ratelimit-*-requests` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub limit: u32,
    /// How many could be made right now.
    pub remaining: u32,
    /// How long until `remaining` is `limit` again.
    pub reset: Duration,
}

impl Limits {
    /// `reset` as OpenAI writes it: `250ms`, `1s`, `6m0s`. Rounded up.
    #[must_use]
    pub fn reset_text(&self) -> String {
        let ms = self.reset.as_micros().div_ceil(1_000);
        if ms < 1_000 {
            return format!("{ms}ms");
        }
        let seconds = ms.div_ceil(1_000);
        if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
    }
}

/// The quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) limits: Limits,
    pub(crate) retry_after: Duration,
}

/// One request's share of a tenant's bucket. Dropped, it is spent.
#[derive(Debug)]
pub(crate) struct Lease {
    bucket: Arc<Bucket>,
    serial: u64,
}

impl Lease {
    /// Gives the share back, and says what the tenant may do then.
    pub(crate) fn refund(self, now: Moment) -> Limits {
        self.bucket.refund(self.serial, now)
    }
}

/// One tenant's requests.
#[derive(Debug)]
struct Bucket {
    limit: NonZeroU32,
    /// How long one request takes to come back.
    interval_ns: u64,
    level: Mutex<Level>,
}

/// The used part of a bucket, as the time it takes to come back.
#[derive(Debug, Default)]
struct Level {
    used_ns: u64,
    /// When `used_ns` was true. It never goes back: a caller that was overtaken between reading the
    /// time and asking is judged a few microseconds late, not early.
    at_ns: u64,
    /// The number of leases so far.
    serial: u64,
    /// For leases up to a number: the least that was used at any time since the lease. So much of
    /// it has not come back by itself. Both grow from front to back.
    lows: VecDeque<(u64, u64)>,
    /// Leases up to this number have come back.
    returned: u64,
}

impl Level {
    /// Lets time pass.
    fn advance(&mut self, now: Moment) {
        let now_ns = u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX).max(self.at_ns);
        self.used_ns = self.used_ns.saturating_sub(now_ns - self.at_ns);
        self.at_ns = now_ns;
    }

    /// Adds a lease.
    fn take(&mut self, interval_ns: u64) -> u64 {
        let mut upto = None;
        while self.lows.back().is_some_and(|(_, low)| *low >= self.used_ns) {
            upto = upto.or(self.lows.pop_back().map(|(upto, _)| upto));
            // Those popped after the first end before it.
        }
        match upto {
            Some(upto) if self.used_ns == 0 => self.returned = upto,
            Some(upto) => self.lows.push_back((upto, self.used_ns)),
            None => {}
        }
        if self.lows.len() >= LEASES_MAX {
            self.returned = self.lows.pop_front().map_or(self.returned, |(upto, _)| upto);
        }
        self.used_ns += interval_ns;
        self.serial += 1;
        self.lows.push_back((self.serial, u64::MAX));
        self.serial
    }

    /// Gives back what of a lease has not come back by itself.
    fn refund(&mut self, serial: u64, interval_ns: u64) {
        let place = self.lows.partition_point(|(upto, _)| *upto < serial);
        let Some((_, low)) = self.lows.get(place).filter(|_| serial > self.returned) else { return };
        let back = interval_ns.min(*low).min(self.used_ns);
        self.used_ns -= back;
        // As if it had never been taken: the others' lows were that much lower.
        for (_, low) in self.lows.iter_mut().filter(|(_, low)| *low != u64::MAX) {
            *low = low.saturating_sub(back);
        }
    }
}

impl Bucket {
    fn new(limit: NonZeroU32) -> Self {
        Self { limit, interval_ns: MINUTE_NS / u64::from(limit.get()), level: Mutex::default() }
    }

    fn take(&self, now: Moment) -> Result<(u64, Limits), Exceeded> {
        let mut level = self.level.lock();
        level.advance(now);
        let capacity_ns = self.interval_ns * u64::from(self.limit.get());
        let lacking_ns = (level.used_ns + self.interval_ns).saturating_sub(capacity_ns);
        if lacking_ns > 0 {
            return Err(Exceeded { limits: self.limits(&level), retry_after: Duration::from_nanos(lacking_ns) });
        }
        let serial = level.take(self.interval_ns);
        Ok((serial, self.limits(&level)))
    }

    fn refund(&self, serial: u64, now: Moment) -> Limits {
        let mut level = self.level.lock();
        level.advance(now);
        level.refund(serial, self.interval_ns);
        self.limits(&level)
    }

    fn look(&self, now: Moment) -> Limits {
        let mut level = self.level.lock();
        level.advance(now);
        self.limits(&level)
    }

    fn limits(&self, level: &Level) -> Limits {
        let used = u32::try_from(level.used_ns.div_ceil(self.interval_ns)).unwrap_or(u32::MAX);
        let limit = self.limit.get();
        Limits { limit, remaining: limit.saturating_sub(used), reset: Duration::from_nanos(level.used_ns) }
    }
}

/// The buckets of all tenants, by place; as many as the configuration has.
#[derive(Debug)]
pub(crate) struct Quotas(Vec<Option<Arc<Bucket>>>);

impl Quotas {
    pub(crate) fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        let anonymous = ("anonymous".to_owned(), config.anonymous.requests_per_minute);
        let tenants = config.tenants.iter().enumerate();
        let tenants = tenants.map(|(index, tenant)| (format!("tenants[{index}]"), tenant.requests_per_minute));
        let bucket = |(at, limit): (String, Option<u32>)| match limit.map(NonZeroU32::new) {
            None => Ok(None),
            Some(Some(limit)) => Ok(Some(Arc::new(Bucket::new(limit)))),
            Some(None) => {
                let problem = "is 0, which lets nothing in; leave it out for no limit, or remove the keys";
                Err(ConfigError::new(format!("{at}.requests_per_minute"), problem))
            }
        };
        std::iter::once(anonymous).chain(tenants).map(bucket).collect::<Result<_, _>>().map(Self)
    }

    /// Takes one request from a tenant's bucket; `None` where it is unlimited.
    pub(crate) fn take(&self, tenant: usize, now: Moment) -> Result<Option<(Lease, Limits)>, Exceeded> {
        let Some(bucket) = self.0.get(tenant).and_then(Option::as_ref) else { return Ok(None) };
        let (serial, limits) = bucket.take(now)?;
        Ok(Some((Lease { bucket: Arc::clone(bucket), serial }, limits)))
    }

    /// True if a tenant has a limit.
    pub(crate) fn is_limited(&self, tenant: usize) -> bool {
        self.0.get(tenant).is_some_and(Option::is_some)
    }

    /// The rest of a tenant's limit; `None` where it is unlimited.
    pub(crate) fn look(&self, tenant: usize, now: Moment) -> Option<Limits> {
        Some(self.0.get(tenant)?.as_ref()?.look(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(limit: u32) -> Bucket {
        Bucket::new(NonZeroU32::new(limit).expect("not zero"))
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn a_full_bucket_empties_and_refills_evenly() {
        let bucket = bucket(60);
        for left in (0..60).rev() {
            assert_eq!(bucket.take(at(0)).expect("granted").1.remaining, left);
        }
        let refused = bucket.take(at(0)).expect_err("empty");
        assert_eq!((refused.retry_after, refused.limits.remaining), (Duration::from_secs(1), 0));
        assert_eq!(refused.limits.reset, Duration::from_secs(60));
        assert!(bucket.take(at(999)).is_err());
        bucket.take(at(1_000)).expect("one came back");
        assert!(bucket.take(at(1_000)).is_err());
    }

    #[test]
    fn a_time_that_goes_back_grants_nothing() {
        let bucket = bucket(1);
        bucket.take(at(100_000)).expect("granted");
        for ms in [0, 50_000, 159_999] {
            assert!(bucket.take(at(ms)).is_err(), "{ms}");
        }
        bucket.take(at(160_000)).expect("a minute later");
    }

    #[test]
    fn reset_is_written_as_openai_does() {
        for (ms, text) in
            [(0, "0ms"), (250, "250ms"), (1_000, "1s"), (1_001, "2s"), (59_999, "1m0s"), (360_000, "6m0s")]
        {
            let limits = Limits { limit: 1, remaining: 0, reset: Duration::from_millis(ms) };
            assert_eq!(limits.reset_text(), text);
        }
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let bucket = bucket(2);
        let (first, _) = bucket.take(at(0)).expect("one");
        let (second, _) = bucket.take(at(1)).expect("two");
        assert!(bucket.take(at(2)).is_err());
        assert_eq!(bucket.refund(first, at(3)).remaining, 1);
        assert_eq!(bucket.refund(second, at(4)).remaining, 2);
        // What came back by itself is not given back again.
        let (early, _) = bucket.take(at(10_000)).expect("one");
        bucket.take(at(45_000)).expect("two");
        assert_eq!(bucket.refund(early, at(45_001)).remaining, 1);
        bucket.take(at(45_002)).expect("the second");
        assert!(bucket.take(at(45_003)).is_err());
    }

    proptest! {
        /// Some requests are given back, each some time after it was taken: in the end the bucket
        /// holds no more than one of which these requests were never asked.
        #[test]
        fn refunds_grant_no_more_than_never_asking(
            limit in 1_u32..10,
            steps in prop::collection::vec((0_u64..20_000, any::<bool>(), 0_u64..60_000), 1..60),
        ) {
            let (bucket, without) = (bucket(limit), bucket(limit));
            let mut now = 0;
            let mut due: Vec<(u64, u64)> = Vec::new();
            for (gap, is_refunded, delay) in steps {
                now += gap;
                due.sort_unstable();
                while due.first().is_some_and(|(when, _)| *when <= now) {
                    let (when, serial) = due.remove(0);
                    bucket.refund(serial, at(when));
                }
                if let Ok((serial, _)) = bucket.take(at(now)) {
                    if is_refunded {
                        due.push((now + delay, serial));
                    } else {
                        let kept = without.take(at(now));
                        prop_assert!(kept.is_ok(), "granted at {now} ms what never asking would not have been");
                    }
                }
            }
        }

        #[test]
        fn no_window_grants_more_than_its_bound(
            limit in 1_u32..200,
            gaps_ms in prop::collection::vec(prop_oneof![Just(0_u64), 0..50_u64, 0..5_000_u64], 1..400),
        ) {
            let bucket = bucket(limit);
            let mut now_ms = 0;
            let mut grants = Vec::new();
            for gap in gaps_ms {
                now_ms += gap;
                if bucket.take(at(now_ms)).is_ok() {
                    grants.push(now_ms);
                }
            }
            for (first, start) in grants.iter().enumerate() {
                for (last, end) in grants.iter().enumerate().skip(first) {
                    let granted = (last - first + 1) as f64;
                    // A nanosecond per grant: the interval is a whole number of them, rounded down.
                    let window_s = (end - start) as f64 / 1e3 + granted * 1e-9 * f64::from(limit);
                    let bound = f64::from(limit) * (1.0 + window_s / 60.0);
                    prop_assert!(granted <= bound + 1e-6, "{granted} in {window_s} s, bound {bound}");
                }
            }
        }

        #[test]
        fn same_facts_and_time_same_verdict(
            limit in 1_u32..20,
            gaps_ms in prop::collection::vec(0_u64..4_000, 1..100),
        ) {
            let (one, two) = (bucket(limit), bucket(limit));
            let mut now_ms = 0;
            for gap in gaps_ms {
                now_ms += gap;
                prop_assert_eq!(one.take(at(now_ms)), two.take(at(now_ms)));
            }
        }
    }
}
