//! A token bucket of bytes. Pure.

use std::time::{Duration, Instant};

/// The time whose bytes may be sent at once: a timer wakes no more often than every millisecond.
const BURST: Duration = Duration::from_millis(10);
/// The fewest bytes that may be sent at once: two pieces.
const BURST_BYTES: f64 = 512.0 * 1024.0;

/// Bytes that may be sent now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    bytes: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes bytes out, or says how long they take to come at `bytes_per_second`; none comes at zero.
    ///
    /// # Errors
    /// The time to wait.
    pub(crate) fn take(&mut self, wanted: u64, bytes_per_second: u64, now: Instant) -> Result<(), Duration> {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let (wanted, rate) = (wanted as f64, bytes_per_second as f64);
        let most = (rate * BURST.as_secs_f64()).max(BURST_BYTES).max(wanted);
        let since = self.filled.replace(now).map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.bytes = (self.bytes + rate * since.as_secs_f64()).min(most);
        if bytes_per_second == 0 {
            return Err(Duration::MAX);
        }
        if self.bytes >= wanted {
            self.bytes -= wanted;
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((wanted - self.bytes) / rate).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_comes_out_than_the_rate_and_one_burst(
            rate in 1_u64..1 << 34,
            takes in prop::collection::vec((1_u64..1 << 19, 0_u64..200_000), 1..100),
        ) {
            let (begun, mut bucket, mut sent, mut after) = (Instant::now(), Bucket::default(), 0, Duration::ZERO);
            for (wanted, pause_us) in takes {
                after += Duration::from_micros(pause_us);
                if bucket.take(wanted, rate, begun + after).is_ok() {
                    sent += wanted;
                }
            }
            let most = rate as f64 * (after + BURST).as_secs_f64() + BURST_BYTES + 1.0;
            prop_assert!(sent as f64 <= most, "{sent} of {most}");
        }

        #[test]
        fn what_it_says_to_wait_is_enough(rate in 1_000_u64..1 << 34, wanted in 1_u64..1 << 19) {
            let (now, mut bucket) = (Instant::now(), Bucket::default());
            if let Err(wait) = bucket.take(wanted, rate, now) {
                prop_assert_eq!(bucket.take(wanted, rate, now + wait + Duration::from_micros(1)), Ok(()));
            }
        }
    }

    #[test]
    fn nothing_comes_at_no_rate() {
        let (now, mut bucket) = (Instant::now(), Bucket::default());
        assert_eq!(bucket.take(1, 0, now), Err(Duration::MAX));
        assert_eq!(bucket.take(1, 0, now + Duration::from_secs(9)), Err(Duration::MAX));
        assert!(bucket.take(1, 1 << 30, now + Duration::from_secs(10)).is_ok());
    }
}
