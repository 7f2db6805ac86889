//! Sends each request at its intended time, whatever became of the ones before.
//!
//! The times are kept by a thread of its own that sleeps and then spins for the last stretch: the
//! runtime's timer rounds up to a millisecond, which is already the lag that invalidates a run.

use super::client::{Clock, Target};
use super::event::RequestEvent;
use anyhow::Context;
use bytes::Bytes;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The time before a send at which the thread stops sleeping and spins: Linux wakes a sleeper within
/// about 50 µs of slack plus a context switch.
const SPIN: Duration = Duration::from_micros(150);
/// The longest single sleep, so that a cancelled run's thread is gone soon.
const NAP: Duration = Duration::from_millis(50);

/// The outcome of a run.
pub(super) struct Run {
    /// One event for each request that was over, in the order of the schedule.
    pub(super) events: Vec<RequestEvent>,
    /// True if it was broken off: then requests under way and those still to come have no event.
    pub(super) is_interrupted: bool,
}

/// Sends all requests on time, `bodies` in turn, until `interrupted` is over. Dropping the future stops it.
pub(super) async fn run(
    target: Target,
    bodies: Vec<Bytes>,
    schedule_ns: Vec<u64>,
    max_in_flight: u32,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Run> {
    let total = schedule_ns.len();
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let pacer = Pacer {
        target,
        bodies,
        schedule_ns,
        permits: Arc::new(Semaphore::new(max_in_flight as usize)),
        stop: Arc::clone(&stop.0),
        runtime: Handle::current(),
    };
    let mut progress = Progress::new(total);
    let mut interrupted = std::pin::pin!(interrupted);
    let mut is_interrupted = false;
    let mut pacing = tokio::task::spawn_blocking(move || pacer.pace());
    let (mut in_flight, mut events) = loop {
        tokio::select! {
            paced = &mut pacing => break paced.context("pacing the requests")?,
            () = progress.tick() => progress.show("sending"),
            () = &mut interrupted, if !is_interrupted => {
                is_interrupted = true;
                stop.0.store(true, Ordering::Relaxed);
            }
        }
    };
    if is_interrupted {
        in_flight.abort_all();
    }
    loop {
        tokio::select! {
            joined = in_flight.join_next() => match joined {
                None => break,
                Some(Ok(event)) => events.push(event),
                Some(Err(cause)) if cause.is_cancelled() => {}
                Some(Err(cause)) => return Err(cause).context("sending a request"),
            },
            () = progress.tick() => progress.show("waiting for answers"),
            () = &mut interrupted, if !is_interrupted => {
                is_interrupted = true;
                in_flight.abort_all();
            }
        }
    }
    progress.clear();
    events.sort_unstable_by_key(|event| event.index);
    debug_assert!(is_interrupted || events.len() == total, "every request of the schedule has one event");
    Ok(Run { events, is_interrupted })
}

/// The state of the pacing thread.
struct Pacer {
    target: Target,
    bodies: Vec<Bytes>,
    schedule_ns: Vec<u64>,
    permits: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
    runtime: Handle,
}

impl Pacer {
    /// Returns the requests still under way (and those that are over), and those never sent.
    fn pace(self) -> (JoinSet<RequestEvent>, Vec<RequestEvent>) {
        let mut in_flight = JoinSet::new();
        let mut dropped = Vec::new();
        let clock = Clock::start();
        for (index, &intended_ns) in self.schedule_ns.iter().enumerate() {
            if !self.wait_until(clock, intended_ns) {
                break;
            }
            let number = index as u64;
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                dropped.push(RequestEvent::planned(number, intended_ns));
                continue;
            };
            let target = self.target.clone();
            let body = self.bodies[index % self.bodies.len()].clone();
            let request = async move {
                let event = target.send(clock, number, intended_ns, body).await;
                drop(permit);
                event
            };
            in_flight.spawn_on(request, &self.runtime);
        }
        (in_flight, dropped)
    }

    /// Returns false when the run was cancelled meanwhile.
    fn wait_until(&self, clock: Clock, time_ns: u64) -> bool {
        loop {
            let left = Duration::from_nanos(time_ns.saturating_sub(clock.now_ns()));
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            if left > SPIN {
                std::thread::sleep((left - SPIN).min(NAP));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One line on stderr, rewritten twice a second, where stderr is a terminal.
struct Progress {
    interval: tokio::time::Interval,
    started: Clock,
    total: usize,
    shown: bool,
}

impl Progress {
    fn new(total: usize) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let shown = std::io::stderr().is_terminal() && !is_dumb;
        Self { interval: tokio::time::interval(Duration::from_millis(500)), started: Clock::start(), total, shown }
    }

    async fn tick(&mut self) {
        self.interval.tick().await;
    }

    fn show(&self, what: &str) {
        if self.shown {
            let seconds = self.started.now_ns() / 1_000_000_000;
            draw(format_args!("\r{what}: {} requests, {seconds} s\x1b[K", self.total));
        }
    }

    fn clear(&self) {
        if self.shown {
            draw(format_args!("\r\x1b[K"));
        }
    }
}

/// Nothing depends on what cannot be shown.
fn draw(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}
