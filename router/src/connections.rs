//! Connections to one worker: HTTP/1.1, reused while that is safe.
//!
//! Servers close connections that idle, common ones after 5 s, and a request that meets the close
//! is lost. So an idle connection is kept for 4 s, or a second less than its worker announces, and
//! `Connection::is_reused` tells a lost request from a broken worker. Every open connection holds
//! a place in one bound shared by all workers, so that this process never runs out of descriptors
//! here and blames a worker for it.

use bytes::Bytes;
use http::header::HeaderMap;
use http::uri::Authority;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use listen::ClientTls;
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How much earlier than a worker says an idle connection is given up.
const HINT_MARGIN: Duration = Duration::from_secs(1);
/// The most idle connections kept per worker.
const IDLE_MAX: usize = 256;

/// Errors of opening a connection.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    /// The worker cannot be reached.
    #[error("connecting to {name}")]
    Unreachable {
        name: String,
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("connecting to {name} took more than {limit:?}")]
    TimedOut { name: String, limit: Duration },
    /// It is not who it should be, or does not take us for who we are.
    #[error("agreeing on TLS with {name}; see router.worker_tls")]
    Tls {
        name: String,
        #[source]
        source: io::Error,
    },
    /// The worker accepted and then spoke no HTTP.
    #[error("opening an HTTP connection to {name}")]
    Handshake {
        name: String,
        #[source]
        source: hyper::Error,
    },
    /// This process has no descriptor, port or memory left.
    #[error("connecting to {name}: this process has too many connections open; raise its limit of open files")]
    Exhausted { name: String },
}

/// Bounds that the connections of all workers share.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// For workers at `https://` URLs; absent where there is none.
    pub(crate) tls: Option<ClientTls>,
    pub(crate) connect_timeout: Duration,
    /// How long an idle connection is kept where the worker announces nothing.
    pub(crate) idle: Duration,
    /// Places for open connections.
    pub(crate) places: Arc<Semaphore>,
    /// How many of them must stay free for an idle connection to be kept.
    pub(crate) places_spare: usize,
}

/// The connections to one worker.
#[derive(Debug)]
pub(crate) struct Connections {
    authority: Authority,
    is_tls: bool,
    /// The name that the certificate must hold, where that is not the authority's host.
    tls_name: Option<String>,
    limits: Limits,
    idle: Mutex<Vec<Idle>>,
}

/// The TLS settings that a connection was made under; none for plain HTTP.
type Under = Option<Arc<ClientConfig>>;

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    under: Under,
    until: Instant,
}

/// A connection in use; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    /// True if an earlier request went over it.
    pub(crate) is_reused: bool,
    under: Under,
    /// How long it may idle.
    idle: Duration,
    owner: Arc<Connections>,
}

impl Connections {
    pub(crate) fn new(authority: Authority, is_tls: bool, tls_name: Option<String>, limits: Limits) -> Self {
        Self { authority, is_tls, tls_name, limits, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The name that the worker's certificate must hold.
    pub(crate) fn tls_name(&self) -> &str {
        self.tls_name.as_deref().unwrap_or_else(|| self.host())
    }

    /// An idle connection, or a new one.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        match self.take_idle() {
            Some(connection) => Ok(connection),
            None => self.open().await,
        }
    }

