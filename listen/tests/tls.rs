//! TLS as clients meet it: real sockets, certificates made for each test.

use axum::Extension;
use axum::routing::get;
use listen::{Drain, Identity, ListenConfig, ListenError, Listener, MinVersion, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::metrics::Registry;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for a busy machine; a passing test never waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// An authority, and the certificates that it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 2200)
    }

    /// A certificate that is valid until the beginning of that year.
    fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let mut params = CertificateParams::new(Vec::new()).expect("no names yet");
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains(':') => SanType::URI((*name).try_into().expect("ASCII")),
                Err(_) => SanType::DnsName((*name).try_into().expect("ASCII")),
            })
            .collect();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    /// Settings of a client that trusts this authority.
    fn client(&self, shown: Option<&Signed>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.map(|der| der.expect("PEM")).collect(), key).expect("a pair")
            }
        }
    }

    fn plain_client(&self) -> Arc<ClientConfig> {
        Arc::new(self.client(None, rustls::ALL_VERSIONS))
    }

    fn client_with(&self, shown: &Signed) -> Arc<ClientConfig> {
        Arc::new(self.client(Some(shown), rustls::ALL_VERSIONS))
    }
}

/// A listener under way, with its files.
struct Running {
    authority: Authority,
    dir: TempDir,
    address: SocketAddr,
    registry: Registry,
    drain: Drain,
    task: JoinHandle<Result<(), ListenError>>,
}

fn write(dir: &Path, signed: &Signed) {
    std::fs::write(dir.join("tls.crt"), &signed.certificate).expect("writes");
    std::fs::write(dir.join("tls.key"), &signed.key).expect("writes");
}

fn files(dir: &Path) -> TlsConfig {
    TlsConfig {
        certificate_file: Some(dir.join("tls.crt")),
        key_file: Some(dir.join("tls.key")),
        reload_interval_ms: 20,
        ..TlsConfig::default()
    }
}

fn app() -> axum::Router {
    let who = |identity: Option<Extension<Arc<Identity>>>| async move {
        identity.map_or("nobody".into(), |Extension(identity)| format!("{:?} {:?}", identity.dns, identity.uris))
    };
    let thumbprint =
        |Extension(identity): Extension<Arc<Identity>>| async move { format!("{:?}", identity.thumbprint) };
    // Far more than sockets buffer.
    let big = || async { vec![b'x'; 64 << 20] };
    axum::Router::new()
        .route("/who", get(who))
        .route("/thumbprint", get(thumbprint))
        .route("/livez", get(|| async { "ok" }))
        .route("/held", get(std::future::pending::<&str>))
        .route("/big", get(big))
}

/// A listener whose server certificate is for `localhost` and 127.0.0.1.
async fn start(change: impl FnOnce(&mut ListenConfig, &Authority, &Path)) -> Running {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), &authority.sign(&["localhost", "127.0.0.1"]));
    let tls = files(dir.path());
    let mut config = ListenConfig { address: ([127, 0, 0, 1], 0).into(), tls, ..ListenConfig::default() };
    change(&mut config, &authority, dir.path());
    start_at(authority, dir, &config).await
}

async fn start_at(authority: Authority, dir: TempDir, config: &ListenConfig) -> Running {
    let registry = Registry::new();
    let listener = Listener::bind(config).await.expect("binds").with_metrics(&registry, "test");
    let address = listener.local_addr();
    assert_eq!(listener.url(), format!("https://{address}"));
    let drain = Drain::new();
    let task = tokio::spawn(listener.serve(listen::common_layers(app()), drain.clone()));
    Running { authority, dir, address, registry, drain, task }
}

/// As `start`, with clients that must show a certificate of the same authority.
async fn start_mutual(change: impl FnOnce(&mut TlsConfig)) -> Running {
    start(|config, authority, dir| {
        std::fs::write(dir.join("ca.crt"), &authority.pem).expect("writes");
        config.tls.client_ca_file = Some(dir.join("ca.crt"));
        change(&mut config.tls);
    })
    .await
}

