//! Reading mapped files from disk at the disk's speed: many pages at once, in the order in which
//! they will be wanted, looked at once on the way.
//!
//! Touching a mapping page by page waits for the disk at every readahead window, and has the kernel
//! map what it reads. System calls for large pieces, from several threads, keep the disk's queue
//! full; the bytes are looked at in a buffer that stays in the processor's cache, and the mapping
//! shows the same pages (measured: docs/performance.md). This file knows neither what the bytes
//! mean nor whom to believe.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use wire::extent;

use crate::{LoadError, Region};

/// The number of pieces read at once. Four pieces of one extent saturate the disks tried; more
/// only spreads the order of arrival.
pub(crate) const READERS: usize = 4;

/// One extent of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileExtent {
    /// Which of the files.
    pub file: usize,
    /// Which extent of it.
    pub extent: u64,
}

/// A callback for each piece: the piece, its range in the file, and its bytes.
pub type Look<'a> = dyn Fn(&FileExtent, Range<u64>, &[u8]) -> Result<(), LoadError> + Sync + 'a;

/// Every extent of every file, in file order.
#[must_use]
pub(crate) fn all_extents(files: &[Arc<Region>]) -> Vec<FileExtent> {
    let of = |(file, region): (usize, &Arc<Region>)| {
        (0..extent::count(region.len())).map(move |extent| FileExtent { file, extent })
    };
    files.iter().enumerate().flat_map(of).collect()
}

/// Reads all pieces in order, several at once, and shows each to `look`, which runs on the reading
/// threads. Blocks until all are read, `look` fails, or `cancelled` is set (which is no error).
///
/// # Errors
/// The first error of `look`.
pub fn read(
    files: &[Arc<Region>],
    pieces: &[FileExtent],
    cancelled: &AtomicBool,
    look: &Look<'_>,
) -> Result<(), LoadError> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let is_over = || cancelled.load(Ordering::Relaxed) || failed.lock().is_some();
    let work = || {
        let mut buffer = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !is_over()) {
            if let Err(error) = read_piece(files, piece, &mut buffer, look) {
                failed.lock().get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..READERS.min(pieces.len()) {
            scope.spawn(work);
        }
    });
    failed.lock().take().map_or(Ok(()), Err)
}

fn read_piece(
    files: &[Arc<Region>],
    piece: &FileExtent,
    buffer: &mut Vec<u8>,
    look: &Look<'_>,
) -> Result<(), LoadError> {
    let region = &files[piece.file];
    let range = extent::range(region.len(), piece.extent).unwrap_or_default();
    let bytes = region.read(range.start as usize..range.end as usize, buffer);
    match bytes.map_err(|source| LoadError::ReadFile { path: region.name().into(), source })? {
        Some(bytes) => look(piece, range, bytes),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use wire::extent::EXTENT_BYTES;

    fn files(directory: &tempfile::TempDir, sizes: &[u64]) -> Vec<Arc<Region>> {
        let make = |(number, bytes): (usize, &u64)| {
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, vec![number as u8 + 1; *bytes as usize]).unwrap();
            Region::map_file(&path).unwrap()
        };
        sizes.iter().enumerate().map(make).collect()
    }

    #[test]
    fn every_byte_is_looked_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let sizes = [2 * EXTENT_BYTES + 5, 0, 7, EXTENT_BYTES];
        let files = files(&directory, &sizes);
        let (seen, sum) = (AtomicU64::new(0), AtomicU64::new(0));
        read(&files, &all_extents(&files), &AtomicBool::new(false), &|piece, range, bytes| {
            assert_eq!(range.end - range.start, bytes.len() as u64);
            assert!(bytes.iter().all(|byte| *byte as usize == piece.file + 1));
            seen.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!((seen.into_inner(), sum.into_inner()), (5, sizes.iter().sum()));
    }

    #[test]
    fn the_first_error_ends_it_and_a_cancel_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(&directory, &[40 * EXTENT_BYTES]);
        let seen = AtomicU64::new(0);
        let refuse = |_: &FileExtent, _: Range<u64>, _: &[u8]| {
            seen.fetch_add(1, Ordering::Relaxed);
            Err(LoadError::NoTensor { name: "x".into() })
        };
        assert!(read(&files, &all_extents(&files), &AtomicBool::new(false), &refuse).is_err());
        assert!(seen.into_inner() <= READERS as u64 * 2);
        read(&files, &all_extents(&files), &AtomicBool::new(true), &|_, _, _| panic!("cancelled")).unwrap();
    }
}
