//! GGML's blocks, read in place: sixteen numbers at a time as f32, or thirty-two as bf16.
//!
//! A number is `step · code + base`; steps and bases of a block are made once for all its numbers. Every product is
//! exact in f32 (a binary16 has 11 bits, a scale 8 at most, a code 6), so a number has the bits of the published
//! dequantization on every tier. A tier with dots makes a table of the thirty-two bf16 that a run of numbers can be, and
//! codes pick from it: some six instructions for thirty-two numbers, which is what keeps up with memory at 4.5 bits a
//! number. Its numbers are those of `read`, rounded to bf16 once.
//!
//! A format is a row here, and knows no tier.

use std::marker::PhantomData;

use super::lanes::{Bits, LANES, Lanes};
use super::stored::Stored;
use tensor::Format;

/// One of GGML's formats.
///
/// # Safety
/// For all methods: as for [`Lanes`], and `block` is a whole one.
pub(crate) trait Blocks: Copy + Send + Sync + 'static {
    /// Its name among all formats.
    const FORMAT: Format;
    /// Steps and bases of a block.
    type Scales: Copy + Default;
    /// Makes them.
    unsafe fn scales<V: Lanes>(block: *const u8) -> Self::Scales;
    /// The sixteen numbers from `at` on, a multiple of sixteen.
    unsafe fn read<V: Lanes>(block: *const u8, at: usize, scales: &Self::Scales) -> V;
    /// The thirty-two numbers from `at` on, a multiple of that, rounded to bf16.
    #[inline(always)]
    unsafe fn pairs<V: Lanes>(block: *const u8, at: usize, scales: &Self::Scales) -> V::Pairs {
        // SAFETY: passed on.
        unsafe { V::round_pairs(Self::read(block, at, scales), Self::read(block, at + LANES, scales)) }
    }
    /// The same twice, where a block has sixty-four numbers from `at` on, a multiple of that.
    #[inline(always)]
    unsafe fn pairs_two<V: Lanes>(block: *const u8, at: usize, scales: &Self::Scales) -> [V::Pairs; 2] {
        // SAFETY: passed on.
        unsafe { [Self::pairs::<V>(block, at, scales), Self::pairs::<V>(block, at + 2 * LANES, scales)] }
    }
}

/// Rows of whole blocks.
#[derive(Clone, Copy)]
pub(crate) struct In<B>(PhantomData<B>);

impl<B: Blocks> In<B> {
    const NUMBERS: usize = B::FORMAT.block().numbers;
    const BYTES: usize = B::FORMAT.block().bytes;

    /// The block that has the number `at` of a row.
    #[inline(always)]
    fn block(row: *const u8, at: usize) -> *const u8 {
        row.wrapping_add(at / Self::NUMBERS * Self::BYTES)
    }
}

impl<B: Blocks> Stored for In<B> {
    const DOTS: bool = true;
    const IS_BLOCKS: bool = true;
    const GROUP: usize = Self::NUMBERS;
    type Scales = B::Scales;

    fn row_bytes(inputs: usize) -> usize {
        inputs * Self::BYTES / Self::NUMBERS
    }
    #[inline(always)]
    unsafe fn scales<V: Lanes>(row: *const u8, at: usize) -> B::Scales {
        // SAFETY: passed on; rows are whole blocks.
        unsafe { B::scales::<V>(Self::block(row, at)) }
    }
    #[inline(always)]
    unsafe fn read<V: Lanes>(row: *const u8, at: usize, scales: &B::Scales) -> V {
        // SAFETY: passed on; rows are whole blocks.
        unsafe { B::read(Self::block(row, at), at % Self::NUMBERS, scales) }
    }
    #[inline(always)]
    unsafe fn read_some<V: Lanes>(row: *const u8, at: usize, _: usize, scales: &B::Scales) -> V {
        // SAFETY: rows are whole blocks: there are sixteen.
        unsafe { Self::read(row, at, scales) }
    }
    #[inline(always)]
    unsafe fn pairs<V: Lanes>(row: *const u8, at: usize, _: usize, scales: &B::Scales) -> V::Pairs {
        // SAFETY: passed on; rows are whole blocks, and blocks multiples of thirty-two.
        unsafe { B::pairs::<V>(Self::block(row, at), at % Self::NUMBERS, scales) }
    }
    #[inline(always)]
    unsafe fn pairs_two<V: Lanes>(row: *const u8, at: usize, scales: &B::Scales) -> [V::Pairs; 2] {
        // SAFETY: passed on; the caller asks for it of blocks of sixty-four numbers and more.
        unsafe { B::pairs_two::<V>(Self::block(row, at), at % Self::NUMBERS, scales) }
    }
}

