//! Making connections: resolving, choosing among addresses at random, TCP, a proxy's tunnel, TLS.
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
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::config::HttpConfig;
use super::connection::{Connection, Stream, TLS_READ_BYTES};
use super::error::{HttpError, TunnelRefused};
use super::head;
use super::proxy::{Proxies, Proxy};
use super::target::Target;

/// The settings of TLS for a new connection: they change when certificates do.
pub type CurrentTls = Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>;

/// Makes connections.
pub(super) struct Connector {
    tls: CurrentTls,
    proxies: Proxies,
    /// The one address that is dialled, whatever the URL says: its host is the name in the certificate.
    address: Option<(String, u16)>,
}

impl Connector {
    /// Reads the certification authorities: the system's, those of `config.ca_file` and `more`.
    pub(super) fn new(config: &HttpConfig, more: Option<&Path>, proxies: Proxies) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        let CertificateResult { certs, errors, .. } = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(certs);
        for error in errors {
            tracing::warn!(%error, "reading the system's certification authorities");
        }
        for path in config.ca_file.as_deref().into_iter().chain(more) {
            add_authorities(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpError::Config { problem: format!("setting up TLS: {error}") })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = Arc::new(tls);
        Ok(Self { tls: Arc::new(move || Arc::clone(&tls)), proxies, address: None })
    }

    /// Connects to one address only, without a proxy.
    pub(super) fn to_address(host: &str, port: u16, tls: CurrentTls) -> Self {
        Self { tls, proxies: Proxies::default(), address: Some((host.to_owned(), port)) }
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// A new connection to `target`, within the configured time.
    pub(super) async fn connect(&self, target: &Target, config: &HttpConfig) -> Result<Connection, HttpError> {
        let within = config.connect_timeout();
        let proxy = self.proxies.of(target)?;
        match timeout(within, self.attempt(target, proxy, config)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(HttpError::Connect { host: target.to_string(), source }),
            Err(_) => Err(HttpError::TimedOut { doing: "connecting to", host: target.to_string(), after: within }),
        }
    }

    async fn attempt(
        &self,
        target: &Target,
        proxy: Option<&Arc<Proxy>>,
        config: &HttpConfig,
    ) -> io::Result<Connection> {
        let (host, port) = match (&self.address, proxy) {
            (Some((host, port)), _) => (host, *port),
            (None, Some(proxy)) => (&proxy.host, proxy.port),
            (None, None) => (&target.host, target.port),
        };
        let mut stream = dial(host, port, config).await?;
        if !target.tls {
            return Ok(Connection::new(Stream::Plain(stream)).through(proxy.cloned()));
        }
        if let Some(proxy) = proxy {
            tunnel(&mut stream, proxy, target).await?;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
        let stream = BufReader::with_capacity(TLS_READ_BYTES, stream);
        let stream = TlsConnector::from((self.tls)()).connect(name, stream).await?;
        Ok(Connection::new(Stream::Tls(Box::new(stream))))
    }
}

/// The longest answer of a proxy to the request for a tunnel.
const TUNNEL_HEAD_BYTES_MAX: usize = 16 << 10;
/// The most fields in it.
const TUNNEL_FIELDS_MAX: usize = 64;

/// Asks a proxy for a tunnel to the target (RFC 9110 §9.3.6). The target is silent until we speak, so
/// nothing but the proxy's head can come.
async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, target: &Target) -> io::Result<()> {
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let authority = format!("{host}:{}", target.port);
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend([b"proxy-authorization: ", authorization.as_bytes(), b"\r\n"].concat());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    let head = loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the proxy {proxy:?} closed it")));
        }
        let parsed = head::parse(&answer, TUNNEL_HEAD_BYTES_MAX, TUNNEL_FIELDS_MAX).map_err(io::Error::other)?;
        if let Some((head, _)) = parsed {
            break head;
        }
    };
    if head.status.is_success() {
        return Ok(());
    }
    Err(io::Error::other(TunnelRefused { proxy: format!("{proxy:?}"), status: head.status.as_u16() }))
}

/// Connects to one of the host's addresses, in random order; an address that does not answer
/// gets only its share of the time.
async fn dial(host: &str, port: u16, config: &HttpConfig) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = lookup_host((host, port)).await?.collect();
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
