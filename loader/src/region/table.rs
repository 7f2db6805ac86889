//! Which addresses belong to which mapped file: a table that a signal handler may read.
//!
//! A handler may neither lock nor allocate, so the table has a fixed size and is made of atomics.
//! It knows nothing of signals.

use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The most mappings that may live at once. The largest models published have a few hundred shard
/// files; a process may hold several. The table takes 96 KiB.
pub(super) const SLOTS: usize = 4096;

/// The start of a slot that is free, or being filled. Both lie in the first page,
/// where no mapping can begin.
const FREE: usize = 0;
const CLAIMED: usize = 1;

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    notice: AtomicPtr<Notice>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(FREE),
            notice: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn claim(&self) -> bool {
        self.start.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// The message when the mapping fails, made ready beforehand because a signal handler cannot
/// format.
pub(super) struct Notice {
    /// The file's name.
    pub(super) file: String,
    /// The whole line for the error stream.
    pub(super) line: String,
    /// The file, open for as long as it is mapped.
    descriptor: RawFd,
}

/// A mapping's place in the table, given up on drop.
pub(super) struct Entry {
    slot: &'static Slot,
    notice: *mut Notice,
}

/// Enters a mapping. Returns nothing if the table is full.
pub(super) fn insert(addresses: Range<usize>, file: &str, descriptor: RawFd) -> Option<Entry> {
    let slot = TABLE.iter().find(|slot| slot.claim())?;
    let line = format!(
        "forebay: the file {file} shrank or could not be read while it was mapped; the process ends. \
         Replace files by renaming, never by writing over them\n"
    );
    let notice = Box::into_raw(Box::new(Notice { file: file.to_owned(), line, descriptor }));
    slot.end.store(addresses.end, Ordering::Relaxed);
    slot.notice.store(notice, Ordering::Relaxed);
    slot.start.store(addresses.start, Ordering::Release);
    Some(Entry { slot, notice })
}

/// The notice of the mapping that holds `address`, or null. Lock-free and free of allocation.
///
/// The pointer is good for as long as that mapping lives.
pub(super) fn find(address: usize) -> *mut Notice {
    for slot in &TABLE {
        let start = slot.start.load(Ordering::Acquire);
        if start <= CLAIMED || address < start {
            continue;
        }
        let end = slot.end.load(Ordering::Acquire);
        let notice = slot.notice.load(Ordering::Acquire);
        // If the slot changed hands meanwhile, the three values may not belong together.
        if address < end && slot.start.load(Ordering::Acquire) == start {
            return notice;
        }
    }
    std::ptr::null_mut()
}

/// The file that a slice is mapped from, and the slice's place in it.
pub(super) fn file_of(bytes: &[u8]) -> Option<(RawFd, u64)> {
    let address = bytes.as_ptr().addr();
    let slot = TABLE.iter().find(|slot| {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        start > CLAIMED && start <= address && address + bytes.len() <= end
    })?;
    let (start, notice) = (slot.start.load(Ordering::Acquire), slot.notice.load(Ordering::Acquire));
    // SAFETY: the slice borrows the region at its address, which owns this slot and its notice.
    let descriptor = unsafe { (*notice).descriptor };
    Some((descriptor, (address - start) as u64))
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.slot.start.store(FREE, Ordering::Release);
        // SAFETY: the pointer came from Box::into_raw in `insert` and is freed only here. Nobody
        // reads it now: a reader has faulted within the mapping and so borrows its region, which
        // owns this entry.
        drop(unsafe { Box::from_raw(self.notice) });
    }
}

// SAFETY: the pointer is owned (it is a Box in all but name) and what it points to is Send and
// Sync; the entry offers no access to it.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    // Addresses of no mapping of ours; tests of this process share the table.
    const BASE: usize = usize::MAX / 2;

    #[test]
    fn an_address_is_found_from_the_first_byte_to_the_last_and_not_after_drop() {
        let entry = insert(BASE..BASE + 10, "a.safetensors", -1).unwrap();
        assert_eq!(find(BASE), entry.notice);
        assert_eq!(find(BASE + 9), entry.notice);
        assert!(find(BASE - 1).is_null());
        assert!(find(BASE + 10).is_null());
        drop(entry);
        assert!(find(BASE).is_null());
    }

    #[test]
    fn threads_that_enter_and_leave_never_see_each_others_names() {
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                scope.spawn(move || {
                    for round in 0..500 {
                        let start = BASE + thread * 0x10000 + round;
                        let entry = insert(start..start + 8, "some file", -1).unwrap();
                        assert_eq!(find(start + 7), entry.notice);
                    }
                });
            }
        });
    }
}
