//! Reads frames from bytes, however the network cut them. It holds no more than one frame.

use super::bitmap::bytes_of;
use super::frame::{Frame, HEAD_BYTES, Role, STATE_BYTES, State, kind};
use super::{Bitmap, FRAME_BYTES_MAX, is_name};
use thiserror::Error;

/// Errors of a `have` body. The stream is unusable afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The payload is longer than a frame of its kind may have.
    #[error("a frame of kind {kind} has {bytes} bytes; {limit} are the most")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The payload is not what its kind has.
    #[error("a frame of kind {kind} cannot be read: {problem}")]
    Payload {
        /// The frame's kind.
        kind: u8,
        /// The problem.
        problem: &'static str,
    },
    /// An extent is not the model's.
    #[error("a frame names extent {extent}; the model has {extents}")]
    Extent {
        /// The extent.
        extent: u32,
        /// The number of the model's extents.
        extents: u32,
    },
}

/// An incremental decoder of the frames about one model.
#[derive(Debug)]
pub struct Decoder {
    extents: u32,
    /// The frame that is being read, its head included.
    held: Vec<u8>,
    /// Bytes to skip, of a kind that is not known.
    skip: usize,
}

impl Decoder {
    /// A decoder for a model of so many extents.
    #[must_use]
    pub const fn new(extents: u32) -> Self {
        Self { extents, held: Vec::new(), skip: 0 }
    }

    /// Returns true if part of a frame is held: at the end of a stream, a truncation.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.held.is_empty() || self.skip > 0
    }

    /// Takes the next bytes and hands each frame that they complete to `on_frame`.
    ///
    /// # Errors
    /// A frame that is too long, that cannot be read, or that names an extent which the model does not have.
    pub fn push(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame)) -> Result<(), FrameError> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            take(&mut self.held, HEAD_BYTES, &mut bytes);
            let Some(&[kind, _, _, _, a, b, c, d]) = self.held.first_chunk::<HEAD_BYTES>() else { return Ok(()) };
            let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let Some(limit) = self.limit(kind) else {
                check_length(kind, length, FRAME_BYTES_MAX)?;
                self.held.clear();
                self.skip = length;
                continue;
            };
            check_length(kind, length, limit)?;
            take(&mut self.held, HEAD_BYTES + length, &mut bytes);
            if self.held.len() < HEAD_BYTES + length {
                return Ok(());
            }
            let frame = self.read(kind, &self.held[HEAD_BYTES..]);
            self.held.clear();
            on_frame(frame?);
        }
    }

    /// The longest payload of a kind; none where it is not known.
    fn limit(&self, kind: u8) -> Option<usize> {
        match kind {
            kind::FULL => Some(bytes_of(self.extents).min(FRAME_BYTES_MAX)),
            // Each extent once, for which honest senders have no more.
            kind::ADD | kind::CLAIM | kind::UNCLAIM => {
                Some((self.extents as usize).saturating_mul(size_of::<u32>()).min(FRAME_BYTES_MAX))
            }
            kind::STATE | kind::BYE => Some(4 << 10),
            _ => None,
        }
    }

    fn read(&self, kind: u8, payload: &[u8]) -> Result<Frame, FrameError> {
        match kind {
            kind::FULL => Bitmap::from_bytes(payload.to_vec(), self.extents)
                .map(Frame::Full)
                .ok_or(FrameError::Payload { kind, problem: "its bits are not those of the model's extents" }),
            kind::ADD => self.list(kind, payload).map(Frame::Add),
            kind::CLAIM => self.list(kind, payload).map(Frame::Claim),
            kind::UNCLAIM => self.list(kind, payload).map(Frame::Unclaim),
            kind::STATE => state(payload)
                .map(Frame::State)
                .ok_or(FrameError::Payload { kind, problem: "it is too short, or its zone is not a name" }),
            _ => Ok(Frame::Bye),
        }
    }

    fn list(&self, kind: u8, payload: &[u8]) -> Result<Vec<u32>, FrameError> {
        let (numbers, rest) = payload.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(FrameError::Payload { kind, problem: "it ends within a number" });
        }
        let numbers = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let check = |extent| match extent < self.extents {
            true => Ok(extent),
            false => Err(FrameError::Extent { extent, extents: self.extents }),
        };
        numbers.map(check).collect()
    }
}

/// Moves bytes until `held` has `wanted`, or none are left.
fn take(held: &mut Vec<u8>, wanted: usize, bytes: &mut &[u8]) {
    let missing = wanted.saturating_sub(held.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(missing);
    held.extend_from_slice(taken);
    *bytes = rest;
}

const fn check_length(kind: u8, bytes: usize, limit: usize) -> Result<(), FrameError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(FrameError::TooLong { kind, bytes, limit }),
    }
}

/// Reads a state; later releases may have more behind it.
fn state(payload: &[u8]) -> Option<State> {
    let (head, rest) = payload.split_first_chunk::<STATE_BYTES>()?;
    let [role, _, _, _, a, b, c, d, rate @ .., length] = head;
    let zone = rest.get(..usize::from(*length))?;
    let zone = match zone {
        [] => None,
        _ => Some(std::str::from_utf8(zone).ok().filter(|zone| is_name(zone))?.to_owned()),
    };
    Some(State {
        role: Role::from_byte(*role),
        queue: u32::from_le_bytes([*a, *b, *c, *d]),
        bytes_per_second: u64::from_le_bytes(*rate),
        zone,
    })
}
