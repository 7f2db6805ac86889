//! One accepted connection, plain or under TLS: reading, writing, sending parts of files, waiting,
//! and resetting. It knows sockets and nothing of what goes through them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A reader that takes nothing, or a connection that asks nothing, for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// The socket itself, shared with whoever may have to shut it down.
#[derive(Debug, Clone)]
pub(super) struct Socket(pub(super) Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection.
pub(super) enum Wire {
    Plain(Socket),
    Secure(Socket, Box<StreamOwned<ServerConnection, Socket>>),
}

impl Wire {
    /// Readies an accepted socket; the TLS handshake happens at the first read.
    pub(super) fn new(socket: Socket, tls: Option<&Arc<ServerConfig>>, congestion: Option<&str>) -> io::Result<Self> {
        socket.0.set_nodelay(true)?;
        socket.0.set_read_timeout(Some(IDLE))?;
        socket.0.set_write_timeout(Some(IDLE))?;
        if let Some(name) = congestion {
            rustix::net::sockopt::set_tcp_congestion(&*socket.0, name)?;
        }
        let Some(config) = tls else { return Ok(Self::Plain(socket)) };
        let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self::Secure(socket.clone(), Box::new(StreamOwned::new(session, socket))))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) | Self::Secure(socket, _) => &socket.0,
        }
    }

    /// Writes a head whose body follows at once, so that both may share a packet.
    pub(super) fn write_head(&mut self, head: &[u8], body_follows: bool) -> io::Result<()> {
        let (Self::Plain(socket), true) = (&*self, body_follows) else { return self.write_all(head) };
        let mut left = head;
        while !left.is_empty() {
            let flags = rustix::net::SendFlags::MORE | rustix::net::SendFlags::NOSIGNAL;
            left = &left[rustix::net::send(&*socket.0, left, flags)?..];
        }
        Ok(())
    }

    /// Sends a part of a file, all of it: by the kernel alone where there is no TLS.
    pub(super) fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<()> {
        let Self::Plain(socket) = self else { return self.copy_file(file, offset, count) };
        let (mut at, end) = (offset, offset + count);
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::sendfile(&*socket.0, file, Some(&mut at), piece) {
                // The file has shrunk under us.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let mut piece = vec![0; 64 << 10];
        let (mut at, end) = (offset, offset + count);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
            file.read_exact_at(&mut piece[..step], at)?;
            self.write_all(&piece[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// Waits, for ever if no time is given; returns early when the other side is gone or we stop.
    pub(super) fn wait_or_gone(&self, time: Option<Duration>) {
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut watched = [PollFd::new(self.socket(), PollFlags::RDHUP)];
        // A failure to wait only ends the wait.
        let _ = poll(&mut watched, time.as_ref());
    }

    /// Makes closing this connection a reset (RST) instead of an orderly end.
    pub(super) fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
    }

    /// Ends the connection in order: what was sent arrives, and the other side reads the end. What
    /// it still sends is taken off, for closing over unread bytes would be a reset.
    pub(super) fn finish(&mut self) {
        if let Self::Secure(_, stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        let socket = self.socket();
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        let mut scratch = [0; 4096];
        for _ in 0..256 {
            match Read::read(&mut &*socket, &mut scratch) {
                Ok(count) if count > 0 => {}
                _ => break,
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Secure(_, stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Secure(_, stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Secure(_, stream) => stream.flush(),
        }
    }
}
