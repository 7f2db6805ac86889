//! Executes a plan: many ranged reads at once, straight into regions, each extent verified as it
//! lands.
//!
//! The decisions are pure and each has its file: how many requests (`window`), at what rate and
//! with how many bytes in flight (`budget`), when one is stuck (`stall`), when a hedge is
//! worth its bytes (`hedge`), what follows a failure (`decide`, `backoff`). This file drives them:
//! it starts attempts, and learns how they ended. It knows sources only as [`Source`], and neither
//! manifests nor journals ([`Keeper`]).
//!
//! Everything ends by drop: dropping the future of [`run`] ends all requests, and gives back every
//! lease and every reserved byte. What was verified stays.

mod active;
mod attempt;
mod backoff;
mod budget;
mod config;
mod decide;
mod error;
mod hedge;
mod metrics;
mod progress;
mod queue;
mod shared;
mod small;
mod stall;
mod window;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::Instrument;
use wire::extent;

use crate::plan::Fetch;
use crate::source::{Source, SourceError};
use active::ActiveFetch;
use attempt::now;
use decide::{Ended, Next, Position};
use metrics::{Tally, get};
use progress::Rate;
use queue::Queue;
use shared::Shared;
use stall::Stall;
use window::Window;

pub use budget::{Budgets, InFlight, Reservation};
pub use config::FetchConfig;
pub use error::FetchError;
pub use metrics::Metrics;
pub use progress::{Phase, Progress, Snapshot, eta_seconds};
pub use shared::{Keeper, Target};
pub(crate) use small::SmallReads;

/// The interval at which progress is published and the window judged.
const TICK: Duration = Duration::from_millis(50);

/// Every so many fetches one has a span of its own: enough to see the shape of a load.
const SPAN_EVERY: u64 = 16;

/// One load: fetches, sources and targets.
pub struct Job {
    /// The fetches, most urgent first.
    pub fetches: Vec<Fetch>,
    /// The files that the fetches name.
    pub targets: Vec<Target>,
    /// Replicas of the same objects, the preferred one first.
    pub sources: Vec<Arc<dyn Source>>,
    /// The process's budgets.
    pub budgets: Budgets,
    /// The load's progress, for others to watch.
    pub progress: Progress,
    /// The seed of the delays before new attempts.
    pub seed: u64,
}

/// The cost of a finished load.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Verified bytes by source URL, in the order of the job's sources.
    pub bytes_by_source: Vec<(String, u64)>,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// Requests made, hedges included.
    pub requests: u64,
    /// Attempts after a failure.
    pub retries: u64,
    /// Hedges of slow requests.
    pub hedges: u64,
    /// Bytes that hedges brought, used or not.
    pub hedged_bytes: u64,
    /// Bytes that came and were thrown away.
    pub discarded_bytes: u64,
    /// Connections given up because nothing came.
    pub stalls: u64,
    /// Answers that asked us to slow down.
    pub throttles: u64,
    /// Extents whose digest was wrong.
    pub corrupt_extents: u64,
    /// The time that requests waited for the disk to take what they had received, all together.
    pub disk_wait_seconds: f64,
    /// The most bytes in flight at any time, over all loads that share the budgets.
    pub in_flight_max_bytes: u64,
    /// The most requests in flight at any time.
    pub concurrency_max: usize,
}

impl Report {
    /// Verified bytes from all sources.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_by_source.iter().map(|(_, bytes)| bytes).sum()
    }

    /// This one and a later one of the same sources, which brought again what this one brought.
    #[must_use]
    pub(crate) fn then(self, later: Self) -> Self {
        Self {
            bytes_by_source: self.bytes_by_source,
            seconds: self.seconds + later.seconds,
            requests: self.requests + later.requests,
            retries: self.retries + later.retries,
            hedges: self.hedges + later.hedges,
            hedged_bytes: self.hedged_bytes + later.hedged_bytes,
            discarded_bytes: self.discarded_bytes
                + later.discarded_bytes
                + later.bytes_by_source.iter().map(|(_, bytes)| bytes).sum::<u64>(),
            stalls: self.stalls + later.stalls,
            throttles: self.throttles + later.throttles,
            corrupt_extents: self.corrupt_extents + later.corrupt_extents,
            disk_wait_seconds: self.disk_wait_seconds + later.disk_wait_seconds,
            in_flight_max_bytes: self.in_flight_max_bytes.max(later.in_flight_max_bytes),
            concurrency_max: self.concurrency_max.max(later.concurrency_max),
        }
    }
}

