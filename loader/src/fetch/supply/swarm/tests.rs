//! Whole loads over the pure value, in simulated time: sources that refuse, lie, die, stall, boast and crawl.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng};
use tokio::sync::mpsc;
use wire::peers::{Bitmap, Role};

use super::*;
use crate::fetch::stall::Stall;

const EXTENTS: u64 = 150;
const TICK: Duration = Duration::from_millis(50);

/// The ways of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An extent in so many milliseconds.
    Honest(u64),
    /// Wrong bytes.
    Lies,
    /// It breaks every connection.
    Breaks,
    /// It never sends a byte.
    Stalls,
    /// It is always busy.
    Refuses,
    /// It is busy every other time.
    OftenRefuses,
    /// It has nothing of what it says.
    Boasts,
    /// It forbids.
    Forbids,
    /// It never says what it has.
    IsMute,
    /// It has the first half.
    Half,
    /// It is gone after so many milliseconds, in the middle of everything.
    Dies(u64),
    /// It sends so slowly that an extent takes an hour, and never stops.
    Drips,
    /// It has given the first half to others already.
    GaveHalf,
    /// It serves for so many milliseconds, and is busy from then on.
    Turns(u64),
}

/// The events of a run.
#[derive(Debug)]
struct Run {
    ended: Result<(), FetchError>,
    seconds: f64,
    /// Extents that came whole and right, by source.
    served: Vec<u64>,
    asked: Vec<u64>,
    departed: Vec<(usize, Departure)>,
}

struct Simulation {
    swarm: Swarm,
    origin: Option<Way>,
    ways: Vec<Way>,
    begin: Instant,
    now: Instant,
    random: StdRng,
    /// The ends of attempts: when, of which order, and whether it was recalled.
    flying: Vec<(Instant, Order)>,
    landed: BTreeSet<u64>,
    bytes: Vec<u64>,
    run: Run,
}

fn neighbours(in_flight_max: usize, own: u64) -> Neighbours {
    let bounds = NeighbourBounds { in_flight_start: 2, in_flight_max, patience: Duration::from_secs(1) };
    let (_, events) = mpsc::channel(1);
    let (dismissed, _) = mpsc::channel(1);
    Neighbours {
        firsts: vec![0],
        extents: EXTENTS as u32,
        own: MemberKey(own),
        bounds,
        claims: std::sync::Arc::default(),
        events,
        dismissed,
    }
}

fn full(extents: impl Iterator<Item = u64>) -> Bitmap {
    let mut bitmap = Bitmap::new(EXTENTS as u32);
    extents.for_each(|extent| assert!(bitmap.insert(extent as u32)));
    bitmap
}

impl Simulation {
    fn new(origin: Option<Way>, ways: &[Way], seed: u64) -> Self {
        let begin = Instant::now();
        let fetches: Vec<Fetch> = (0..EXTENTS)
            .step_by(2)
            .map(|at| Fetch { file: 0, extents: at..(at + 2).min(EXTENTS), first_tensor: 0 })
            .collect();
        let origin_count = usize::from(origin.is_some());
        let mut swarm =
            Swarm::new(&fetches, &neighbours(8, u64::MAX - seed), origin_count, &FetchConfig::default(), begin);
        for (at, way) in ways.iter().enumerate() {
            let source = origin_count + at;
            swarm.heard(News::Joined { is_near: at % 2 == 0, member: MemberKey(at as u64) }, begin);
            let has = match way {
                Way::IsMute => continue,
                Way::Half => full(0..EXTENTS / 2),
                _ => full(0..EXTENTS),
            };
            swarm.heard(News::Full { source, bitmap: has }, begin);
            swarm.heard(News::Role { source, role: Role::Serving }, begin);
        }
        swarm.heard(News::Looked { is_alone: false }, begin);
        let sources = origin_count + ways.len();
        let run = Run {
            ended: Ok(()),
            seconds: 0.0,
            served: vec![0; sources],
            asked: vec![0; sources],
            departed: Vec::new(),
        };
        let random = StdRng::seed_from_u64(seed);
        let (landed, bytes) = (BTreeSet::new(), vec![0; sources]);
        Self { swarm, origin, ways: ways.to_vec(), begin, now: begin, random, flying: Vec::new(), landed, bytes, run }
    }

