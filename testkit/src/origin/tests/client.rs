//! A client that hides nothing: raw HTTP over one socket, and whatever came before it broke.

use super::super::{Account, Origin};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer, as far as it came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    /// 0 if no head came.
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// How it broke, if it did: `UnexpectedEof` for an orderly end before the promised length.
    pub(super) broken: Option<io::ErrorKind>,
}

impl Answered {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection.
pub(super) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(super) fn new(origin: &Origin) -> Self {
        let (_, address) = origin.url().split_once("://").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL");
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Self { stream }
    }

    /// Sends a request and reads nothing.
    pub(super) fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let _ = self.stream.write_all(&request(method, path, headers, body));
    }

    pub(super) fn ask(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answered {
        self.send(method, path, headers, body);
        answered(&mut self.stream, method == "HEAD")
    }

    pub(super) fn get(&mut self, path: &str, headers: &[&str]) -> Answered {
        self.ask("GET", path, headers, b"")
    }

    /// True if nothing comes for a while.
    pub(super) fn is_quiet(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout");
        let outcome = self.stream.read(&mut [0]);
        self.stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        outcome.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads exactly so many bytes after a head of any length.
    pub(super) fn read_head_and(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).expect("a head");
            bytes.push(byte[0]);
        }
        let mut body = vec![0; count];
        self.stream.read_exact(&mut body).expect("so many bytes");
        body
    }
}

/// One request on a connection of its own.
pub(super) fn get(origin: &Origin, path: &str, headers: &[&str]) -> Answered {
    Client::new(origin).get(path, headers)
}

/// One request under TLS that trusts nothing but the origin's certificate.
pub(super) fn secure_get(origin: &Origin, path: &str, headers: &[&str]) -> Answered {
    let pem = origin.certificate_pem().expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut stream = rustls::StreamOwned::new(session, Client::new(origin).stream);
    stream.write_all(&request("GET", path, headers, b"")).expect("a request");
    answered(&mut stream, false)
}

fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: origin\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text += header;
        text += "\r\n";
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

fn answered(stream: &mut impl Read, head_only: bool) -> Answered {
    let (mut bytes, mut answered) = (Vec::new(), Answered::default());
    let mut piece = vec![0; 64 << 10];
    loop {
        if answered.status == 0 {
            take_head(&mut bytes, &mut answered);
        }
        let length = answered.header("content-length").map_or(0, |text| text.parse::<usize>().expect("a length"));
        if answered.status != 0 && (head_only || bytes.len() >= length) {
            break;
        }
        match stream.read(&mut piece) {
            Ok(0) => answered.broken = Some(io::ErrorKind::UnexpectedEof),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => answered.broken = Some(error.kind()),
        }
        if answered.broken.is_some() {
            break;
        }
    }
    answered.body = bytes;
    answered
}

fn take_head(bytes: &mut Vec<u8>, answered: &mut Answered) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else { return };
    answered.status = head.code.unwrap_or(0);
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    answered.headers = head.headers.iter().map(|one| (one.name.to_ascii_lowercase(), text(one.value))).collect();
    bytes.drain(..length);
}

/// Waits until a claim holds; a minute is for ever.
pub(super) fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The books once no request is being answered.
pub(super) fn settled(origin: &Origin) -> Account {
    until(|| origin.account().in_flight == 0);
    origin.account()
}
