//! All workers. Membership is replaced as a whole; requests read an immutable snapshot by model, built off their path when
//! something changes.

use crate::connections::Limits;
use crate::pair::Pair;
use crate::pick::{Bits, Home, Look, Pick, full_load, pick, pick_home};
use crate::ring::Ring;
use crate::worker::{Address, State, Worker};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use policy::Moment;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use wire::openai::models::Model;

/// The `retry-after` where nothing better is known.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The least time between two snapshots: a hundred workers that change at once make one.
const REBUILD_EVERY: Duration = Duration::from_millis(100);
/// How long a search passes over members that were found unusable.
const BITS_RESET_EVERY: Duration = Duration::from_millis(250);

/// The most workers that an explanation names.
const CANDIDATES_MAX: usize = 64;

/// One model at one worker, as a pick gives it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) worker: Arc<Worker>,
    pub(crate) pair: Arc<Pair>,
    /// The load of all requests of ours for the model. It outlives snapshots.
    total: Arc<AtomicU64>,
}

impl Member {
    /// Counts a request of this load that is there from now on.
    pub(crate) fn hold(&self, load: u32) {
        self.worker.hold(load);
        self.pair.hold(load);
        self.total.fetch_add(load.into(), Ordering::Relaxed);
    }

    /// Undoes [`hold`](Self::hold).
    pub(crate) fn let_go(&self, load: u32) {
        self.worker.let_go(load);
        self.pair.let_go(load);
        self.total.fetch_sub(load.into(), Ordering::Relaxed);
    }
}

/// Facts about a request that a pick has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) model: &'a str,
    /// The endpoint, by `Call::endpoint_bit`.
    pub(crate) endpoint_bit: u8,
    /// The hash of what its prompt begins with; `None` where it does not matter.
    pub(crate) prefix: Option<u64>,
    pub(crate) load: u32,
    /// The most load at the home of a prefix, over the mean of all members.
    pub(crate) load_max_over_mean: f64,
}

/// A member that was picked, and why.
#[derive(Debug, Clone)]
pub(crate) struct Picked {
    pub(crate) member: Member,
    pub(crate) why: Why,
}

/// One worker as a request sees it, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Candidate {
    worker: String,
    /// True of it: `usable`, `suspect`, `refusing`, `resting` or `out`.
    look: &'static str,
    /// Its load, where it is one that counts.
    load: Option<u32>,
    /// How long it rests.
    wait_ms: Option<u64>,
    /// The load of our requests for this model there.
    held: u32,
    /// Sequences that it says are waiting.
    waiting: u32,
    /// Requests of ours there, for any model.
    in_flight: u32,
}

/// The reason of a pick, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Why {
    pub(crate) by: By,
    /// Members nearer to the prefix's home that took nothing, or had no room.
    passed: usize,
    /// The load of ours that it had for this model.
    load: u32,
    /// The load from which it would have been full.
    full: u64,
    /// How many members have the model ready.
    members: usize,
}

/// The rule of a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// The home of the prompt's beginning, or the next with room.
    Prefix,
    /// The least loaded of those that were looked at.
    LeastLoad,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, passed, load, full, members } = self;
        let by = match by {
            By::Prefix => "prefix",
            By::LeastLoad => "least_load",
        };
        write!(f, "by={by}; passed={passed}; load={load}; full={full}; members={members}")
    }
}

/// Everything that a pick for one model looks at.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The workers that are up and have the model ready.
    members: Box<[Member]>,
    ring: Arc<Ring>,
    total: Arc<AtomicU64>,
    bits: Bits,
    bits_reset_ms: AtomicU64,
    /// True if under half of the members would remain without suspects.
    ignores_suspicion: bool,
}

/// The fleet at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Every model that a worker of the fleet ever named, by each of its names.
    models: HashMap<Arc<str>, Arc<Pool>>,
    /// The models that can be asked for now, each once, in the workers' order.
    listed: Vec<Model>,
    workers: Vec<Arc<Worker>>,
    /// True if a worker was never heard: its models are unknown.
    has_unheard: bool,
}

/// The reason why no worker was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No worker has the model.
    UnknownModel,
    /// A worker has it, or may have it, and none can take it now.
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
    },
}