    fn way(&self, source: usize) -> Way {
        let origin_count = usize::from(self.origin.is_some());
        self.origin.filter(|_| source == 0).unwrap_or_else(|| self.ways[source - origin_count])
    }

    /// How long an attempt takes at its source.
    fn takes(&mut self, order: &Order) -> Duration {
        let extents = order.extents.end - order.extents.start;
        Duration::from_millis(match self.way(order.source()) {
            Way::Honest(millis) => millis * extents,
            Way::Half | Way::Dies(_) | Way::Lies | Way::Turns(_) | Way::GaveHalf => 5 * extents,
            Way::Drips => 3_600_000,
            Way::Breaks | Way::Refuses | Way::OftenRefuses | Way::Boasts | Way::Forbids | Way::IsMute => 1,
            Way::Stalls => 3_000,
        })
    }

    fn ended(&mut self, order: &Order) -> Ended {
        let source = order.source();
        let is_dead = |millis| self.now > self.begin + Duration::from_millis(millis);
        let transient = || {
            let (url, name, problem) = ("peer://x".to_owned(), "f".to_owned(), "reset".to_owned());
            Ended::Failed(SourceError::Transient { url, name, problem, source: None })
        };
        let refusal = || {
            let (url, name, retry_after) = ("peer://x".into(), "f".into(), Some(Duration::from_millis(20)));
            Ended::Failed(SourceError::Throttled { url, name, status: 503, retry_after })
        };
        match self.way(source) {
            Way::Honest(_) | Way::Half => Ended::Complete,
            Way::Lies => Ended::Failed(SourceError::Landing(LandingError::Corrupt {
                object: "f".into(),
                range: order.extents.start * EXTENT_BYTES..(order.extents.start + 1) * EXTENT_BYTES,
                source_url: "peer://x".into(),
                found: "a".into(),
                expected: "b".into(),
            })),
            Way::Dies(millis) if is_dead(millis) => transient(),
            Way::Dies(_) => Ended::Complete,
            Way::Breaks | Way::Boasts | Way::IsMute => transient(),
            Way::Stalls => Ended::Stalled(Stall::FirstByte),
            Way::OftenRefuses if self.random.random_bool(0.5) => Ended::Complete,
            Way::Turns(millis) if !is_dead(millis) => Ended::Complete,
            Way::Refuses | Way::OftenRefuses | Way::Turns(_) => refusal(),
            Way::GaveHalf if order.extents.start < EXTENTS / 2 => {
                let (url, name, retry_after) = ("peer://x".into(), "f".into(), Duration::from_secs(5));
                Ended::Failed(SourceError::Taken { url, name, retry_after })
            }
            Way::Drips | Way::GaveHalf => Ended::Complete,
            Way::Forbids => Ended::Failed(SourceError::NotFound { url: "peer://x".into(), name: "f".into() }),
        }
    }

    /// Plays the load to its end.
    fn play(mut self) -> Run {
        let mut tick = self.begin;
        loop {
            let due = match self.start() {
                Ok(due) => due,
                Err(error) => {
                    self.run.ended = Err(error);
                    break;
                }
            };
            if self.flying.is_empty() && self.swarm.is_done() {
                break;
            }
            if self.now >= tick {
                tick = self.now + TICK;
                self.swarm.observe(&self.bytes, self.now);
            }
            let next = self.flying.iter().map(|(at, _)| *at).chain(due).filter(|at| *at > self.now).min();
            self.now = next.map_or(tick, |next| next.min(tick));
            while let Some(at) = self.flying.iter().position(|(at, _)| *at <= self.now) {
                let (_, order) = self.flying.swap_remove(at);
                let ended = self.ended(&order);
                if let Err(error) = self.settle(order, ended) {
                    self.run.ended = Err(error);
                    break;
                }
            }
            if self.run.ended.is_err() || self.now > self.begin + Duration::from_secs(3_600) {
                break;
            }
        }
        self.run.seconds = (self.now - self.begin).as_secs_f64();
        assert!(self.run.ended.is_err() || self.landed.len() as u64 == EXTENTS, "it ends with everything or an error");
        self.run
    }

