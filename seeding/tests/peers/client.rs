//! Peers over real sockets: certificates made for each test, requests written by hand.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::peers::{Decoder, Frame};

/// Long enough for a busy machine; a passing test never waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// An authority, and the certificates that it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for localhost and a URI.
    pub(crate) fn sign(&self, uri: &str) -> Signed {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

impl Signed {
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("tls.crt"), &self.certificate).expect("writes");
        std::fs::write(dir.join("tls.key"), &self.key).expect("writes");
    }

    pub(crate) fn thumbprint(&self) -> [u8; 32] {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM");
        listen::Identity::read(&der).expect("an identity").thumbprint
    }
}

/// A peer that asks.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    config: Option<Arc<ClientConfig>>,
}

/// A connection to a peer.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case, one a line.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// A client that shows a certificate, or none.
    pub(crate) fn new(address: SocketAddr, authority: &Authority, shown: Option<&Signed>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions");
        let builder = builder.with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.map(|der| der.expect("PEM")).collect(), key).expect("a pair")
            }
        };
        Self { address, config: Some(Arc::new(config)) }
    }

    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, config: None }
    }

    /// Connects with a small receive buffer, so that an unread body stays with its sender.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(64 << 10)?;
        let stream = socket.connect(self.address).await?;
        let Some(config) = &self.config else { return Ok(Connection::Plain(stream)) };
        let name = ServerName::try_from("localhost").expect("a name");
        Ok(Connection::Tls(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?)))
    }

    /// Sends a request and reads nothing of its answer.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Connection> {
        self.send_on(self.connect().await?, method, path, &[headers, &[("connection", "close")]].concat()).await
    }

    /// Sends a request over a connection that stays open.
    pub(crate) async fn send_on(
        &self,
        mut connection: Connection,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Connection> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        match &mut connection {
            Connection::Plain(stream) => stream.write_all(text.as_bytes()).await?,
            Connection::Tls(stream) => stream.write_all(text.as_bytes()).await?,
        }
        Ok(connection)
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
        tokio::time::timeout(LIMIT, async { self.send("GET", path, headers).await?.answer().await }).await?
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.try_get(path, headers).await.expect("an answer")
    }

    pub(crate) async fn extents(&self, (path, range): &(String, String)) -> Answer {
        self.get(path, &[("range", range)]).await
    }
}

impl Connection {
    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes).await,
            Self::Tls(stream) => stream.read(bytes).await,
        }
    }

    /// Reads the rest of an answer.
    pub(crate) async fn answer(mut self) -> io::Result<Answer> {
        let (mut all, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match self.read(&mut bytes).await {
                Ok(0) => break,
                Ok(read) => all.extend_from_slice(&bytes[..read]),
                // Whoever closes a connection in the middle of a request may say no goodbye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !all.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Answer::read(&all).ok_or_else(|| io::Error::other("no whole answer"))
    }
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?.to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let answer = Self { status, head, body: bytes[end + 4..].to_vec() };
        let whole = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        whole.is_none_or(|whole| whole == answer.body.len()).then_some(answer)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// All of it that does not name the moment.
    pub(crate) fn without_date(&self) -> (u16, String, Vec<u8>) {
        let lines: Vec<&str> = self.head.lines().filter(|line| !line.starts_with("date: ")).collect();
        (self.status, lines.join("\n"), self.body.clone())
    }
}

/// A `have` body being read.
pub(crate) struct Stream {
    connection: Connection,
    /// Bytes of the chunked coding that were not read yet; the head is gone from them.
    bytes: Vec<u8>,
    decoder: Decoder,
    frames: std::collections::VecDeque<Frame>,
}

impl Stream {
    pub(crate) async fn open(client: &Client, path: &str, extents: u32) -> Self {
        let mut connection = client.send("GET", path, &[]).await.expect("sends");
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            fill(&mut connection, &mut bytes).await;
        };
        let head = String::from_utf8(bytes.drain(..end + 4).collect()).expect("text").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
        Self { connection, bytes, decoder: Decoder::new(extents), frames: std::collections::VecDeque::new() }
    }

    /// The next frame; none at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(frame) = self.frames.pop_front() {
                    return Some(frame);
                }
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    return None;
                }
                self.decoder.push(&chunk, |frame| self.frames.push_back(frame)).expect("frames");
            }
        })
        .await
        .expect("in time")
    }

    async fn chunk(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|window| window == b"\r\n") {
                let length = std::str::from_utf8(&self.bytes[..end]).expect("text");
                let length = usize::from_str_radix(length, 16).expect("a length");
                if self.bytes.len() >= end + 2 + length + 2 {
                    let rest = self.bytes.split_off(end + 2 + length + 2);
                    let chunk = self.bytes[end + 2..end + 2 + length].to_vec();
                    self.bytes = rest;
                    return chunk;
                }
            }
            fill(&mut self.connection, &mut self.bytes).await;
        }
    }
}

async fn fill(connection: &mut Connection, bytes: &mut Vec<u8>) {
    let mut more = [0; 4096];
    let read = connection.read(&mut more).await.expect("reads");
    assert!(read > 0, "the connection ended within a body");
    bytes.extend_from_slice(&more[..read]);
}
