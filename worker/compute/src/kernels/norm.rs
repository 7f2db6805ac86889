//! Root mean square norms of rows: `weight · x / √(mean(x²) + eps)`, put somewhere or added to it.

use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::pool::{Pool, Shard};
use super::tier::Instructions;

/// Rows a task takes; a step with fewer is done by the caller alone.
const TASK_ROWS: usize = 8;

/// Normalises rows of `weight.len()` numbers from `x` into `out`.
///
/// # Panics
/// The lengths do not fit.
pub(crate) fn rms_norm(pool: &mut Pool, on: Instructions, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    norm_rows::<false>(pool, on, x, weight, eps, out);
}

/// Adds normalised rows of `weight.len()` numbers to `out`.
///
/// # Panics
/// The lengths do not fit.
pub(crate) fn add_normed(pool: &mut Pool, on: Instructions, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    norm_rows::<true>(pool, on, x, weight, eps, out);
}

fn norm_rows<const ADD: bool>(pool: &mut Pool, on: Instructions, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width), "whole rows of {width}");
    let rows = x.len() / width;
    let out = Shard::of(out);
    pool.run(rows.div_ceil(TASK_ROWS), &|task| {
        let first = task * TASK_ROWS;
        let rows = TASK_ROWS.min(rows - first);
        on.run(Norm::<'_, ADD> {
            x: &x[first * width..],
            weight,
            eps,
            rows,
            out: out.pointer().wrapping_add(first * width),
        });
    });
}

struct Norm<'a, const ADD: bool> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    rows: usize,
    out: *mut f32,
}

impl<const ADD: bool> Kernel for Norm<'_, ADD> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let width = self.weight.len();
        for row in 0..self.rows {
            // SAFETY: `rms_norm` has checked the lengths; no other task has these rows.
            unsafe {
                let (x, out) = (self.x.as_ptr().add(row * width), self.out.add(row * width));
                norm_row::<V, ADD>(x, self.weight.as_ptr(), width, self.eps, out);
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
