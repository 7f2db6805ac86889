//! The steps between the projections of queries, keys and values and attention: per-head
//! norms where there are any, rotation, scaling of queries, and storing keys and values.

use super::cached::{Cached, InBlocks, OfCached};
use super::lanes::{LANES, Lanes};
use super::norm::rms_norm_row;
use super::pool::{Pool, Shard};
use super::tier::Instructions;
use crate::step::Segment;
use tensor::{Format, Growth, HEAD_DIM_MAX};

pub(crate) use super::cached::BLOCK_TOKENS;

/// Rows a task takes.
const TASK_ROWS: usize = 4;

/// Sizes of one layer's heads and of its KV storage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// The format keys and values are stored in.
    pub(crate) float: Format,
}

impl Heads {
    /// Bytes of one head's keys in one block; of its values as well.
    pub(super) fn half_bytes(&self) -> usize {
        BLOCK_TOKENS * self.head_dim * self.float.block().bytes
    }

    /// Bytes of one block of one layer.
    pub(crate) fn block_bytes(&self) -> usize {
        2 * self.kv_heads * self.half_bytes()
    }
}

/// One row of a step, and its position.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Row {
    /// Index of its segment.
    pub(crate) segment: usize,
    /// Its position in its sequence.
    pub(crate) position: usize,
}

/// A norm of heads.
#[derive(Clone, Copy)]
pub(crate) struct HeadNorm<'a> {
    /// Shape (head_dim).
    pub(crate) weight: &'a [f32],
    /// Added to the mean square.
    pub(crate) eps: f32,
}

/// Norms and rotation of a step's rows in one layer.
pub(crate) struct Rotation<'a> {
    /// Sizes.
    pub(crate) heads: Heads,
    /// Norm of every query head, if any.
    pub(crate) query_norm: Option<HeadNorm<'a>>,
    /// Norm of every key head, if any.
    pub(crate) key_norm: Option<HeadNorm<'a>>,
    /// Factor of rotated queries, and thereby of scores.
    pub(crate) scale: f32,
    /// A further factor of queries, by position.
    pub(crate) growth: Option<Growth>,
    /// Numbers of a head that turn, the first ones.
    pub(crate) width: usize,
    /// Cosines and sines of every row: (rows, 2, width / 2).
    pub(crate) angles: &'a [f32],
    /// The rows.
    pub(crate) rows: &'a [Row],
    /// The step's segments.
    pub(crate) segments: &'a [Segment<'a>],
}

/// Prepares queries (rows, heads · head_dim) in place, and keys and values (rows, kv_heads ·
/// head_dim), which are then stored into `storage`: one layer's blocks.
///
/// The caller guarantees that no two rows of the step have the same block and offset.
///
/// # Panics
/// Shapes do not fit together.
pub(crate) fn rotate_and_store(
    pool: &mut Pool,
    on: Instructions,
    rotation: &Rotation<'_>,
    queries: &mut [f32],
    keys: &mut [f32],
    values: &[f32],
    storage: &mut [u8],
) {
    let Heads { heads, kv_heads, head_dim, .. } = rotation.heads;
    let rows = rotation.rows.len();
    assert_eq!(queries.len(), rows * heads * head_dim, "rows of queries");
    assert_eq!(keys.len(), rows * kv_heads * head_dim, "rows of keys");
    assert_eq!(values.len(), keys.len(), "rows of values");
    assert_eq!(rotation.angles.len(), rows * rotation.width, "an angle per row and pair");
    assert!(rotation.width <= head_dim && rotation.width.is_multiple_of(2), "pairs of a head");
    let norms = [rotation.query_norm, rotation.key_norm];
    assert!(norms.into_iter().flatten().all(|norm| norm.weight.len() == head_dim), "norms of a head");
    let blocks = storage.len() / rotation.heads.block_bytes();
    let (queries, keys, storage) = (Shard::of(queries), Shard::of(keys), Shard::of(storage));
    pool.run(rows.div_ceil(TASK_ROWS), &|task| {
        let first = task * TASK_ROWS;
        let last = (first + TASK_ROWS).min(rows);
        for row in first..last {
            let Row { segment, position } = rotation.rows[row];
            let block = rotation.segments[segment].blocks[position / BLOCK_TOKENS] as usize;
            assert!(block < blocks, "block {block} of {blocks}");
            let block = storage.pointer().wrapping_add(block * rotation.heads.block_bytes());
            let slot = position % BLOCK_TOKENS;
            let (queries, keys) = (queries.pointer(), keys.pointer());
            let last = position + 1 == rotation.segments[segment].end();
            let row = OneRow { rotation, row, queries, keys, values: values.as_ptr(), block, slot, last };
            on.run(InBlocks(row, rotation.heads.float));
        }
    });
}

