//! The tiers of 64-bit Arm: sixteen lanes in four registers; with BF16, also dots of bf16 pairs.
//!
//! Every additions' order and every rounding is that of the AVX2 tier, so plain products agree with it to the last bit.
//! A dot of pairs rounds its two products' sum as BFDOT does (Arm Architecture Reference Manual, `BFDotAdd`), and differs
//! from AVX-512's. Instructions whose types are not stable in Rust yet are written out.

use std::arch::aarch64::*;
use std::arch::asm;

use super::kernel::Kernel;
use super::lanes::{Bits, LANES, Lanes};

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15. `DOTS`: with BF16.
#[derive(Clone, Copy)]
pub(super) struct Neon<const DOTS: bool>([float32x4_t; 4]);

/// Thirty-two bf16: lane `n` of [`Neon`] has numbers `2n` and `2n + 1`.
type Pairs = [uint16x8_t; 4];

/// Runs a kernel compiled for this tier.
///
/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: the caller vouches for the CPU.
    unsafe { kernel.run::<Neon<false>>() }
}

/// Runs a kernel compiled for the tier with BF16.
///
/// # Safety
/// The CPU has NEON and its BF16.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) {
    // SAFETY: the caller vouches for the CPU.
    unsafe { kernel.run::<Neon<true>>() }
}

/// Two of an instruction's operands, element by element.
#[inline(always)]
fn zip<const DOTS: bool>(
    a: Neon<DOTS>,
    b: Neon<DOTS>,
    combine: impl Fn(float32x4_t, float32x4_t) -> float32x4_t,
) -> Neon<DOTS> {
    Neon(std::array::from_fn(|at| combine(a.0[at], b.0[at])))
}

/// The larger of each pair; `b` where either is not a number, unlike `vmaxq_f32`.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller vouches for the CPU.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// Widens four binary16 numbers.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {halves:v}.4h", wide = lateout(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Rounds four numbers to binary16.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn narrow_f16(wide: float32x4_t) -> uint16x4_t {
    let halves;
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        asm!("fcvtn {halves:v}.4h, {wide:v}.4s", halves = lateout(vreg) halves, wide = in(vreg) wide,
            options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// Rounds eight numbers to bf16.
///
/// # Safety
/// The CPU has BF16.
#[inline(always)]
unsafe fn narrow_bf16(low: float32x4_t, high: float32x4_t) -> uint16x8_t {
    let halves;
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        asm!(".arch_extension bf16", "bfcvtn {halves:v}.4h, {low:v}.4s", "bfcvtn2 {halves:v}.8h, {high:v}.4s",
            halves = out(vreg) halves, low = in(vreg) low, high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// Adds both products of each lane.
///
/// # Safety
/// The CPU has BF16.
#[inline(always)]
unsafe fn bfdot(mut sums: float32x4_t, a: uint16x8_t, b: uint16x8_t) -> float32x4_t {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        asm!(".arch_extension bf16", "bfdot {sums:v}.4s, {a:v}.8h, {b:v}.8h", sums = inout(vreg) sums,
            a = in(vreg) a, b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Sixteen bytes made of others' bits, see [`Lanes::load_bits`].
///
/// # Safety
/// The CPU has NEON; 16 bytes each are read.
#[inline(always)]
unsafe fn joined(low: Bits, high: Option<(Bits, u32)>) -> uint8x16_t {
    // SAFETY: the caller vouches for the bytes.
    unsafe {
        let of = |Bits { from, shift, mask }: Bits| vandq_u8(shifted_right(vld1q_u8(from), shift), vdupq_n_u8(mask));
        match high {
            None => of(low),
            Some((bits, above)) => vorrq_u8(of(low), vshlq_u8(of(bits), vdupq_n_s8(above as i8))),
        }
    }
}

/// Every byte's upper bits; shifts are below eight.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn shifted_right(bytes: uint8x16_t, shift: u32) -> uint8x16_t {
    // SAFETY: the caller vouches for the CPU. A negative shift is one to the right.
    unsafe { vshlq_u8(bytes, vdupq_n_s8(-(shift as i8))) }
}

/// Sixteen signed bytes as numbers.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn signed<const DOTS: bool>(bytes: int8x16_t) -> Neon<DOTS> {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let four = |halves: int16x8_t| [vmovl_s16(vget_low_s16(halves)), vmovl_s16(vget_high_s16(halves))];
        let [a, b] = four(vmovl_s8(vget_low_s8(bytes)));
        let [c, d] = four(vmovl_s8(vget_high_s8(bytes)));
        Neon([a, b, c, d].map(|whole| vcvtq_f32_s32(whole)))
    }
}

/// Sixteen bf16 of a table, by a byte each, see [`Lanes::pick`].
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn picked(table: uint8x16x4_t, indexes: uint8x16_t, fifth: Option<u16>) -> [uint16x8_t; 2] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let mut indexes = vandq_u8(indexes, vdupq_n_u8(15));
        if let Some(fifth) = fifth {
            indexes = vorrq_u8(indexes, vandq_u8(set_bits(fifth), vdupq_n_u8(16)));
        }
        // The bytes of number `n` are at `2n` and `2n + 1`.
        let low = vshlq_n_u8::<1>(indexes);
        let high = vorrq_u8(low, vdupq_n_u8(1));
        [vzip1q_u8(low, high), vzip2q_u8(low, high)].map(|at| vreinterpretq_u16_u8(vqtbl4q_u8(table, at)))
    }
}

