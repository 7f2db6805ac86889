//! Attention of a step's rows over paged keys and values.
//!
//! Softmax is computed online (Milakov and Gimelshein 2018), block of sixteen positions by block,
//! in order of position; blocks begin at multiples of sixteen. That split never depends on the
//! step, so neither does the result. Queries that share a key head go over the blocks together, up
//! to eight in one tile, each as it would alone: positions that a query does not see have no share in its sum.

use std::mem::MaybeUninit;

use super::cached::{BLOCK_TOKENS, Block, Cached, InBlocks, OfCached, QUERY_BYTES, Shares, Sums};
use super::cap::capped;
use super::lanes::{LANES, Lanes};
use super::pool::{Pool, Shard};
use super::rotate::{Heads, Row};
use super::tier::Instructions;
use crate::step::Segment;
use tensor::{HEAD_DIM_MAX, Sees};

/// The most queries in a tile, where registers hold as many sums.
const TILE: usize = 8;
/// The most where they do not.
const TILE_FEW: usize = 4;
/// The most queries that go over the blocks together: a block comes from the first-level cache for all but one tile.
const TOGETHER: usize = 16;
/// Rows a task takes, of one key head.
const TASK_ROWS: usize = 8;

/// Attention of a step's rows in one layer.
pub(crate) struct Attention<'a> {
    /// Sizes.
    pub(crate) heads: Heads,
    /// The positions that a row sees.
    pub(crate) sees: Sees,
    /// Scores `s` become `cap · tanh(s / cap)`.
    pub(crate) soft_cap: Option<f32>,
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
        assert!(segment.end() <= capacity, "blocks for every position");
    }
    let out = Shard::of(out);
    pool.run(rows.div_ceil(TASK_ROWS) * kv_heads, &|task| {
        let (first, kv_head) = (task / kv_heads * TASK_ROWS, task % kv_heads);
        let last = (first + TASK_ROWS).min(rows);
        on.run(InBlocks(Task { attention, first, last, kv_head, out: out.pointer() }, attention.heads.float));
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
    /// The same in the layout's order.
    prepared: *const u8,
    out: *mut f32,
    /// The first and the last position it sees.
    sees: (usize, usize),
}

impl OfCached for Task<'_> {
    /// Goes through the task's queries, as many of a segment together as can be.
    #[inline(always)]
    unsafe fn run<V: Lanes, C: Cached>(self) {
        let group_heads = self.attention.heads.heads / self.attention.heads.kv_heads;
        let count = (self.last - self.first) * group_heads;
        let segment_of = |at: usize| self.attention.rows[self.first + at / group_heads].segment;
        let mut at = 0;
        while at < count {
            let segment = segment_of(at);
            let mut queries = [self.query(at, group_heads); TOGETHER];
            let mut size = 1;
            while size < TOGETHER && at + size < count && segment_of(at + size) == segment {
                queries[size] = self.query(at + size, group_heads);
                size += 1;
            }
            let blocks = self.attention.segments[segment].blocks;
            // SAFETY: passed on; `attend` has checked the shapes.
            unsafe { self.attend::<V, C>(&mut queries[..size], blocks) };
            at += size;
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn query(&self, index: usize, group_heads: usize) -> Query {
        let Heads { heads, head_dim, .. } = self.attention.heads;
        let row = self.first + index / group_heads;
        let head = self.kv_head * group_heads + index % group_heads;
        let offset = (row * heads + head) * head_dim;
        let Row { segment, position } = self.attention.rows[row];
        let end = self.attention.segments[segment].end();
        let sees = match self.attention.sees {
            Sees::All => (0, position),
            Sees::Window(window) => ((position + 1).saturating_sub(window), position),
            Sees::BothWays => (0, end - 1),
            Sees::Around(away) => (position.saturating_sub(away), (position + away).min(end - 1)),
        };
        Query {
            query: self.attention.queries.as_ptr().wrapping_add(offset),
            prepared: std::ptr::null(),
            out: self.out.wrapping_add(offset),
            sees,
        }
    }

    /// # Safety
    /// As for [`Lanes`]; `blocks` cover all that the queries see.
    #[inline(always)]
    unsafe fn attend<V: Lanes, C: Cached>(&self, queries: &mut [Query], blocks: &[u32]) {
        let Heads { head_dim, .. } = self.attention.heads;
        let half = self.attention.heads.half_bytes();
        let mut room = MaybeUninit::<[u8; TOGETHER * HEAD_DIM_MAX * QUERY_BYTES]>::uninit();
        let room: *mut u8 = room.as_mut_ptr().cast();
        let (mut first, mut last) = queries[0].sees;
        // SAFETY: the caller vouches for the blocks; outputs are this task's own; the room is for as many queries.
        unsafe {
            for (index, query) in queries.iter_mut().enumerate() {
                (first, last) = (first.min(query.sees.0), last.max(query.sees.1));
                query.prepared = C::query::<V>(query.query, head_dim, room.add(index * head_dim * QUERY_BYTES));
            }
            let mut states = [State { largest: f32::NEG_INFINITY, total: V::zero() }; TOGETHER];
            let keys_of = |index: usize| {
                let block = blocks[index] as usize * self.attention.heads.block_bytes();
                self.attention.storage.as_ptr().wrapping_add(block + 2 * self.kv_head * half)
            };
            let (start, end) = (first / BLOCK_TOKENS, last / BLOCK_TOKENS);
            for index in start..=end {
                let keys = keys_of(index);
                // Blocks come from memory or a far cache, each from another place.
                let block = Block { keys, values: keys.add(half), ahead: keys_of(end.min(index + 1)), head_dim };
                let at =
                    At { start: index * BLOCK_TOKENS, is_first: index == start, soft_cap: self.attention.soft_cap };
                visit::<V, C>(block, at, queries, &mut states);
            }
            for (query, state) in queries.iter().zip(&states) {
                scale::<V>(query.out, head_dim, 1.0 / state.total.sum());
            }
        }
    }
}

/// Running softmax of one query.
#[derive(Clone, Copy)]
struct State<V> {
    largest: f32,
    total: V,
}

/// A block's place, and the cap of its scores.
#[derive(Clone, Copy)]
struct At {
    /// Its first position.
    start: usize,
    /// True if sums begin with it.
    is_first: bool,
    soft_cap: Option<f32>,
}

/// Adds a block to every query that sees some of it, tile by tile.
///
/// # Safety
/// As for [`Cached`].
#[inline(always)]
unsafe fn visit<V: Lanes, C: Cached>(mut block: Block, place: At, queries: &[Query], states: &mut [State<V>]) {
    let most = if V::MANY_REGISTERS { TILE } else { TILE_FEW };
    let mut at = 0;
    while at < queries.len() {
        // Tiles of eight, four, two and one are compiled.
        let size = 1 << most.min(queries.len() - at).ilog2();
        let (queries, states) = (&queries[at..at + size], &mut states[at..at + size]);
        at += size;
        let At { start, is_first, .. } = place;
        let sees_none = |query: &Query| query.sees.1 < start || query.sees.0 >= start + BLOCK_TOKENS;
        if !is_first && queries.iter().all(sees_none) {
            continue;
        }
        // SAFETY: passed on.
        unsafe {
            match size {
                8 if V::MANY_REGISTERS => add::<V, C, 8>(&block, place, queries, states),
                4 => add::<V, C, 4>(&block, place, queries, states),
                2 => add::<V, C, 2>(&block, place, queries, states),
                1 => add::<V, C, 1>(&block, place, queries, states),
                size => unreachable!("no tile has {size} queries"),
            }
        }
        block.ahead = std::ptr::null(); // Asking once will do.
    }
}

/// Adds the positions of a block that each of `N` queries sees.
///
/// # Safety
/// As for [`Cached`].
#[inline(always)]
unsafe fn add<V: Lanes, C: Cached, const N: usize>(
    block: &Block,
    At { start, is_first, soft_cap }: At,
    queries: &[Query],
    states: &mut [State<V>],
) {
    // SAFETY: passed on.
    unsafe {
        let mut scores = C::scores::<V, N>(block, std::array::from_fn(|n| queries[n].prepared));
        if let Some(cap) = soft_cap {
            for score in &mut scores {
                *score = capped(*score, cap);
            }
        }
        let mut shares = [Shares([0.0; LANES]); N];
        let mut rescale = [V::splat(1.0); N];
        // Positions that some query sees: only those have been written.
        let mut written = (LANES, 0);
        for n in 0..N {
            let from = queries[n].sees.0.max(start) - start;
            let to = (queries[n].sees.1 + 1).clamp(start, start + BLOCK_TOKENS) - start;
            if from >= to {
                continue;
            }
            written = (written.0.min(from), written.1.max(to));
            let score = scores[n].only(from, to, f32::NEG_INFINITY);
            let (state, largest) = (&mut states[n], score.largest());
            if largest > state.largest {
                rescale[n] = V::splat(state.largest - largest).exp();
                state.largest = largest;
            }
            let share = score.sub(V::splat(state.largest)).exp().only(from, to, 0.0);
            shares[n] = C::shares(share);
            state.total = state.total.mul_add(rescale[n], share);
        }
        let sums = Sums { outs: std::array::from_fn(|n| queries[n].out), rescale: (!is_first).then_some(rescale) };
        let mut at = 0;
        while at + 2 * LANES <= block.head_dim {
            C::add_values::<V, N, 2>(block, at, written, &sums, &shares);
            at += 2 * LANES;
        }
        while at < block.head_dim {
            C::add_values::<V, N, 1>(block, at, written, &sums, &shares);
            at += LANES;
        }
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
