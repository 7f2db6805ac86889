//! Causal attention of a step's rows over paged keys and values.
//!
//! Softmax is computed online (Milakov and Gimelshein 2018), block of sixteen positions by block,
//! in order of position; blocks begin at multiples of sixteen. That split never depends on the
//! step, so neither does the result. Up to four queries that share a key head are computed
//! together, each exactly as it would be alone.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

use super::kernel::Kernel;
use super::lanes::{Bf16, Element, F16, F32, LANES, Lanes};
use super::pool::{Pool, Shard};
use super::rotate::{BLOCK_TOKENS, Heads, Row};
use super::tier::Instructions;
use crate::backend::Segment;
use crate::model::Float;

/// Queries computed together.
const GROUP: usize = 4;
/// Rows a task takes, of one key head.
const TASK_ROWS: usize = 8;

/// Attention of a step's rows in one layer.
pub(crate) struct Attention<'a> {
    /// Sizes.
    pub(crate) heads: Heads,
    /// How many positions a row sees, itself included; all if none.
    pub(crate) window: Option<usize>,
    /// The rows; those of a segment are consecutive.
    pub(crate) rows: &'a [Row],
    /// The step's segments.
    pub(crate) segments: &'a [Segment<'a>],
    /// Rotated and scaled queries: (rows, heads · head_dim).
    pub(crate) queries: &'a [f32],
    /// One layer's blocks.
    pub(crate) storage: &'a [u8],
}

/// Writes every head's weighted sum of values into `out` (rows, heads · head_dim).
///
/// # Panics
/// Shapes do not fit together.
pub(crate) fn attend(pool: &mut Pool, on: Instructions, attention: &Attention<'_>, out: &mut [f32]) {
    let Heads { heads, kv_heads, head_dim, .. } = attention.heads;
    let rows = attention.rows.len();
    assert_eq!(attention.queries.len(), rows * heads * head_dim, "rows of queries");
    assert_eq!(out.len(), attention.queries.len(), "as many outputs");
    let block_bytes = attention.heads.block_bytes();
    let blocks = attention.storage.len() / block_bytes;
    for segment in attention.segments {
        assert!(segment.blocks.iter().all(|&block| (block as usize) < blocks), "blocks that exist");
        let capacity = segment.blocks.len() * BLOCK_TOKENS;
        assert!(segment.start + segment.tokens.len() <= capacity, "blocks for every position");
    }
    let out = Shard::of(out);
    pool.run(rows.div_ceil(TASK_ROWS) * kv_heads, &|task| {
        let (first, kv_head) = (task / kv_heads * TASK_ROWS, task % kv_heads);
        let last = (first + TASK_ROWS).min(rows);
        on.run(Task { attention, first, last, kv_head, out: out.pointer() });
    });
}

struct Task<'a> {
    attention: &'a Attention<'a>,
    first: usize,
    last: usize,
    kv_head: usize,
    out: *mut f32,
}

/// One query: a row's head.
#[derive(Clone, Copy)]
struct Query {
    query: *const f32,
    out: *mut f32,
    /// The first and the last position it sees.
    sees: (usize, usize),
}

impl Kernel for Task<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: passed on.
        unsafe {
            match self.attention.heads.float {
                Float::F32 => self.run_as::<V, F32>(),
                Float::F16 => self.run_as::<V, F16>(),
                Float::Bf16 => self.run_as::<V, Bf16>(),
            }
        }
    }
}

