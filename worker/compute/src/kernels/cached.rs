//! Layout of keys and values in a KV block of one layer, and the products that attention makes of them.
//!
//! Per key head a block holds sixteen keys, then sixteen values. Two layouts: [`Plain`] numbers, widened to f32 before
//! they are multiplied, on every tier and in every format; and [`Paired`] bf16, which a tier with dots multiplies two
//! at a time with queries and shares rounded to bf16. In both, a score is a lane, so no sum goes across lanes, and a
//! query's numbers do not depend on its company. It knows no softmax and no table of blocks.

#![expect(clippy::needless_range_loop, reason = "tiles index several arrays by one number")]

use std::marker::PhantomData;

use super::kernel::Kernel;
use super::lanes::{Bf16, Element, F16, F32, LANES, Lanes};
use tensor::Format;

/// Positions in a KV block: the lanes of a register, and what vLLM uses.
pub(crate) const BLOCK_TOKENS: usize = LANES;

/// Room for a query's shares of a block.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(super) struct Shares(pub(super) [f32; LANES]);

/// One head's keys and values of one block.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) keys: *const u8,
    pub(super) values: *const u8,
    /// The next block's keys, which its values follow, if it is time to ask for them.
    pub(super) ahead: *const u8,
    pub(super) head_dim: usize,
}

impl Block {
    /// Asks for the parts of the next block's keys and values that are `at` bytes from their start.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn ask<V: Lanes>(&self, at: usize, half_bytes: usize) {
        if !self.ahead.is_null() {
            // SAFETY: prefetching is harmless.
            unsafe {
                V::prefetch(self.ahead.wrapping_add(at));
                V::prefetch(self.ahead.wrapping_add(half_bytes + at));
            }
        }
    }
}

/// A layout.
///
/// # Safety
/// For all methods: as for [`Lanes`], and pointers are those of heads of `head_dim` numbers and of a block's half.
pub(super) trait Cached: Copy + Send + Sync + 'static {
    /// Scatters a key into column `slot` of a block's keys.
    unsafe fn store_key<V: Lanes>(key: *const f32, head_dim: usize, keys: *mut u8, slot: usize);
    /// Puts a value at `slot` of a block's values; `last` says that nobody writes a later position in this step.
    unsafe fn store_value<V: Lanes>(value: *const f32, head_dim: usize, values: *mut u8, slot: usize, last: bool);
    /// A query in the form that `scores` wants: where it is, or in `room` ([`QUERY_BYTES`] for every number).
    unsafe fn query<V: Lanes>(query: *const f32, head_dim: usize, room: *mut u8) -> *const u8;
    /// Sixteen scores of each query; those of positions nobody wrote are garbage.
    unsafe fn scores<V: Lanes, const N: usize>(block: &Block, queries: [*const u8; N]) -> [V; N];
    /// Shares in the form that `add_values` wants.
    unsafe fn shares<V: Lanes>(shares: V) -> Shares;
    /// Sums are rescaled, then `Σ share · value` is added over positions `from..to`, for `C` times sixteen numbers at `at` or what
    /// is left of them. Shares beyond `from..to` are zero.
    unsafe fn add_values<V: Lanes, const N: usize, const C: usize>(
        block: &Block,
        at: usize,
        positions: (usize, usize),
        sums: &Sums<V, N>,
        shares: &[Shares; N],
    );
}

/// Bytes that a query's number takes in [`Cached::query`]'s room.
pub(super) const QUERY_BYTES: usize = 2;

/// A kernel that wants to know the layout.
pub(super) trait OfCached {
    /// # Safety
    /// As for [`Kernel::run`].
    unsafe fn run<V: Lanes, C: Cached>(self);
}

/// Runs a kernel over blocks whose numbers are stored as `1`.
pub(super) struct InBlocks<K>(pub(super) K, pub(super) Format);

impl<K: OfCached> Kernel for InBlocks<K> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: passed on.
        unsafe {
            match self.1 {
                Format::F32 => self.0.run::<V, Plain<F32>>(),
                Format::F16 => self.0.run::<V, Plain<F16>>(),
                Format::Bf16 if V::DOTS => self.0.run::<V, Paired>(),
                Format::Bf16 => self.0.run::<V, Plain<Bf16>>(),
                other => unreachable!("keys and values are never kept as {other}"),
            }
        }
    }
}