    fn start(&mut self) -> Result<Option<Instant>, FetchError> {
        loop {
            let landed = &self.landed;
            let room = Room { is_there: &|_, extent| landed.contains(&extent) };
            match self.swarm.next(&room, self.now, &mut self.random) {
                Next::Order(order) => self.begin_order(order),
                Next::Recall(id) => {
                    let at = self.flying.iter().position(|(_, order)| order.id == id).expect("it was given out");
                    let (_, order) = self.flying.swap_remove(at);
                    self.settle(order, Ended::Recalled)?;
                }
                Next::Wait => return Ok(self.swarm.due(self.now)),
                Next::Fail(error) => return Err(error),
            }
        }
    }

    fn begin_order(&mut self, order: Order) {
        let source = order.source();
        let others = self.flying.iter().filter(|(_, other)| other.source() == source).count();
        let is_origin = self.origin.is_some() && source == 0;
        assert!(others < if is_origin { 32 } else { 8 }, "no source is asked beyond its bound");
        assert!(
            self.flying
                .iter()
                .all(|(_, other)| other.extents.end <= order.extents.start || order.extents.end <= other.extents.start),
            "no two attempts have one extent"
        );
        assert!(order.extents.clone().any(|extent| !self.landed.contains(&extent)), "nothing is asked for twice");
        if !is_origin {
            assert!(!self.run.departed.iter().any(|(gone, _)| *gone == source), "who is dismissed is not asked");
            let has = if self.way(source) == Way::Half { EXTENTS / 2 } else { EXTENTS };
            assert!(order.extents.end <= has, "who lacks an extent is not asked for it");
            assert_ne!(self.way(source), Way::IsMute);
        }
        self.run.asked[source] += 1;
        let end = self.now + self.takes(&order);
        self.flying.push((end, order));
    }

    fn settle(&mut self, order: Order, ended: Ended) -> Result<(), FetchError> {
        let (source, extents) = (order.source(), order.extents.clone());
        let has_come = matches!(ended, Ended::Complete);
        let count = extents.end - extents.start;
        if has_come {
            self.landed.extend(extents.clone());
            self.run.served[source] += count;
            self.bytes[source] += count * EXTENT_BYTES;
        }
        let first = extents.clone().find(|extent| !self.landed.contains(extent));
        let end = extents.end * EXTENT_BYTES;
        let facts = Facts {
            now: self.now,
            object: "f",
            url: "peer://x",
            missing: first.map_or(end..end, |first| first * EXTENT_BYTES..end),
            brought: if has_come { count * EXTENT_BYTES } else { 0 },
            round_trip: Duration::from_millis(1),
            landed: &self.bytes,
        };
        let after = self.swarm.ended(order, ended, &facts, &mut self.random);
        self.run.departed.extend(self.swarm.departed());
        match after {
            After::Fail(error) => Err(error),
            After::Done => {
                assert!(facts.missing.is_empty());
                Ok(())
            }
            After::Keep | After::Release => Ok(()),
        }
    }
}

fn play(origin: Option<Way>, ways: &[Way]) -> Run {
    Simulation::new(origin, ways, 7).play()
}

const HONEST: Way = Way::Honest(10);

#[test]
fn peers_bring_everything_and_the_origin_is_not_asked() {
    let run = play(Some(HONEST), &[HONEST; 4]);
    assert!(run.ended.is_ok());
    assert_eq!((run.asked[0], run.served.iter().sum::<u64>()), (0, EXTENTS));
    assert!(run.served[1..].iter().all(|served| (25..=50).contains(served)), "striped: {run:?}");
}

#[test]
fn extents_come_in_their_order_from_peers_that_serve() {
    let mut simulation = Simulation::new(None, &[HONEST; 2], 7);
    simulation.start().expect("it starts");
    let asked: BTreeSet<u64> = simulation.flying.iter().map(|(_, order)| order.extents.start).collect();
    assert_eq!(asked, (0..4).collect());
}

