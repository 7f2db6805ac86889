//! The protocol by which peers give each other weights: paths, headers, frames and refusals.
//!
//! | request | answer |
//! |---|---|
//! | `GET /weights/{root}/manifest` | the manifest's text; the root proves it |
//! | `GET /weights/{root}/files/{n}`, `Range: bytes=a-b` | 206: whole extents of file `n` of the manifest |
//! | `GET /weights/{root}/have` | an endless body of [frames](Frame) |
//! | `GET /weights/{key}/attested` | a manifest that the sender computed, of files that are known by digests of the whole |
//!
//! Every request and answer has [`VERSION_HEADER`]. Releases that differ by one understand each other: a reader skips
//! kinds of frames that it does not know, and bytes after the fields that it knows.
//!
//! Nothing here sends, receives or decides who may have what.

mod bitmap;
mod decoder;
mod frame;
mod layout;
mod path;
mod range;
mod refusal;
mod version;

pub use bitmap::Bitmap;
pub use decoder::{Decoder, FrameError};
pub use frame::{Frame, Role, State};
pub use layout::{ExtentId, Layout};
pub use path::{Path, Resource};
pub use range::{RangeError, content_range, parse_content_range, parse_range, range_header};
pub use refusal::{Others, Refusal};
pub use version::{VERSION, agree};

use std::time::Duration;

/// The protocol's version, a number: the newest that the asker speaks; of an answer, the one that it is in.
pub const VERSION_HEADER: &str = "forebay-protocol";
/// On a request: the asker's own id in its membership, so that others can be sent to it. A hint, believed by nobody
/// who does not know the id already.
pub const MEMBER_HEADER: &str = "forebay-member";
/// On a request: a capability, where the right does not follow from the certificate.
pub const CAPABILITY_HEADER: &str = "forebay-capability";
/// On a 503: milliseconds after which asking again makes sense, more exactly than `Retry-After` can say.
pub const RETRY_AFTER_MS_HEADER: &str = "forebay-retry-after-ms";
/// On a 503: ids of members that took this extent, comma separated.
pub const OTHERS_HEADER: &str = "forebay-peers";

/// The media type of a `have` body.
pub const HAVE_TYPE: &str = "application/vnd.forebay.have";
/// The media type of extents.
pub const EXTENTS_TYPE: &str = "application/octet-stream";

/// The most extents of one request.
pub const REQUEST_EXTENTS_MAX: u64 = 4;
/// The most bytes of one frame's payload.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The longest name of a zone or a member, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The most members that one refusal names.
pub const OTHERS_MAX: usize = 8;

/// The longest silence of a sender of frames: it sends its state again after so long.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// The silence after which a sender of frames is taken for dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(6);
/// The time for which changes are collected into one frame.
pub const COALESCE: Duration = Duration::from_millis(10);

/// Returns true for a name that may stand in a header and in a log: printable, and not a list.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests;
