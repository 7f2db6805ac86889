//! The same products where the tier multiplies bf16 pairs: rows rounded to bf16, weights as stored.
//!
//! A tile is up to six rows by four outputs, a register of partial sums for each: sixteen lanes, two
//! neighbours of the inner dimension to a lane. Weights need no packing. A block of rows passes over
//! four outputs while their weights are in the first-level cache; meanwhile the next four outputs'
//! weights are on their way.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

use crate::kernels::kernel::Kernel;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kernels::pool::{Pool, Shard};
use crate::kernels::tier::Instructions;

/// Numbers that one register of pairs holds.
const PAIRS: usize = 2 * LANES;
/// Outputs in a tile.
const TILE_OUTPUTS: usize = 4;
/// The most rows in a tile.
const TILE_ROWS: usize = 6;
/// The most rows that pass over a tile's weights before the next weights: three tiles.
pub(super) const BLOCK_ROWS: usize = 3 * TILE_ROWS;
/// Rows of a block that stay in the first-level cache beside a tile's weights.
const BLOCK_BYTES: usize = 36 << 10;
/// Numbers that one thread rounds faster than another wakes up.
const ROUND_ALONE: usize = 32 << 10;

/// Bytes of one rounded row: padded with zeros to whole registers.
pub(crate) const fn rounded_row_bytes(width: usize) -> usize {
    width.next_multiple_of(PAIRS) * 2
}

/// Rows that pass over a tile's weights together. All of a small step: its weights come from memory,
/// and while one tile is computed the next one's are on their way. Of a large step, whose weights
/// are in the second-level cache, as many as the first level holds.
pub(super) fn block_rows(inputs: usize, rows: usize) -> usize {
    if rows <= BLOCK_ROWS {
        return BLOCK_ROWS;
    }
    let tiles = BLOCK_BYTES / (TILE_ROWS * rounded_row_bytes(inputs)).max(1);
    tiles.clamp(1, BLOCK_ROWS / TILE_ROWS) * TILE_ROWS
}

/// Rounds rows of `width` numbers to bf16, each padded to [`rounded_row_bytes`].
///
/// # Panics
/// `room` is too small.
pub(super) fn round_rows(pool: &mut Pool, on: Instructions, x: &[f32], width: usize, room: &mut [u8]) {
    let rows = x.len() / width.max(1);
    let stride = rounded_row_bytes(width);
    assert!(room.len() >= rows * stride, "room for {rows} rounded rows of {width}");
    let task_rows = (ROUND_ALONE / width.max(1)).max(1);
    let room = Shard::of(room);
    pool.run(rows.div_ceil(task_rows), &|task| {
        for row in task * task_rows..rows.min((task + 1) * task_rows) {
            on.run(RoundRow { x: &x[row * width..][..width], to: room.pointer().wrapping_add(row * stride) });
        }
    });
}

struct RoundRow<'a> {
    x: &'a [f32],
    to: *mut u8,
}

impl Kernel for RoundRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (x, count) = (self.x.as_ptr(), self.x.len());
        let mut at = 0;
        // SAFETY: `round_rows` has checked that there is room for whole registers; no other task has this row.
        unsafe {
            while at + PAIRS <= count {
                let pairs = V::round_pairs(V::load(x.add(at)), V::load(x.add(at + LANES)));
                V::store_pairs(pairs, self.to.add(2 * at));
                at += PAIRS;
            }
            if at < count {
                let first = V::load_some(x.add(at), count - at);
                let second = match (count - at).checked_sub(LANES) {
                    Some(left) if left > 0 => V::load_some(x.add(at + LANES), left),
                    _ => V::zero(),
                };
                V::store_pairs(V::round_pairs(first, second), self.to.add(2 * at));
            }
        }
    }
}

/// Consecutive outputs of at most [`BLOCK_ROWS`] rows.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    /// bf16 (outputs, inputs).
    pub(super) weights: *const u8,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Null if there is none.
    pub(super) bias: *const f32,
    /// Rounded rows, [`rounded_row_bytes`] apart.
    pub(super) x: *const u8,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) add: bool,
}

