//! Soft caps: `x` becomes `cap · tanh(x / cap)`.

use super::kernel::Kernel;
use super::lanes::{LANES, Lanes};
use super::pool::{Pool, Shard};
use super::tier::Instructions;

/// Numbers a task takes.
const TASK_NUMBERS: usize = 8 << 10;

/// Caps every number.
pub(crate) fn soft_cap(pool: &mut Pool, on: Instructions, cap: f32, numbers: &mut [f32]) {
    let count = numbers.len();
    let numbers = Shard::of(numbers);
    pool.run(count.div_ceil(TASK_NUMBERS), &|task| {
        let first = task * TASK_NUMBERS;
        let count = TASK_NUMBERS.min(count - first);
        on.run(Cap { numbers: numbers.pointer().wrapping_add(first), count, cap });
    });
}

struct Cap {
    numbers: *mut f32,
    count: usize,
    cap: f32,
}

impl Kernel for Cap {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let mut at = 0;
        while at < self.count {
            let count = LANES.min(self.count - at);
            // SAFETY: `soft_cap` has cut the numbers into tasks; no other has these.
            unsafe {
                let numbers = self.numbers.add(at);
                capped(V::load_some(numbers, count), self.cap).store_some(numbers, count);
            }
            at += LANES;
        }
    }
}

/// Sixteen numbers, capped.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn capped<V: Lanes>(x: V, cap: f32) -> V {
    // SAFETY: passed on.
    unsafe { x.div(V::splat(cap)).tanh().mul(V::splat(cap)) }
}