/// Added to a number without a base: `x + -0 = x`, zeros of either sign included.
const NOTHING: f32 = -0.0;

/// A binary16 scale and 32 signed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Blocks for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    type Scales = ();
    #[inline(always)]
    unsafe fn scales<V: Lanes>(_block: *const u8) {}
    #[inline(always)]
    unsafe fn read<V: Lanes>(block: *const u8, at: usize, _: &()) -> V {
        // SAFETY: sixteen numbers from a multiple of sixteen on are half a block.
        unsafe { V::load_i8(block.add(2 + at)).mul(V::splat_f16(block)) }
    }
}

/// A step and a base.
#[derive(Clone, Copy, Default)]
pub(crate) struct One {
    step: f32,
    base: f32,
}

impl One {
    /// The table of the numbers that codes stand for.
    ///
    /// # Safety
    /// As for [`Lanes`] with dots.
    #[inline(always)]
    unsafe fn table<V: Lanes>(self, codes: &[f32; 2 * LANES]) -> V::Pairs {
        // SAFETY: the caller vouches for the tier; there are thirty-two codes.
        unsafe {
            let numbers = |at| V::load(codes.as_ptr().add(at)).mul_add(V::splat(self.step), V::splat(self.base));
            V::round_pairs(numbers(0), numbers(LANES))
        }
    }
}

/// The number that a binary16 is.
///
/// # Safety
/// As for [`Lanes`]; two bytes are read.
#[inline(always)]
unsafe fn f16<V: Lanes>(from: *const u8) -> f32 {
    // SAFETY: passed on.
    unsafe { V::splat_f16(from).first() }
}

/// The thirty-two numbers that four bits and perhaps a fifth select among.
const fn table(codes: [i8; 16], fifth: bool) -> [f32; 2 * LANES] {
    let mut table = [0.0; 2 * LANES];
    let mut at = 0;
    while at < 2 * LANES {
        table[at] = codes[at % LANES] as f32 + if fifth && at >= LANES { 16.0 } else { 0.0 };
        at += 1;
    }
    table
}

/// Codes that count from `from` on.
const fn even(from: i8) -> [i8; 16] {
    let mut codes = [0; 16];
    let mut at = 0;
    while at < 16 {
        codes[at] = from + at as i8;
        at += 1;
    }
    codes
}

