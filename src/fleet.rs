//! The fleet that this process belongs to: how it finds its peers, and how it shows itself to them.
//!
//! It wires discovery, TLS and the loader together. What a load asks of which peer is the loader's.

use anyhow::Context;
use discovery::{DiscoveryConfig, Means};
use listen::{CertificateMeters, ClientTls, ClientTlsConfig};
use loader::peers::{Member, Peers};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::metrics::Registry;
use telemetry::names;
use wire::Chain;
use wire::digest::Digest;

/// The longest wait of a load for a first list of members. It asks again as it goes on.
const PATIENCE: Duration = Duration::from_secs(2);

/// The peers that models are loaded from. They are asked where `discovery` names a source and the model has a manifest, or
/// digests of whole files that peers attest; every byte of theirs is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FleetConfig {
    /// The ways in which peers are found: their addresses are those of `worker.peers.listen`.
    pub(crate) discovery: DiscoveryConfig,
    /// The certificate that is shown to peers, and the authorities of theirs.
    pub(crate) tls: ClientTlsConfig,
}

impl FleetConfig {
    /// Describes the first mistake in it.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Err(error) = self.discovery.check() {
            return Some(format!("peers.discovery: {}", Chain(&error)));
        }
        if let Some((field, problem)) = self.tls.problem() {
            return Some(format!("peers.tls.{field}: {problem}"));
        }
        let is_known = self.tls.certificate_file.is_some() && self.tls.ca_file.is_some();
        (self.discovery.is_on() && !is_known).then(|| {
            "peers.tls: `ca_file`, `certificate_file` and `key_file` are needed with `peers.discovery`: peers know each \
             other by certificates; `forebay peers init` makes some to try"
                .to_owned()
        })
    }
}

/// A process, as its fleet has to know it.
#[derive(Debug)]
pub(crate) struct Own {
    /// The port at which it is one of the peers, if it is.
    pub(crate) port: Option<u16>,
    /// The key that routers and workers share.
    pub(crate) key: Option<policy::Secret>,
    /// The roots of its models, where they are known before storage is asked.
    pub(crate) roots: Vec<Digest>,
}

/// The peers of a process; `None` where none are configured.
///
/// # Errors
/// Certificates that cannot be read.
pub(crate) fn peers(fleet: &FleetConfig, own: Own, registry: &Registry) -> anyhow::Result<Option<Peers>> {
    let FleetConfig { discovery, tls } = fleet;
    if !discovery.is_on() {
        return Ok(None);
    }
    let client = ClientTls::new(tls).context("reading the certificates for peers (peers.tls)")?;
    let means = Means {
        of: "peers",
        own_port: own.port,
        key: own.key.map(|key| key.reveal().to_owned()),
        tls: Some(client.clone()),
    };
    let members = discovery::start(discovery, &means, registry).context("looking for peers (peers.discovery)")?;
    tokio::spawn(client.clone().watch(Some(certificate_meters(registry))));
    let (first, own_entry, begun) = (members.clone(), members.clone(), Instant::now());
    Ok(Some(Peers {
        own_id: Arc::new(move || own_entry.own().map(|own| own.id)),
        settled: Arc::new(move || {
            let first = first.clone();
            // Counted from the start of the process: the loads after it wait for nothing.
            Box::pin(async move { drop(first.settled(PATIENCE.saturating_sub(begun.elapsed())).await) })
        }),
        members: Arc::new(move || members.current().iter().map(member).collect()),
        tls: Arc::new(move || client.current()),
        roots: own.roots,
    }))
}

fn member(member: &discovery::Member) -> Member {
    let discovery::Member { id, address, name, is_near, zone, .. } = member.clone();
    Member { id, address, name, is_near, zone }
}

fn certificate_meters(registry: &Registry) -> CertificateMeters {
    registry.begin(&names::PEERS_CERTIFICATE_RELOADS, &[]);
    let reloads = registry.counter(&names::PEERS_CERTIFICATE_RELOADS);
    CertificateMeters {
        not_after: Some(registry.gauge(&names::PEERS_CERTIFICATE_NOT_AFTER).with_label_values::<&str>(&[])),
        loaded: reloads.with_label_values(&["ok"]),
        failed: reloads.with_label_values(&["error"]),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_waits_for_nobody_and_its_loads_wait_for_members_once() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let files = tempfile::tempdir().unwrap();
        let directory = files.path().join("tls");
        crate::peers::write(&directory, &crate::peers::make(&[], 1).unwrap()).unwrap();
        let tls = ClientTlsConfig {
            ca_file: Some(directory.join("ca.pem")),
            certificate_file: Some(directory.join("worker.pem")),
            key_file: Some(directory.join("worker-key.pem")),
            ..ClientTlsConfig::default()
        };
        let router = Some(format!("http://{}", silent.local_addr().unwrap()));
        let discovery = DiscoveryConfig { router, timeout_ms: 60_000, ..DiscoveryConfig::default() };
        let own = Own { port: None, key: None, roots: Vec::new() };
        // Not even a future: there is nothing to wait for before a process listens.
        let peers = peers(&FleetConfig { discovery, tls }, own, &Registry::new()).unwrap().unwrap();
        assert!((peers.members)().is_empty());
        let begun = Instant::now();
        (peers.settled)().await;
        assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        let begun = Instant::now();
        (peers.settled)().await;
        assert!(begun.elapsed() < PATIENCE / 2, "the second load waits for nobody: {:?}", begun.elapsed());
    }
}
