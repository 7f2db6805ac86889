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
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
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
    limits: Limits,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    until: Instant,
}

/// A connection in use; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    /// True if an earlier request went over it.
    pub(crate) is_reused: bool,
    /// How long it may idle.
    idle: Duration,
    owner: Arc<Connections>,
}

impl Connections {
    pub(crate) fn new(authority: Authority, limits: Limits) -> Self {
        Self { authority, limits, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
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
        let now = Instant::now();
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, until }) = idle.pop() {
            if until > now && sender.is_ready() {
                return Some(Connection { sender, is_reused: true, idle: self.limits.idle, owner: Arc::clone(self) });
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
        let stream = match tokio::time::timeout(limit, self.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) if is_exhaustion(&source) => return Err(ConnectError::Exhausted { name: name() }),
            Ok(Err(source)) => return Err(ConnectError::Unreachable { name: name(), source }),
            Err(_) => return Err(ConnectError::TimedOut { name: name(), limit }),
        };
        let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|source| ConnectError::Handshake { name: name(), source })?;
        tokio::spawn(async move {
            // Errors reach the user of the connection; the place is free once the socket is closed.
            let _ = driver.await;
            drop(place);
        });
        Ok(Connection { sender, is_reused: false, idle: self.limits.idle, owner: Arc::clone(self) })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.authority.port_u16().unwrap_or(80))).await?;
        // A request is one write that must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>, idle_for: Duration) {
        let has_room = self.limits.places.available_permits() >= self.limits.places_spare;
        let mut idle = self.idle.lock();
        if has_room && idle.len() < IDLE_MAX && !idle_for.is_zero() {
            idle.push(Idle { sender, until: Instant::now() + idle_for });
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
            return self.owner.keep(self.sender, self.idle);
        }
        tokio::spawn(async move {
            if self.sender.ready().await.is_ok() {
                self.owner.keep(self.sender, self.idle);
            }
        });
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
