//! Errors of a source, and which of them may pass.

use std::time::Duration;

use thiserror::Error;

use crate::landing::LandingError;

/// Errors of a source; see [`SourceError::is_retryable`].
#[derive(Debug, Error)]
pub enum SourceError {
    /// There is no such object.
    #[error("{url}: there is no `{name}`")]
    NotFound {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
    },
    /// Credentials are missing, wrong or not allowed to read this.
    #[error("{url}: reading `{name}` was refused ({status}): {fix}")]
    Denied {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The HTTP status, or the system's word.
        status: String,
        /// The fix.
        fix: String,
    },
    /// The service that hands credentials out gives no answer.
    #[error("{url}: reading `{name}` needs credentials, and {problem}: {fix}")]
    NoCredentials {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The service and its answer.
        problem: String,
        /// The fix.
        fix: String,
    },
    /// The store refuses the request, or can never answer it: the same request would be refused again.
    #[error("{url}: reading `{name}`: {problem}, and asking again would not help")]
    Refused {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The answer.
        problem: String,
    },
    /// The object is not what it was when the load began.
    #[error("{url}: `{name}` changed while it was being read ({detail}); start the load again")]
    Changed {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// Old and new tag or size.
        detail: String,
    },
    /// The store asked us to slow down (429, 503, `SlowDown`, `ServerBusy`).
    #[error("{url}: throttled while reading `{name}` ({status})")]
    Throttled {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The HTTP status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// A peer is busy and has given these bytes to others, who can be asked for them. It may yet give other bytes.
    #[error("{url}: `{name}` was given to others, and it is busy")]
    Taken {
        /// The peer's URL.
        url: String,
        /// The object.
        name: String,
        /// The time after which asking again makes sense.
        retry_after: Duration,
    },
    /// A server error, a broken connection, a time-out: may pass.
    #[error("{url}: reading `{name}`: {problem}")]
    Transient {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The problem.
        problem: String,
        /// The cause, where there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The server broke HTTP or its store's protocol; trying again on another replica may help.
    #[error("{url}: `{name}` was answered wrongly: {problem}")]
    Protocol {
        /// The model's URL.
        url: String,
        /// The object.
        name: String,
        /// The problem.
        problem: String,
    },
    /// A configuration or URL that cannot work.
    #[error("{url}: {problem}")]
    Config {
        /// The model's URL.
        url: String,
        /// The problem and its fix.
        problem: String,
    },
    /// The landed bytes are not what was promised, or could not be kept.
    #[error(transparent)]
    Landing(#[from] LandingError),
}

impl SourceError {
    /// Returns true if the same request may succeed later. An answer that says "no" for good (credentials, a
    /// missing object, a status of 4xx) is not asked for again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Taken { .. } | Self::Transient { .. } | Self::Protocol { .. })
    }
}