impl Running {
    async fn connect(&self, client: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        connect(self.address, client, "localhost").await
    }

    /// The answer to one request over a new connection.
    async fn ask(&self, client: &Arc<ClientConfig>, path: &str) -> io::Result<String> {
        ask(self.connect(client).await?, path).await
    }

    fn shows(&self, line: &str) -> bool {
        self.registry.render().lines().any(|shown| shown == line)
    }

    async fn eventually_shows(&self, line: &str) {
        eventually(line, || self.shows(line)).await;
    }

    async fn eventually_failed(&self, reason: &str) {
        self.eventually_shows(&format!(
            "forebay_listen_failed_handshakes_total{{listener=\"test\",reason=\"{reason}\"}} 1"
        ))
        .await;
    }
}

async fn connect(address: SocketAddr, client: &Arc<ClientConfig>, host: &str) -> io::Result<TlsStream<TcpStream>> {
    shake_hands(TcpStream::connect(address).await?, client, host).await
}

async fn shake_hands(stream: TcpStream, client: &Arc<ClientConfig>, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name, stream);
    tokio::time::timeout(LIMIT, connecting).await.expect("in time")
}

async fn ask(mut stream: TlsStream<TcpStream>, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time")?;
    Ok(answer)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All that a raw client is sent until the server closes.
async fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the server closes in time");
    // A reset ends it as well.
    let _ = read;
    rest
}

/// The first flight of a client.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = rustls::ClientConnection::new(authority.plain_client(), name).expect("a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("writes");
    hello
}

#[tokio::test]
async fn both_versions_are_spoken_and_http_is_negotiated() {
    let running = start(|_, _, _| ()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = running.authority.client(None, &[version]);
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = running.connect(&Arc::new(client)).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let answer = ask(stream, "/who").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("nobody"), "{answer}");
    }
    let mut client = running.authority.client(None, rustls::ALL_VERSIONS);
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(running.connect(&Arc::new(client)).await.is_err(), "HTTP/2 alone is not spoken");
    running.eventually_failed("protocol").await;
}

#[tokio::test]
async fn an_older_version_than_the_oldest_is_refused() {
    let running = start(|config, _, _| config.tls.min_version = MinVersion::Tls13).await;
    let old = Arc::new(running.authority.client(None, &[&rustls::version::TLS12]));
    assert!(running.connect(&old).await.is_err());
    running.ask(&running.authority.plain_client(), "/who").await.expect("1.3 is spoken");
}

