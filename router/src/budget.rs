//! The retry budget: retries are a share of requests, so a fleet that fails as a whole is not
//! buried under its own retries.

use crate::config::RetryConfig;
use parking_lot::Mutex;
use policy::Moment;

/// Tokens: each request brings a share of one, time brings some, each retry takes one.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Moment,
}

impl RetryBudget {
    /// A full budget.
    pub(crate) fn new(config: &RetryConfig, now: Moment) -> Self {
        Self { state: Mutex::new(State { tokens: config.saved_max, at: now }) }
    }

    /// Counts a request.
    pub(crate) fn deposit(&self, config: &RetryConfig, now: Moment) {
        self.refilled(config, now, |tokens| *tokens += config.ratio);
    }

    /// Takes leave for one retry.
    pub(crate) fn withdraw(&self, config: &RetryConfig, now: Moment) -> bool {
        self.refilled(config, now, |tokens| {
            let enough = *tokens >= 1.0;
            if enough {
                *tokens -= 1.0;
            }
            enough
        })
    }

    fn refilled<T>(&self, config: &RetryConfig, now: Moment, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.state.lock();
        let passed = now.0.saturating_sub(state.at.0);
        state.at = state.at.max(now);
        let result_tokens = state.tokens + passed.as_secs_f64() * config.floor_per_second;
        state.tokens = result_tokens.min(config.saved_max);
        let result = act(&mut state.tokens);
        state.tokens = state.tokens.min(config.saved_max);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn retries_are_a_share_of_requests() {
        let now = Moment(Duration::ZERO);
        let config = RetryConfig::default();
        let budget = RetryBudget::new(&config, now);
        let retries = (0..1_000).filter(|_| {
            budget.deposit(&config, now);
            budget.withdraw(&config, now)
        });
        assert_eq!(retries.count(), 109, "10 saved, a tenth of 1,000, less a rounding");
    }

    #[test]
    fn a_quiet_router_may_retry_again_later() {
        let at = |s| Moment(Duration::from_secs(s));
        let config = RetryConfig { ratio: 0.0, saved_max: 1.0, ..RetryConfig::default() };
        let budget = RetryBudget::new(&config, at(0));
        let withdraw = |s| budget.withdraw(&config, at(s));
        assert!(withdraw(0) && !withdraw(0));
        assert!(withdraw(1));
        assert!(withdraw(100) && !withdraw(100), "no more than saved_max");
    }
}
