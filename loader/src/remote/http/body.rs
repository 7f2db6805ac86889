//! Bodies: receiving exactly what the head promised, in place, chunked or not (RFC 9112 §6–7).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::connection::Connection;
use super::head::{Framing, chunk_length};

/// The longest line between chunks, and the most lines after the last one. Their content is of no
/// interest; these bound it to 8 KiB.
const LINE_BYTES_MAX: usize = 256;
const TRAILER_LINES_MAX: usize = 32;
/// The bytes received at a time while looking for the end of a line.
const LINE_READ_BYTES: usize = 64;
/// Silence is noticed in steps of this part of the time it may last.
const STEPS: u32 = 4;

/// A body that is being received.
pub(super) struct Body {
    left: Left,
    silence: Silence,
}

/// The rest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Bytes(u64),
    /// Of this chunk.
    Chunk(u64),
    /// A chunk's length; after the first chunk, a line's end comes before it.
    ChunkLength {
        first: bool,
    },
    UntilClose,
}

impl Body {
    /// A body framed so; an error if no byte comes for `idle_timeout`.
    pub(super) fn new(framing: Framing, idle_timeout: Duration) -> Self {
        let left = match framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(bytes) => Left::Bytes(bytes),
            Framing::Chunked => Left::ChunkLength { first: true },
            Framing::UntilClose => Left::UntilClose,
        };
        Self { left, silence: Silence::new(idle_timeout) }
    }

    /// Returns true if all has come.
    pub(super) fn is_whole(&self) -> bool {
        self.left == Left::Nothing
    }

    /// Receives into `into`, which has room: the count of bytes, 0 once the body is whole.
    pub(super) async fn receive(&mut self, connection: &mut Connection, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.left {
                Left::Nothing => return Ok(0),
                Left::Bytes(left) | Left::Chunk(left) => {
                    let room = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = self.silence.receive(connection, &mut into[..room]).await?;
                    if count == 0 {
                        return Err(cut_short());
                    }
                    self.advance(left - count as u64);
                    return Ok(count);
                }
                Left::ChunkLength { first } => self.begin_chunk(connection, first).await?,
                Left::UntilClose => {
                    let count = self.silence.receive(connection, into).await?;
                    if count == 0 {
                        self.left = Left::Nothing;
                    }
                    return Ok(count);
                }
            }
        }
    }

    fn advance(&mut self, left: u64) {
        self.left = match self.left {
            Left::Chunk(_) if left == 0 => Left::ChunkLength { first: false },
            Left::Chunk(_) => Left::Chunk(left),
            _ if left == 0 => Left::Nothing,
            _ => Left::Bytes(left),
        };
    }

    async fn begin_chunk(&mut self, connection: &mut Connection, first: bool) -> io::Result<()> {
        if !first && !self.line(connection).await?.is_empty() {
            return Err(wrong("a chunk is longer than it said"));
        }
        let line = self.line(connection).await?;
        let length = chunk_length(&line).ok_or_else(|| wrong("a chunk without a length"))?;
        self.left = Left::Chunk(length);
        if length == 0 {
            self.trailer(connection).await?;
            self.left = Left::Nothing;
        }
        Ok(())
    }

    async fn trailer(&mut self, connection: &mut Connection) -> io::Result<()> {
        for _ in 0..TRAILER_LINES_MAX {
            if self.line(connection).await?.is_empty() {
                return Ok(());
            }
        }
        Err(wrong("too many fields after the last chunk"))
    }

    /// The next line, without its end.
    async fn line(&mut self, connection: &mut Connection) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.len() <= LINE_BYTES_MAX {
            let mut piece = [0; LINE_READ_BYTES];
            let count = self.silence.receive(connection, &mut piece).await?;
            if count == 0 {
                return Err(cut_short());
            }
            let from = line.len();
            line.extend_from_slice(&piece[..count]);
            if let Some(end) = line[from..].iter().position(|byte| *byte == b'\n') {
                connection.put_back(&line[from + end + 1..]);
                line.truncate(from + end);
                line.pop_if(|byte| *byte == b'\r');
                return Ok(line);
            }
        }
        Err(wrong("a line between chunks is too long"))
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it before the body was whole")
}

fn wrong(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Notices that nothing comes. One timer for a whole body, looked at only when it fires: setting
/// it anew for every receipt would cost more than the receipt.
struct Silence {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    quiet_steps: u32,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(sleep(limit / STEPS)), quiet_steps: 0 }
    }

    async fn receive(&mut self, connection: &mut Connection, into: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            let received = connection.poll_receive(context, into);
            if received.is_ready() {
                self.quiet_steps = 0;
                return received;
            }
            self.poll_too_long(context).map(|()| {
                let problem = format!("no byte came for {} ms", self.limit.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, problem))
            })
        })
        .await
    }

    fn poll_too_long(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            // The first step may have begun before the last receipt: one more than the whole.
            if self.quiet_steps >= STEPS {
                return Poll::Ready(());
            }
            self.quiet_steps += 1;
            self.timer.as_mut().reset(Instant::now() + self.limit / STEPS);
        }
        Poll::Pending
    }
}