/// The members of the fleet.
#[derive(Debug, Default)]
struct Membership {
    present: Vec<(Address, Arc<Worker>)>,
    /// Those that left it and may have requests still.
    leaving: Vec<(Address, Arc<Worker>)>,
}

/// The workers.
#[derive(Debug)]
pub(crate) struct Fleet {
    limits: Limits,
    members: Mutex<Membership>,
    totals: Mutex<Totals>,
    snapshot: ArcSwap<Snapshot>,
    changed: Notify,
    membership_changed: Notify,
}

impl Fleet {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            members: Mutex::default(),
            totals: Mutex::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            changed: Notify::new(),
            membership_changed: Notify::new(),
        }
    }

    /// Replaces the workers; of two at one address the first counts. One that stays keeps its connections and its books;
    /// one that goes gets nothing new, and is watched until its last request has ended.
    pub(crate) fn replace(&self, addresses: Vec<Address>) {
        let mut members = self.members.lock();
        let mut known: HashMap<Address, Arc<Worker>> = std::mem::take(&mut members.leaving).into_iter().collect();
        known.extend(std::mem::take(&mut members.present));
        let mut authorities = HashSet::new();
        for address in addresses {
            if authorities.insert(address.authority().clone()) {
                let worker = known.remove(&address);
                let worker = worker.unwrap_or_else(|| Arc::new(Worker::new(&address, self.limits.clone())));
                members.present.push((address, worker));
            }
        }
        members.leaving = known.into_iter().collect();
        members.present.iter().for_each(|(_, worker)| worker.set_leaving(false));
        members.leaving.iter().for_each(|(_, worker)| worker.set_leaving(true));
        drop(members);
        self.rebuild();
        self.membership_changed.notify_one();
    }

    /// Workers of the fleet, and those that left it and have requests still.
    pub(crate) fn watched(&self) -> Vec<Arc<Worker>> {
        let members = self.members.lock();
        members.present.iter().chain(&members.leaving).map(|(_, worker)| Arc::clone(worker)).collect()
    }

    /// Forgets a worker that left and whose last request has ended; returns true if it did.
    pub(crate) fn forget(&self, worker: &Arc<Worker>) -> bool {
        // Most stay, and are asked for every second: no lock and no search for them.
        if !worker.is_leaving() || worker.in_flight() > 0 {
            return false;
        }
        let mut members = self.members.lock();
        // It may have come back in the meantime.
        if worker.is_leaving() {
            members.leaving.retain(|(_, other)| !Arc::ptr_eq(other, worker));
        }
        worker.is_leaving()
    }

    /// Waits until a worker came or went.
    pub(crate) async fn membership_changed(&self) {
        self.membership_changed.notified().await;
    }

    pub(crate) fn workers(&self) -> Vec<Arc<Worker>> {
        self.snapshot.load().workers.clone()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Marks the snapshot as stale; it is rebuilt soon.
    pub(crate) fn touch(&self) {
        self.changed.notify_one();
    }

    /// Rebuilds the snapshot whenever it is stale, at most ten times a second. Never returns.
    pub(crate) async fn follow(&self) {
        loop {
            self.changed.notified().await;
            self.rebuild();
            tokio::time::sleep(REBUILD_EVERY).await;
        }
    }

    /// Rebuilds the snapshot now.
    pub(crate) fn rebuild(&self) {
        // Held until the store, or an older picture could overwrite a newer one.
        let members = self.members.lock();
        let workers: Vec<Arc<Worker>> = members.present.iter().map(|(_, worker)| Arc::clone(worker)).collect();
        let before = self.snapshot.load_full();
        let mut totals = self.totals.lock();
        self.snapshot.store(Arc::new(Snapshot::of(workers, &before, &mut totals)));
        // A request that is under way holds its model's.
        totals.retain(|_, total| Arc::strong_count(total) > 1);
    }

    /// Picks a worker that is not among those `tried`.
    pub(crate) fn pick(
        &self,
        ask: &Ask<'_>,
        tried: &[Arc<Worker>],
        now: Moment,
        random: u64,
    ) -> Result<Picked, Refusal> {
        self.snapshot.load().pick(ask, tried, now, random)
    }
}

