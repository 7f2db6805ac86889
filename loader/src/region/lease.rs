//! A stretch of a region's memory that one writer has for itself, until it is verified.
//!
//! This is what makes receiving in place sound: readers see only verified extents, a lease covers
//! none, and no two leases overlap. It knows no network and no digest.
#![expect(unsafe_code, reason = "hands out the part of a shared mapping that nobody else can see")]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;
use tokio::task::{JoinHandle, spawn_blocking};
use wire::extent::EXTENT_BYTES;

use super::Region;

/// Exclusive use of some whole extents of a region. What is not published when it drops is free
/// to be leased again, once no write of it is under way.
pub struct Lease {
    claim: Arc<Claim>,
    /// The bytes received and not yet in the file; none where memory is written in place, and
    /// while it is being written.
    window: Option<Window>,
    writing: Option<JoinHandle<(Window, io::Result<()>)>>,
}

/// The right to write a range. It ends with its last holder: the lease, or a write that a lease
/// left behind. Bytes of a writer that was given up must not fall on those of the next one.
struct Claim {
    region: Arc<Region>,
    /// The leased bytes of the object.
    range: Range<u64>,
    /// The unpublished rest: everything from here to the range's end.
    open_from: AtomicU64,
}

/// A file is written by system calls, a window at a time, and only read through its mapping:
/// writing dirty pages of a *mapping* to disk costs an interrupt on every processor for every page
/// (measured: docs/performance.md).
struct Window {
    bytes: MmapMut,
    /// The window's offset in the object.
    from: u64,
}

impl Lease {
    pub(super) fn new(region: Arc<Region>, range: Range<u64>) -> Self {
        let from = range.start;
        let window = region.file().is_some().then(|| Window { bytes: pool::take(), from });
        let claim = Arc::new(Claim { region, range, open_from: AtomicU64::new(from) });
        Self { claim, window, writing: None }
    }

    /// The leased bytes of the object.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.claim.range.clone()
    }

    /// The region it is a part of.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.claim.region
    }

    /// The memory to write next: `within`, counted from the lease's start, or the beginning of it. It
    /// lies beyond what is published, and begins where the last write ended, or at an extent.
    /// Nothing may be under way to the file: what was settled is awaited first.
    pub fn bytes_mut(&mut self, within: Range<usize>) -> &mut [u8] {
        assert!(self.writing.is_none(), "what came before is settled");
        let (start, length) = self.check(&within);
        let at = self.claim.range.start + within.start as u64;
        if let Some(window) = &mut self.window {
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
        unsafe { std::slice::from_raw_parts_mut(self.claim.region.writable().wrapping_add(start), length) }
    }

    /// The bytes written, `within` counted from the lease's start; it lies beyond what is
    /// published. Of a file, what is settled, or what is not settled.
    #[must_use]
    pub fn bytes(&self, within: Range<usize>) -> &[u8] {
        let (start, length) = self.check(&within);
        if let Some(window) = &self.window {
            let at = self.claim.range.start + within.start as u64;
            if at >= window.from && at - window.from < window.bytes.len() as u64 {
                let offset = (at - window.from) as usize;
                return &window.bytes[offset..offset + length];
            }
        }
        // SAFETY: as for `bytes_mut`; writing needs `&mut self`, so nothing changes meanwhile. A
        // file's bytes before the window are settled, and its pages are those that were written.
        unsafe { std::slice::from_raw_parts(self.claim.region.readable().wrapping_add(start), length) }
    }

    /// Says that everything up to `end`, counted from the lease's start, was written, and begins
    /// to put it in place: at an extent's end, or when the window is full. A file is written on
    /// another thread, as disks make their writers wait; `holding` lives until that has ended.
    /// Returns true if a write is under way now.
    pub(crate) fn settle(&mut self, end: usize, holding: impl Send + 'static) -> bool {
        let end = self.claim.range.start + end as u64;
        let range_end = self.claim.range.end;
        let is_due = |window: &mut Window| {
            let length = usize::try_from(end.saturating_sub(window.from)).unwrap_or_default();
            length == window.bytes.len() || end == range_end || end.is_multiple_of(EXTENT_BYTES)
        };
        if let Some(window) = self.window.take_if(is_due) {
            let claim = Arc::clone(&self.claim);
            self.writing = Some(spawn_blocking(move || {
                let written = window.write(&claim.region, end);
                drop((claim, holding));
                written
            }));
        }
        self.writing.is_some()
    }

    /// Waits until what is under way to the file is there. Broken off, it can be awaited again.
    ///
    /// # Errors
    /// The system's error of writing the file.
    pub(crate) async fn settled(&mut self) -> io::Result<()> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let joined = writing.await;
        self.writing = None;
        let (window, written) = joined.map_err(io::Error::other)?;
        self.window = Some(window);
        written
    }

    /// Writes `bytes` at the lease's first unpublished extent; blocks.
    ///
    /// # Errors
    /// The system's error of writing the file.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let at = self.claim.open_from.load(Ordering::Relaxed);
        if let Some(file) = self.claim.region.file() {
            return file.write(bytes, at);
        }
        let begin = (at - self.claim.range.start) as usize;
        self.bytes_mut(begin..begin + bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    /// Makes the lease's next extent readable by all. Extents are published in order.
    pub fn publish(&mut self, extent: u64) {
        let Claim { region, range, open_from } = &*self.claim;
        let from = open_from.load(Ordering::Relaxed);
        assert_eq!(extent * EXTENT_BYTES, from, "extents are published in order");
        open_from.store((from + EXTENT_BYTES).min(range.end), Ordering::Relaxed);
        region.arrival().publish(extent);
    }

    /// The offset of `within` in the mapping, and its length.
    fn check(&self, within: &Range<usize>) -> (usize, usize) {
        let Claim { range, open_from, .. } = &*self.claim;
        let start = range.start + within.start as u64;
        let end = range.start + within.end as u64;
        let open_from = open_from.load(Ordering::Relaxed);
        assert!(open_from <= start && start <= end && end <= range.end, "within the lease, unpublished");
        // The lease's range was checked against the mapping's length, a usize.
        (start as usize, within.len())
    }
}

impl Window {
    /// Writes what lies before `end` in the object, and begins there anew.
    fn write(mut self, region: &Region, end: u64) -> (Self, io::Result<()>) {
        let length = (end - self.from) as usize;
        region.make_pages(self.from..end);
        let written = region.file().map_or(Ok(()), |file| file.write(&self.bytes[..length], self.from));
        self.from = end;
        (self, written)
    }
}

/// Windows that were used before: their memory has been touched. They begin at a page, as writing
/// past the page cache demands.
mod pool {
    use parking_lot::Mutex;

    use memmap2::MmapMut;

    /// Small enough that what was received is still in the second-level cache when it is hashed
    /// and written, large enough to make few system calls.
    const WINDOW_BYTES: usize = 1 << 20;

    /// The most that are kept. A window belongs to a lease, a lease to a fetch, and a fetch holds an extent or more of
    /// `loader.fetch.in_flight_bytes`: by default there are 64 at a time at most, a quarter of that bound in bytes.
    const KEPT: usize = 64;

    static POOL: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

    pub(super) fn take() -> MmapMut {
        let used = POOL.lock().pop();
        used.unwrap_or_else(|| MmapMut::map_anon(WINDOW_BYTES).expect("there is memory for a window of 1 MiB"))
    }

    pub(super) fn give(bytes: MmapMut) {
        let mut pool = POOL.lock();
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
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let open_from = *self.open_from.get_mut();
        if open_from < self.range.end {
            self.region.arrival().release(&(open_from..self.range.end));
        }
    }
}