/// All ones in the bytes whose bit is set, zero in the others.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn set_bits(bits: u16) -> uint8x16_t {
    let [low, high] = bits.to_le_bytes();
    // SAFETY: the caller vouches for the CPU.
    unsafe { vtstq_u8(vcombine_u8(vdup_n_u8(low), vdup_n_u8(high)), vld1q_u8(EACH_BIT.as_ptr())) }
}

/// One bit after the other.
const EACH_BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

/// A table as the instruction wants it.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn as_bytes([a, b, c, d]: Pairs) -> uint8x16x4_t {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        uint8x16x4_t(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b), vreinterpretq_u8_u16(c), vreinterpretq_u8_u16(d))
    }
}

impl<const DOTS: bool> Lanes for Neon<DOTS> {
    const MANY_REGISTERS: bool = false;
    const DOTS: bool = DOTS;
    type Pairs = Pairs;

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { signed(vld1q_s8(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bits(low: Bits, high: Option<(Bits, u32)>) -> Self {
        // SAFETY: the caller vouches for the bytes.
        unsafe {
            let bytes = joined(low, high);
            let four = |halves: uint16x8_t| [vmovl_u16(vget_low_u16(halves)), vmovl_u16(vget_high_u16(halves))];
            let [a, b] = four(vmovl_u8(vget_low_u8(bytes)));
            let [c, d] = four(vmovl_u8(vget_high_u8(bytes)));
            Self([a, b, c, d].map(|whole| vcvtq_f32_u32(whole)))
        }
    }
    #[inline(always)]
    unsafe fn load_coded(from: *const u8, shift: u32, codes: &[i8; LANES]) -> Self {
        // SAFETY: the caller vouches for the bytes; there are sixteen codes.
        unsafe { signed(vqtbl1q_s8(vld1q_s8(codes.as_ptr()), joined(Bits { from, shift, mask: 15 }, None))) }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 2 bytes.
        unsafe { Self([widen_f16(vdup_n_u16(from.cast::<u16>().read_unaligned())); 4]) }
    }
    #[inline(always)]
    unsafe fn pick(table: Pairs, from: *const u8, shift: u32, fifth: Option<u32>) -> Pairs {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let table = as_bytes(table);
            let half = |at: usize| {
                let fifth = fifth.map(|fifth| (fifth >> at) as u16);
                picked(table, shifted_right(vld1q_u8(from.add(at)), shift), fifth)
            };
            let ([a, b], [c, d]) = (half(0), half(16));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn pick_halves(table: Pairs, from: *const u8, fifth: Option<u32>) -> Pairs {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let (table, bytes) = (as_bytes(table), vld1q_u8(from));
            let [a, b] = picked(table, bytes, fifth.map(|fifth| fifth as u16));
            let [c, d] = picked(table, shifted_right(bytes, 4), fifth.map(|fifth| (fifth >> 16) as u16));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn tested(from: *const u8, mask: u8) -> u32 {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let half = |at: usize| {
                let set = vtstq_u8(vld1q_u8(from.add(at)), vdupq_n_u8(mask));
                let bits = vandq_u8(set, vld1q_u8(EACH_BIT.as_ptr()));
                u32::from(vaddv_u8(vget_low_u8(bits))) | u32::from(vaddv_u8(vget_high_u8(bits))) << 8
            };
            half(0) | half(16) << 16
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> Pairs {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { from.cast::<Pairs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_pairs_some(from: *const u8, count: usize) -> Pairs {
        let mut numbers = [0u16; 2 * LANES];
        // SAFETY: the caller vouches for `count` numbers; the array holds thirty-two.
        unsafe {
            std::ptr::copy_nonoverlapping(from, numbers.as_mut_ptr().cast(), 2 * count.min(2 * LANES));
            Self::load_pairs(numbers.as_ptr().cast())
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const u8) -> Pairs {
        // SAFETY: the caller vouches for 4 bytes.
        unsafe { [vreinterpretq_u16_u32(vdupq_n_u32(from.cast::<u32>().read_unaligned())); 4] }
    }
    #[inline(always)]
    unsafe fn round_pairs(first: Self, second: Self) -> Pairs {
        let ([a, b, c, d], [e, f, g, h]) = (first.0, second.0);
        // SAFETY: the caller vouches for the tier.
        unsafe { [narrow_bf16(a, b), narrow_bf16(c, d), narrow_bf16(e, f), narrow_bf16(g, h)] }
    }
    #[inline(always)]
    unsafe fn store_pairs(pairs: Pairs, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { to.cast::<Pairs>().write_unaligned(pairs) }
    }
    #[inline(always)]
    unsafe fn dot(self, a: Pairs, b: Pairs) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe { Self(std::array::from_fn(|at| bfdot(self.0[at], a[at], b[at]))) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the tier, here and below.
        unsafe { Self([vdupq_n_f32(value); 4]) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { Self(std::array::from_fn(|at| vld1q_f32(from.add(4 * at)))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { Self(std::array::from_fn(|at| widen_f16(vld1_u16(from.cast::<u16>().add(4 * at))))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let four = |at: usize| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast::<u16>().add(4 * at))));
            Self(std::array::from_fn(four))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (at, lanes) in self.0.into_iter().enumerate() {
            // SAFETY: the caller vouches for 64 bytes.
            unsafe { vst1q_f32(to.add(4 * at), lanes) };
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        for (at, lanes) in self.0.into_iter().enumerate() {
            // SAFETY: the caller vouches for 32 bytes.
            unsafe { vst1_u16(to.cast::<u16>().add(4 * at), narrow_f16(lanes)) };
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the tier, as everywhere here.
        zip(self, other, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the tier.
        zip(self, other, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the tier.
        zip(self, other, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the tier.
        zip(self, other, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(std::array::from_fn(|at| vfmaq_f32(addend.0[at], self.0[at], factor.0[at]))) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the tier.
        zip(self, other, |a, b| unsafe { larger(a, b) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the tier.
        zip(self, other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(self.0.map(|lanes| vrndnq_f32(lanes))) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        // SAFETY: the tier.
        let power = |exponent| unsafe {
            let biased = vaddq_s32(vcvtnq_s32_f32(exponent), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
        Self(self.0.map(power))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: the tier. The same tree as on every tier.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: the tier; the array holds four.
        unsafe {
            let mut lanes = [0f32; 4];
            vst1q_f32(lanes.as_mut_ptr(), larger(larger(a, c), larger(b, d)));
            let of = |a: f32, b: f32| if a > b { a } else { b };
            of(of(lanes[0], lanes[2]), of(lanes[1], lanes[3]))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: prefetching never faults.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) };
    }
}

const _: () = assert!(LANES * 4 == size_of::<Neon<false>>());
