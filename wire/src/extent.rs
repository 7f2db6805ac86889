//! Extents: the unit of digest, cache and proof. An object of any length is cut into pieces of
//! 4 MiB, the last one shorter.

use std::ops::Range;

/// The length of every extent but an object's last, in bytes. It is large enough that digests and
/// journal are small (4096 of them for 16 GiB), and small enough that little is read twice when
/// one turns out to be wrong.
pub const EXTENT_BYTES: u64 = 4 << 20;

/// The number of extents of an object of `bytes` bytes: none if it is empty.
#[must_use]
pub const fn count(bytes: u64) -> u64 {
    bytes.div_ceil(EXTENT_BYTES)
}

/// The bytes of extent `index` in an object of `bytes` bytes; `None` beyond its end.
///
/// ```
/// assert_eq!(wire::extent::range(5 << 20, 1), Some(4 << 20..5 << 20));
/// assert_eq!(wire::extent::range(5 << 20, 2), None);
/// ```
#[must_use]
pub fn range(bytes: u64, index: u64) -> Option<Range<u64>> {
    let start = index.checked_mul(EXTENT_BYTES)?;
    (start < bytes).then(|| start..start.saturating_add(EXTENT_BYTES).min(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_tile_an_object_without_gap_or_overlap() {
        for bytes in [0, 1, EXTENT_BYTES - 1, EXTENT_BYTES, EXTENT_BYTES + 1, 3 * EXTENT_BYTES + 7] {
            let mut end = 0;
            for index in 0..count(bytes) {
                let range = range(bytes, index).expect("within the object");
                assert_eq!(range.start, end);
                assert!(range.end > range.start && range.end - range.start <= EXTENT_BYTES);
                end = range.end;
            }
            assert_eq!(end, bytes);
            assert_eq!(range(bytes, count(bytes)), None);
        }
    }

    #[test]
    fn the_end_of_the_number_line_does_not_overflow() {
        assert_eq!(range(u64::MAX, count(u64::MAX) - 1).expect("the last").end, u64::MAX);
        assert_eq!(range(u64::MAX, u64::MAX), None);
    }
}
