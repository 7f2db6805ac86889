//! The same products where the tier multiplies bf16 pairs: rows rounded to bf16, weights as stored.
//!
//! A tile is up to six rows by four outputs, a register of partial sums for each: sixteen lanes, two
//! neighbours of the inner dimension to a lane. A few rows pass over four outputs' weights as they
//! are stored, while the next four's are on their way from memory. Many rows are *packed*: six side
//! by side, register by register, as are the weights of two tiles for a panel of the inner
//! dimension, so that a tile reads two streams from start to end. A panel stays in the first-level
//! cache while rows come by from the second, and sums are kept in memory between panels. Either way
//! a sum is made of the same additions.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

use std::mem::MaybeUninit;

use crate::kernels::formats::{OfElement, run_with};
use crate::kernels::kernel::Kernel;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kernels::pool::{Pool, Shard};
use crate::kernels::stored::{self, Stored};
use crate::kernels::tier::Instructions;
use tensor::Format;

/// Numbers that one register of pairs holds.
const PAIRS: usize = 2 * LANES;
/// Outputs in a tile.
const TILE_OUTPUTS: usize = 4;
/// The most rows in a tile.
const TILE_ROWS: usize = 6;
/// The most rows that a panel's weights pass over.
pub(super) const BLOCK_ROWS: usize = 32 * TILE_ROWS;
/// The most bytes of rounded rows that they make: less than half of the second-level cache.
const BLOCK_BYTES: usize = 384 << 10;
/// The most rows that take weights as they are: more rows than these are packed.
const DIRECT_ROWS: usize = 3 * TILE_ROWS;
/// Numbers in a panel.
const PANEL: usize = 1024;
/// The most tiles of a panel, side by side: their weights take a third of the first-level cache, and rows come from the
/// second half as often as they would for one.
const PANEL_TILES: usize = 2;
/// Numbers that are whole blocks of every format.
const STRETCH: usize = 256;
/// Bytes of a register of pairs.
const PAIRS_BYTES: usize = 2 * PAIRS;
/// Numbers that one thread rounds faster than another wakes up.
const ROUND_ALONE: usize = 32 << 10;

/// Bytes of one rounded row: padded with zeros to whole registers.
pub(super) const fn row_bytes(width: usize) -> usize {
    width.next_multiple_of(PAIRS) * 2
}

/// Bytes of so many rounded rows: a last tile of packed rows has room for six.
pub(crate) const fn rounded_bytes(rows: usize, width: usize) -> usize {
    rows.div_ceil(TILE_ROWS).saturating_mul(TILE_ROWS * row_bytes(width))
}

/// True if so many rows are packed: many, or several that meet blocks, which are unpacked but once.
pub(super) fn packed(rows: usize, mut formats: impl Iterator<Item = Format>) -> bool {
    rows > DIRECT_ROWS || (rows > 1 && formats.any(Format::is_blocks))
}

/// Number of `rows` that pass over weights together: whole tiles, and as many each time.
pub(super) fn block_rows(rows: usize, inputs: usize) -> usize {
    let most = (BLOCK_BYTES / row_bytes(inputs).max(1)).clamp(8 * TILE_ROWS, BLOCK_ROWS);
    rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(TILE_ROWS)
}

/// Rounds rows of `width` numbers to bf16, and packs them if they are to be.
///
/// # Panics
/// `room` is too small.
pub(super) fn round_rows(pool: &mut Pool, on: Instructions, x: &[f32], width: usize, packed: bool, room: &mut [u8]) {
    let rows = x.len() / width.max(1);
    assert!(room.len() >= rounded_bytes(rows, width), "room for {rows} rounded rows of {width}");
    let task_rows = (ROUND_ALONE / width.max(1)).max(1);
    let room = Shard::of(room);
    pool.run(rows.div_ceil(task_rows), &|task| {
        for row in task * task_rows..rows.min((task + 1) * task_rows) {
            // A packed row begins in its tile, six rows interleaved register by register; other rows are contiguous.
            let tile = if packed { row % TILE_ROWS } else { 0 };
            let to = (row - tile) * row_bytes(width) + tile * PAIRS_BYTES;
            let step = if packed { TILE_ROWS * PAIRS_BYTES } else { PAIRS_BYTES };
            on.run(RoundRow { x: &x[row * width..][..width], to: room.pointer().wrapping_add(to), step });
        }
    });
}