impl Dots {
    /// Computes the first `rows` rows.
    ///
    /// # Safety
    /// As for [`Lanes`], `V` has dots, and all pointers cover what the sizes say.
    #[inline(always)]
    pub(super) unsafe fn rows<V: Lanes>(self, rows: usize) {
        let whole = self.outputs - self.outputs % TILE_OUTPUTS;
        // SAFETY: passed on.
        unsafe {
            for output in (0..whole).step_by(TILE_OUTPUTS) {
                self.block::<V, TILE_OUTPUTS>(output, rows);
            }
            for output in whole..self.outputs {
                self.block::<V, 1>(output, rows);
            }
        }
    }

    /// `N` outputs of all rows.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn block<V: Lanes, const N: usize>(self, output: usize, rows: usize) {
        let tiles = rows.div_ceil(TILE_ROWS);
        let mut ahead = self.weights.wrapping_add((output + N) * self.inputs * 2);
        let mut row = 0;
        // SAFETY: passed on.
        unsafe {
            for tile in 0..tiles {
                let tile_rows = (rows - row).div_ceil(tiles - tile);
                // Lines of the next weights to ask for in every step.
                ahead = match (tiles, tile_rows) {
                    (1, 1) => self.tile::<V, N, 1, 4>(output, row, ahead),
                    (1, 2) => self.tile::<V, N, 2, 4>(output, row, ahead),
                    (1, 3) => self.tile::<V, N, 3, 4>(output, row, ahead),
                    (1, 4) => self.tile::<V, N, 4, 4>(output, row, ahead),
                    (1, 5) => self.tile::<V, N, 5, 4>(output, row, ahead),
                    (1, _) => self.tile::<V, N, 6, 4>(output, row, ahead),
                    (_, 1..=4) => self.tile::<V, N, 4, 2>(output, row, ahead),
                    (_, 5) => self.tile::<V, N, 5, 2>(output, row, ahead),
                    (_, _) => self.tile::<V, N, 6, 2>(output, row, ahead),
                };
                row += tile_rows;
            }
        }
    }

    /// One tile. Whatever its shape, an output's sum is made of the same additions. Returns where
    /// to go on with asking for weights, which begins at `ahead`.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const N: usize, const M: usize, const AHEAD: usize>(
        self,
        output: usize,
        row: usize,
        mut ahead: *const u8,
    ) -> *const u8 {
        let (stride, x_stride) = (self.inputs * 2, rounded_row_bytes(self.inputs));
        // SAFETY: the caller vouches for the pointers; rounded rows are padded; prefetching is harmless.
        unsafe {
            let (weights, x) = (self.weights.add(output * stride), self.x.add(row * x_stride));
            let mut sums = [[V::zero(); N]; M];
            let mut k = 0;
            while k < self.inputs {
                for line in 0..AHEAD {
                    V::prefetch(ahead.wrapping_add(64 * line));
                }
                ahead = ahead.wrapping_add(64 * AHEAD);
                let mut pairs = [V::load_pairs(x.add(2 * k)); N];
                for n in 0..N {
                    let at = weights.add(n * stride + 2 * k);
                    let left = self.inputs - k;
                    pairs[n] = if left >= PAIRS { V::load_pairs(at) } else { V::load_pairs_some(at, left) };
                }
                for m in 0..M {
                    let x = V::load_pairs(x.add(m * x_stride + 2 * k));
                    for n in 0..N {
                        sums[m][n] = sums[m][n].dot(x, pairs[n]);
                    }
                }
                k += PAIRS;
            }
            for m in 0..M {
                self.finish::<V, N>(output, row + m, &sums[m]);
            }
        }
        ahead
    }

    /// Folds and stores a row's sums.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn finish<V: Lanes, const N: usize>(self, output: usize, row: usize, sums: &[V; N]) {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let mut four = [V::zero(); TILE_OUTPUTS];
            four[..N].copy_from_slice(sums);
            let folded = if N == TILE_OUTPUTS { V::sum_four(four) } else { [four[0].sum(), 0.0, 0.0, 0.0] };
            let out = self.out.add(row * self.out_stride + output);
            for n in 0..N {
                let bias = if self.bias.is_null() { 0.0 } else { *self.bias.add(output + n) };
                let value = folded[n] + bias;
                *out.add(n) = if self.add { *out.add(n) + value } else { value };
            }
        }
    }
}
