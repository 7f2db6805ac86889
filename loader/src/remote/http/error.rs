//! Errors of a request, without the model's URL, which the client does not know, and without
//! the request's, which may be signed.

use std::io;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use thiserror::Error;
use wire::peers::Others;

use super::head::HeadError;
use super::refusal::{error_code, others, retry_after};
use crate::landing::LandingError;
use crate::source::SourceError;

/// A proxy that makes no tunnel.
#[derive(Debug, Error)]
#[error("the proxy {proxy} answered {status} to the request for a tunnel")]
pub(super) struct TunnelRefused {
    pub(super) proxy: String,
    pub(super) status: u16,
}

/// Errors of a request. [`HttpError::about`] makes a [`SourceError`] of one.
#[derive(Debug, Error)]
pub enum HttpError {
    /// No connection could be made.
    #[error("connecting to {host}: {source}")]
    Connect {
        /// Host and port.
        host: String,
        /// The system's or TLS's error.
        #[source]
        source: io::Error,
    },
    /// Something took too long.
    #[error("{doing} {host} took more than {} ms", .after.as_millis())]
    TimedOut {
        /// The operation, such as `connecting to`.
        doing: &'static str,
        /// Host and port.
        host: String,
        /// The bound.
        after: Duration,
    },
    /// The connection broke before the answer was whole.
    #[error("the connection to {host} broke while {doing}: {source}")]
    Broken {
        /// Host and port.
        host: String,
        /// The operation.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The server answered with an error.
    #[error("{host} answered {status}{}", code_text(.code.as_deref()))]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The store's error code, such as `SlowDown`.
        code: Option<String>,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
        /// The way on that a peer names.
        others: Option<Box<Others>>,
    },
    /// The object is not the one that was pinned.
    #[error("{detail}")]
    Changed {
        /// Old and new tag or size.
        detail: String,
    },
    /// The answer's head cannot be read.
    #[error("{host}: {source}")]
    Head {
        /// Host and port.
        host: String,
        /// The problem.
        #[source]
        source: HeadError,
    },
    /// The answer is not what HTTP demands, or not what was asked for.
    #[error("{problem}")]
    Protocol {
        /// The problem.
        problem: String,
    },
    /// The request or the configuration cannot work.
    #[error("{problem}")]
    Config {
        /// The problem and its fix.
        problem: String,
    },
    /// The landed bytes were refused.
    #[error(transparent)]
    Landing(#[from] LandingError),
}

fn code_text(code: Option<&str>) -> String {
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}

impl HttpError {
    /// The same as a [`SourceError`]: `url` is the model's, without secrets; `fix` is what to do
    /// when the server refuses the credentials.
    #[must_use]
    pub fn about(self, url: &str, name: &str, fix: &str) -> SourceError {
        let (url, name) = (url.to_owned(), name.to_owned());
        match self {
            Self::Refused { status, code, retry_after, host, .. } => {
                Refusal { host, status, code, retry_after }.about(url, name, fix)
            }
            Self::Changed { detail } => SourceError::Changed { url, name, detail },
            Self::Head { .. } | Self::Protocol { .. } => SourceError::Protocol { url, name, problem: self.to_string() },
            Self::Config { problem } => SourceError::Config { url, problem },
            Self::Landing(error) => SourceError::Landing(error),
            Self::Connect { host, source } if is_certificate(&source) => {
                let problem = format!(
                    "connecting to {host}: {source}; if its certification authority is your own, name its PEM file in \
                     SSL_CERT_FILE or `loader.http.ca_file`"
                );
                SourceError::Config { url, problem }
            }
            Self::Connect { host, source } if is_refused_tunnel(&source) => {
                let problem = format!(
                    "connecting to {host}: {source}; give user and password in HTTPS_PROXY, or name the host in NO_PROXY"
                );
                SourceError::Config { url, problem }
            }
            Self::Connect { ref host, .. } => {
                let problem = format!("connecting to {host}");
                SourceError::Transient { url, name, problem, source: cause(self) }
            }
            Self::Broken { ref host, doing, .. } => {
                let problem = format!("the connection to {host} broke while {doing}");
                SourceError::Transient { url, name, problem, source: cause(self) }
            }
            Self::TimedOut { .. } => SourceError::Transient { url, name, problem: self.to_string(), source: None },
        }
    }

