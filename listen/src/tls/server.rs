//! A listener's end of TLS: its certificate, and the authorities of its clients.

use super::config::{MinVersion, TlsConfig};
use super::error::TlsError;
use super::files::{Pair, authorities};
use super::reload::{CertificateMeters, Made, Reloaded};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The protocol within: a client that offers only others is refused in the handshake.
const PROTOCOL: &[u8] = b"http/1.1";

/// The server's end of TLS.
pub(crate) struct ServerTls {
    current: Arc<Reloaded<ServerConfig>>,
    handshakes: Arc<Semaphore>,
    is_mutual: bool,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("is_mutual", &self.is_mutual).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the files; none where TLS is off.
    pub(crate) fn open(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        if let Some((field, problem)) = config.problem() {
            return Err(TlsError::Config { field, problem });
        }
        let (Some(certificate), Some(key)) = (config.certificate_file.clone(), config.key_file.clone()) else {
            return Ok(None);
        };
        let files = [Some(&certificate), Some(&key), config.client_ca_file.as_ref()];
        let files = files.into_iter().flatten().cloned().collect();
        let every = Duration::from_millis(config.reload_interval_ms);
        let settings = config.clone();
        let make = Box::new(move || make(&settings, &certificate, &key));
        Ok(Some(Self {
            current: Arc::new(Reloaded::open(files, every, make)?),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max.min(Semaphore::MAX_PERMITS))),
            is_mutual: config.client_ca_file.is_some(),
        }))
    }

    /// The settings for a new connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.current()
    }

    /// Returns true if clients are to bring certificates.
    pub(crate) fn is_mutual(&self) -> bool {
        self.is_mutual
    }

    /// A place for one more handshake, if there is one.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.handshakes).try_acquire_owned().ok()
    }

    /// Follows the files.
    pub(crate) fn watch(&self, meters: Option<CertificateMeters>) -> impl Future<Output = ()> + use<> {
        Arc::clone(&self.current).watch(meters)
    }
}

fn make(config: &TlsConfig, certificate: &Path, key: &Path) -> Result<Made<ServerConfig>, TlsError> {
    let provider = Arc::new(default_provider());
    let versions = match config.min_version {
        MinVersion::Tls12 => &[&TLS12, &TLS13][..],
        MinVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(TlsError::Setup)?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
            let verifier = if config.health_without_certificate { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|source| TlsError::Authorities { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let pair = Pair::read(certificate, key)?;
    let mut server = builder.with_single_cert(pair.chain, pair.key).map_err(|source| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    if config.client_ca_file.is_some() {
        // A resumed session is not verified again: a certificate could outlive its end or its authority.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(Made { value: Arc::new(server), validity: Some(pair.validity), certificate: certificate.to_owned() })
}
