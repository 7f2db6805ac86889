//! The AVX2 tier (with FMA and F16C): sixteen lanes in two registers.

use std::arch::x86_64::*;

use super::kernel::Kernel;
use super::lanes::{Bits, LANES, Lanes};

/// Lanes 0 to 7, then 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// Runs a kernel compiled for this tier.
///
/// # Safety
/// The CPU has all the features named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: the caller vouches for the CPU.
    unsafe { kernel.run::<Avx2>() }
}

/// Eight upper halves of binary32, widened.
#[inline(always)]
unsafe fn widen_bf16(from: *const u8) -> __m256 {
    // SAFETY: the caller vouches for the tier and 16 bytes.
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

/// Sixteen bytes made of others' bits, see [`Lanes::load_bits`].
///
/// # Safety
/// The CPU has SSE2; 16 bytes each are read.
#[inline(always)]
pub(super) unsafe fn joined(low: Bits, high: Option<(Bits, u32)>) -> __m128i {
    // SAFETY: the caller vouches for the bytes. Bits that a shift moves into the neighbour are masked off.
    unsafe {
        let of = |Bits { from, shift, mask }: Bits| {
            let bytes = _mm_srl_epi16(_mm_loadu_si128(from.cast()), _mm_cvtsi32_si128(shift.cast_signed()));
            _mm_and_si128(bytes, _mm_set1_epi8(mask.cast_signed()))
        };
        match high {
            None => of(low),
            Some((bits, above)) => {
                _mm_or_si128(of(low), _mm_sll_epi16(of(bits), _mm_cvtsi32_si128(above.cast_signed())))
            }
        }
    }
}

/// Sixteen signed bytes that others' bits select, see [`Lanes::load_coded`].
///
/// # Safety
/// The CPU has SSSE3; 16 bytes are read.
#[inline(always)]
pub(super) unsafe fn coded(from: *const u8, shift: u32, codes: &[i8; LANES]) -> __m128i {
    // SAFETY: the caller vouches for the bytes; there are sixteen codes.
    unsafe { _mm_shuffle_epi8(_mm_loadu_si128(codes.as_ptr().cast()), joined(Bits { from, shift, mask: 15 }, None)) }
}

/// Eight powers of two.
#[inline(always)]
unsafe fn exp2_whole(exponent: __m256) -> __m256 {
    // SAFETY: the caller vouches for the tier.
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

impl Lanes for Avx2 {
    const MANY_REGISTERS: bool = false;
    const DOTS: bool = false;
    type Pairs = ();

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            Self(low, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn load_bits(low: Bits, high: Option<(Bits, u32)>) -> Self {
        // SAFETY: the caller vouches for the bytes.
        unsafe {
            let bytes = joined(low, high);
            let low = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            Self(low, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn load_coded(from: *const u8, shift: u32, codes: &[i8; LANES]) -> Self {
        // SAFETY: the caller vouches for the bytes.
        unsafe {
            let bytes = coded(from, shift, codes);
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            Self(low, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn choose(bits: u16, one: f32) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe {
            let all = _mm256_set1_epi32(i32::from(bits));
            let lanes = |ones: __m256i| {
                let set = _mm256_cmpeq_epi32(_mm256_and_si256(all, ones), ones);
                _mm256_and_ps(_mm256_castsi256_ps(set), _mm256_set1_ps(one))
            };
            let low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            Self(lanes(low), lanes(_mm256_slli_epi32::<8>(low)))
        }
    }
    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the caller vouches for the tier.
        unsafe { _mm256_cvtss_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 2 bytes.
        unsafe {
            let all = _mm256_cvtph_ps(_mm_set1_epi16(from.cast::<i16>().read_unaligned()));
            Self(all, all)
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the tier, here and below.
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast()));
            Self(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { Self(widen_bf16(from), widen_bf16(from.add(16))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(to.add(16).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the tier, as everywhere here.
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the tier.
        unsafe { Self(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(exp2_whole(self.0), exp2_whole(self.1)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the tier. The same tree as on every tier.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the tier.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: prefetching never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

const _: () = assert!(LANES * 4 == size_of::<Avx2>());
