//! A supply for a start beside peers, warm and cold alike: peers that serve bring what they have, those that load swap
//! what each has got, and the origin brings what nobody has.
//!
//! *Outside* is the origin and every peer that serves: what comes from there comes once. Each extent has an owner among
//! the loads under way (`owners`), which takes it from outside and claims it, so that the others wait for its copy and
//! take it from the owner or from each other. Owners that are late are passed over. Alone beside peers that serve, a load
//! owns everything and takes it in order.
//!
//! Peers are asked for one extent at a time, a few at once each. A peer that sends a wrong extent
//! is banned; one that refuses, fails or is slow loses work to others and fails nothing. Only the
//! origin can fail a load, and only for extents that no peer has either. See `docs/loading.md`.

mod gap;
mod help;
mod outside;
mod owners;
mod pace;
mod peer;
mod pick;
mod recall;
mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use wire::extent::EXTENT_BYTES;

use super::origin::signal;
use super::{After, Departure, Facts, News, Next, Order, Room, Supply};
use crate::fetch::backoff;
use crate::fetch::config::FetchConfig;
use crate::fetch::decide::{Ended, History};
use crate::fetch::error::FetchError;
use crate::fetch::neighbours::{MemberKey, NeighbourBounds, Neighbours};
use crate::fetch::queue::Queue;
use crate::fetch::window::Window;
use crate::landing::LandingError;
use crate::plan::Fetch;
use crate::source::SourceError;
use help::{Help, Landed};
use outside::Outside;
use owners::Owners;
use pace::{Pace, Patience};
use peer::{Peer, Standing};
use work::{AGE_MAX, Running, State, Work};

/// Requests in flight at all peers together, where nobody else loads.
const SERVED_MAX: usize = 32;

/// The same while others load: what comes in so many seconds, within bounds. Requests share links, so that more of them only
/// come later; fewer leave links idle.
const SWAPS_S: f64 = 2.0;
const SWAPS_MIN: usize = 4;
const SWAPS_MAX: usize = 12;

/// A peer has one request after another; beyond it what comes in so many seconds, so that no round trip is idle.
const TURN_S: f64 = 0.05;

/// Peers that serve or load, and the origin for gaps.
pub(in crate::fetch) struct Swarm {
    work: Work,
    owners: Owners,
    outside: Outside,
    pace: Pace,
    patience: Patience,
    /// Members that are no neighbours.
    strangers: Vec<MemberKey>,
    /// True if neighbours, or what they do, have changed since the owners were counted.
    has_new_members: bool,
    /// Changes of what is claimed that were not told yet.
    claims: Vec<(u32, bool)>,
    /// The sources after the origin's, in order.
    peers: Vec<Peer>,
    origin: Origin,
    /// Extents of the whole manifest.
    extents: u32,
    running: BTreeMap<u64, Running>,
    next_id: u64,
    config: FetchConfig,
    bounds: NeighbourBounds,
    departed: Vec<(usize, Departure)>,
    help: Help,
    /// Bytes that have landed, and since when no more did.
    landed: (u64, Instant),
    /// True until the peers that are there at the beginning have joined.
    awaits_peers: bool,
    /// True if there are extents that the origin does not bring.
    has_lost: bool,
    /// Why the origin brings no more.
    refusal: Option<FetchError>,
}

/// The origin's replicas: the sources before the peers; there may be none.
struct Origin {
    count: usize,
    window: Window,
    in_flight: usize,
    again: Queue<Order>,
}

impl Swarm {
    pub(in crate::fetch) fn new(
        fetches: &[Fetch],
        neighbours: &Neighbours,
        origin_count: usize,
        config: &FetchConfig,
        now: Instant,
    ) -> Self {
        let again = Queue::new(Vec::new());
        let pace = Pace::new(now);
        Self {
            work: Work::new(fetches, &neighbours.firsts, pace.window(), now),
            owners: Owners::new(neighbours.own),
            outside: Outside::new(),
            patience: pace.patience(Duration::ZERO, 1),
            pace,
            strangers: Vec::new(),
            has_new_members: false,
            claims: Vec::new(),
            peers: Vec::new(),
            origin: Origin { count: origin_count, window: Window::new(config, now), in_flight: 0, again },
            extents: neighbours.extents,
            running: BTreeMap::new(),
            next_id: 0,
            config: config.clone(),
            bounds: neighbours.bounds,
            departed: Vec::new(),
            help: Help::new(now),
            landed: (0, now),
            awaits_peers: true,
            has_lost: false,
            refusal: None,
        }
    }

