//! The events of a simulated fleet, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::SeedableRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::fluid::Fluid;
use super::link::{Flow, Link};
use super::node::{Flight, Kind, Node};
use super::*;

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLI;
/// Between peers, one way.
const LATENCY: u64 = MILLI / 2;
/// Until the origin's first byte.
const ORIGIN_LATENCY: u64 = 30 * MILLI;
/// Bytes a second of one stream of the origin, and requests a second.
const STREAM: f64 = 96e6;
const REQUEST: u64 = SECOND / 500;
/// News are collected for so long.
const NEWS: u64 = 10 * MILLI;
const TICK: u64 = 50 * MILLI;
/// The answer of a busy peer that has no bound of its own.
const RETRY: Duration = Duration::from_millis(10);
/// The silence after which a peer is given up.
const SILENCE: u64 = 6 * SECOND;

/// The way an order of a peer ended without its extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Refused,
    Taken,
    Broken,
    Silent,
    Corrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start(usize),
    /// One finds another, and hears it from then on.
    Meet(usize, usize),
    /// A request reaches its peer.
    Ask {
        of: usize,
        from: usize,
        order: u64,
        attempt: u64,
    },
    /// A link has sent an extent, if it is still of this version; the origin's, without a number.
    Sent {
        at: Option<usize>,
        version: u64,
    },
    /// An extent has come, if the flows are still of this version.
    Came(u64),
    /// The origin begins to send.
    Send {
        at: usize,
        order: u64,
        attempt: u64,
        first: u64,
        end: u64,
    },
    /// An extent's last byte reaches the receiver's link.
    Arrive {
        at: usize,
        order: u64,
        attempt: u64,
        extent: u64,
        from: Option<usize>,
    },
    Landed {
        at: usize,
        order: u64,
        attempt: u64,
        extent: u64,
    },
    End {
        at: usize,
        order: u64,
        attempt: u64,
        why: Why,
    },
    Tell(usize),
    Tick(usize),
    Wake(usize),
    Die(usize),
    Gone(usize),
    Part,
    Silence,
    Heal,
}