impl Task<'_> {
    /// Goes through the task's queries in groups of one segment.
    ///
    /// # Safety
    /// As for [`Lanes`]; `attend` has checked the shapes.
    #[inline(always)]
    unsafe fn run_as<V: Lanes, E: Element>(self) {
        let group_heads = self.attention.heads.heads / self.attention.heads.kv_heads;
        let count = (self.last - self.first) * group_heads;
        let mut at = 0;
        while at < count {
            let segment = self.attention.rows[self.first + at / group_heads].segment;
            let mut group = [self.query(at, group_heads); GROUP];
            let mut size = 1;
            while size < GROUP && at + size < count {
                if self.attention.rows[self.first + (at + size) / group_heads].segment != segment {
                    break;
                }
                group[size] = self.query(at + size, group_heads);
                size += 1;
            }
            if size == 3 {
                size = 2; // Groups of four, two and one are compiled.
            }
            let blocks = self.attention.segments[segment].blocks;
            // SAFETY: passed on.
            unsafe { self.attend_group::<V, E>(&group[..size], blocks) };
            at += size;
        }
    }

    #[inline(always)]
    fn query(&self, index: usize, group_heads: usize) -> Query {
        let Heads { heads, head_dim, .. } = self.attention.heads;
        let row = self.first + index / group_heads;
        let head = self.kv_head * group_heads + index % group_heads;
        let offset = (row * heads + head) * head_dim;
        let position = self.attention.rows[row].position;
        let first = self.attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
        Query {
            query: self.attention.queries.as_ptr().wrapping_add(offset),
            out: self.out.wrapping_add(offset),
            sees: (first, position),
        }
    }

    /// # Safety
    /// As for [`Lanes`]; `blocks` cover all that the queries see.
    #[inline(always)]
    unsafe fn attend_group<V: Lanes, E: Element>(&self, group: &[Query], blocks: &[u32]) {
        let Heads { head_dim, .. } = self.attention.heads;
        let half = self.attention.heads.half_bytes();
        let (mut first, mut last) = group[0].sees;
        for query in group {
            (first, last) = (first.min(query.sees.0), last.max(query.sees.1));
        }
        // SAFETY: the caller vouches for the blocks; outputs are this task's own.
        unsafe {
            let mut states = [State { largest: f32::NEG_INFINITY, total: V::zero() }; GROUP];
            for query in group {
                std::ptr::write_bytes(query.out, 0, head_dim);
            }
            let keys_of = |index: usize| {
                let block = blocks[index] as usize * self.attention.heads.block_bytes();
                self.attention.storage.as_ptr().wrapping_add(block + 2 * self.kv_head * half)
            };
            let (start, end) = (first / BLOCK_TOKENS, last / BLOCK_TOKENS);
            for index in start..=end {
                let keys = keys_of(index);
                // A decoded token's blocks come from memory, each from another place.
                let ahead = if self.last - self.first == 1 { keys_of(end.min(index + 1)) } else { std::ptr::null() };
                let block = Block { keys, values: keys.add(half), ahead, head_dim };
                block.visit::<V, E>(index * BLOCK_TOKENS, group, &mut states);
            }
            for (query, state) in group.iter().zip(&states) {
                scale::<V>(query.out, head_dim, 1.0 / state.total.sum());
            }
        }
    }
}

/// How far a query's softmax has come.
#[derive(Clone, Copy)]
struct State<V> {
    largest: f32,
    total: V,
}

/// One head's keys (head_dim, 16) and values (16, head_dim) of one block.
#[derive(Clone, Copy)]
struct Block {
    keys: *const u8,
    values: *const u8,
    /// The next block's keys, which its values follow, if it is time to ask for them.
    ahead: *const u8,
    head_dim: usize,
}

impl Block {
    /// Adds the block, whose first position is `start`, to every query that sees some of it: all
    /// at once where all see the same part, else one after the other.
    ///
    /// # Safety
    /// As for [`Lanes`], and the pointers are those of a block.
    #[inline(always)]
    unsafe fn visit<V: Lanes, E: Element>(&self, start: usize, group: &[Query], states: &mut [State<V>; GROUP]) {
        let part = |query: &Query| {
            let from = query.sees.0.max(start) - start;
            let to = (query.sees.1 + 1).clamp(start, start + BLOCK_TOKENS) - start;
            (from, to)
        };
        let (from, to) = part(&group[0]);
        let alike = from < to && group.iter().all(|query| part(query) == (from, to));
        // SAFETY: passed on.
        unsafe {
            match (alike, group.len()) {
                (true, 4) => self.add::<V, E, 4>(from, to, group, states),
                (true, 2) => self.add::<V, E, 2>(from, to, group, states),
                _ => {
                    for (query, state) in group.iter().zip(states) {
                        let (from, to) = part(query);
                        if from < to {
                            self.add::<V, E, 1>(from, to, &[*query], std::array::from_mut(state));
                        }
                    }
                }
            }
        }
    }