/// Keys transposed, (head_dim, 16); values as they come, (16, head_dim).
#[derive(Clone, Copy)]
pub(super) struct Plain<E>(PhantomData<E>);

impl<E: Element> Cached for Plain<E> {
    #[inline(always)]
    unsafe fn store_key<V: Lanes>(key: *const f32, head_dim: usize, keys: *mut u8, slot: usize) {
        let mut at = 0;
        while at < head_dim {
            let count = LANES.min(head_dim - at);
            let mut narrow = [0u8; 4 * LANES];
            // SAFETY: the caller vouches for `head_dim` numbers, and as many rows of the block.
            unsafe {
                E::store(V::load_some(key.add(at), count), narrow.as_mut_ptr());
                for lane in 0..count {
                    let to = keys.add(((at + lane) * BLOCK_TOKENS + slot) * E::BYTES);
                    std::ptr::copy_nonoverlapping(narrow.as_ptr().add(lane * E::BYTES), to, E::BYTES);
                }
            }
            at += count;
        }
    }

    #[inline(always)]
    unsafe fn store_value<V: Lanes>(value: *const f32, head_dim: usize, values: *mut u8, slot: usize, _last: bool) {
        let mut at = 0;
        while at < head_dim {
            let count = LANES.min(head_dim - at);
            let mut narrow = [0u8; 4 * LANES];
            // SAFETY: the caller vouches for `head_dim` numbers.
            unsafe {
                E::store(V::load_some(value.add(at), count), narrow.as_mut_ptr());
                let to = values.add((slot * head_dim + at) * E::BYTES);
                std::ptr::copy_nonoverlapping(narrow.as_ptr(), to, count * E::BYTES);
            }
            at += count;
        }
    }

    #[inline(always)]
    unsafe fn query<V: Lanes>(query: *const f32, _head_dim: usize, _room: *mut u8) -> *const u8 {
        query.cast()
    }

    #[inline(always)]
    unsafe fn scores<V: Lanes, const N: usize>(block: &Block, queries: [*const u8; N]) -> [V; N] {
        let queries = queries.map(|query| query.cast::<f32>());
        // SAFETY: the caller vouches for the pointers; `head_dim` is even.
        unsafe {
            let (mut even, mut odd) = ([V::zero(); N], [V::zero(); N]);
            let mut d = 0;
            while d < block.head_dim {
                block.ask::<V>(d * BLOCK_TOKENS * E::BYTES, block.head_dim * BLOCK_TOKENS * E::BYTES);
                let key = E::load::<V>(block.keys.add(d * BLOCK_TOKENS * E::BYTES));
                let next = E::load::<V>(block.keys.add((d + 1) * BLOCK_TOKENS * E::BYTES));
                for n in 0..N {
                    even[n] = key.mul_add(V::splat(*queries[n].add(d)), even[n]);
                    odd[n] = next.mul_add(V::splat(*queries[n].add(d + 1)), odd[n]);
                }
                d += 2;
            }
            for n in 0..N {
                even[n] = even[n].add(odd[n]);
            }
            even
        }
    }

    #[inline(always)]
    unsafe fn shares<V: Lanes>(shares: V) -> Shares {
        let mut room = Shares([0.0; LANES]);
        // SAFETY: there is room for sixteen.
        unsafe { shares.store(room.0.as_mut_ptr()) };
        room
    }

    #[inline(always)]
    unsafe fn add_values<V: Lanes, const N: usize, const C: usize>(
        block: &Block,
        at: usize,
        (from, to): (usize, usize),
        sums: &Sums<V, N>,
        shares: &[Shares; N],
    ) {
        let count = block.head_dim - at;
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let mut tile = sums.begin::<C>(at, count);
            for position in from..to {
                let values = block.values.add((position * block.head_dim + at) * E::BYTES);
                let mut value = [V::zero(); C];
                for c in 0..C {
                    let values = values.add(c * LANES * E::BYTES);
                    value[c] = if C > 1 { E::load(values) } else { E::load_some(values, count) };
                }
                for n in 0..N {
                    let share = V::splat(shares[n].0[position]);
                    for c in 0..C {
                        tile[n][c] = value[c].mul_add(share, tile[n][c]);
                    }
                }
            }
            sums.end::<C>(at, count, &tile);
        }
    }
}

