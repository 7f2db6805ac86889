//! A simulated engine beside a simulated sender: what the governor finds, how fast, and what it never does.

use super::*;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// An engine whose steps are slowed in proportion to the rate that weights are sent at.
struct Engine {
    now: Duration,
    step: Duration,
    /// The slowdown at the full link.
    harm: f64,
    noise: f64,
    link: f64,
    random: StdRng,
}

/// The course of a simulation: for each tick its time, the rate and the slowdown.
struct Course {
    ticks: Vec<(Duration, f64, f64)>,
    governor: Governor,
}

impl Engine {
    fn new(seed: u64, step_ms: u64, harm: f64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { now: Duration::ZERO, step: Duration::from_millis(step_ms), harm, noise: 0.03, link: LINK, random }
    }

    /// Steps until `until` with weights being sent at `rate`.
    fn steps(&mut self, rate: f64, until: Duration) -> Vec<StepSeen> {
        let mut steps = Vec::new();
        while self.now < until {
            let noise = 1.0 + self.noise * (self.random.random::<f64>() + self.random.random::<f64>() - 1.0);
            let took = self.step.mul_f64(noise * (1.0 + self.harm * rate / self.link));
            self.now += took;
            steps.push(StepSeen { engine: 0, ended: self.now, took, decode_tokens: 4, prompt_tokens: 0 });
        }
        steps
    }

    fn run(mut self, seconds: u32) -> Course {
        let (mut governor, mut rate, mut ticks, mut pending) = (Governor::default(), 0.0, Vec::new(), Vec::new());
        for tick in 1..=seconds * 10 {
            let now = TICK * tick;
            pending.extend(self.steps(rate, now));
            // A step that began in this tick may end in the next one.
            let (ended, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|step| step.ended <= now);
            pending = later;
            let sent_bytes = to_bytes(rate * TICK.as_secs_f64());
            let seen = Seen { steps: &ended, waiting: 0, is_idle: false, sent_bytes };
            rate = govern(&mut governor, &seen, now).0 as f64;
            ticks.push((now, rate, 1.0 + self.harm * rate / self.link));
        }
        Course { ticks, governor }
    }
}

impl Course {
    /// The mean of the last half, pauses included.
    fn late(&self, of: impl Fn(&(Duration, f64, f64)) -> f64) -> f64 {
        let late = &self.ticks[self.ticks.len() / 2..];
        late.iter().map(of).sum::<f64>() / late.len() as f64
    }

    fn late_rates(&self) -> Vec<f64> {
        self.ticks[self.ticks.len() / 2..].iter().map(|tick| tick.1).filter(|rate| *rate > 0.0).collect()
    }
}

#[test]
fn harmless_sending_soon_has_the_link() {
    for seed in 0..8 {
        let course = Engine::new(seed, 20, 0.0).run(60);
        let full = course.ticks.iter().find(|tick| tick.1 >= 0.99 * LINK).map(|tick| tick.0);
        assert!(full.is_some_and(|after| after < Duration::from_secs(45)), "seed {seed}: {full:?}");
        let share = course.late(|tick| tick.1) / LINK;
        assert!(share > 0.75, "seed {seed}: {share}");
    }
}

#[test]
fn harmful_sending_settles_where_it_is_tolerable() {
    for (seed, harm) in (0..24).map(|seed| (seed, [0.06, 0.1, 0.2, 0.5][seed as usize % 4])) {
        let course = Engine::new(seed, 20, harm).run(120);
        let slowdown = course.late(|tick| tick.2);
        assert!(slowdown <= 1.05, "seed {seed}, harm {harm}: {slowdown}");
        let rate = course.late(|tick| tick.1) / LINK;
        assert!(rate * harm > 0.005, "seed {seed}, harm {harm}: it gave up, at {rate}");
    }
}

#[test]
fn a_settled_rate_swings_within_bounds() {
    for seed in 0..8 {
        let rates = Engine::new(seed, 20, 0.1).run(240).late_rates();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let far = rates.iter().filter(|rate| (**rate - mean).abs() > 0.6 * mean).count();
        assert!(far * 10 < rates.len(), "seed {seed}: {far} of {} far from {mean}", rates.len());
    }
}

#[test]
fn slow_steps_are_given_longer_pauses() {
    let course = Engine::new(1, 120, 0.0).run(300);
    assert!(course.governor.harm().is_some(), "no pause held a whole step");
    assert!(course.late(|tick| tick.1) > 0.5 * LINK);
}

#[test]
fn an_idle_engine_leaves_the_link_and_a_growing_queue_takes_it() {
    let mut governor = Governor::default();
    let seen = |waiting, is_idle| Seen { steps: &[], waiting, is_idle, sent_bytes: 1 };
    assert_eq!(govern(&mut governor, &seen(0, true), TICK), Rate::FREE);
    let first = governor.rate();
    let mut now = Duration::from_secs(10);
    for waiting in 1..10 {
        now += QUEUE_EVERY;
        govern(&mut governor, &seen(waiting, false), now);
    }
    assert!(governor.rate().0 < first.0 / 8, "{:?} of {first:?}", governor.rate());
    now += AGAIN * 2;
    govern(&mut governor, &seen(0, false), now);
    assert!(governor.rate() > Rate::NONE, "it tries again");
}

#[test]
fn requests_that_wait_for_a_step_take_nothing() {
    let mut governor = Governor::default();
    let first = governor.rate();
    for tick in 1..600 {
        let waiting = u32::from(tick % 7 == 0) * 3;
        govern(&mut governor, &Seen { steps: &[], waiting, is_idle: false, sent_bytes: 1 }, TICK * tick);
    }
    assert_eq!(governor.rate(), first);
}

proptest! {
    #[test]
    fn whatever_is_seen_the_rate_is_within_the_link(
        calls in prop::collection::vec((0_u64..3_000, 0_u32..4, any::<bool>(), 0_u64..1 << 30, 0_u64..1_000), 1..200),
    ) {
        let (mut governor, mut now) = (Governor::default(), Duration::ZERO);
        for (after_ms, waiting, is_idle, sent_bytes, took_ms) in calls {
            now += Duration::from_millis(after_ms);
            let step = StepSeen { engine: 0, ended: now, took: Duration::from_millis(took_ms), decode_tokens: 1, prompt_tokens: 0 };
            let rate = govern(&mut governor, &Seen { steps: &[step], waiting, is_idle, sent_bytes }, now);
            prop_assert!(is_idle == (rate == Rate::FREE));
            prop_assert!(is_idle || rate.0 as f64 <= governor.link);
            prop_assert!(governor.spans.len() <= SPANS_MAX);
        }
    }

    #[test]
    fn steps_without_sending_alone_say_nothing_of_harm(times in prop::collection::vec(1_u64..100, 0..300)) {
        let mut governor = Governor::default();
        for (index, took) in (1..).zip(times) {
            let now = TICK * index;
            let step = StepSeen { engine: 0, ended: now, took: Duration::from_millis(took), decode_tokens: 1, prompt_tokens: 0 };
            govern(&mut governor, &Seen { steps: &[step], waiting: 0, is_idle: false, sent_bytes: 0 }, now);
        }
        prop_assert_eq!(governor.harm(), None);
        prop_assert_eq!(governor.rate(), Governor::default().rate());
    }
}
