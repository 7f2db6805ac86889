//! Every fault does what it says, and says so in the books.

use super::super::{BitFlip, Burst, Fault, Faults, Lognormal, Origin, Script};
use super::client::{Client, get, settled, until};
use super::{LEN, expected, origin};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// An origin whose second request for `b/x` meets this fault.
fn second(fault: Fault) -> Origin {
    let faults = Faults { scripts: vec![Script::nth("b/x", 2, fault)], ..Faults::default() };
    let origin = origin().faults(faults).start().expect("an origin");
    assert_eq!(get(&origin, "/b/x", &[]).body, expected(0..LEN), "the first request meets none");
    origin
}

#[test]
fn a_refusal_has_its_status_and_its_time() {
    let origin = second(Fault::Status { status: 429, retry_after_seconds: Some(3) });
    let answer = get(&origin, "/b/x", &[]);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3")));
    assert_eq!(get(&origin, "/b/x", &[]).status, 200, "the third request meets none again");
    assert_eq!(origin.account().faults, [("status".to_owned(), 1)].into());
}

#[test]
fn a_reset_is_a_reset_after_so_many_bytes() {
    let origin = second(Fault::Reset { after: 100_000 });
    let answer = get(&origin, "/b/x", &[]);
    assert_eq!(answer.broken, Some(ErrorKind::ConnectionReset));
    assert!(answer.body.len() <= 100_000, "{}", answer.body.len());
    let account = settled(&origin);
    assert_eq!(account.objects["b/x"].sent_twice, [(0, 100_000)]);
    assert_eq!(account.faults, [("reset".to_owned(), 1)].into());
}

#[test]
fn a_short_body_ends_in_order() {
    let origin = second(Fault::Short { after: 100_000 });
    let answer = get(&origin, "/b/x", &[]);
    assert_eq!((answer.broken, answer.body.len()), (Some(ErrorKind::UnexpectedEof), 100_000));
    assert_eq!(answer.header("content-length"), Some("300000"));
}

#[test]
fn a_close_says_nothing_at_all() {
    let origin = second(Fault::Close);
    let answer = get(&origin, "/b/x", &[]);
    assert_eq!((answer.status, answer.body.len(), answer.broken), (0, 0, Some(ErrorKind::UnexpectedEof)));
}

#[test]
fn a_stall_stops_where_it_should_and_goes_on_if_it_may() {
    let origin = second(Fault::Stall { after: 1000, milliseconds: None });
    let mut client = Client::new(&origin);
    client.send("GET", "/b/x", &[], b"");
    assert_eq!(client.read_head_and(1000), expected(0..1000));
    assert!(client.is_quiet(Duration::from_millis(50)), "not one byte more");
    let origin = second(Fault::Stall { after: 1000, milliseconds: Some(30) });
    let begun = Instant::now();
    assert_eq!(get(&origin, "/b/x", &[]).body, expected(0..LEN));
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[test]
fn wrong_ranges_are_wrong_in_the_way_they_say() {
    let range = &["Range: bytes=100-199"];
    let answer = get(&second(Fault::WrongContentRange), "/b/x", range);
    assert_eq!(answer.header("content-range"), Some("bytes 101-200/300000"));
    assert_eq!(answer.body, expected(100..200));
    let answer = get(&second(Fault::WholeBody), "/b/x", range);
    assert_eq!((answer.status, answer.body.len(), answer.header("content-range")), (200, 300_000, None));
    let answer = get(&second(Fault::Shifted { by: 7 }), "/b/x", range);
    assert_eq!(answer.header("content-range"), Some("bytes 100-199/300000"));
    assert_eq!(answer.body, expected(107..207));
}

#[test]
fn a_shift_at_the_end_goes_the_other_way() {
    let answer = get(&second(Fault::Shifted { by: 7 }), "/b/x", &["Range: bytes=299990-299999"]);
    assert_eq!(answer.body, expected(LEN - 11..LEN - 1));
}

#[test]
fn a_flip_changes_one_bit_and_no_other() {
    let origin = second(Fault::Flip { at: 50, bit: 3 });
    let mut flipped = expected(100..300);
    flipped[50] ^= 8;
    assert_eq!(get(&origin, "/b/x", &["Range: bytes=100-299"]).body, flipped);
    assert_eq!(get(&origin, "/b/x", &["Range: bytes=100-299"]).body, expected(100..300));
    assert_eq!(settled(&origin).faults, [("flip".to_owned(), 1)].into());
}

#[test]
fn a_bit_of_an_object_flips_in_whatever_range_carries_it_as_often_as_told() {
    let flip = |times| BitFlip { object: "b/x".into(), offset: 1000, bit: 0, times };
    let origin =
        origin().faults(Faults { flips: vec![flip(Some(1))], ..Faults::default() }).start().expect("an origin");
    let ranges = ["Range: bytes=0-999", "Range: bytes=900-1100", "Range: bytes=1000-1000"];
    let good = [0..1000, 900..1101, 1000..1001].map(expected);
    let right = |origin: &Origin| [0, 1, 2].map(|index| get(origin, "/b/x", &[ranges[index]]).body == good[index]);
    assert_eq!(right(&origin), [true, false, true]);
    origin.set_faults(Faults { flips: vec![flip(None)], ..Faults::default() });
    assert_eq!(right(&origin), [true, false, false]);
}

#[test]
fn a_file_with_a_flip_is_sent_right_around_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("f"), expected(0..LEN)).expect("a file");
    let flips = vec![BitFlip { object: "f".into(), offset: 150_000, bit: 7, times: None }];
    let faults = Faults { flips, ..Faults::default() };
    let origin = Origin::builder().dir(folder.path()).faults(faults).start().expect("an origin");
    let mut flipped = expected(0..LEN);
    flipped[150_000] ^= 128;
    assert!(get(&origin, "/f", &[]).body == flipped);
    assert_eq!(settled(&origin).objects["f"].sent, [(0, LEN)]);
}

