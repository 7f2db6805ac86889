//! The kernels' pool in every order of memory accesses and threads that the C11 memory model allows, up to a bound of
//! preemptions (loom; Norris and Demsky, CDSChecker, OOPSLA 2013).
//!
//! The pool's own file is compiled here against loom's threads and atomics instead of the standard ones. There is no
//! test harness: it would run the pool's unit tests too, and those want real threads.

#![expect(clippy::print_stdout, reason = "there is no harness that would print")]
#![expect(unsafe_code, reason = "the pool's own file")]

#[path = "../src/kernels/pool.rs"]
#[allow(dead_code, unused_imports, reason = "parts that only kernels and unit tests use")]
mod pool;

/// Loom's for what `kernels/sync.rs` has.
mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub(crate) use loom::thread::{self, JoinHandle, Thread};

    /// Loom's lock with the interface of one that is never poisoned.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    /// Every spin is one more place at which another thread may run; one shows all there is.
    pub(crate) const SPINS: usize = 1;
}

use pool::Pool;
use std::time::Instant;
use sync::{AtomicUsize, Ordering, thread};

fn main() {
    let models: [(&str, usize, fn()); 5] = [
        ("an idle pool ends", 3, idle),
        ("every task runs once, and `run` returns after the last", 3, every_task_runs_once),
        ("a second region finds threads that spin, park or are late", 2, two_regions),
        ("three threads share one region", 1, three_threads),
        ("a thread that parks is woken", 2, tasks_that_meet),
    ];
    println!("running {} models", models.len());
    for (claim, preemptions, model) in models {
        let began = Instant::now();
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(model);
        println!("model {claim} ... ok ({} ms)", began.elapsed().as_millis());
    }
}

/// Runs a region of `tasks` tasks, and sees that each ran once by when it ends.
fn region(pool: &mut Pool, tasks: usize) {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    pool.run(tasks, &|task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    for count in &counts {
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}

fn every_task_runs_once() {
    let mut pool = Pool::new(2).expect("threads start");
    region(&mut pool, 3);
}

fn two_regions() {
    let mut pool = Pool::new(2).expect("threads start");
    region(&mut pool, 2);
    region(&mut pool, 2);
}

fn three_threads() {
    let mut pool = Pool::new(3).expect("threads start");
    region(&mut pool, 2);
}

fn idle() {
    drop(Pool::new(2).expect("threads start"));
}

/// Two tasks that wait for each other end only if a second thread comes, however it was about to park.
fn tasks_that_meet() {
    let mut pool = Pool::new(2).expect("threads start");
    let arrived = AtomicUsize::new(0);
    pool.run(2, &|_| {
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < 2 {
            thread::yield_now();
        }
    });
}
