//! Matrix times rows: `out[row][n] = Σ_k weight[n][k] · x[row][k]`, weights as stored.
//!
//! One kernel family serves a single row (decode: bound by memory, eight streams of weights at a
//! time) and many (prefill: tiles of outputs by rows). A region is cut into chunks of outputs whose
//! weights fit into the second-level cache; within one, every row passes over the chunk while it is
//! there. Several matrices that read the same rows share a region.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

mod dots;

use std::mem::MaybeUninit;
use std::ops::Range;

use self::dots::Dots;
pub(crate) use self::dots::rounded_bytes;

use super::formats::widen;
use super::kernel::Kernel;
use super::lanes::{Bf16, Element, F16, F32, LANES, Lanes};
use super::pool::{Pool, Shard};
use super::stored::row_bytes;
use super::tier::Instructions;
use tensor::{Activation, Format};

/// Weights a task passes over: small enough for balance between threads, large enough that
/// claiming it costs nothing.
const CHUNK_BYTES: usize = 128 << 10;
/// The same for a step of [`MANY_ROWS`]: what costs is that every row comes by for every chunk, so
/// chunks are as large as the second-level cache allows.
const CHUNK_BYTES_MANY: usize = 384 << 10;
/// As many rows as keep a chunk busy much longer than it takes to read it.
const MANY_ROWS: usize = 64;
/// The most outputs a task computes: the size of its scratch.
const CHUNK_OUTPUTS: usize = 128;
/// Chunks are multiples of the widest tile.
const TILE_OUTPUTS: usize = 8;
/// The most rows in a tile.
const TILE_ROWS: usize = 6;

/// A stored matrix (outputs, inputs), row-major, at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    bytes: &'a [u8],
    format: Format,
    outputs: usize,
    inputs: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of `outputs` by `inputs` numbers.
    ///
    /// # Panics
    /// `bytes` is not that long, a row is not whole blocks, or no kernel reads the format.
    pub(crate) fn new(bytes: &'a [u8], format: Format, outputs: usize, inputs: usize) -> Self {
        assert!(Format::MATRICES.contains(&format), "no kernel reads {format}");
        assert!(format.row_bytes(inputs).is_some(), "rows of whole blocks");
        assert_eq!(bytes.len(), outputs * row_bytes(format, inputs), "a matrix of {outputs} × {inputs}");
        Self { bytes, format, outputs, inputs }
    }

    /// Its rows.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Widens row `index` into `out` (inputs).
    pub(crate) fn widen_row(&self, instructions: Instructions, index: usize, out: &mut [f32]) {
        let row_bytes = row_bytes(self.format, self.inputs);
        widen(instructions, &self.bytes[index * row_bytes..][..row_bytes], self.format, out);
    }

    /// True if the tier multiplies it in dots.
    fn in_dots(&self, on: Instructions) -> bool {
        on.dots(self.format)
    }

    /// Outputs per task.
    fn chunk(&self, threads: usize, rows: usize) -> usize {
        let bytes = if rows < MANY_ROWS { CHUNK_BYTES } else { CHUNK_BYTES_MANY };
        let most = (bytes / row_bytes(self.format, self.inputs).max(1)).clamp(1, CHUNK_OUTPUTS);
        // As many chunks for every thread, two at least: a thread that is done early steals one.
        let chunks = self.outputs.div_ceil(most).next_multiple_of(2 * threads);
        self.outputs.div_ceil(chunks).next_multiple_of(TILE_OUTPUTS).min(CHUNK_OUTPUTS)
    }
}

/// The rows that a region's matrices are applied to.
pub(crate) struct Inputs<'a> {
    /// Shape (rows, inputs).
    pub(crate) x: &'a [f32],
    /// Number of rows.
    pub(crate) rows: usize,
    /// Room for them rounded to bf16, where the tier wants that: [`rounded_bytes`].
    pub(crate) room: &'a mut [u8],
}

