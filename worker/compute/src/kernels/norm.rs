//! Norms of rows: `weight · x / √(mean(x²) + eps) + bias`, put somewhere or added to it, of the numbers themselves or of
//! their differences from the row's mean.

use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::pool::{Pool, Shard};
use super::tier::Instructions;
use tensor::Normed;

/// Rows a task takes; a step with fewer is done by the caller alone.
const TASK_ROWS: usize = 8;

/// A norm of rows.
#[derive(Clone, Copy)]
pub(crate) struct RowNorm<'a> {
    /// The numbers that are normed.
    pub(crate) of: Normed,
    /// Shape (width).
    pub(crate) weight: &'a [f32],
    /// Shape (width).
    pub(crate) bias: Option<&'a [f32]>,
    /// Added to the mean square.
    pub(crate) eps: f32,
}

/// Norms rows from `x` into `out`.
///
/// # Panics
/// The lengths do not fit.
pub(crate) fn norm(pool: &mut Pool, on: Instructions, norm: RowNorm<'_>, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many numbers");
    norm_rows::<false>(pool, on, norm, x.as_ptr(), out);
}

/// Norms rows where they are.
///
/// # Panics
/// The lengths do not fit.
pub(crate) fn norm_in_place(pool: &mut Pool, on: Instructions, norm: RowNorm<'_>, rows: &mut [f32]) {
    norm_rows::<false>(pool, on, norm, rows.as_ptr(), rows);
}

/// Adds normed rows to `out`.
///
/// # Panics
/// The lengths do not fit.
pub(crate) fn add_normed(pool: &mut Pool, on: Instructions, norm: RowNorm<'_>, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many numbers");
    norm_rows::<true>(pool, on, norm, x.as_ptr(), out);
}

/// The rows at `x` are as many as those of `out`, or they are those.
fn norm_rows<const ADD: bool>(pool: &mut Pool, on: Instructions, norm: RowNorm<'_>, x: *const f32, out: &mut [f32]) {
    let width = norm.weight.len();
    assert!(out.len().is_multiple_of(width), "whole rows of {width}");
    assert!(norm.bias.is_none_or(|bias| bias.len() == width), "a bias per number");
    let rows = out.len() / width;
    let (x, out) = (Shard::at(x.cast_mut()), Shard::of(out));
    pool.run(rows.div_ceil(TASK_ROWS), &|task| {
        let first = task * TASK_ROWS;
        let rows = TASK_ROWS.min(rows - first);
        let (x, out) = (x.pointer().wrapping_add(first * width), out.pointer().wrapping_add(first * width));
        on.run(Norm::<'_, ADD> { x, norm, rows, out });
    });
}

struct Norm<'a, const ADD: bool> {
    x: *const f32,
    norm: RowNorm<'a>,
    rows: usize,
    out: *mut f32,
}

impl<const ADD: bool> Kernel for Norm<'_, ADD> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let RowNorm { of, weight, bias, eps } = self.norm;
        let (width, weight) = (weight.len(), weight.as_ptr());
        for row in 0..self.rows {
            // SAFETY: `norm_rows` has checked the lengths; no other task has these rows.
            unsafe {
                let (x, out) = (self.x.add(row * width), self.out.add(row * width));
                match of {
                    Normed::Row => norm_row::<V, ADD>(x, weight, width, eps, out),
                    Normed::Differences => layer_norm_row::<V, ADD>(x, weight, width, eps, out),
                }
                if let Some(bias) = bias {
                    add_row::<V>(bias.as_ptr(), width, out);
                }
            }
        }
    }
}

/// One row; `out` may be `x`.
///
/// # Safety
/// As for [`Lanes`]; all three hold `width` numbers.
#[inline(always)]
pub(super) unsafe fn rms_norm_row<V: Lanes>(x: *const f32, weight: *const f32, width: usize, eps: f32, out: *mut f32) {
    // SAFETY: passed on.
    unsafe { norm_row::<V, false>(x, weight, width, eps, out) }
}

/// Adds a bias to one row.
///
/// # Safety
/// As for [`Lanes`]; both hold `width` numbers.
#[inline(always)]
unsafe fn add_row<V: Lanes>(bias: *const f32, width: usize, out: *mut f32) {
    let mut at = 0;
    while at < width {
        let count = LANES.min(width - at);
        // SAFETY: the caller vouches for `width` numbers.
        unsafe {
            let (lanes, out) = (V::load_some(bias.add(at), count), out.add(at));
            V::load_some(out, count).add(lanes).store_some(out, count);
        }
        at += LANES;
    }
}

/// The differences of one row's numbers from their mean, normed, put into `out` or added to it.
///
/// # Safety
/// As for [`rms_norm_row`].
#[inline(always)]
unsafe fn layer_norm_row<V: Lanes, const ADD: bool>(
    x: *const f32,
    weight: *const f32,
    width: usize,
    eps: f32,
    out: *mut f32,
) {
    // SAFETY: the caller vouches for `width` numbers.
    unsafe {
        let mut sum = V::zero();
        let mut at = 0;
        while at < width {
            sum = sum.add(V::load_some(x.add(at), LANES.min(width - at)));
            at += LANES;
        }
        let mean = V::splat(sum.sum() / width as f32);
        let mut squares = V::zero();
        at = 0;
        while at < width {
            let count = LANES.min(width - at);
            let apart = V::load_some(x.add(at), count).sub(mean);
            // Lanes beyond the row are no differences.
            let apart = if count == LANES { apart } else { apart.only(0, count, 0.0) };
            squares = apart.mul_add(apart, squares);
            at += LANES;
        }
        let scale = V::splat(1.0 / (squares.sum() / width as f32 + eps).sqrt());
        at = 0;
        while at < width {
            let count = LANES.min(width - at);
            let (lanes, weight) = (V::load_some(x.add(at), count), V::load_some(weight.add(at), count));
            let normed = lanes.sub(mean).mul(scale).mul(weight);
            let out = out.add(at);
            if ADD { V::load_some(out, count).add(normed) } else { normed }.store_some(out, count);
            at += LANES;
        }
    }
}

/// One row, put into `out` or added to it.
///
/// # Safety
/// As for [`rms_norm_row`].
#[inline(always)]
unsafe fn norm_row<V: Lanes, const ADD: bool>(
    x: *const f32,
    weight: *const f32,
    width: usize,
    eps: f32,
    out: *mut f32,
) {
    let whole = width / LANES * LANES;
    // SAFETY: the caller vouches for `width` numbers.
    unsafe {
        let mut squares = V::zero();
        let mut at = 0;
        while at < whole {
            let lanes = V::load(x.add(at));
            squares = lanes.mul_add(lanes, squares);
            at += LANES;
        }
        if at < width {
            let lanes = V::load_some(x.add(at), width - at);
            squares = lanes.mul_add(lanes, squares);
        }
        let scale = V::splat(1.0 / (squares.sum() / width as f32 + eps).sqrt());
        at = 0;
        while at < width {
            let count = LANES.min(width - at);
            let (lanes, weight) = (V::load_some(x.add(at), count), V::load_some(weight.add(at), count));
            let normed = lanes.mul(scale).mul(weight);
            let out = out.add(at);
            if ADD { V::load_some(out, count).add(normed) } else { normed }.store_some(out, count);
            at += LANES;
        }
    }
}