    fn peer(&self, source: usize) -> Option<&Peer> {
        self.peers.get(source.checked_sub(self.origin.count)?)
    }

    fn peer_mut(&mut self, source: usize) -> Option<&mut Peer> {
        self.peers.get_mut(source.checked_sub(self.origin.count)?)
    }

    /// Returns true if some peer serves or may yet.
    fn has_peers(&self) -> bool {
        self.awaits_peers || self.peers.iter().any(Peer::is_live)
    }

    /// Returns true if others that load take and give.
    fn swaps(&self) -> bool {
        self.peers.iter().any(Peer::swaps)
    }

    fn in_flight_at_peers(&self) -> usize {
        self.peers.iter().map(|peer| peer.in_flight).sum()
    }

    /// The most requests in flight at all peers together.
    fn in_flight_max(&self) -> usize {
        if !self.swaps() {
            return SERVED_MAX;
        }
        let most = self.pace.extents_in(SWAPS_S).clamp(SWAPS_MIN, SWAPS_MAX);
        match self.under_way_at_origin() {
            0 => most,
            // Those that fill what others leave of the link: with more, the origin's part of it would be less than its own
            // link can bring.
            own => most.min(self.outside.most().saturating_sub(own + 1).max(1)),
        }
    }

    /// The most requests in flight at one peer.
    fn in_flight_each_max(&self) -> usize {
        if !self.swaps() {
            return self.bounds.in_flight_max;
        }
        let live = self.peers.iter().filter(|peer| peer.standing == Standing::Here).count();
        self.pace.extents_in(TURN_S).div_ceil(live.max(1)).clamp(1, SWAPS_MAX)
    }

    /// The extents that this load has under way at the origin.
    fn under_way_at_origin(&self) -> usize {
        self.claimed().filter(|running| running.source < self.origin.count).map(|running| running.places.len()).sum()
    }

    /// The same everywhere outside.
    fn under_way_outside(&self) -> usize {
        self.claimed().map(|running| running.places.len()).sum()
    }

    fn claimed(&self) -> impl Iterator<Item = &Running> {
        self.running.values().filter(|running| running.is_claimed && !running.waits)
    }

    /// An order of the peer that is expected to bring one soonest; beside others that load, of the one that is asked least.
    fn ask_peers(&mut self, room: &Room<'_>, now: Instant, random: &mut StdRng) -> Option<Order> {
        let swaps = self.swaps();
        if self.work.missing_count() == 0 || self.in_flight_at_peers() >= self.in_flight_max() {
            return None;
        }
        let most = self.in_flight_each_max();
        let is_ready = |at: &usize| self.peers[*at].has_room(now) && self.peers[*at].in_flight < most;
        let mut ready: Vec<usize> = (0..self.peers.len()).filter(is_ready).collect();
        if swaps {
            ready.shuffle(random);
        }
        let key = |&at: &usize| {
            let peer = &self.peers[at];
            (peer.is_late(now), !peer.is_near, if swaps { peer.in_flight as f64 } else { peer.expected_s() })
        };
        ready.sort_by(|left, right| key(left).partial_cmp(&key(right)).unwrap_or(std::cmp::Ordering::Equal));
        for at in ready {
            while let Some(place) = self.pick(at, swaps, now, random) {
                let (file, index) = (self.work.get(place).file, self.work.get(place).index);
                if (room.is_there)(file, index) {
                    self.work.set(place, State::Landed, now);
                    continue;
                }
                self.peers[at].in_flight += 1;
                let is_claimed = swaps && !self.peers[at].swaps();
                return Some(self.order(self.origin.count + at, vec![place], is_claimed, now));
            }
        }
        None
    }

    /// Counts the owners anew, if there may be others.
    fn count_owners(&mut self) {
        if !std::mem::take(&mut self.has_new_members) {
            return;
        }
        let here = self.peers.iter().filter(|peer| peer.standing == Standing::Here);
        let swapping: Vec<MemberKey> = here.clone().filter(|peer| peer.swaps()).map(|peer| peer.member).collect();
        // Where most neighbours load, so do the others; where few do, it is them alone.
        let most_load = !swapping.is_empty() && swapping.len() * 2 >= here.count();
        self.owners.replace(swapping.into_iter(), if most_load { &self.strangers } else { &[] });
    }

