//! A kernel is a value that runs on any kind of lanes. It knows no tier.

use super::lanes::Lanes;

/// A computation written once for all tiers.
pub(crate) trait Kernel {
    /// Performs it.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`. Must be `inline(always)`, to be compiled with them.
    unsafe fn run<V: Lanes>(self);
}