struct RoundRow<'a> {
    x: &'a [f32],
    to: *mut u8,
    /// Bytes from one register to the next.
    step: usize,
}

impl Kernel for RoundRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (x, count) = (self.x.as_ptr(), self.x.len());
        let (mut at, mut to) = (0, self.to);
        // SAFETY: `round_rows` has checked that there is room for whole registers; no other task has this row.
        unsafe {
            while at + PAIRS <= count {
                let pairs = V::round_pairs(V::load(x.add(at)), V::load(x.add(at + LANES)));
                V::store_pairs(pairs, to);
                to = to.wrapping_add(self.step);
                at += PAIRS;
            }
            if at < count {
                let first = V::load_some(x.add(at), count - at);
                // Zeros fill the last register: a product with whatever weights stand there adds nothing.
                let second = match (count - at).checked_sub(LANES) {
                    Some(left) if left > 0 => V::load_some(x.add(at + LANES), left),
                    _ => V::zero(),
                };
                V::store_pairs(V::round_pairs(first, second), to);
            }
        }
    }
}

/// Consecutive outputs of some of a step's rows.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    pub(super) on: Instructions,
    pub(super) format: Format,
    /// (outputs, inputs), as stored.
    pub(super) weights: *const u8,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Null if there is none.
    pub(super) bias: *const f32,
    /// The rounded rows.
    pub(super) x: *const u8,
    /// True if they are packed: then they begin with a tile.
    pub(super) packed: bool,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) add: bool,
}

/// All rows of a few, or the outputs that packed rows leave over.
struct Direct(Dots, usize);

impl OfElement for Direct {
    #[inline(always)]
    unsafe fn run<V: Lanes, S: Stored>(self) {
        let Self(dots, rows) = self;
        if V::DOTS && S::DOTS {
            // SAFETY: passed on.
            unsafe { dots.direct::<V, S>(rows) }
        }
    }
}

impl Dots {
    /// Computes `rows` rows.
    ///
    /// # Safety
    /// As for [`Lanes`], `V` and the format have dots, and all pointers cover what the sizes say.
    #[inline(always)]
    pub(super) unsafe fn rows<V: Lanes>(self, rows: usize) {
        let whole = self.outputs - self.outputs % TILE_OUTPUTS;
        if self.packed {
            for output in (0..whole).step_by(PANEL_TILES * TILE_OUTPUTS) {
                // SAFETY: passed on.
                unsafe { self.panels::<V>(output, PANEL_TILES.min((whole - output) / TILE_OUTPUTS), rows) };
            }
        }
        if !self.packed || whole < self.outputs {
            run_with(self.on, self.format, Direct(self, rows));
        }
    }