/// The load of ours for each model.
type Totals = HashMap<Arc<str>, Arc<AtomicU64>>;

impl Snapshot {
    fn of(workers: Vec<Arc<Worker>>, before: &Self, totals: &mut Totals) -> Self {
        // Ordered, so that equal fleets have equal lists; the lists keep the workers' order.
        let mut pools: BTreeMap<Arc<str>, Vec<Member>> = BTreeMap::new();
        let mut listed: Vec<Model> = Vec::new();
        let mut has_unheard = false;
        for worker in &workers {
            let view = worker.view();
            has_unheard |= !view.was_heard;
            for served in &view.models {
                let name: Arc<str> = served.model.id.as_str().into();
                let total = Arc::clone(totals.entry(Arc::clone(&name)).or_default());
                let members = pools.entry(name).or_default();
                if view.state != State::Healthy || !served.is_ready {
                    continue;
                }
                if members.is_empty() {
                    listed.push(served.model.clone());
                }
                members.push(Member { worker: Arc::clone(worker), pair: worker.pair(&served.model.id), total });
            }
        }
        let pool = |(name, members): (Arc<str>, Vec<Member>)| {
            let total = Arc::clone(totals.entry(Arc::clone(&name)).or_default());
            let pool = Pool::of(members, total, before.models.get(&name));
            (name, Arc::new(pool))
        };
        let models = pools.into_iter().map(pool).collect();
        Self { models, listed, workers, has_unheard }
    }

    /// True if a worker ever named the model. It bounds the metrics' labels.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// True if the model may exist here: a worker that was never heard may have any.
    pub(crate) fn may_know(&self, model: &str) -> bool {
        self.knows(model) || self.has_unheard || self.workers.is_empty()
    }

    /// The model, where there is one: what a request that names none can only mean.
    pub(crate) fn only_model(&self) -> Option<&str> {
        let mut names = self.models.keys();
        names.next().filter(|_| names.next().is_none() && !self.has_unheard).map(|name| &**name)
    }

    /// The workers.
    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// How many workers there are.
    pub(crate) fn size(&self) -> usize {
        self.workers.len()
    }

    /// True if a worker takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        // A worker may have gone down since.
        self.models.values().any(|pool| pool.members.iter().any(|member| member.worker.is_up()))
    }

    /// The models that can be asked for now.
    pub(crate) fn models(&self) -> &[Model] {
        &self.listed
    }

    /// The workers that have a model, at most so many, those nearest to the prefix's home first.
    pub(crate) fn candidates(&self, ask: &Ask<'_>, now: Moment) -> Vec<Candidate> {
        self.models.get(ask.model).map_or_else(Vec::new, |pool| pool.candidates(ask, now))
    }

    fn pick(&self, ask: &Ask<'_>, tried: &[Arc<Worker>], now: Moment, random: u64) -> Result<Picked, Refusal> {
        let unavailable = Refusal::Unavailable { retry_after: RETRY_AFTER };
        let Some(pool) = self.models.get(ask.model) else {
            return Err(if self.may_know(ask.model) { unavailable } else { Refusal::UnknownModel });
        };
        if let Some(home) = pool.pick_home(ask, tried, now) {
            return Ok(pool.picked(home.at, By::Prefix, home.passed, ask));
        }
        match pool.pick(ask, tried, now, random) {
            Pick::Member(at) => Ok(pool.picked(at, By::LeastLoad, 0, ask)),
            Pick::Nobody { wait: Some(retry_after) } => Err(Refusal::Unavailable { retry_after }),
            Pick::Nobody { wait: None } => Err(unavailable),
        }
    }
}

impl Pool {
    /// Members of a snapshot; the ring stays that of the pool `before` where the members do.
    fn of(members: Vec<Member>, total: Arc<AtomicU64>, before: Option<&Arc<Self>>) -> Self {
        let suspects = members.iter().filter(|member| member.pair.is_suspect()).count();
        let names: Vec<u64> = members.iter().map(|member| member.worker.name_hash).collect();
        let ring = before.map(|pool| &pool.ring).filter(|ring| ring.is_of(&names));
        Self {
            ring: ring.map_or_else(|| Arc::new(Ring::of(names)), Arc::clone),
            total,
            bits: Bits::new(members.len()),
            bits_reset_ms: AtomicU64::new(0),
            ignores_suspicion: suspects * 2 > members.len(),
            members: members.into_boxed_slice(),
        }
    }

