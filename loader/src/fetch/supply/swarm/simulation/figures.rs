//! Figures of the schedule: how near to the ideal fleets of every size are, and what they cost.

use std::fmt::Write as _;

use super::*;

const GIB: f64 = (1 << 30) as f64;
/// The bench's links: 400 Mbit/s.
const BENCH: f64 = 48e6;
/// The same for many workers on one machine: 100 Mbit/s.
const SLOW: f64 = 12e6;

struct Row {
    name: String,
    seeds: u64,
    setup: Box<dyn Fn(u64) -> Setup>,
}

fn row(name: &str, seeds: u64, setup: impl Fn(u64) -> Setup + 'static) -> Row {
    Row { name: name.to_owned(), seeds, setup: Box::new(setup) }
}

/// The median and the worst of some runs.
struct Figures {
    last: f64,
    worst: f64,
    origin: f64,
    quarter: f64,
    used: (f64, f64),
    refused: f64,
    wasted: f64,
    state_bytes: usize,
    bad: usize,
}

fn figures(row: &Row) -> Figures {
    let runs: Vec<Outcome> = (1..=row.seeds).map(|seed| World::new((row.setup)(seed)).play()).collect();
    let median = |of: &dyn Fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        last: median(&|run| run.last),
        worst: runs.iter().map(|run| run.last).fold(0.0, f64::max),
        origin: median(&|run| run.origin),
        quarter: median(&|run| run.quarter),
        used: (median(&|run| run.used.0), median(&|run| run.used.1)),
        refused: median(&|run| run.refused),
        wasted: median(&|run| run.wasted),
        state_bytes: runs.iter().map(|run| run.state_bytes).max().unwrap_or(0),
        bad: runs.iter().map(|run| run.failed.len() + run.hanging.len()).sum(),
    }
}

#[expect(clippy::disallowed_methods, reason = "says how long a row took to play")]
fn print(rows: &[Row]) {
    let mut json = String::new();
    for row in rows {
        let begun = Instant::now();
        let of = figures(row);
        println!(
            "{:<34} last {:.3} (worst {:.3}) origin/F {:.3} quarter {:.3} links {:.2} {:.2} refused {:.2} wasted {:.4} state {} bad {} took {:.1?}",
            row.name,
            of.last,
            of.worst,
            of.origin,
            of.quarter,
            of.used.0,
            of.used.1,
            of.refused,
            of.wasted,
            of.state_bytes,
            of.bad,
            begun.elapsed()
        );
        let _ = write!(
            json,
            "{}\"{}\": {{\"last\": {:.4}, \"worst\": {:.4}, \"origin\": {:.4}, \"quarter\": {:.4}, \"links\": [{:.3}, {:.3}], \
             \"state_bytes\": {}}}",
            if json.is_empty() { "" } else { ", " },
            row.name,
            of.last,
            of.worst,
            of.origin,
            of.quarter,
            of.used.0,
            of.used.1,
            of.state_bytes
        );
    }
    println!("{{{json}}}");
}

fn all_faults(setup: &mut Setup) {
    setup.faults = Faults { slow: 1, lying: 1, killed: 1, origin_refuses: 0.01, ..Faults::default() };
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for workers in [1, 4, 8, 16, 64] {
        rows.push(row(&format!("N = {workers}"), 3, move |seed| Setup::cold(workers, 1024, GIB, seed)));
    }
    for workers in [4, 8, 16] {
        rows.push(row(&format!("bench, N = {workers}"), 5, move |seed| Setup::cold(workers, 286, BENCH, seed)));
    }
    rows.push(row("bench, N = 16, U = 4b", 5, |seed| {
        Setup::cold(16, 286, BENCH, seed).with(|s| s.origin = Some(4.0 * BENCH))
    }));
    rows.push(row("bench, N = 16, spread 1 s", 5, |seed| Setup::cold(16, 286, BENCH, seed).with(|s| s.spread_s = 1.0)));
    rows.push(row("bench, N = 16, all faults", 9, |seed| Setup::cold(16, 286, BENCH, seed).with(all_faults)));
    rows.push(row("bench, N = 16, one slow", 5, |seed| Setup::cold(16, 286, BENCH, seed).with(|s| s.faults.slow = 1)));
    rows.push(row("bench, N = 16, one claims in vain", 5, |seed| {
        Setup::cold(16, 286, BENCH, seed).with(|s| s.faults.claiming = 1)
    }));
    rows.push(row("bench, N = 16, a tenth unknown", 5, |seed| {
        Setup::cold(16, 286, BENCH, seed).with(|s| s.faults.unknown = 0.1)
    }));
    rows.push(row("N = 64, all faults", 3, |seed| Setup::cold(64, 1024, GIB, seed).with(all_faults)));
    let warm = |count: usize, rate: f64, workers: usize| {
        move |seed| Setup::cold(workers, 286, BENCH, seed).with(|setup| setup.warm = vec![BENCH * rate; count])
    };
    rows.push(row("bench, one warm, N = 1", 3, warm(1, 1.0, 1)));
    rows.push(row("bench, one warm, N = 8", 3, warm(1, 1.0, 8)));
    rows.push(row("bench, four warm of R / 4, N = 4", 5, warm(4, 0.25, 4)));
    rows.push(row("bench, four warm of R / 4, N = 16", 5, warm(4, 0.25, 16)));
    rows.push(row("bench, four warm, N = 4", 3, warm(4, 1.0, 4)));
    rows
}