impl Inputs<'_> {
    /// Rounds them if a matrix of one of these formats wants it; where the rounded rows are.
    fn round(&mut self, pool: &mut Pool, on: Instructions, formats: impl Iterator<Item = Format> + Clone) -> Rounded {
        let packed = dots::packed(self.rows, formats.clone());
        if formats.clone().any(|format| on.dots(format)) && self.rows > 0 {
            dots::round_rows(pool, on, self.x, self.x.len() / self.rows, packed, self.room);
        }
        Rounded { at: self.room.as_ptr(), packed }
    }
}

/// Number of a region's rows that a task takes: those that stay in the second-level cache while all of its matrices'
/// weights pass by, where all are multiplied in dots. Tasks go by blocks of rows.
fn block_rows<'a>(on: Instructions, rows: usize, matrices: impl Iterator<Item = Matrix<'a>>) -> usize {
    let (rows, mut matrices) = (rows.max(1), matrices.peekable());
    let inputs = matrices.peek().map_or(0, |matrix| matrix.inputs);
    if matrices.all(|matrix| matrix.in_dots(on)) { dots::block_rows(rows, inputs) } else { rows }
}

/// Where rounded rows are: written before a region, read in it.
#[derive(Clone, Copy)]
struct Rounded {
    at: *const u8,
    /// True if they are packed.
    packed: bool,
}

// SAFETY: it is only read, while the region's `Inputs` are borrowed.
unsafe impl Send for Rounded {}
// SAFETY: likewise.
unsafe impl Sync for Rounded {}

/// Use of an output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It replaces what was there.
    Set,
    /// It is added to what was there.
    Add,
    /// A function of it replaces what was there.
    Activate(Activation),
}

/// One matrix of a region, and where its outputs go.
pub(crate) struct Projection<'a> {
    /// The matrix.
    pub(crate) matrix: Matrix<'a>,
    /// Added to every row's outputs, (outputs).
    pub(crate) bias: Option<&'a [f32]>,
    /// Shape (rows, outputs).
    pub(crate) out: &'a mut [f32],
    /// Use of an output.
    pub(crate) then: Then,
}

/// Applies every matrix to the same rows, in one parallel region.
///
/// # Panics
/// Shapes do not fit together.
pub(crate) fn project(pool: &mut Pool, on: Instructions, inputs: &mut Inputs<'_>, projections: &mut [Projection<'_>]) {
    let threads = pool.threads();
    let rounded = inputs.round(pool, on, projections.iter().map(|projection| projection.matrix.format));
    let Inputs { x, rows, .. } = *inputs;
    let mut ends = [0usize; 4];
    assert!(projections.len() <= ends.len(), "at most {} matrices in a region", ends.len());
    let mut jobs = [None; 4];
    let mut tasks = 0;
    let block = block_rows(on, rows, projections.iter().map(|projection| projection.matrix));
    for (index, projection) in projections.iter_mut().enumerate() {
        let matrix = projection.matrix;
        assert_eq!(x.len(), rows * matrix.inputs, "rows of {} inputs", matrix.inputs);
        assert_eq!(projection.out.len(), rows * matrix.outputs, "rows of {} outputs", matrix.outputs);
        assert!(projection.bias.is_none_or(|bias| bias.len() == matrix.outputs), "a bias per output");
        let chunk = matrix.chunk(threads, rows);
        tasks += matrix.outputs.div_ceil(chunk);
        ends[index] = tasks;
        jobs[index] = Some((matrix, chunk, projection.bias, Shard::of(projection.out), projection.then));
    }
    // Tasks number the chunks of all matrices one after the other, once for every block of rows.
    pool.run(rows.div_ceil(block) * tasks, &|task| {
        let (rows, task) = (block_of(task / tasks, block, rows), task % tasks);
        let index = ends.iter().position(|&end| task < end).unwrap_or(0);
        let first_task = if index == 0 { 0 } else { ends[index - 1] };
        let Some((matrix, chunk, bias, out, then)) = jobs[index] else { return };
        let first = (task - first_task) * chunk;
        let count = chunk.min(matrix.outputs - first);
        run_chunk(Chunk { on, matrix, bias, x, rounded, rows, first, count, out, then, gated: None });
    });
}