#[test]
fn an_object_can_change_between_two_requests() {
    let origin = origin().start().expect("an origin");
    let etag = get(&origin, "/b/x", &["Range: bytes=0-0"]).header("etag").expect("a tag").to_owned();
    let scripts = vec![Script::nth("b/x", 2, Fault::Replace { seed: 99 })];
    origin.set_faults(Faults { scripts, ..Faults::default() });
    let answer = get(&origin, "/b/x", &["Range: bytes=0-9", &format!("If-Match: {etag}")]);
    assert_eq!(answer.status, 412);
    let after = get(&origin, "/b/x", &[]);
    assert_eq!(after.body, super::Generated::new(LEN, 99).bytes(0..LEN));
    assert_ne!(after.header("etag"), Some(etag.as_str()));
}

#[test]
fn a_missing_object_comes_back() {
    let origin = second(Fault::Missing);
    assert_eq!(get(&origin, "/b/x", &[]).status, 404);
    assert_eq!(get(&origin, "/b/x", &[]).status, 200);
}

#[test]
fn caps_on_requests_refuse_with_a_time_to_come_back() {
    let faults = Faults { object_requests_per_second: Some(0.01), ..Faults::default() };
    let origin = origin().object("y", vec![1]).faults(faults).start().expect("an origin");
    assert_eq!(get(&origin, "/b/x", &[]).status, 200);
    let refused = get(&origin, "/b/x", &[]);
    assert_eq!(refused.status, 503);
    let seconds: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((90..=101).contains(&seconds), "{seconds}");
    assert_eq!(get(&origin, "/y", &[]).status, 200, "the cap is per object");
    let both = Faults { account_requests_per_second: Some(0.01), refusal_status: Some(429), ..Faults::default() };
    origin.set_faults(both);
    assert_eq!(get(&origin, "/y", &[]).status, 200);
    assert_eq!(get(&origin, "/b/x", &[]).status, 429, "the cap is the origin's");
    assert_eq!(origin.account().faults["object_requests"], 1);
}

#[test]
fn first_bytes_are_late_by_at_least_what_was_said() {
    let faults = Faults { first_byte_ms: 20.0, ..Faults::default() };
    let origin = origin().faults(faults).start().expect("an origin");
    let begun = Instant::now();
    get(&origin, "/b/x", &["Range: bytes=0-0"]);
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

/// How 60 ranges fare: status, length and how each broke.
fn fates(seed: u64, order: impl Iterator<Item = u64>) -> Vec<(u64, u16, usize, Option<ErrorKind>)> {
    let faults = Faults { unavailable: 0.1, short: 0.2, flip: 0.1, whole_body: 0.1, missing: 0.1, ..Faults::default() };
    let origin = Origin::builder().seed(seed).generated("b/x", LEN, 3).faults(faults).start().expect("an origin");
    let mut fates: Vec<_> = order
        .map(|index| {
            let range = format!("Range: bytes={}-{}", index * 5000, index * 5000 + 4999);
            let answer = get(&origin, "/b/x", &[&range]);
            let digest = answer.body.iter().map(|byte| usize::from(*byte)).sum::<usize>();
            (index, answer.status, answer.body.len() + (digest << 32), answer.broken)
        })
        .collect();
    fates.sort_unstable_by_key(|fate| fate.0);
    fates
}

#[test]
fn a_seed_decides_every_fate_whatever_the_order_of_requests() {
    let first = fates(5, 0..60);
    assert_eq!(first, fates(5, (0..60).rev()));
    assert_ne!(first, fates(6, 0..60));
}

#[test]
fn faults_can_be_changed_over_http_while_running() {
    let origin = origin().start().expect("an origin");
    let mut client = Client::new(&origin);
    let text = br#"{"missing": 1.0, "burst": {"every": 10, "length": 0}, "scripts": [
        {"object": null, "first": 2, "last": 2, "fault": {"short": {"after": 5}}}]}"#;
    assert_eq!(client.ask("POST", "/__origin/faults", &[], text).status, 200);
    assert_eq!(client.get("/b/x", &[]).status, 404);
    assert_eq!(client.get("/b/x", &[]).body.len(), 5);
    let bad = Client::new(&origin).ask("POST", "/__origin/faults", &[], br#"{"mising": 1.0}"#);
    assert_eq!(bad.status, 400, "a misspelt fault is an error");
    assert!(bad.text().contains("mising"));
}

#[test]
fn a_set_of_faults_survives_json() {
    let faults = Faults {
        stall: 0.5,
        first_byte_spread: Some(Lognormal { median_ms: 3.0, sigma: 0.5 }),
        burst: Some(Burst { every: 9, length: 2 }),
        flips: vec![BitFlip { object: "a".into(), offset: 1, bit: 2, times: None }],
        scripts: vec![Script::always("a", Fault::Stall { after: 1, milliseconds: None })],
        ..Faults::default()
    };
    let text = serde_json::to_string(&faults).expect("JSON");
    assert_eq!(serde_json::from_str::<Faults>(&text).expect("faults"), faults);
}

#[test]
fn a_connection_cap_holds_each_connection_alone() {
    // 2 MB at 10 MB/s on each of four connections: 0.2 s, side by side.
    let faults = Faults { connection_bytes_per_second: Some(10_000_000), ..Faults::default() };
    let origin = Origin::builder().generated("x", 2_000_000, 1).faults(faults).start().expect("an origin");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(get(&origin, "/x", &[]).body.len(), 2_000_000));
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(190));
    until(|| origin.account().connections_open == 0);
    assert_eq!(origin.account().bytes_sent, 8_000_000);
}