/// Reorders heads whose rotated pairs are neighbours, as GGUF files of Llama have them: the pairs' first elements,
/// then their second. Everything after it, stored keys included, is then as for any other model. It takes one
/// pass over the output of a projection; `head_dim` is even and at most [`HEAD_DIM_MAX`].
pub(crate) fn part_pairs(heads: &mut [f32], head_dim: usize) {
    let mut pairs = [0.0; HEAD_DIM_MAX];
    let pairs = &mut pairs[..head_dim];
    for head in heads.chunks_exact_mut(head_dim) {
        pairs.copy_from_slice(head);
        let (first, second) = head.split_at_mut(head_dim / 2);
        for ((first, second), pair) in first.iter_mut().zip(second).zip(pairs.chunks_exact(2)) {
            (*first, *second) = (pair[0], pair[1]);
        }
    }
}

struct OneRow<'a> {
    rotation: &'a Rotation<'a>,
    row: usize,
    queries: *mut f32,
    keys: *mut f32,
    values: *const f32,
    block: *mut u8,
    slot: usize,
    /// True if it is its segment's last.
    last: bool,
}

impl OfCached for OneRow<'_> {
    /// The pointers are those of `rotate_and_store`, which has checked the shapes, and no other task has this row or
    /// this slot of this block.
    #[inline(always)]
    unsafe fn run<V: Lanes, C: Cached>(self) {
        let Rotation { heads: sizes, query_norm, key_norm, width, angles, rows, .. } = self.rotation;
        let growth = self.rotation.growth.map_or(1.0, |growth| growth.at(rows[self.row].position));
        let scale = self.rotation.scale * growth;
        let Heads { heads, kv_heads, head_dim, .. } = *sizes;
        // SAFETY: the caller vouches for rows of these shapes.
        unsafe {
            let cosines = angles.as_ptr().add(self.row * width);
            for head in 0..heads {
                let query = self.queries.add((self.row * heads + head) * head_dim);
                if let Some(norm) = query_norm {
                    rms_norm_row::<V>(query, norm.weight.as_ptr(), head_dim, norm.eps, query);
                }
                rotate_head::<V>(query, cosines, width / 2, scale);
                scale_rest::<V>(query.add(*width), head_dim - width, scale);
            }
            for head in 0..kv_heads {
                let offset = (self.row * kv_heads + head) * head_dim;
                let key = self.keys.add(offset);
                if let Some(norm) = key_norm {
                    rms_norm_row::<V>(key, norm.weight.as_ptr(), head_dim, norm.eps, key);
                }
                rotate_head::<V>(key, cosines, width / 2, 1.0);
                let stored = self.block.add(2 * head * sizes.half_bytes());
                C::store_key::<V>(key, head_dim, stored, self.slot);
                let stored = stored.add(sizes.half_bytes());
                C::store_value::<V>(self.values.add(offset), head_dim, stored, self.slot, self.last);
            }
        }
    }
}

/// Turns the pairs of a head (element `i` of the first half with element `i` of the second), then
/// scales.
///
/// # Safety
/// As for [`Lanes`]; `head` holds `2 · half` numbers, `cosines` as many cosines, then sines.
#[inline(always)]
unsafe fn rotate_head<V: Lanes>(head: *mut f32, cosines: *const f32, half: usize, scale: f32) {
    let mut at = 0;
    // SAFETY: the caller vouches for both lengths.
    unsafe {
        let scale = V::splat(scale);
        let (second, sines) = (head.add(half), cosines.add(half));
        while at < half {
            let count = LANES.min(half - at);
            let (a, b) = (V::load_some(head.add(at), count), V::load_some(second.add(at), count));
            let (cosine, sine) = (V::load_some(cosines.add(at), count), V::load_some(sines.add(at), count));
            a.mul(cosine).sub(b.mul(sine)).mul(scale).store_some(head.add(at), count);
            b.mul(cosine).add(a.mul(sine)).mul(scale).store_some(second.add(at), count);
            at += count;
        }
    }
}

/// Scales the numbers of a head that do not turn.
///
/// # Safety
/// As for [`Lanes`]; there are `count` numbers.
#[inline(always)]
unsafe fn scale_rest<V: Lanes>(rest: *mut f32, count: usize, scale: f32) {
    let mut at = 0;
    while at < count {
        let some = LANES.min(count - at);
        // SAFETY: the caller vouches for the numbers.
        unsafe { V::load_some(rest.add(at), some).mul(V::splat(scale)).store_some(rest.add(at), some) };
        at += some;
    }
}