/// `out = activation(gate · x + gate_bias) · (up · x + up_bias)`, in one parallel region; `out` is
/// (rows, outputs).
///
/// # Panics
/// Shapes do not fit together.
pub(crate) fn project_gated(
    pool: &mut Pool,
    on: Instructions,
    inputs: &mut Inputs<'_>,
    (gate, gate_bias): (Matrix<'_>, Option<&[f32]>),
    (up, up_bias): (Matrix<'_>, Option<&[f32]>),
    activation: Activation,
    out: &mut [f32],
) {
    let rounded = inputs.round(pool, on, [gate.format, up.format].into_iter());
    let Inputs { x, rows, .. } = *inputs;
    assert_eq!((gate.outputs, gate.inputs), (up.outputs, up.inputs), "gate and up have one shape");
    assert_eq!(x.len(), rows * gate.inputs, "rows of {} inputs", gate.inputs);
    assert_eq!(out.len(), rows * gate.outputs, "rows of {} outputs", gate.outputs);
    assert!([gate_bias, up_bias].into_iter().flatten().all(|bias| bias.len() == gate.outputs), "a bias per output");
    let chunk = gate.chunk(pool.threads(), rows).min(up.chunk(pool.threads(), rows));
    let block = block_rows(on, rows, [gate, up].into_iter());
    let (out, tasks) = (Shard::of(out), gate.outputs.div_ceil(chunk));
    pool.run(rows.div_ceil(block) * tasks, &|task| {
        let (rows, first) = (block_of(task / tasks, block, rows), task % tasks * chunk);
        let count = chunk.min(gate.outputs - first);
        let gated = Some((up, up_bias, activation));
        let then = Then::Set;
        run_chunk(Chunk { on, matrix: gate, bias: gate_bias, x, rounded, rows, first, count, out, then, gated });
    });
}

/// The rows of a block.
fn block_of(index: usize, block: usize, rows: usize) -> Rows {
    Rows { first: index * block, last: rows.min((index + 1) * block) }
}

/// Some of a region's rows.
#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    last: usize,
}

/// Some consecutive outputs of some rows: a task's work, its own part of `out`.
struct Chunk<'a> {
    on: Instructions,
    matrix: Matrix<'a>,
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    rounded: Rounded,
    rows: Rows,
    first: usize,
    count: usize,
    out: Shard<f32>,
    then: Then,
    gated: Option<(Matrix<'a>, Option<&'a [f32]>, Activation)>,
}

fn run_chunk(chunk: Chunk<'_>) {
    let on = chunk.on;
    match chunk.gated {
        None => on.run(Plain(chunk)),
        Some(_) => on.run(Gated(chunk)),
    }
}

struct Plain<'a>(Chunk<'a>);

impl Kernel for Plain<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Chunk { on, matrix, bias, x, rounded, rows, first, count, out, then, .. } = self.0;
        let mut row = rows.first;
        // The chunk's weights stay in the cache while one tile of rows after the other passes over them.
        while row < rows.last {
            let left = rows.last - row;
            let tile_rows = if matrix.in_dots(on) { left.min(dots::BLOCK_ROWS) } else { tile_rows::<V>(left) };
            // SAFETY: `project` has checked the shapes, so the weights of outputs `first..first + count`,
            // the tile's rows of `x` and of `out` are in bounds; no other task has these outputs.
            unsafe {
                let to = out.pointer().add(row * matrix.outputs + first);
                let part = Part::new(on, matrix, bias, x, rounded, row, first..first + count);
                Part { add: then == Then::Add, ..part }.rows::<V>(tile_rows, to, matrix.outputs);
                if let Then::Activate(activation) = then {
                    for tile_row in 0..tile_rows {
                        activate::<V>(activation, to.add(tile_row * matrix.outputs), count);
                    }
                }
            }
            row += tile_rows;
        }
    }
}

struct Gated<'a>(Chunk<'a>);

