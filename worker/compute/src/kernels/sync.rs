//! Threads, atomics and locks of the pool. `tests/pool_interleavings.rs` compiles the pool
//! against loom's instead, which runs it in every order that memory and scheduler allow.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::thread::{self, JoinHandle, Thread};

/// Spins before a thread parks: some tens of microseconds, longer than the pause between two
/// regions of a step, shorter than anyone notices on a machine that does something else.
pub(crate) const SPINS: usize = 2000;

/// The standard cell with loom's interface: a pointer that does not outlive the access.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Passes a pointer for reading.
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Passes a pointer for writing.
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