    /// The error that an answer is, its body as far as it was read.
    #[must_use]
    pub fn refused(host: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        Self::Refused {
            host: host.to_owned(),
            status: status.as_u16(),
            code: error_code(headers, body),
            retry_after: retry_after(headers, SystemTime::now()),
            others: others(headers).map(Box::new),
        }
    }

    /// The status the server answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Returns true if a connection failed because the server's certificate is not trusted: it will not be at the
/// next attempt either.
fn is_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// Returns true if a proxy refuses a tunnel for good.
fn is_refused_tunnel(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TunnelRefused>());
    cause.is_some_and(|refused| (400..500).contains(&refused.status))
}

/// The system's error behind a broken or failed connection.
fn cause(error: HttpError) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    match error {
        HttpError::Connect { source, .. } | HttpError::Broken { source, .. } => Some(Box::new(source)),
        _ => None,
    }
}

struct Refusal {
    host: String,
    status: u16,
    code: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn about(self, url: String, name: String, fix: &str) -> SourceError {
        let Self { host, status, code, retry_after } = self;
        let throttling = matches!(code.as_deref(), Some("SlowDown" | "ServerBusy" | "TooManyRequests"));
        let text = format!("{host} answered {status}{}", code_text(code.as_deref()));
        match status {
            429 | 503 => SourceError::Throttled { url, name, status, retry_after },
            _ if throttling => SourceError::Throttled { url, name, status, retry_after },
            404 => SourceError::NotFound { url, name },
            _ if code.as_deref() == Some("RequestTimeout") => {
                SourceError::Transient { url, name, problem: text, source: None }
            }
            401 | 403 => {
                let status = format!("{status}{}", code_text(code.as_deref()));
                SourceError::Denied { url, name, status, fix: fix.to_owned() }
            }
            412 => SourceError::Changed { url, name, detail: text },
            501 | 505 => SourceError::Refused { url, name, problem: text },
            408 | 425 | 500..=599 => SourceError::Transient { url, name, problem: text, source: None },
            400..=499 => SourceError::Refused { url, name, problem: text },
            _ => SourceError::Protocol { url, name, problem: text },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: Option<&str>) -> SourceError {
        let code = code.map(str::to_owned);
        let host = "store.example:443".to_owned();
        HttpError::Refused { host, status, code, retry_after: None, others: None }.about(
            "https://store.example/",
            "a",
            "log in",
        )
    }

    #[test]
    fn a_status_decides_whether_to_try_again() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(refused(status, None).is_retryable(), "{status}");
        }
        for status in [400, 401, 403, 404, 405, 410, 412, 414, 416, 451, 501, 505] {
            assert!(!refused(status, None).is_retryable(), "{status}");
        }
        assert!(refused(400, Some("RequestTimeout")).is_retryable(), "S3 gives it the wrong status");
    }

    #[test]
    fn only_404_is_absence() {
        for status in 400..600 {
            assert_eq!(matches!(refused(status, None), SourceError::NotFound { .. }), status == 404, "{status}");
        }
    }

    #[test]
    fn a_store_that_is_busy_throttles_whatever_status_it_chose() {
        for code in ["SlowDown", "ServerBusy"] {
            assert!(matches!(refused(500, Some(code)), SourceError::Throttled { status: 500, .. }), "{code}");
        }
        assert!(matches!(refused(503, None), SourceError::Throttled { .. }));
    }

    #[test]
    fn a_refusal_names_the_stores_code_and_the_fix() {
        let text = refused(403, Some("AuthenticationFailed")).to_string();
        assert!(text.contains("403 (AuthenticationFailed)") && text.contains("log in"), "{text}");
    }
}
