//! The arithmetic of a step on CPUs, over weights as they lie in mapped memory.
//!
//! Everything here is about numbers and threads; nothing knows a layer, a request or a file. All
//! `unsafe` of this room is under this file; what leaves it are safe functions that check shapes.
//!
//! **One tree.** Every output element sums its inner dimension in one fixed order, whatever the
//! tile, the number of rows or the thread: sixteen partial sums walk the dimension together, and
//! are then folded 16 → 8 → 4 → 2 → 1. Attention walks blocks of sixteen positions in order. So a
//! row's result does not depend on its company; parallelism comes from computing several outputs
//! at a time, never from splitting one. The AVX2, AVX-512 and NEON tiers perform the same operations
//! on the same lanes and agree to the last bit; the portable tier rounds products (it has no fused
//! multiply-add on every machine) and therefore differs from them in the last bits.
//! AVX-512 and NEON with BF16 multiply bf16 weights and those in GGML's blocks in pairs with rounded rows, and bf16 keys
//! and values with rounded queries and shares: one tree each, of its own.

#![expect(unsafe_code, reason = "std::arch intrinsics and disjoint writes from several threads")]

pub(crate) mod apart;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
pub(crate) mod buffer;
mod cached;
pub(crate) mod cap;
pub(crate) mod formats;
pub(crate) mod kernel;
pub(crate) mod lanes;
pub(crate) mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod norm;
pub(crate) mod pool;
mod portable;
pub(crate) mod quantize;
pub(crate) mod rotate;
pub(crate) mod stored;
pub(crate) mod stream;
mod sync;
pub(crate) mod tier;

#[cfg(test)]
pub(crate) mod allocations;
#[cfg(test)]
mod tests;
