//! Executes a plan: many ranged reads at once, straight into regions, each extent verified as it
//! lands.
//!
//! The decisions are pure and each has its file: who serves which extent (`supply`), how many
//! requests (`window`), at what rate and with how many bytes in flight (`budget`), when one is stuck
//! (`stall`), when a hedge is worth its bytes (`hedge`), what follows a failure (`decide`, `backoff`).
//! This file drives them: it starts attempts, and says how they ended. It knows sources only as [`Source`], and neither
//! manifests nor journals ([`Keeper`]).
//!
//! Everything ends by drop: dropping the future of [`run`] ends all requests, and gives back every
//! lease and every reserved byte. What was verified stays.

mod active;
mod attempt;
mod backoff;
mod budget;
mod clock;
mod config;
mod decide;
mod error;
mod hedge;
mod metrics;
mod neighbours;
mod progress;
mod queue;
mod shared;
mod small;
mod stall;
mod supply;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::Instrument;
use wire::extent;
use wire::peers::Frame;

use crate::plan::Fetch;
use crate::source::Source;
use active::ActiveFetch;
use attempt::Attempted;
use clock::now;
use decide::Ended;
use metrics::{Tally, get};
use progress::{Best, Rate};
use shared::Shared;
use supply::{After, Departure, Facts, News, Next, Order, OriginOnly, Room, Supply, Swarm};

pub use budget::{Budgets, InFlight, Reservation};
pub use config::FetchConfig;
pub use error::FetchError;
pub use metrics::{Metrics, SourceReport};
pub(crate) use neighbours::{Claims, Dismissed, Event, MemberKey, NeighbourBounds, Neighbours};
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
    /// The part of each source, in the order in which they joined.
    pub sources: Vec<SourceReport>,
    /// From the first request to the last byte.
    pub seconds: f64,
    /// The seconds that the bytes take at the best rate that was reached over half a second.
    pub ideal_seconds: f64,
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
            sources: self.sources,
            seconds: self.seconds + later.seconds,
            ideal_seconds: self.ideal_seconds + later.ideal_seconds,
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
    run_beside(job, None, config, metrics).await
}

/// [`run`] beside peers, which bring what they have. The job's sources are for the rest; with peers there may be none.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_beside(
    job: Job,
    neighbours: Option<Neighbours>,
    config: &FetchConfig,
    metrics: &Metrics,
) -> Result<Report, FetchError> {
    config.validate().map_err(|problem| FetchError::Config { problem })?;
    check(&job, neighbours.as_ref())?;
    let span = tracing::info_span!("load", files = job.targets.len(), fetches = job.fetches.len());
    let mut driver = Driver::new(job, neighbours, config, metrics);
    let ended = driver.drive().instrument(span).await;
    // Requests are dropped, and with them their leases, before anyone hears of the end.
    driver.tasks.shutdown().await;
    let Shared { targets, tally, .. } = &*driver.shared;
    targets.iter().for_each(|target| tally.written(target.region.take_written()));
    driver.publish(if ended.is_ok() { Phase::Done } else { Phase::Failed });
    ended.map(|()| driver.report())
}

