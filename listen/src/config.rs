//! Address and bounds of a listener.

use crate::tls::TlsConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Address and bounds of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Address and port; port 0 takes a free one. Loopback by default: being reachable is a choice.
    #[serde(deserialize_with = "crate::address::deserialize")]
    pub address: SocketAddr,
    /// How long a client may take to send a request's head, in milliseconds. 10 s is far above any
    /// honest client and ends slow-header attacks.
    pub header_read_timeout_ms: u64,
    /// How long a connection may be unused between two requests, in milliseconds. Above the 60 s
    /// for which common load balancers keep theirs, so that they close first and lose no request.
    pub idle_timeout_ms: u64,
    /// How long a client may take to read 4 KiB of its answer, or all of it that waits, in
    /// milliseconds, before its connection is cut: slow readers hold places and memory.
    pub write_timeout_ms: u64,
    /// The most open connections; further ones are closed at once, except for those that ask for
    /// health or metrics. One stream holds one connection and under 20 KB, so 10,000 is 200 MB at
    /// worst. Lowered at the start where the limit of open files is too low for it.
    pub connections_max: usize,
    /// The largest request body in bytes. 16 MiB holds prompts of millions of tokens.
    pub body_bytes_max: usize,
    /// The most bytes of all request bodies that are held at a time; beyond it the answer is 503. 256 MiB: a body is
    /// held until its answer ends, and most have some kilobytes.
    pub bodies_bytes_max: usize,
    /// The web pages that may call the API from a browser: origins such as `https://app.example`,
    /// or `*` for all. Empty by default: browsers then let no page read an answer.
    pub cors_origins: Vec<String>,
    /// How long, after SIGTERM, requests are still taken while readiness already says no, in
    /// milliseconds. 0 suits a laptop; behind a load balancer give it time to notice.
    pub drain_notice_ms: u64,
    /// How long streams may take to finish after that, in milliseconds, before they end with an
    /// error event and the process with exit code 1.
    pub drain_timeout_ms: u64,
    /// TLS. Off unless a certificate is given.
    pub tls: TlsConfig,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            header_read_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 30_000,
            connections_max: 10_000,
            body_bytes_max: 16 << 20,
            bodies_bytes_max: 256 << 20,
            cors_origins: Vec::new(),
            drain_notice_ms: 0,
            drain_timeout_ms: 60_000,
            tls: TlsConfig::default(),
        }
    }
}

impl ListenConfig {
    /// Describes the first mistake in it: the key below this table, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<(String, &'static str)> {
        self.tls.problem().map(|(field, problem)| (format!("tls.{field}"), problem))
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            handshake: Duration::from_millis(self.tls.handshake_timeout_ms),
            head: Duration::from_millis(self.header_read_timeout_ms),
            idle: Duration::from_millis(self.idle_timeout_ms),
            write: Duration::from_millis(self.write_timeout_ms),
        }
    }
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// To end a TLS handshake.
    pub(crate) handshake: Duration,
    /// To send a request's head, from its first byte, or from the connection's beginning.
    pub(crate) head: Duration,
    /// To begin another request.
    pub(crate) idle: Duration,
    /// To read on.
    pub(crate) write: Duration,
}
