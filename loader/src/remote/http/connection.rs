//! One connection: TCP or TLS over TCP, and the few bytes of a body that came along with a head.
//! Knows no HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::proxy::Proxy;

/// The encrypted bytes taken from the socket at a time. The TLS library asks for 4 KiB;
/// four records of 16 KiB at once spare it most system calls.
pub(super) const TLS_READ_BYTES: usize = 64 << 10;

/// The transport of a connection.
pub(super) enum Stream {
    /// Bare TCP.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

/// A connection, and what was read from it too early.
pub(super) struct Connection {
    stream: Stream,
    early: Vec<u8>,
    early_from: usize,
    /// The proxy that passes plain requests on.
    proxy: Option<Arc<Proxy>>,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, early: Vec::new(), early_from: 0, proxy: None }
    }

    /// A connection to a proxy, to which requests name the whole URL.
    pub(super) fn through(mut self, proxy: Option<Arc<Proxy>>) -> Self {
        self.proxy = proxy;
        self
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// Sends `bytes`, all of them.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Receives into `into`, as much as is there; 0 at the end of the connection.
    pub(super) fn poll_receive(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let early = &self.early[self.early_from..];
        if !early.is_empty() {
            let count = early.len().min(into.len());
            into[..count].copy_from_slice(&early[..count]);
            self.early_from += count;
            return Poll::Ready(Ok(count));
        }
        let mut buffer = ReadBuf::new(into);
        let outcome = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, &mut buffer),
        };
        outcome.map_ok(|()| buffer.filled().len())
    }

    /// [`Connection::poll_receive`], awaited.
    pub(super) async fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_receive(context, into)).await
    }

    /// Gives back what was received too early; the next receiving begins with it.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        let unread = &self.early[self.early_from..];
        self.early = [bytes, unread].concat();
        self.early_from = 0;
    }

    /// Returns true if an idle connection can carry a request: it is open, and the server has sent
    /// nothing that was not asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        if self.early_from < self.early.len() {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        self.poll_receive(&mut context, &mut [0]).is_pending()
    }
}

impl Drop for Connection {
    /// Says goodbye over TLS where that needs no waiting.
    fn drop(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
