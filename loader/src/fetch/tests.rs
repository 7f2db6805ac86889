//! Loads over a simulated link, in simulated time.

mod link;

use std::ops::Range;
use std::time::Duration;

use telemetry::metrics::Registry;
use telemetry::names;
use wire::extent::EXTENT_BYTES;

use super::*;
use crate::Region;
use crate::source::SourceError;
use link::{CHUNK_BYTES, CONTENT_BYTES, Digests, Fault, LinkSource, content, target};

const FETCH_BYTES: u64 = 2 * EXTENT_BYTES;
const CHUNK: u64 = CHUNK_BYTES as u64;
const LINK: u64 = 200_000_000;

/// One load of one file.
struct Load {
    sources: Vec<Arc<LinkSource>>,
    target: Target,
    keeper: Arc<Digests>,
    config: FetchConfig,
    budgets: Budgets,
    progress: Progress,
}

impl Load {
    fn new(bytes: u64, sources: Vec<LinkSource>, config: FetchConfig) -> Self {
        let (target, keeper) = target(bytes, sources.len());
        let sources = sources.into_iter().map(Arc::new).collect();
        let (budgets, progress) = (Budgets::new(&config), Progress::default());
        Self { sources, target, keeper, config, budgets, progress }
    }

    fn job(&self) -> Job {
        let count = extent::count(self.target.region.len());
        let fetches = (0..count).step_by(2).map(|at| at..(at + 2).min(count));
        let fetches = fetches.map(|extents| Fetch { file: 0, extents, first_tensor: 0 }).collect();
        let sources = self.sources.iter().map(|source| Arc::clone(source) as Arc<dyn Source>).collect();
        Job {
            fetches,
            targets: vec![self.target.clone()],
            sources,
            budgets: self.budgets.clone(),
            progress: self.progress.clone(),
            seed: 7,
        }
    }

    async fn run(&self) -> Result<Report, FetchError> {
        let metrics = Metrics::new(&Registry::new());
        let ended = run(self.job(), &self.config, &metrics).await;
        assert_eq!(self.budgets.in_flight().used(), 0, "every byte of the budget came back");
        assert!(self.sources.iter().all(|source| source.open() == 0), "no request outlives the load");
        ended
    }

    /// Runs the load to its end and checks that every byte is right and every bound was kept.
    async fn succeed(&self) -> Report {
        let report = self.run().await.expect("the load succeeds");
        let region = &self.target.region;
        let length = usize::try_from(region.len()).expect("a test's file is small");
        assert!(region.bytes().expect("it is complete") == &content()[..length], "every byte is right");
        let kept = self.keeper.kept();
        assert!(kept.values().all(|times| *times == 1), "every extent is kept once: {kept:?}");
        assert_eq!(kept.len() as u64, extent::count(region.len()));
        assert_eq!(report.bytes(), region.len());
        assert!(report.in_flight_max_bytes <= self.config.in_flight_bytes);
        assert!(report.concurrency_max <= self.config.concurrency_max);
        let hedged_max = (0.03 * region.len() as f64).max(self.config.hedge_floor_bytes as f64);
        assert!(report.hedged_bytes as f64 <= hedged_max, "{report:?}");
        assert_eq!((self.progress.snapshot().phase, self.progress.snapshot().bytes_done), (Phase::Done, region.len()));
        report
    }
}

fn single(bytes: u64, script: impl Fn(usize, &Range<u64>) -> Option<Fault> + Send + Sync + 'static) -> Load {
    Load::new(bytes, vec![LinkSource::new("https://origin/model", LINK, script)], FetchConfig::default())
}

fn nothing(_: usize, _: &Range<u64>) -> Option<Fault> {
    None
}

fn at_link_speed(bytes: u64) -> f64 {
    bytes as f64 / LINK as f64
}

