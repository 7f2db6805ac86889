//! The portable tier: sixteen lanes in an array, for any machine that Rust runs on.
//!
//! Products are rounded before they are added: not every machine has a fused multiply-add, and
//! emulating one would cost a hundred times as much.

use super::lanes::{LANES, Lanes};

/// Sixteen lanes in an array.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, combine: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self.0;
        for (lane, other) in lanes.iter_mut().zip(other.0) {
            *lane = combine(*lane, other);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn map(self, change: impl Fn(f32) -> f32) -> Self {
        self.zip(self, |lane, _| change(lane))
    }

    #[inline(always)]
    fn fold(self, combine: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = combine(lanes[lane], lanes[lane + half]);
            }
            half /= 2;
        }
        lanes[0]
    }
}

impl Lanes for Portable {
    const MANY_REGISTERS: bool = false;
    const DOTS: bool = false;
    type Pairs = ();

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 64 bytes.
        let bits = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        Self(bits.map(|it| f32::from_bits(u32::from_le(it))))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self(bits.map(|it| half::f16::from_bits(u16::from_le(it)).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self(bits.map(|it| f32::from_bits(u32::from(u16::from_le(it)) << 16)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        let halves = self.0.map(|lane| half::f16::from_f32(lane).to_bits());
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(addend, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and subtracting 1.5 · 2^23 rounds to the nearest even whole number: used on small
        // numbers only, and vectorised where `round_ties_even` would be a call.
        const SHIFT: f32 = 12_582_912.0;
        self.map(|lane| (lane + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        self.map(|lane| f32::from_bits(((lane as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.fold(|a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
}