/// Fetches everything the job asks for; returns when all of it is verified and in place.
///
/// # Errors
/// The first failure that cannot be mended, see [`FetchError`]. All requests have ended then, and
/// what was verified stays. The regions' waiters are not told: that is the caller's business.
pub async fn run(job: Job, config: &FetchConfig, metrics: &Metrics) -> Result<Report, FetchError> {
    config.validate().map_err(|problem| FetchError::Config { problem })?;
    check(&job)?;
    let span = tracing::info_span!("load", files = job.targets.len(), fetches = job.fetches.len());
    let mut driver = Driver::new(job, config, metrics);
    let ended = driver.drive().instrument(span).await;
    // Requests are dropped, and with them their leases, before anyone hears of the end.
    driver.tasks.shutdown().await;
    let Shared { targets, tally, .. } = &*driver.shared;
    targets.iter().for_each(|target| tally.written(target.region.take_written()));
    driver.publish(if ended.is_ok() { Phase::Done } else { Phase::Failed });
    ended.map(|()| driver.report())
}

fn check(job: &Job) -> Result<(), FetchError> {
    let problem = if job.sources.is_empty() {
        "a job needs a source"
    } else if job.targets.iter().any(|target| target.objects.len() != job.sources.len()) {
        "every target needs its object at every source"
    } else if job.fetches.iter().any(|fetch| {
        job.targets.get(fetch.file).is_none_or(|target| fetch.extents.end > extent::count(target.region.len()))
    }) {
        "a fetch is not within its target"
    } else {
        return Ok(());
    };
    Err(FetchError::Config { problem: problem.to_owned() })
}

type Tried = (ActiveFetch, Result<Ended, FetchError>);

struct Driver {
    shared: Arc<Shared>,
    queue: Queue<ActiveFetch>,
    tasks: JoinSet<Tried>,
    window: Window,
    rate: Rate,
    random: StdRng,
    progress: Progress,
    began: Instant,
    bytes_total: u64,
    begun: u64,
    /// True if there was no room for more bytes in flight.
    is_starved: bool,
    running_max: usize,
}

impl Driver {
    fn new(job: Job, config: &FetchConfig, metrics: &Metrics) -> Self {
        let tally = Tally::new(metrics, job.sources.iter().map(|source| source.url()));
        let bytes = |fetch: &Fetch| fetch.range(job.targets[fetch.file].region.len());
        let bytes_total = job.fetches.iter().map(bytes).map(|range| range.end - range.start).sum();
        Self {
            shared: Arc::new(Shared::new(job.targets, job.sources, job.budgets, config, tally)),
            queue: Queue::new(job.fetches),
            tasks: JoinSet::new(),
            window: Window::new(config, now()),
            rate: Rate::new(now()),
            random: StdRng::seed_from_u64(job.seed),
            progress: job.progress,
            began: now(),
            bytes_total,
            begun: 0,
            is_starved: false,
            running_max: 0,
        }
    }

