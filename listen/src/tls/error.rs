//! Errors of setting up TLS.

use std::path::PathBuf;
use thiserror::Error;

/// Errors of setting up TLS. None of them repeats what is in a key's file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The settings do not fit together.
    #[error("tls.{field}: {problem}")]
    Config {
        /// The key.
        field: &'static str,
        /// The mistake in it.
        problem: &'static str,
    },
    /// A file cannot be read.
    #[error("reading {}, for TLS", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} {problem}; give a PEM file", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        problem: String,
    },
    /// A certificate cannot be used with its key.
    #[error("using the certificate in {} with the key in {}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The library's error.
        #[source]
        source: rustls::Error,
    },
    /// A certificate is not valid now.
    #[error("the certificate in {} {problem}; renew it, or set the clock right", path.display())]
    Time {
        /// The certificate's file.
        path: PathBuf,
        /// Since or until when.
        problem: String,
    },
    /// The library refuses the settings.
    #[error("setting up TLS")]
    Setup(#[source] rustls::Error),
    /// The authorities are of no use.
    #[error("setting up TLS with the authorities in {}", path.display())]
    Authorities {
        /// Their file.
        path: PathBuf,
        /// The library's error.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}