impl Kernel for Gated<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Chunk { on, matrix: gate, bias, x, rounded, rows, first, count, out, gated, .. } = self.0;
        let Some((up, up_bias, activation)) = gated else { return };
        let mut scratch = MaybeUninit::<[f32; CHUNK_OUTPUTS * dots::BLOCK_ROWS]>::uninit();
        let scratch: *mut f32 = scratch.as_mut_ptr().cast();
        let in_dots = [gate, up].iter().all(|side| side.in_dots(on));
        let mut row = rows.first;
        while row < rows.last {
            let left = rows.last - row;
            let tile_rows = match (in_dots, V::DOTS) {
                (true, _) => left.min(dots::BLOCK_ROWS),
                // One side may be of packed rows: whole tiles.
                (false, true) => left.min(TILE_ROWS),
                (false, false) => tile_rows::<V>(left),
            };
            // Gates go where the outputs will be, ups into the scratch; then both become one.
            let gates = out.pointer().wrapping_add(row * gate.outputs + first);
            let sides = [(gate, bias, gates, gate.outputs), (up, up_bias, scratch, CHUNK_OUTPUTS)];
            // SAFETY: as in `Plain`; the scratch holds a tile of `up`'s outputs, since a chunk has at
            // most `CHUNK_OUTPUTS` of them, and is read after they were written.
            unsafe {
                for (matrix, bias, out, out_stride) in sides {
                    let part = Part::new(on, matrix, bias, x, rounded, row, first..first + count);
                    part.tiles_of_rows::<V>(tile_rows, out, out_stride);
                }
                for tile_row in 0..tile_rows {
                    let ups = scratch.add(tile_row * CHUNK_OUTPUTS);
                    gate_times::<V>(activation, gates.add(tile_row * gate.outputs), ups, count);
                }
            }
            row += tile_rows;
        }
    }
}

/// `gates = activation(gates) · ups`.
///
/// # Safety
/// As for [`Lanes`]; both hold `count` numbers.
#[inline(always)]
unsafe fn gate_times<V: Lanes>(activation: Activation, gates: *mut f32, ups: *const f32, count: usize) {
    let mut at = 0;
    while at < count {
        let some = LANES.min(count - at);
        // SAFETY: the caller vouches for `count` numbers.
        unsafe {
            let (gate, up) = (V::load_some(gates.add(at), some), V::load_some(ups.add(at), some));
            gate.activate(activation).mul(up).store_some(gates.add(at), some);
        }
        at += LANES;
    }
}

/// Replaces numbers by a function of them.
///
/// # Safety
/// As for [`Lanes`]; there are `count` numbers.
#[inline(always)]
unsafe fn activate<V: Lanes>(activation: Activation, numbers: *mut f32, count: usize) {
    let mut at = 0;
    while at < count {
        let some = LANES.min(count - at);
        // SAFETY: the caller vouches for `count` numbers.
        unsafe { V::load_some(numbers.add(at), some).activate(activation).store_some(numbers.add(at), some) };
        at += LANES;
    }
}

/// Height of the next tile, of the rows that are left: as many sums as registers hold. Only a
/// few heights are compiled: a chunk's second pass over its weights finds them in the cache.
fn tile_rows<V: Lanes>(left: usize) -> usize {
    match left {
        0..=2 => left,
        _ if !V::MANY_REGISTERS => 2,
        3 => 2,
        4 | 5 => 4,
        _ => TILE_ROWS,
    }
}

/// Consecutive outputs of at most [`TILE_ROWS`] rows, or of as many as dots take.
#[derive(Clone, Copy)]
struct Part {
    on: Instructions,
    format: Format,
    weights: *const u8,
    inputs: usize,
    outputs: usize,
    bias: *const f32,
    x: *const f32,
    /// The rows rounded to bf16, where the tier and the format want that.
    rounded: *const u8,
    packed: bool,
    out: *mut f32,
    out_stride: usize,
    add: bool,
}

