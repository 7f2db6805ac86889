//! The body of extents: pieces straight from where they lie, at the pace of all bodies together.

use crate::meters::Meters;
use crate::offer::{Entry, numbers};
use crate::queue::Place;
use crate::served::Served;
use crate::upload::Upload;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use loader::Content;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use wire::extent::EXTENT_BYTES;

/// The bytes that are paced, and looked for on disk, at a time; it divides an extent.
const PIECE_BYTES: u64 = 256 << 10;

/// Extents on their way to a peer.
pub(crate) struct Sending {
    pub(crate) entry: Arc<Entry>,
    pub(crate) content: Arc<Content>,
    pub(crate) file: usize,
    /// The bytes that are left.
    pub(crate) bytes: Range<u64>,
    /// The places of the extents in the queue.
    pub(crate) place: Place,
    /// The peer's name, for people.
    pub(crate) peer: String,
    /// The peer's id, to send others to.
    pub(crate) member: Option<String>,
    pub(crate) upload: Arc<Upload>,
    pub(crate) served: Arc<Served>,
    pub(crate) meters: Meters,
}

impl Sending {
    pub(crate) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut sending| async move {
            if sending.bytes.is_empty() {
                return None;
            }
            let piece = sending.piece().await;
            Some((piece, sending))
        }))
    }

    /// The next piece, once it may be sent.
    async fn piece(&mut self) -> io::Result<Bytes> {
        let end = (self.bytes.start + PIECE_BYTES).min(self.bytes.end);
        let range = self.bytes.start..end;
        self.place.progress(Instant::now());
        if !self.upload.is_free() {
            self.place.paced(true, Instant::now());
            self.upload.take(range.end - range.start).await;
            self.place.paced(false, Instant::now());
        } else {
            self.upload.take(range.end - range.start).await;
        }
        if !self.content.is_resident(self.file, range.clone()) {
            self.bring(range.clone()).await?;
        }
        let piece = self.content.bytes(self.file, range.clone());
        let piece = piece.ok_or_else(|| io::Error::other("the extent is not here any more"))?;
        self.account(range);
        Ok(piece)
    }

    /// Reads a piece from disk, on a thread where waiting for it harms nobody.
    async fn bring(&self, range: Range<u64>) -> io::Result<()> {
        self.meters.disk_reads.inc();
        let (content, file) = (Arc::clone(&self.content), self.file);
        self.place.paced(true, Instant::now());
        let brought = tokio::task::spawn_blocking(move || content.bring(file, range)).await;
        self.place.paced(false, Instant::now());
        brought.map_err(io::Error::other)?
    }

    /// Counts a piece that is handed over, and its extent where that ends with it.
    fn account(&mut self, range: Range<u64>) {
        let bytes = range.end - range.start;
        self.meters.sent_bytes.inc_by(bytes);
        self.served.count(&self.peer, bytes, Instant::now());
        self.bytes.start = range.end;
        if range.end.is_multiple_of(EXTENT_BYTES) || self.bytes.is_empty() {
            self.place.sent_one();
            let extent = (range.end - 1) / EXTENT_BYTES;
            if let Some(member) = &self.member {
                self.entry.took(&numbers(&self.content, self.file, extent..extent + 1), member);
            }
        }
    }
}