fn check(job: &Job, neighbours: Option<&Neighbours>) -> Result<(), FetchError> {
    let problem = if job.sources.is_empty() && neighbours.is_none() {
        "a job needs a source"
    } else if job.targets.iter().any(|target| target.objects.len() != job.sources.len().max(1)) {
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

/// An order whose attempt has ended.
struct Tried {
    order: Order,
    active: ActiveFetch,
    ended: Result<Attempted, FetchError>,
}

struct Driver {
    shared: Arc<Shared>,
    tasks: JoinSet<Tried>,
    /// The landed part of orders that come again.
    kept: HashMap<u64, ActiveFetch>,
    /// Breaks off the attempt of an order.
    recalls: HashMap<u64, Arc<Notify>>,
    /// The sources before the first peer.
    origin_count: usize,
    neighbours: Option<Neighbours>,
    rate: Rate,
    best: Best,
    /// Peers that are connected.
    connected: usize,
    /// Memory of the supply.
    state_bytes: usize,
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
    fn new(job: Job, neighbours: Option<Neighbours>, config: &FetchConfig, metrics: &Metrics) -> Self {
        let tally = Tally::new(metrics, &job.sources);
        let bytes = |fetch: &Fetch| fetch.range(job.targets[fetch.file].region.len());
        let bytes_total = job.fetches.iter().map(bytes).map(|range| range.end - range.start).sum();
        let origin_count = job.sources.len();
        let supply: Box<dyn Supply> = match &neighbours {
            None => Box::new(OriginOnly::new(job.fetches, origin_count, config, now())),
            Some(peers) => Box::new(Swarm::new(&job.fetches, peers, origin_count, config, now())),
        };
        let shared = Shared::new(job.targets, job.sources, job.budgets, config, tally);
        Self {
            shared: Arc::new(shared.supplied_by(supply)),
            tasks: JoinSet::new(),
            kept: HashMap::new(),
            recalls: HashMap::new(),
            origin_count,
            neighbours,
            rate: Rate::new(now()),
            best: Best::new(now()),
            connected: 0,
            state_bytes: 0,
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
            self.start()?;
            self.tell_claims();
            if self.tasks.is_empty() && self.shared.supply().is_done() {
                return Ok(());
            }
            if now() >= tick {
                tick = now() + TICK;
                self.observe();
            }
            let due = self.shared.supply().due(now());
            let wake = due.filter(|due| *due > now()).map_or(tick, |due| due.min(tick));
            tokio::select! {
                biased;
                Some(joined) = self.tasks.join_next() => self.settle(joined)?,
                event = next_event(&mut self.neighbours) => self.hear(event),
                () = self.shared.budgets.in_flight().freed(), if self.is_starved => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Starts as many attempts as the supply and the budgets allow.
    fn start(&mut self) -> Result<(), FetchError> {
        self.is_starved = false;
        while !self.is_starved {
            match self.next() {
                Next::Order(order) => self.begin(order),
                Next::Recall(id) => drop(self.recalls.get(&id).map(|recall| recall.notify_one())),
                Next::Wait => return Ok(()),
                Next::Fail(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Next {
        let targets = &self.shared.targets;
        let is_there = |file: usize, extent: u64| {
            let region = &targets[file].region;
            extent::range(region.len(), extent).is_some_and(|range| region.has_arrived(range))
        };
        self.shared.supply().next(&Room { is_there: &is_there }, now(), &mut self.random)
    }

    /// Starts an attempt, if there is room for its bytes.
    fn begin(&mut self, order: Order) {
        let Some(active) = self.kept.remove(&order.id).or_else(|| self.make_room(&order)) else {
            self.shared.supply().put_back(order);
            self.is_starved = true;
            return;
        };
        let (shared, span, recall) = (Arc::clone(&self.shared), self.span(&order), Arc::new(Notify::new()));
        self.recalls.insert(order.id, Arc::clone(&recall));
        let task = async move {
            let mut active = active;
            let ended = attempt::attempt(&shared, &mut active, &order, &recall).await;
            Tried { order, active, ended }
        };
        self.tasks.spawn(task.instrument(span));
        self.running_max = self.running_max.max(self.tasks.len());
    }

    fn make_room(&mut self, order: &Order) -> Option<ActiveFetch> {
        let fetch = Fetch { file: order.file, extents: order.extents.clone(), first_tensor: 0 };
        let range = fetch.range(self.shared.targets[order.file].region.len());
        let reservation = self.shared.budgets.in_flight().reserve(range.end - range.start)?;
        self.begun += 1;
        Some(ActiveFetch::new(order.file, fetch.extents, reservation, now()))
    }

    fn span(&self, order: &Order) -> tracing::Span {
        if self.begun % SPAN_EVERY != 1 {
            return tracing::Span::none();
        }
        let object = self.shared.targets[order.file].object(order.source()).name.as_str();
        let (first_extent, end_extent) = (order.extents.start, order.extents.end);
        tracing::debug_span!(
            "fetch",
            object,
            first_extent,
            end_extent,
            source = self.shared.source(order.source()).url()
        )
    }

    /// An attempt has ended: the supply decides what comes of it.
    fn settle(&mut self, joined: Result<Tried, tokio::task::JoinError>) -> Result<(), FetchError> {
        let Tried { order, active, ended } = match joined {
            Ok(tried) => tried,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Attempted { ended, brought } = ended?;
        let (id, source) = (order.id, order.source());
        self.recalls.remove(&id);
        let asked = self.shared.source(source);
        let facts = Facts {
            now: now(),
            object: &self.shared.targets[active.file].object(source).name,
            url: asked.url(),
            missing: active.missing(&self.shared),
            brought,
            round_trip: self.shared.observed(source, |observed| observed.round_trip()),
            landed: &self.shared.landed_by_source(),
        };
        let is_failure = !matches!(ended, Ended::Complete | Ended::Overtaken | Ended::Recalled);
        if is_failure {
            tracing::debug!(object = facts.object, missing = ?facts.missing, ?ended, "an attempt failed");
        }
        let after = self.shared.supply().ended(order, ended, &facts, &mut self.random);
        if is_failure && matches!(after, After::Keep | After::Release) {
            self.shared.tally.retry();
        }
        match after {
            After::Done => self.shared.tally.fetched(now().saturating_duration_since(active.began).as_secs_f64()),
            After::Keep => drop(self.kept.insert(id, active)),
            After::Release => drop(active),
            After::Fail(error) => return Err(error),
        }
        self.dismiss();
        Ok(())
    }

    /// Says what will soon be here, for others to take it from here.
    fn tell_claims(&self) {
        let changes = self.shared.supply().claims();
        if let Some(neighbours) = self.neighbours.as_ref().filter(|_| !changes.is_empty()) {
            neighbours.claims.change(changes);
        }
    }

    /// A peer has joined, has said something, or has left.
    fn hear(&mut self, event: Option<Event>) {
        let Some(event) = event else { return self.hear_the_last() };
        let at = |peer: usize| self.origin_count + peer;
        let mut supply = self.shared.supply();
        let mut hear = |news: News<'_>| supply.heard(news, now());
        match event {
            Event::Joined { source, is_near, member } => {
                self.shared.join(source, is_near);
                hear(News::Joined { is_near, member });
            }
            Event::Own(member) => hear(News::Own(member)),
            Event::Strangers(members) => hear(News::Strangers(&members)),
            Event::Looked { is_alone } => hear(News::Looked { is_alone }),
            Event::Said { peer, frame } => {
                let source = at(peer);
                match frame {
                    Frame::Full(bitmap) => hear(News::Full { source, bitmap }),
                    Frame::Add(numbers) => hear(News::Added { source, numbers: &numbers }),
                    Frame::Claim(numbers) => hear(News::Claimed { source, numbers: &numbers }),
                    Frame::Unclaim(numbers) => hear(News::Unclaimed { source, numbers: &numbers }),
                    Frame::State(state) => hear(News::Role { source, role: state.role }),
                    Frame::Bye => hear(News::Left { source }),
                }
            }
            Event::Took { peers, extent } => {
                peers.into_iter().for_each(|peer| hear(News::Claimed { source: at(peer), numbers: &[extent] }));
            }
            Event::Left { peer } => hear(News::Left { source: at(peer) }),
        }
        drop(supply);
        self.dismiss();
    }

    /// No more news of peers will come: those that are there are gone.
    fn hear_the_last(&mut self) {
        self.neighbours = None;
        self.shared.supply().heard(News::Looked { is_alone: false }, now());
        let count = self.shared.landed_by_source().len();
        for source in self.origin_count..count {
            self.shared.supply().heard(News::Left { source }, now());
        }
    }

    /// Says which peers nothing more is wanted of.
    fn dismiss(&mut self) {
        let departed = self.shared.supply().departed();
        for (source, departure) in departed {
            let reason = match departure {
                Departure::Banned => "banned",
                Departure::Failing => "failing",
                Departure::Useless => "useless",
            };
            self.shared.tally.dismiss(source, reason);
            let peer = source - self.origin_count;
            tracing::warn!(url = self.shared.source(source).url(), reason, "nothing more is asked of a peer");
            if let Some(neighbours) = &self.neighbours {
                // One that is not told keeps a connection open, and nothing else.
                let _ = neighbours.dismissed.try_send(Dismissed { peer, is_banned: departure == Departure::Banned });
            }
        }
    }

    fn observe(&mut self) {
        self.shared.supply().observe(&self.shared.landed_by_source(), now());
        self.rate.observe(now(), self.shared.tally.bytes_done());
        self.best.observe(now(), self.shared.tally.bytes_done());
        let connected = self.shared.supply().neighbours();
        let state_bytes = self.shared.supply().state_bytes();
        self.count(connected, state_bytes);
        self.publish(Phase::Fetching);
    }

    fn count(&mut self, connected: usize, state_bytes: usize) {
        self.shared.tally.neighbours(self.connected, connected);
        self.shared.tally.supply_state(self.state_bytes, state_bytes);
        (self.connected, self.state_bytes) = (connected, state_bytes);
    }

    fn publish(&self, phase: Phase) {
        let tally = &self.shared.tally;
        let (bytes_done, in_flight_bytes) = (tally.bytes_done(), self.shared.budgets.in_flight().used());
        let concurrency = if phase == Phase::Fetching { self.shared.supply().concurrency() } else { 0 };
        tally.gauges(in_flight_bytes, concurrency);
        self.progress.publish(Snapshot {
            phase,
            bytes_total: self.bytes_total,
            bytes_done,
            bytes_by_source: tally.by_source().into_iter().map(|(_, bytes)| bytes).collect(),
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
        let seconds = now().saturating_duration_since(self.began).as_secs_f64();
        let ideal_seconds = self.best.seconds(tally.bytes_done(), seconds);
        if seconds > 0.0 && tally.bytes_done() > 0 {
            tally.ideal_ratio(seconds / ideal_seconds);
        }
        Report {
            bytes_by_source: tally.by_source(),
            sources: tally.sources(),
            seconds,
            ideal_seconds,
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

impl Drop for Driver {
    fn drop(&mut self) {
        self.count(0, 0);
    }
}

/// The next news of peers; never, where there are none.
async fn next_event(neighbours: &mut Option<Neighbours>) -> Option<Event> {
    match neighbours {
        Some(neighbours) => neighbours.events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