#[test]
#[ignore = "a minute; prints"]
fn the_figures_of_small_fleets() {
    print(&rows());
}

#[test]
#[ignore = "prints"]
fn the_figures_of_the_bench() {
    let mut rows = Vec::new();
    for (workers, spread_s) in [(1, 0.0), (4, 0.0), (4, 0.5), (8, 0.5), (16, 0.5)] {
        rows.push(row(&format!("100 Mbit/s, N = {workers}, spread {spread_s}"), 5, move |seed| {
            Setup::cold(workers, 105, SLOW, seed).with(|s| (s.shares, s.spread_s) = (true, spread_s))
        }));
    }
    rows.push(row("400 Mbit/s, N = 4, spread 0.5", 3, |seed| {
        Setup::cold(4, 286, BENCH, seed).with(|s| (s.shares, s.spread_s) = (true, 0.5))
    }));
    rows.push(row("1 GiB/s, N = 16, spread 0.5", 1, |seed| {
        Setup::cold(16, 1024, GIB, seed).with(|s| (s.shares, s.spread_s) = (true, 0.5))
    }));
    // Kumar and Ross (2006): one seed and ten leechers, all with one rate; the least time is that of one link.
    rows.push(row("Kumar-Ross, one seed, ten loads", 3, |seed| {
        Setup::cold(10, 286, BENCH, seed).with(|s| (s.shares, s.origin, s.warm) = (true, None, vec![BENCH]))
    }));
    rows.push(row("400 Mbit/s, four warm of R / 4, N = 4", 3, |seed| {
        Setup::cold(4, 286, BENCH, seed).with(|s| (s.shares, s.warm) = (true, vec![BENCH / 4.0; 4]))
    }));
    print(&rows);
}

#[test]
#[ignore = "minutes; prints"]
fn the_figures_of_large_fleets() {
    let churn =
        |setup: &mut Setup| (setup.faults.killed, setup.faults.joining) = (setup.workers / 20, setup.workers / 20);
    print(&[
        row("N = 512", 1, |seed| Setup::cold(512, 1024, GIB, seed)),
        row("N = 512, churn", 1, move |seed| Setup::cold(512, 1024, GIB, seed).with(churn)),
        row("N = 4096, churn", 1, move |seed| Setup::cold(4096, 512, GIB, seed).with(churn)),
    ]);
}

#[test]
fn a_cold_fleet_finishes_at_the_speed_of_one_link_and_takes_each_byte_once() {
    for workers in [4, 8, 16] {
        let outcome = World::new(Setup::cold(workers, 286, BENCH, 1)).play();
        assert!(outcome.last <= 1.20 && outcome.origin <= 1.05, "{workers}: {outcome:?}");
    }
}

#[test]
fn a_cold_fleet_whose_connections_share_slow_links_takes_each_byte_once() {
    for seed in 1..=3 {
        let setup = Setup::cold(4, 105, SLOW, seed).with(|setup| (setup.shares, setup.spread_s) = (true, 0.5));
        let outcome = World::new(setup).play();
        assert!(outcome.last <= 1.25 && outcome.origin <= 1.03, "{outcome:?}");
    }
}

#[test]
fn a_warm_peer_at_the_full_rate_leaves_the_origin_idle() {
    for workers in [1, 4] {
        let setup = Setup::cold(workers, 286, BENCH, 1).with(|setup| setup.warm = vec![BENCH]);
        let outcome = World::new(setup).play();
        assert!(outcome.origin <= 0.03 && outcome.last <= 1.15, "{workers}: {outcome:?}");
    }
}

#[test]
fn slow_warm_peers_that_fill_a_link_together_leave_the_origin_idle() {
    let setup = Setup::cold(4, 286, BENCH, 1).with(|setup| setup.warm = vec![BENCH / 4.0; 4]);
    let outcome = World::new(setup).play();
    assert!(outcome.origin <= 0.03 && outcome.last <= 1.25, "{outcome:?}");
}

#[test]
fn faults_of_all_kinds_at_once_cost_a_quarter_at_most() {
    let mut lasts: Vec<f64> = (1..=3)
        .map(|seed| {
            let outcome = World::new(Setup::cold(16, 286, BENCH, seed).with(all_faults)).play();
            assert!(outcome.failed.is_empty() && outcome.hanging.is_empty(), "{outcome:?}");
            outcome.last
        })
        .collect();
    lasts.sort_by(f64::total_cmp);
    assert!(lasts[1] <= 1.25 && lasts[2] <= 1.5, "{lasts:?}");
}

#[test]
fn the_first_layers_come_first() {
    let outcome = World::new(Setup::cold(16, 286, BENCH, 1)).play();
    assert!(outcome.quarter <= 0.50, "{outcome:?}");
}