/// The codes of IQ4_NL and IQ4_XS.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Declares formats of 32 numbers: a binary16 scale; the offsets of a binary16 base and of 32 fifth bits, where there
/// are any; then sixteen bytes whose low halves are numbers 0 to 15, their high halves 16 to 31.
macro_rules! halves {
    ($($(#[$doc:meta])* $name:ident, $codes:expr, base $base:expr, fifth $fifth:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl $name {
            const CODES: [i8; 16] = $codes;
            const TABLE: [f32; 2 * LANES] = table(Self::CODES, Self::FIFTH.is_some());
            const BASE: Option<usize> = $base;
            const FIFTH: Option<usize> = $fifth;
            const FIRST: usize = Self::FORMAT.block().bytes - LANES;

            /// The fifth bits.
            ///
            /// # Safety
            /// It is a block.
            #[inline(always)]
            unsafe fn fifth(block: *const u8) -> Option<u32> {
                // SAFETY: four bytes of the block.
                Self::FIFTH.map(|at| unsafe { u32::from_le(block.add(at).cast::<u32>().read_unaligned()) })
            }
        }

        impl Blocks for $name {
            const FORMAT: Format = Format::$name;
            type Scales = One;
            #[inline(always)]
            unsafe fn scales<V: Lanes>(block: *const u8) -> One {
                // SAFETY: two bytes of the block each.
                unsafe {
                    One { step: f16::<V>(block), base: Self::BASE.map_or(NOTHING, |at| f16::<V>(block.add(at))) }
                }
            }
            #[inline(always)]
            unsafe fn read<V: Lanes>(block: *const u8, at: usize, scales: &One) -> V {
                // SAFETY: sixteen bytes of the block.
                unsafe {
                    let code = V::load_coded(block.add(Self::FIRST), at as u32 / 4, &Self::CODES);
                    let code = match Self::fifth(block) {
                        Some(bits) => code.add(V::choose((bits >> at) as u16, 16.0)),
                        None => code,
                    };
                    code.mul_add(V::splat(scales.step), V::splat(scales.base))
                }
            }
            #[inline(always)]
            unsafe fn pairs<V: Lanes>(block: *const u8, _: usize, _: &One) -> V::Pairs {
                // SAFETY: the scales, and sixteen bytes, of the block.
                unsafe {
                    // All lanes at once: a step that has been a number by itself would have to be spread again.
                    let base = Self::BASE.map_or(V::splat(NOTHING), |at| V::splat_f16(block.add(at)));
                    let numbers = |at| V::load(Self::TABLE.as_ptr().add(at)).mul_add(V::splat_f16(block), base);
                    let low = numbers(0);
                    // Without fifth bits both halves are alike.
                    let high = if Self::FIFTH.is_some() { numbers(LANES) } else { low };
                    V::pick_halves(V::round_pairs(low, high), block.add(Self::FIRST), Self::fifth(block))
                }
            }
        }
    )*};
}

halves! {
    /// Four bits, a scale.
    Q4_0, even(-8), base None, fifth None;
    /// Four bits, a scale and a base.
    Q4_1, even(0), base Some(2), fifth None;
    /// Five bits, a scale.
    Q5_0, even(-16), base None, fifth Some(2);
    /// Five bits, a scale and a base.
    Q5_1, even(0), base Some(2), fifth Some(4);
    /// Four bits by a table that is not linear, a scale.
    Iq4Nl, UNEVEN, base None, fifth None;
}

/// Numbers in a block of the formats whose scales are in two levels.
const SUPER: usize = 256;

/// Steps and bases of a block of [`SUPER`] numbers, of every sixteen or every thirty-two.
#[derive(Clone, Copy, Default)]
pub(crate) struct Many {
    steps: [f32; LANES],
    bases: [f32; LANES],
}

impl Many {
    #[inline(always)]
    fn at(&self, run: usize) -> One {
        One { step: self.steps[run % LANES], base: self.bases[run % LANES] }
    }

    /// `factors` times a binary16 each: steps without bases.
    ///
    /// # Safety
    /// As for [`Lanes`]; two bytes are read.
    #[inline(always)]
    unsafe fn of<V: Lanes>(factors: V, scale: *const u8) -> Self {
        let mut many = Self { steps: [0.0; LANES], bases: [NOTHING; LANES] };
        // SAFETY: passed on; there is room for sixteen.
        unsafe { factors.mul(V::splat_f16(scale)).store(many.steps.as_mut_ptr()) };
        many
    }
}

/// Places of sixteen numbers' codes: their low bits, and where there are any the high ones, which go so far up.
type Codes = (Bits, Option<(Bits, u32)>);

