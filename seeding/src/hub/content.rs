//! Bytes of one file on their way to a client: verified ones alone, as they land, in the order in which they are read.
//!
//! A piece is read on a thread where waiting for a disk is harmless, one piece ahead of the client. What is mapped in
//! memory already is not copied.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use loader::{LoadError, Region};
use thiserror::Error;

/// The bytes of a piece: large enough that a thread's turn is nothing beside it, small enough that many clients can
/// have two each.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces of one answer that are read at a time.
const AHEAD: usize = 2;

/// One file, wherever its bytes are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A small file, checked whole.
    Small(Bytes),
    /// A file whose extents may still be on their way.
    Region(Arc<Region>),
}

/// Errors in the middle of an answer: it ends there, and the client sees that it is not whole.
#[derive(Debug, Error)]
pub(super) enum ContentError {
    #[error("filling the cache")]
    Load(#[source] Arc<LoadError>),
    #[error("reading a cached file")]
    Read(#[source] std::io::Error),
    #[error("a cached file does not show what has arrived")]
    Hidden,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Region(region) => region.len(),
        }
    }

    /// The bytes of a range within the file.
    pub(super) fn stream(self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, ContentError>> + Send + 'static {
        let pieces = stream::iter(pieces(range));
        pieces.map(move |piece| self.clone().piece(piece)).buffered(AHEAD)
    }

    async fn piece(self, range: Range<u64>) -> Result<Bytes, ContentError> {
        match self {
            Self::Small(bytes) => Ok(bytes.slice(in_memory(&range))),
            Self::Region(region) => {
                region.ready(range.clone()).await.map_err(ContentError::Load)?;
                let read = tokio::task::spawn_blocking(move || read(region, in_memory(&range)));
                read.await.unwrap_or_else(|cause| Err(ContentError::Read(std::io::Error::other(cause))))
            }
        }
    }
}

/// A range in pieces that end where extents do.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> + Send {
    let mut from = range.start;
    std::iter::from_fn(move || {
        let piece = from..range.end.min((from / PIECE_BYTES + 1) * PIECE_BYTES);
        from = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn read(region: Arc<Region>, range: Range<usize>) -> Result<Bytes, ContentError> {
    let mut buffer = Vec::new();
    let is_in_memory = match region.read(range.clone(), &mut buffer).map_err(ContentError::Read)? {
        None => return Err(ContentError::Hidden),
        Some(bytes) => bytes.is_empty() || !buffer_holds(&region, &range, bytes),
    };
    Ok(if is_in_memory { Bytes::from_owner(View { region, range }) } else { buffer.into() })
}

/// Returns true if bytes that were read are not the mapping's own.
fn buffer_holds(region: &Region, range: &Range<usize>, bytes: &[u8]) -> bool {
    region.view(range.clone()).is_none_or(|view| !std::ptr::eq(view, bytes))
}

/// A verified range of a region, which stays mapped as long as this lives.
struct View {
    region: Arc<Region>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // What was seen once can always be seen.
        self.region.view(self.range.clone()).unwrap_or_default()
    }
}

/// Files are mapped, so their sizes are those of memory.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    let place = |at: u64| usize::try_from(at).expect("64-bit machines map any file");
    place(range.start)..place(range.end)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use wire::EXTENT_BYTES;

    async fn all(content: Content, range: Range<u64>) -> Vec<u8> {
        let pieces: Vec<Bytes> = content.stream(range).try_collect().await.unwrap();
        pieces.concat()
    }

    fn noise(bytes: u64) -> Vec<u8> {
        (0..bytes).map(|place| (place * 7 + place / 251) as u8).collect()
    }

    #[tokio::test]
    async fn every_kind_of_file_gives_the_range_that_is_asked_for() {
        let (directory, bytes) = (tempfile::tempdir().unwrap(), noise(EXTENT_BYTES + 3 * PIECE_BYTES + 11));
        let path = directory.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let filled = Region::anonymous("memory", bytes.len() as u64).unwrap();
        for (extent, piece) in (0..).zip(bytes.chunks(EXTENT_BYTES as usize)) {
            assert!(filled.fill_extent(extent, piece));
        }
        let kinds = [
            Content::Small(bytes.clone().into()),
            Content::Region(Region::map_file(&path).unwrap()),
            Content::Region(filled),
        ];
        for content in kinds {
            assert_eq!(content.len(), bytes.len() as u64);
            for range in
                [0..bytes.len() as u64, 5..5, 1..2, PIECE_BYTES - 1..PIECE_BYTES + 1, EXTENT_BYTES..bytes.len() as u64]
            {
                let expected = &bytes[range.start as usize..range.end as usize];
                assert!(all(content.clone(), range.clone()).await == expected, "{content:?} {range:?}");
            }
        }
    }

    #[tokio::test]
    async fn bytes_come_as_their_extents_are_verified_and_never_before() {
        let bytes = noise(2 * EXTENT_BYTES);
        let region = Region::anonymous("memory", bytes.len() as u64).unwrap();
        assert!(region.fill_extent(0, &bytes[..EXTENT_BYTES as usize]));
        let mut stream = Box::pin(Content::Region(Arc::clone(&region)).stream(0..bytes.len() as u64));
        let mut come = Vec::new();
        while come.len() < EXTENT_BYTES as usize {
            come.extend(stream.next().await.unwrap().unwrap());
        }
        assert_eq!(come.len(), EXTENT_BYTES as usize);
        assert!(futures_util::poll!(stream.next()).is_pending(), "the second extent is not there");
        assert!(region.fill_extent(1, &bytes[EXTENT_BYTES as usize..]));
        while let Some(piece) = stream.next().await {
            come.extend(piece.unwrap());
        }
        assert!(come == bytes);
    }

    #[tokio::test]
    async fn a_fill_that_fails_ends_the_answer() {
        let region = Region::anonymous("memory", EXTENT_BYTES).unwrap();
        let mut stream = Box::pin(Content::Region(Arc::clone(&region)).stream(0..1));
        region.fail(Arc::new(LoadError::Cancelled));
        assert!(matches!(stream.next().await, Some(Err(ContentError::Load(_)))));
    }
}