#[tokio::test(start_paused = true)]
async fn a_clean_load_fills_the_link() {
    let bytes = CONTENT_BYTES - 12_345;
    let load = single(bytes, nothing);
    let report = load.succeed().await;
    assert!(at_link_speed(bytes) / report.seconds >= 0.97, "{report:?}");
    assert_eq!((report.retries, report.hedges, report.discarded_bytes, report.stalls), (0, 0, 0, 0));
    let asked = load.sources[0].asked();
    assert_eq!(asked[0].range, 0..FETCH_BYTES);
    assert!(asked.iter().all(|asked| asked.range.end - asked.range.start <= FETCH_BYTES && !asked.fresh));
}

#[tokio::test]
async fn what_the_disk_costs_is_counted() {
    let bytes = 2 * EXTENT_BYTES + 7;
    let directory = tempfile::tempdir().expect("a directory");
    let mut load = single(bytes, nothing);
    load.target.region = Region::create_file(&directory.path().join("weights"), bytes).expect("a file");
    let registry = Registry::new();
    let report = run(load.job(), &load.config, &Metrics::new(&registry)).await.expect("the load succeeds");
    assert!(report.disk_wait_seconds > 0.0, "{report:?}");
    let text = registry.render();
    let value = |name: &str| -> Option<f64> { text.lines().find_map(|line| line.strip_prefix(name))?.parse().ok() };
    // What a hedge brings is written twice.
    let written = value(&format!("{}{{how=\"page_cache\"}} ", names::LOADER_WRITTEN_BYTES.name));
    assert!(written.is_some_and(|written| written >= bytes as f64), "{text}");
    let waits = value(&format!("{}_count ", names::LOADER_DISK_WAIT_SECONDS.name));
    assert!(waits.is_some_and(|count| count >= 1.0), "{text}");
}