/// Declares formats of [`SUPER`] numbers with a code of consecutive bits for each, from whose number `centre` is taken.
/// A step holds for `run` numbers; `codes` are the places of the sixteen numbers of an index, `scales` the steps and bases.
macro_rules! supers {
    ($($(#[$doc:meta])* $name:ident, run $run:literal, centre $centre:literal, $scales:ident, $codes:ident, $pairs:path $(, $pairs_two:path)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Blocks for $name {
            const FORMAT: Format = Format::$name;
            type Scales = Many;
            #[inline(always)]
            unsafe fn scales<V: Lanes>(block: *const u8) -> Many {
                // SAFETY: passed on.
                unsafe { $scales::<V>(block) }
            }
            #[inline(always)]
            unsafe fn read<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V {
                let One { step, base } = scales.at(at / $run);
                // SAFETY: the codes are in the block.
                unsafe {
                    let (low, high) = $codes(block, at / LANES);
                    let code = V::load_bits(low, high);
                    let code = if $centre == 0.0 { code } else { code.sub(V::splat($centre)) };
                    code.mul_add(V::splat(step), V::splat(base))
                }
            }
            #[inline(always)]
            unsafe fn pairs<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V::Pairs {
                // SAFETY: passed on.
                unsafe { $pairs(block, at, scales) }
            }
            $(#[inline(always)]
            unsafe fn pairs_two<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> [V::Pairs; 2] {
                // SAFETY: passed on.
                unsafe { $pairs_two(block, at, scales) }
            })?
        }
    )*};
}

supers! {
    /// Two bits; scales and minimums of four bits for every sixteen.
    Q2K, run 16, centre 0.0, q2_k_scales, q2_k_codes, q2_k_pairs::<V>;
    /// Three bits; scales of six bits for every sixteen.
    Q3K, run 16, centre 4.0, q3_k_scales, q3_k_codes, q3_k_pairs::<V>;
    /// Four bits; scales and minimums of six bits for every thirty-two.
    Q4K, run 32, centre 0.0, q4_k_scales, q4_k_codes, q4_k_pairs::<V>, q4_k_pairs_two::<V>;
    /// Five bits; scales and minimums of six bits for every thirty-two.
    Q5K, run 32, centre 0.0, q4_k_scales, q5_k_codes, q5_k_pairs::<V>;
    /// Six bits; scales of eight bits for every sixteen.
    Q6K, run 16, centre 32.0, q6_k_scales, q6_k_codes, q6_k_pairs::<V>;
}

/// Two runs of sixteen whose codes are those of 32 bytes, rounded.
///
/// # Safety
/// As for [`Blocks::pairs`]; the codes are in the block.
#[inline(always)]
unsafe fn rounded<V: Lanes>((low, high): Codes, centre: i8, runs: [One; 2]) -> V::Pairs {
    // SAFETY: passed on.
    unsafe {
        let [one, two] = V::load_bits_two(low, high, centre);
        let number = |code: V, One { step, base }| code.mul_add(V::splat(step), V::splat(base));
        V::round_pairs(number(one, runs[0]), number(two, runs[1]))
    }
}

/// Declares the pairs of formats with a step for every sixteen numbers.
macro_rules! rounded_pairs {
    ($($name:ident, $codes:ident, centre $centre:literal;)*) => {$(
        /// # Safety
        /// As for [`Blocks::pairs`].
        #[inline(always)]
        unsafe fn $name<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V::Pairs {
            let run = at / LANES;
            // SAFETY: passed on.
            unsafe { rounded::<V>($codes(block, run), $centre, [scales.at(run), scales.at(run + 1)]) }
        }
    )*};
}

rounded_pairs! {
    q2_k_pairs, q2_k_codes, centre 0;
    q3_k_pairs, q3_k_codes, centre 4;
    q6_k_pairs, q6_k_codes, centre 32;
}

#[inline(always)]
fn bits(block: *const u8, at: usize, shift: usize, mask: u8) -> Bits {
    Bits { from: block.wrapping_add(at), shift: shift as u32, mask }
}