    /// The connection used last, so that the others may expire.
    fn take_idle(self: &Arc<Self>) -> Option<Connection> {
        let (now, current) = (Instant::now(), self.under());
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, under, until }) = idle.pop() {
            if until > now && sender.is_ready() && is_same(&under, &current) {
                return Some(self.connection(sender, true, under));
            }
        }
        None
    }

    /// A new connection.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        let name = || self.authority.to_string();
        let place = Arc::clone(&self.limits.places).try_acquire_owned();
        let Ok(place) = place else { return Err(ConnectError::Exhausted { name: name() }) };
        let limit = self.limits.connect_timeout;
        let connecting = async {
            let stream = self.connect().await.map_err(|source| match is_exhaustion(&source) {
                true => ConnectError::Exhausted { name: name() },
                false => ConnectError::Unreachable { name: name(), source },
            })?;
            if !self.is_tls {
                return Ok((self.speak(stream, place).await?, None));
            }
            let fail = |source| ConnectError::Tls { name: name(), source };
            let config = self.under().ok_or_else(|| fail(io::Error::other("no authorities are set up")))?;
            let stream = ClientTls::connect(Arc::clone(&config), self.tls_name(), stream).await.map_err(fail)?;
            Ok((self.speak(stream, place).await?, Some(config)))
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map(|(sender, under)| self.connection(sender, false, under)),
            Err(_) => Err(ConnectError::TimedOut { name: name(), limit }),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let port = self.authority.port_u16().unwrap_or(if self.is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((self.host(), port)).await?;
        // A request is one write that must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Begins HTTP over `io`. The place is free once that is closed.
    async fn speak<I>(&self, io: I, place: OwnedSemaphorePermit) -> Result<SendRequest<Full<Bytes>>, ConnectError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = Builder::new().handshake(TokioIo::new(io)).await;
        let fail = |source| ConnectError::Handshake { name: self.authority.to_string(), source };
        let (sender, driver) = handshake.map_err(fail)?;
        tokio::spawn(async move {
            // Errors reach the user of the connection.
            let _ = driver.await;
            drop(place);
        });
        Ok(sender)
    }

    fn connection(self: &Arc<Self>, sender: SendRequest<Full<Bytes>>, is_reused: bool, under: Under) -> Connection {
        Connection { sender, is_reused, under, idle: self.limits.idle, owner: Arc::clone(self) }
    }

    fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The TLS settings for a new connection.
    fn under(&self) -> Under {
        self.limits.tls.as_ref().filter(|_| self.is_tls).map(ClientTls::current)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>, under: Under, idle_for: Duration) {
        let has_room = self.limits.places.available_permits() >= self.limits.places_spare;
        let mut idle = self.idle.lock();
        if has_room && idle.len() < IDLE_MAX && !idle_for.is_zero() {
            idle.push(Idle { sender, under, until: Instant::now() + idle_for });
        }
    }

    /// Closes the connections that idled for too long.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        self.idle.lock().retain(|idle| idle.until > now && !idle.sender.is_closed());
    }
}

impl Connection {
    /// Reads the worker's limit for idle connections: `keep-alive: timeout=5`.
    pub(crate) fn note_hint(&mut self, headers: &HeaderMap) {
        if let Some(timeout) = keep_alive_timeout(headers) {
            self.idle = timeout.saturating_sub(HINT_MARGIN);
        }
    }

    /// Keeps the connection for the next request, as soon as the worker has ended its answer.
    pub(crate) fn release(mut self) {
        if self.sender.is_ready() {
            return self.owner.keep(self.sender, self.under, self.idle);
        }
        tokio::spawn(async move {
            if self.sender.ready().await.is_ok() {
                self.owner.keep(self.sender, self.under, self.idle);
            }
        });
    }
}

/// Returns true if both are the same settings: a certificate that was rotated out is not shown by reuse.
fn is_same(one: &Under, other: &Under) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = text.split(',').find_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().trim_matches('"').parse::<u32>().ok())?
    })?;
    Some(Duration::from_secs(seconds.into()))
}

