//! The same products where the tier multiplies bf16 pairs: rows rounded to bf16, weights as stored.
//!
//! A tile is up to six rows by four outputs, a register of partial sums for each: sixteen lanes, two
//! neighbours of the inner dimension to a lane. Weights need no packing. A few rows pass over four
//! outputs directly, while the next four outputs' weights are on their way from memory. Many rows go
//! panel by panel of the inner dimension: four outputs' weights of a panel, as pairs, stay in the
//! first-level cache while rows come by from the second, and sums are put down between panels.
//! Either way a sum is made of the same additions.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

use std::mem::MaybeUninit;

use crate::kernels::kernel::Kernel;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kernels::pool::{Pool, Shard};
use crate::kernels::stored::Stored;
use crate::kernels::tier::Instructions;

/// Numbers that one register of pairs holds.
const PAIRS: usize = 2 * LANES;
/// Outputs in a tile.
const TILE_OUTPUTS: usize = 4;
/// The most rows in a tile.
const TILE_ROWS: usize = 6;
/// The most rows that pass over a tile's weights before the next weights: their part of a panel is
/// a fifth of the second-level cache.
pub(super) const BLOCK_ROWS: usize = 16 * TILE_ROWS;
/// The most rows that take weights as they are: more rows than these, and panels are quicker.
const DIRECT_ROWS: usize = 3 * TILE_ROWS;
/// Numbers in a panel: four outputs' weights take a sixth of the first-level cache.
const PANEL: usize = 1024;
/// Numbers that one thread rounds faster than another wakes up.
const ROUND_ALONE: usize = 32 << 10;

