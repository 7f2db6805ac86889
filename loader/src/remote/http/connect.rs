//! Making connections: resolving, choosing among addresses at random, TCP, TLS.
//!
//! A store's name stands for many front ends. Every new connection resolves anew and takes a
//! random one of them, so that many connections spread over many machines.

use std::io::{self, BufReader as LineReader};
use std::path::Path;
use std::sync::Arc;

use rand::seq::SliceRandom;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_native_certs::CertificateResult;
use tokio::io::BufReader;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::HttpConfig;
use super::connection::{Connection, Stream, TLS_READ_BYTES};
use super::error::HttpError;
use super::target::Target;

/// Makes connections.
pub(super) struct Connector {
    tls: TlsConnector,
}

impl Connector {
    /// Reads the certification authorities: the system's and those of `config.ca_file`.
    pub(super) fn new(config: &HttpConfig) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        let CertificateResult { certs, errors, .. } = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(certs);
        for error in errors {
            tracing::warn!(%error, "reading the system's certification authorities");
        }
        if let Some(path) = &config.ca_file {
            add_authorities(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpError::Config { problem: format!("setting up TLS: {error}") })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// A new connection to `target`, within the configured time.
    pub(super) async fn connect(&self, target: &Target, config: &HttpConfig) -> Result<Connection, HttpError> {
        let within = config.connect_timeout();
        match timeout(within, self.attempt(target, config)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(HttpError::Connect { host: target.to_string(), source }),
            Err(_) => Err(HttpError::TimedOut { doing: "connecting to", host: target.to_string(), after: within }),
        }
    }

    async fn attempt(&self, target: &Target, config: &HttpConfig) -> io::Result<Connection> {
        let stream = dial(target, config).await?;
        if !target.tls {
            return Ok(Connection::new(Stream::Plain(stream)));
        }
        let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
        let stream = BufReader::with_capacity(TLS_READ_BYTES, stream);
        let stream = self.tls.connect(name, stream).await?;
        Ok(Connection::new(Stream::Tls(Box::new(stream))))
    }
}

/// Connects to one of the target's addresses, in random order; an address that does not answer
/// gets only its share of the time.
async fn dial(target: &Target, config: &HttpConfig) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = lookup_host((target.host.as_str(), target.port)).await?.collect();
    addresses.shuffle(&mut rand::rng());
    let share = config.connect_timeout() / u32::try_from(addresses.len().clamp(1, 3)).unwrap_or(1);
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = config.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        match timeout(share, socket.connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer")),
        }
    }
    Err(failure)
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), HttpError> {
    let fail = |problem: String| HttpError::Config {
        problem: format!("reading the certification authorities in {}: {problem}; give a PEM file", path.display()),
    };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_reader_iter(LineReader::new(file)) {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(fail("no certificate".to_owned())) } else { Ok(()) }
}
