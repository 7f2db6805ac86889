//! The accept loop: bounds, health in reserve, drain.

use crate::clients::{Clients, Entered, Named, named, network};
use crate::config::{ListenConfig, Timeouts};
use crate::connection::{Answer, Answering, Clocks, Ended, FileBehind, Socket, discard_unread};
use crate::cors;
use crate::descriptors::{Spares, connections_within_limit};
use crate::drain::Drain;
use crate::request::error_response;
use crate::tls::{CertificateMeters, Failure, Identity, ServerTls, TlsError, accept};
use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Gauge, IntCounter, IntCounterVec};
use rand::Rng;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::Registry;
use telemetry::names;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use wire::openai::{ApiError, ErrorKind};

/// The most header bytes of a request: room for the longest bearer tokens, and no more.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// How long to rest when accepting fails for want of something that only time brings.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections beyond the bound that may ask for health, metrics and administration alone.
const RESERVED_MAX: usize = 64;
/// How long one of those may take for a request's head: it must not hold the reserve.
const RESERVED_HEAD: Duration = Duration::from_secs(2);
/// The paths that these may ask for, besides those below `/admin/`.
const OPERATIONAL: [&str; 5] = ["/livez", "/readyz", "/health", "/metrics", "/status"];
/// The paths that need no certificate where `health_without_certificate` is set.
const HEALTH: [&str; 3] = ["/livez", "/readyz", "/health"];
/// How long clients have to take the error that ends a stream at the end of a drain.
const CUT_GRACE: Duration = Duration::from_secs(2);
/// The `retry-after` when all connections are taken.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Errors of listening.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("listening on {address}; choose another with --listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The files of a certificate are missing or wrong.
    #[error("listening with TLS on {address}")]
    Tls {
        /// The address asked for.
        address: SocketAddr,
        /// The file and what is wrong with it.
        #[source]
        source: Box<TlsError>,
    },
    /// Streams had not finished when the drain's time was over.
    #[error("{streams} connections were cut {limit_ms} ms after the drain began; raise listen.drain_timeout_ms")]
    Cut {
        /// Connections that were still answered.
        streams: usize,
        /// The drain's time.
        limit_ms: u64,
    },
}

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: ListenConfig,
    tls: Option<ServerTls>,
    per_connection: u64,
    shares: bool,
    files: Option<FileBehind>,
    meters: Option<Meters>,
}

#[derive(Debug, Clone)]
struct Meters {
    connections: Gauge,
    refused: IntCounter,
    ended: IntCounterVec,
    /// Absent where there is no TLS.
    tls: Option<TlsMeters>,
    listener: String,
}

#[derive(Debug, Clone)]
struct TlsMeters {
    handshakes: Gauge,
    failed_handshakes: IntCounterVec,
    certificate: CertificateMeters,
}

impl Meters {
    fn new(registry: &Registry, listener: &str, is_tls: bool) -> Self {
        Self {
            connections: registry.gauge(&names::LISTEN_CONNECTIONS).with_label_values(&[listener]),
            refused: registry.counter(&names::LISTEN_REFUSED).with_label_values(&[listener]),
            ended: registry.counter(&names::LISTEN_ENDED),
            tls: is_tls.then(|| TlsMeters::new(registry, listener)),
            listener: listener.to_owned(),
        }
    }

    fn ended(&self, why: Ended) {
        self.ended.with_label_values(&[self.listener.as_str(), why.label()]).inc();
    }

    fn failed_handshake(&self, why: &str) {
        if let Some(tls) = &self.tls {
            tls.failed_handshakes.with_label_values(&[self.listener.as_str(), why]).inc();
        }
    }
}

impl TlsMeters {
    fn new(registry: &Registry, listener: &str) -> Self {
        registry.begin(&names::LISTEN_FAILED_HANDSHAKES, &[listener]);
        let not_after = registry.gauge(&names::LISTEN_CERTIFICATE_NOT_AFTER).with_label_values(&[listener]);
        let reloads = registry.counter(&names::LISTEN_CERTIFICATE_RELOADS);
        Self {
            handshakes: registry.gauge(&names::LISTEN_HANDSHAKES).with_label_values(&[listener]),
            failed_handshakes: registry.counter(&names::LISTEN_FAILED_HANDSHAKES),
            certificate: CertificateMeters {
                not_after: Some(not_after),
                loaded: reloads.with_label_values(&[listener, "ok"]),
                failed: reloads.with_label_values(&[listener, "error"]),
            },
        }
    }
}