    async fn drive(&mut self) -> Result<(), FetchError> {
        let mut tick = now();
        loop {
            self.start();
            if self.tasks.is_empty() && self.queue.is_empty() {
                return Ok(());
            }
            if now() >= tick {
                tick = now() + TICK;
                self.observe();
            }
            let wake = self.queue.next_due().filter(|due| *due > now()).map_or(tick, |due| due.min(tick));
            tokio::select! {
                biased;
                Some(joined) = self.tasks.join_next() => self.settle(joined)?,
                () = self.shared.budgets.in_flight().freed(), if self.is_starved => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Starts as many attempts as window and budgets allow, what was begun before what is new.
    fn start(&mut self) {
        self.is_starved = false;
        if self.window.paused_until(now()).is_some() {
            return;
        }
        while self.tasks.len() < self.window.size() {
            let Some(active) = self.queue.due(now()).or_else(|| self.begin()) else { return };
            let shared = Arc::clone(&self.shared);
            let span = self.span(&active);
            let task = async move {
                let mut active = active;
                let ended = attempt::attempt(&shared, &mut active).await;
                (active, ended)
            };
            self.tasks.spawn(task.instrument(span));
            self.running_max = self.running_max.max(self.tasks.len());
        }
    }

    /// Begins the next fetch, if there is room for its bytes.
    fn begin(&mut self) -> Option<ActiveFetch> {
        let targets = &self.shared.targets;
        let bytes = |file: usize, extents: &Range<u64>| {
            Fetch { file, extents: extents.clone(), first_tensor: 0 }.range(targets[file].region.len())
        };
        let is_there = |file: usize, extent: u64| targets[file].region.is_verified(bytes(file, &(extent..extent + 1)));
        let (file, extents) = self.queue.next(self.window.size(), is_there)?;
        let range = bytes(file, &extents);
        let Some(reservation) = self.shared.budgets.in_flight().reserve(range.end - range.start) else {
            self.queue.put_back(file, extents);
            self.is_starved = true;
            return None;
        };
        self.begun += 1;
        Some(ActiveFetch::new(file, extents, reservation, now()))
    }

    fn span(&self, active: &ActiveFetch) -> tracing::Span {
        if self.begun % SPAN_EVERY != 1 {
            return tracing::Span::none();
        }
        let object = self.shared.targets[active.file].objects[active.history.source].name.as_str();
        tracing::debug_span!("fetch", object, first_extent = active.extents.start, end_extent = active.extents.end)
    }

    /// An attempt has ended: decides what comes of it.
    fn settle(&mut self, joined: Result<Tried, tokio::task::JoinError>) -> Result<(), FetchError> {
        let (mut active, ended) = match joined {
            Ok(tried) => tried,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let ended = ended?;
        self.signal(&active, &ended);
        let missing = active.missing(&self.shared);
        let source = active.history.source;
        let position = Position {
            object: &self.shared.targets[active.file].objects[source].name,
            url: self.shared.sources[source].url(),
            missing: (missing.start, missing.end),
            source_count: self.shared.sources.len(),
        };
        let is_failure = !matches!(ended, Ended::Complete | Ended::Overtaken);
        if is_failure {
            tracing::debug!(object = position.object, ?missing, ?ended, "an attempt failed");
        }
        match decide::next(&mut active.history, ended, position, now(), &self.shared.config, &mut self.random) {
            Next::Done => {
                self.shared.tally.fetched(now().saturating_duration_since(active.began).as_secs_f64());
                Ok(())
            }
            Next::Again(delay) => {
                if is_failure {
                    self.shared.tally.retry();
                }
                self.queue.wait(now() + delay, active);
                Ok(())
            }
            Next::Fail(error) => Err(error),
        }
    }

    /// Tells the window how an attempt ended.
    fn signal(&mut self, active: &ActiveFetch, ended: &Ended) {
        let round_trip = self.shared.observed(active.history.source).round_trip();
        let (now, landed) = (now(), self.shared.landed());
        match ended {
            Ended::Complete => self.window.succeeded(),
            Ended::Failed(SourceError::Throttled { retry_after, .. }) => {
                let longest = Duration::from_secs(self.shared.config.retry_after_max_seconds);
                let wait = retry_after.unwrap_or(round_trip).min(longest);
                self.window.throttled(now, round_trip, landed, wait);
            }
            // A body that stops is one connection's trouble; an answer that does not come may be
            // the store's.
            Ended::Stalled(Stall::FirstByte) => self.window.slow_down(now, round_trip, landed),
            Ended::Stalled(Stall::Body) | Ended::Overtaken | Ended::Failed(_) => {}
        }
    }

    fn observe(&mut self) {
        let is_full = self.queue.has_fresh() && self.tasks.len() >= self.window.size();
        self.window.observe(now(), self.shared.landed(), is_full);
        self.rate.observe(now(), self.shared.tally.bytes_done());
        self.publish(Phase::Fetching);
    }

    fn publish(&self, phase: Phase) {
        let tally = &self.shared.tally;
        let (bytes_done, in_flight_bytes) = (tally.bytes_done(), self.shared.budgets.in_flight().used());
        let concurrency = if phase == Phase::Fetching { self.window.size() } else { 0 };
        tally.gauges(in_flight_bytes, concurrency);
        self.progress.publish(Snapshot {
            phase,
            bytes_total: self.bytes_total,
            bytes_done,
            bytes_by_source: tally.bytes.iter().map(get).collect(),
            bytes_per_second: self.rate.per_second(),
            eta_seconds: eta_seconds(self.bytes_total.saturating_sub(bytes_done), self.rate.per_second()),
            retries: get(&tally.retries),
            hedges: get(&tally.hedges),
            concurrency,
            in_flight_bytes,
        });
    }

    fn report(&self) -> Report {
        let tally = &self.shared.tally;
        let urls = self.shared.sources.iter().map(|source| source.url().to_owned());
        Report {
            bytes_by_source: urls.zip(tally.bytes.iter().map(get)).collect(),
            seconds: now().saturating_duration_since(self.began).as_secs_f64(),
            requests: get(&tally.requests),
            retries: get(&tally.retries),
            hedges: get(&tally.hedges),
            hedged_bytes: get(&tally.hedged_bytes),
            discarded_bytes: get(&tally.discarded_bytes),
            stalls: get(&tally.stalls),
            throttles: get(&tally.throttles),
            corrupt_extents: get(&tally.corrupt_extents),
            disk_wait_seconds: Duration::from_nanos(get(&tally.disk_wait_ns)).as_secs_f64(),
            in_flight_max_bytes: self.shared.budgets.in_flight().most(),
            concurrency_max: self.running_max,
        }
    }
}

#[cfg(test)]
mod tests;
