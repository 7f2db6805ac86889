//! The client against servers that say exactly what a test tells them to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::source::Tag;

/// A server that answers the n-th request of all with the n-th of `answers`, and closes a
/// connection after an answer that begins with `!`. Counts connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: std::sync::mpsc::Receiver<String>,
}

fn serve(answers: Vec<String>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let (told, requests) = std::sync::mpsc::channel();
    let (counter, next) = (Arc::clone(&connections), Arc::new(AtomicUsize::new(0)));
    let answers = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let (answers, next, told) = (Arc::clone(&answers), Arc::clone(&next), told.clone());
            std::thread::spawn(move || {
                let mut stream = stream;
                while let Some(request) = request_of(&mut stream) {
                    let _ = told.send(request);
                    let Some(answer) = answers.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
                    let (text, closes) = answer.strip_prefix('!').map_or((answer.as_str(), false), |text| (text, true));
                    if stream.write_all(text.as_bytes()).is_err() || closes {
                        return;
                    }
                }
            });
        }
    });
    Server { address, connections, requests }
}

fn request_of(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        text.push(byte[0]);
    }
    String::from_utf8(text).ok()
}

impl Server {
    fn get(&self) -> Request<()> {
        Request::get(format!("http://{}/a?sig=secret", self.address)).body(()).expect("a request")
    }