impl Part {
    /// Some outputs of a matrix, of rows from `row` on.
    ///
    /// # Safety
    /// There are such outputs and rows.
    unsafe fn new(
        on: Instructions,
        matrix: Matrix<'_>,
        bias: Option<&[f32]>,
        x: &[f32],
        rounded: Rounded,
        row: usize,
        outputs: Range<usize>,
    ) -> Self {
        let stride = row_bytes(matrix.format, matrix.inputs);
        // SAFETY: the caller vouches for them.
        unsafe {
            Self {
                on,
                format: matrix.format,
                weights: matrix.bytes.as_ptr().add(outputs.start * stride),
                inputs: matrix.inputs,
                outputs: outputs.len(),
                bias: bias.map_or(std::ptr::null(), |bias| bias.as_ptr().add(outputs.start)),
                x: x.as_ptr().add(row * matrix.inputs),
                rounded: rounded.at.wrapping_add(row * dots::row_bytes(matrix.inputs)),
                packed: rounded.packed,
                out: std::ptr::null_mut(),
                out_stride: 0,
                add: false,
            }
        }
    }

    /// Any number of rows, in tiles that are compiled; dots take them at once.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tiles_of_rows<V: Lanes>(self, rows: usize, out: *mut f32, out_stride: usize) {
        let mut done = 0;
        while done < rows {
            let these = if self.on.dots(self.format) { rows } else { tile_rows::<V>(rows - done) };
            let (x, out) = (self.x.wrapping_add(done * self.inputs), out.wrapping_add(done * out_stride));
            // SAFETY: passed on; the pointers go on within what they cover.
            unsafe { Self { x, ..self }.rows::<V>(these, out, out_stride) };
            done += these;
        }
    }

    /// # Safety
    /// As for [`Lanes`], and all pointers cover what the sizes say.
    #[inline(always)]
    unsafe fn rows<V: Lanes>(self, rows: usize, out: *mut f32, out_stride: usize) {
        let part = Self { out, out_stride, ..self };
        // SAFETY: passed on.
        unsafe {
            match self.format {
                format if V::DOTS && self.on.dots(format) => {
                    let Self { on, weights, inputs, outputs, bias, rounded: x, packed, add, .. } = self;
                    Dots { on, format, weights, inputs, outputs, bias, x, packed, out, out_stride, add }
                        .rows::<V>(rows);
                }
                Format::F32 => part.tiles_of::<V, F32>(rows),
                Format::F16 => part.tiles_of::<V, F16>(rows),
                Format::Bf16 => part.tiles_of::<V, Bf16>(rows),
                _ => part.tiles_of::<V, Unpacked>(rows),
            }
        }
    }

    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tiles_of<V: Lanes, S: Source>(self, rows: usize) {
        // SAFETY: passed on.
        unsafe {
            if V::MANY_REGISTERS {
                match rows {
                    1 => self.tiles::<V, S, 8, 1>(),
                    2 => self.tiles::<V, S, 8, 2>(),
                    4 => self.tiles::<V, S, 4, 4>(),
                    TILE_ROWS => self.tiles::<V, S, 4, TILE_ROWS>(),
                    rows => unreachable!("no tile has {rows} rows, see `tile_rows`"),
                }
            } else {
                match rows {
                    1 => self.tiles::<V, S, 4, 1>(),
                    2 => self.tiles::<V, S, 2, 2>(),
                    rows => unreachable!("no tile has {rows} rows, see `tile_rows`"),
                }
            }
        }
    }

    /// Tiles of `N` outputs by `M` rows, then single outputs for the rest.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn tiles<V: Lanes, S: Source, const N: usize, const M: usize>(self) {
        let mut output = 0;
        // SAFETY: passed on.
        unsafe {
            while output + N <= self.outputs {
                S::tile::<V, N, M>(self, output);
                output += N;
            }
            while output < self.outputs {
                S::tile::<V, 1, M>(self, output);
                output += 1;
            }
        }
    }

    /// Sixteen inputs of every output and row, added up; each weight is read once and multiplied with every row.
    ///
    /// # Safety
    /// As for `rows`; there are `count` inputs from `k` on.
    #[inline(always)]
    unsafe fn add<V: Lanes, const N: usize, const M: usize>(
        self,
        k: usize,
        count: usize,
        weight: impl Fn(usize) -> V,
        sums: &mut [[V; M]; N],
    ) {
        // SAFETY: passed on.
        unsafe {
            let mut x = [V::zero(); M];
            for m in 0..M {
                let row = self.x.add(m * self.inputs + k);
                x[m] = if count == LANES { V::load(row) } else { V::load_some(row, count) };
            }
            for n in 0..N {
                let weight = weight(n);
                for m in 0..M {
                    sums[n][m] = weight.mul_add(x[m], sums[n][m]);
                }
            }
        }
    }

    /// Folds and stores a tile's sums.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn finish<V: Lanes, const N: usize, const M: usize>(self, output: usize, sums: [[V; M]; N]) {
        for (n, sums) in sums.into_iter().enumerate() {
            // SAFETY: passed on.
            unsafe {
                let bias = if self.bias.is_null() { 0.0 } else { *self.bias.add(output + n) };
                for (m, sum) in sums.into_iter().enumerate() {
                    let out = self.out.add(m * self.out_stride + output + n);
                    let value = sum.sum() + bias;
                    *out = if self.add { *out + value } else { value };
                }
            }
        }
    }
}

