//! Claims about every fleet, searched by seeds. A seed that fails is printed; keep it in [`KEPT`].

use rand::SeedableRng;

use super::*;

/// Seeds that failed once.
const KEPT: [u64; 1] = [700];

/// A fleet of at most so many workers, with faults of all kinds, that follows from a seed.
fn any(seed: u64, workers_max: usize, extents_max: u32) -> Setup {
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let workers = random.random_range(1..=workers_max);
    let rate = [50e6, 200e6, 1e9][random.random_range(0..3)];
    let mut setup = Setup::cold(workers, random.random_range(1..=extents_max), rate, seed);
    setup.warm = (0..random.random_range(0..4)).map(|_| rate / f64::from(random.random_range(1..20))).collect();
    if random.random_bool(0.7) {
        setup.warm.clear();
    }
    setup.queue = random.random_range(2..=8);
    setup.zones = random.random_range(1..=3);
    setup.neighbours_max = random.random_range(2..=24);
    setup.origin = (setup.warm.is_empty() || random.random_bool(0.7)).then(|| rate * random.random_range(0.1..4.0));
    if random.random_bool(0.5) {
        setup.spread_s = random.random_range(0.0..2.0);
    }
    let ideal = setup.ideal_s();
    let mut some = |ratio: f64, most: usize| if random.random_bool(ratio) { random.random_range(0..=most) } else { 0 };
    let most = workers / 3;
    setup.faults = Faults {
        slow: some(0.3, most),
        lying: some(0.3, most),
        claiming: some(0.3, most),
        refusing: some(0.2, most),
        killed: some(0.3, most),
        joining: some(0.3, most),
        ..Faults::default()
    };
    setup.workers =
        workers.max(1 + setup.faults.slow + setup.faults.lying + setup.faults.claiming + setup.faults.refusing);
    if random.random_bool(0.3) {
        setup.faults.origin_refuses = random.random_range(0.0..0.2);
    }
    if random.random_bool(0.3) {
        setup.faults.unknown = random.random_range(0.0..0.6);
    }
    if random.random_bool(0.2) {
        let from = random.random_range(0.0..ideal);
        setup.faults.partition = Some((from, from + random.random_range(0.0..20.0)));
    }
    if random.random_bool(0.1) {
        setup.faults.origin_dies = Some(random.random_range(0.0..ideal));
    }
    setup
}

/// Plays one fleet, and says what is wrong with it.
fn problem(setup: &Setup) -> Option<String> {
    let outcome = World::new(setup.clone()).play();
    let has_origin = setup.origin.is_some() && setup.faults.origin_dies.is_none();
    let has_holder = !setup.warm.is_empty()
        && setup.faults.unknown == 0.0
        && setup.faults.partition.is_none()
        && setup.workers + setup.warm.len() + setup.faults.joining <= setup.neighbours_max;
    if !outcome.hanging.is_empty() {
        return Some(format!("loads that do not end: {:?}", outcome.hanging));
    }
    if (has_origin || has_holder) && !outcome.failed.is_empty() {
        return Some(format!("loads that fail: {:?}", outcome.failed));
    }
    // 100 bytes a member; 64 claims and refusals of each of 256 peers that a load has met, and their bitmaps.
    let members = setup.workers + setup.warm.len() + setup.faults.joining;
    let extents = setup.extents as usize;
    let bound = members * 200 + members.min(256) * (1_024 + extents / 8 + 320 * 48) + extents * 512 + 512 * 200;
    (outcome.state_bytes > bound).then(|| format!("{} bytes of state, beyond {bound}", outcome.state_bytes))
}

fn search(seeds: Range<u64>, workers_max: usize, extents_max: u32) {
    for seed in seeds {
        let setup = any(seed, workers_max, extents_max);
        if let Some(problem) = problem(&setup) {
            panic!("seed {seed} of at most {workers_max} workers and {extents_max} extents: {problem}\n{setup:#?}");
        }
    }
}

#[test]
fn fleets_that_failed_once_end() {
    KEPT.into_iter().for_each(|seed| search(seed..seed + 1, 8, 60));
}

#[test]
fn every_load_of_a_fleet_ends_while_the_origin_or_a_holder_lives() {
    search(0..2_000, 8, 60);
}

/// Quarters of a hundred thousand fleets, for as many threads of the test runner.
fn search_quarter(quarter: u64) {
    search(quarter * 25_000..(quarter + 1) * 25_000, 32, 60);
}

#[test]
#[ignore = "long: evals/verification/run swarm"]
fn every_load_of_a_hundred_thousand_fleets_ends_first_quarter() {
    search_quarter(0);
}

#[test]
#[ignore = "long: evals/verification/run swarm"]
fn every_load_of_a_hundred_thousand_fleets_ends_second_quarter() {
    search_quarter(1);
}

#[test]
#[ignore = "long: evals/verification/run swarm"]
fn every_load_of_a_hundred_thousand_fleets_ends_third_quarter() {
    search_quarter(2);
}

#[test]
#[ignore = "long: evals/verification/run swarm"]
fn every_load_of_a_hundred_thousand_fleets_ends_last_quarter() {
    search_quarter(3);
}

#[test]
#[ignore = "long: evals/verification/run swarm"]
fn every_load_of_twenty_fleets_of_4096_ends() {
    for seed in 0..20 {
        let churn = |setup: &mut Setup| (setup.faults.killed, setup.faults.joining) = (200, 200);
        let problem = problem(&Setup::cold(4_096, 64, 1e9, seed).with(churn));
        assert!(problem.is_none(), "seed {seed} of 4,096 workers: {problem:?}");
    }
}
