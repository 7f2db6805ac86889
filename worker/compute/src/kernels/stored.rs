//! Rows of matrices in memory, read sixteen numbers at a time.
//!
//! Plain numbers lie side by side; GGML's blocks are in `blocks`. Numbers are widened to f32; where a tier has dots of
//! bf16 pairs, those of blocks are then rounded to bf16, which is finer than their own steps for all but the
//! largest. It knows no file.

use super::kernel::Kernel;
use super::lanes::{Element, LANES, Lanes};
use super::tier::Instructions;

use tensor::Format;

/// Numbers in a block of Q8_0.
pub(crate) const Q8_0_NUMBERS: usize = Format::Q8_0.block().numbers;

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
}

/// Appends `numbers`, whole blocks, to `out` as Q8_0: a block's scale is its largest magnitude over
/// 127, in binary16, and bytes are to the nearest.
///
/// # Panics
/// `numbers` are not whole blocks.
pub(crate) fn quantize(on: Instructions, numbers: &[f32], out: &mut Vec<u8>) {
    let (blocks, rest) = numbers.as_chunks::<Q8_0_NUMBERS>();
    assert!(rest.is_empty(), "whole blocks of {Q8_0_NUMBERS}");
    on.run(Quantize { blocks, out });
}

struct Quantize<'a> {
    blocks: &'a [[f32; Q8_0_NUMBERS]],
    out: &'a mut Vec<u8>,
}

impl Kernel for Quantize<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for block in self.blocks {
            // SAFETY: a block holds two times sixteen numbers.
            let (low, high) = unsafe { (V::load(block.as_ptr()), V::load(block.as_ptr().add(LANES))) };
            // SAFETY: the caller vouches for the tier.
            let largest = unsafe {
                let magnitude = |lanes: V| lanes.max(V::zero().sub(lanes));
                magnitude(low).max(magnitude(high)).largest()
            };
            let scale = half::f16::from_f32(largest / 127.0);
            let step = scale.to_f32();
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            self.out.extend(scale.to_bits().to_le_bytes());
            // `as` saturates: a scale that binary16 rounded down would else make 128 of the largest.
            self.out.extend(block.map(|number| ((number * inverse).round_ties_even() as i8).max(-127).cast_unsigned()));
        }
    }
}
