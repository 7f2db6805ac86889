//! How a process of ours listens for HTTP: bounds against slow and many clients, request ids,
//! OpenAI-shaped errors for what never reaches a handler, and a drain that loses nothing.
//!
//! Router and worker both stand on it. It knows no route and no request's meaning.
//!
//! `axum::serve` (0.8) sets no timer and bounds nothing; this is why the connection loop is here.

mod access;
mod address;
mod clients;
mod config;
mod connection;
mod cors;
mod descriptors;
mod drain;
mod layers;
mod memory;
mod operator;
mod request;
mod request_id;
mod server;
mod tls;

pub use access::{Access, HttpMeters};
pub use address::parse_address;
pub use config::ListenConfig;
pub use connection::FileBehind;
pub use descriptors::{connections_within_limit, raise_descriptor_limit};
pub use drain::Drain;
pub use layers::common_layers;
pub use memory::{Memory, Share};
pub use operator::{Operator, operator, refuse_pages};
pub use request::{Bodies, error_response, key_headers};
pub use request_id::RequestId;
pub use server::{ListenError, Listener, Peer};
pub use tls::{CertificateMeters, ClientTls, ClientTlsConfig, Identity, MinVersion, TlsConfig, TlsError};
