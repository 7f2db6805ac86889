//! The client's bounds.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds of the client that reads from far storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The time that resolving, connecting and the TLS handshake may take together, in milliseconds.
    /// 5 s is some three lost packets in a row on a far route; beyond it another address is better.
    pub connect_timeout_ms: u64,
    /// The time that an answer's head may take to come, in milliseconds. 30 s is what Azure and S3 may
    /// take themselves before they say 500; slow first bytes are hedged long before.
    pub first_byte_timeout_ms: u64,
    /// The longest time without a byte of a body, in milliseconds. 20 s is four retransmissions; a stall
    /// is hedged long before, and this only ends connections that nobody watches.
    pub idle_timeout_ms: u64,
    /// The most connections in use to one host and port; further requests wait for one. 256 at the
    /// 90 MB/s that object stores give a connection is 180 Gbit/s.
    pub connections_per_host_max: usize,
    /// The most idle connections kept, all hosts together; the longest idle is closed first. 256,
    /// so that all that were in use can be used again.
    pub pool_idle_max: usize,
    /// The time that an idle connection is kept, in milliseconds. 15 s, because some object stores
    /// close theirs after 20 s.
    pub pool_idle_timeout_ms: u64,
    /// The most bytes of an answer's head. 64 KiB is eight times what common servers allow.
    pub head_bytes_max: usize,
    /// The most fields in an answer's head. 128: object stores send 10 to 40.
    pub head_fields_max: usize,
    /// The most bytes read of an error's body, to find the store's error code. 16 KiB holds every
    /// store's; the rest is never read.
    pub error_body_bytes_max: usize,
    /// The most redirections followed for one request. 5 is what browsers were once told to allow.
    pub redirects_max: usize,
    /// The socket's receive buffer in bytes; absent, the kernel sizes it by the route, which is
    /// best unless its ceiling (`net.ipv4.tcp_rmem`) is below bandwidth × delay.
    pub receive_buffer_bytes: Option<u32>,
    /// A PEM file of certification authorities to trust besides the system's (those in
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are set).
    pub ca_file: Option<PathBuf>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 30_000,
            idle_timeout_ms: 20_000,
            connections_per_host_max: 256,
            pool_idle_max: 256,
            pool_idle_timeout_ms: 15_000,
            head_bytes_max: 64 << 10,
            head_fields_max: 128,
            error_body_bytes_max: 16 << 10,
            redirects_max: 5,
            receive_buffer_bytes: None,
            ca_file: None,
        }
    }
}

impl HttpConfig {
    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn first_byte_timeout(&self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(super) fn pool_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.pool_idle_timeout_ms)
    }
}