/// # Safety
/// As for [`Blocks`].
#[inline(always)]
unsafe fn q2_k_scales<V: Lanes>(block: *const u8) -> Many {
    // SAFETY: sixteen bytes and two binary16 of the block; there is room for sixteen.
    unsafe {
        let mut many = Many::of(V::load_bits(bits(block, 0, 0, 15), None), block.add(80));
        let minimums = V::load_bits(bits(block, 0, 4, 15), None).mul(V::splat_f16(block.add(82)));
        minimums.mul(V::splat(-1.0)).store(many.bases.as_mut_ptr());
        many
    }
}

#[inline(always)]
fn q2_k_codes(block: *const u8, index: usize) -> Codes {
    (bits(block, 16 + index / 8 * 32 + index % 2 * 16, index % 8 / 2 * 2, 3), None)
}

/// # Safety
/// As for [`Blocks`].
#[inline(always)]
unsafe fn q3_k_scales<V: Lanes>(block: *const u8) -> Many {
    // SAFETY: twelve bytes of the block and a binary16.
    unsafe {
        let packed = block.add(96).cast::<[u8; 12]>().read_unaligned();
        let mut scales = [0_i8; LANES];
        for (at, scale) in scales.iter_mut().enumerate() {
            let low = packed[at % 8] >> (at / 8 * 4) & 15;
            *scale = (low | (packed[8 + at % 4] >> (at / 4 * 2) & 3) << 4).cast_signed() - 32;
        }
        Many::of(V::load_i8(scales.as_ptr().cast()), block.add(108))
    }
}

#[inline(always)]
fn q3_k_codes(block: *const u8, index: usize) -> Codes {
    let low = bits(block, 32 + index / 8 * 32 + index % 2 * 16, index % 8 / 2 * 2, 3);
    (low, Some((bits(block, index % 2 * 16, index / 2, 1), 2)))
}

/// # Safety
/// As for [`Blocks`].
#[inline(always)]
unsafe fn q4_k_scales<V: Lanes>(block: *const u8) -> Many {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x0303_0303;
    // SAFETY: twelve bytes of the block and two binary16; there is room for sixteen.
    unsafe {
        // Four scales and four minimums of six bits; of the other four of each, four bits and the two that are left above.
        let [scales, minimums, both] = block.add(4).cast::<[u32; 3]>().read_unaligned().map(u32::from_le);
        let words = [
            scales & SIX,
            both & FOUR | (scales >> 6 & TWO) << 4,
            minimums & SIX,
            both >> 4 & FOUR | (minimums >> 6 & TWO) << 4,
        ];
        let bytes = words.map(u32::to_le);
        let factors = V::load_bits(bits(bytes.as_ptr().cast(), 0, 0, 0xff), None);
        let mut many = Many::of(factors, block);
        let mut all = [0.0; LANES];
        factors.mul(V::splat_f16(block.add(2))).mul(V::splat(-1.0)).store(all.as_mut_ptr());
        many.bases[..8].copy_from_slice(&all[8..]);
        many
    }
}

#[inline(always)]
fn q4_k_codes(block: *const u8, index: usize) -> Codes {
    (bits(block, 16 + index / 4 * 32 + index % 2 * 16, index / 2 % 2 * 4, 15), None)
}

/// # Safety
/// As for [`Blocks::pairs`].
#[inline(always)]
unsafe fn q4_k_pairs<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V::Pairs {
    const TABLE: [f32; 2 * LANES] = table(even(0), false);
    let part = at / 32;
    // SAFETY: thirty-two bytes of the block.
    unsafe {
        let table = scales.at(part).table::<V>(&TABLE);
        V::pick(table, block.add(16 + part / 2 * 32), part as u32 % 2 * 4, None)
    }
}

