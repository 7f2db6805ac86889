//! A stretch of a region's memory that one writer has for itself, until it is verified.
//!
//! This is what makes receiving in place sound: readers see only verified extents, a lease covers
//! none, and no two leases overlap. It knows no network and no digest.
#![expect(unsafe_code, reason = "hands out the part of a shared mapping that nobody else can see")]

use std::ops::Range;
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
}

impl Lease {
    pub(super) fn new(region: Arc<Region>, range: Range<u64>) -> Self {
        let open_from = range.start;
        Self { region, range, open_from }
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

    /// Memory to write, `within` counted from the lease's start; it lies beyond what is published.
    pub fn bytes_mut(&mut self, within: Range<usize>) -> &mut [u8] {
        let (start, length) = self.check(&within);
        // SAFETY: the memory is the mapping's (checked), nobody else writes it (no two leases
        // overlap) and nobody reads it (its extents are not verified: views are refused), for as
        // long as `self` is borrowed, since publishing needs `self` too.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// What was written, `within` counted from the lease's start; it lies beyond what is
    /// published.
    #[must_use]
    pub fn bytes(&self, within: Range<usize>) -> &[u8] {
        let (start, length) = self.check(&within);
        // SAFETY: as for `bytes_mut`; writing needs `&mut self`, so nothing changes meanwhile.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Makes the lease's next extent readable by all. Extents are published in order.
    pub fn publish(&mut self, extent: u64) {
        assert_eq!(extent * EXTENT_BYTES, self.open_from, "extents are published in order");
        self.open_from = (self.open_from + EXTENT_BYTES).min(self.range.end);
        self.region.arrival().publish(extent);
    }

    fn check(&self, within: &Range<usize>) -> (*mut u8, usize) {
        let start = self.range.start + within.start as u64;
        let end = self.range.start + within.end as u64;
        assert!(self.open_from <= start && start <= end && end <= self.range.end, "within the lease, unpublished");
        let base = self.region.writable();
        // The lease's range was checked against the mapping's length, a usize.
        (base.wrapping_add(start as usize), within.len())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.open_from < self.range.end {
            self.region.arrival().release(&(self.open_from..self.range.end));
        }
    }
}
