//! The first bytes of a connection to a TLS listener: a handshake, or a client that takes it for plain HTTP.

use http::StatusCode;
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use wire::openai::{ApiError, ErrorKind};

/// The most bytes that are read of a client that was refused, for it to see why.
const UNREAD_BYTES_MAX: usize = 64 << 10;

/// Reasons why a handshake comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client spoke HTTP without TLS.
    PlainHttp,
    /// It went away.
    ClientLeft,
    /// It brought no certificate.
    NoCertificate,
    /// Its certificate is not valid, or none of a known authority.
    BadCertificate,
    /// It refused ours, or what we offer.
    RefusedByClient,
    /// It sent no handshake of a version and kind that we speak.
    Protocol,
}

impl Failure {
    /// A stable word for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::ClientLeft => "client_left",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByClient => "refused_by_client",
            Self::Protocol => "protocol",
        }
    }

    fn of(cause: &io::Error) -> Self {
        let library = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match library {
            None => Self::ClientLeft,
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::InvalidCertificate(_)) => Self::BadCertificate,
            Some(rustls::Error::AlertReceived(_)) => Self::RefusedByClient,
            Some(_) => Self::Protocol,
        }
    }
}

/// Shakes hands over `socket`, which is that of `stream`. The time it takes is bounded by the caller.
pub(crate) async fn accept<S>(
    config: Arc<ServerConfig>,
    mut socket: S,
    stream: &TcpStream,
) -> Result<TlsStream<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Failure::ClientLeft),
        // Methods are letters; no record of TLS begins with one.
        Ok(_) if first[0].is_ascii_alphabetic() => {
            let _ = answer_plainly(&mut socket).await;
            return Err(Failure::PlainHttp);
        }
        Ok(_) => {}
    }
    match TlsAcceptor::from(config).accept(socket).into_fallible().await {
        Ok(accepted) => Ok(accepted),
        Err((cause, mut socket)) => {
            tracing::debug!(%cause, "a handshake failed");
            // The library has written an alert, by which the client learns why.
            let _ = close_gently(&mut socket).await;
            Err(Failure::of(&cause))
        }
    }
}

/// Tells a client of plain HTTP what it does wrong.
async fn answer_plainly<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> io::Result<()> {
    let message = "this port speaks TLS; write https:// in the URL";
    let body = ApiError::new(ErrorKind::InvalidRequest, message).to_json();
    let status = StatusCode::BAD_REQUEST;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(&[head.as_bytes(), body.as_ref()].concat()).await?;
    close_gently(socket).await
}

/// Closes our side, and reads on until the client has closed its own: a socket closed before all was read takes the
/// last bytes that it sent back.
async fn close_gently<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> io::Result<()> {
    socket.shutdown().await?;
    let mut bytes = [0; 4096];
    let mut read = 0;
    while read < UNREAD_BYTES_MAX {
        match socket.read(&mut bytes).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}