    /// Every output of rows as they are; of packed rows those outputs that are no whole tile.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn direct<V: Lanes, S: Stored>(self, rows: usize) {
        let whole = self.outputs - self.outputs % TILE_OUTPUTS;
        // SAFETY: passed on.
        unsafe {
            // Where few sums fit into registers, several rows meet one output at a time.
            let tiled = if self.packed || V::MANY_REGISTERS || rows == 1 { whole } else { 0 };
            if !self.packed {
                for output in (0..tiled).step_by(TILE_OUTPUTS) {
                    self.block::<V, S, TILE_OUTPUTS>(output, rows);
                }
            }
            // Fewer than four outputs are left, one at a time. A packed row is reached in the steps of its tile.
            for output in tiled..self.outputs {
                for row in (0..rows).step_by(TILE_ROWS) {
                    let tile_rows = TILE_ROWS.min(rows - row);
                    if self.packed {
                        self.below(row).each::<V, S>(output, tile_rows);
                    } else {
                        self.below(row).block::<V, S, 1>(output, tile_rows);
                    }
                }
            }
        }
    }

    /// The same without the first `row` rows: whole tiles where rows are packed.
    fn below(self, row: usize) -> Self {
        let x = self.x.wrapping_add(row * row_bytes(self.inputs));
        Self { x, out: self.out.wrapping_add(row * self.out_stride), ..self }
    }

    /// One output of each of a packed tile's rows.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn each<V: Lanes, S: Stored>(self, output: usize, rows: usize) {
        // SAFETY: passed on.
        unsafe {
            let weights = self.weights.add(output * S::row_bytes(self.inputs));
            for row in 0..rows {
                let (mut sum, mut scales) = (V::zero(), S::Scales::default());
                for k in (0..self.inputs).step_by(PAIRS) {
                    if k.is_multiple_of(S::GROUP) {
                        scales = S::scales::<V>(weights, k);
                    }
                    let x = V::load_pairs(self.x.add((k / PAIRS * TILE_ROWS + row) * PAIRS_BYTES));
                    sum = sum.dot(x, S::pairs::<V>(weights, k, self.inputs - k, &scales));
                }
                self.finish::<V, 1>(output, row, &[sum]);
            }
        }
    }

    /// `N` outputs of at most [`DIRECT_ROWS`] rows.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn block<V: Lanes, S: Stored, const N: usize>(self, output: usize, rows: usize) {
        if S::IS_BLOCKS {
            // Of blocks several rows are packed, see `packed`.
            // SAFETY: passed on.
            unsafe { self.tile_of_blocks::<V, S, N>(output) };
            return;
        }
        let tiles = rows.div_ceil(TILE_ROWS);
        // The weights of the next block of outputs, which the tiles of this one prefetch bit by bit: memory and registers
        // are busy at the same time.
        let mut ahead = self.weights.wrapping_add((output + N) * S::row_bytes(self.inputs));
        let mut row = 0;
        // SAFETY: passed on.
        unsafe {
            for tile in 0..tiles {
                // More than one tile: of three rows at least.
                let tile_rows = (rows - row).div_ceil(tiles - tile);
                // The last number of a shape is the cache lines to prefetch in every step.
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

    /// One row's tile over blocks, which are unpacked in registers: the additions of [`Dots::tile`], two registers of pairs at a
    /// time where a group has so many. The blocks of the next outputs are asked for meanwhile, as many bytes as a step takes:
    /// asked for at once they would not come beside the arithmetic.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tile_of_blocks<V: Lanes, S: Stored, const N: usize>(self, output: usize) {
        let stride = S::row_bytes(self.inputs);
        let in_twos = S::GROUP.is_multiple_of(2 * PAIRS);
        let step = if in_twos { 2 * PAIRS } else { PAIRS };
        let bytes = N * S::row_bytes(step);
        // SAFETY: the caller vouches for the pointers; rows are whole groups; prefetching is harmless.
        unsafe {
            let weights = self.weights.add(output * stride);
            let mut ahead = weights.wrapping_add(N * stride);
            let mut sums = [V::zero(); N];
            let mut scales = [S::Scales::default(); N];
            for group in (0..self.inputs).step_by(S::GROUP) {
                for n in 0..N {
                    scales[n] = S::scales::<V>(weights.add(n * stride), group);
                }
                if in_twos {
                    // Kept in memory, from where a load spreads a scale to all lanes; of a register that takes a shuffle more.
                    std::hint::black_box(&mut scales);
                }
                for at in (group..group + S::GROUP).step_by(step) {
                    for line in (0..bytes).step_by(64) {
                        V::prefetch(ahead.wrapping_add(line));
                    }
                    ahead = ahead.wrapping_add(bytes);
                    let one = V::load_pairs(self.x.add(2 * at));
                    if in_twos {
                        let two = V::load_pairs(self.x.add(2 * (at + PAIRS)));
                        for n in 0..N {
                            let pairs = S::pairs_two::<V>(weights.add(n * stride), at, &scales[n]);
                            sums[n] = sums[n].dot(one, pairs[0]).dot(two, pairs[1]);
                        }
                    } else {
                        for n in 0..N {
                            let pairs = S::pairs::<V>(weights.add(n * stride), at, PAIRS, &scales[n]);
                            sums[n] = sums[n].dot(one, pairs);
                        }
                    }
                }
            }
            self.finish::<V, N>(output, 0, &sums);
        }
    }

    /// One tile over all inputs. Prefetches weights from `ahead` on; returns where the next tile resumes.
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
        let (stride, x_stride) = (S::row_bytes(self.inputs), row_bytes(self.inputs));
        // SAFETY: the caller vouches for the pointers; rounded rows are padded; prefetching is harmless.
        unsafe {
            let (weights, x) = (self.weights.add(output * stride), self.x.add(row * x_stride));
            let mut sums = [[V::zero(); N]; M];
            let mut scales = [S::Scales::default(); N];
            let mut k = 0;
            // Thirty-two inputs at a time, two to a lane.
            while k < self.inputs {
                for line in 0..AHEAD {
                    V::prefetch(ahead.wrapping_add(64 * line));
                }
                ahead = ahead.wrapping_add(S::row_bytes(PAIRS) * AHEAD);
                // The first value only makes the array: every element is replaced.
                let mut pairs = [V::load_pairs(x.add(2 * k)); N];
                for n in 0..N {
                    if k.is_multiple_of(S::GROUP) {
                        scales[n] = S::scales::<V>(weights.add(n * stride), k);
                    }
                    pairs[n] = S::pairs::<V>(weights.add(n * stride), k, self.inputs - k, &scales[n]);
                }
                // Every row meets the same four registers of weights: M · N independent sums hide the latency of a dot.
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

    /// The outputs of `side` tiles beside each other, for packed rows: panel by panel, and within a panel row by row.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn panels<V: Lanes>(self, output: usize, side: usize, rows: usize) {
        let mut panel = Panel { weights: MaybeUninit::uninit(), start: 0, width: 0 };
        let mut sums = MaybeUninit::<[[[V; TILE_OUTPUTS]; BLOCK_ROWS]; PANEL_TILES]>::uninit();
        let sums: *mut [V; TILE_OUTPUTS] = sums.as_mut_ptr().cast();
        // Sums are kept here between panels. They are left uninitialised, since the first panel writes them all.
        let (outputs, stride) = (side * TILE_OUTPUTS, stored::row_bytes(self.format, self.inputs));
        let weights = self.weights.wrapping_add(output * stride);
        while panel.start < self.inputs {
            panel.width = PANEL.min(self.inputs - panel.start);
            let end = panel.start + panel.width;
            // Prefetched meanwhile: the same outputs further on, or after the last panel the next outputs.
            let offset = if end < self.inputs { stored::row_bytes(self.format, end) } else { outputs * stride };
            let next = weights.wrapping_add(offset);
            // SAFETY: passed on; `sums` holds as many rows as there are, whole tiles of them, of as many tiles.
            unsafe {
                let inputs = self.inputs;
                run_with(self.on, self.format, Fill { panel: &mut panel, rows: weights, outputs, inputs });
                for row in (0..rows).step_by(TILE_ROWS) {
                    for beside in 0..side {
                        // Every pass prefetches another output's row, so that all have been at the end.
                        let pass = row / TILE_ROWS * side + beside;
                        let ahead = next.wrapping_add(pass % outputs * stride);
                        let at = Place { output: output + beside * TILE_OUTPUTS, beside, row };
                        let sums = sums.add(beside * BLOCK_ROWS + row);
                        // An odd row more is computed and dropped: cheaper than another shape to compile.
                        match rows - row {
                            1 | 2 => self.panel_tile::<V, 2>(&panel, at, rows, sums, ahead),
                            3 | 4 => self.panel_tile::<V, 4>(&panel, at, rows, sums, ahead),
                            _ => self.panel_tile::<V, TILE_ROWS>(&panel, at, rows, sums, ahead),
                        }
                    }
                }
            }
            panel.start = end;
        }
    }

    /// One tile over a panel: resumes `sums` (`M` rows) unless it is the first, and stores outputs if
    /// it is the last, those of rows below `rows`. Meanwhile it prefetches the next panel's weights,
    /// at `ahead`.
    ///
    /// # Safety
    /// As for `rows`; the panel is filled.
    #[inline(always)]
    unsafe fn panel_tile<V: Lanes, const M: usize>(
        self,
        panel: &Panel,
        at: Place,
        rows: usize,
        sums: *mut [V; TILE_OUTPUTS],
        ahead: *const u8,
    ) {
        // SAFETY: the caller vouches for the pointers; rounded rows are padded, and six to a tile.
        unsafe {
            let mut tile = [[V::zero(); TILE_OUTPUTS]; M];
            // Sums resume where the panel before left them: the same additions as without panels.
            if panel.start > 0 {
                for m in 0..M {
                    tile[m] = *sums.add(m);
                }
            }
            if V::MANY_REGISTERS {
                self.panel_sums::<V, M, TILE_OUTPUTS>(panel, at, 0, &mut tile, ahead);
            } else {
                for n in 0..TILE_OUTPUTS {
                    self.panel_sums::<V, M, 1>(panel, at, n, &mut tile, ahead);
                }
            }
            let last = panel.start + panel.width == self.inputs;
            for m in 0..M {
                if !last {
                    *sums.add(m) = tile[m];
                } else if at.row + m < rows {
                    self.finish::<V, TILE_OUTPUTS>(at.output, at.row + m, &tile[m]);
                }
            }
        }
    }

    /// Adds a panel's products to `N` of a tile's outputs, from `first` on: as many as registers hold sums of.
    ///
    /// # Safety
    /// As for `panel_tile`.
    #[inline(always)]
    unsafe fn panel_sums<V: Lanes, const M: usize, const N: usize>(
        self,
        panel: &Panel,
        at: Place,
        first: usize,
        tile: &mut [[V; TILE_OUTPUTS]; M],
        mut ahead: *const u8,
    ) {
        // SAFETY: the caller vouches for the pointers; rounded rows are padded, and six to a tile.
        unsafe {
            let weights = panel.weights.as_ptr().cast::<u8>().add(at.beside * TILE_OUTPUTS * PANEL * 2);
            let mut weights = weights.add(first * PAIRS_BYTES);
            let mut x = self.x.add(at.row * row_bytes(self.inputs) + panel.start * TILE_ROWS * 2);
            // About the bytes of as many numbers.
            let step = stored::row_bytes(self.format, STRETCH) / (STRETCH / PAIRS);
            let mut sums = [[V::zero(); N]; M];
            for m in 0..M {
                sums[m].copy_from_slice(&tile[m][first..first + N]);
            }
            for _ in (0..panel.width).step_by(PAIRS) {
                V::prefetch(ahead);
                ahead = ahead.wrapping_add(step);
                let mut pairs = [V::load_pairs(weights); N];
                for n in 1..N {
                    pairs[n] = V::load_pairs(weights.add(n * PAIRS_BYTES));
                }
                for m in 0..M {
                    let x = V::load_pairs(x.add(m * PAIRS_BYTES));
                    for n in 0..N {
                        sums[m][n] = sums[m][n].dot(x, pairs[n]);
                    }
                }
                weights = weights.wrapping_add(TILE_OUTPUTS * PAIRS_BYTES);
                x = x.wrapping_add(TILE_ROWS * PAIRS_BYTES);
            }
            for m in 0..M {
                tile[m][first..first + N].copy_from_slice(&sums[m]);
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
            // Four registers are folded together in as many steps as one alone, and in the same order.
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

/// The place of a tile: its first output, which one of the panel's tiles that makes it, and its first row.
#[derive(Clone, Copy)]
struct Place {
    output: usize,
    beside: usize,
    row: usize,
}

/// The weights of a part of the inner dimension, as pairs, in tiles of four outputs: (tiles, registers, 4, 32).
#[repr(align(64))]
struct Panel {
    weights: MaybeUninit<[[u16; PANEL]; PANEL_TILES * TILE_OUTPUTS]>,
    start: usize,
    width: usize,
}

/// Reads a panel's weights from `outputs` rows of `inputs` numbers, padded with zeros.
struct Fill<'a> {
    panel: &'a mut Panel,
    rows: *const u8,
    outputs: usize,
    inputs: usize,
}

impl OfElement for Fill<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes, S: Stored>(self) {
        if !(V::DOTS && S::DOTS) {
            return;
        }
        let Self { panel, rows, outputs, inputs } = self;
        let to: *mut u8 = panel.weights.as_mut_ptr().cast();
        for n in 0..outputs {
            // SAFETY: the caller vouches for the rows; a panel holds `PANEL` numbers of each.
            unsafe {
                let row = rows.add(n * S::row_bytes(inputs));
                let to = to.add(n / TILE_OUTPUTS * TILE_OUTPUTS * PANEL * 2 + n % TILE_OUTPUTS * PAIRS_BYTES);
                let mut scales = S::Scales::default();
                // A panel begins with a group.
                for k in (0..panel.width).step_by(PAIRS) {
                    if k.is_multiple_of(S::GROUP) {
                        scales = S::scales::<V>(row, panel.start + k);
                    }
                    let pairs = S::pairs::<V>(row, panel.start + k, inputs - panel.start - k, &scales);
                    V::store_pairs(pairs, to.add(k / PAIRS * TILE_OUTPUTS * PAIRS_BYTES));
                }
            }
        }
    }
}
