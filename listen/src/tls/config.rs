//! The settings of TLS at a listener, and of a client of one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A time beyond it is a mistake, and beyond what clocks can add.
const YEAR_MS: u64 = 365 * 86_400_000;

/// A mistake in the settings: the key, and what is wrong with it.
pub(crate) type Problem = (&'static str, &'static str);

/// TLS at a listener. Off unless a certificate is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// A PEM file with this server's certificate, followed by those that lead to its authority. Absent by default:
    /// plain HTTP. With it the listener speaks TLS alone.
    pub certificate_file: Option<PathBuf>,
    /// A PEM file with the certificate's private key, not encrypted.
    pub key_file: Option<PathBuf>,
    /// A PEM file with the authorities whose certificates clients must bring (mutual TLS). Absent by default: clients
    /// bring none.
    pub client_ca_file: Option<PathBuf>,
    /// Lets clients without a certificate ask for `/livez`, `/readyz` and `/health`, and nothing else: a kubelet
    /// probes over TLS but has no certificate to bring. One that is not valid is refused all the same.
    pub health_without_certificate: bool,
    /// The oldest version spoken: `1.2` or `1.3`.
    pub min_version: MinVersion,
    /// How long a handshake may take, in milliseconds. 5 s are many round trips of the slowest honest line.
    pub handshake_timeout_ms: u64,
    /// The most handshakes in flight, half of them from one address; further clients are let in for health and metrics
    /// alone. A handshake holds some 20 KB and half a millisecond of computing.
    pub handshakes_max: usize,
    /// How often the files are looked at, in milliseconds. New ones are used for new connections once they are valid
    /// and fit together.
    pub reload_interval_ms: u64,
    /// The longest life of a connection, in milliseconds: a certificate that was rotated out, or an authority that
    /// was removed, opens nothing after it. From two thirds of it on, at a random moment, a connection ends behind
    /// its current answer.
    pub connection_age_max_ms: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
            health_without_certificate: false,
            min_version: MinVersion::default(),
            handshake_timeout_ms: 5_000,
            handshakes_max: 1_024,
            reload_interval_ms: 10_000,
            connection_age_max_ms: 3_600_000,
        }
    }
}

impl TlsConfig {
    /// Returns true if the listener speaks TLS.
    pub(crate) fn is_on(&self) -> bool {
        self.certificate_file.is_some()
    }

    pub(crate) fn problem(&self) -> Option<Problem> {
        if let Some(problem) = pair_problem(self.certificate_file.is_some(), self.key_file.is_some()) {
            return Some(problem);
        }
        if self.client_ca_file.is_some() && !self.is_on() {
            return Some(("client_ca_file", "needs `certificate_file` and `key_file`: without them there is no TLS"));
        }
        if self.health_without_certificate && self.client_ca_file.is_none() {
            return Some(("health_without_certificate", "needs `client_ca_file`: without it nobody brings one"));
        }
        if self.handshakes_max == 0 {
            return Some(("handshakes_max", "must be at least 1"));
        }
        time_problem(&[
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("reload_interval_ms", self.reload_interval_ms),
            ("connection_age_max_ms", self.connection_age_max_ms),
        ])
    }
}

/// How a client of ours verifies servers at `https://` URLs, and what it shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsConfig {
    /// A PEM file with the authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show (mutual TLS), followed by those that lead to its authority. Absent by
    /// default: none is shown.
    pub certificate_file: Option<PathBuf>,
    /// A PEM file with the certificate's private key, not encrypted.
    pub key_file: Option<PathBuf>,
    /// How often the files are looked at, in milliseconds. New ones are used for new connections once they are valid
    /// and fit together.
    pub reload_interval_ms: u64,
}

impl Default for ClientTlsConfig {
    fn default() -> Self {
        Self { ca_file: None, certificate_file: None, key_file: None, reload_interval_ms: 10_000 }
    }
}

impl ClientTlsConfig {
    /// Describes the first mistake in it: the key, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let pair = pair_problem(self.certificate_file.is_some(), self.key_file.is_some());
        pair.or_else(|| time_problem(&[("reload_interval_ms", self.reload_interval_ms)]))
    }

    pub(crate) fn reload_interval(&self) -> Duration {
        Duration::from_millis(self.reload_interval_ms)
    }
}

fn pair_problem(has_certificate: bool, has_key: bool) -> Option<Problem> {
    match (has_certificate, has_key) {
        (true, false) => Some(("key_file", "is missing; give the private key of `certificate_file`")),
        (false, true) => Some(("certificate_file", "is missing; give the certificate of `key_file`")),
        _ => None,
    }
}

fn time_problem(times: &[(&'static str, u64)]) -> Option<Problem> {
    let wrong = times.iter().find(|(_, ms)| !(1..=YEAR_MS).contains(ms));
    wrong.map(|(name, _)| (*name, "must be at least 1 and at most a year"))
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2, with forward secrecy and authenticated encryption alone.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_belong_together_are_asked_for_together() {
        let path = || Some(PathBuf::from("x.pem"));
        let both = TlsConfig { certificate_file: path(), key_file: path(), ..TlsConfig::default() };
        assert_eq!(TlsConfig::default().problem(), None);
        assert_eq!(both.problem(), None);
        for (config, field) in [
            (TlsConfig { certificate_file: path(), ..TlsConfig::default() }, "key_file"),
            (TlsConfig { key_file: path(), ..TlsConfig::default() }, "certificate_file"),
            (TlsConfig { client_ca_file: path(), ..TlsConfig::default() }, "client_ca_file"),
            (TlsConfig { health_without_certificate: true, ..both.clone() }, "health_without_certificate"),
            (TlsConfig { handshakes_max: 0, ..both.clone() }, "handshakes_max"),
            (TlsConfig { connection_age_max_ms: 0, ..both.clone() }, "connection_age_max_ms"),
            (TlsConfig { handshake_timeout_ms: u64::MAX, ..both }, "handshake_timeout_ms"),
        ] {
            assert_eq!(config.problem().map(|problem| problem.0), Some(field), "{config:?}");
        }
        let client = ClientTlsConfig { certificate_file: path(), ..ClientTlsConfig::default() };
        assert_eq!(client.problem().map(|problem| problem.0), Some("key_file"));
    }
}