/// True if this process lacks something: descriptors, memory, local ports.
fn is_exhaustion(cause: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory};
    // EMFILE, ENFILE and ENOBUFS have no kinds of their own.
    matches!(cause.kind(), AddrNotAvailable | AddrInUse | OutOfMemory)
        || matches!(cause.raw_os_error(), Some(23 | 24 | 105))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_hint_is_read() {
        for (text, expected) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100, Timeout=\"60\"", Some(60)),
            ("max=100", None),
            ("timeout=soon", None),
        ] {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("keep-alive"), text.parse().expect("v"))]);
            assert_eq!(keep_alive_timeout(&headers), expected.map(Duration::from_secs), "{text}");
        }
    }

    /// A server with TLS, and the connections to it of a client that trusts it.
    async fn over_tls(dir: &std::path::Path) -> (Arc<Connections>, tokio::task::JoinSet<()>) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("writes");
        write("cert.pem", made.cert.pem());
        write("key.pem", made.signing_key.serialize_pem());
        let path = |name| Some(dir.join(name));
        let tls = listen::TlsConfig {
            certificate_file: path("cert.pem"),
            key_file: path("key.pem"),
            ..listen::TlsConfig::default()
        };
        let config =
            listen::ListenConfig { address: ([127, 0, 0, 1], 0).into(), tls, ..listen::ListenConfig::default() };
        let listener = listen::Listener::bind(&config).await.expect("binds");
        let authority = listener.local_addr().to_string().parse().expect("an authority");
        let client =
            listen::ClientTlsConfig { ca_file: path("cert.pem"), reload_interval_ms: 10, ..Default::default() };
        let client = ClientTls::new(&client).expect("files that are there");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(client.clone().watch(None));
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "ok" }));
        tasks.spawn(async move { drop(listener.serve(app, listen::Drain::new()).await) });
        let limits = Limits {
            tls: Some(client),
            connect_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            places: Arc::new(Semaphore::new(9)),
            places_spare: 1,
        };
        (Arc::new(Connections::new(authority, true, None, limits)), tasks)
    }

    /// One exchange, after which its connection is kept; returns whether it was used before.
    async fn exchange(connections: &Arc<Connections>) -> bool {
        let mut connection = connections.take().await.expect("a connection");
        let mut request = http::Request::new(Full::new(Bytes::new()));
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("x"));
        let answer = connection.sender.send_request(request).await.expect("an answer");
        http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body");
        connection.sender.ready().await.expect("kept alive");
        let is_reused = connection.is_reused;
        connection.release();
        is_reused
    }

    #[tokio::test]
    async fn a_connection_is_not_used_again_once_the_files_have_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (connections, _tasks) = over_tls(dir.path()).await;
        assert!(!exchange(&connections).await);
        assert!(exchange(&connections).await);
        let before = connections.under().expect("TLS");
        let authorities = std::fs::read_to_string(dir.path().join("cert.pem")).expect("reads");
        std::fs::write(dir.path().join("cert.pem"), authorities.repeat(2)).expect("writes");
        while connections.under().is_some_and(|now| Arc::ptr_eq(&now, &before)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!exchange(&connections).await, "one made under the old files was used");
    }

    #[tokio::test]
    async fn a_worker_that_cannot_prove_its_name_is_not_spoken_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (connections, _tasks) = over_tls(dir.path()).await;
        let port = connections.authority.port_u16().expect("a port");
        let limits = connections.limits.clone();
        let under = |name: &str, limits| {
            let authority = format!("{name}:{port}").parse().expect("an authority");
            Arc::new(Connections::new(authority, true, None, limits))
        };
        let authority = format!("localhost:{port}").parse().expect("an authority");
        let found = Arc::new(Connections::new(authority, true, Some("127.0.0.1".into()), limits.clone()));
        found.open().await.expect("a worker that was found elsewhere is known by its name");
        let error = under("localhost", limits.clone()).open().await.expect_err("another name");
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
        let without = Limits { tls: None, ..limits };
        let error = under("127.0.0.1", without).open().await.expect_err("no authorities");
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    }

    #[test]
    fn want_of_descriptors_is_ours() {
        for code in [23, 24, 105] {
            assert!(is_exhaustion(&io::Error::from_raw_os_error(code)));
        }
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable, io::ErrorKind::TimedOut] {
            assert!(!is_exhaustion(&kind.into()), "{kind}");
        }
    }
}
