//! Which extents of a region have arrived: states, waiters, and the end of hope.
//!
//! Every extent goes Missing → Leased → Verified, or back to Missing when its lease is given up.
//! Whoever sees Verified sees the bytes as well: the state is stored with release and read with
//! acquire. A held arrival shows nothing, whatever has arrived, until it is told to: for objects
//! that can be judged only as a whole. This file knows states, not memory.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use wire::extent::{self, EXTENT_BYTES};

use crate::LoadError;

const MISSING: u8 = 0;
const LEASED: u8 = 1;
const VERIFIED: u8 = 2;

/// The arrival of one object's extents.
pub(super) struct Arrival {
    bytes: u64,
    states: Box<[AtomicU8]>,
    missing: AtomicU64,
    /// Arrived extents are not shown yet: what they must be is known only of the whole.
    held: AtomicBool,
    /// All has arrived and is shown.
    complete: AtomicBool,
    failed: OnceLock<Arc<LoadError>>,
    /// Guards changes of state, so that a waiter cannot miss one between looking and sleeping.
    changes: Mutex<()>,
    changed: Condvar,
    notify: Notify,
}

impl Arrival {
    pub(super) fn new(bytes: u64) -> Self {
        let count = extent::count(bytes);
        Self {
            bytes,
            states: (0..count).map(|_| AtomicU8::new(MISSING)).collect(),
            missing: AtomicU64::new(count),
            held: AtomicBool::new(false),
            complete: AtomicBool::new(count == 0),
            failed: OnceLock::new(),
            changes: Mutex::new(()),
            changed: Condvar::new(),
            notify: Notify::new(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn is_verified(&self, range: &Range<u64>) -> bool {
        self.is_complete() || (!self.is_held() && self.has_arrived(range))
    }

    /// Returns true if the range's extents were published, shown or not.
    pub(super) fn has_arrived(&self, range: &Range<u64>) -> bool {
        self.extents(range).iter().all(|state| state.load(Ordering::Acquire) == VERIFIED)
    }

    /// Shows nothing until [`Arrival::release`]. To be called before anything is published.
    pub(super) fn hold(&self) {
        let _guard = self.changes.lock();
        self.held.store(true, Ordering::Release);
        self.complete.store(false, Ordering::Release);
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Shows what has arrived.
    pub(super) fn show(&self) {
        {
            let _guard = self.changes.lock();
            self.held.store(false, Ordering::Release);
            if self.missing.load(Ordering::Acquire) == 0 {
                self.complete.store(true, Ordering::Release);
            }
        }
        self.wake();
    }

    /// Forgets what has arrived, as long as nobody was shown it.
    pub(super) fn begin_again(&self) {
        let _guard = self.changes.lock();
        if !self.is_held() {
            return;
        }
        let arrived = self
            .states
            .iter()
            .filter(|state| state.compare_exchange(VERIFIED, MISSING, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        self.missing.fetch_add(arrived.count() as u64, Ordering::AcqRel);
    }

    fn wake(&self) {
        self.changed.notify_all();
        self.notify.notify_waiters();
    }

    /// The number of extents that are shown.
    pub(super) fn shown(&self) -> u64 {
        if self.is_held() { 0 } else { extent::count(self.bytes) - self.missing.load(Ordering::Acquire) }
    }

    /// The extents already verified, in order.
    pub(super) fn verified(&self) -> Vec<u64> {
        let states = self.states.iter().zip(0u64..);
        states.filter(|(state, _)| state.load(Ordering::Acquire) == VERIFIED).map(|(_, extent)| extent).collect()
    }

    /// Takes whole extents for one writer; nothing if another has one of them or it is verified.
    pub(super) fn lease(&self, range: &Range<u64>) -> bool {
        let _guard = self.changes.lock();
        let extents = self.extents(range);
        let free = extents.iter().all(|state| state.load(Ordering::Relaxed) == MISSING);
        if free {
            extents.iter().for_each(|state| state.store(LEASED, Ordering::Relaxed));
        }
        free
    }

    /// Gives leased extents back.
    pub(super) fn release(&self, range: &Range<u64>) {
        let _guard = self.changes.lock();
        for state in self.extents(range) {
            debug_assert_eq!(state.load(Ordering::Relaxed), LEASED);
            state.store(MISSING, Ordering::Relaxed);
        }
    }

    /// Marks one extent as verified, leased (its lessee says so) or missing (its bytes are there).
    pub(super) fn publish(&self, extent: u64) {
        {
            let _guard = self.changes.lock();
            let place = usize::try_from(extent).expect("extents are counted in memory");
            if self.states[place].swap(VERIFIED, Ordering::Release) != VERIFIED
                && self.missing.fetch_sub(1, Ordering::AcqRel) == 1
                && !self.is_held()
            {
                self.complete.store(true, Ordering::Release);
            }
        }
        self.wake();
    }

    /// Ends all waiting: what is missing will never come.
    pub(super) fn fail(&self, error: Arc<LoadError>) {
        {
            let _guard = self.changes.lock();
            // The first failure is the news.
            let _ = self.failed.set(error);
        }
        self.wake();
    }

    /// Blocks until the range can be seen.
    pub(super) fn wait(&self, range: &Range<u64>) -> Result<(), Arc<LoadError>> {
        if self.is_verified(range) { Ok(()) } else { self.wait_until(|| self.is_verified(range)) }
    }

    /// Blocks until the range has arrived, shown or not.
    pub(super) fn wait_arrived(&self, range: &Range<u64>) -> Result<(), Arc<LoadError>> {
        self.wait_until(|| self.has_arrived(range))
    }

    fn wait_until(&self, is_so: impl Fn() -> bool) -> Result<(), Arc<LoadError>> {
        let mut guard = self.changes.lock();
        loop {
            if is_so() {
                return Ok(());
            }
            if let Some(error) = self.failed.get() {
                return Err(Arc::clone(error));
            }
            self.changed.wait(&mut guard);
        }
    }

    /// Waits until the range has arrived.
    pub(super) async fn ready(&self, range: &Range<u64>) -> Result<(), Arc<LoadError>> {
        loop {
            // Taken before looking: a change between looking and waiting is not missed.
            let changed = self.notify.notified();
            if self.is_verified(range) {
                return Ok(());
            }
            if let Some(error) = self.failed.get() {
                return Err(Arc::clone(error));
            }
            changed.await;
        }
    }

    /// Blocks until the range can be seen, but no longer than `patience`. Returns true if it can.
    pub(super) fn wait_for(&self, range: &Range<u64>, patience: Duration) -> Result<bool, Arc<LoadError>> {
        let begun = Instant::now();
        let mut guard = self.changes.lock();
        loop {
            if self.is_verified(range) {
                return Ok(true);
            }
            if let Some(error) = self.failed.get() {
                return Err(Arc::clone(error));
            }
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.changed.wait_for(&mut guard, left);
        }
    }

    fn extents(&self, range: &Range<u64>) -> &[AtomicU8] {
        assert!(range.start <= range.end && range.end <= self.bytes, "a range lies within its region");
        if range.is_empty() {
            return &[];
        }
        let first = usize::try_from(range.start / EXTENT_BYTES).expect("extents are counted in memory");
        let end = usize::try_from(range.end.div_ceil(EXTENT_BYTES)).expect("extents are counted in memory");
        &self.states[first..end]
    }
}
