//! The bounds of fetching, every default with its reason.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{FETCH_BYTES, FETCH_BYTES_MAX};

/// Bounds of one load from far storage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// The most bytes one request asks for, 4 to 16 MiB in steps of 4 MiB. 8 MiB: a round trip is
    /// small beside such a body, and little waits for one slow connection.
    pub fetch_bytes: u64,
    /// Requests in flight at the start. 12 streams of a cloud's usual 96 MB/s fill 1 GB/s at once,
    /// and a load of a few seconds has no time for a slow start.
    pub concurrency_start: usize,
    /// The least that throttling lowers it to. With 4, one stall still leaves most of the link in use.
    pub concurrency_min: usize,
    /// The most that growing throughput raises it to. 32 streams of 96 MB/s are 3 GB/s.
    pub concurrency_max: usize,
    /// The most bytes asked for and not yet verified, over all loads of the process. 256 MiB are
    /// 32 requests of 8 MiB; also what a crash costs at most.
    pub in_flight_bytes: u64,
    /// Requests a second to one object. Azure documents 500 for a blob; the rest is for others.
    pub requests_per_second_object: u32,
    /// Requests a second to one account, bucket or host. S3 documents 5,500 for a prefix, Azure
    /// 20,000 for an account.
    pub requests_per_second_account: u32,
    /// The time to wait for a first byte while nothing is known of the source, in milliseconds.
    /// A cold TLS connection across an ocean takes half a second.
    pub first_byte_initial_ms: u64,
    /// The least patience for a first byte once answers have been seen, in milliseconds: 4 times
    /// the 95th percentile is waited otherwise. Below 150 ms the wait may be this machine's own.
    pub first_byte_floor_ms: u64,
    /// The least patience for the next bytes of a body, in milliseconds. A lost packet is resent
    /// within 200 ms.
    pub silence_floor_ms: u64,
    /// The share of all bytes asked for that hedges of slow ones may ask for again.
    pub hedge_ratio: f64,
    /// The bytes that hedges may ask for in any case. Two extents, so that the slowest two
    /// requests of a small model are hedged as well.
    pub hedge_floor_bytes: u64,
    /// Failed attempts of one fetch after which the load fails. Throttling is not counted.
    pub tries_max: u32,
    /// The time that one fetch may go on failing or being throttled, in seconds. A store that restarts
    /// is back within two minutes.
    pub retry_seconds_max: u64,
    /// The bound of the first random delay before a new attempt, in milliseconds; it doubles each time.
    pub backoff_base_ms: u64,
    /// The largest bound of that delay, in milliseconds.
    pub backoff_max_ms: u64,
    /// The longest `Retry-After` that is believed, in seconds.
    pub retry_after_max_seconds: u64,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            fetch_bytes: FETCH_BYTES,
            concurrency_start: 12,
            concurrency_min: 4,
            concurrency_max: 32,
            in_flight_bytes: 256 << 20,
            requests_per_second_object: 450,
            requests_per_second_account: 5_000,
            first_byte_initial_ms: 3_000,
            first_byte_floor_ms: 150,
            silence_floor_ms: 250,
            hedge_ratio: 0.03,
            hedge_floor_bytes: 8 << 20,
            tries_max: 8,
            retry_seconds_max: 120,
            backoff_base_ms: 50,
            backoff_max_ms: 5_000,
            retry_after_max_seconds: 60,
        }
    }
}

impl FetchConfig {
    /// Checks the bounds against each other.
    ///
    /// # Errors
    /// The problem, and the values that would be right.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.in_flight_bytes < FETCH_BYTES_MAX {
            return Err(format!(
                "in_flight_bytes is {}; the least is {FETCH_BYTES_MAX}, one fetch",
                self.in_flight_bytes
            ));
        }
        if self.concurrency_min == 0 || self.concurrency_min > self.concurrency_max {
            return Err("concurrency_min must be at least 1 and at most concurrency_max".to_owned());
        }
        if self.requests_per_second_object == 0 || self.requests_per_second_account == 0 {
            return Err("requests_per_second_object and requests_per_second_account must be at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&self.hedge_ratio) {
            return Err(format!("hedge_ratio is {}; it must be 0 to 1", self.hedge_ratio));
        }
        Ok(())
    }

    pub(super) fn first_byte_initial(&self) -> Duration {
        Duration::from_millis(self.first_byte_initial_ms)
    }

    pub(super) fn first_byte_floor(&self) -> Duration {
        Duration::from_millis(self.first_byte_floor_ms)
    }

    pub(super) fn silence_floor(&self) -> Duration {
        Duration::from_millis(self.silence_floor_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_what_cannot_work_is_refused() {
        assert_eq!(FetchConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut FetchConfig)| {
            let mut config = FetchConfig::default();
            change(&mut config);
            config.validate().is_err()
        };
        assert!(refused(|config| config.in_flight_bytes = 1));
        assert!(refused(|config| config.concurrency_min = 0));
        assert!(refused(|config| config.concurrency_min = 33));
        assert!(refused(|config| config.requests_per_second_object = 0));
        assert!(refused(|config| config.hedge_ratio = f64::NAN));
    }
}