/// Bytes of one rounded row: padded with zeros to whole registers.
pub(crate) const fn rounded_row_bytes(width: usize) -> usize {
    width.next_multiple_of(PAIRS) * 2
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
    /// (outputs, inputs), as stored.
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
    /// As for [`Lanes`], `V` and `S` have dots, and all pointers cover what the sizes say.
    #[inline(always)]
    pub(super) unsafe fn rows<V: Lanes, S: Stored>(self, rows: usize) {
        let whole = self.outputs - self.outputs % TILE_OUTPUTS;
        let in_panels = rows > DIRECT_ROWS;
        // SAFETY: passed on.
        unsafe {
            for output in (0..whole).step_by(TILE_OUTPUTS) {
                if in_panels {
                    self.panels::<V, S>(output, rows);
                } else {
                    self.block::<V, S, TILE_OUTPUTS>(output, rows);
                }
            }
            for output in whole..self.outputs {
                for row in (0..rows).step_by(TILE_ROWS) {
                    self.below(row).block::<V, S, 1>(output, TILE_ROWS.min(rows - row));
                }
            }
        }
    }

    /// The same without the first `row` rows.
    fn below(self, row: usize) -> Self {
        let x = self.x.wrapping_add(row * rounded_row_bytes(self.inputs));
        Self { x, out: self.out.wrapping_add(row * self.out_stride), ..self }
    }

    /// `N` outputs of at most [`DIRECT_ROWS`] rows.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn block<V: Lanes, S: Stored, const N: usize>(self, output: usize, rows: usize) {
        let tiles = rows.div_ceil(TILE_ROWS);
        let mut ahead = self.weights.wrapping_add((output + N) * S::row_bytes(self.inputs));
        let mut row = 0;
        // SAFETY: passed on.
        unsafe {
            for tile in 0..tiles {
                // More than one tile: of three rows at least.
                let tile_rows = (rows - row).div_ceil(tiles - tile);
                // Lines of the next weights to ask for in every step.
                ahead = match (tiles, tile_rows) {
                    (1, 1) => self.tile::<V, S, N, 1, 4>(output, row, ahead),
                    (1, 2) => self.tile::<V, S, N, 2, 4>(output, row, ahead),
                    (1, 3) => self.tile::<V, S, N, 3, 4>(output, row, ahead),
                    (1, 4) => self.tile::<V, S, N, 4, 4>(output, row, ahead),
                    (1, 5) => self.tile::<V, S, N, 5, 4>(output, row, ahead),
                    (1, _) => self.tile::<V, S, N, 6, 4>(output, row, ahead),
                    (_, 1..=3) => self.tile::<V, S, N, 3, 2>(output, row, ahead),
                    (_, 4) => self.tile::<V, S, N, 4, 2>(output, row, ahead),
                    (_, 5) => self.tile::<V, S, N, 5, 2>(output, row, ahead),
                    (_, _) => self.tile::<V, S, N, 6, 2>(output, row, ahead),
                };
                row += tile_rows;
            }
        }
    }

    /// One tile over all inputs. Returns where to go on with asking for weights, which begins at
    /// `ahead`.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tile<V: Lanes, S: Stored, const N: usize, const M: usize, const AHEAD: usize>(
        self,
        output: usize,
        row: usize,
        mut ahead: *const u8,
    ) -> *const u8 {
        let (stride, x_stride) = (S::row_bytes(self.inputs), rounded_row_bytes(self.inputs));
        // SAFETY: the caller vouches for the pointers; rounded rows are padded; prefetching is harmless.
        unsafe {
            let (weights, x) = (self.weights.add(output * stride), self.x.add(row * x_stride));
            let mut sums = [[V::zero(); N]; M];
            let mut k = 0;
            while k < self.inputs {
                for line in 0..AHEAD {
                    V::prefetch(ahead.wrapping_add(64 * line));
                }
                ahead = ahead.wrapping_add(S::row_bytes(PAIRS) * AHEAD);
                let mut pairs = [V::load_pairs(x.add(2 * k)); N];
                for n in 0..N {
                    pairs[n] = S::pairs::<V>(weights.add(n * stride), k, self.inputs - k);
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

    /// Four outputs of many rows.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn panels<V: Lanes, S: Stored>(self, output: usize, rows: usize) {
        let mut panel = Panel { weights: MaybeUninit::uninit(), start: 0, width: 0 };
        let mut sums = MaybeUninit::<[[V; TILE_OUTPUTS]; BLOCK_ROWS]>::uninit();
        let sums: *mut [V; TILE_OUTPUTS] = sums.as_mut_ptr().cast();
        let (tiles, stride) = (rows.div_ceil(TILE_ROWS), S::row_bytes(self.inputs));
        let weights = self.weights.wrapping_add(output * stride);
        while panel.start < self.inputs {
            panel.width = PANEL.min(self.inputs - panel.start);
            let end = panel.start + panel.width;
            let next = weights.wrapping_add(if end < self.inputs { S::row_bytes(end) } else { TILE_OUTPUTS * stride });
            let mut row = 0;
            // SAFETY: passed on; `sums` holds as many rows as there are.
            unsafe {
                panel.fill::<V, S>(weights, self.inputs);
                for tile in 0..tiles {
                    // Four tiles or more: of four rows at least.
                    let tile_rows = (rows - row).div_ceil(tiles - tile);
                    let ahead = next.wrapping_add(tile % TILE_OUTPUTS * stride);
                    match tile_rows {
                        0..=4 => self.panel_tile::<V, S, 4>(&panel, output, row, sums.add(row), ahead),
                        5 => self.panel_tile::<V, S, 5>(&panel, output, row, sums.add(row), ahead),
                        _ => self.panel_tile::<V, S, TILE_ROWS>(&panel, output, row, sums.add(row), ahead),
                    }
                    row += tile_rows;
                }
            }
            panel.start = end;
        }
    }

    /// One tile over a panel: goes on with `sums` (`M` rows) unless it is the first, and stores
    /// outputs if it is the last. Meanwhile it asks for what the next panel is made of, at `ahead`.
    ///
    /// # Safety
    /// As for `rows`; the panel is filled.
    #[inline(always)]
    unsafe fn panel_tile<V: Lanes, S: Stored, const M: usize>(
        self,
        panel: &Panel,
        output: usize,
        row: usize,
        sums: *mut [V; TILE_OUTPUTS],
        ahead: *const u8,
    ) {
        let x_stride = rounded_row_bytes(self.inputs);
        // SAFETY: the caller vouches for the pointers; rounded rows are padded.
        unsafe {
            let (weights, x) = (panel.weights.as_ptr().cast::<u8>(), self.x.add(row * x_stride + 2 * panel.start));
            let mut tile = [[V::zero(); TILE_OUTPUTS]; M];
            if panel.start > 0 {
                for m in 0..M {
                    tile[m] = *sums.add(m);
                }
            }
            let mut k = 0;
            while k < panel.width {
                V::prefetch(ahead.wrapping_add(S::row_bytes(k)));
                let mut pairs = [V::load_pairs(weights.add(2 * k)); TILE_OUTPUTS];
                for n in 1..TILE_OUTPUTS {
                    pairs[n] = V::load_pairs(weights.add(2 * (n * PANEL + k)));
                }
                for m in 0..M {
                    let x = V::load_pairs(x.add(m * x_stride + 2 * k));
                    for n in 0..TILE_OUTPUTS {
                        tile[m][n] = tile[m][n].dot(x, pairs[n]);
                    }
                }
                k += PAIRS;
            }
            for m in 0..M {
                if panel.start + panel.width < self.inputs {
                    *sums.add(m) = tile[m];
                } else {
                    self.finish::<V, TILE_OUTPUTS>(output, row + m, &tile[m]);
                }
            }
        }
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

/// Four outputs' weights of a part of the inner dimension, as pairs.
#[repr(align(64))]
struct Panel {
    weights: MaybeUninit<[[u16; PANEL]; TILE_OUTPUTS]>,
    start: usize,
    width: usize,
}

impl Panel {
    /// Reads the weights from rows of `inputs` numbers at `rows`, padded with zeros.
    ///
    /// # Safety
    /// As for [`Lanes`], `V` and `S` have dots, and there are four rows.
    #[inline(always)]
    unsafe fn fill<V: Lanes, S: Stored>(&mut self, rows: *const u8, inputs: usize) {
        let to: *mut u8 = self.weights.as_mut_ptr().cast();
        for n in 0..TILE_OUTPUTS {
            // SAFETY: the caller vouches for the rows; a panel holds `PANEL` numbers of each.
            unsafe {
                let row = rows.add(n * S::row_bytes(inputs));
                for k in (0..self.width).step_by(PAIRS) {
                    let pairs = S::pairs::<V>(row, self.start + k, inputs - self.start - k);
                    V::store_pairs(pairs, to.add(2 * (n * PANEL + k)));
                }
            }
        }
    }
}
