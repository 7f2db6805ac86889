//! Zeroed memory that costs nothing until it is touched, in huge pages where the system has them; and its pages, to be
//! made beforehand by who would rather know now than in the middle of a step.
//!
//! For KV storage: gigabytes of which a small part may ever be used.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes, zero at first, aligned to a page.
pub(crate) struct Buffer {
    mapping: Arc<Mapping>,
}

/// A mapping, unmapped when the last holder drops it. It reads and writes nothing.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is an address; the memory there is reached through `Buffer` alone, which owns it as a `Vec<u8>` does.
unsafe impl Send for Mapping {}
// SAFETY: likewise.
unsafe impl Sync for Mapping {}

impl Buffer {
    /// Reserves `bytes`.
    ///
    /// # Errors
    /// The system has no such address space to give.
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Self> {
        let length = bytes.max(1);
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches nobody's memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags | libc::MAP_NORESERVE, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice about our own mapping; a system without huge pages may refuse it.
        unsafe {
            libc::madvise(start, length, libc::MADV_HUGEPAGE);
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { mapping: Arc::new(Mapping { start, bytes }) })
    }

    /// Number of bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.mapping.bytes
    }

    /// Its bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `bytes` long, initialised to zero, and lives as long as `self`, which the borrow keeps
        // from being used otherwise; others who hold the mapping have its pages made, and touch no byte.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.as_ptr(), self.mapping.bytes) }
    }

    /// Its pages, for another thread to make.
    pub(crate) fn pages(&self) -> Pages {
        Pages { mapping: Arc::clone(&self.mapping) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, of this length, and no borrow outlives the last holder.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes.max(1)) };
    }
}

/// The pages of a buffer's memory. They can be made while the buffer is in use: its bytes stay what they are.
pub struct Pages {
    mapping: Arc<Mapping>,
}

impl Pages {
    /// Bytes that they hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.mapping.bytes
    }

    /// True if the buffer is gone: nobody needs them.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        Arc::strong_count(&self.mapping) == 1
    }

    /// Has the system make those of a range of bytes, which begins at a page; false where it cannot (Linux before 5.14,
    /// other systems). Those that are there stay as they are.
    ///
    /// # Errors
    /// The system's error: it has no memory to give.
    pub fn make(&self, range: Range<usize>) -> io::Result<bool> {
        let end = range.end.min(self.mapping.bytes);
        if range.start >= end {
            return Ok(true);
        }
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the range lies within our mapping, which lives as long as `self`; the call faults pages in for
            // writing and changes no byte, so that whoever uses the buffer meanwhile sees nothing of it.
            let result = unsafe {
                let start = self.mapping.start.as_ptr().add(range.start);
                libc::madvise(start.cast(), end - range.start, libc::MADV_POPULATE_WRITE)
            };
            let error = io::Error::last_os_error();
            match (result, error.raw_os_error()) {
                (0, _) => Ok(true),
                (_, Some(libc::EINVAL | libc::ENOSYS)) => Ok(false),
                _ => Err(error),
            }
        }
        #[cfg(not(target_os = "linux"))]
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_made_are_there_and_hold_what_they_held() {
        const PAGE: usize = 4096;
        let mut buffer = Buffer::zeroed(4 << 20).expect("memory");
        buffer.as_mut_slice()[PAGE] = 7;
        let pages = buffer.pages();
        // More than there is does no harm.
        let could = pages.make(0..usize::MAX).expect("memory");
        assert_eq!(buffer.as_mut_slice().iter().map(|&byte| usize::from(byte)).sum::<usize>(), 7);
        assert!(!pages.is_orphaned());
        if could {
            assert!(resident(&buffer).iter().all(|&is_there| is_there));
        }
        drop(buffer);
        assert!(pages.is_orphaned());
        assert!(pages.make(0..PAGE).is_ok(), "the memory outlives its user");
    }

    #[test]
    fn a_buffer_nobody_touched_costs_nothing() {
        assert!(!resident(&Buffer::zeroed(4 << 20).expect("memory")).iter().any(|&is_there| is_there));
    }

    /// For each of its pages, true if it is in memory.
    fn resident(buffer: &Buffer) -> Vec<bool> {
        let mut facts = vec![0_u8; buffer.bytes().div_ceil(4096)];
        // SAFETY: the mapping is ours and of this length, and there is a byte for each of its pages.
        let result =
            unsafe { libc::mincore(buffer.mapping.start.as_ptr().cast(), buffer.bytes(), facts.as_mut_ptr().cast()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        facts.iter().map(|fact| fact & 1 == 1).collect()
    }
}
