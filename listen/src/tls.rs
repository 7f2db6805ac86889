//! TLS: certificates from files that may rotate, both ends of a handshake, and who the other end is.
//!
//! rustls does the cryptography. No route, no request and no policy is known here.

mod client;
mod config;
mod error;
mod files;
mod handshake;
mod identity;
mod reload;
mod server;

pub use client::ClientTls;
pub use config::{ClientTlsConfig, MinVersion, TlsConfig};
pub use error::TlsError;
pub(crate) use handshake::{Failure, accept};
pub use identity::Identity;
pub use reload::CertificateMeters;
pub(crate) use server::ServerTls;
