//! Requests per minute by the generic cell rate algorithm (crate `governor`), told the time.
//!
//! A bucket as large as the limit refills evenly, so any window of `w` seconds grants at most
//! `limit × (1 + w / 60)`. It lives in this process: several routers grant several times as much
//! (a shared store belongs to a later issue, and `docs/` says so).

use crate::config::{ConfigError, PolicyConfig};
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A point on the caller's monotonic clock: the time since whatever start it chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

/// What a tenant may still do: the `x-ratelimit-*-requests` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub limit: u32,
    /// How many could be made right now.
    pub remaining: u32,
    /// How long until `remaining` is `limit` again, to within one request's share of the minute.
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

/// A clock that shows the latest time anybody told it. It never goes back, so a caller that was
/// overtaken between reading the time and asking is judged a few microseconds late, not early.
#[derive(Debug, Clone, Default)]
struct ToldClock(Arc<AtomicU64>);

impl ToldClock {
    fn tell(&self, now: Moment) {
        self.0.fetch_max(u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

/// One tenant's limiter.
#[derive(Debug)]
struct Bucket {
    limit: NonZeroU32,
    interval: Duration,
    clock: ToldClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, ToldClock, StateInformationMiddleware>,
}

impl Bucket {
    fn new(limit: NonZeroU32) -> Self {
        let quota = Quota::per_minute(limit);
        let clock = ToldClock::default();
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        Self { limit, interval: quota.replenish_interval(), clock, limiter }
    }

    fn take(&self, now: Moment) -> Result<Limits, Exceeded> {
        self.clock.tell(now);
        match self.limiter.check() {
            Ok(state) => Ok(self.limits(state.remaining_burst_capacity())),
            Err(not_until) => {
                let retry_after = not_until.wait_time_from(self.clock.now());
                let mut limits = self.limits(0);
                limits.reset = self.interval * (self.limit.get() - 1) + retry_after;
                Err(Exceeded { limits, retry_after })
            }
        }
    }

    fn limits(&self, remaining: u32) -> Limits {
        let limit = self.limit.get();
        Limits { limit, remaining, reset: self.interval * (limit - remaining.min(limit)) }
    }
}

/// The limiters of all tenants, by place; as many as the configuration has.
#[derive(Debug)]
pub(crate) struct Quotas(Vec<Option<Bucket>>);

impl Quotas {
    pub(crate) fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        let anonymous = ("anonymous".to_owned(), config.anonymous.requests_per_minute);
        let tenants = config.tenants.iter().enumerate();
        let tenants = tenants.map(|(index, tenant)| (format!("tenants[{index}]"), tenant.requests_per_minute));
        let bucket = |(at, limit): (String, Option<u32>)| match limit.map(NonZeroU32::new) {
            None => Ok(None),
            Some(Some(limit)) => Ok(Some(Bucket::new(limit))),
            Some(None) => {
                let problem = "is 0, which lets nothing in; leave it out for no limit, or remove the keys";
                Err(ConfigError::new(format!("{at}.requests_per_minute"), problem))
            }
        };
        std::iter::once(anonymous).chain(tenants).map(bucket).collect::<Result<_, _>>().map(Self)
    }

    /// Takes one request from the tenant's bucket; `None` where it is unlimited.
    pub(crate) fn take(&self, tenant: usize, now: Moment) -> Result<Option<Limits>, Exceeded> {
        self.0[tenant].as_ref().map(|bucket| bucket.take(now)).transpose()
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
            assert_eq!(bucket.take(at(0)).expect("granted").remaining, left);
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

    proptest! {
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