/// Where a tile's weights come from.
trait Source {
    /// One tile. Whatever its shape, an output's sum is made of the same additions.
    ///
    /// # Safety
    /// As for [`Part::rows`].
    unsafe fn tile<V: Lanes, const N: usize, const M: usize>(part: Part, output: usize);
}

/// Plain numbers, as they lie.
impl<E: Element> Source for E {
    #[inline(always)]
    unsafe fn tile<V: Lanes, const N: usize, const M: usize>(part: Part, output: usize) {
        let stride = part.inputs * E::BYTES;
        // SAFETY: the caller vouches for the pointers; prefetching beyond them is harmless.
        unsafe {
            let weights = part.weights.add(output * stride);
            let mut sums = [[V::zero(); M]; N];
            let mut k = 0;
            while k + LANES <= part.inputs {
                let weight = |n: usize| {
                    let at = weights.wrapping_add(n * stride + k * E::BYTES);
                    // With a row or two memory is the bound: ask for the next outputs' weights. With more, the second pass
                    // over a chunk finds them in the cache.
                    if M <= 2 {
                        V::prefetch(at.wrapping_add(N * stride));
                    }
                    E::load::<V>(at)
                };
                part.add::<V, N, M>(k, LANES, weight, &mut sums);
                k += LANES;
            }
            // The rest of a row that is no multiple of sixteen; the other lanes are zero.
            if k < part.inputs {
                let rest = part.inputs - k;
                let weight = |n: usize| E::load_some::<V>(weights.wrapping_add(n * stride + k * E::BYTES), rest);
                part.add::<V, N, M>(k, rest, weight, &mut sums);
            }
            part.finish::<V, N, M>(output, sums);
        }
    }
}

/// Blocks, unpacked a stretch at a time into the first-level cache.
struct Unpacked;

/// Numbers in a stretch: whole blocks of every format.
const STRETCH: usize = 256;

impl Source for Unpacked {
    #[inline(always)]
    unsafe fn tile<V: Lanes, const N: usize, const M: usize>(part: Part, output: usize) {
        let Part { on, format, inputs, .. } = part;
        let stride = row_bytes(format, inputs);
        let mut room = MaybeUninit::<[[f32; STRETCH]; N]>::uninit();
        let room: *mut f32 = room.as_mut_ptr().cast();
        // SAFETY: the caller vouches for the pointers; a stretch is read after it was written, and rows are whole blocks.
        unsafe {
            let mut sums = [[V::zero(); M]; N];
            for from in (0..inputs).step_by(STRETCH) {
                let count = STRETCH.min(inputs - from);
                let bytes = row_bytes(format, count);
                for n in 0..N {
                    let at = part.weights.add((output + n) * stride + row_bytes(format, from));
                    let numbers = room.add(n * STRETCH);
                    numbers.write_bytes(0, count);
                    let numbers = std::slice::from_raw_parts_mut(numbers, count);
                    widen(on, std::slice::from_raw_parts(at, bytes), format, numbers);
                }
                for k in (0..count).step_by(LANES) {
                    let weight = |n: usize| V::load(room.add(n * STRETCH + k));
                    part.add::<V, N, M>(from + k, LANES, weight, &mut sums);
                }
            }
            part.finish::<V, N, M>(output, sums);
        }
    }
}