/// bf16 in pairs, for dots. Keys: (head_dim / 2, 16, 2), neighbours of a head side by side. Values: (8, head_dim, 2),
/// neighbours in position side by side.
#[derive(Clone, Copy)]
pub(super) struct Paired;

/// Bytes of a pair.
const PAIR_BYTES: usize = 4;

impl Cached for Paired {
    #[inline(always)]
    unsafe fn store_key<V: Lanes>(key: *const f32, head_dim: usize, keys: *mut u8, slot: usize) {
        let mut at = 0;
        while at < head_dim {
            let count = LANES.min(head_dim - at);
            // SAFETY: the caller vouches for `head_dim` numbers, an even number, and as many rows of the block.
            unsafe {
                let narrow = rounded::<V>(key.add(at), count);
                for lane in (0..count).step_by(2) {
                    let to = keys.add(((at + lane) / 2 * BLOCK_TOKENS + slot) * PAIR_BYTES);
                    to.cast::<[u16; 2]>().write_unaligned([narrow[lane], narrow[lane + 1]]);
                }
            }
            at += count;
        }
    }

    #[inline(always)]
    unsafe fn store_value<V: Lanes>(value: *const f32, head_dim: usize, values: *mut u8, slot: usize, last: bool) {
        let values = values.wrapping_add(slot / 2 * head_dim * PAIR_BYTES + slot % 2 * 2);
        // A share of zero does not help against a neighbour that is not a number: nobody has written it.
        let clear = last && slot.is_multiple_of(2);
        let mut at = 0;
        while at < head_dim {
            let count = LANES.min(head_dim - at);
            // SAFETY: the caller vouches for `head_dim` numbers. The neighbour is this task's as well where `clear`:
            // no other row of the step writes it.
            unsafe {
                let narrow = rounded::<V>(value.add(at), count);
                for lane in 0..count {
                    let to = values.add((at + lane) * PAIR_BYTES).cast::<u16>();
                    to.write_unaligned(narrow[lane]);
                    if clear {
                        to.add(1).write_unaligned(0);
                    }
                }
            }
            at += count;
        }
    }

    #[inline(always)]
    unsafe fn query<V: Lanes>(query: *const f32, head_dim: usize, room: *mut u8) -> *const u8 {
        let mut at = 0;
        while at < head_dim {
            let count = LANES.min(head_dim - at);
            // SAFETY: the caller vouches for `head_dim` numbers and the room.
            unsafe {
                let narrow = rounded::<V>(query.add(at), count);
                std::ptr::copy_nonoverlapping(narrow.as_ptr().cast(), room.add(at * QUERY_BYTES), count * QUERY_BYTES);
            }
            at += count;
        }
        room
    }

