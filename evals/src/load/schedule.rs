//! The times at which requests are meant to be sent: a pure function of rate, duration, process and seed.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp};
use serde::Serialize;
use std::time::Duration;

/// The most requests of one run: each is kept in memory until the report is written.
pub(super) const REQUESTS_MAX: f64 = 1_000_000.0;

/// The process by which requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent users: exponentially distributed gaps (a Poisson process).
    Poisson,
    /// Evenly spaced.
    Constant,
}

/// The intended send times within `duration`, in nanoseconds from the start, ascending. The same
/// arguments give the same times.
///
/// # Panics
/// When `rate_per_s` is not above zero: the arguments were checked before.
#[must_use]
pub(crate) fn arrival_times(rate_per_s: f64, duration: Duration, arrivals: Arrivals, seed: u64) -> Vec<u64> {
    assert!(rate_per_s > 0.0 && rate_per_s.is_finite(), "a checked rate");
    match arrivals {
        Arrivals::Constant => constant(rate_per_s, duration),
        Arrivals::Poisson => poisson(rate_per_s, duration, seed),
    }
}

fn constant(rate_per_s: f64, duration: Duration) -> Vec<u64> {
    let end = duration.as_secs_f64();
    (0_u32..).map(|number| f64::from(number) / rate_per_s).take_while(|&time| time < end).map(to_ns).collect()
}

fn poisson(rate_per_s: f64, duration: Duration, seed: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let gaps = Exp::new(rate_per_s).expect("a checked rate is a valid parameter");
    let end = duration.as_secs_f64();
    let mut time = 0.0;
    std::iter::from_fn(move || {
        time += gaps.sample(&mut random);
        (time < end).then(|| to_ns(time))
    })
    .collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a bounded, positive duration")]
fn to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_start_at_once() {
        let times = arrival_times(4.0, Duration::from_secs(1), Arrivals::Constant, 0);
        assert_eq!(times, [0, 250_000_000, 500_000_000, 750_000_000]);
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_their_process() {
        let times = arrival_times(100.0, MINUTE * 10, Arrivals::Poisson, 7);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e9).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // 60 000 gaps: the standard error of the mean is 0.4 %.
        assert!((mean / 0.010 - 1.0).abs() < 0.02, "mean gap {mean} s");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "coefficient of variation {}", variance.sqrt() / mean);
    }

    #[test]
    fn poisson_counts_per_second_are_as_spread_as_their_mean() {
        let times = arrival_times(20.0, MINUTE * 20, Arrivals::Poisson, 11);
        let mut counts = vec![0.0_f64; 1200];
        for time in &times {
            counts[(time / 1_000_000_000) as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1200.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 1200.0;
        assert!((variance / mean - 1.0).abs() < 0.2, "index of dispersion {}", variance / mean);
    }

    #[test]
    fn another_seed_gives_other_times() {
        let [one, two] = [1, 2].map(|seed| arrival_times(10.0, MINUTE, Arrivals::Poisson, seed));
        assert_ne!(one, two);
    }

    proptest! {
        #[test]
        fn times_ascend_stay_within_the_duration_and_repeat_with_the_seed(
            rate in 0.5_f64..500.0, seconds in 1_u64..5, seed: u64, poisson: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let duration = Duration::from_secs(seconds);
            let times = arrival_times(rate, duration, arrivals, seed);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(times.iter().all(|&time| u128::from(time) < duration.as_nanos()));
            prop_assert_eq!(times, arrival_times(rate, duration, arrivals, seed));
        }
    }
}