    fn small(&self) -> Request<Bytes> {
        self.get().map(|()| Bytes::new())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn client() -> Client {
    Client::new(&HttpConfig { idle_timeout_ms: 400, first_byte_timeout_ms: 400, ..HttpConfig::default() })
        .expect("a client")
}

fn object() -> Object {
    let tag = Tag { etag: Some("\"x\"".to_owned()), ..Tag::default() };
    Object { name: "a".to_owned(), bytes: 10, tag, checksum: None }
}

fn part(first: u64, body: &str) -> String {
    let last = first + body.len() as u64 - 1;
    format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"x\"\r\nContent-Range: bytes {first}-{last}/10\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read(server: &Server, client: &Client, landing: &mut Landing) -> Result<Parts, HttpError> {
    client.read_range(server.get(), &object(), landing, false).await
}

#[tokio::test]
async fn a_range_lands_and_its_connection_is_used_again() {
    let server = serve(vec![part(2, "cdef"), part(6, "gh")]);
    let client = client();
    for (range, wanted) in [(2..6, "cdef"), (6..8, "gh")] {
        let mut landing = Landing::small(range);
        read(&server, &client, &mut landing).await.expect("lands");
        assert_eq!(landing.into_bytes().expect("its own buffer"), wanted.as_bytes());
    }
    assert_eq!(server.connections(), 1);
    let request = server.requests.recv().expect("was asked");
    for field in ["range: bytes=2-5\r\n", "if-match: \"x\"\r\n", "accept-encoding: identity\r\n"] {
        assert!(request.contains(field), "{request}");
    }
}

#[tokio::test]
async fn a_read_asked_to_be_fresh_takes_no_pooled_connection() {
    let server = serve(vec![part(0, "a"), part(0, "a")]);
    let client = client();
    for fresh in [false, true] {
        let mut landing = Landing::small(0..1);
        client.read_range(server.get(), &object(), &mut landing, fresh).await.expect("lands");
    }
    assert_eq!((server.connections(), client.idle_connections()), (2, 2));
}

#[tokio::test]
async fn a_connection_closed_while_it_was_idle_is_replaced() {
    let server = serve(vec![format!("!{}", part(0, "a")), part(0, "a")]);
    let client = client();
    for _ in 0..2 {
        read(&server, &client, &mut Landing::small(0..1)).await.expect("lands");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_closed_on_the_request_is_replaced_once() {
    // The second answer is nothing at all, and the end.
    let server = serve(vec![part(0, "a"), "!".to_owned(), part(0, "a")]);
    let client = client();
    for _ in 0..2 {
        read(&server, &client, &mut Landing::small(0..1)).await.expect("lands");
    }
    assert_eq!(server.connections(), 2);
    let server = serve(vec!["!".to_owned(), part(0, "a")]);
    let error = read(&server, &client, &mut Landing::small(0..1)).await.expect_err("a new connection is not stale");
    assert!(matches!(error, HttpError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_body_cut_short_is_taken_up_where_it_broke() {
    let whole = part(0, "abcdefghij");
    let server = serve(vec![format!("!{}", &whole[..whole.len() - 6]), part(4, "efghij")]);
    let client = client();
    let mut landing = Landing::small(0..10);
    let error = read(&server, &client, &mut landing).await.expect_err("it broke");
    assert!(error.about("u", "a", "").is_retryable());
    assert_eq!((landing.position(), client.idle_connections()), (4, 0));
    read(&server, &client, &mut landing).await.expect("the rest lands");
    assert_eq!(landing.into_bytes().expect("its own buffer"), b"abcdefghij");
}

#[tokio::test]
async fn a_shorter_part_than_asked_for_lands_and_the_rest_is_asked_for() {
    let unknown = part(7, "hij").replace("/10", "/*");
    let server = serve(vec![part(2, "cde"), part(5, "fg"), unknown]);
    let client = client();
    let mut landing = Landing::small(2..10);
    for position in [5, 7, 10] {
        read(&server, &client, &mut landing).await.expect("a part lands");
        assert_eq!(landing.position(), position);
    }
    assert_eq!(landing.into_bytes().expect("its own buffer"), b"cdefghij");
    assert_eq!(server.connections(), 1);
    let ranges: Vec<_> = (0..3).map(|_| server.requests.recv().expect("was asked")).collect();
    assert!(ranges[1].contains("range: bytes=5-9\r\n") && ranges[2].contains("range: bytes=7-9\r\n"), "{ranges:?}");
}

fn through(variable: &str, server: &Server) -> Client {
    let proxy = format!("http://me:secret@{}", server.address);
    let env = Env::from_pairs([(variable, proxy.as_str())]);
    let config = HttpConfig { first_byte_timeout_ms: 2_000, ..HttpConfig::default() };
    Client::in_env(&config, &env, &Registry::default()).expect("a client")
}

#[tokio::test]
async fn a_plain_request_goes_to_the_proxy_with_its_whole_url() {
    let server = serve(vec![part(0, "a"), part(0, "b")]);
    let client = through("http_proxy", &server);
    for _ in 0..2 {
        let request = Request::get("http://store.test/a?sig=1").body(()).expect("a request");
        client.read_range(request, &object(), &mut Landing::small(0..1), false).await.expect("lands");
    }
    let request = server.requests.recv().expect("was asked");
    assert!(request.starts_with("GET http://store.test/a?sig=1 HTTP/1.1\r\nhost: store.test\r\n"), "{request}");
    assert!(request.contains("proxy-authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    assert_eq!(server.connections(), 1, "it is used again");
}

#[tokio::test]
async fn a_proxy_that_makes_no_tunnel_is_an_error_that_names_the_variable() {
    let server = serve(vec!["HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n".to_owned()]);
    let request = Request::get("https://store.test/a").body(()).expect("a request");
    let refused =
        through("HTTPS_PROXY", &server).read_range(request, &object(), &mut Landing::small(0..1), false).await;
    let error = refused.expect_err("refused").about("u", "a", "");
    assert!(!error.is_retryable() && error.to_string().contains("HTTPS_PROXY"), "{error}");
    assert!(error.to_string().contains("407") && !error.to_string().contains("secret"), "{error}");
    let request = server.requests.recv().expect("was asked");
    assert!(request.starts_with("CONNECT store.test:443 HTTP/1.1\r\nhost: store.test:443\r\n"), "{request}");
}

/// A proxy whose tunnel ends at a TLS server of the name `store.test`, which answers one request.
async fn tunnelling() -> (SocketAddr, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["store.test".to_owned()]).expect("a certificate");
    let authorities = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authorities.path(), made.cert.pem()).expect("can be written");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert!(head_of(&mut stream).await.starts_with("CONNECT store.test:443 "));
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("sent");
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(stream).await.expect("a handshake");
        let request = head_of(&mut stream).await;
        assert!(request.starts_with("GET /a HTTP/1.1\r\n") && !request.contains("proxy"), "{request}");
        stream.write_all(part(0, "a").as_bytes()).await.expect("sent");
        // Until the client has read it.
        let _ = stream.read_u8().await;
    });
    (address, authorities)
}

async fn head_of(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn tls_goes_through_a_proxys_tunnel_and_a_bundle_of_authorities_is_believed() {
    let (address, authorities) = tunnelling().await;
    let proxy = format!("http://{address}");
    let env = Env::from_pairs([("https_proxy", proxy.as_str())]);
    let client = Client::in_env(&HttpConfig::default(), &env, &Registry::default()).expect("a client");
    let client = client.trusting(authorities.path()).expect("a bundle");
    let request = Request::get("https://store.test/a").body(()).expect("a request");
    let mut landing = Landing::small(0..1);
    client.read_range(request, &object(), &mut landing, false).await.expect("lands");
    assert_eq!(landing.into_bytes().expect("its own buffer"), b"a");
}

#[tokio::test]
async fn an_untrusted_certificate_is_not_tried_again_and_the_error_names_the_fix() {
    let (address, _authorities) = tunnelling().await;
    let proxy = format!("http://{address}");
    let env = Env::from_pairs([("https_proxy", proxy.as_str())]);
    let client = Client::in_env(&HttpConfig::default(), &env, &Registry::default()).expect("a client");
    let request = Request::get("https://store.test/a").body(()).expect("a request");
    let error = client.read_range(request, &object(), &mut Landing::small(0..1), false).await.expect_err("a stranger");
    let error = error.about("u", "a", "");
    assert!(!error.is_retryable() && error.to_string().contains("SSL_CERT_FILE"), "{error}");
}

#[tokio::test]
async fn chunks_land_too_and_leave_a_connection_that_can_be_used_again() {
    let head = "HTTP/1.1 206 x\r\nETag: \"x\"\r\nContent-Range: bytes 0-9/10\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = format!("{head}3;x=y\r\nabc\r\n7\r\ndefghij\r\n0\r\nTrailer: x\r\n\r\n");
    let longer = format!("{head}b\r\nabcdefghijk\r\n0\r\n\r\n");
    let server = serve(vec![chunked.clone(), chunked, longer]);
    let client = client();
    for _ in 0..2 {
        let mut landing = Landing::small(0..10);
        read(&server, &client, &mut landing).await.expect("lands");
        assert_eq!(landing.into_bytes().expect("its own buffer"), b"abcdefghij");
    }
    let error = read(&server, &client, &mut Landing::small(0..10)).await.expect_err("it is longer than asked for");
    assert!(matches!(error, HttpError::Protocol { .. }), "{error}");
    assert_eq!((server.connections(), client.idle_connections()), (1, 0));
}

#[tokio::test]
async fn a_refusal_tells_status_code_and_when_to_come_back_and_no_secret() {
    let body = "<Error><Code>SlowDown</Code><Resource>/a?sig=secret</Resource></Error>";
    let answer = format!("HTTP/1.1 503 x\r\nRetry-After: 2\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let server = serve(vec![answer, part(0, "a")]);
    let client = client();
    let error = read(&server, &client, &mut Landing::small(0..1)).await.expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("secret"));
    let error = error.about("https://store.example/", "a", "");
    let two = Some(Duration::from_secs(2));
    assert!(matches!(error, SourceError::Throttled { retry_after, .. } if retry_after == two), "{error}");
    read(&server, &client, &mut Landing::small(0..1)).await.expect("lands");
    assert_eq!(server.connections(), 1, "a refusal does not cost its connection");
}

#[tokio::test]
async fn silence_ends_a_read() {
    let whole = part(0, "abcdefghij");
    let server = serve(vec![whole[..whole.len() - 6].to_owned(), "HTTP/1.1 2".to_owned()]);
    let client = client();
    let mut landing = Landing::small(0..10);
    let error = read(&server, &client, &mut landing).await.expect_err("no more came");
    assert!(matches!(&error, HttpError::Broken { source, .. } if source.kind() == std::io::ErrorKind::TimedOut));
    let error = read(&server, &client, &mut landing).await.expect_err("no head came");
    assert!(matches!(error, HttpError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_redirection_is_followed_without_credentials_and_not_for_ever() {
    let store = serve(vec![part(0, "a")]);
    let location = format!("http://{}/elsewhere?sig=1", store.address);
    let hop = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\ngone");
    let hub = serve(vec![hop]);
    let client = client();
    let mut request = hub.get();
    request.headers_mut().insert("authorization", http::HeaderValue::from_static("Bearer hf_secret"));
    client.read_range(request, &object(), &mut Landing::small(0..1), false).await.expect("lands");
    assert!(hub.requests.recv().expect("was asked").contains("hf_secret"));
    let redirected = store.requests.recv().expect("was asked");
    assert!(redirected.starts_with("GET /elsewhere?sig=1 ") && !redirected.contains("hf_secret"), "{redirected}");
    assert!(redirected.contains("range: bytes=0-0"), "{redirected}");
    let round = serve(vec!["HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".to_owned(); 9]);
    let error = read(&round, &client, &mut Landing::small(0..1)).await.expect_err("endless");
    assert!(error.to_string().contains("redirections"), "{error}");
}

#[tokio::test]
async fn a_small_answer_has_a_bound() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 x\r\nContent-Length: 5\r\n\r\nhello".to_owned();
    let server = serve(vec![answer.clone(), answer]);
    let client = client();
    let whole = client.send(server.small(), 5).await.expect("an answer, whatever its status");
    assert_eq!((whole.status().as_u16(), &whole.body()[..]), (404, &b"hello"[..]));
    assert!(client.send(server.small(), 4).await.is_err());
}

#[tokio::test]
async fn a_dropped_read_gives_its_connection_up() {
    let whole = part(0, "abcdefghij");
    let server = serve(vec![whole[..whole.len() - 6].to_owned()]);
    let registry = Registry::default();
    let config = HttpConfig { connections_per_host_max: 1, ..HttpConfig::default() };
    let client = Client::metered(&config, &registry).expect("a client");
    let mut landing = Landing::small(0..10);
    let progress = landing.progress();
    tokio::select! {
        outcome = read(&server, &client, &mut landing) => panic!("{outcome:?}"),
        () = async { while progress.landed() < 4 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(client.idle_connections(), 0);
    let target = Target::of(server.get().uri()).expect("a target");
    let permit = client.shared.pool.permit(&target);
    drop(tokio::time::timeout(Duration::from_secs(5), permit).await.expect("its place is free again"));
    let in_use = registry.gauge(&telemetry::names::LOADER_CONNECTIONS).with_label_values(&["in_use"]);
    assert_eq!(in_use.get(), 0.0);
}
