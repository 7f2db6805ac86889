//! Caps on bytes and on requests per second: pure arithmetic over an injected clock (the time since
//! any fixed start). Nobody sleeps here.

use std::time::Duration;

/// How far a pacer may lag and still catch up: it makes up for sleeps that overshoot on a busy
/// machine. A longer lag means that nobody wanted to send, and unused time is not made up for.
const CATCH_UP: Duration = Duration::from_millis(20);
/// The same for requests: a tenth of a second's worth may come at once.
const REQUEST_BURST: Duration = Duration::from_millis(100);

/// A byte rate shared by everyone who asks it.
///
/// Each reservation is granted the moment at which its bytes may be sent; the moments are `bytes /
/// rate` apart, to the nanosecond with the remainder carried, so the rate holds over any time
/// whatever the sizes of the pieces and however late the sleepers wake. From a first byte after a pause
/// on, no more is ever sent than the rate allows, but for the last piece of each connection.
#[derive(Debug, Default, Clone)]
pub struct Pacer {
    /// When the next bytes are due; none before the first.
    next: Option<Duration>,
    /// The part of a nanosecond that was not charged yet, in billionths of a byte's time.
    remainder: u128,
}

impl Pacer {
    /// When `bytes` may be sent, given that it is `now`; a rate of 0 counts as one byte per second.
    pub fn reserve(&mut self, now: Duration, bytes: u64, bytes_per_second: u64) -> Duration {
        let rate = u128::from(bytes_per_second.max(1));
        let start = self.next.filter(|next| now <= *next + CATCH_UP).unwrap_or(now);
        let cost = u128::from(bytes) * 1_000_000_000 + self.remainder % rate;
        self.remainder = cost % rate;
        self.next = Some(start + Duration::from_nanos(u64::try_from(cost / rate).unwrap_or(u64::MAX / 2)));
        start
    }

    /// How many bytes to reserve at once: about 2 ms of a slow link, never more than 256 KiB, so
    /// that connections take turns and a fast link does not wake too often.
    #[must_use]
    pub fn piece_bytes(bytes_per_second: u64) -> u64 {
        (bytes_per_second / 500).clamp(1 << 10, 256 << 10)
    }
}

/// A cap on requests per second.
#[derive(Debug, Default, Clone)]
pub struct RequestGate {
    next: Duration,
}

impl RequestGate {
    /// Lets a request in.
    ///
    /// # Errors
    /// How long to wait until the next would be let in.
    pub fn admit(&mut self, now: Duration, requests_per_second: f64) -> Result<(), Duration> {
        let gap = Duration::from_secs_f64(1.0 / requests_per_second.max(1e-6));
        if self.next > now {
            return Err(self.next - now);
        }
        self.next = self.next.max(now.saturating_sub(REQUEST_BURST)) + gap;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends pieces for a second by a clock whose sleeps overshoot, and says how many bytes went.
    fn sent_in_a_second(rate: u64, piece: u64, connections: u64, overshoot: Duration) -> u64 {
        let mut pacer = Pacer::default();
        let begin = Duration::from_secs(10);
        let mut clocks = vec![begin; usize::try_from(connections).expect("few")];
        let mut sent = 0;
        loop {
            let earliest = (0..clocks.len()).min_by_key(|index| clocks[*index]).expect("one");
            let now = clocks[earliest];
            if now >= begin + Duration::from_secs(1) {
                return sent;
            }
            let at = pacer.reserve(now, piece, rate);
            clocks[earliest] = if at > now { at + overshoot } else { now + Duration::from_micros(40) };
            sent += piece;
        }
    }

    proptest! {
        #[test]
        fn caps_hold_within_one_percent_whatever_the_pieces_and_sleeps(
            rate in prop::sample::select(vec![200_000_000_u64, 500_000_000, 1_000_000_000]),
            piece_kib in 64_u64..=256,
            connections in 1_u64..=4,
            overshoot_us in 0_u64..=150,
        ) {
            let sent = sent_in_a_second(rate, piece_kib << 10, connections, Duration::from_micros(overshoot_us));
            let ratio = sent as f64 / rate as f64;
            prop_assert!((0.99..=1.01).contains(&ratio), "{ratio}");
        }

        #[test]
        fn reservations_never_exceed_the_rate(gaps in prop::collection::vec((0_u64..5_000_000, 1_u64..500_000), 1..200)) {
            let rate = 100_000_000;
            let mut pacer = Pacer::default();
            let (mut now, mut bytes, mut first) = (Duration::from_secs(1), 0_u64, None);
            for (gap, piece) in gaps {
                now += Duration::from_nanos(gap);
                let at = pacer.reserve(now, piece, rate).max(now);
                let begin = *first.get_or_insert(at);
                // All before this piece had to fit into the time until it, and the catch-up.
                let allowed = (at - begin + CATCH_UP).as_secs_f64() * rate as f64 + 1.0;
                prop_assert!(bytes as f64 <= allowed, "{bytes} bytes where {allowed} are allowed");
                bytes += piece;
            }
        }
    }

    #[test]
    fn time_before_the_first_byte_and_long_rests_earn_nothing() {
        let mut pacer = Pacer::default();
        let at = |milliseconds| Duration::from_millis(milliseconds);
        assert_eq!(pacer.reserve(at(3), 1_000_000, 1_000_000), at(3));
        assert_eq!(pacer.reserve(at(3), 10_000, 1_000_000), at(1003));
        assert_eq!(pacer.reserve(at(1030), 10_000, 1_000_000), at(1013), "a late sleeper catches up");
        assert_eq!(pacer.reserve(at(5000), 10_000, 1_000_000), at(5000), "a rest does not");
    }

    #[test]
    fn requests_above_the_cap_are_refused_and_told_when_to_come() {
        let mut gate = RequestGate::default();
        let (mut admitted, mut now) = (0, Duration::from_secs(5));
        for _ in 0..10_000 {
            match gate.admit(now, 500.0) {
                Ok(()) => admitted += 1,
                Err(wait) => assert!(wait <= Duration::from_millis(2)),
            }
            now += Duration::from_micros(100);
        }
        assert!((500..=551).contains(&admitted), "{admitted} in a second");
    }
}
