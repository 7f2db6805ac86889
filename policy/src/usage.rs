//! Kinds of use that can be limited.

use std::fmt;
use std::time::Duration;

/// A kind of use that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Requests in a minute.
    RequestsPerMinute,
    /// Tokens in a minute.
    TokensPerMinute,
    /// Tokens in a day.
    TokensPerDay,
    /// Tokens in 30 days.
    TokensPerMonth,
    /// Requests being answered.
    Concurrent,
}

impl Use {
    pub(crate) const fn window(self) -> Duration {
        Duration::from_secs(match self {
            Self::RequestsPerMinute | Self::TokensPerMinute | Self::Concurrent => 60,
            Self::TokensPerDay => 86_400,
            Self::TokensPerMonth => 30 * 86_400,
        })
    }

    pub(crate) const fn is_of_tokens(self) -> bool {
        matches!(self, Self::TokensPerMinute | Self::TokensPerDay | Self::TokensPerMonth)
    }

    /// True for limits that a program does not wait for.
    pub(crate) const fn is_budget(self) -> bool {
        matches!(self, Self::TokensPerDay | Self::TokensPerMonth)
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestsPerMinute => "requests per minute",
            Self::TokensPerMinute => "tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::TokensPerMonth => "tokens per month",
            Self::Concurrent => "requests at a time",
        })
    }
}
