//! One question over HTTP/1.1 at a time, on a connection that is kept while it is good.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use listen::ClientTls;
use rustix::net::sockopt;
use rustls::ClientConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// TCP keep-alive: a server that is gone without a word is noticed within a minute, also where nothing is asked.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 3;

/// Errors of a question.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    #[error("connecting to {name}")]
    Connect {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("asking {name}")]
    Ask {
        name: String,
        #[source]
        source: hyper::Error,
    },
    #[error("reading the answer of {name}, at most {bytes_max} bytes")]
    Body {
        name: String,
        bytes_max: usize,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A server, and the connection to it.
#[derive(Debug)]
pub(crate) struct Server {
    host: String,
    port: u16,
    tls: Option<ClientTls>,
    open: Option<Open>,
}

/// An open connection; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Open {
    sender: SendRequest<Empty<Bytes>>,
    /// The TLS settings that it was made under.
    under: Option<Arc<ClientConfig>>,
    _driver: JoinSet<()>,
}

impl Server {
    pub(crate) fn new(host: String, port: u16, tls: Option<ClientTls>) -> Self {
        Self { host, port, tls, open: None }
    }

    /// Asks, and reads a body of at most so many bytes. The caller bounds the time.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let (answer, open) = self.send(request).await?;
        let (parts, body) = answer.into_parts();
        let read = Limited::new(body, bytes_max).collect().await;
        let body = read.map_err(|source| HttpError::Body { name: self.name(), bytes_max, source })?;
        // Kept only once the answer was read: whatever goes wrong, the next question has a new connection.
        self.open = Some(open);
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    /// Asks, and leaves the body to the caller, which lasts while the connection is held.
    pub(crate) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Response<Incoming>, Open), HttpError> {
        let mut open = match self.open.take().filter(|open| open.sender.is_ready() && self.is_current(open)) {
            Some(open) => open,
            None => self.connect().await.map_err(|source| HttpError::Connect { name: self.name(), source })?,
        };
        let answer = open.sender.send_request(request).await;
        Ok((answer.map_err(|source| HttpError::Ask { name: self.name(), source })?, open))
    }

    fn is_current(&self, open: &Open) -> bool {
        match (&self.tls, &open.under) {
            (Some(tls), Some(under)) => Arc::ptr_eq(&tls.current(), under),
            (tls, under) => tls.is_none() && under.is_none(),
        }
    }

    async fn connect(&self) -> io::Result<Open> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        keep_alive(&stream)?;
        let Some(tls) = &self.tls else { return open(stream, None).await };
        let under = tls.current();
        let stream = ClientTls::connect(Arc::clone(&under), &self.host, stream).await?;
        open(stream, Some(under)).await
    }

    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?)
}

async fn open<I>(stream: I, under: Option<Arc<ClientConfig>>) -> io::Result<Open>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // Its errors reach who asks.
        let _ = driver.await;
    });
    Ok(Open { sender, under, _driver: tasks })
}
