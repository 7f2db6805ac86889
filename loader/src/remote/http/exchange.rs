//! One request and its answer on one connection.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use tokio::time::timeout;

use super::body::Body;
use super::config::HttpConfig;
use super::connection::Connection;
use super::error::HttpError;
use super::head::{self, Framing, Head};
use super::metrics::InUse;
use super::request::head_bytes;
use super::target::Target;
use crate::landing::Landing;

/// The bytes received at a time while the head is not whole. Heads are 300 to 900 bytes; what of
/// the body comes along is copied once more, so this is small.
const HEAD_READ_BYTES: usize = 1024;

/// The reasons why there is no answer.
pub(super) enum Failure {
    /// The connection ended before any byte of an answer: if it came from the pool, the server
    /// had closed it meanwhile.
    Stale(io::Error),
    /// Anything else.
    Other(HttpError),
}

impl Failure {
    /// On a new connection nothing is stale: the server closed it on purpose.
    pub(super) fn on_new_connection(self, target: &Target) -> HttpError {
        match self {
            Self::Stale(error) => broken(target, "waiting for an answer", error),
            Self::Other(error) => error,
        }
    }
}

/// An answer whose head has come, on the connection that brings its body.
pub(super) struct Answer {
    pub head: Head,
    pub framing: Framing,
    pub target: Target,
    connection: Connection,
    body: Body,
    in_use: Option<InUse>,
}

/// Sends `request` and awaits the head of its answer.
pub(super) async fn exchange(
    mut connection: Connection,
    request: &Request<Bytes>,
    target: &Target,
    config: &HttpConfig,
) -> Result<Answer, Failure> {
    let within = config.first_byte_timeout();
    let both = async {
        let mut bytes = head_bytes(request, target, connection.proxy(), request.body().len());
        bytes.extend_from_slice(request.body());
        // The server may answer and close without reading all; its answer counts.
        let _ = connection.send(&bytes).await;
        receive_head(&mut connection, target, config).await
    };
    let head = timeout(within, both).await.unwrap_or_else(|_| {
        let host = target.to_string();
        Err(Failure::Other(HttpError::TimedOut { doing: "waiting for an answer of", host, after: within }))
    })?;
    let framing = head.framing(request.method());
    let framing = framing.map_err(|source| Failure::Other(HttpError::Head { host: target.to_string(), source }))?;
    let body = Body::new(framing, config.idle_timeout());
    Ok(Answer { head, framing, target: target.clone(), connection, body, in_use: None })
}

async fn receive_head(connection: &mut Connection, target: &Target, config: &HttpConfig) -> Result<Head, Failure> {
    let mut bytes = Vec::with_capacity(HEAD_READ_BYTES);
    loop {
        let parsed = head::parse(&bytes, config.head_bytes_max, config.head_fields_max);
        match parsed.map_err(|source| Failure::Other(HttpError::Head { host: target.to_string(), source }))? {
            // 100 Continue and 103 Early Hints come before the answer.
            Some((head, length)) if head.status.is_informational() => {
                bytes.drain(..length);
                continue;
            }
            Some((head, length)) => {
                connection.put_back(&bytes[length..]);
                return Ok(head);
            }
            None => {}
        }
        let filled = bytes.len();
        bytes.resize(filled + HEAD_READ_BYTES, 0);
        let received = connection.receive(&mut bytes[filled..]).await;
        let received = received.and_then(|count| if count > 0 { Ok(count) } else { Err(closed()) });
        let count = received.map_err(|error| match filled {
            0 => Failure::Stale(error),
            _ => Failure::Other(broken(target, "receiving an answer's head", error)),
        })?;
        bytes.truncate(filled + count);
    }
}

impl Answer {
    /// Keeps the leave to use a connection as long as the answer is being received.
    pub(super) fn holding(mut self, in_use: InUse) -> Self {
        self.in_use = Some(in_use);
        self
    }

    /// Receives the body into `landing`: the object's bytes from the landing's position to `end`.
    pub(super) async fn land(&mut self, landing: &mut Landing, end: u64) -> Result<(), HttpError> {
        let doing = "receiving a body";
        while landing.position() < end {
            let missing = end - landing.position();
            let buffer = landing.buffer();
            let room = buffer.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            let received = self.body.receive(&mut self.connection, &mut buffer[..room]).await;
            match received.map_err(|error| broken(&self.target, doing, error))? {
                0 => return Err(broken(&self.target, doing, closed())),
                count => landing.filled(count).await?,
            }
        }
        // Of a body in chunks, the last chunk is still to come.
        let surplus = self.body.receive(&mut self.connection, &mut [0]).await;
        match surplus.map_err(|error| broken(&self.target, doing, error))? {
            0 => Ok(()),
            _ => Err(HttpError::Protocol { problem: "more bytes came than were asked for".to_owned() }),
        }
    }

    /// Returns true if the body is said to be at most `bytes_max` long.
    pub(super) fn is_short(&self, bytes_max: usize) -> bool {
        matches!(self.framing, Framing::Length(length) if length <= bytes_max as u64)
    }

    /// Receives more of the body; 0 at its end.
    pub(super) async fn receive(&mut self, into: &mut [u8]) -> Result<usize, HttpError> {
        let received = self.body.receive(&mut self.connection, into).await;
        received.map_err(|error| broken(&self.target, "receiving an answer", error))
    }

    /// The whole body, if it is at most `bytes_max` long.
    pub(super) async fn collect(&mut self, bytes_max: usize) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        let fits = self.append(&mut bytes, bytes_max).await;
        if fits.map_err(|error| broken(&self.target, "receiving an answer", error))? {
            return Ok(bytes);
        }
        let problem = format!("{} sent an answer longer than {bytes_max} bytes", self.target);
        Err(HttpError::Protocol { problem })
    }

    /// The body's beginning, as far as it comes in time; nothing else of an error's body matters.
    pub(super) async fn beginning(&mut self, bytes_max: usize, within: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = timeout(within, self.append(&mut bytes, bytes_max)).await;
        bytes
    }

    /// Receives into `bytes` until the body is whole, or there are more than `bytes_max`: false.
    async fn append(&mut self, bytes: &mut Vec<u8>, bytes_max: usize) -> io::Result<bool> {
        let mut piece = vec![0; bytes_max.clamp(1, 16 << 10)];
        loop {
            let room = piece.len().min(bytes_max - bytes.len()).max(1);
            let count = self.body.receive(&mut self.connection, &mut piece[..room]).await?;
            if count == 0 || bytes.len() + count > bytes_max {
                return Ok(count == 0);
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    }

    /// The head, and the connection if it can carry another request.
    pub(super) fn into_parts(self) -> (Parts, Target, Option<Connection>) {
        let again = self.body.is_whole() && self.framing != Framing::UntilClose && self.head.keeps_alive();
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.version, parts.headers) = (self.head.status, self.head.version, self.head.headers);
        (parts, self.target, again.then_some(self.connection))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")
}

fn broken(target: &Target, doing: &'static str, source: io::Error) -> HttpError {
    HttpError::Broken { host: target.to_string(), doing, source }
}