#[test]
fn a_liar_is_asked_no_more_and_fails_nothing() {
    let run = play(Some(HONEST), &[Way::Lies, HONEST, Way::Lies]);
    assert!(run.ended.is_ok());
    assert!(run.asked[1] <= 2 && run.asked[3] <= 2, "those that were under way: {run:?}");
    let banned: Vec<_> = run.departed.iter().filter(|(_, how)| *how == Departure::Banned).collect();
    assert_eq!(banned.len(), 2, "each is banned once: {run:?}");
}

#[test]
fn only_liars_leave_everything_to_the_origin_and_without_one_the_load_fails() {
    let run = play(Some(HONEST), &[Way::Lies; 8]);
    assert!(run.ended.is_ok());
    assert_eq!(run.served[0], EXTENTS);
    let run = play(None, &[Way::Lies; 8]);
    assert!(matches!(run.ended, Err(FetchError::NoPeer { .. })), "{run:?}");
}

#[test]
fn a_corrupt_origin_fails_the_load_only_where_no_peer_has_the_extent() {
    assert!(play(Some(Way::Lies), &[HONEST]).ended.is_ok());
    assert!(matches!(play(Some(Way::Lies), &[]).ended, Err(FetchError::Corrupt { .. })));
    let run = play(Some(Way::Lies), &[Way::Half]);
    assert!(run.ended.is_err() && run.served[1] > 0, "{run:?}");
}

#[test]
fn a_peer_that_is_slow_loses_its_work_to_others() {
    let clean = play(None, &[HONEST; 4]).seconds;
    let run = play(None, &[HONEST, HONEST, HONEST, Way::Honest(1_000)]);
    assert!(run.ended.is_ok());
    // Three quarters of the peers, and what was asked of the slow one once more.
    assert!(run.seconds <= clean * 4.0 / 3.0 + 0.6, "{run:?}, clean {clean}");
    assert!(run.served[3] <= 4, "{run:?}");
}

#[test]
fn a_peer_that_dies_costs_what_it_had_in_flight() {
    let run = play(Some(HONEST), &[HONEST, Way::Dies(50), HONEST]);
    assert!(run.ended.is_ok());
    assert_eq!(run.asked[0], 0, "the other peers do it");
    assert!(run.departed.contains(&(2, Departure::Failing)), "{run:?}");
}

#[test]
fn refusals_of_one_peer_slow_no_other() {
    let clean = play(None, &[HONEST; 2]).seconds;
    let run = play(None, &[HONEST, HONEST, Way::Refuses]);
    assert!(run.ended.is_ok() && run.seconds <= clean * 1.1, "{run:?}, clean {clean}");
    assert!(run.departed.is_empty(), "to be busy is no fault");
    assert!(run.asked[2] as f64 <= run.seconds / 0.02 + 4.0, "it is given the time it asked for: {run:?}");
}

#[test]
fn the_origin_helps_where_peers_are_too_slow() {
    let run = play(Some(HONEST), &[Way::Honest(2_000)]);
    assert!(run.ended.is_ok() && run.served[0] > EXTENTS / 2, "{run:?}");
    assert!(run.seconds < 60.0, "{run:?}");
}

#[test]
fn whoever_looks_around_first_leaves_most_of_the_origin_to_those_that_start_a_moment_later() {
    let asked = |is_alone| {
        let mut simulation = Simulation::new(Some(HONEST), &[], 7);
        simulation.swarm.heard(News::Looked { is_alone }, simulation.begin);
        simulation.start().expect("it starts");
        simulation.flying.iter().map(|(_, order)| order.extents.end - order.extents.start).sum::<u64>()
    };
    assert!(asked(false) <= 6, "{}", asked(false));
    assert!(asked(true) >= 20, "{}", asked(true));
}

#[test]
fn while_others_load_the_extents_are_different_ones() {
    let firsts = |seed| {
        let mut simulation = Simulation::new(None, &[HONEST; 4], seed);
        for source in 2..4 {
            simulation.swarm.heard(News::Role { source, role: Role::Loading }, simulation.begin);
            simulation.swarm.heard(News::Full { source, bitmap: full(0..10) }, simulation.begin);
        }
        simulation.start().expect("it starts");
        let whole = simulation.flying.iter().filter(|(_, order)| order.source() < 2);
        whole.map(|(_, order)| order.extents.start).collect::<BTreeSet<u64>>()
    };
    let asked = firsts(1);
    assert!(asked.iter().all(|extent| *extent >= 10), "first copies first: {asked:?}");
    assert_ne!(asked, firsts(2), "each load has its own order");
}

