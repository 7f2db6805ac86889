//! Writing a file that is being filled: through the page cache, or past it.
//!
//! Through it, the bytes are at once what the mapping shows, and the kernel writes them to disk when
//! it sees fit. Past it (O_DIRECT), they go to the disk from where they are: no page is allocated
//! and none copied. That is for bytes that nobody is about to read. Knows no extents.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The alignment of direct writes: a page, which every file system that takes them accepts or
/// refuses as a whole.
const ALIGNMENT: u64 = 4096;

/// The bytes written to a file, by way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Past the page cache.
    pub(crate) direct_bytes: u64,
    /// Through it.
    pub(crate) cached_bytes: u64,
}

/// The message where a file is to be written past the page cache and cannot be.
const NO_DIRECT: &str = "this file system takes no direct writes: what is loaded goes through the page cache";

/// A file that is being filled.
#[derive(Debug)]
pub(super) struct FilledFile {
    file: File,
    direct: Option<File>,
    /// A direct write was refused: from then on all goes through the page cache.
    is_refused: AtomicBool,
    direct_bytes: AtomicU64,
    cached_bytes: AtomicU64,
    /// Writers through the page cache take turns: the kernel has them spin for each other.
    turn: Mutex<()>,
}

impl FilledFile {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            direct: None,
            is_refused: AtomicBool::new(false),
            direct_bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
            turn: Mutex::new(()),
        }
    }

    /// The file at `path`, which `file` is as well; through the page cache where there is no other
    /// way, which is said.
    pub(super) fn past_page_cache(file: File, path: &Path) -> Self {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
        if let Err(cause) = &opened {
            tracing::info!(path = %path.display(), %cause, "{NO_DIRECT}");
        }
        Self { direct: opened.ok(), ..Self::new(file) }
    }

    /// Returns true if what is written stays in the page cache.
    pub(super) fn is_cached(&self) -> bool {
        self.direct.is_none() || self.is_refused.load(Ordering::Relaxed)
    }

    /// The bytes written since the last call.
    pub(super) fn take_written(&self) -> Written {
        let take = |bytes: &AtomicU64| bytes.swap(0, Ordering::Relaxed);
        Written { direct_bytes: take(&self.direct_bytes), cached_bytes: take(&self.cached_bytes) }
    }

    /// Writes `bytes` where they belong in the file; blocks.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let length = bytes.len() as u64;
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.is_cached() && is_aligned(bytes, at)) {
            match direct.write_all_at(bytes, at) {
                // Its pages or blocks are larger than ours.
                Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => {
                    if !self.is_refused.swap(true, Ordering::Relaxed) {
                        tracing::info!(%cause, "{NO_DIRECT}");
                    }
                }
                result => {
                    self.direct_bytes.fetch_add(if result.is_ok() { length } else { 0 }, Ordering::Relaxed);
                    return result;
                }
            }
        }
        let _turn = self.turn.lock();
        self.file.write_all_at(bytes, at)?;
        self.cached_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Reads what was written, through the page cache; blocks.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Keeps every write waiting while the guard lives.
    #[cfg(test)]
    pub(super) fn turn(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.turn.lock()
    }
}

fn is_aligned(bytes: &[u8], at: u64) -> bool {
    [bytes.as_ptr().addr() as u64, bytes.len() as u64, at].iter().all(|place| place.is_multiple_of(ALIGNMENT))
}