impl Listener {
    /// Binds the socket; clients may connect from now on and are served from `serve` on.
    ///
    /// # Errors
    /// An address that is taken or not ours; a certificate that cannot be used.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let in_bind = |source| ListenError::Bind { address: config.address, source };
        let socket = TcpListener::bind(config.address).await.map_err(in_bind)?;
        let address = socket.local_addr().map_err(in_bind)?;
        let tls = ServerTls::open(&config.tls)
            .map_err(|source| ListenError::Tls { address: config.address, source: source.into() })?;
        let config = config.clone();
        Ok(Self { socket, address, config, tls, per_connection: 1, shares: false, files: None, meters: None })
    }

    /// Counts connections in `registry`, under this listener's name.
    #[must_use]
    pub fn with_metrics(mut self, registry: &Registry, listener: &str) -> Self {
        registry.begin(&names::LISTEN_ENDED, &[listener]);
        self.meters = Some(Meters::new(registry, listener, self.tls.is_some()));
        self
    }

    /// Says how many descriptors a client's connection takes: two where each is relayed.
    #[must_use]
    pub fn with_descriptors_per_connection(mut self, count: u64) -> Self {
        self.per_connection = count;
        self
    }

    /// Lets a client that its certificate names have half of the connections at most.
    #[must_use]
    pub fn with_shares(mut self) -> Self {
        self.shares = true;
        self
    }

    /// Sends large pieces of bodies straight from the files that they are mapped from, where there is no TLS.
    #[must_use]
    pub fn with_files(mut self, find: FileBehind) -> Self {
        self.files = Some(find);
        self
    }

    /// The address in use, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL to reach it by, with the real port.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The bounds in use.
    #[must_use]
    pub fn config(&self) -> &ListenConfig {
        &self.config
    }

    /// Serves `app` until `drain` starts, then for the notice period, then until every stream has
    /// finished or the drain's timeout is over.
    ///
    /// # Errors
    /// Streams that the end of the drain cut.
    pub async fn serve(mut self, app: axum::Router, drain: Drain) -> Result<(), ListenError> {
        let server = Arc::new(self.server(app, drain.clone()));
        // Dropped at the end, it stops following the files.
        let mut watches = JoinSet::new();
        if let Some(tls) = &server.tls {
            watches.spawn(
                tls.watch(self.meters.as_ref().and_then(|meters| Some(meters.tls.as_ref()?.certificate.clone()))),
            );
        }
        let over = notice_over(&drain, Duration::from_millis(self.config.drain_notice_ms));
        tokio::pin!(over);
        let mut spares = Spares::default();
        loop {
            spares.refill(&self.socket);
            let accepted = tokio::select! {
                biased;
                () = &mut over => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => server.take(stream, Peer(peer)),
                // A spare descriptor serves the next in line; it may be a health check.
                Err(cause) if is_out_of_descriptors(&cause) && spares.give() => {
                    // The system says so even where nobody waits.
                    if let Some(Ok((stream, peer))) = now_or_never(self.socket.accept()).await {
                        tracing::warn!(%cause, "accepted a connection with a spare descriptor");
                        server.take_reserved(stream, Peer(peer));
                    }
                }
                Err(cause) => {
                    tracing::warn!(%cause, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Clients that connected before the end of the notice are answered, if only with a refusal.
        while let Some(Ok((stream, peer))) = now_or_never(self.socket.accept()).await {
            server.take(stream, Peer(peer));
        }
        // The spares are copies of the socket: while one is open, the kernel goes on taking connections that nobody serves.
        drop((self.socket, spares));
        drain.refuse();
        finish(&server.tasks, &drain, self.config.drain_timeout_ms).await
    }

    fn server(&mut self, app: axum::Router, drain: Drain) -> Server {
        let connections_max = connections_within_limit(self.config.connections_max, self.per_connection);
        if connections_max < self.config.connections_max {
            tracing::warn!(
                connections_max,
                "the limit of open files allows fewer connections than listen.connections_max; raise it (ulimit -n)"
            );
        }
        let app = match cors::layer(&self.config.cors_origins) {
            Some(layer) => app.layer(layer),
            None => app,
        };
        Server {
            app,
            builder: builder(),
            config: self.config.clone(),
            tls: self.tls.take(),
            files: self.files,
            clients: self.shares.then(|| Clients::new(connections_max / 2)),
            shaking: Clients::new(self.config.tls.handshakes_max.min(connections_max) / 2),
            asking: Clients::new(RESERVED_MAX / 2),
            slots: Arc::new(Semaphore::new(connections_max)),
            reserved: Arc::new(Semaphore::new(RESERVED_MAX)),
            meters: self.meters.clone(),
            tasks: TaskTracker::new(),
            drain,
        }
    }
}

/// Waits for the streams left, then ends them with an error, then without.
async fn finish(tasks: &TaskTracker, drain: &Drain, limit_ms: u64) -> Result<(), ListenError> {
    tasks.close();
    let limit = Duration::from_millis(limit_ms);
    if tokio::time::timeout(limit, tasks.wait()).await.is_ok() {
        return Ok(());
    }
    let streams = tasks.len();
    tracing::warn!(limit_ms, streams, "the drain's time is over; cutting the streams left");
    drain.start_cutting();
    let _ = tokio::time::timeout(CUT_GRACE, tasks.wait()).await;
    drain.end();
    tasks.wait().await;
    Err(ListenError::Cut { streams, limit_ms })
}

/// State that all connections share.
struct Server {
    app: axum::Router,
    builder: http1::Builder,
    config: ListenConfig,
    tls: Option<ServerTls>,
    files: Option<FileBehind>,
    /// Absent where a client may have every connection.
    clients: Option<Arc<Clients<Named>>>,
    /// Handshakes in flight: a client that ends none has half of the room for them, and of the connections.
    shaking: Arc<Clients<u128>>,
    /// Connections in reserve.
    asking: Arc<Clients<u128>>,
    slots: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    meters: Option<Meters>,
    tasks: TaskTracker,
    drain: Drain,
}

/// Places that one connection holds until it ends.
struct Held {
    _slot: OwnedSemaphorePermit,
    /// A place among the handshakes in flight, and in its client's share of them, given back when it is over.
    handshake: Option<(OwnedSemaphorePermit, Entered<u128>)>,
    /// A place in its client's share of the reserve.
    reserve: Option<Entered<u128>>,
}

/// Facts about a connection, once requests may come.
struct Opened {
    peer: Peer,
    is_reserved: bool,
    /// The client that a certificate named.
    identity: Option<Arc<Identity>>,
}

impl Server {
    /// Serves a connection, if one more is allowed.
    fn take(self: &Arc<Self>, stream: TcpStream, peer: Peer) {
        match self.place(peer) {
            Some(held) => self.spawn(stream, peer, held),
            None => self.take_reserved(stream, peer),
        }
    }

    /// Room for one more connection, and for its handshake.
    fn place(&self, peer: Peer) -> Option<Held> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let Some(tls) = &self.tls else { return Some(Held { _slot: slot, handshake: None, reserve: None }) };
        let handshake = tls.place().zip(self.shaking.enter(network(peer.0.ip())));
        if handshake.is_none() {
            self.count_failed_handshake("busy");
            return None;
        }
        Some(Held { _slot: slot, handshake, reserve: None })
    }

    /// Serves a connection that may ask for health and the like alone.
    fn take_reserved(self: &Arc<Self>, stream: TcpStream, peer: Peer) {
        let slot = Arc::clone(&self.reserved).try_acquire_owned().ok();
        match slot.zip(self.asking.enter(network(peer.0.ip()))) {
            Some((slot, entered)) => {
                self.spawn(stream, peer, Held { _slot: slot, handshake: None, reserve: Some(entered) });
            }
            // Dropping the stream closes it.
            None => self.count_refused(),
        }
    }

    fn count_refused(&self) {
        if let Some(meters) = &self.meters {
            meters.refused.inc();
        }
    }

    fn count_failed_handshake(&self, why: &str) {
        if let Some(meters) = &self.meters {
            meters.failed_handshake(why);
        }
    }

    fn spawn(self: &Arc<Self>, stream: TcpStream, peer: Peer, held: Held) {
        // Tokens are small writes that must not wait for an acknowledgement.
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "setting TCP_NODELAY");
        }
        let counted = self.meters.as_ref().map(|meters| Counted::new(meters.connections.clone()));
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            let _counted = counted;
            server.connection(stream, peer, held).await;
        });
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: Peer, mut held: Held) {
        let (stream, clocks) = (Arc::new(stream), Clocks::start(self.tls.is_some()));
        let mut timeouts = self.config.timeouts();
        let is_reserved = held.reserve.is_some();
        if is_reserved {
            timeouts.head = timeouts.head.min(RESERVED_HEAD);
            timeouts.handshake = timeouts.handshake.min(RESERVED_HEAD);
        }
        let mut opened = Opened { peer, is_reserved, identity: None };
        // What is encrypted lies in no file.
        let files = self.files.filter(|_| self.tls.is_none());
        let socket = Socket { stream: Arc::clone(&stream), clocks: Arc::clone(&clocks), files };
        let end = Ending { stream, clocks, timeouts };
        let Some(tls) = &self.tls else {
            return self.speak(socket, opened, &end, None).await;
        };
        let age = Age::draw(Duration::from_millis(self.config.tls.connection_age_max_ms));
        let handshake = self.handshake(tls, socket, &end).await;
        drop(held.handshake.take());
        let Some((io, identity)) = handshake else { return };
        let entering = self.clients.as_ref().zip(identity.as_ref());
        let entered = entering.map(|(clients, identity)| clients.enter(named(identity, peer.0.ip())));
        if let Some(None) = entered {
            return self.end(&end.stream, Ended::Crowded);
        }
        opened.identity = identity;
        self.speak(io, opened, &end, Some(age)).await;
    }

    /// Shakes hands, within the time for it and while the server is there. Boxed: only some connections need the room.
    async fn handshake(
        &self,
        tls: &ServerTls,
        socket: Socket,
        end: &Ending,
    ) -> Option<(Box<TlsStream<Socket>>, Option<Arc<Identity>>)> {
        let meters = self.meters.as_ref().and_then(|meters| meters.tls.as_ref());
        let _counted = meters.map(|meters| Counted::new(meters.handshakes.clone()));
        let accepted = tokio::select! {
            accepted = Box::pin(accept(tls.current(), socket, &end.stream)) => accepted,
            why = end.clocks.watch(&end.stream, &end.timeouts) => {
                self.count_failed_handshake("timeout");
                self.end(&end.stream, why);
                return None;
            }
            () = refused(&self.drain, &end.clocks) => return None,
        };
        let read = accepted.and_then(|io| Ok((identity(&io)?, Box::new(io))));
        match read {
            Ok((identity, io)) => {
                end.clocks.established();
                Some((io, identity))
            }
            Err(failure) => {
                self.count_failed_handshake(failure.label());
                None
            }
        }
    }

    /// Serves requests over what carries them.
    async fn speak<I>(self: &Arc<Self>, io: I, opened: Opened, end: &Ending, age: Option<Age>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Ending { stream, clocks, timeouts } = end;
        let service = service_fn(|request: Request<Incoming>| {
            let answering = clocks.request();
            Arc::clone(self).answer(request, opened.peer, opened.is_reserved, opened.identity.clone(), answering)
        });
        let connection = self.builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let mut is_ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return self.closed(clocks, ended),
                why = clocks.watch(stream, timeouts) => return self.end(stream, why),
                () = refused(&self.drain, clocks), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = reached(age.map(|age| age.soft)), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = reached(age.map(|age| age.hard)) => return self.end(stream, Ended::Age),
                () = self.drain.over() => return discard_unread(stream),
            }
        }
    }

    /// Notes how a connection ended that nobody here ended.
    fn closed(&self, clocks: &Clocks, ended: hyper::Result<()>) {
        if let Err(cause) = ended {
            tracing::debug!(%cause, "a connection ended");
        }
        if self.tls.is_none() && clocks.has_met_tls() {
            tracing::debug!(
                "a client spoke TLS to a listener without it; give it tls.certificate_file, or write http:// there"
            );
            if let Some(meters) = &self.meters {
                meters.ended(Ended::TlsToPlain);
            }
        }
    }

    /// Returning drops the connection, and with it the answer and everything that it holds.
    fn end(&self, stream: &TcpStream, why: Ended) {
        if let Some(meters) = &self.meters {
            meters.ended(why);
        }
        if why == Ended::Write {
            discard_unread(stream);
        }
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        peer: Peer,
        is_reserved: bool,
        identity: Option<Arc<Identity>>,
        answering: Answering,
    ) -> Result<hyper::Response<Answer<Body>>, Infallible> {
        let wants_certificate = identity.is_none() && self.tls.as_ref().is_some_and(ServerTls::is_mutual);
        let refusal = refusal(&request, is_reserved, wants_certificate);
        if is_reserved && refusal.is_some() {
            self.count_refused();
        }
        request.extensions_mut().insert(peer);
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        let mut response = match refusal {
            Some(error) => closing(error_response(&error)),
            None => {
                let Ok(response) = self.app.clone().oneshot(request.map(Body::new)).await;
                response
            }
        };
        // During a drain, the client's next request had better go elsewhere.
        if is_reserved || self.drain.is_draining() {
            response = closing(response);
        }
        Ok(response.map(|body| Answer { body, _answering: answering }))
    }
}