/// A fleet.
pub(in super::super) struct World {
    setup: Setup,
    nodes: Vec<Node>,
    begin: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    attempts: u64,
    random: StdRng,
    origin: Link,
    /// The flows of all, where they share links.
    fluid: Option<Fluid>,
    origin_turn: u64,
    origin_extents: u64,
    refused: u64,
    wasted: u64,
    is_parted: bool,
    /// True if somebody's load has ended.
    has_news: bool,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn takes(rate: f64) -> u64 {
    nanos(EXTENT_BYTES as f64 / rate)
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test starts at some moment")]
    pub(in super::super) fn new(setup: Setup) -> Self {
        let begin = Instant::now();
        let Faults { slow, lying, claiming, refusing, .. } = setup.faults;
        let joining = setup.faults.joining;
        let mut kinds = vec![Kind::Honest];
        for (kind, count) in
            [(Kind::Lying, lying), (Kind::Slow, slow), (Kind::Claiming, claiming), (Kind::Refusing, refusing)]
        {
            kinds.extend(std::iter::repeat_n(kind, count));
        }
        kinds.resize(setup.workers, Kind::Honest);
        kinds.extend(std::iter::repeat_n(Kind::Honest, joining));
        let rate = |kind: &Kind| if *kind == Kind::Slow { setup.rate / 10.0 } else { setup.rate };
        let mut nodes: Vec<Node> =
            kinds.iter().enumerate().map(|(at, kind)| Node::new(at, *kind, rate(kind), &setup, begin)).collect();
        let warm = setup.warm.iter().enumerate();
        nodes.extend(warm.map(|(at, rate)| Node::new(kinds.len() + at, Kind::Warm, *rate, &setup, begin)));
        let random = StdRng::seed_from_u64(setup.seed);
        let origin = Link::new(setup.origin.unwrap_or(1.0), STREAM, true);
        let rates = nodes.iter().map(|node| node.rate).collect();
        let fluid = setup.shares.then(|| Fluid::new(rates, setup.origin.unwrap_or(1.0), STREAM));
        let mut world = Self {
            fluid,
            setup,
            nodes,
            begin,
            now: 0,
            events: BinaryHeap::new(),
            count: 0,
            attempts: 0,
            random,
            origin,
            origin_turn: 0,
            origin_extents: 0,
            refused: 0,
            wasted: 0,
            is_parted: false,
            has_news: false,
        };
        world.schedule(joining);
        world
    }

    fn schedule(&mut self, joining: usize) {
        let (workers, ideal) = (self.setup.workers, self.setup.ideal_s());
        for at in 0..self.nodes.len() {
            let start = match at {
                at if at < workers => self.random.random_range(0.0..=self.setup.spread_s),
                at if at < workers + joining => self.random.random_range(0.05..1.0) * ideal,
                _ => 0.0,
            };
            let delay = if at < workers + joining { MILLI } else { 0 };
            self.at(nanos(start) + delay, Event::Start(at));
        }
        let honest = (1..workers).filter(|&at| self.nodes[at].kind == Kind::Honest);
        for at in honest.choose_multiple(&mut self.random, self.setup.faults.killed) {
            let when = self.random.random_range(0.05..0.9) * ideal;
            self.at(nanos(when), Event::Die(at));
        }
        if let Some((from, to)) = self.setup.faults.partition {
            self.at(nanos(from), Event::Part);
            self.at(nanos(from) + SILENCE, Event::Silence);
            self.at(nanos(to), Event::Heal);
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time.max(self.now), self.count, event)));
    }

    fn instant(&self) -> Instant {
        self.begin + Duration::from_nanos(self.now)
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.is_parted && one % 2 != other % 2
    }

    /// Plays until every good worker is done, or for so many times the ideal.
    pub(in super::super) fn play(mut self) -> Outcome {
        let end = nanos(self.setup.ideal_s() * 50.0 + 1_200.0);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.now = now;
            if now > end {
                break;
            }
            self.handle(event);
            let is_over = |node: &Node| !node.loads() || !node.is_alive || node.has_ended();
            if std::mem::take(&mut self.has_news) && self.nodes.iter().all(is_over) {
                break;
            }
        }
        self.outcome()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(at) => self.start(at),
            Event::Meet(at, other) => self.meet(at, other),
            Event::Ask { of, from, order, attempt } => self.ask(of, from, order, attempt),
            Event::Sent { at, version } => self.sent(at, version),
            Event::Send { at, order, attempt, first, end } => {
                self.send(None, Flow::new(at, order, attempt, first..end));
            }
            Event::Came(version) => self.came(version),
            Event::Arrive { at, order, attempt, extent, from } => {
                let cut = from.is_some_and(|from| !self.nodes[from].is_alive || self.is_cut(at, from));
                if cut {
                    return self.at(self.now + SECOND, Event::End { at, order, attempt, why: Why::Silent });
                }
                let sender = from.map_or(0, |from| takes(self.nodes[from].up.rate()));
                let node = &mut self.nodes[at];
                let done = self.now.max(node.down.max(self.now.saturating_sub(sender)) + takes(node.rate));
                node.down = done;
                self.at(done, Event::Landed { at, order, attempt, extent });
            }
            Event::Landed { at, order, attempt, extent } => self.landed(at, order, attempt, extent),
            Event::End { at, order, attempt, why } => self.end(at, order, attempt, why),
            Event::Tell(at) => self.tell(at),
            Event::Tick(at) => self.tick(at),
            // Of several, the one that was set last counts.
            Event::Wake(at) if self.nodes[at].wakes == self.now => {
                self.nodes[at].wakes = u64::MAX;
                self.drive(at);
            }
            Event::Wake(_) => {}
            Event::Die(at) => self.die(at),
            Event::Gone(at) => self.gone(at),
            Event::Part => self.is_parted = true,
            Event::Silence => self.lose_the_parted(),
            Event::Heal => self.heal(),
        }
    }

    fn start(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        (node.is_on, node.began, node.wakes) = (true, now, u64::MAX);
        let (unknown, most) = (self.setup.faults.unknown, self.setup.neighbours_max);
        let others = (0..self.nodes.len()).filter(|other| *other != at);
        let known: Vec<usize> = others.filter(|_| unknown == 0.0 || !self.random.random_bool(unknown)).collect();
        let mut near: Vec<usize> = known.choose_multiple(&mut self.random, most).copied().collect();
        near.sort_unstable();
        let strangers: Vec<MemberKey> =
            known.iter().filter(|other| !near.contains(other)).map(|other| self.nodes[*other].member).collect();
        let instant = self.instant();
        self.nodes[at].supply.heard(News::Strangers(&strangers), instant);
        for other in near {
            if self.nodes[other].is_on {
                self.meet(at, other);
            } else {
                // It will be found when it has started.
                let later = now + self.random.random_range(100..300) * MILLI;
                self.at(later, Event::Meet(at, other));
            }
        }
        let is_alone = self.nodes.len() == 1;
        self.nodes[at].supply.heard(News::Looked { is_alone }, instant);
        if self.nodes[at].loads() {
            let first = now + self.random.random_range(0..TICK);
            self.at(first, Event::Tick(at));
            self.drive(at);
        }
    }

    fn meet(&mut self, at: usize, other: usize) {
        if !self.nodes[at].is_alive || !self.nodes[other].is_alive || self.nodes[at].source_of.contains_key(&other) {
            return;
        }
        if !self.nodes[other].is_on || self.is_cut(at, other) {
            return self.at(self.now + 250 * MILLI, Event::Meet(at, other));
        }
        let now = self.instant();
        let source = self.nodes[at].bytes.len();
        let heard = &self.nodes[other];
        let (role, bitmap, member) = (heard.role(), heard.has.clone(), heard.member);
        let claims: Vec<u32> = match heard.kind {
            Kind::Claiming => (0..self.setup.extents).collect(),
            _ => heard.claims.iter().copied().collect(),
        };
        let is_near = at % self.setup.zones == other % self.setup.zones;
        let node = &mut self.nodes[at];
        node.sources.push(other);
        node.bytes.push(0);
        node.source_of.insert(other, source);
        node.supply.heard(News::Joined { is_near, member }, now);
        node.supply.heard(News::Role { source, role }, now);
        node.supply.heard(News::Full { source, bitmap }, now);
        node.supply.heard(News::Claimed { source, numbers: &claims }, now);
        self.nodes[other].listeners.insert(at);
        if self.nodes[other].kind == Kind::Claiming {
            self.at(self.now + SECOND, Event::Tell(other));
        }
        self.drive(at);
    }

    /// Lets a worker do what it can.
    fn drive(&mut self, at: usize) {
        while self.nodes[at].is_under_way() {
            let now = self.instant();
            let Node { supply, has, random, .. } = &mut self.nodes[at];
            let has = &*has;
            let room = Room { is_there: &|_, extent| has.contains(extent as u32) };
            match supply.next(&room, now, random) {
                Next::Order(order) => self.begin(at, order),
                Next::Recall(id) => {
                    let flight = self.nodes[at].flying.remove(&id).expect("it was given out");
                    self.cancel(at, &flight);
                    self.settle(at, flight, Ended::Recalled);
                }
                Next::Wait => {
                    let due =
                        supply.due(now).map(|due| self.now + due.saturating_duration_since(now).as_nanos() as u64);
                    if let Some(due) = due.filter(|due| *due > self.now && *due < self.nodes[at].wakes) {
                        self.nodes[at].wakes = due;
                        self.at(due, Event::Wake(at));
                    }
                    break;
                }
                Next::Fail(error) => self.nodes[at].failed = Some(error.to_string()),
            }
        }
        self.has_news |= self.nodes[at].has_ended();
        self.note_claims(at);
    }

    /// A recalled request's connection is closed.
    fn cancel(&mut self, at: usize, flight: &Flight) {
        let peer = flight.order.source().checked_sub(usize::from(self.setup.origin.is_some()));
        let (from, now) = (peer.map(|peer| self.nodes[at].sources[peer]), self.now);
        if let Some(fluid) = &mut self.fluid {
            fluid.cancel(flight.attempt, now);
            return self.await_flows();
        }
        if self.link(from).cancel(flight.attempt, now) {
            self.send_on(from);
        }
    }

    fn note_claims(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for (extent, is_claimed) in node.supply.claims() {
            if is_claimed {
                node.claims.insert(extent)
            } else {
                node.claims.remove(&extent)
            };
            node.changed.insert(extent);
        }
        let has_news = !node.changed.is_empty() || !node.added.is_empty();
        if !node.tells && has_news {
            node.tells = true;
            self.at(self.now + NEWS + LATENCY, Event::Tell(at));
        }
    }

    fn begin(&mut self, at: usize, order: Order) {
        self.attempts += 1;
        let (attempt, id, source, extents) = (self.attempts, order.id, order.source(), order.extents.clone());
        let node = &mut self.nodes[at];
        let own = node.flying.values().filter(|flight| flight.order.source() == source).count();
        assert!(node.flying.len() < 64 && own < 32, "requests in flight are bounded");
        assert!(extents.clone().any(|extent| !node.has.contains(extent as u32)), "nothing is asked for twice");
        let overlaps =
            |flight: &Flight| flight.order.extents.start < extents.end && extents.start < flight.order.extents.end;
        assert!(!node.flying.values().any(overlaps), "no two orders have one extent");
        let is_origin = self.setup.origin.is_some() && source == 0;
        node.flying.insert(id, Flight { order, attempt, brought: 0 });
        if is_origin {
            return self.ask_origin(at, id, attempt, extents);
        }
        let of = node.sources[source - usize::from(self.setup.origin.is_some())];
        self.at(self.now + LATENCY, Event::Ask { of, from: at, order: id, attempt });
    }

    fn ask_origin(&mut self, at: usize, order: u64, attempt: u64, extents: Range<u64>) {
        let is_dead = self.setup.faults.origin_dies.is_some_and(|when| self.now > nanos(when));
        let ratio = self.setup.faults.origin_refuses;
        if is_dead || (ratio > 0.0 && self.random.random_bool(ratio)) {
            let why = if is_dead { Why::Broken } else { Why::Refused };
            return self.at(self.now + ORIGIN_LATENCY, Event::End { at, order, attempt, why });
        }
        self.origin_turn = self.now.max(self.origin_turn) + REQUEST;
        let begin = self.origin_turn + ORIGIN_LATENCY;
        let has = &self.nodes[at].has;
        let first = extents.clone().find(|extent| !has.contains(*extent as u32)).unwrap_or(extents.end);
        self.at(begin, Event::Send { at, order, attempt, first, end: extents.end });
    }

    fn link(&mut self, at: Option<usize>) -> &mut Link {
        match at {
            Some(at) => &mut self.nodes[at].up,
            None => &mut self.origin,
        }
    }

    fn send(&mut self, from: Option<usize>, flow: Flow) {
        let now = self.now;
        if let Some(fluid) = &mut self.fluid {
            fluid.add(from, flow, now);
            return self.await_flows();
        }
        self.link(from).add(flow, now);
        self.send_on(from);
    }

    /// Waits for the next extent that shares its links with others.
    fn await_flows(&mut self) {
        let next = self.fluid.as_ref().and_then(|fluid| Some((fluid.next()?, fluid.version)));
        next.into_iter().for_each(|(next, version)| self.at(next, Event::Came(version)));
    }

    fn came(&mut self, version: u64) {
        let now = self.now;
        let Some(fluid) = self.fluid.as_mut().filter(|fluid| fluid.version == version) else { return };
        for (from, at, order, attempt, extent) in fluid.came(now) {
            self.origin_extents += u64::from(from.is_none());
            let is_cut = from.is_some_and(|from| !self.nodes[from].is_alive || self.is_cut(at, from));
            let event = match is_cut {
                true => (SECOND, Event::End { at, order, attempt, why: Why::Silent }),
                false => (LATENCY, Event::Landed { at, order, attempt, extent }),
            };
            self.at(now + event.0, event.1);
        }
        self.await_flows();
    }

    /// Waits for the next extent of a link.
    fn send_on(&mut self, at: Option<usize>) {
        let link = self.link(at);
        let version = link.version;
        if let Some(next) = link.next() {
            self.at(next, Event::Sent { at, version });
        }
    }

    fn sent(&mut self, at: Option<usize>, version: u64) {
        let now = self.now;
        if self.link(at).version != version {
            return;
        }
        for (to, order, attempt, extent) in self.link(at).sent(now) {
            self.origin_extents += u64::from(at.is_none());
            let latency = if at.is_none() { 0 } else { LATENCY };
            self.at(now + latency, Event::Arrive { at: to, order, attempt, extent, from: at });
        }
        self.send_on(at);
    }

    fn ask(&mut self, of: usize, from: usize, order: u64, attempt: u64) {
        let Some(flight) = self.nodes[from].flying.get(&order).filter(|flight| flight.attempt == attempt) else {
            return;
        };
        let extent = flight.order.extents.start;
        let number = extent as u32;
        let end = |world: &mut Self, why| {
            let wait = if why == Why::Silent { 3 * SECOND } else { LATENCY };
            world.at(world.now + wait, Event::End { at: from, order, attempt, why });
        };
        if self.is_cut(of, from) {
            return end(self, Why::Silent);
        }
        let queue = self.setup.queue;
        let under_way = match &self.fluid {
            Some(fluid) => fluid.count(of, from),
            None => self.nodes[of].up.count(from),
        };
        let node = &mut self.nodes[of];
        if !node.is_alive || !node.has.contains(number) || node.kind == Kind::Claiming {
            return end(self, Why::Broken);
        }
        if node.kind == Kind::Refusing || !node.has_room(under_way, number, queue) {
            let why = if node.given.contains(number) { Why::Taken } else { Why::Refused };
            self.refused += 1;
            return end(self, why);
        }
        if node.kind == Kind::Lying {
            return end(self, Why::Corrupt);
        }
        node.given.insert(number);
        self.send(Some(of), Flow::new(from, order, attempt, extent..extent + 1));
    }

    fn landed(&mut self, at: usize, order: u64, attempt: u64, extent: u64) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(flight) = node.flying.get_mut(&order).filter(|flight| flight.attempt == attempt) else {
            self.wasted += 1;
            return;
        };
        flight.brought += EXTENT_BYTES;
        node.bytes[flight.order.source()] += EXTENT_BYTES;
        if node.has.insert(extent as u32) {
            node.count += 1;
            node.added.push(extent as u32);
        } else {
            self.wasted += 1;
        }
        while node.has.contains(node.first) {
            node.first += 1;
        }
        if node.first >= self.setup.extents / 4 {
            node.quarter.get_or_insert(now - node.began);
        }
        let is_whole = flight.order.extents.clone().all(|extent| node.has.contains(extent as u32));
        if node.count == self.setup.extents && node.done.is_none() {
            node.done = Some(now);
        }
        if is_whole && let Some(flight) = node.flying.remove(&order) {
            self.settle(at, flight, Ended::Complete);
        }
        if self.nodes[at].done == Some(now) {
            self.serve(at);
        }
        self.drive(at);
    }

    /// A worker has everything.
    fn serve(&mut self, at: usize) {
        let now = self.instant();
        let listeners: Vec<usize> = self.nodes[at].listeners.iter().copied().collect();
        for other in listeners {
            if let Some(source) = self.nodes[other].source_of.get(&at).copied() {
                self.nodes[other].supply.heard(News::Role { source, role: Role::Serving }, now);
            }
        }
    }

    fn end(&mut self, at: usize, order: u64, attempt: u64, why: Why) {
        let node = &mut self.nodes[at];
        if node.flying.get(&order).is_none_or(|flight| flight.attempt != attempt) {
            return;
        }
        let Some(flight) = node.flying.remove(&order) else { return };
        let (url, name) = (String::new(), String::new());
        let range = flight.order.extents.start * EXTENT_BYTES..flight.order.extents.end * EXTENT_BYTES;
        let ended = match why {
            Why::Refused => Ended::Failed(SourceError::Throttled { url, name, status: 503, retry_after: Some(RETRY) }),
            Why::Taken => Ended::Failed(SourceError::Taken { url, name, retry_after: RETRY }),
            Why::Broken => Ended::Failed(SourceError::Transient { url, name, problem: "reset".into(), source: None }),
            Why::Silent => Ended::Stalled(Stall::FirstByte),
            Why::Corrupt => Ended::Failed(SourceError::Landing(LandingError::Corrupt {
                object: "f".into(),
                range,
                source_url: url,
                found: "a".into(),
                expected: "b".into(),
            })),
        };
        self.settle(at, flight, ended);
        self.drive(at);
    }

    fn settle(&mut self, at: usize, flight: Flight, ended: Ended) {
        let now = self.instant();
        let Flight { order, brought, .. } = flight;
        let node = &mut self.nodes[at];
        let end = order.extents.end * EXTENT_BYTES;
        let first = order.extents.clone().find(|extent| !node.has.contains(*extent as u32));
        let facts = Facts {
            now,
            object: "f",
            url: "peer://x",
            missing: first.map_or(end..end, |first| first * EXTENT_BYTES..end),
            brought,
            round_trip: Duration::from_millis(1),
            landed: &node.bytes,
        };
        match node.supply.ended(order, ended, &facts, &mut node.random) {
            After::Fail(error) => node.failed = Some(error.to_string()),
            After::Done => assert!(first.is_none(), "what is done has come"),
            After::Keep | After::Release => {}
        }
        let departed = node.supply.departed();
        for (source, _) in departed {
            self.replace(at, source - usize::from(self.setup.origin.is_some()));
        }
    }

    /// A peer is of no use: another one is looked for.
    fn replace(&mut self, at: usize, peer: usize) {
        let gone = self.nodes[at].sources[peer];
        self.nodes[gone].listeners.remove(&at);
        let open = (0..self.nodes.len())
            .filter(|other| *other != at && self.nodes[*other].is_alive && !self.nodes[at].sources.contains(other));
        if let Some(other) = open.choose(&mut self.random) {
            self.at(self.now + 250 * MILLI, Event::Meet(at, other));
        }
    }

    fn tell(&mut self, at: usize) {
        let now = self.instant();
        let node = &mut self.nodes[at];
        node.tells = false;
        if !node.is_alive {
            return;
        }
        let (added, mut changed) = (std::mem::take(&mut node.added), std::mem::take(&mut node.changed));
        if node.kind == Kind::Claiming {
            changed = (0..self.setup.extents).collect();
            node.claims = changed.clone();
            self.at(self.now + SECOND, Event::Tell(at));
        }
        let node = &self.nodes[at];
        let (claimed, unclaimed): (Vec<u32>, Vec<u32>) =
            changed.iter().partition(|extent| node.claims.contains(extent));
        let listeners: Vec<usize> = node.listeners.iter().copied().collect();
        for other in listeners {
            if self.is_cut(at, other) {
                continue;
            }
            let Some(source) = self.nodes[other].source_of.get(&at).copied() else { continue };
            let supply = &mut self.nodes[other].supply;
            supply.heard(News::Added { source, numbers: &added }, now);
            supply.heard(News::Claimed { source, numbers: &claimed }, now);
            supply.heard(News::Unclaimed { source, numbers: &unclaimed }, now);
            self.drive(other);
        }
    }

    fn tick(&mut self, at: usize) {
        if !self.nodes[at].is_under_way() {
            return;
        }
        let now = self.instant();
        let node = &mut self.nodes[at];
        node.supply.observe(&node.bytes, now);
        node.state_bytes = node.state_bytes.max(node.supply.state_bytes());
        self.at(self.now + TICK, Event::Tick(at));
        self.drive(at);
    }

    fn die(&mut self, at: usize) {
        self.nodes[at].is_alive = false;
        self.nodes[at].up.cut();
        let now = self.now;
        if let Some(fluid) = &mut self.fluid {
            fluid.cut(at, now);
            self.await_flows();
        }
        self.has_news = true;
        self.at(self.now + 100 * MILLI, Event::Gone(at));
    }

    /// Those that asked a dead one see that its connections are gone.
    fn gone(&mut self, at: usize) {
        let listeners: Vec<usize> = std::mem::take(&mut self.nodes[at].listeners).into_iter().collect();
        for other in listeners {
            self.lose(other, at);
            let peer = self.nodes[other].sources.iter().position(|source| *source == at);
            peer.into_iter().for_each(|peer| self.replace(other, peer));
        }
    }

    /// One hears another no more.
    fn lose(&mut self, at: usize, other: usize) {
        let now = self.instant();
        let Some(source) = self.nodes[at].source_of.remove(&other) else { return };
        self.nodes[at].supply.heard(News::Left { source }, now);
        let node = &self.nodes[at];
        let flights = node.flying.iter().filter(|(_, flight)| flight.order.source() == source);
        let flights: Vec<(u64, u64)> = flights.map(|(order, flight)| (*order, flight.attempt)).collect();
        for (order, attempt) in flights {
            self.end(at, order, attempt, Why::Broken);
        }
        self.drive(at);
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let cut = |at: usize| {
            let others = self.nodes[at].source_of.keys().filter(move |other| at % 2 != **other % 2);
            others.map(move |other| (at, *other))
        };
        let mut pairs: Vec<(usize, usize)> = (0..self.nodes.len()).flat_map(cut).collect();
        pairs.sort_unstable();
        pairs
    }

    fn lose_the_parted(&mut self) {
        if !self.is_parted {
            return;
        }
        for (at, other) in self.pairs() {
            self.nodes[other].listeners.remove(&at);
            self.lose(at, other);
            self.at(self.now + SECOND, Event::Meet(at, other));
        }
    }

    fn heal(&mut self) {
        self.is_parted = false;
        let now = self.instant();
        // What was held back by the network comes now.
        for (at, other) in self.pairs() {
            let (source, bitmap) = (self.nodes[at].source_of[&other], self.nodes[other].has.clone());
            self.nodes[at].supply.heard(News::Full { source, bitmap }, now);
            self.drive(at);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn outcome(self) -> Outcome {
        let ideal = self.setup.ideal_s();
        let is_counted = |node: &&Node| node.is_alive && matches!(node.kind, Kind::Honest | Kind::Refusing);
        let counted: Vec<&Node> = self.nodes.iter().filter(is_counted).collect();
        let last = counted.iter().filter_map(|node| node.done).max().unwrap_or(0);
        let begun = counted.iter().map(|node| node.began).max().unwrap_or(0);
        let mut quarters: Vec<u64> = counted.iter().filter_map(|node| node.quarter).collect();
        quarters.sort_unstable();
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let size = f64::from(self.setup.extents) * EXTENT_BYTES as f64;
        let used = |node: &&Node| Some(size / node.rate / seconds(node.done?.saturating_sub(node.began)));
        let mut used: Vec<f64> = counted.iter().filter_map(used).collect();
        used.sort_by(f64::total_cmp);
        let used_at = |part: usize| used.get(used.len() / part).copied().unwrap_or(f64::NAN);
        let each = f64::from(self.setup.extents) * counted.len().max(1) as f64;
        let loading = || self.nodes.iter().enumerate().filter(|(_, node)| node.loads() && node.is_alive && node.is_on);
        Outcome {
            last: seconds(last.saturating_sub(if self.setup.faults.joining > 0 { 0 } else { begun })) / ideal,
            quarter: quarters.get(quarters.len() / 2).map_or(f64::NAN, |quarter| seconds(*quarter) / ideal),
            used: (used_at(2), used_at(100)),
            origin: self.origin_extents as f64 / f64::from(self.setup.extents),
            refused: self.refused as f64 / each,
            wasted: self.wasted as f64 / each,
            state_bytes: self.nodes.iter().map(|node| node.state_bytes).max().unwrap_or(0),
            failed: loading().filter_map(|(at, node)| Some(format!("{at}: {}", node.failed.as_ref()?))).collect(),
            hanging: loading().filter(|(_, node)| node.is_under_way()).map(|(at, _)| at).collect(),
        }
    }
}

impl Node {
    fn has_ended(&self) -> bool {
        self.done.is_some() || self.failed.is_some()
    }
}
