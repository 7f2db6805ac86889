//! The connection loop: accept, serve, drain.

use crate::drain::Drain;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus::{Gauge, IntCounter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use telemetry::metrics::Registry;
use telemetry::names;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most header bytes of a request: room for the longest bearer tokens, and no more.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// How long to rest when accepting fails for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where and within which bounds to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Address and port; port 0 takes a free one. Loopback by default: being reachable is a choice.
    pub address: SocketAddr,
    /// How long a client may take to send a request's head, in milliseconds. 10 s is far above any
    /// honest client and ends slow-header attacks.
    pub header_read_timeout_ms: u64,
    /// The most open connections; further ones are closed at once. One stream holds one connection
    /// and under 20 KB, so 10,000 is 200 MB at worst.
    pub connections_max: usize,
    /// The largest request body in bytes. 16 MiB holds prompts of millions of tokens.
    pub body_bytes_max: usize,
    /// How long, after SIGTERM, requests are still taken while readiness already says no, in
    /// milliseconds. 0 suits a laptop; behind a load balancer give it time to notice.
    pub drain_notice_ms: u64,
    /// How long streams may take to finish after that, in milliseconds, before they are cut.
    pub drain_timeout_ms: u64,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            header_read_timeout_ms: 10_000,
            connections_max: 10_000,
            body_bytes_max: 16 << 20,
            drain_notice_ms: 0,
            drain_timeout_ms: 60_000,
        }
    }
}

/// Why listening failed.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("listening on {address}; choose another with --listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: ListenConfig,
    meters: Option<Meters>,
}

#[derive(Debug, Clone)]
struct Meters {
    connections: Gauge,
    refused: IntCounter,
}

impl Listener {
    /// Binds the socket; clients may connect from now on and are served from `serve` on.
    ///
    /// # Errors
    /// An address that is taken or not ours.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let in_bind = |source| ListenError::Bind { address: config.address, source };
        let socket = TcpListener::bind(config.address).await.map_err(in_bind)?;
        let address = socket.local_addr().map_err(in_bind)?;
        Ok(Self { socket, address, config: config.clone(), meters: None })
    }

    /// Counts connections in `registry`, under this listener's name.
    #[must_use]
    pub fn with_metrics(mut self, registry: &Registry, listener: &str) -> Self {
        self.meters = Some(Meters {
            connections: registry.gauge(&names::LISTEN_CONNECTIONS).with_label_values(&[listener]),
            refused: registry.counter(&names::LISTEN_REFUSED).with_label_values(&[listener]),
        });
        self
    }

    /// The address in use, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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
    /// None today; accepting goes on whatever one connection does.
    pub async fn serve(self, app: axum::Router, drain: Drain) -> Result<(), ListenError> {
        let graceful = GracefulShutdown::new();
        let slots = Arc::new(Semaphore::new(self.config.connections_max));
        let builder = builder(&self.config);
        let over = notice_over(&drain, Duration::from_millis(self.config.drain_notice_ms));
        tokio::pin!(over);
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = &mut over => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => (stream, Peer(peer)),
                    Err(cause) => {
                        tracing::warn!(%cause, "accepting a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => self.spawn((stream, peer), slot, &builder, app.clone(), &graceful),
                // Dropping the stream closes it.
                Err(_) => self.count_refused(),
            }
        }
        drop(self.socket);
        drain.refuse();
        let limit = Duration::from_millis(self.config.drain_timeout_ms);
        if tokio::time::timeout(limit, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                limit_ms = self.config.drain_timeout_ms,
                "the drain's time is over; cutting the streams left"
            );
        }
        Ok(())
    }

    fn count_refused(&self) {
        if let Some(meters) = &self.meters {
            meters.refused.inc();
        }
    }

    fn spawn(
        &self,
        (stream, peer): (TcpStream, Peer),
        slot: OwnedSemaphorePermit,
        builder: &http1::Builder,
        app: axum::Router,
        graceful: &GracefulShutdown,
    ) {
        // Tokens are small writes that must not wait for an acknowledgement.
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "setting TCP_NODELAY");
        }
        let app = TowerToHyperService::new(app);
        let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            app.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        let counted = self.meters.as_ref().map(|meters| Counted::new(meters.connections.clone()));
        tokio::spawn(async move {
            let _held = (slot, counted);
            if let Err(cause) = watched.await {
                tracing::debug!(%cause, "a connection ended");
            }
        });
    }
}

/// HTTP/1.1 alone: telling HTTP/2 apart means waiting for a preface that no header timeout covers.
fn builder(config: &ListenConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_read_timeout_ms))
        .max_buf_size(HEADER_BYTES_MAX);
    builder
}

async fn notice_over(drain: &Drain, notice: Duration) {
    drain.started().await;
    tokio::time::sleep(notice).await;
}

/// Whom a request came from, as a request extension: the other end of its connection.
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
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    struct Running {
        address: SocketAddr,
        drain: Drain,
        registry: Registry,
        entered: Arc<Notify>,
        task: JoinHandle<Result<(), ListenError>>,
    }

    async fn start(change: impl FnOnce(&mut ListenConfig)) -> Running {
        let mut config = ListenConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..ListenConfig::default() };
        change(&mut config);
        let registry = Registry::new();
        let listener = Listener::bind(&config).await.expect("binds").with_metrics(&registry, "test");
        let drain = Drain::new();
        let entered = Arc::new(Notify::new());
        let (in_handler, in_drain) = (Arc::clone(&entered), drain.clone());
        // Answers only once the drain is refusing: proof that it was under way.
        let slow = move || async move {
            in_handler.notify_one();
            while !in_drain.is_refusing() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            "slow"
        };
        let app = axum::Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow));
        let address = listener.local_addr();
        let task = tokio::spawn(listener.serve(app, drain.clone()));
        Running { address, drain, registry, entered, task }
    }

    async fn send(address: SocketAddr, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_closes_the_connection() {
        let running = start(|config| config.header_read_timeout_ms = 100).await;
        for sent in ["", "P", "GET / HT", "GET / HTTP/1.1\r\nhost"] {
            let mut stream = TcpStream::connect(running.address).await.expect("connects");
            stream.write_all(sent.as_bytes()).await.expect("writes");
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "still open after {sent:?}");
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_closed_and_counted() {
        let running = start(|config| config.connections_max = 1).await;
        let _held = TcpStream::connect(running.address).await.expect("connects");
        while !running.registry.render().contains("forebay_listen_connections{listener=\"test\"} 1") {
            tokio::task::yield_now().await;
        }
        let refused = send(running.address, "/").await;
        assert!(refused.map_or(true, |text| text.is_empty()), "a second connection is closed");
        assert!(running.registry.render().contains("refused_connections_total{listener=\"test\"} 1"));
    }

    #[tokio::test]
    async fn a_drain_finishes_what_runs_and_refuses_new_connections() {
        let running = start(|_| ()).await;
        let slow = tokio::spawn(send(running.address, "/slow"));
        running.entered.notified().await;
        running.drain.start();
        running.task.await.expect("joins").expect("drains");
        assert!(slow.await.expect("joins").expect("answers").ends_with("slow"));
        assert!(send(running.address, "/").await.is_err(), "the socket is closed");
    }

    #[tokio::test]
    async fn during_the_notice_requests_are_still_served() {
        let running = start(|config| config.drain_notice_ms = 60_000).await;
        running.drain.start();
        assert!(send(running.address, "/").await.expect("answers").ends_with("hello"));
        assert!(!running.drain.is_refusing());
    }
}