    fn order(&mut self, source: usize, places: Vec<usize>, is_claimed: bool, now: Instant) -> Order {
        let id = self.next_id;
        self.next_id += 1;
        let resumes = source < self.origin.count;
        let first = self.work.get(places[0]);
        let (file, extents) = (first.file, first.index..first.index + places.len() as u64);
        let history = History { source, ..if resumes { first.history.clone() } else { History::default() } };
        places.iter().for_each(|&place| self.work.set(place, State::Ordered(id), now));
        if is_claimed {
            self.claims.extend(places.iter().map(|&place| (self.work.get(place).number, true)));
        }
        let running = Running { source, places, began: now, waits: false, is_recalled: false, is_claimed };
        self.running.insert(id, running);
        Order { id, file, extents, resumes, history }
    }

    /// Notes which extents of an ended order have landed; the others are missing again.
    fn release(&mut self, order: &Order, facts: &Facts<'_>) -> Vec<usize> {
        let running = self.running.remove(&order.id);
        let is_recalled = running.as_ref().is_some_and(|running| running.is_recalled);
        running.into_iter().for_each(|running| self.unclaim(&running));
        let places = self.work.places(order.file, &order.extents);
        let mut missing = Vec::new();
        for place in places {
            let has_landed =
                facts.missing.is_empty() || self.work.get(place).index < facts.missing.start / EXTENT_BYTES;
            self.work.set(place, if has_landed { State::Landed } else { State::Missing }, facts.now);
            if !has_landed {
                // Whom it was kept for has not brought it.
                let extent = self.work.get_mut(place);
                if !is_recalled {
                    extent.keep_for_nobody();
                }
                missing.push(place);
            }
        }
        missing
    }

    fn unclaim(&mut self, running: &Running) {
        if running.is_claimed {
            self.claims.extend(running.places.iter().map(|&place| (self.work.get(place).number, false)));
        }
    }

    fn ended_at_peer(&mut self, order: &Order, ended: Ended, facts: &Facts<'_>, random: &mut StdRng) -> After {
        let source = order.source();
        let running = self.running.get(&order.id);
        let began = running.map_or(facts.now, |running| running.began);
        let took = facts.now.saturating_duration_since(began);
        if matches!(ended, Ended::Complete) && running.is_some_and(|running| running.is_claimed) {
            self.pace.outside_took(took);
            self.outside.took(took, facts.now);
        }
        let missing = self.release(order, facts);
        let config = self.config.clone();
        // What is told counts for a peer alone; beside others that load, its next extent goes to one of them.
        let rest = self.swaps().then(|| Duration::from_secs_f64(self.pace.extent_s() * random.random_range(0.5..1.5)));
        let Some(peer) = self.peer_mut(source) else { return After::Release };
        peer.in_flight -= 1;
        let pause = backoff::delay(peer.failures() + 1, &config, random);
        signal(&mut peer.window, &ended, facts, facts.landed.get(source).copied().unwrap_or(0), &config);
        match ended {
            Ended::Complete => {
                peer.succeeded(took.as_secs_f64());
                return After::Done;
            }
            Ended::Overtaken => {}
            Ended::Recalled => {
                peer.be_late(facts.now);
                if took >= AGE_MAX {
                    self.fault(source, pause, facts.now);
                }
            }
            Ended::Failed(problem) if is_ours(&problem) => return ours(problem, facts),
            Ended::Failed(SourceError::Throttled { retry_after, .. }) => {
                rest.into_iter().for_each(|rest| peer.rest(rest, facts.now));
                self.refuse(source, &missing, retry_after.unwrap_or(facts.round_trip), facts.now);
            }
            // Its window stays as it is: what it has given to nobody yet it may still give.
            Ended::Failed(SourceError::Taken { retry_after, .. }) => {
                peer.be_refused(facts.now);
                self.refuse(source, &missing, retry_after, facts.now);
            }
            Ended::Failed(problem) => self.blame(source, &problem, pause, facts.now),
            Ended::Stalled(_) => self.fault(source, pause, facts.now),
        }
        if missing.is_empty() { After::Done } else { After::Release }
    }

    /// A peer gives some extents to others for a while.
    fn refuse(&mut self, source: usize, places: &[usize], wait: Duration, now: Instant) {
        let wait = wait.min(Duration::from_secs(self.config.retry_after_max_seconds));
        let numbers: Vec<u32> = places.iter().map(|&place| self.work.get(place).number).collect();
        if let Some(peer) = self.peer_mut(source) {
            numbers.into_iter().for_each(|number| peer.refuse(number, now + wait));
        }
    }