#[tokio::test]
async fn a_name_that_the_server_does_not_have_is_the_clients_to_refuse() {
    let running = start(|_, _, _| ()).await;
    let client = running.authority.plain_client();
    for host in ["127.0.0.1", "localhost"] {
        let stream = connect(running.address, &client, host).await.expect("in the certificate");
        ask(stream, "/who").await.expect("an answer");
    }
    for host in ["other.example", "localhost.evil.example", "10.0.0.1", "::1"] {
        assert!(connect(running.address, &client, host).await.is_err(), "{host}");
    }
    // Some clients send no name at all.
    let mut nameless = running.authority.client(None, rustls::ALL_VERSIONS);
    nameless.enable_sni = false;
    running.ask(&Arc::new(nameless), "/who").await.expect("an answer");
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused_in_the_handshake() {
    let running = start_mutual(|_| ()).await;
    let other = Authority::new();
    let trusting = |shown: &Signed| running.authority.client_with(shown);
    let expired = running.authority.sign_until(&["a.example"], 2020);
    for (client, reason) in [
        (running.authority.plain_client(), "no_certificate"),
        (trusting(&other.sign(&["a.example"])), "bad_certificate"),
    ] {
        assert!(running.ask(&client, "/livez").await.is_err(), "{reason}");
        running.eventually_failed(reason).await;
    }
    let error = running.ask(&trusting(&expired), "/livez").await.expect_err("expired");
    assert!(error.to_string().to_lowercase().contains("expired"), "the client is told why: {error}");
    let good = running.authority.sign(&["A.example", "spiffe://forebay/a"]);
    let answer = running.ask(&trusting(&good), "/who").await.expect("an answer");
    assert!(answer.ends_with(r#"["a.example"] ["spiffe://forebay/a"]"#), "{answer}");
    let der = CertificateDer::from_pem_slice(good.certificate.as_bytes()).expect("PEM");
    let thumbprint: [u8; 32] = Sha256::digest(&der).into();
    let answer = running.ask(&trusting(&good), "/thumbprint").await.expect("an answer");
    assert!(answer.ends_with(&format!("{thumbprint:?}")), "{answer}");
}

#[tokio::test]
async fn without_a_certificate_there_is_health_where_that_is_allowed() {
    let running = start_mutual(|tls| tls.health_without_certificate = true).await;
    let stranger = running.authority.plain_client();
    for (path, status) in [
        ("/livez", "200"),
        ("/livez?x", "200"),
        ("/who", "403"),
        ("/livez/", "403"),
        ("/livez/../who", "403"),
        ("//livez", "403"),
        ("/LIVEZ", "403"),
        ("/%6civez", "403"),
        ("http://localhost/who", "403"),
        ("/metrics", "403"),
        ("/admin/x", "403"),
    ] {
        let answer = running.ask(&stranger, path).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    // On one connection, too.
    let mut stream = running.connect(&stranger).await.expect("a handshake");
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all((head("/livez") + &head("/who")).as_bytes()).await.expect("writes");
    let mut answers = String::new();
    let read = stream.read_to_string(&mut answers);
    let _ = tokio::time::timeout(Duration::from_millis(300), read).await;
    assert!(!answers.contains("nobody"), "{answers}");
    let other = running.authority.client_with(&Authority::new().sign(&["a.example"]));
    assert!(running.ask(&other, "/livez").await.is_err(), "a wrong certificate is no missing one");
    let known = running.authority.client_with(&running.authority.sign(&["a.example"]));
    assert!(running.ask(&known, "/who").await.expect("an answer").contains("a.example"));
}

#[tokio::test]
async fn handshakes_that_do_not_end_are_cut_and_counted() {
    let running = start(|config, _, _| config.tls.handshake_timeout_ms = 200).await;
    let hello = client_hello(&running.authority);
    for sent in [&[][..], &hello[..1], &hello[..7], &hello[..hello.len() - 1], &hello[..]] {
        let mut stream = TcpStream::connect(running.address).await.expect("connects");
        stream.write_all(sent).await.expect("writes");
        rest_of(&mut stream).await;
    }
    running.eventually_shows("forebay_listen_failed_handshakes_total{listener=\"test\",reason=\"timeout\"} 5").await;
    running.eventually_shows("forebay_listen_ended_connections_total{listener=\"test\",reason=\"handshake\"} 5").await;
    // Bytes that drip win no time.
    let mut stream = TcpStream::connect(running.address).await.expect("connects");
    let begun = Instant::now();
    for byte in hello {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rest_of(&mut stream).await;
    assert!(begun.elapsed() < LIMIT);
    running.eventually_shows("forebay_listen_failed_handshakes_total{listener=\"test\",reason=\"timeout\"} 6").await;
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 0").await;
}

#[tokio::test]
async fn a_hello_that_is_cut_or_damaged_harms_nobody() {
    let running = start(|_, _, _| ()).await;
    let hello = client_hello(&running.authority);
    for end in 0..hello.len() {
        let mut stream = TcpStream::connect(running.address).await.expect("connects");
        stream.write_all(&hello[..end]).await.expect("writes");
        stream.shutdown().await.expect("closes");
        rest_of(&mut stream).await;
    }
    for at in (0..hello.len()).step_by(5) {
        let mut damaged = hello.clone();
        damaged[at] ^= 0xff;
        let mut stream = TcpStream::connect(running.address).await.expect("connects");
        stream.write_all(&damaged).await.expect("writes");
        stream.shutdown().await.expect("closes");
        rest_of(&mut stream).await;
    }
    running.ask(&running.authority.plain_client(), "/who").await.expect("an answer");
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 0").await;
    running.eventually_shows("forebay_listen_connections{listener=\"test\"} 0").await;
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_told_so() {
    let running = start(|_, _, _| ()).await;
    let body = "x".repeat(20_000);
    let length = body.len();
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"),
    ] {
        let mut stream = TcpStream::connect(running.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset before the answer");
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("https://"), "{answer}");
    }
    running.eventually_shows("forebay_listen_failed_handshakes_total{listener=\"test\",reason=\"plain_http\"} 2").await;
}

#[tokio::test]
async fn tls_to_a_plain_port_fails_at_once_and_is_counted() {
    let authority = Authority::new();
    let registry = Registry::new();
    let config = ListenConfig { address: ([127, 0, 0, 1], 0).into(), ..ListenConfig::default() };
    let listener = Listener::bind(&config).await.expect("binds").with_metrics(&registry, "test");
    let address = listener.local_addr();
    assert_eq!(listener.url(), format!("http://{address}"));
    tokio::spawn(listener.serve(app(), Drain::new()));
    assert!(connect(address, &authority.plain_client(), "localhost").await.is_err());
    let line = "forebay_listen_ended_connections_total{listener=\"test\",reason=\"tls_to_plain\"} 1";
    eventually(line, || registry.render().contains(line)).await;
}

#[tokio::test]
async fn beyond_the_bound_of_handshakes_there_is_health_alone() {
    let running = start(|config, _, _| {
        config.tls.handshakes_max = 1;
        config.tls.handshake_timeout_ms = 60_000;
    })
    .await;
    let mut silent = TcpStream::connect(running.address).await.expect("connects");
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 1").await;
    let client = running.authority.plain_client();
    for (path, status) in [("/livez", "200"), ("/who", "503")] {
        let answer = running.ask(&client, path).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    assert!(running.shows("forebay_listen_failed_handshakes_total{listener=\"test\",reason=\"busy\"} 2"));
    silent.shutdown().await.expect("closes");
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 0").await;
    let answer = running.ask(&client, "/who").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "the place is free again: {answer}");
}

#[tokio::test]
async fn an_address_that_ends_no_handshake_keeps_no_other_out() {
    let running = start(|config, _, _| {
        config.tls.handshakes_max = 8;
        config.tls.handshake_timeout_ms = 60_000;
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(running.address).await.expect("connects"));
    }
    // Four have begun, 32 wait in the reserve, and the others are closed.
    let refused = "forebay_listen_refused_connections_total{listener=\"test\"} 64";
    running.eventually_shows(refused).await;
    assert!(running.shows("forebay_listen_failed_handshakes_total{listener=\"test\",reason=\"busy\"} 96"));
    let other = TcpSocket::new_v4().expect("a socket");
    other.bind(([127, 0, 0, 2], 0).into()).expect("loopback is a network");
    let stream = other.connect(running.address).await.expect("connects");
    let stream = shake_hands(stream, &running.authority.plain_client(), "localhost").await.expect("a handshake");
    let answer = ask(stream, "/who").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(silent);
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 0").await;
    let answer = running.ask(&running.authority.plain_client(), "/who").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "its places are free again: {answer}");
}

/// Lays the files out as Kubernetes mounts a Secret, or swaps them for others as it does.
fn mount(dir: &Path, version: &str, files: &[(&str, &str)]) {
    let fresh = dir.join(version);
    std::fs::create_dir(&fresh).expect("a directory");
    for (name, text) in files {
        std::fs::write(fresh.join(name), text).expect("writes");
    }
    let swap = dir.join("..data_tmp");
    std::os::unix::fs::symlink(version, &swap).expect("a link");
    std::fs::rename(&swap, dir.join("..data")).expect("swaps");
    for (name, _) in files {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(PathBuf::from("..data").join(name), link).expect("a link");
        }
    }
}

/// The certificate that the server shows now.
async fn shown(running: &Running, client: &Arc<ClientConfig>) -> Option<CertificateDer<'static>> {
    let stream = running.connect(client).await.ok()?;
    stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone().into_owned())
}

fn der(signed: &Signed) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(signed.certificate.as_bytes()).expect("PEM")
}