/// Two runs at a time, whose codes are the halves of the same bytes: one table has the numbers of both.
///
/// # Safety
/// As for [`Blocks::pairs`].
#[inline(always)]
unsafe fn q4_k_pairs_two<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> [V::Pairs; 2] {
    const CODES: [f32; 2 * LANES] = table(even(0), false);
    let part = at / 32;
    // SAFETY: thirty-two bytes of the block.
    unsafe {
        let codes = V::load(CODES.as_ptr());
        let numbers = |One { step, base }: One| codes.mul_add(V::splat(step), V::splat(base));
        let table = V::round_pairs(numbers(scales.at(part + 1)), numbers(scales.at(part)));
        V::pick_both(table, block.add(16 + part / 2 * 32))
    }
}

#[inline(always)]
fn q5_k_codes(block: *const u8, index: usize) -> Codes {
    let low = bits(block, 48 + index / 4 * 32 + index % 2 * 16, index / 2 % 2 * 4, 15);
    (low, Some((bits(block, 16 + index % 2 * 16, index / 2, 1), 4)))
}

/// # Safety
/// As for [`Blocks::pairs`].
#[inline(always)]
unsafe fn q5_k_pairs<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V::Pairs {
    const TABLE: [f32; 2 * LANES] = table(even(0), true);
    let part = at / 32;
    // SAFETY: thirty-two bytes of the block, twice.
    unsafe {
        let table = scales.at(part).table::<V>(&TABLE);
        let fifth = V::tested(block.add(16), 1 << part);
        V::pick(table, block.add(48 + part / 2 * 32), part as u32 % 2 * 4, Some(fifth))
    }
}

/// # Safety
/// As for [`Blocks`].
#[inline(always)]
unsafe fn q6_k_scales<V: Lanes>(block: *const u8) -> Many {
    // SAFETY: sixteen bytes of the block and a binary16.
    unsafe { Many::of(V::load_i8(block.add(192)), block.add(208)) }
}

#[inline(always)]
fn q6_k_codes(block: *const u8, index: usize) -> Codes {
    let (half, quarter, side) = (index / 8, index % 8 / 2, index % 2 * 16);
    let low = bits(block, 64 * half + quarter % 2 * 32 + side, quarter / 2 * 4, 15);
    (low, Some((bits(block, 128 + 32 * half + side, quarter * 2, 3), 4)))
}

/// Four bits by a table that is not linear; scales of six bits for every thirty-two.
#[derive(Clone, Copy)]
pub(crate) struct Iq4Xs;

impl Blocks for Iq4Xs {
    const FORMAT: Format = Format::Iq4Xs;
    type Scales = Many;
    #[inline(always)]
    unsafe fn scales<V: Lanes>(block: *const u8) -> Many {
        let mut scales = [0_i8; LANES];
        // SAFETY: eight bytes of the block.
        unsafe {
            let high = u16::from_le(block.add(2).cast::<u16>().read_unaligned());
            for (part, scale) in scales[..SUPER / 32].iter_mut().enumerate() {
                let low = *block.add(4 + part / 2) >> (part % 2 * 4) & 15;
                *scale = (low | ((high >> (2 * part) & 3) as u8) << 4).cast_signed() - 32;
            }
            Many::of(V::load_i8(scales.as_ptr().cast()), block)
        }
    }
    #[inline(always)]
    unsafe fn read<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V {
        let (part, One { step, base }) = (at / 32, scales.at(at / 32));
        // SAFETY: sixteen bytes of the block.
        unsafe {
            let code = V::load_coded(block.add(8 + 16 * part), at as u32 % 32 / 4, &UNEVEN);
            code.mul_add(V::splat(step), V::splat(base))
        }
    }
    #[inline(always)]
    unsafe fn pairs<V: Lanes>(block: *const u8, at: usize, scales: &Many) -> V::Pairs {
        const TABLE: [f32; 2 * LANES] = table(UNEVEN, false);
        // SAFETY: sixteen bytes of the block.
        unsafe { V::pick_halves(scales.at(at / 32).table::<V>(&TABLE), block.add(8 + at / 2), None) }
    }
}