    /// Judges a peer by a request that failed.
    fn blame(&mut self, source: usize, problem: &SourceError, pause: Duration, now: Instant) {
        let departed = match problem {
            SourceError::Landing(LandingError::Corrupt { .. }) => Some(Departure::Banned),
            // It will give nothing, however often it is asked.
            problem if !problem.is_retryable() => Some(Departure::Useless),
            _ => None,
        };
        self.has_new_members = true;
        let Some(peer) = self.peer_mut(source) else { return };
        match departed {
            Some(Departure::Banned) => peer.ban(),
            Some(_) => peer.leave(),
            None => return self.fault(source, pause, now),
        }
        self.dismiss(source, departed);
    }

    /// Says once that nothing more is asked of a peer.
    fn dismiss(&mut self, source: usize, departure: Option<Departure>) {
        let Some(peer) = self.peer_mut(source) else { return };
        if !std::mem::replace(&mut peer.is_dismissed, true) {
            self.departed.extend(departure.map(|departure| (source, departure)));
        }
    }

    /// A peer failed in a way that may pass.
    fn fault(&mut self, source: usize, pause: Duration, now: Instant) {
        let Some(peer) = self.peer_mut(source) else { return };
        if peer.failed(pause, now) {
            self.has_new_members = true;
            self.dismiss(source, Some(Departure::Failing));
        }
    }
}

impl Supply for Swarm {
    fn next(&mut self, room: &Room<'_>, now: Instant, random: &mut StdRng) -> Next {
        self.count_owners();
        if let Some(order) = self.ask_peers(room, now, random) {
            return Next::Order(order);
        }
        if let Some(id) = self.recall(now) {
            return Next::Recall(id);
        }
        if let Some(order) = self.ask_origin(room, now) {
            return Next::Order(order);
        }
        match self.hopeless(now) {
            Some(error) => Next::Fail(error),
            None => Next::Wait,
        }
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        let rests = self.peers.iter().flat_map(|peer| [peer.rests(now), peer.next_refused(now)]).flatten();
        rests.chain(self.origin.again.next_due()).min()
    }

    fn put_back(&mut self, order: Order) {
        let Some(running) = self.running.remove(&order.id) else { return };
        self.unclaim(&running);
        for place in running.places {
            self.work.set(place, State::Missing, running.began);
        }
        match self.peer_mut(order.source()) {
            Some(peer) => peer.in_flight -= 1,
            None => self.origin.in_flight -= 1,
        }
    }

    fn ended(&mut self, order: Order, ended: Ended, facts: &Facts<'_>, random: &mut StdRng) -> After {
        if order.source() < self.origin.count {
            self.ended_at_origin(order, ended, facts, random)
        } else {
            self.ended_at_peer(&order, ended, facts, random)
        }
    }

    fn hedge(&self, order: &Order, extent: u64, now: Instant) -> Option<usize> {
        if self.swaps() {
            // Links are full: a second copy would come in place of a first one. What is too slow is taken back.
            return None;
        }
        let place = *self.work.places(order.file, &(extent..extent + 1)).first()?;
        let extent = self.work.get(place);
        let can = |&at: &usize| {
            let peer = &self.peers[at];
            self.origin.count + at != order.source()
                && peer.may_give(extent.number, now)
                && peer.rests(now).is_none()
                && !peer.is_late(now)
        };
        let soonest =
            |left: &usize, right: &usize| self.peers[*left].expected_s().total_cmp(&self.peers[*right].expected_s());
        let peer = (0..self.peers.len()).filter(can).min_by(soonest).map(|at| self.origin.count + at);
        // A second copy of what others load is none of the origin's business.
        let is_alone = self.owners.count() == 1;
        let replica = || {
            let has_it = self.origin.count > 0 && !extent.is_lost;
            (has_it && is_alone).then(|| (order.source() + 1) % self.origin.count)
        };
        peer.or_else(replica)
    }

