//! A bucket that is arithmetic: as large as its limit, refilled evenly, told the time. It knows neither tenants nor units.
//!
//! Any window of `w` grants at most `limit × (1 + w / window)`. What is given back counts as never taken, and no more: a
//! share that has refilled since brings nothing. A share may turn out larger than what was reserved; the rest is debt, up
//! to one more bucket.

use crate::moment::Moment;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// The most groups of shares that may still be given back; the oldest go first. Twice the requests in flight by default.
const GROUPS_MAX: usize = 16_384;

/// The rest of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The limit.
    pub limit: u64,
    /// How much of it could be taken right now.
    pub remaining: u64,
    /// How long until `remaining` is `limit` again.
    pub reset: Duration,
}

impl Rest {
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

/// The bucket does not hold as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) rest: Rest,
    /// When it does; `None` for more than it ever holds.
    pub(super) retry_after: Option<Duration>,
}

/// A limit over time.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: u64,
    window_ns: u64,
    level: Mutex<Level>,
}

/// The used part of a bucket. Amounts are multiplied by the window's nanoseconds, so that nothing is ever rounded.
#[derive(Debug, Default)]
struct Level {
    used: u128,
    /// When `used` was true. It never goes back: a caller that was overtaken between reading the time and asking is
    /// judged a few microseconds late, not early.
    at_ns: u64,
    /// The number of shares so far.
    serial: u64,
    /// For shares up to a number: the least that was used at any time since. So much of them has not come back by itself.
    /// Both grow from front to back.
    lows: VecDeque<(u64, u128)>,
    /// Shares up to this number have come back.
    returned: u64,
}

impl Level {
    /// Lets time pass.
    fn advance(&mut self, now: Moment, limit: u64) {
        let now_ns = now.ns().max(self.at_ns);
        self.used = self.used.saturating_sub(u128::from(now_ns - self.at_ns) * u128::from(limit));
        self.at_ns = now_ns;
    }

    /// Writes down how low it is, before it rises.
    fn mark(&mut self) {
        let low = self.used;
        let mut upto = None;
        while self.lows.back().is_some_and(|(_, other)| *other >= low) {
            // Those popped after the first end before it.
            upto = upto.or(self.lows.pop_back().map(|(upto, _)| upto));
        }
        match upto {
            Some(upto) if self.used == 0 => self.returned = upto,
            Some(upto) => self.lows.push_back((upto, low)),
            None => {}
        }
    }

    /// Adds a share.
    fn take(&mut self, cost: u128) -> u64 {
        self.mark();
        if self.lows.len() >= GROUPS_MAX {
            self.returned = self.lows.pop_front().map_or(self.returned, |(upto, _)| upto);
        }
        self.used += cost;
        self.serial += 1;
        self.lows.push_back((self.serial, u128::MAX));
        self.serial
    }

    /// Gives back of a share what has not come back by itself.
    fn refund(&mut self, serial: u64, cost: u128) {
        let mut place = self.lows.partition_point(|(upto, _)| *upto < serial);
        let Some((_, low)) = self.lows.get(place).copied().filter(|_| serial > self.returned) else { return };
        let back = cost.min(low).min(self.used);
        self.used -= back;
        if low == u128::MAX {
            return;
        }
        // As if it had never been taken: whatever was used since was that much less, and before it nothing changes.
        self.lows.range_mut(place..).filter(|(_, low)| *low != u128::MAX).for_each(|(_, low)| *low -= back);
        while place > 0 && self.lows[place - 1].1 >= low - back {
            place -= 1;
            self.lows.remove(place);
        }
        if low == back && place == 0 {
            self.returned = self.lows.pop_front().map_or(self.returned, |(upto, _)| upto);
        }
    }
}

impl Bucket {
    /// A full bucket. `limit` is above 0.
    pub(super) fn new(limit: u64, window: Duration) -> Self {
        Self { limit, window_ns: Moment(window).ns(), level: Mutex::default() }
    }

    /// The limit.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// A bucket of another size of which as much is used as of this one; shares of this one are not given back there.
    pub(super) fn resized(&self, limit: u64) -> Self {
        let (used, at_ns) = {
            let level = self.level.lock();
            (level.used, level.at_ns)
        };
        let level = Mutex::new(Level { used, at_ns, ..Level::default() });
        Self { limit, window_ns: self.window_ns, level }
    }

    fn cost(&self, amount: u64) -> u128 {
        u128::from(amount) * u128::from(self.window_ns)
    }

