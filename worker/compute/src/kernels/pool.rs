//! A few threads that stay: parallel regions of a step, thousands of times a second.
//!
//! A region is a number of tasks and a function. Every thread has a range of consecutive tasks, which
//! it claims in order, so that the weights it prefetches are those of its next task. An idle thread
//! steals tasks. Results never depend on which thread runs a task. Threads spin a little between
//! regions and then park. A region ends when the threads that entered it have done its tasks: one
//! that is asleep or descheduled is not waited for. It knows no arithmetic.

use super::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, JoinHandle, Mutex, Ordering, SPINS, Thread, UnsafeCell, fence, spin_loop,
    thread,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The body of a region; its lifetime is erased, see the safety comments.
type Body = *const (dyn Fn(usize) + Sync);

/// A region: the function and the number of its calls.
#[derive(Clone, Copy)]
struct Job {
    body: Body,
    tasks: usize,
}

/// State word: how many threads entered this region (low 16 bits), whether it is closed to others
/// (one bit), and the region's number (the rest).
const ENTERED: u64 = 0xffff;
const CLOSED: u64 = 1 << 16;
const REGION: u64 = 1 << 17;

/// A counter with cache lines of its own.
#[repr(align(128))]
struct Next(AtomicUsize);

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Per thread: the next task of its range.
    next: Box<[Next]>,
    left: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only while its region is closed and everyone who entered has left, and is
// read only between entering and leaving; the state word orders the two.
unsafe impl Sync for Shared {}
// SAFETY: the body behind the pointer is `Sync`, and it is only used while its region runs.
unsafe impl Send for Shared {}

