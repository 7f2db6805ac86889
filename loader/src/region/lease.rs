//! A stretch of a region's memory that one writer has for itself, until it is verified.
//!
//! This is what makes receiving in place sound: readers see only verified extents, a lease covers
//! none, and no two leases overlap. It knows no network and no digest.
#![expect(unsafe_code, reason = "hands out the part of a shared mapping that nobody else can see")]

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use wire::extent::EXTENT_BYTES;

use super::Region;

/// Exclusive use of some whole extents of a region. What is not published when it drops is free
/// to be leased again.
pub struct Lease {
    region: Arc<Region>,
    /// What was leased, in bytes of the object.
    range: Range<u64>,
    /// What is still unpublished: everything from here to the range's end.
    open_from: u64,
    /// What was received and is not yet in the file; none where memory is written in place.
    window: Option<Window>,
}

/// A file is written by system calls, a window at a time, and only read through its mapping:
/// writing dirty pages of a *mapping* to disk costs an interrupt on every processor for every page
/// (measured: docs/performance.md).
struct Window {
    bytes: Vec<u8>,
    /// Where in the object the window begins.
    from: u64,
}

impl Lease {
    pub(super) fn new(region: Arc<Region>, range: Range<u64>) -> Self {
        let open_from = range.start;
        let window = region.file().is_some().then(|| Window { bytes: pool::take(), from: open_from });
        Self { region, range, open_from, window }
    }

    /// What was leased, in bytes of the object.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The region it is a part of.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where to write next: `within`, counted from the lease's start, or the beginning of it. It
    /// lies beyond what is published, and begins where the last write ended, or at an extent.
    pub fn bytes_mut(&mut self, within: Range<usize>) -> &mut [u8] {
        let (start, length) = self.check(&within);
        if let Some(window) = &mut self.window {
            let at = self.range.start + within.start as u64;
            let offset =
                usize::try_from(at.wrapping_sub(window.from)).ok().filter(|offset| *offset < window.bytes.len());
            let offset = offset.unwrap_or_else(|| {
                window.from = at;
                0
            });
            let end = (offset + length).min(window.bytes.len());
            return &mut window.bytes[offset..end];
        }
        // SAFETY: the memory is the mapping's (checked) and may be written (there is no file),
        // nobody else writes it (no two leases overlap) and nobody reads it (its extents are not
        // verified: views are refused), for as long as `self` is borrowed, since publishing needs
        // `self` too.
        unsafe { std::slice::from_raw_parts_mut(self.region.writable().wrapping_add(start), length) }
    }

    /// What was written, `within` counted from the lease's start; it lies beyond what is
    /// published. Of a file, what is settled, or what is not settled.
    #[must_use]
    pub fn bytes(&self, within: Range<usize>) -> &[u8] {
        let (start, length) = self.check(&within);
        if let Some(window) = &self.window {
            let at = self.range.start + within.start as u64;
            if at >= window.from {
                let offset = (at - window.from) as usize;
                return &window.bytes[offset..offset + length];
            }
        }
        // SAFETY: as for `bytes_mut`; writing needs `&mut self`, so nothing changes meanwhile. A
        // file's bytes before the window are settled, and its pages are those that were written.
        unsafe { std::slice::from_raw_parts(self.region.readable().wrapping_add(start), length) }
    }

    /// Says that everything up to `end`, counted from the lease's start, was written, and puts it
    /// in place: at an extent's end, or when the window is full.
    ///
    /// # Errors
    /// What the system said of writing the file.
    pub fn settle(&mut self, end: usize) -> std::io::Result<()> {
        let Some(window) = &mut self.window else { return Ok(()) };
        let end = self.range.start + end as u64;
        let length = usize::try_from(end.saturating_sub(window.from)).unwrap_or_default();
        let is_due = length == window.bytes.len() || end == self.range.end || end.is_multiple_of(EXTENT_BYTES);
        if is_due && let Some(file) = self.region.file() {
            file.write_all_at(&window.bytes[..length], window.from)?;
            window.from = end;
        }
        Ok(())
    }

    /// Writes `bytes` at the lease's first unpublished extent.
    ///
    /// # Errors
    /// What the system said of writing the file.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let begin = (self.open_from - self.range.start) as usize;
        let mut done = 0;
        while done < bytes.len() {
            let place = self.bytes_mut(begin + done..begin + bytes.len());
            let count = place.len();
            place.copy_from_slice(&bytes[done..done + count]);
            done += count;
            self.settle(begin + done)?;
        }
        Ok(())
    }

    /// Makes the lease's next extent readable by all. Extents are published in order.
    pub fn publish(&mut self, extent: u64) {
        assert_eq!(extent * EXTENT_BYTES, self.open_from, "extents are published in order");
        self.open_from = (self.open_from + EXTENT_BYTES).min(self.range.end);
        self.region.arrival().publish(extent);
    }

    /// Where `within` lies in the mapping, and its length.
    fn check(&self, within: &Range<usize>) -> (usize, usize) {
        let start = self.range.start + within.start as u64;
        let end = self.range.start + within.end as u64;
        assert!(self.open_from <= start && start <= end && end <= self.range.end, "within the lease, unpublished");
        // The lease's range was checked against the mapping's length, a usize.
        (start as usize, within.len())
    }
}

/// Windows that were used before: their memory has been touched.
mod pool {
    use std::sync::{Mutex, PoisonError};

    /// Small enough that what was received is still in the second-level cache when it is hashed
    /// and written, large enough to make few system calls.
    const WINDOW_BYTES: usize = 1 << 20;

    /// How many are kept: as many as there are connections at most.
    const KEPT: usize = 64;

    static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

    pub(super) fn take() -> Vec<u8> {
        let used = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| vec![0; WINDOW_BYTES])
    }

    pub(super) fn give(bytes: Vec<u8>) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < KEPT {
            pool.push(bytes);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(window) = self.window.take() {
            pool::give(window.bytes);
        }
        if self.open_from < self.range.end {
            self.region.arrival().release(&(self.open_from..self.range.end));
        }
    }
}