    /// Takes a share, and returns its number.
    pub(super) fn take(&self, amount: u64, now: Moment) -> Result<(u64, Rest), Exceeded> {
        let mut level = self.level.lock();
        level.advance(now, self.limit);
        let lacking = (level.used + self.cost(amount)).saturating_sub(self.cost(self.limit));
        if lacking > 0 {
            let wait_ns = u64::try_from(lacking.div_ceil(u128::from(self.limit))).unwrap_or(u64::MAX);
            let retry_after = (amount <= self.limit).then_some(Duration::from_nanos(wait_ns));
            return Err(Exceeded { rest: self.rest_of(&level), retry_after });
        }
        let serial = level.take(self.cost(amount));
        Ok((serial, self.rest_of(&level)))
    }

    /// Corrects a share to what was really used.
    pub(super) fn settle(&self, serial: u64, reserved: u64, used: u64, now: Moment) -> Rest {
        let mut level = self.level.lock();
        level.advance(now, self.limit);
        if used <= reserved {
            level.refund(serial, self.cost(reserved - used));
        } else {
            level.mark();
            let most = level.used.max(2 * self.cost(self.limit));
            level.used = (level.used + self.cost(used - reserved)).min(most);
        }
        self.rest_of(&level)
    }

    /// The rest of the limit, nothing taken.
    pub(super) fn rest(&self, now: Moment) -> Rest {
        let mut level = self.level.lock();
        level.advance(now, self.limit);
        self.rest_of(&level)
    }

