//! Instruction-set tiers, detection of this machine's, and kernels run on one.
//!
//! It knows no arithmetic. A kernel is a value with a `run` that is generic over [`Lanes`](super::lanes::Lanes); the
//! tier compiles it with the right instructions enabled.

use super::kernel::Kernel;
use super::portable::Portable;
use tensor::Format;

/// A set of instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The instructions that Rust guarantees on the target: any machine has them.
    Portable,
    /// x86-64 with AVX2, FMA and F16C (2013 and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with AVX-512 BF16: activations that meet bf16 weights are rounded to bf16.
    Avx512Bf16,
    /// 64-bit Arm with NEON: any such machine.
    Neon,
    /// The same with BF16 (most servers since 2021): activations that meet bf16 weights are rounded to bf16.
    NeonBf16,
}

impl Tier {
    /// Every tier, slowest first on any one machine.
    pub const ALL: [Self; 6] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Neon, Self::NeonBf16];

    /// True if this machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => ["avx2", "fma", "f16c"].into_iter().all(has),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available() && ["avx512f", "avx512bw", "avx512vl", "avx512dq"].into_iter().all(has)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_available() && has("avx512bf16"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => false,
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon | Self::NeonBf16 => false,
        }
    }

    /// The fastest tier of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|tier| tier.is_available()).unwrap_or(Self::Portable)
    }

    /// True if it multiplies weights of this format with rounded activations, in dots of pairs.
    #[must_use]
    pub(crate) fn dots(self, format: Format) -> bool {
        matches!(self, Self::Avx512Bf16 | Self::NeonBf16) && (format == Format::Bf16 || format.is_blocks())
    }

    /// `portable`, `avx2`, `avx512`, `avx512bf16`, `neon` or `neonbf16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Neon => "neon",
            Self::NeonBf16 => "neonbf16",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    match feature {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512bf16" => is_x86_feature_detected!("avx512bf16"),
        _ => false,
    }
}

/// A tier that this machine has: the proof that its kernels may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instructions(Tier);

impl Instructions {
    /// The proof, if the machine has the tier.
    pub(crate) fn of(tier: Tier) -> Option<Self> {
        tier.is_available().then_some(Self(tier))
    }

    /// [`Tier::dots`].
    pub(crate) fn dots(self, format: Format) -> bool {
        self.0.dots(format)
    }

    /// The tier.
    pub(crate) fn tier(self) -> Tier {
        self.0
    }

    /// Performs `kernel` with this tier's instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            // SAFETY: the portable tier needs nothing.
            Tier::Portable => unsafe { kernel.run::<Portable>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `of` has checked that the machine has the instructions.
            Tier::Avx2 => unsafe { super::avx2::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: likewise.
            Tier::Avx512 => unsafe { super::avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: likewise.
            Tier::Avx512Bf16 => unsafe { super::avx512::run_bf16(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: likewise.
            Tier::Neon => unsafe { super::neon::run(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: likewise.
            Tier::NeonBf16 => unsafe { super::neon::run_bf16(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 | Tier::Avx512Bf16 => unreachable!("`of` refuses tiers of other machines"),
            #[cfg(not(target_arch = "aarch64"))]
            Tier::Neon | Tier::NeonBf16 => unreachable!("`of` refuses tiers of other machines"),
        }
    }
}