    fn heard(&mut self, news: News<'_>, now: Instant) {
        let extents = self.extents;
        let source = match &news {
            News::Joined { is_near, member } => {
                let (start, most) = (self.bounds.in_flight_start, self.bounds.in_flight_max);
                let config = FetchConfig {
                    concurrency_start: start,
                    concurrency_min: 1,
                    concurrency_max: most,
                    ..self.config.clone()
                };
                return self.peers.push(Peer::new(extents, *member, *is_near, &config, now));
            }
            News::Looked { is_alone } => {
                self.awaits_peers = false;
                if *is_alone {
                    self.outside.be_alone();
                }
                return;
            }
            News::Own(member) => {
                self.owners = Owners::new(*member);
                self.has_new_members = true;
                return;
            }
            News::Strangers(members) => {
                self.strangers = members.to_vec();
                self.has_new_members = true;
                return;
            }
            News::HedgeFailed { source, problem } if !is_ours(problem) => {
                let is_busy = matches!(problem, SourceError::Throttled { .. } | SourceError::Taken { .. });
                if self.peer(*source).is_some() && !is_busy {
                    self.blame(*source, problem, Duration::from_millis(self.config.backoff_base_ms), now);
                }
                return;
            }
            News::HedgeFailed { .. } => return,
            News::Full { source, .. }
            | News::Added { source, .. }
            | News::Claimed { source, .. }
            | News::Unclaimed { source, .. }
            | News::Role { source, .. }
            | News::Left { source } => *source,
        };
        let Some(peer) = self.peer_mut(source).filter(|peer| peer.is_live()) else { return };
        let (was_here, swapped) = (peer.standing, peer.swaps());
        let mut brought = Vec::new();
        match news {
            News::Full { bitmap, .. } if bitmap.extents() == extents => peer.hear_full(bitmap),
            News::Added { numbers, .. } => brought = peer.hear_added(numbers, now),
            News::Claimed { numbers, .. } => peer.hear_claims(numbers, now),
            News::Unclaimed { numbers, .. } => peer.hear_unclaims(numbers),
            News::Role { role, .. } => peer.hear_role(role),
            News::Left { .. } => peer.leave(),
            _ => {}
        }
        self.has_new_members |= (peer.standing, peer.swaps()) != (was_here, swapped);
        brought.into_iter().for_each(|took| self.outside.took(took, now));
    }

    fn observe(&mut self, landed: &[u64], now: Instant) {
        let (origin, peers) = landed.split_at(self.origin.count.min(landed.len()));
        let wants_more = self.work.missing_count() > 0;
        for (peer, &bytes) in self.peers.iter_mut().zip(peers) {
            let is_full = wants_more && peer.in_flight >= peer.window.size();
            peer.window.observe(now, bytes, is_full);
        }
        let is_full = wants_more && self.origin.in_flight >= self.origin_max();
        let (all, origin) = (landed.iter().sum(), origin.iter().sum());
        self.origin.window.observe(now, origin, is_full);
        if all > self.landed.0 {
            self.landed = (all, now);
        }
        // An extent that a peer refuses again and again is with that peer whenever it is looked at.
        let is_wanted = self.work.awaited_at_front().any(|place| self.has_waited(place, now));
        // Beside others that load, extents come late at first, and only what is far below a link is slow.
        let (patience, is_slow) = match self.swaps() {
            true => (self.bounds.patience.max(self.patience.wanted), self.pace.is_slow()),
            false => (self.bounds.patience, true),
        };
        self.help.observe(Landed { all, origin }, is_wanted, is_slow, patience, now);
        self.pace.observe(all, now);
        self.work.look_ahead(self.pace.window(), now);
        self.pass_over(now);
    }

    fn claims(&mut self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.claims)
    }

    fn state_bytes(&self) -> usize {
        let peers: usize = self.peers.iter().map(Peer::state_bytes).sum();
        peers + self.strangers.len() * size_of::<MemberKey>() + self.owners.state_bytes() + self.work.state_bytes()
    }

    fn departed(&mut self) -> Vec<(usize, Departure)> {
        std::mem::take(&mut self.departed)
    }

    fn neighbours(&self) -> usize {
        self.peers.iter().filter(|peer| peer.standing == Standing::Here).count()
    }

    fn is_done(&self) -> bool {
        self.work.is_done()
    }

    fn concurrency(&self) -> usize {
        let peers = self.peers.iter().filter(|peer| peer.standing == Standing::Here);
        let origin = if self.origin.in_flight > 0 { self.origin.window.size() } else { 0 };
        peers.map(|peer| peer.window.size()).sum::<usize>() + origin
    }
}

/// Returns true if the failure is of this machine, whoever sent the bytes.
fn is_ours(problem: &SourceError) -> bool {
    matches!(problem, SourceError::Landing(LandingError::Keep { .. }))
}

fn ours(problem: SourceError, facts: &Facts<'_>) -> After {
    let (object, range) = (facts.object.to_owned(), facts.missing.clone());
    After::Fail(FetchError::Permanent { object, range, source: Box::new(problem) })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]
mod simulation;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
mod tests;