/// The error of a request that reaches no handler.
fn refusal(request: &Request<Incoming>, is_reserved: bool, wants_certificate: bool) -> Option<ApiError> {
    if let Err(problem) = check_host(request) {
        return Some(ApiError::new(ErrorKind::InvalidRequest, problem));
    }
    let path = request.uri().path();
    if wants_certificate && !HEALTH.contains(&path) {
        let message = "this server wants a client certificate for everything but health";
        return Some(ApiError::new(ErrorKind::PermissionDenied, message));
    }
    if is_reserved && !OPERATIONAL.contains(&path) && !path.starts_with("/admin/") {
        return Some(ApiError::overloaded("all connections of this server are taken; try again", RETRY_AFTER));
    }
    None
}

/// RFC 9112, section 3.2: one `Host` and a valid one, or two hops may disagree on whose request it is.
fn check_host<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one `Host` header; send one");
    }
    match host {
        None if request.version() == Version::HTTP_11 => Err("the request has no `Host` header; HTTP/1.1 wants one"),
        // An empty one is allowed where the target has no authority.
        Some(host) if !host.is_empty() && Authority::try_from(host.as_bytes()).is_err() => {
            Err("the request's `Host` header is not HOST or HOST:PORT")
        }
        _ => Ok(()),
    }
}

fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// HTTP/1.1 alone: telling HTTP/2 apart means waiting for a preface that no header timeout covers.
fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX);
    builder
}

fn is_out_of_descriptors(cause: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(cause), Some(Errno::MFILE | Errno::NFILE))
}

async fn refused(drain: &Drain, clocks: &Clocks) {
    drain.refused().await;
    clocks.spare_fresh().await;
}

/// The client that a connection's certificate names; none where it brought none.
fn identity(io: &TlsStream<Socket>) -> Result<Option<Arc<Identity>>, Failure> {
    let Some(leaf) = io.get_ref().1.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    Identity::read(leaf).map(|identity| Some(Arc::new(identity))).ok_or(Failure::BadCertificate)
}

/// When a connection ends behind its current answer, and when at once.
#[derive(Debug, Clone, Copy)]
struct Age {
    soft: Instant,
    hard: Instant,
}

impl Age {
    /// Connections that began together, as after a restart, do not end together.
    fn draw(max: Duration) -> Self {
        let now = Instant::now();
        let soft = now + max.mul_f64(rand::rng().random_range(2.0 / 3.0..5.0 / 6.0));
        Self { soft, hard: now + max }
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The means of ending a connection: its socket, its clocks and their limits.
struct Ending {
    stream: Arc<TcpStream>,
    clocks: Arc<Clocks>,
    timeouts: Timeouts,
}

async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

async fn notice_over(drain: &Drain, notice: Duration) {
    drain.started().await;
    tokio::time::sleep(notice).await;
}

/// The other end of a request's connection, as a request extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// One open connection in a gauge.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