    fn rest_of(&self, level: &Level) -> Rest {
        let used = u64::try_from(level.used.div_ceil(u128::from(self.window_ns))).unwrap_or(u64::MAX);
        let reset_ns = u64::try_from(level.used.div_ceil(u128::from(self.limit))).unwrap_or(u64::MAX);
        let remaining = self.limit.saturating_sub(used);
        Rest { limit: self.limit, remaining, reset: Duration::from_nanos(reset_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn bucket(limit: u64) -> Bucket {
        Bucket::new(limit, MINUTE)
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn a_full_bucket_empties_and_refills_evenly() {
        let bucket = bucket(60);
        for left in (0..60).rev() {
            assert_eq!(bucket.take(1, at(0)).expect("granted").1.remaining, left);
        }
        let refused = bucket.take(1, at(0)).expect_err("empty");
        assert_eq!((refused.retry_after, refused.rest.remaining), (Some(Duration::from_secs(1)), 0));
        assert_eq!(refused.rest.reset, Duration::from_secs(60));
        assert!(bucket.take(1, at(999)).is_err());
        bucket.take(1, at(1_000)).expect("one came back");
        assert!(bucket.take(1, at(1_000)).is_err());
    }

    #[test]
    fn a_time_that_goes_back_grants_nothing() {
        let bucket = bucket(1);
        bucket.take(1, at(100_000)).expect("granted");
        for ms in [0, 50_000, 159_999] {
            assert!(bucket.take(1, at(ms)).is_err(), "{ms}");
        }
        bucket.take(1, at(160_000)).expect("a minute later");
    }

    #[test]
    fn reset_is_written_as_openai_does() {
        for (ms, text) in
            [(0, "0ms"), (250, "250ms"), (1_000, "1s"), (1_001, "2s"), (59_999, "1m0s"), (360_000, "6m0s")]
        {
            let rest = Rest { limit: 1, remaining: 0, reset: Duration::from_millis(ms) };
            assert_eq!(rest.reset_text(), text);
        }
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let bucket = bucket(2);
        let (first, _) = bucket.take(1, at(0)).expect("one");
        let (second, _) = bucket.take(1, at(1)).expect("two");
        assert!(bucket.take(1, at(2)).is_err());
        assert_eq!(bucket.settle(first, 1, 0, at(3)).remaining, 1);
        assert_eq!(bucket.settle(second, 1, 0, at(4)).remaining, 2);
        // What came back by itself is not given back again.
        let (early, _) = bucket.take(1, at(10_000)).expect("one");
        bucket.take(1, at(45_000)).expect("two");
        assert_eq!(bucket.settle(early, 1, 0, at(45_001)).remaining, 1);
        bucket.take(1, at(45_002)).expect("the second");
        assert!(bucket.take(1, at(45_003)).is_err());
    }

    #[test]
    fn shares_that_overlap_are_given_back_whole_in_any_order() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let bucket = bucket(1_000);
            let serials = [100, 500, 300].map(|amount| (bucket.take(amount, at(0)).expect("granted").0, amount));
            for (serial, amount) in order.map(|place| serials[place]) {
                bucket.settle(serial, amount, 10, at(0));
            }
            assert_eq!(bucket.rest(at(0)).remaining, 970, "{order:?}");
        }
    }

    #[test]
    fn more_than_the_bucket_holds_is_refused_for_good_and_more_than_was_reserved_is_debt() {
        let bucket = bucket(100);
        assert_eq!(bucket.take(101, at(0)).expect_err("too much").retry_after, None);
        let (serial, _) = bucket.take(10, at(0)).expect("ten");
        assert_eq!(bucket.settle(serial, 10, 150, at(0)).remaining, 0);
        assert_eq!(bucket.take(1, at(0)).expect_err("in debt").retry_after, Some(Duration::from_millis(30_600)));
        let (serial, _) = bucket.take(1, at(30_600)).expect("paid");
        // One worker's wild count does not lock a tenant out for years.
        bucket.settle(serial, 1, u64::MAX >> 8, at(30_600));
        assert_eq!(bucket.rest(at(30_600)).reset, 2 * MINUTE);
    }

    #[test]
    fn another_size_keeps_what_is_used() {
        let small = bucket(10);
        small.take(10, at(0)).expect("all");
        let large = small.resized(40);
        assert_eq!(large.rest(at(0)).remaining, 30);
        assert_eq!(large.resized(5).rest(at(0)).remaining, 0);
    }

    /// A share that was granted, and what becomes of it.
    #[derive(Debug, Clone, Copy)]
    struct Step {
        gap_ms: u64,
        reserved: u64,
        used: u64,
        delay_ms: u64,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let gap = prop_oneof![Just(0_u64), 0..500_u64, 0..20_000_u64];
        (gap, 1_u64..8, 0_u64..8, prop_oneof![Just(0_u64), 0..60_000_u64]).prop_map(
            |(gap_ms, reserved, used, delay_ms)| Step { gap_ms, reserved, used: used.min(reserved), delay_ms },
        )
    }

    proptest! {
        /// Shares are corrected, each some time after it was taken: whatever is granted, a bucket of which only
        /// what was used was ever asked would have granted as well.
        #[test]
        fn settling_grants_no_more_than_asking_for_what_is_used(
            limit in 1_u64..10,
            steps in prop::collection::vec(any_step(), 1..60),
        ) {
            let (bucket, without) = (bucket(limit), bucket(limit));
            let mut now = 0;
            let mut due: Vec<(u64, u64, Step)> = Vec::new();
            for step in steps {
                now += step.gap_ms;
                due.sort_by_key(|(when, serial, _)| (*when, *serial));
                while due.first().is_some_and(|(when, ..)| *when <= now) {
                    let (when, serial, step) = due.remove(0);
                    bucket.settle(serial, step.reserved, step.used, at(when));
                }
                if let Ok((serial, _)) = bucket.take(step.reserved, at(now)) {
                    due.push((now + step.delay_ms, serial, step));
                    let kept = without.take(step.used, at(now));
                    prop_assert!(kept.is_ok(), "granted at {now} ms what asking for its use would not have been");
                }
            }
        }

        #[test]
        fn no_window_grants_more_than_its_bound(
            limit in 1_u64..200,
            asks in prop::collection::vec((prop_oneof![Just(0_u64), 0..50_u64, 0..5_000_u64], 1_u64..9), 1..400),
        ) {
            let bucket = bucket(limit);
            let mut now_ms = 0;
            let mut grants: Vec<(u64, u64)> = Vec::new();
            for (gap, amount) in asks {
                now_ms += gap;
                if bucket.take(amount, at(now_ms)).is_ok() {
                    grants.push((now_ms, amount));
                }
            }
            for (first, (start, _)) in grants.iter().enumerate() {
                let mut granted = 0;
                for (end, amount) in &grants[first..] {
                    granted += amount;
                    let bound_ms = limit * (60_000 + end - start);
                    prop_assert!(granted * 60_000 <= bound_ms, "{granted} in {} ms of {limit}", end - start);
                }
            }
        }

        #[test]
        fn same_facts_and_time_same_verdict(
            limit in 1_u64..20,
            gaps_ms in prop::collection::vec(0_u64..4_000, 1..100),
        ) {
            let (one, two) = (bucket(limit), bucket(limit));
            let mut now_ms = 0;
            for gap in gaps_ms {
                now_ms += gap;
                prop_assert_eq!(one.take(1, at(now_ms)), two.take(1, at(now_ms)));
            }
        }
    }
}
