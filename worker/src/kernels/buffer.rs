//! Zeroed memory that costs nothing until it is touched, in huge pages where the system has them.
//!
//! For KV storage: gigabytes of which a small part may ever be used.

use std::io;
use std::ptr::NonNull;

/// Bytes, zero at first, aligned to a page.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory as a `Vec<u8>` does.
unsafe impl Send for Buffer {}
// SAFETY: likewise.
unsafe impl Sync for Buffer {}

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
        Ok(Self { start, bytes })
    }

    /// How many there are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `bytes` long, initialised to zero, and lives as long as `self`, which
        // the borrow keeps from being used otherwise.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, of this length, and no borrow outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes.max(1)) };
    }
}
