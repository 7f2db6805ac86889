//! Read bandwidth of this machine's memory, on the threads that also compute: the yardstick of decoding.

use std::sync::atomic::{AtomicU64, Ordering};

use super::kernel::Kernel;
use super::lanes::Lanes;
use super::pool::Pool;
use super::tier::Instructions;

/// Bytes a task reads.
const CHUNK_BYTES: usize = 1 << 20;

/// Folds every byte into one number, on all threads, with the tier's widest loads.
pub(crate) fn fold(pool: &mut Pool, on: Instructions, bytes: &[u8]) -> u64 {
    let folded = AtomicU64::new(0);
    let chunks = bytes.len().div_ceil(CHUNK_BYTES);
    pool.run(chunks, &|task| {
        let first = task * CHUNK_BYTES;
        let last = (first + CHUNK_BYTES).min(bytes.len());
        on.run(Fold { bytes: &bytes[first..last], folded: &folded });
    });
    folded.into_inner()
}

struct Fold<'a> {
    bytes: &'a [u8],
    folded: &'a AtomicU64,
}

impl Kernel for Fold<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        const WORDS: usize = 64;
        let mut sums = [0u64; WORDS];
        let (whole, rest) = self.bytes.as_chunks::<{ WORDS * 8 }>();
        for (index, block) in whole.iter().enumerate() {
            // SAFETY: prefetching never faults.
            unsafe {
                for line in 0..WORDS / 8 {
                    V::prefetch(self.bytes.as_ptr().wrapping_add((index * 8 + 32) * WORDS + line * 64));
                }
            }
            let (words, _) = block.as_chunks::<8>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let rest: u64 = rest.iter().map(|&byte| u64::from(byte)).sum();
        let total = sums.iter().fold(rest, |total, &sum| total.wrapping_add(sum));
        self.folded.fetch_add(total, Ordering::Relaxed);
    }
}
