//! One client's connection: its socket, and the clocks that end it.
//!
//! hyper knows one timer, for a request's head, which also runs while a connection is idle, and it
//! notices a client that left only once everything sent was read. Here each state has a clock of
//! its own (handshake, fresh, idle, head, writing), and a client that closed its side is seen by the socket's
//! readiness, whatever bytes are left unread.

use crate::config::Timeouts;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Bytes that a client must read within the write timeout, if so many wait.
const PROGRESS_BYTES: usize = 4 << 10;
/// How long a drain waits for the request of a client that has just connected.
const FRESH_GRACE: Duration = Duration::from_millis(250);
/// The first byte of a TLS connection, which no request begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reasons for ending a connection early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// No request came.
    Idle,
    /// A request's head did not end.
    Head,
    /// The client does not read on.
    Write,
    /// The client closed its side while its request was answered.
    ClientLeft,
    /// A TLS handshake did not end.
    Handshake,
    /// The connection is as old as it may be.
    Age,
    /// A client spoke TLS to a listener that does not.
    TlsToPlain,
    /// The client has its share of connections already.
    Crowded,
}

impl Ended {
    /// A stable word for metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Write => "write",
            Self::ClientLeft => "client_left",
            Self::Handshake => "handshake",
            Self::Age => "age",
            Self::TlsToPlain => "tls_to_plain",
            Self::Crowded => "crowded",
        }
    }
}

/// The activity of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A TLS handshake is under way.
    Handshake,
    /// Nothing came yet.
    Fresh,
    /// Between two requests.
    Idle,
    /// A head began.
    Head,
    /// A request is being answered.
    Busy,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Since when a write waits, and how much was written since.
    blocked: Option<(Instant, usize)>,
}

impl State {
    /// The reason why the connection is over, or the time to look again.
    fn look(&self, now: Instant, timeouts: &Timeouts) -> Result<Instant, Ended> {
        let clock = match (self.blocked, self.phase) {
            (_, Phase::Handshake) => Some((self.since + timeouts.handshake, Ended::Handshake)),
            (Some((since, _)), _) => Some((since + timeouts.write, Ended::Write)),
            (None, Phase::Fresh) => Some((self.since + timeouts.head, Ended::Idle)),
            (None, Phase::Head) => Some((self.since + timeouts.head, Ended::Head)),
            (None, Phase::Idle) => Some((self.since + timeouts.idle, Ended::Idle)),
            (None, Phase::Busy) => None,
        };
        match clock {
            Some((at, ended)) if at <= now => Err(ended),
            // A write may begin to wait, or a head to come, at any time.
            _ => {
                let soon = now + timeouts.write.min(timeouts.head).max(Duration::from_millis(4)) / 4;
                Ok(clock.map_or(soon, |(at, _)| at.min(soon)))
            }
        }
    }
}

/// The clocks of one connection, shared by its socket, its requests and its watch.
#[derive(Debug)]
pub(crate) struct Clocks {
    state: Mutex<State>,
    /// A request began.
    began: Notify,
    /// True if a client of a plain listener began with a TLS handshake.
    has_met_tls: AtomicBool,
}

impl Clocks {
    /// Starts the clocks of a connection, whose first is a handshake where `is_tls`.
    pub(crate) fn start(is_tls: bool) -> Arc<Self> {
        let phase = if is_tls { Phase::Handshake } else { Phase::Fresh };
        let state = State { phase, since: Instant::now(), blocked: None };
        Arc::new(Self { state: Mutex::new(state), began: Notify::new(), has_met_tls: AtomicBool::new(false) })
    }

    /// The handshake is over.
    pub(crate) fn established(&self) {
        self.turn_to(Phase::Fresh);
    }

    /// Returns true if the client took a plain listener for one with TLS.
    pub(crate) fn has_met_tls(&self) -> bool {
        self.has_met_tls.load(Ordering::Relaxed)
    }

    fn turn_to(&self, phase: Phase) {
        let mut state = self.state.lock();
        state.phase = phase;
        state.since = Instant::now();
    }

    /// A request's head is here. Until what this returns is dropped, the request is being answered.
    pub(crate) fn request(self: &Arc<Self>) -> Answering {
        self.turn_to(Phase::Busy);
        self.began.notify_one();
        Answering(Arc::clone(self))
    }

    /// Some bytes came, `first` before the others.
    fn read(&self, first: u8) {
        let mut state = self.state.lock();
        match state.phase {
            // The first head has no more time for having been waited for.
            Phase::Fresh => {
                state.phase = Phase::Head;
                self.has_met_tls.store(first == TLS_HANDSHAKE, Ordering::Relaxed);
            }
            Phase::Idle => {
                state.phase = Phase::Head;
                state.since = Instant::now();
            }
            Phase::Handshake | Phase::Head | Phase::Busy => {}
        }
    }

    fn wrote(&self, written: usize, waiting: usize) {
        let mut state = self.state.lock();
        if let Some((_, progress)) = &mut state.blocked {
            *progress += written;
            if *progress >= PROGRESS_BYTES || written == waiting {
                state.blocked = None;
            }
        }
    }

    fn write_waits(&self) {
        self.state.lock().blocked.get_or_insert_with(|| (Instant::now(), 0));
    }

    fn is_busy(&self) -> bool {
        self.state.lock().phase == Phase::Busy
    }

    /// Waits a moment for the first request of a new connection: it may be on its way.
    pub(crate) async fn spare_fresh(&self) {
        let is_fresh = matches!(self.state.lock().phase, Phase::Handshake | Phase::Fresh);
        if is_fresh {
            tokio::time::sleep(FRESH_GRACE).await;
        }
    }