#[test]
fn an_extent_that_others_took_is_not_asked_for_again_at_once() {
    let mut simulation = Simulation::new(None, &[Way::Refuses, HONEST], 7);
    simulation.swarm.heard(News::Role { source: 1, role: Role::Loading }, simulation.begin);
    simulation.swarm.heard(News::Full { source: 1, bitmap: full(0..0) }, simulation.begin);
    for number in 0..12 {
        simulation.swarm.heard(News::Claimed { source: 1, numbers: &[number] }, simulation.begin);
    }
    simulation.start().expect("it starts");
    assert!(simulation.flying.iter().all(|(_, order)| order.extents.start >= 12), "{:?}", simulation.flying);
}

#[test]
fn peers_that_say_nothing_or_send_nothing_leave_everything_to_the_origin() {
    let run = play(Some(HONEST), &[Way::IsMute, Way::Stalls]);
    assert!(run.ended.is_ok() && run.served[0] == EXTENTS, "{run:?}");
}

#[test]
fn peers_that_drip_hold_nothing_for_long() {
    let run = play(Some(HONEST), &[Way::Drips; 8]);
    assert!(run.ended.is_ok() && run.served[0] == EXTENTS, "the origin: {run:?}");
    assert!(run.seconds < 120.0, "{run:?}");
    let run = play(None, &[Way::Drips, HONEST, Way::Drips]);
    assert!(run.ended.is_ok() && run.seconds < 30.0, "the other peer: {run:?}");
}

#[test]
fn a_refusal_that_names_others_concerns_one_extent() {
    let run = play(None, &[Way::Half, Way::GaveHalf]);
    assert!(run.ended.is_ok() && run.departed.is_empty(), "{run:?}");
    assert!(run.seconds < 4.0, "the second half is not waited for: {run:?}");
    assert!(run.served[1] >= EXTENTS / 2 && run.asked[1] < 3 * EXTENTS, "{run:?}");
}

fn any_way() -> impl Strategy<Value = Way> {
    prop_oneof![
        (1u64..200).prop_map(Way::Honest),
        Just(Way::Lies),
        Just(Way::Breaks),
        Just(Way::Stalls),
        Just(Way::Refuses),
        Just(Way::OftenRefuses),
        Just(Way::Boasts),
        Just(Way::Forbids),
        Just(Way::IsMute),
        Just(Way::Half),
        (0u64..2_000).prop_map(Way::Dies),
        (0u64..2_000).prop_map(Way::Turns),
        Just(Way::Drips),
        Just(Way::GaveHalf),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the others do, a load ends well while the origin or one honest holder lives, and it ends.
    #[test]
    fn a_load_ends_while_the_origin_or_one_honest_holder_lives(
        origin in prop::option::of(prop_oneof![
            Just(HONEST), Just(Way::Breaks), Just(Way::Lies), Just(Way::Stalls), Just(Way::Forbids), Just(Way::Refuses),
        ]),
        ways in prop::collection::vec(any_way(), 0..8),
        seed: u64,
    ) {
        let is_honest = |way: &Way| matches!(way, Way::Honest(_) | Way::OftenRefuses);
        let may_succeed = origin == Some(HONEST) || ways.iter().any(is_honest);
        let run = Simulation::new(origin, &ways, seed).play();
        if may_succeed {
            prop_assert!(run.ended.is_ok(), "{:?}", run);
        }
        prop_assert!(run.seconds < 1_200.0, "{:?}", run);
        let mut banned = BTreeMap::new();
        run.departed.iter().for_each(|(source, _)| *banned.entry(source).or_insert(0) += 1);
        prop_assert!(banned.values().all(|times| *times == 1), "{:?}", run);
        for (source, how) in &run.departed {
            let origin_count = usize::from(origin.is_some());
            let is_liar = ways[source - origin_count] == Way::Lies;
            prop_assert!(!is_honest(&ways[source - origin_count]), "no honest peer is dismissed: {:?}", run);
            prop_assert_eq!(is_liar, *how == Departure::Banned);
        }
    }
}
