//! Delays before new attempts: exponential bounds, full jitter
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>). Randomness is an
//! argument.

use std::time::Duration;

use rand::Rng;

use super::config::FetchConfig;

/// A random delay before the attempt after `failures` failures, 1 or more.
pub(super) fn delay(failures: u32, config: &FetchConfig, random: &mut impl Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(32);
    let bound = config.backoff_base_ms.saturating_mul(1 << doublings).min(config.backoff_max_ms);
    Duration::from_millis(bound).mul_f64(random.random::<f64>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn delays_stay_below_a_bound_that_doubles_to_a_limit(failures in 1u32..100, seed: u64) {
            let config = FetchConfig::default();
            let delay = delay(failures, &config, &mut StdRng::seed_from_u64(seed));
            let doubled = config.backoff_base_ms << failures.saturating_sub(1).min(20);
            prop_assert!(delay <= Duration::from_millis(doubled.min(config.backoff_max_ms)));
        }
    }
}
