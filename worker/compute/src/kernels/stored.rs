//! Rows of matrices in memory, read sixteen numbers at a time.
//!
//! Plain numbers lie side by side; GGML's blocks are in `blocks`. Numbers are widened to f32; where a tier has dots of
//! bf16 pairs, those of blocks are then rounded to bf16, which is finer than their own steps for all but the
//! largest. It knows no file.

use super::lanes::{Element, LANES, Lanes};

use tensor::Format;

/// Bytes of a row of `inputs` numbers, which are whole blocks.
#[inline]
pub(crate) const fn row_bytes(format: Format, inputs: usize) -> usize {
    let block = format.block();
    inputs / block.numbers * block.bytes
}

/// A row's format, known when the kernel is compiled.
pub(crate) trait Stored: Copy + Send + Sync + 'static {
    /// True if tiers with dots of bf16 pairs use them for it.
    const DOTS: bool;
    /// True if it is one of GGML's formats.
    const IS_BLOCKS: bool;
    /// Numbers that share [`Stored::Scales`], a multiple of thirty-two.
    const GROUP: usize;
    /// The facts that a group's numbers need, made once for all of them.
    type Scales: Copy + Default;
    /// Bytes of a row, or about so many of a part that is no whole block.
    fn row_bytes(inputs: usize) -> usize;
    /// The scales of the group that begins at `at`.
    ///
    /// # Safety
    /// As for [`Lanes`]; the row holds a number there.
    unsafe fn scales<V: Lanes>(row: *const u8, at: usize) -> Self::Scales;
    /// Reads sixteen numbers from `at` on, a multiple of sixteen.
    ///
    /// # Safety
    /// As for [`Lanes`]; the row holds them; `scales` are their group's, here and below.
    unsafe fn read<V: Lanes>(row: *const u8, at: usize, scales: &Self::Scales) -> V;
    /// Reads `count` (at most 16) numbers from `at` on; the other lanes are zero.
    ///
    /// # Safety
    /// As for [`Stored::read`].
    unsafe fn read_some<V: Lanes>(row: *const u8, at: usize, count: usize, scales: &Self::Scales) -> V;
    /// Reads thirty-two numbers from `at` on, a multiple of that, as bf16; zero beyond the `left`
    /// that the row still has.
    ///
    /// # Safety
    /// As for [`Stored::read`]; `V` and the format have dots; the row holds `left` numbers more.
    unsafe fn pairs<V: Lanes>(row: *const u8, at: usize, left: usize, scales: &Self::Scales) -> V::Pairs;
    /// The same twice: sixty-four numbers from `at` on, a multiple of that, of a group that has so many.
    ///
    /// # Safety
    /// As for [`Stored::pairs`].
    unsafe fn pairs_two<V: Lanes>(row: *const u8, at: usize, scales: &Self::Scales) -> [V::Pairs; 2];
}

impl<E: Element> Stored for E {
    const DOTS: bool = E::DOTS;
    const IS_BLOCKS: bool = false;
    const GROUP: usize = 2 * LANES;
    type Scales = ();

    fn row_bytes(inputs: usize) -> usize {
        inputs * E::BYTES
    }
    #[inline(always)]
    unsafe fn scales<V: Lanes>(_row: *const u8, _at: usize) {}
    #[inline(always)]
    unsafe fn read<V: Lanes>(row: *const u8, at: usize, _: &()) -> V {
        // SAFETY: passed on.
        unsafe { E::load(row.add(at * E::BYTES)) }
    }
    #[inline(always)]
    unsafe fn read_some<V: Lanes>(row: *const u8, at: usize, count: usize, _: &()) -> V {
        // SAFETY: passed on.
        unsafe { E::load_some(row.add(at * E::BYTES), count) }
    }
    #[inline(always)]
    unsafe fn pairs<V: Lanes>(row: *const u8, at: usize, left: usize, _: &()) -> V::Pairs {
        // SAFETY: passed on.
        unsafe {
            let from = row.add(at * E::BYTES);
            if left >= 2 * LANES { V::load_pairs(from) } else { V::load_pairs_some(from, left) }
        }
    }
    #[inline(always)]
    unsafe fn pairs_two<V: Lanes>(row: *const u8, at: usize, scales: &()) -> [V::Pairs; 2] {
        // SAFETY: passed on.
        unsafe { [at, at + 2 * LANES].map(|at| Self::pairs::<V>(row, at, 2 * LANES, scales)) }
    }
}
