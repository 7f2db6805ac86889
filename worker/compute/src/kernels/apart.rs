//! Attention whose scores depend on how far apart two positions are (DeBERTa), of whole sequences that are computed at
//! once: keys and values lie as the projections left them.
//!
//! Softmax is computed online (Milakov and Gimelshein 2018), one position after the other, so that a row's result does
//! not depend on its company.

use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::pool::{Pool, Shard};
use super::rotate::Row;
use super::tier::Instructions;

/// Rows a task takes.
const TASK_ROWS: usize = 4;

/// Attention of a step's rows in one layer, as many key heads as query heads. All rows are (heads · head_dim).
pub(crate) struct Apart<'a> {
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// The factor of every score.
    pub(crate) scale: f32,
    /// The rows; those of a segment are consecutive.
    pub(crate) rows: &'a [Row],
    /// Queries of every row.
    pub(crate) queries: &'a [f32],
    /// Keys of every row.
    pub(crate) keys: &'a [f32],
    /// Values of every row.
    pub(crate) values: &'a [f32],
    /// Keys of every distance.
    pub(crate) distance_keys: &'a [f32],
    /// Queries of every distance.
    pub(crate) distance_queries: &'a [f32],
}

/// Writes every head's weighted sum of values into `out` (rows, heads · head_dim). `distance` gives the row of the distance
/// from a query's position to a key's.
///
/// # Panics
/// Shapes do not fit together.
pub(crate) fn attend_apart(
    pool: &mut Pool,
    on: Instructions,
    attention: &Apart<'_>,
    distance: &(dyn Fn(usize, usize) -> usize + Sync),
    out: &mut [f32],
) {
    let rows = attention.rows.len();
    let numbers = [attention.queries, attention.keys, attention.values].map(<[f32]>::len);
    assert!(numbers.iter().all(|count| *count == out.len()), "as many queries, keys and values as outputs");
    let width = out.len() / rows.max(1);
    assert!(width.is_multiple_of(attention.head_dim) && width * rows == out.len(), "whole heads");
    let distances = [attention.distance_keys, attention.distance_queries].map(<[f32]>::len);
    assert!(distances[0] == distances[1] && distances[0].is_multiple_of(width.max(1)), "rows of distances");
    let out = Shard::of(out);
    pool.run(rows.div_ceil(TASK_ROWS), &|task| {
        let first = task * TASK_ROWS;
        for row in first..rows.min(first + TASK_ROWS) {
            // A segment's rows are side by side.
            let segment = attention.rows[row].segment;
            let begin = row - attention.rows[row].position;
            let end = begin + attention.rows[begin..].iter().take_while(|other| other.segment == segment).count();
            on.run(OneRow { attention, distance, row, seen: (begin, end), width, out: out.pointer() });
        }
    });
}

struct OneRow<'a> {
    attention: &'a Apart<'a>,
    distance: &'a (dyn Fn(usize, usize) -> usize + Sync),
    row: usize,
    /// The first row of its sequence, and the one after its last.
    seen: (usize, usize),
    width: usize,
    out: *mut f32,
}

impl Kernel for OneRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Apart { head_dim, scale, queries, keys, values, distance_keys, distance_queries, .. } = *self.attention;
        let (begin, end) = self.seen;
        for head in (0..self.width).step_by(head_dim) {
            let at = self.row * self.width + head;
            let query = &queries[at..][..head_dim];
            // SAFETY: `attend_apart` has checked the lengths; no other task has this row.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), head_dim) };
            out.fill(0.0);
            let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0_f32);
            for other in begin..end {
                let key = &keys[other * self.width + head..][..head_dim];
                let distance = (self.distance)(self.row - begin, other - begin) * self.width + head;
                let far_key = &distance_keys[distance..][..head_dim];
                let far_query = &distance_queries[distance..][..head_dim];
                // SAFETY: the caller vouches for the tier; all have the width of a head.
                let score =
                    unsafe { (dot::<V>(query, key) + dot::<V>(query, far_key) + dot::<V>(key, far_query)) * scale };
                if score > largest {
                    let rescale = (largest - score).exp();
                    total *= rescale;
                    out.iter_mut().for_each(|number| *number *= rescale);
                    largest = score;
                }
                let share = (score - largest).exp();
                total += share;
                let value = &values[other * self.width + head..][..head_dim];
                // SAFETY: as above.
                unsafe { add::<V>(value, share, out) };
            }
            out.iter_mut().for_each(|number| *number /= total);
        }
    }
}

/// The sum of products.
///
/// # Safety
/// As for [`Lanes`]; both are equally long.
#[inline(always)]
unsafe fn dot<V: Lanes>(one: &[f32], other: &[f32]) -> f32 {
    // SAFETY: the caller vouches for the lengths.
    unsafe {
        let mut sum = V::zero();
        for at in (0..one.len()).step_by(LANES) {
            let count = LANES.min(one.len() - at);
            let (a, b) = (V::load_some(one.as_ptr().add(at), count), V::load_some(other.as_ptr().add(at), count));
            sum = a.mul_add(b, sum);
        }
        sum.sum()
    }
}

/// Adds a multiple of `from` to `to`.
///
/// # Safety
/// As for [`Lanes`]; both are equally long.
#[inline(always)]
unsafe fn add<V: Lanes>(from: &[f32], factor: f32, to: &mut [f32]) {
    // SAFETY: the caller vouches for the lengths.
    unsafe {
        for at in (0..from.len()).step_by(LANES) {
            let count = LANES.min(from.len() - at);
            let (from, to) = (from.as_ptr().add(at), to.as_mut_ptr().add(at));
            let sum = V::load_some(from, count).mul_add(V::splat(factor), V::load_some(to, count));
            sum.store_some(to, count);
        }
    }
}