    /// Adds positions `from..to` of the block to `N` queries.
    ///
    /// # Safety
    /// As for `visit`.
    #[inline(always)]
    unsafe fn add<V: Lanes, E: Element, const N: usize>(
        &self,
        from: usize,
        to: usize,
        group: &[Query],
        states: &mut [State<V>],
    ) {
        // SAFETY: passed on.
        unsafe {
            let scores = self.scores::<V, E, N>(group);
            let mut shares = [[0f32; LANES]; N];
            let mut rescale = [V::zero(); N];
            for n in 0..N {
                let score = only(scores[n], from, to, f32::NEG_INFINITY);
                let state = &mut states[n];
                let largest = if score.largest() > state.largest { score.largest() } else { state.largest };
                rescale[n] = V::splat(state.largest - largest).exp();
                let share = only(score.sub(V::splat(largest)).exp(), from, to, 0.0);
                share.store(shares[n].as_mut_ptr());
                state.total = state.total.mul_add(rescale[n], share);
                state.largest = largest;
            }
            let mut at = 0;
            while at < self.head_dim {
                self.add_values::<V, E, N>(at, (from, to), group, &rescale, &shares);
                at += LANES;
            }
        }
    }

    /// Sixteen scores of each query; those of positions nobody wrote are garbage.
    ///
    /// # Safety
    /// As for `visit`.
    #[inline(always)]
    unsafe fn scores<V: Lanes, E: Element, const N: usize>(&self, group: &[Query]) -> [V; N] {
        // SAFETY: passed on; `head_dim` is even.
        unsafe {
            let (mut even, mut odd) = ([V::zero(); N], [V::zero(); N]);
            let mut d = 0;
            while d < self.head_dim {
                if !self.ahead.is_null() {
                    let ahead = self.ahead.wrapping_add(d * BLOCK_TOKENS * E::BYTES);
                    V::prefetch(ahead);
                    V::prefetch(ahead.wrapping_add(self.head_dim * BLOCK_TOKENS * E::BYTES));
                }
                let key = E::load::<V>(self.keys.add(d * BLOCK_TOKENS * E::BYTES));
                let next = E::load::<V>(self.keys.add((d + 1) * BLOCK_TOKENS * E::BYTES));
                for n in 0..N {
                    even[n] = key.mul_add(V::splat(*group[n].query.add(d)), even[n]);
                    odd[n] = next.mul_add(V::splat(*group[n].query.add(d + 1)), odd[n]);
                }
                d += 2;
            }
            for n in 0..N {
                even[n] = even[n].add(odd[n]);
            }
            even
        }
    }

    /// `out = out · rescale + Σ share · value` for the sixteen numbers at `at`, or what is left.
    ///
    /// # Safety
    /// As for `visit`.
    #[inline(always)]
    unsafe fn add_values<V: Lanes, E: Element, const N: usize>(
        &self,
        at: usize,
        (from, to): (usize, usize),
        group: &[Query],
        rescale: &[V; N],
        shares: &[[f32; LANES]; N],
    ) {
        // SAFETY: passed on.
        unsafe {
            let count = self.head_dim - at;
            let mut sums = [V::zero(); N];
            for n in 0..N {
                sums[n] = V::load_some(group[n].out.add(at), count).mul(rescale[n]);
            }
            for position in from..to {
                let value = E::load_some::<V>(self.values.add((position * self.head_dim + at) * E::BYTES), count);
                for n in 0..N {
                    sums[n] = value.mul_add(V::splat(shares[n][position]), sums[n]);
                }
            }
            for n in 0..N {
                sums[n].store_some(group[n].out.add(at), count);
            }
        }
    }
}

/// Lanes `from..to`, the others replaced.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn only<V: Lanes>(lanes: V, from: usize, to: usize, other: f32) -> V {
    if from == 0 && to == LANES {
        return lanes;
    }
    let mut array = [0f32; LANES];
    // SAFETY: the array holds sixteen.
    unsafe {
        lanes.store(array.as_mut_ptr());
        for (lane, value) in array.iter_mut().enumerate() {
            if lane < from || lane >= to {
                *value = other;
            }
        }
        V::load(array.as_ptr())
    }
}

/// Multiplies a head's numbers.
///
/// # Safety
/// As for [`Lanes`]; `head` holds `width` numbers.
#[inline(always)]
unsafe fn scale<V: Lanes>(head: *mut f32, width: usize, by: f32) {
    let mut at = 0;
    // SAFETY: the caller vouches for `width` numbers.
    unsafe {
        while at + LANES <= width {
            V::load(head.add(at)).mul(V::splat(by)).store(head.add(at));
            at += LANES;
        }
        if at < width {
            V::load_some(head.add(at), width - at).mul(V::splat(by)).store_some(head.add(at), width - at);
        }
    }
}
