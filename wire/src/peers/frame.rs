//! Frames of a `have` body: `u8` kind, `u8` flags, two bytes of zero, `u32` bytes of payload, payload; little-endian.
//!
//! | kind | payload |
//! |---|---|
//! | 1 *full* | a bitmap: the extents that are here |
//! | 2 *add*, 3 *claim*, 4 *unclaim* | `u32` extents: now here; asked from the origin; no longer |
//! | 5 *state* | `u8` role, three bytes of zero, `u32` queue, `u64` rate, `u8` length of the zone, zone |
//! | 6 *bye* | none |
//!
//! Flags mean nothing yet. Later releases may add kinds, flags, and fields behind those of *state* and *bye*.

use super::{Bitmap, FRAME_BYTES_MAX, NAME_BYTES_MAX};

/// The bytes before a payload.
pub(super) const HEAD_BYTES: usize = 8;
/// The bytes of a state before its zone's name.
pub(super) const STATE_BYTES: usize = 17;

/// The numbers of the kinds.
pub(super) mod kind {
    pub(in super::super) const FULL: u8 = 1;
    pub(in super::super) const ADD: u8 = 2;
    pub(in super::super) const CLAIM: u8 = 3;
    pub(in super::super) const UNCLAIM: u8 = 4;
    pub(in super::super) const STATE: u8 = 5;
    pub(in super::super) const BYE: u8 = 6;
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The extents that are here; those of earlier frames are forgotten.
    Full(Bitmap),
    /// Extents that are here now.
    Add(Vec<u32>),
    /// Extents that the sender has asked from the origin.
    Claim(Vec<u32>),
    /// Claims that are off.
    Unclaim(Vec<u32>),
    /// The sender's state. It is also the heartbeat.
    State(State),
    /// The sender serves no more.
    Bye,
}

/// The state of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The sender's business.
    pub role: Role,
    /// Extents that wait to be sent, to all askers together.
    pub queue: u32,
    /// The rate at which it may send, to all askers together, in bytes per second; the largest number without a bound.
    pub bytes_per_second: u64,
    /// Its zone, if it knows it.
    pub zone: Option<String>,
}

/// The business of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A worker that is still loading these weights.
    Loading,
    /// A worker that serves requests with them.
    Serving,
    /// A node that keeps and shares them.
    Node,
    /// It ends.
    Draining,
    /// A later release's word.
    Other(u8),
}

impl Role {
    pub(super) const fn to_byte(self) -> u8 {
        match self {
            Self::Loading => 1,
            Self::Serving => 2,
            Self::Node => 3,
            Self::Draining => 4,
            Self::Other(byte) => byte,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Loading,
            2 => Self::Serving,
            3 => Self::Node,
            4 => Self::Draining,
            _ => Self::Other(byte),
        }
    }
}

impl Frame {
    /// Appends the frame to `out`; lists that are too long for one become several.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Full(bitmap) => push(out, kind::FULL, bitmap.as_bytes()),
            Self::Add(extents) => push_list(out, kind::ADD, extents),
            Self::Claim(extents) => push_list(out, kind::CLAIM, extents),
            Self::Unclaim(extents) => push_list(out, kind::UNCLAIM, extents),
            Self::State(state) => push(out, kind::STATE, &state.to_bytes()),
            Self::Bye => push(out, kind::BYE, &[]),
        }
    }
}

impl State {
    /// A zone whose name is too long is left out.
    fn to_bytes(&self) -> Vec<u8> {
        let zone = self.zone.as_deref().filter(|zone| zone.len() <= NAME_BYTES_MAX).unwrap_or_default();
        let mut bytes = vec![self.role.to_byte(), 0, 0, 0];
        bytes.extend_from_slice(&self.queue.to_le_bytes());
        bytes.extend_from_slice(&self.bytes_per_second.to_le_bytes());
        bytes.push(u8::try_from(zone.len()).unwrap_or(0));
        bytes.extend_from_slice(zone.as_bytes());
        bytes
    }
}

fn push_list(out: &mut Vec<u8>, kind: u8, extents: &[u32]) {
    for part in extents.chunks(FRAME_BYTES_MAX / size_of::<u32>()) {
        push_head(out, kind, size_of_val(part));
        out.extend(part.iter().flat_map(|extent| extent.to_le_bytes()));
    }
}

fn push(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    push_head(out, kind, payload.len());
    out.extend_from_slice(payload);
}

fn push_head(out: &mut Vec<u8>, kind: u8, payload: usize) {
    let length = u32::try_from(payload).unwrap_or(u32::MAX);
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&length.to_le_bytes());
}
