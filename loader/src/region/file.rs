//! Writing a file that is being filled: through the page cache, or past it.
//!
//! Through it, the bytes are at once what the mapping shows, and the kernel writes them to disk when
//! it sees fit. Past it (O_DIRECT), they go to the disk from where they are: no page is allocated
//! and none copied. That is for bytes that nobody is about to read. Knows no extents.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What direct writes are aligned to: a page, which every file system that takes them accepts or
/// refuses as a whole.
const ALIGNMENT: u64 = 4096;

/// A file that is being filled.
#[derive(Debug)]
pub(super) struct FilledFile {
    file: File,
    direct: Option<File>,
    /// Writers through the page cache take turns: the kernel has them spin for each other.
    turn: Mutex<()>,
}

impl FilledFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, direct: None, turn: Mutex::new(()) }
    }

    /// The file at `path`, which `file` is as well; through the page cache where there is no other
    /// way.
    pub(super) fn past_page_cache(file: File, path: &Path) -> Self {
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        Self { direct, ..Self::new(file) }
    }

    /// Whether what is written stays in the page cache.
    pub(super) fn is_cached(&self) -> bool {
        self.direct.is_none()
    }

    /// Writes `bytes` where they belong in the file; blocks.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| is_aligned(bytes, at)) {
            match direct.write_all_at(bytes, at) {
                // Its pages or blocks are larger than ours.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, at)
    }

    /// Keeps every write waiting while the guard lives.
    #[cfg(test)]
    pub(super) fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_aligned(bytes: &[u8], at: u64) -> bool {
    [bytes.as_ptr().addr() as u64, bytes.len() as u64, at].iter().all(|place| place.is_multiple_of(ALIGNMENT))
}
