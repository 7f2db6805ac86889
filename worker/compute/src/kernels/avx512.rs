//! The AVX-512 tiers: sixteen lanes in one register; with BF16, also dots of bf16 pairs.

use std::arch::x86_64::*;

use super::avx2::{coded, joined};
use super::kernel::Kernel;
use super::lanes::{Bits, LANES, Lanes};

/// Sixteen lanes in one register. `DOTS`: with AVX-512 BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const DOTS: bool>(__m512);

/// Runs a kernel compiled for this tier.
///
/// # Safety
/// The CPU has all the features named here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: the caller vouches for the CPU.
    unsafe { kernel.run::<Avx512<false>>() }
}

/// Runs a kernel compiled for the tier with BF16.
///
/// # Safety
/// The CPU has all the features named here.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) {
    // SAFETY: the caller vouches for the CPU.
    unsafe { kernel.run::<Avx512<true>>() }
}

/// Indexes of four bits with their fifth, where there is one.
///
/// # Safety
/// The CPU has AVX-512 BW.
#[inline(always)]
unsafe fn with_fifth(words: __m512i, fifth: Option<u32>) -> __m512i {
    let Some(fifth) = fifth else { return words };
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let low = _mm512_and_si512(words, _mm512_set1_epi16(15));
        _mm512_mask_add_epi16(low, fifth, low, _mm512_set1_epi16(16))
    }
}

impl<const DOTS: bool> Lanes for Avx512<DOTS> {
    const MANY_REGISTERS: bool = true;
    const DOTS: bool = DOTS;
    type Pairs = __m512i;

    #[inline(always)]
    unsafe fn only(self, from: usize, to: usize, other: f32) -> Self {
        let lanes = (u16::MAX << from) & (u16::MAX >> (LANES - to));
        // SAFETY: the caller vouches for the tier.
        unsafe { Self(_mm512_mask_blend_ps(lanes, _mm512_set1_ps(other), self.0)) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_bits(low: Bits, high: Option<(Bits, u32)>) -> Self {
        // SAFETY: the caller vouches for the bytes.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(joined(low, high)))) }
    }
    #[inline(always)]
    unsafe fn load_coded(from: *const u8, shift: u32, codes: &[i8; LANES]) -> Self {
        // SAFETY: the caller vouches for the bytes.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(coded(from, shift, codes)))) }
    }
    #[inline(always)]
    unsafe fn choose(bits: u16, one: f32) -> Self {
        // SAFETY: the caller vouches for the tier.
        unsafe { Self(_mm512_maskz_mov_ps(bits, _mm512_set1_ps(one))) }
    }
    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the caller vouches for the tier.
        unsafe { _mm512_cvtss_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn pick(table: __m512i, from: *const u8, shift: u32, fifth: Option<u32>) -> __m512i {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()));
            // Of an index five bits count.
            let words = _mm512_srl_epi16(words, _mm_cvtsi32_si128(shift.cast_signed()));
            _mm512_permutexvar_epi16(with_fifth(words, fifth), table)
        }
    }
    #[inline(always)]
    unsafe fn pick_halves(table: __m512i, from: *const u8, fifth: Option<u32>) -> __m512i {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe {
            let low = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()));
            let words = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_srli_epi16::<4>(low));
            _mm512_permutexvar_epi16(with_fifth(words, fifth), table)
        }
    }
    #[inline(always)]
    unsafe fn pick_both(table: __m512i, from: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller vouches for 32 bytes. Of an index five bits count: the fifth is set of low halves, and clear of
        // high ones.
        unsafe {
            let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()));
            let (low, high) = (_mm512_or_si512(words, _mm512_set1_epi16(16)), _mm512_srli_epi16::<4>(words));
            [_mm512_permutexvar_epi16(low, table), _mm512_permutexvar_epi16(high, table)]
        }
    }
    #[inline(always)]
    unsafe fn load_bits_two(low: Bits, high: Option<(Bits, u32)>, centre: i8) -> [Self; 2] {
        // SAFETY: the caller vouches for 32 bytes each.
        unsafe {
            let some = |Bits { from, shift, mask }| {
                let words = _mm256_srl_epi16(_mm256_loadu_si256(from.cast()), _mm_cvtsi32_si128(shift.cast_signed()));
                _mm256_and_si256(words, _mm256_set1_epi8(mask.cast_signed()))
            };
            let codes = match high {
                Some((bits, above)) => {
                    let above = _mm256_sll_epi16(some(bits), _mm_cvtsi32_si128(above.cast_signed()));
                    _mm256_or_si256(some(low), above)
                }
                None => some(low),
            };
            let codes = _mm256_sub_epi8(codes, _mm256_set1_epi8(centre));
            let lanes = |half| Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half)));
            [lanes(_mm256_castsi256_si128(codes)), lanes(_mm256_extracti128_si256::<1>(codes))]
        }
    }
    #[inline(always)]
    unsafe fn tested(from: *const u8, mask: u8) -> u32 {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_test_epi8_mask(_mm256_loadu_si256(from.cast()), _mm256_set1_epi8(mask.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn splat_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 2 bytes.
        unsafe { Self(_mm512_cvtph_ps(_mm256_set1_epi16(from.cast::<i16>().read_unaligned()))) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_pairs_some(from: *const u8, count: usize) -> __m512i {
        // SAFETY: the caller vouches for `count` numbers; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_epi16(u32::MAX >> (2 * LANES - count.min(2 * LANES)), from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 4 bytes.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn round_pairs(first: Self, second: Self) -> __m512i {
        // SAFETY: the tier; both types are 64 bytes.
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second.0, first.0)) }
    }
    #[inline(always)]
    unsafe fn store_pairs(pairs: __m512i, to: *mut u8) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_storeu_si512(to.cast(), pairs) }
    }
    #[inline(always)]
    unsafe fn dot(self, a: __m512i, b: __m512i) -> Self {
        // SAFETY: the tier; both types are 64 bytes.
        unsafe {
            let (a, b) = (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b));
            Self(_mm512_dpbf16_ps(self.0, a, b))
        }
    }
    #[inline(always)]
    unsafe fn sum_four([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the tier. The additions of `sum`, those of four vectors in one instruction.
        unsafe {
            let pair = |a: Self, b: Self| {
                let (low, high) = (_mm512_shuffle_f32x4::<0x44>(a.0, b.0), _mm512_shuffle_f32x4::<0xee>(a.0, b.0));
                _mm512_add_ps(low, high)
            };
            let (ab, cd) = (pair(a, b), pair(c, d));
            let (low, high) = (_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            let four = _mm512_add_ps(low, high);
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0xee>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0x55>(two));
            let firsts = _mm512_permutexvar_ps(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0), one);
            let mut sums = [0f32; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(firsts));
            sums
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the tier, here and below.
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u8) {
        // SAFETY: the caller vouches for 32 bytes.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the tier, as everywhere here.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the tier.
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the tier.
        unsafe { Self(_mm512_roundscale_ps::<NEAREST>(self.0)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        // SAFETY: the tier.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the tier. Not `_mm512_reduce_add_ps`, whose order the compiler may choose.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the tier.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
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

const _: () = assert!(LANES * 4 == size_of::<Avx512<false>>());
