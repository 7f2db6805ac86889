//! The promises of the decision about an ended try.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn position(source_count: usize) -> Position<'static> {
    Position { object: "model.safetensors", url: "az://a/b", missing: (0, 8 << 20), source_count }
}

fn decide(history: &mut History, ended: Ended, sources: usize, now: Instant) -> Next {
    next(history, ended, position(sources), now, &FetchConfig::default(), &mut StdRng::seed_from_u64(7))
}

fn transient() -> Ended {
    let (url, name, problem) = ("az://a/b".to_owned(), "x".to_owned(), "reset".to_owned());
    Ended::Failed(SourceError::Transient { url, name, problem, source: None })
}

fn throttled(seconds: Option<u64>) -> Ended {
    let (url, name) = ("az://a/b".to_owned(), "x".to_owned());
    Ended::Failed(SourceError::Throttled { url, name, status: 503, retry_after: seconds.map(Duration::from_secs) })
}

fn corrupt(extent: u64, url: &str) -> Ended {
    Ended::Failed(SourceError::Landing(LandingError::Corrupt {
        object: "model.safetensors".to_owned(),
        range: extent << 22..(extent + 1) << 22,
        source_url: url.to_owned(),
        found: "aa".to_owned(),
        expected: "bb".to_owned(),
    }))
}

#[test]
fn a_corrupt_extent_is_fetched_once_more_from_elsewhere() {
    let (mut history, now) = (History::default(), Instant::now());
    assert!(matches!(decide(&mut history, corrupt(3, "az://a/b"), 2, now), Next::Again(Duration::ZERO)));
    assert_eq!((history.source, history.fresh), (1, true));
    assert!(matches!(decide(&mut history, corrupt(4, "az://c/d"), 2, now), Next::Again(_)), "another extent");
    let Next::Fail(error) = decide(&mut history, corrupt(4, "az://a/b"), 2, now) else { panic!("twice is too often") };
    let message = error.to_string();
    for part in ["`model.safetensors`", "16777216..20971520", "az://c/d", "az://a/b"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn only_failures_without_progress_add_up() {
    let (mut history, begin) = (History::default(), Instant::now());
    for cut in 0..500 {
        history.brought = PROGRESS_BYTES;
        let now = begin + Duration::from_secs(cut);
        assert!(matches!(decide(&mut history, transient(), 1, now), Next::Again(_)), "cut {cut}");
    }
    history.brought = PROGRESS_BYTES - 1;
    let now = begin + Duration::from_secs(500);
    let ends = (0..100).position(|_| matches!(decide(&mut history, transient(), 1, now), Next::Fail(_)));
    assert!(ends.is_some_and(|tries| tries < 8), "{ends:?}");
}

#[test]
fn what_cannot_be_mended_ends_the_load_at_once() {
    let denied = SourceError::Denied { url: "u".into(), name: "x".into(), status: "403".into(), fix: "log in".into() };
    let ended = decide(&mut History::default(), Ended::Failed(denied), 1, Instant::now());
    assert!(matches!(ended, Next::Fail(FetchError::Permanent { .. })));
    let keep = LandingError::Keep { object: "x".into(), problem: "disk".into() };
    let ended = decide(&mut History::default(), Ended::Failed(keep.into()), 1, Instant::now());
    assert!(matches!(ended, Next::Fail(FetchError::Permanent { .. })));
}

#[test]
fn the_store_is_given_the_time_it_asked_for() {
    let (mut history, now) = (History::default(), Instant::now());
    let Next::Again(delay) = decide(&mut history, throttled(Some(3)), 1, now) else { panic!("it may pass") };
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&delay));
    let Next::Again(delay) = decide(&mut history, throttled(Some(10_000)), 1, now) else { panic!("it may pass") };
    assert!(delay <= Duration::from_secs(75), "not believed beyond a minute");
    assert_eq!(history.failures, 0);
}

#[test]
fn a_stuck_connection_is_left_for_a_fresh_one_at_once() {
    let mut history = History::default();
    let ended = decide(&mut history, Ended::Stalled(Stall::Body), 1, Instant::now());
    assert!(matches!(ended, Next::Again(Duration::ZERO)));
    assert!(history.fresh);
}

#[test]
fn two_failures_in_a_row_lead_to_another_source() {
    let (mut history, now) = (History::default(), Instant::now());
    let places: Vec<usize> = (0..4)
        .map(|_| {
            decide(&mut history, transient(), 3, now);
            history.source
        })
        .collect();
    assert_eq!(places, [0, 1, 1, 2]);
}

proptest! {
    /// Whatever fails and however often, a fetch ends after so many tries and so much time.
    #[test]
    fn every_fetch_ends(kinds in prop::collection::vec(0u8..3, 400), seed: u64) {
        let config = FetchConfig::default();
        let (begin, mut history) = (Instant::now(), History::default());
        let (mut now, mut random, mut failed) = (begin, StdRng::seed_from_u64(seed), false);
        for kind in kinds {
            let ended = match kind {
                0 => transient(),
                1 => throttled(Some(1)),
                _ => Ended::Stalled(Stall::FirstByte),
            };
            match next(&mut history, ended, position(2), now, &config, &mut random) {
                Next::Again(delay) => now += delay + Duration::from_millis(10),
                Next::Fail(FetchError::Exhausted { .. }) => { failed = true; break }
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert!(history.failures < config.tries_max);
            prop_assert!(now - begin <= Duration::from_secs(config.retry_seconds_max + 1));
        }
        prop_assert!(failed);
    }
}