struct Worker {
    parked: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// Threads for parallel regions. Dropping it ends and joins them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them (at least one).
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.clamp(1, ENTERED as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(None),
            next: (0..threads).map(|_| Next(AtomicUsize::new(0))).collect(),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let parked = Arc::new(AtomicBool::new(false));
            let (shared, sleeping) = (Arc::clone(&pool.shared), Arc::clone(&parked));
            let builder = thread::Builder::new().name(format!("kernels-{index}"));
            let handle = builder.spawn(move || shared.serve(index, &sleeping))?;
            pool.workers.push(Worker { parked, thread: handle.thread().clone(), handle: Some(handle) });
        }
        Ok(pool)
    }

    /// Number of threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` once for every number below `tasks`, on all threads, and returns when all
    /// calls have. Allocates nothing.
    ///
    /// # Panics
    /// With the first panic of `body`, once no thread runs it any more.
    pub(crate) fn run(&mut self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks < 2 {
            (0..tasks).for_each(body);
            return;
        }
        self.open(Job { body: erase(body), tasks });
        self.shared.work(0, Job { body: erase(body), tasks });
        self.close();
        let panic = self.shared.panic.lock().take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn open(&mut self, job: Job) {
        let shared = &self.shared;
        // SAFETY: the last region is closed and everyone left it (`close` has waited, and `&mut
        // self` lets no other region be open), so nobody reads the cell.
        shared.job.with_mut(|cell| unsafe { *cell = Some(job) });
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.range_start(thread, job.tasks), Ordering::Relaxed);
        }
        shared.left.store(0, Ordering::Relaxed);
        let last = shared.state.load(Ordering::Relaxed);
        shared.state.store((last & !(ENTERED | CLOSED)).wrapping_add(REGION), Ordering::Release);
        // Pairs with the fence in `await_region`: either this thread sees that the other parks, or
        // that one sees the new region.
        fence(Ordering::SeqCst);
        for worker in &self.workers {
            if worker.parked.load(Ordering::Relaxed) && worker.parked.swap(false, Ordering::AcqRel) {
                worker.thread.unpark();
            }
        }
    }

    /// Closes the region to other threads and waits for those inside.
    fn close(&mut self) {
        let entered = (self.shared.state.fetch_or(CLOSED, Ordering::AcqRel) & ENTERED) as usize;
        let mut spins = 0;
        while self.shared.left.load(Ordering::Acquire) < entered {
            spins += 1;
            if spins < SPINS {
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

/// Forgets the lifetime of a region's body.
fn erase(body: &(dyn Fn(usize) + Sync)) -> Body {
    // SAFETY: only the lifetime changes. `run` returns after `close`, hence after the last use.
    unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Body>(body) }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(REGION, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A panic in a body has been passed on by `run`; there is none left here.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// A worker thread's life.
    fn serve(&self, own: usize, parked: &AtomicBool) {
        // A region may have opened before this thread looked: then it looks again.
        let mut seen = (self.state.load(Ordering::Acquire) / REGION).saturating_sub(1);
        loop {
            let state = self.await_region(seen, parked);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            seen = state / REGION;
            if let Some(job) = self.enter(seen) {
                self.work(own, job);
                self.left.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Waits until the region is another than `seen`.
    fn await_region(&self, seen: u64, parked: &AtomicBool) -> u64 {
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state / REGION != seen {
                parked.store(false, Ordering::Relaxed);
                return state;
            }
            spins += 1;
            if spins < SPINS {
                spin_loop();
            } else if parked.swap(true, Ordering::AcqRel) {
                thread::park();
            } else {
                // The thread has announced that it parks. It looks once more before it does: a region
                // that opens after that sees the announcement and wakes it.
                fence(Ordering::SeqCst);
            }
        }
    }

    /// Enters the region, unless it is closed or over.
    fn enter(&self, region: u64) -> Option<Job> {
        let mut state = self.state.load(Ordering::Acquire);
        while state / REGION == region && state & CLOSED == 0 {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: inside the region the cell is not written, see `open`.
                Ok(_) => return self.job.with(|cell| unsafe { *cell }),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Where a thread's own range begins; the last one's ends where the next one's would begin.
    fn range_start(&self, thread: usize, tasks: usize) -> usize {
        tasks * thread / self.next.len()
    }

    /// Claims tasks until there are none: first of its own range, then of the others'.
    fn work(&self, own: usize, job: Job) {
        let threads = self.next.len();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            for thread in (own..threads).chain(0..own) {
                let end = self.range_start(thread + 1, job.tasks);
                loop {
                    let task = self.next[thread].0.fetch_add(1, Ordering::Relaxed);
                    if task >= end {
                        break;
                    }
                    // SAFETY: `run` does not return, and so the body lives, before everyone has left.
                    unsafe { (*job.body)(task) };
                }
            }
        }));
        if let Err(panic) = worked {
            for next in &self.next {
                next.0.store(job.tasks, Ordering::Relaxed);
            }
            self.panic.lock().get_or_insert(panic);
        }
    }
}

/// A pointer into an output that several tasks write, each its own part.
pub(crate) struct Shard<T>(*mut T);

impl<T> Clone for Shard<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shard<T> {}

// SAFETY: whoever dereferences the pointer has to say why its part is its own.
unsafe impl<T: Send> Send for Shard<T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Sync for Shard<T> {}

impl<T> Shard<T> {
    /// The start of `slice`.
    pub(crate) fn of(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// At a pointer.
    pub(crate) fn at(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// The pointer.
    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_every_task_once_and_returns_after_the_last() {
        let mut pool = Pool::new(3).expect("threads start");
        for tasks in [0, 1, 2, 3, 7, 100] {
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} tasks");
            }
        }
    }

    #[test]
    fn wakes_threads_that_have_parked() {
        let mut pool = Pool::new(2).expect("threads start");
        while !pool.workers[0].parked.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // Two tasks that meet can only both be running if a second thread came.
        let arrived = AtomicUsize::new(0);
        pool.run(2, &|_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(2).expect("threads start");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|task| assert_ne!(task, 33, "the task that panics"));
        }));
        assert!(panicked.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
