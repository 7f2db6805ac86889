//! Sixteen f32 at a time: the vocabulary in which every kernel is written once.
//!
//! A tier implements [`Lanes`]; kernels are generic over it and are compiled per tier (see
//! `tier`). Sixteen lanes on every tier, however many registers that takes, so that the order of
//! additions is the same everywhere.

use tensor::{Activation, Format};

/// Numbers that one [`Lanes`] holds.
pub(crate) const LANES: usize = 16;

/// Below, e^x is no normal f32 any more.
const EXP_MIN: f32 = -87.3;
/// Above, 2^n of the result's exponent is no f32 any more.
const EXP_MAX: f32 = 88.3;
/// The largest binary16 number: what larger ones become when a key or value is stored.
pub(crate) const F16_MAX: f32 = 65504.0;

/// Some bits of each of sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bits {
    /// The first byte.
    pub(crate) from: *const u8,
    /// Bits below them.
    pub(crate) shift: u32,
    /// The bits, once those below are gone.
    pub(crate) mask: u8,
}

/// Sixteen f32.
///
/// # Safety
/// Methods may only be called where the CPU has the tier's instructions, and pointers must be valid
/// for what the method says it reads or writes; no alignment is needed. All are `inline(always)`,
/// to become single instructions inside functions compiled for the tier.
pub(crate) trait Lanes: Copy {
    /// True if registers hold two dozen sums at a time.
    const MANY_REGISTERS: bool;
    /// True if the tier multiplies bf16 pairs: only then may the methods about pairs be called.
    const DOTS: bool;
    /// Thirty-two bf16, two to a lane.
    type Pairs: Copy;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// Reads 64 bytes: binary32.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads 32 bytes: binary16.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// Reads 32 bytes: the upper halves of binary32.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// Writes 64 bytes.
    unsafe fn store(self, to: *mut f32);
    /// Writes 32 bytes: binary16, rounded to nearest even. Hidden contract: no lane beyond ±65504.
    unsafe fn store_f16(self, to: *mut u8);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self · other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`.
    unsafe fn div(self, other: Self) -> Self;
    /// `self · factor + addend`, fused where the tier can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger of each pair; `other` where either is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each pair; `other` where either is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest whole number.
    unsafe fn round(self) -> Self;
    /// 2 to the power of whole numbers from -126 to 127.
    unsafe fn exp2_whole(self) -> Self;
    /// The lanes' sum: halves are added until one is left.
    unsafe fn sum(self) -> f32;
    /// The largest lane.
    unsafe fn largest(self) -> f32;
    /// Asks for the cache line at `at`, which need not be valid.
    unsafe fn prefetch(at: *const u8);

    /// Lanes `from..to`, the others replaced.
    #[inline(always)]
    unsafe fn only(self, from: usize, to: usize, other: f32) -> Self {
        let mut lanes = [other; LANES];
        let mut all = [0f32; LANES];
        // SAFETY: the caller vouches for the tier; both arrays hold sixteen.
        unsafe {
            self.store(all.as_mut_ptr());
            lanes[from..to].copy_from_slice(&all[from..to]);
            Self::load(lanes.as_ptr())
        }
    }
    /// Reads 16 bytes: signed.
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 bytes; the array holds sixteen.
        unsafe {
            let bytes = from.cast::<[i8; LANES]>().read_unaligned();
            Self::load(bytes.map(f32::from).as_ptr())
        }
    }
    /// Bits of sixteen bytes as whole numbers; where there are `high` ones, these stand so far above the low.
    #[inline(always)]
    unsafe fn load_bits(low: Bits, high: Option<(Bits, u32)>) -> Self {
        // SAFETY: the caller vouches for 16 bytes each; the array holds sixteen.
        unsafe {
            let of = |bits: Bits, at: usize| *bits.from.add(at) >> bits.shift & bits.mask;
            let code = |at| of(low, at) | high.map_or(0, |(bits, above)| of(bits, at) << above);
            Self::load(std::array::from_fn::<f32, LANES, _>(|at| f32::from(code(at))).as_ptr())
        }
    }
    /// Four bits of sixteen bytes, from `shift` on, each the code that it selects.
    #[inline(always)]
    unsafe fn load_coded(from: *const u8, shift: u32, codes: &[i8; LANES]) -> Self {
        // SAFETY: the caller vouches for 16 bytes; the array holds sixteen.
        unsafe {
            let code = |at| codes[usize::from(*from.add(at) >> shift & 15)];
            Self::load(std::array::from_fn::<f32, LANES, _>(|at| f32::from(code(at))).as_ptr())
        }
    }
    /// `one` in the lanes whose bit is set, zero in the others.
    #[inline(always)]
    unsafe fn choose(bits: u16, one: f32) -> Self {
        let lane = |at| if bits >> at & 1 == 1 { one } else { 0.0 };
        // SAFETY: the caller vouches for the tier; the array holds sixteen.
        unsafe { Self::load(std::array::from_fn::<f32, LANES, _>(lane).as_ptr()) }
    }
    /// The first lane.
    #[inline(always)]
    unsafe fn first(self) -> f32 {
        let mut lanes = [0f32; LANES];
        // SAFETY: the caller vouches for the tier; the array holds sixteen.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[0]
    }
    /// All lanes the binary16 number at `from`.
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 2 bytes.
        unsafe {
            let bits = u16::from_le(from.cast::<u16>().read_unaligned());
            Self::splat(half::f16::from_bits(bits).to_f32())
        }
    }
    /// Reads 64 bytes: thirty-two bf16.
    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> Self::Pairs {
        let _ = from;
        no_dots()
    }
    /// Reads `count` (at most 32) bf16; the others are zero.
    #[inline(always)]
    unsafe fn load_pairs_some(from: *const u8, count: usize) -> Self::Pairs {
        let _ = (from, count);
        no_dots()
    }
    /// All lanes the two bf16 at `from`: reads 4 bytes.
    #[inline(always)]
    unsafe fn splat_pair(from: *const u8) -> Self::Pairs {
        let _ = from;
        no_dots()
    }
    /// Thirty-two bf16 of a table, each by the four bits from `shift` on of a byte of 32 and, where there are any, its fifth
    /// bit. Without fifth bits both halves of the table are alike.
    #[inline(always)]
    unsafe fn pick(table: Self::Pairs, from: *const u8, shift: u32, fifth: Option<u32>) -> Self::Pairs {
        let _ = (table, from, shift, fifth);
        no_dots()
    }
    /// Twice thirty-two bf16 of a table, by the low halves of 32 bytes, which pick in its second half, and by their high
    /// halves, which pick in its first.
    #[inline(always)]
    unsafe fn pick_both(table: Self::Pairs, from: *const u8) -> [Self::Pairs; 2] {
        let _ = (table, from);
        no_dots()
    }
    /// Bits of thirty-two bytes as whole numbers less `centre`, as [`Lanes::load_bits`] reads those of sixteen.
    #[inline(always)]
    unsafe fn load_bits_two(low: Bits, high: Option<(Bits, u32)>, centre: i8) -> [Self; 2] {
        let _ = (low, high, centre);
        no_dots()
    }
    /// The same by the low halves of sixteen bytes, then by the high ones.
    #[inline(always)]
    unsafe fn pick_halves(table: Self::Pairs, from: *const u8, fifth: Option<u32>) -> Self::Pairs {
        let _ = (table, from, fifth);
        no_dots()
    }
    /// The bytes of 32, bit by bit, that have a bit of `mask`.
    #[inline(always)]
    unsafe fn tested(from: *const u8, mask: u8) -> u32 {
        let _ = (from, mask);
        no_dots()
    }
    /// Rounds thirty-two f32 to nearest even, in order.
    #[inline(always)]
    unsafe fn round_pairs(first: Self, second: Self) -> Self::Pairs {
        let _ = (first, second);
        no_dots()
    }
    /// Writes 64 bytes.
    #[inline(always)]
    unsafe fn store_pairs(pairs: Self::Pairs, to: *mut u8) {
        let _ = (pairs, to);
        no_dots()
    }
    /// Adds both products of each lane.
    #[inline(always)]
    unsafe fn dot(self, a: Self::Pairs, b: Self::Pairs) -> Self {
        let _ = (a, b);
        no_dots()
    }
    /// Four times [`Lanes::sum`].
    #[inline(always)]
    unsafe fn sum_four(lanes: [Self; 4]) -> [f32; 4] {
        // SAFETY: passed on.
        lanes.map(|lanes| unsafe { lanes.sum() })
    }

    /// All lanes zero.
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe { Self::splat(0.0) }
    }

    /// Writes 32 bytes: the upper halves of binary32, rounded to nearest even.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u8) {
        let mut lanes = [0f32; LANES];
        // SAFETY: the array holds 64 bytes, and the caller vouches for 32 bytes at `to`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            let mut halves = [0u16; LANES];
            for (half, lane) in halves.iter_mut().zip(lanes) {
                *half = half::bf16::from_f32(lane).to_bits();
            }
            to.cast::<[u16; LANES]>().write_unaligned(halves);
        }
    }

    /// e^x, within two units in the last place; clamped to what a normal f32 can hold.
    ///
    /// x = n·ln 2 + r with |r| ≤ ln 2 / 2, e^r by its Taylor series to the seventh power (the rest
    /// is below 6e-9), then scaled by 2^n.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        const LN2_HIGH: f32 = 355.0 / 512.0; // Few bits: n times it is exact.
        const LN2_LOW: f32 = -2.121_944_4e-4;
        const COEFFICIENTS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        // SAFETY: the caller vouches for the tier.
        unsafe {
            let x = Self::splat(EXP_MIN).max(Self::splat(EXP_MAX).min(self));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            let r = n.mul_add(Self::splat(-LN2_HIGH), x);
            let r = n.mul_add(Self::splat(-LN2_LOW), r);
            let mut series = Self::splat(1.0 / 5040.0);
            for coefficient in COEFFICIENTS {
                series = series.mul_add(r, Self::splat(coefficient));
            }
            series.mul(n.exp2_whole())
        }
    }

    /// x / (1 + e^-x).
    #[inline(always)]
    unsafe fn silu(self) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe { self.div(Self::splat(1.0).add(Self::zero().sub(self).exp())) }
    }

    /// The hyperbolic tangent, within 2e-7: (1 - e^-2x) / (1 + e^-2x).
    #[inline(always)]
    unsafe fn tanh(self) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe {
            let (one, power) = (Self::splat(1.0), self.mul(Self::splat(-2.0)).exp());
            one.sub(power).div(one.add(power))
        }
    }

    /// x / 2 · (1 + erf(x / √2)): the Gaussian error linear unit. The error function is within 1.5e-7 (Abramowitz and Stegun
    /// 7.1.26): 1 - (a₁t + … + a₅t⁵) · e^-z² with t = 1 / (1 + pz) for z ≥ 0, and odd.
    #[inline(always)]
    unsafe fn gelu(self) -> Self {
        const P: f32 = 0.327_591_1;
        const A: [f32; 4] = [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
        // SAFETY: the caller vouches for the tier.
        unsafe {
            let (one, half) = (Self::splat(1.0), self.mul(Self::splat(0.5)));
            let z = self.mul(Self::splat(std::f32::consts::FRAC_1_SQRT_2));
            let size = z.max(Self::zero().sub(z));
            let t = one.div(size.mul_add(Self::splat(P), one));
            let mut series = Self::splat(1.061_405_4);
            for coefficient in A {
                series = series.mul_add(t, Self::splat(coefficient));
            }
            let rest = series.mul(t).mul(Self::zero().sub(size.mul(size)).exp());
            // x/2 + |x|/2 · erf(|z|), as both are odd.
            let magnitude = half.max(Self::zero().sub(half));
            magnitude.mul(one.sub(rest)).add(half)
        }
    }

    /// A function of every lane.
    #[inline(always)]
    unsafe fn activate(self, activation: Activation) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe {
            match activation {
                Activation::Silu => self.silu(),
                Activation::Gelu => self.gelu(),
                Activation::GeluTanh => self.gelu_tanh(),
                // What is no number stays none.
                Activation::Relu => Self::zero().max(self),
                Activation::Tanh => self.tanh(),
            }
        }
    }

    /// x / (1 + e^-2u) with u = √(2/π) · (x + 0.044715 x³): the Gaussian error linear unit by its approximation with tanh.
    #[inline(always)]
    unsafe fn gelu_tanh(self) -> Self {
        const ROOT: f32 = 0.797_884_6;
        const CUBE: f32 = 0.044_715;
        // SAFETY: the caller vouches for the tier.
        unsafe {
            let inner = self.mul(self).mul(self).mul_add(Self::splat(CUBE), self);
            self.div(Self::splat(1.0).add(inner.mul(Self::splat(-2.0 * ROOT)).exp()))
        }
    }

    /// Reads `count` (at most 16) f32; the other lanes are zero.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for `count` numbers; the array holds sixteen.
        unsafe {
            if count >= LANES {
                return Self::load(from);
            }
            let mut lanes = [0f32; LANES];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `count` (at most 16) lanes.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize) {
        // SAFETY: the caller vouches for `count` numbers; the array holds sixteen.
        unsafe {
            if count >= LANES {
                return self.store(to);
            }
            let mut lanes = [0f32; LANES];
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
}

/// Kernels ask [`Lanes::DOTS`] first.
#[cold]
fn no_dots() -> ! {
    unreachable!("this tier multiplies no bf16 pairs")
}

/// A stored number format, widened to f32 in registers.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Its name among all formats.
    const FORMAT: Format;
    /// Bytes of one number.
    const BYTES: usize = Self::FORMAT.block().bytes;
    /// True if tiers with dots of bf16 pairs use them for it.
    const DOTS: bool = false;
    /// Reads sixteen.
    ///
    /// # Safety
    /// As for [`Lanes`]; `16 · BYTES` bytes are read.
    unsafe fn load<V: Lanes>(from: *const u8) -> V;
    /// Writes sixteen; numbers too large for the format become its largest.
    ///
    /// # Safety
    /// As for [`Lanes`]; `16 · BYTES` bytes are written.
    unsafe fn store<V: Lanes>(lanes: V, to: *mut u8);

    /// Reads `count` (at most 16); the other lanes are zero.
    ///
    /// # Safety
    /// As for [`Lanes`]; `count · BYTES` bytes are read.
    #[inline(always)]
    unsafe fn load_some<V: Lanes>(from: *const u8, count: usize) -> V {
        // SAFETY: the caller vouches for `count` numbers; the array holds sixteen of any format.
        unsafe {
            if count >= LANES {
                return Self::load(from);
            }
            let mut bytes = [0u8; 4 * LANES];
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count * Self::BYTES);
            Self::load(bytes.as_ptr())
        }
    }
}

/// binary32.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// binary16.
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// The upper half of a binary32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

impl Element for F32 {
    const FORMAT: Format = Format::F32;
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(lanes: V, to: *mut u8) {
        // SAFETY: passed on.
        unsafe { lanes.store(to.cast()) }
    }
}

impl Element for F16 {
    const FORMAT: Format = Format::F16;
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(lanes: V, to: *mut u8) {
        // SAFETY: passed on.
        unsafe { V::splat(-F16_MAX).max(V::splat(F16_MAX).min(lanes)).store_f16(to) }
    }
}

impl Element for Bf16 {
    const FORMAT: Format = Format::Bf16;
    const DOTS: bool = true;
    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Lanes>(lanes: V, to: *mut u8) {
        // SAFETY: passed on.
        unsafe { lanes.store_bf16(to) }
    }
}