const RELOADED: &str = "forebay_listen_certificate_reloads_total{listener=\"test\",result=\"ok\"}";

#[tokio::test]
async fn rotated_files_are_used_for_new_connections() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a directory");
    let versions = [authority.sign_until(&["localhost"], 2100), authority.sign_until(&["localhost"], 2101)];
    let files_of = |at: usize| [("tls.crt", &versions[at].certificate[..]), ("tls.key", &versions[at].key[..])];
    mount(dir.path(), "..2026_1", &files_of(0));
    let config =
        ListenConfig { address: ([127, 0, 0, 1], 0).into(), tls: files(dir.path()), ..ListenConfig::default() };
    let running = start_at(authority, dir, &config).await;
    let client = running.authority.plain_client();
    let kept = running.connect(&client).await.expect("a handshake");
    assert_eq!(shown(&running, &client).await, Some(der(&versions[0])));
    running.eventually_shows("forebay_listen_certificate_not_after_seconds{listener=\"test\"} 4102444800").await;
    mount(running.dir.path(), "..2026_2", &files_of(1));
    running.eventually_shows(&format!("{RELOADED} 1")).await;
    assert_eq!(shown(&running, &client).await, Some(der(&versions[1])));
    running.eventually_shows("forebay_listen_certificate_not_after_seconds{listener=\"test\"} 4133980800").await;
    let answer = ask(kept, "/who").await.expect("an older connection goes on");
    assert!(answer.ends_with("nobody"), "{answer}");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_ones_in_use() {
    let running = start(|_, _, _| ()).await;
    let client = running.authority.plain_client();
    let first = shown(&running, &client).await.expect("a certificate");
    let (one, two) = (running.authority.sign(&["localhost"]), running.authority.sign(&["localhost"]));
    let expired = running.authority.sign_until(&["localhost"], 2020);
    let mixed = Signed { certificate: one.certificate.clone(), key: two.key.clone() };
    let swapped = Signed { certificate: one.key.clone(), key: one.certificate.clone() };
    let empty = Signed { certificate: String::new(), key: String::new() };
    let cut = Signed { certificate: one.certificate[..200].to_owned(), key: one.key.clone() };
    for (what, bad) in [("mixed", mixed), ("swapped", swapped), ("empty", empty), ("cut", cut), ("expired", expired)] {
        let failures = || {
            let text = running.registry.render();
            let line = text.lines().find(|line| line.contains("reloads_total{") && line.contains("error"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let before = failures();
        write(running.dir.path(), &bad);
        // The second look since sees both files as they are now.
        eventually(what, || failures() >= before + 2).await;
        assert_eq!(shown(&running, &client).await.as_ref(), Some(&first), "{what}");
    }
    std::fs::remove_file(running.dir.path().join("tls.key")).expect("removes");
    assert_eq!(shown(&running, &client).await.as_ref(), Some(&first), "removed");
    write(running.dir.path(), &two);
    running.eventually_shows(&format!("{RELOADED} 1")).await;
    assert_eq!(shown(&running, &client).await, Some(der(&two)));
}

#[tokio::test]
async fn an_authority_that_was_removed_opens_nothing_not_even_old_sessions() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let running = start_mutual(|_| ()).await;
        let shown = running.authority.sign(&["a.example"]);
        // One value, so that it remembers sessions.
        let client = Arc::new(running.authority.client(Some(&shown), &[version]));
        for _ in 0..2 {
            let stream = running.connect(&client).await.expect("a handshake");
            let kind = stream.get_ref().1.handshake_kind();
            assert_ne!(kind, Some(HandshakeKind::Resumed), "a certificate is verified each time");
            ask(stream, "/who").await.expect("an answer");
        }
        std::fs::write(running.dir.path().join("ca.crt"), &Authority::new().pem).expect("writes");
        running.eventually_shows(&format!("{RELOADED} 1")).await;
        assert!(running.ask(&client, "/who").await.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_age() {
    let running = start(|config, _, _| config.tls.connection_age_max_ms = 600).await;
    let client = running.authority.plain_client();
    let begun = Instant::now();
    let mut idle = running.connect(&client).await.expect("a handshake");
    let head = b"GET /who HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle.write_all(head).await.expect("writes");
    let mut answer = String::new();
    idle.read_to_string(&mut answer).await.expect("an orderly end");
    assert!(answer.contains("200 OK") && begun.elapsed() >= Duration::from_millis(400), "{answer}");
    let held = running.ask(&client, "/held").await;
    assert!(held.is_err() || held.is_ok_and(|answer| answer.is_empty()), "no answer that looks whole");
    running.eventually_shows("forebay_listen_ended_connections_total{listener=\"test\",reason=\"age\"} 1").await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_silent_handshake() {
    let running = start(|config, _, _| {
        config.tls.handshake_timeout_ms = 600_000;
        config.drain_timeout_ms = 600_000;
    })
    .await;
    let _silent = TcpStream::connect(running.address).await.expect("connects");
    running.eventually_shows("forebay_listen_handshakes{listener=\"test\"} 1").await;
    running.drain.start();
    tokio::time::timeout(LIMIT, running.task).await.expect("in time").expect("joins").expect("nothing was cut");
}

#[tokio::test]
async fn slow_readers_and_clients_that_leave_are_noticed_under_tls() {
    let running = start(|config, _, _| config.write_timeout_ms = 200).await;
    let client = running.authority.plain_client();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut slow = running.connect(&client).await.expect("a handshake");
    slow.write_all(request("/big").as_bytes()).await.expect("writes");
    running.eventually_shows("forebay_listen_ended_connections_total{listener=\"test\",reason=\"write\"} 1").await;
    drop(slow);
    let mut leaving = running.connect(&client).await.expect("a handshake");
    leaving.write_all(request("/held").as_bytes()).await.expect("writes");
    leaving.flush().await.expect("flushes");
    running.eventually_shows("forebay_listen_connections{listener=\"test\"} 1").await;
    drop(leaving);
    running.eventually_shows("forebay_listen_connections{listener=\"test\"} 0").await;
}

#[tokio::test]
async fn files_that_are_wrong_at_the_start_are_named() {
    let authority = Authority::new();
    let (one, two) = (authority.sign(&["localhost"]), authority.sign(&["localhost"]));
    let dir = tempfile::tempdir().expect("a directory");
    let bind = async |config: TlsConfig| {
        let config = ListenConfig { address: ([127, 0, 0, 1], 0).into(), tls: config, ..ListenConfig::default() };
        let error = Listener::bind(&config).await.expect_err("refused");
        wire::Chain(&error).to_string()
    };
    let text = bind(files(dir.path())).await;
    assert!(text.contains("tls.crt"), "{text}");
    write(dir.path(), &Signed { certificate: one.certificate.clone(), key: two.key });
    let text = bind(files(dir.path())).await;
    assert!(text.contains("tls.crt") && text.contains("tls.key"), "{text}");
    write(dir.path(), &Signed { certificate: one.key.clone(), key: one.key.clone() });
    let text = bind(files(dir.path())).await;
    assert!(text.contains("tls.crt") && !text.contains("PRIVATE"), "{text}");
    let text = bind(TlsConfig { key_file: None, ..files(dir.path()) }).await;
    assert!(text.contains("tls.key_file"), "{text}");
    write(dir.path(), &one);
    let text = bind(TlsConfig { client_ca_file: Some(dir.path().join("tls.key")), ..files(dir.path()) }).await;
    assert!(text.contains("tls.key") && text.contains("no certificate"), "{text}");
}