    /// Waits until the connection is over.
    pub(crate) async fn watch(&self, socket: &TcpStream, timeouts: &Timeouts) -> Ended {
        let mut has_left = false;
        loop {
            let look = match self.state.lock().look(Instant::now(), timeouts) {
                Ok(look) => look,
                Err(ended) => return ended,
            };
            if has_left && self.is_busy() {
                return Ended::ClientLeft;
            }
            tokio::select! {
                () = sleep_until(look) => {}
                () = self.began.notified() => {}
                () = departure(socket), if !has_left => has_left = true,
            }
        }
    }
}

/// A request being answered.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Clocks>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.turn_to(Phase::Idle);
    }
}

/// Waits until the client closes its side. This interest is ready on a closed read side, and not on
/// unread bytes.
async fn departure(socket: &TcpStream) {
    // An error here is the socket's end as well.
    let _ = socket.ready(Interest::PRIORITY).await;
}

/// A response's body; once it is sent or dropped, the connection is idle.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    pub(crate) body: B,
    pub(crate) _answering: Answering,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the file that bytes are mapped from, and their place in it.
pub type FileBehind = for<'a> fn(&'a [u8]) -> Option<(BorrowedFd<'a>, u64)>;

/// Bytes below which a file is not worth a system call of its own.
const FILE_BYTES_MIN: usize = 32 << 10;

/// The socket as hyper sees it; its watch looks at the same one.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) clocks: Arc<Clocks>,
    /// Where files behind bytes are looked for, to be sent without a copy.
    pub(crate) files: Option<FileBehind>,
}

/// Sends bytes from the file that they are mapped from; copies them where its file system cannot do that.
fn send_file(stream: &TcpStream, file: BorrowedFd<'_>, mut offset: u64, bytes: &[u8]) -> io::Result<usize> {
    let sent = stream.try_io(Interest::WRITABLE, || {
        rustix::fs::sendfile(stream, file, Some(&mut offset), bytes.len()).map_err(io::Error::from)
    });
    match sent {
        Err(cause) if matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            stream.try_write(bytes)
        }
        sent => sent,
    }
}

impl Socket {
    fn file_behind<'a>(&self, bytes: &'a [u8]) -> Option<(BorrowedFd<'a>, u64)> {
        self.files.and_then(|find| find(bytes))
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        waiting: usize,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.clocks.write_waits();
                    return Poll::Pending;
                }
            }
            match write(&self.stream) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    if let Ok(written) = result {
                        self.clocks.wrote(written, waiting);
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match self.stream.try_read(unfilled) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => return Poll::Ready(Err(cause)),
                Ok(read) => {
                    if let Some(first) = unfilled[..read].first() {
                        self.clocks.read(*first);
                    }
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bytes.len(), |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let waiting = slices.iter().map(|slice| slice.len()).sum();
        let file = |slice: &io::IoSlice<'_>| slice.len() >= FILE_BYTES_MIN && self.file_behind(slice).is_some();
        match slices.iter().position(file) {
            Some(0) => self.poll_write_with(cx, waiting, |stream| match self.file_behind(&slices[0]) {
                Some((file, offset)) => send_file(stream, file, offset, &slices[0]),
                None => stream.try_write(&slices[0]),
            }),
            Some(before) => self.poll_write_with(cx, waiting, |stream| stream.try_write_vectored(&slices[..before])),
            None => self.poll_write_with(cx, waiting, |stream| stream.try_write_vectored(slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write) {
            // The peer is gone already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(cause) => Poll::Ready(Err(cause.into())),
        }
    }
}

/// Makes the system drop unread bytes on close, instead of keeping them for minutes.
pub(crate) fn discard_unread(socket: &TcpStream) {
    if let Err(cause) = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%cause, "setting SO_LINGER");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(30),
    };

    fn state(phase: Phase, blocked: Option<Instant>, since: Instant) -> State {
        State { phase, since, blocked: blocked.map(|since| (since, 0)) }
    }

    #[test]
    fn each_phase_has_its_clock() {
        let begun = Instant::now();
        let at = |s| begun + Duration::from_secs(s);
        for (phase, blocked, over) in [
            (Phase::Handshake, None, Some((5, Ended::Handshake))),
            (Phase::Handshake, Some(at(1)), Some((5, Ended::Handshake))),
            (Phase::Fresh, None, Some((10, Ended::Idle))),
            (Phase::Head, None, Some((10, Ended::Head))),
            (Phase::Idle, None, Some((75, Ended::Idle))),
            (Phase::Busy, None, None),
            (Phase::Busy, Some(at(5)), Some((35, Ended::Write))),
            (Phase::Idle, Some(at(50)), Some((80, Ended::Write))),
        ] {
            let state = state(phase, blocked, begun);
            for second in 0..200 {
                let look = state.look(at(second), &TIMEOUTS);
                match over {
                    Some((limit, ended)) if second >= limit => assert_eq!(look, Err(ended), "{phase:?} at {second}"),
                    _ => assert!(look.is_ok_and(|next| next > at(second)), "{phase:?} at {second}"),
                }
            }
        }
    }

    #[test]
    fn progress_is_four_kilobytes_or_all_that_waits() {
        let clocks = Clocks::start(false);
        let is_blocked = || clocks.state.lock().blocked.is_some();
        clocks.wrote(1, 2);
        assert!(!is_blocked());
        clocks.write_waits();
        clocks.wrote(4_000, 100_000);
        clocks.write_waits();
        assert!(is_blocked(), "a drip is no progress");
        clocks.wrote(96, 96_000);
        assert!(!is_blocked());
        clocks.write_waits();
        clocks.wrote(5, 5);
        assert!(!is_blocked(), "nothing waits");
    }
}