    fn pick(&self, ask: &Ask<'_>, tried: &[Arc<Worker>], now: Moment, random: u64) -> Pick {
        self.reset_bits(now);
        pick(&self.bits, |at| self.look(at, ask, tried, now), self.ignores_suspicion, random)
    }

    /// Looks for room at the home of the request's prefix, and near it.
    fn pick_home(&self, ask: &Ask<'_>, tried: &[Arc<Worker>], now: Moment) -> Option<Home> {
        let around = self.ring.from(ask.prefix?);
        let full = self.full(ask);
        let has_room = |at: usize| u64::from(self.members[at].pair.held()) + u64::from(ask.load) <= full;
        pick_home(around, |at| self.look(at, ask, tried, now), has_room, self.ignores_suspicion)
    }

    fn look(&self, at: usize, ask: &Ask<'_>, tried: &[Arc<Worker>], now: Moment) -> Look {
        let Member { worker, pair, .. } = &self.members[at];
        if tried.iter().any(|other| Arc::ptr_eq(other, worker)) {
            return Look::Out;
        }
        worker.look(pair, ask.endpoint_bit, now)
    }

    fn candidates(&self, ask: &Ask<'_>, now: Moment) -> Vec<Candidate> {
        let mut seen = HashSet::new();
        let order = self.ring.from(ask.prefix.unwrap_or_default()).filter(|at| seen.insert(*at));
        let candidate = |at: usize| {
            let Member { worker, pair, .. } = &self.members[at];
            let (look, load, wait_ms) = self.look(at, ask, &[], now).told();
            let (held, waiting) = (pair.held(), pair.waiting());
            Candidate { worker: worker.name.clone(), look, load, wait_ms, held, waiting, in_flight: worker.in_flight() }
        };
        order.take(CANDIDATES_MAX).map(candidate).collect()
    }

    fn full(&self, ask: &Ask<'_>) -> u64 {
        full_load(self.total.load(Ordering::Relaxed), ask.load, self.members.len(), ask.load_max_over_mean)
    }

    fn picked(&self, at: usize, by: By, passed: usize, ask: &Ask<'_>) -> Picked {
        let member = self.members[at].clone();
        let why = Why { by, passed, load: member.pair.held(), full: self.full(ask), members: self.members.len() };
        Picked { member, why }
    }