#[tokio::test(start_paused = true)]
async fn slow_connections_are_made_up_for_by_more_of_them() {
    let source = LinkSource::new("https://origin/model", LINK, nothing).per_connection(LINK / 16);
    let report = Load::new(CONTENT_BYTES, vec![source], FetchConfig::default()).succeed().await;
    assert!(report.concurrency_max >= 16, "{report:?}");
    assert!(at_link_speed(CONTENT_BYTES) / report.seconds >= 0.8, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn one_fault_of_each_kind_costs_little() {
    let clean = single(CONTENT_BYTES, nothing).succeed().await.seconds;
    for first in [0, 3, 11, 17, 23] {
        let faulty = single(CONTENT_BYTES, move |number, _| match number.checked_sub(first)? {
            0 => Some(Fault::Throttle(None)),
            4 => Some(Fault::Stall(1_500_000)),
            8 => Some(Fault::Reset(1_000_000)),
            10 => Some(Fault::WrongRange),
            12 => Some(Fault::Flip(1_000_000)),
            _ => None,
        });
        let report = faulty.succeed().await;
        assert!(report.seconds / clean <= 1.2, "{} s instead of {clean} s: {report:?}", report.seconds);
        assert_eq!((report.throttles, report.corrupt_extents), (1, 1), "{report:?}");
        assert_eq!(report.retries + report.hedges, 5, "each fault is mended once: {report:?}");
        assert!(report.discarded_bytes <= 2 * EXTENT_BYTES, "a corrupt extent, and what was overtaken: {report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_is_resumed_where_it_stopped_on_a_fresh_connection() {
    let load = single(CONTENT_BYTES, |number, _| (number == 2).then_some(Fault::Stall(5_000_000)));
    let report = load.succeed().await;
    let asked = load.sources[0].asked();
    let stalled = asked[2].range.clone();
    let resumed: Vec<_> = asked.iter().filter(|asked| asked.range.end == stalled.end).skip(1).collect();
    assert_eq!(resumed.len(), 1);
    assert!(resumed[0].fresh);
    // All that came before the stall is kept: 5,000,000 bytes in whole chunks.
    assert_eq!(resumed[0].range.start, stalled.start + 5_000_000 / CHUNK * CHUNK);
    assert_eq!((report.stalls, report.discarded_bytes, report.hedges), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_is_resumed_at_once() {
    let load = single(CONTENT_BYTES, |number, _| (number == 2).then_some(Fault::Reset(1_000_000)));
    let report = load.succeed().await;
    let asked = load.sources[0].asked();
    let resumed = asked.iter().find(|asked| asked.range.start % EXTENT_BYTES != 0).expect("it goes on mid-body");
    assert_eq!(resumed.range.start, asked[2].range.start + 1_000_000 / CHUNK * CHUNK);
    assert_eq!((report.retries, report.discarded_bytes), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_overtaken_by_a_hedge_read() {
    let load = single(CONTENT_BYTES, |number, _| (number == 14).then_some(Fault::Slow(3_000_000)));
    let report = load.succeed().await;
    assert!(report.hedges >= 1 && report.hedged_bytes >= EXTENT_BYTES, "{report:?}");
    assert!(at_link_speed(CONTENT_BYTES) / report.seconds >= 0.85, "{report:?}");
    let second = load.sources[0].asked().into_iter().filter(|asked| asked.fresh).collect::<Vec<_>>();
    assert!(second.iter().all(|asked| asked.range.end - asked.range.start <= EXTENT_BYTES), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_wins_in_a_file_that_is_held_until_it_is_judged_as_a_whole() {
    let load = single(CONTENT_BYTES, |number, _| (number == 14).then_some(Fault::Slow(3_000_000)));
    load.target.region.hold();
    let report = load.run().await.expect("what a hedge has brought has arrived, shown or not");
    assert!(report.hedges >= 1, "{report:?}");
    assert!(load.target.region.bytes().is_none(), "nothing is shown");
    load.target.region.show();
    assert!(load.target.region.is_complete());
}

#[tokio::test(start_paused = true)]
async fn many_slow_requests_stay_within_the_hedge_budget() {
    let load = single(CONTENT_BYTES, |number, _| (number % 4 == 3).then_some(Fault::Slow(3_000_000)));
    let report = load.succeed().await;
    assert!(report.hedges >= 2, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn two_tries_that_bring_an_extent_in_the_same_instant_keep_it_once() {
    let source = LinkSource::new("https://origin/model", 5 * LINK, |number, range| match number {
        10 => Some(Fault::Tie),
        _ => (range.start == 10 * FETCH_BYTES).then_some(Fault::TieBreak),
    });
    let load = Load::new(CONTENT_BYTES, vec![source], FetchConfig::default());
    let report = load.succeed().await;
    assert!(report.hedges >= 1 && report.discarded_bytes >= EXTENT_BYTES, "the hedge came in vain: {report:?}");
    let asked = load.sources[0].asked();
    let rest = 10 * FETCH_BYTES + EXTENT_BYTES;
    assert!(asked.iter().all(|asked| asked.range.start != rest || asked.fresh), "the first request goes on: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_extent_comes_from_the_other_source() {
    let sources = vec![
        LinkSource::new("az://west/model", LINK, |_, range| {
            range.contains(&EXTENT_BYTES).then_some(Fault::Flip(EXTENT_BYTES))
        }),
        LinkSource::new("az://east/model", LINK, nothing),
    ];
    let load = Load::new(CONTENT_BYTES, sources, FetchConfig::default());
    let report = load.succeed().await;
    assert_eq!((report.corrupt_extents, report.discarded_bytes), (1, EXTENT_BYTES));
    let elsewhere = load.sources[1].asked();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!((elsewhere[0].range.clone(), elsewhere[0].fresh), (EXTENT_BYTES..2 * EXTENT_BYTES, true));
    assert_eq!(report.bytes_by_source[1], ("az://east/model".to_owned(), EXTENT_BYTES));
}

#[tokio::test(start_paused = true)]
async fn an_extent_that_is_corrupt_everywhere_is_never_shown_and_named() {
    let load = single(CONTENT_BYTES, |_, range| {
        let at = 3 * EXTENT_BYTES;
        range.contains(&at).then(|| Fault::Flip(at - range.start))
    });
    let error = load.run().await.expect_err("two wrong copies end the load");
    let message = error.to_string();
    for part in ["`model.safetensors`", "bytes 12582912..16777216", "https://origin/model"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!load.target.region.is_verified(3 * EXTENT_BYTES..4 * EXTENT_BYTES));
    assert_eq!(load.keeper.kept().get(&3), None);
    assert_eq!(load.progress.snapshot().phase, Phase::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_load_at_once_and_frees_every_lease() {
    let load = single(CONTENT_BYTES, |number, _| (number == 5).then_some(Fault::Denied));
    let error = load.run().await.expect_err("nobody may read this");
    let FetchError::Permanent { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, SourceError::Denied { .. }), "{error:?}");
    assert!(load.sources[0].asked().len() < 20, "it did not go on");
    let missing = (0..64).filter(|at| !load.target.region.is_verified(at * EXTENT_BYTES..(at + 1) * EXTENT_BYTES));
    for at in missing {
        assert!(load.target.region.lease(at * EXTENT_BYTES..(at + 1) * EXTENT_BYTES).is_some(), "extent {at} is free");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_less_gets_less_and_the_time_it_asked_for() {
    // The first twelve requests are refused, all for two seconds.
    let load = single(CONTENT_BYTES, |number, _| (number < 12).then_some(Fault::Throttle(Some(2))));
    let report = load.succeed().await;
    let asked = load.sources[0].asked();
    assert_eq!(report.throttles, 12);
    assert!(asked[12..].iter().all(|asked| asked.at >= Duration::from_secs(2)), "{:?}", asked[12]);
    let at_once = asked[12..].iter().filter(|later| later.at < asked[12].at + Duration::from_millis(5)).count();
    assert!(at_once <= 6, "half as many as before: {at_once}");
}

#[tokio::test(start_paused = true)]
async fn what_never_works_ends_after_so_many_tries() {
    let load = single(8 * EXTENT_BYTES, |_, _| Some(Fault::Reset(0)));
    let error = load.run().await.expect_err("it never works");
    assert!(matches!(error, FetchError::Exhausted { tries: 8, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_falls_silent_altogether_ends_the_load_in_bounded_time() {
    let load = single(CONTENT_BYTES, |number, _| (number > 10).then_some(Fault::Stall(0)));
    let began = tokio::time::Instant::now();
    let error = load.run().await.expect_err("nothing comes any more");
    assert!(matches!(error, FetchError::Exhausted { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_gives_way_to_its_replica() {
    let sources = vec![
        LinkSource::new("az://west/model", LINK, |_, _| Some(Fault::Reset(0))),
        LinkSource::new("az://east/model", LINK, nothing),
    ];
    let report = Load::new(16 * EXTENT_BYTES, sources, FetchConfig::default()).succeed().await;
    assert_eq!(report.bytes_by_source[1].1, 16 * EXTENT_BYTES);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_flight_stay_within_a_small_budget() {
    let config = FetchConfig { in_flight_bytes: 4 * EXTENT_BYTES, ..FetchConfig::default() };
    let source = LinkSource::new("https://origin/model", LINK, nothing);
    let report = Load::new(CONTENT_BYTES, vec![source], config).succeed().await;
    assert_eq!(report.in_flight_max_bytes, 4 * EXTENT_BYTES, "it is used as well");
    assert!(at_link_speed(CONTENT_BYTES) / report.seconds >= 0.9, "freed extents are used at once: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn one_object_gets_no_more_requests_than_its_budget() {
    let config = FetchConfig { requests_per_second_object: 20, ..FetchConfig::default() };
    let load = Load::new(CONTENT_BYTES, vec![LinkSource::new("https://origin/model", 10 * LINK, nothing)], config);
    load.succeed().await;
    let asked = load.sources[0].asked();
    for (first, from) in asked.iter().enumerate() {
        let within = asked[first..].iter().filter(|later| later.at < from.at + Duration::from_secs(1)).count();
        assert!(within <= 23, "{within} requests within a second");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_load_ends_its_requests_and_frees_what_it_held() {
    let load = single(CONTENT_BYTES, nothing);
    let metrics = Metrics::new(&Registry::new());
    let running = run(load.job(), &load.config, &metrics);
    assert!(tokio::time::timeout(Duration::from_millis(300), running).await.is_err(), "it takes longer than that");
    while load.sources[0].open() > 0 || load.budgets.in_flight().used() > 0 {
        tokio::task::yield_now().await;
    }
    let landed = load.target.region.verified();
    assert!(!landed.is_empty() && landed.len() < 64);
    // What landed is not asked for again.
    let report = load.succeed_from(landed.len() as u64).await;
    assert_eq!(report.bytes(), CONTENT_BYTES - landed.len() as u64 * EXTENT_BYTES);
}

impl Load {
    /// Runs a load of which so many extents are there already.
    async fn succeed_from(&self, extents: u64) -> Report {
        let report = self.run().await.expect("the load succeeds");
        assert!(self.target.region.is_complete());
        assert!(extents > 0 && self.keeper.kept().values().all(|times| *times == 1));
        report
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_another_load_is_writing_are_not_written_twice() {
    let load = single(CONTENT_BYTES, nothing);
    let _other = load.target.region.lease(4 * EXTENT_BYTES..5 * EXTENT_BYTES).expect("nobody has it");
    let error = load.run().await.expect_err("somebody else has it");
    assert!(matches!(error, FetchError::Busy { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_try_that_comes_right_after_the_first_is_thrown_away() {
    let load = single(EXTENT_BYTES, nothing);
    load.succeed().await;
    let job = load.job();
    let tally = Tally::new(&Metrics::new(&Registry::new()), &job.sources);
    let shared = Arc::new(Shared::new(job.targets, job.sources, job.budgets, &load.config, tally));
    let reservation = shared.budgets.in_flight().reserve(EXTENT_BYTES).expect("nothing is in flight");
    let active = ActiveFetch::new(0, 0..1, reservation, Instant::now());
    let late = vec![0; usize::try_from(EXTENT_BYTES).expect("an extent fits")];
    active.install(&shared, 0, blake3::hash(&late), late, 0).await.expect("the extent is there already");
    assert_eq!(get(&shared.tally.discarded_bytes), EXTENT_BYTES);
    assert!(load.keeper.kept().values().all(|times| *times == 1), "what was there stays");
}

#[tokio::test(start_paused = true)]
async fn jobs_that_cannot_work_are_refused() {
    let load = single(EXTENT_BYTES, nothing);
    let metrics = Metrics::new(&Registry::new());
    let beyond = Job { fetches: vec![Fetch { file: 0, extents: 0..2, first_tensor: 0 }], ..load.job() };
    let sourceless = Job { sources: Vec::new(), ..load.job() };
    for job in [beyond, sourceless] {
        assert!(matches!(run(job, &load.config, &metrics).await, Err(FetchError::Config { .. })));
    }
    let config = FetchConfig { concurrency_min: 0, ..FetchConfig::default() };
    assert!(matches!(run(load.job(), &config, &metrics).await, Err(FetchError::Config { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_empty_job_is_done_at_once() {
    let load = single(EXTENT_BYTES, nothing);
    let metrics = Metrics::new(&Registry::new());
    let report = run(Job { fetches: Vec::new(), ..load.job() }, &load.config, &metrics).await.expect("nothing to do");
    assert_eq!((report.bytes(), report.requests), (0, 0));
}
