//! A client's end of TLS: the authorities that it trusts, and the certificate that it shows.

use super::config::ClientTlsConfig;
use super::error::TlsError;
use super::files::{Pair, authorities};
use super::reload::{CertificateMeters, Made, Reloaded};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client's end of TLS. Clones share.
#[derive(Clone)]
pub struct ClientTls(Arc<Reloaded<ClientConfig>>);

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that is missing or wrong.
    pub fn new(config: &ClientTlsConfig) -> Result<Self, TlsError> {
        if let Some((field, problem)) = config.problem() {
            return Err(TlsError::Config { field, problem });
        }
        let files = [&config.ca_file, &config.certificate_file, &config.key_file];
        let files = files.into_iter().flatten().cloned().collect();
        let (every, settings) = (config.reload_interval(), config.clone());
        Reloaded::open(files, every, Box::new(move || make(&settings))).map(|reloaded| Self(Arc::new(reloaded)))
    }

    /// The settings for a new connection. A connection under other ones was made before the files changed.
    #[must_use]
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.current()
    }

    /// Shakes hands with the server `host`, a name or an address.
    ///
    /// # Errors
    /// A server that is not `host`, or whose authority is not trusted; a broken connection.
    pub async fn connect(config: Arc<ClientConfig>, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }

    /// Follows the files for as long as it is polled.
    pub async fn watch(self, meters: Option<CertificateMeters>) {
        self.0.watch(meters).await;
    }
}

fn make(config: &ClientTlsConfig) -> Result<Made<ClientConfig>, TlsError> {
    let roots = match &config.ca_file {
        Some(path) => authorities(path)?,
        None => of_the_system(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
    let builder = builder.with_root_certificates(roots);
    let (mut client, validity, certificate) = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let pair = Pair::read(certificate, key)?;
            let client = builder.with_client_auth_cert(pair.chain, pair.key);
            let client = client.map_err(|source| TlsError::Pair {
                certificate: certificate.clone(),
                key: key.clone(),
                source,
            })?;
            (client, Some(pair.validity), certificate.clone())
        }
        _ => (builder.with_no_client_auth(), None, config.ca_file.clone().unwrap_or_default()),
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Made { value: Arc::new(client), validity, certificate })
}

/// The authorities that the system trusts.
fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let CertificateResult { certs, errors, .. } = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(certs);
    for error in errors {
        tracing::warn!(%error, "reading the system's certification authorities");
    }
    roots
}