    #[inline(always)]
    unsafe fn scores<V: Lanes, const N: usize>(block: &Block, queries: [*const u8; N]) -> [V; N] {
        const STEP: usize = BLOCK_TOKENS * PAIR_BYTES;
        let pairs = block.head_dim / 2;
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let (mut even, mut odd) = ([V::zero(); N], [V::zero(); N]);
            let mut pair = 0;
            while pair + 2 <= pairs {
                block.ask::<V>(pair * STEP, pairs * STEP);
                block.ask::<V>((pair + 1) * STEP, pairs * STEP);
                let key = V::load_pairs(block.keys.add(pair * STEP));
                let next = V::load_pairs(block.keys.add((pair + 1) * STEP));
                for n in 0..N {
                    let query = queries[n].add(pair * PAIR_BYTES);
                    even[n] = even[n].dot(V::splat_pair(query), key);
                    odd[n] = odd[n].dot(V::splat_pair(query.add(PAIR_BYTES)), next);
                }
                pair += 2;
            }
            if pair < pairs {
                let key = V::load_pairs(block.keys.add(pair * STEP));
                for n in 0..N {
                    even[n] = even[n].dot(V::splat_pair(queries[n].add(pair * PAIR_BYTES)), key);
                }
            }
            for n in 0..N {
                even[n] = even[n].add(odd[n]);
            }
            even
        }
    }

    #[inline(always)]
    unsafe fn shares<V: Lanes>(shares: V) -> Shares {
        let mut room = Shares([0.0; LANES]);
        // SAFETY: there is room for thirty-two bf16; the latter half is not read.
        unsafe { V::store_pairs(V::round_pairs(shares, V::zero()), room.0.as_mut_ptr().cast()) };
        room
    }

    #[inline(always)]
    unsafe fn add_values<V: Lanes, const N: usize, const C: usize>(
        block: &Block,
        at: usize,
        (from, to): (usize, usize),
        sums: &Sums<V, N>,
        shares: &[Shares; N],
    ) {
        let count = block.head_dim - at;
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let mut tile = sums.begin::<C>(at, count);
            for pair in from / 2..to.div_ceil(2) {
                let values = block.values.add((pair * block.head_dim + at) * PAIR_BYTES);
                let mut value = [V::load_pairs_some(values, 2 * count); C];
                if C > 1 {
                    for c in 0..C {
                        value[c] = V::load_pairs(values.add(c * LANES * PAIR_BYTES));
                    }
                }
                for n in 0..N {
                    let share = V::splat_pair(shares[n].0.as_ptr().add(pair).cast());
                    for c in 0..C {
                        tile[n][c] = tile[n][c].dot(share, value[c]);
                    }
                }
            }
            sums.end::<C>(at, count, &tile);
        }
    }
}

/// Up to sixteen numbers rounded to bf16.
///
/// # Safety
/// As for [`Lanes`] with dots; there are `count` numbers.
#[inline(always)]
unsafe fn rounded<V: Lanes>(from: *const f32, count: usize) -> [u16; 2 * LANES] {
    let mut narrow = [0u16; 2 * LANES];
    // SAFETY: passed on; there is room for thirty-two.
    unsafe { V::store_pairs(V::round_pairs(V::load_some(from, count), V::zero()), narrow.as_mut_ptr().cast()) };
    narrow
}

/// Sums of values that `N` queries have gathered so far.
pub(super) struct Sums<V, const N: usize> {
    pub(super) outs: [*mut f32; N],
    /// Factor of the sums before them; if none, they begin with zero.
    pub(super) rescale: Option<[V; N]>,
}

impl<V: Lanes, const N: usize> Sums<V, N> {
    /// `C` times sixteen numbers at `at` of each, rescaled. With `C` above one they are all there.
    ///
    /// # Safety
    /// As for [`Lanes`]; `count` numbers are left at `at`.
    #[inline(always)]
    unsafe fn begin<const C: usize>(&self, at: usize, count: usize) -> [[V; C]; N] {
        // SAFETY: passed on.
        unsafe {
            let mut tile = [[V::zero(); C]; N];
            let Some(rescale) = &self.rescale else { return tile };
            for n in 0..N {
                for c in 0..C {
                    let out = self.outs[n].add(at + c * LANES);
                    let so_far = if C > 1 { V::load(out) } else { V::load_some(out, count) };
                    tile[n][c] = so_far.mul(rescale[n]);
                }
            }
            tile
        }
    }

    /// Puts back what [`Sums::begin`] took.
    ///
    /// # Safety
    /// As for `begin`.
    #[inline(always)]
    unsafe fn end<const C: usize>(&self, at: usize, count: usize, tile: &[[V; C]; N]) {
        // SAFETY: passed on.
        unsafe {
            for n in 0..N {
                for c in 0..C {
                    let out = self.outs[n].add(at + c * LANES);
                    if C > 1 {
                        tile[n][c].store(out);
                    } else {
                        tile[n][c].store_some(out, count);
                    }
                }
            }
        }
    }
}