    /// Lets searches look again at members that were found unusable.
    fn reset_bits(&self, now: Moment) {
        let now_ms = now.0.as_millis() as u64;
        let last_ms = self.bits_reset_ms.load(Ordering::Relaxed);
        let is_due = now_ms.saturating_sub(last_ms) >= BITS_RESET_EVERY.as_millis() as u64;
        let swap = || self.bits_reset_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap().is_ok() {
            self.bits.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Fault;
    use crate::worker::{Report, ServedModel};
    use std::time::Instant;
    use tokio::sync::Semaphore;

    fn limits() -> Limits {
        let places = Arc::new(Semaphore::new(8));
        Limits {
            tls: None,
            connect_timeout: Duration::from_secs(1),
            idle: Duration::from_secs(4),
            places,
            places_spare: 2,
        }
    }

    fn address(number: usize) -> Address {
        Address::parse(&format!("http://127.0.0.1:{}", 1_000 + number)).expect("a URL")
    }

    fn report(models: &[&str]) -> Report {
        let served = |id: &&str| (ServedModel { model: Model::new(*id, 1, None), is_ready: true }, 0);
        Report { is_draining: false, version: None, peers: None, models: models.iter().map(served).collect() }
    }

    fn fleet(size: usize, models: &[&str]) -> Fleet {
        let fleet = Fleet::new(limits());
        fleet.replace((0..size).map(address).collect());
        for worker in fleet.workers() {
            worker.heard(report(models));
        }
        fleet.rebuild();
        fleet
    }

    fn ask(model: &str) -> Ask<'_> {
        Ask { model, endpoint_bit: 1, prefix: None, load: 64, load_max_over_mean: 1.25 }
    }

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn membership_is_replaced_and_what_stays_is_kept() {
        let fleet = fleet(2, &["m"]);
        let kept = Arc::clone(&fleet.workers()[1]);
        fleet.replace(vec![address(3), address(1), address(3)]);
        let names: Vec<String> = fleet.workers().iter().map(|worker| worker.name.clone()).collect();
        assert_eq!(names, ["127.0.0.1:1003", "127.0.0.1:1001"]);
        assert!(Arc::ptr_eq(&fleet.workers()[1], &kept), "its connections and books stay");
        fleet.replace(Vec::new());
        let nobody = fleet.pick(&ask("m"), &[], at(0), 0).expect_err("nobody");
        assert_eq!(nobody, Refusal::Unavailable { retry_after: RETRY_AFTER }, "a router without workers waits for one");
    }

    #[test]
    fn a_worker_that_left_is_watched_until_its_last_request_has_ended() {
        let fleet = fleet(2, &["m"]);
        let [gone, stays] = &fleet.workers()[..] else { panic!("two workers") };
        gone.hold(1);
        fleet.replace(vec![address(1)]);
        assert_eq!((fleet.workers().len(), fleet.watched().len()), (1, 2));
        assert!(!fleet.forget(gone) && !fleet.forget(stays));
        fleet.replace(vec![address(0), address(1)]);
        assert!(Arc::ptr_eq(&fleet.workers()[0], gone), "one that comes back in the meantime is the same");
        fleet.replace(vec![address(1)]);
        gone.let_go(1);
        assert!(fleet.forget(gone) && !fleet.forget(stays));
        assert_eq!(fleet.watched().len(), 1);
    }

    #[test]
    fn unknown_is_told_from_unavailable() {
        let fleet = fleet(1, &["m", "org/x"]);
        assert_eq!(fleet.pick(&ask("y"), &[], at(0), 0).expect_err("none"), Refusal::UnknownModel);
        assert!(fleet.pick(&ask("org/x"), &[], at(0), 0).is_ok());
        fleet.workers()[0].mark_down();
        let unavailable = Refusal::Unavailable { retry_after: RETRY_AFTER };
        assert_eq!(fleet.pick(&ask("m"), &[], at(0), 0).expect_err("down"), unavailable, "before the next snapshot");
        fleet.rebuild();
        assert_eq!(fleet.pick(&ask("m"), &[], at(0), 0).expect_err("down"), unavailable, "and after it");
        fleet.replace(vec![address(0), address(7)]);
        assert_eq!(fleet.pick(&ask("y"), &[], at(0), 0).expect_err("unheard"), unavailable);
    }

    #[test]
    fn a_rest_of_one_model_leaves_the_others_alone() {
        let fleet = fleet(1, &["m", "n"]);
        let worker = &fleet.workers()[0];
        let full = crate::outcome::Outcome::BackPressure {
            scope: crate::outcome::Scope::Model,
            wait: Some(Duration::from_secs(3)),
        };
        worker.pair("m").heard(full, at(0), 0.0);
        let wait = Duration::from_secs(2);
        assert_eq!(
            fleet.pick(&ask("m"), &[], at(1_000), 0).expect_err("rests"),
            Refusal::Unavailable { retry_after: wait }
        );
        assert!(fleet.pick(&ask("n"), &[], at(1_000), 0).is_ok());
        worker.rest(at(9_000));
        assert!(fleet.pick(&ask("n"), &[], at(1_000), 0).is_err());
    }

    #[test]
    fn suspicions_are_ignored_where_under_half_would_remain() {
        let fleet = fleet(4, &["m"]);
        let picked = || {
            let names = (0..200)
                .map(|random| fleet.pick(&ask("m"), &[], at(0), random).expect("one").member.worker.name.clone());
            names.collect::<std::collections::BTreeSet<_>>().len()
        };
        for (ejected, remaining) in [(1, 3), (2, 2), (3, 4), (4, 4)] {
            fleet.workers()[ejected - 1].pair("m").eject(Fault::Failed, 1);
            fleet.rebuild();
            assert_eq!(picked(), remaining, "{ejected} of 4 are ejected");
        }
    }

    #[test]
    fn a_prefix_stays_where_it_was_until_its_home_has_too_much() {
        let fleet = fleet(8, &["m"]);
        let ask = |prefix| Ask { prefix: Some(prefix), ..ask("m") };
        let pick = |prefix| fleet.pick(&ask(prefix), &[], at(0), 0).expect("one");
        let home = pick(7).member;
        for _ in 0..8 {
            let picked = pick(7);
            assert!(Arc::ptr_eq(&picked.member.worker, &home.worker), "{}", picked.why);
            picked.member.hold(64);
        }
        let next = pick(7);
        assert_eq!((next.why.by, next.why.passed), (By::Prefix, 1), "the home is full");
        assert!(Arc::ptr_eq(&next.member.worker, &pick(7).member.worker), "all routers agree on the next one");
        // As much for all the others, and the home has room again.
        let others: Vec<Member> = fleet.snapshot().models["m"].members.to_vec();
        let others = others.into_iter().filter(|member| !Arc::ptr_eq(&member.worker, &home.worker));
        let others: Vec<Member> = others.collect();
        others.iter().for_each(|member| member.hold(8 * 64));
        assert!(Arc::ptr_eq(&pick(7).member.worker, &home.worker), "{}", pick(7).why);
        others.iter().for_each(|member| member.let_go(8 * 64));
        (0..8).for_each(|_| home.let_go(64));
        assert!(fleet.workers().iter().all(|worker| worker.pair("m").held() == 0));
        assert_eq!(home.total.load(Ordering::Relaxed), 0);
        home.worker.mark_down();
        assert!(!Arc::ptr_eq(&pick(7).member.worker, &home.worker), "one that is down is passed");
    }

    #[test]
    fn no_worker_has_much_more_than_the_others_whatever_prompts_begin_with() {
        let fleet = fleet(8, &["m"]);
        for number in 0..800_u64 {
            // Every second one begins like all of these.
            let prefix = if number % 2 == 0 { 7 } else { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            let ask = Ask { prefix: Some(prefix), ..ask("m") };
            fleet.pick(&ask, &[], at(0), number).expect("one").member.hold(64);
        }
        let most = fleet.workers().iter().map(|worker| worker.pair("m").held()).max().expect("eight");
        assert!(f64::from(most) <= 1.25 * 800.0 * 64.0 / 8.0, "{most}");
    }

    #[test]
    fn the_load_of_a_model_outlives_its_pools() {
        let fleet = fleet(2, &["m"]);
        let member = fleet.pick(&ask("m"), &[], at(0), 0).expect("one").member;
        member.hold(64);
        fleet.replace(Vec::new());
        fleet.replace(vec![address(0), address(1)]);
        for worker in fleet.workers() {
            worker.heard(report(&["m"]));
        }
        fleet.rebuild();
        let again = fleet.pick(&ask("m"), &[], at(0), 0).expect("one").member;
        assert!(Arc::ptr_eq(&again.total, &member.total));
        member.let_go(64);
        drop((member, again));
        fleet.replace(Vec::new());
        fleet.rebuild();
        assert!(fleet.totals.lock().is_empty(), "a model that nobody has is forgotten");
    }

    /// The first rows of `evals/bench/router`; run by its script, in a release build.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_pick() {
        const PICKS: u64 = 200_000;
        let fleets = [10, 10_000].map(|size| fleet(size, &["m"]));
        for by_prefix in [false, true] {
            let mut nanoseconds = [Vec::new(), Vec::new()];
            for round in 0..9 {
                for (fleet, times) in fleets.iter().zip(&mut nanoseconds) {
                    let begun = Instant::now();
                    for random in 0..PICKS {
                        let prefix = by_prefix.then(|| random.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                        let ask = Ask { prefix, ..ask("m") };
                        std::hint::black_box(fleet.pick(&ask, &[], at(round), random).expect("one"));
                    }
                    times.push(begun.elapsed().as_nanos() as f64 / PICKS as f64);
                }
            }
            let [small, large] = nanoseconds.map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            let rule = if by_prefix { "prefix" } else { "pick" };
            println!("{rule}_ns_10 {small:.1}\n{rule}_ns_10000 {large:.1}\n{rule}_10000_over_10 {:.3}", large / small);
        }
    }
}
