//! The origin as a client meets it: real sockets, raw HTTP, one claim a test.

mod client;
mod faulty;
mod shaped;

use super::*;
use client::{Client, get};

const LEN: u64 = 300_000;

fn origin() -> Builder {
    Origin::builder().seed(7).generated("b/x", LEN, 3)
}

fn expected(range: std::ops::Range<u64>) -> Vec<u8> {
    Generated::new(LEN, 3).bytes(range)
}

#[test]
fn whole_objects_and_ranges_come_with_exact_heads() {
    let origin = origin().start().expect("an origin");
    let mut client = Client::new(&origin);
    let whole = client.get("/b/x", &[]);
    assert_eq!((whole.status, whole.body.len()), (200, 300_000));
    assert_eq!(whole.body, expected(0..LEN));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let part = client.get("/b/x", &["Range: bytes=65530-131080"]);
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), Some("bytes 65530-131080/300000"));
    assert_eq!(part.header("content-length"), Some("65551"));
    assert_eq!(part.body, expected(65_530..131_081));
    let tail = client.get("/b/x", &["Range: bytes=-5"]);
    assert_eq!((tail.status, tail.header("content-range")), (206, Some("bytes 299995-299999/300000")));
    let beyond = client.get("/b/x", &["Range: bytes=300000-"]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */300000")));
    assert_eq!(client.get("/b/none", &[]).status, 404);
    assert_eq!(origin.account().connections, 1, "one connection was kept alive throughout");
}

#[test]
fn heads_alone_promise_what_gets_bring() {
    let origin = origin().start().expect("an origin");
    let mut client = Client::new(&origin);
    let head = client.ask("HEAD", "/b/x", &[], b"");
    let etag = head.header("etag").expect("a tag").to_owned();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("300000"), 0));
    let part = client.ask("HEAD", "/b/x", &["Range: bytes=0-9"], b"");
    assert_eq!((part.status, part.header("content-length")), (206, Some("10")));
    assert_eq!(client.get("/b/x", &["Range: bytes=0-0"]).header("etag"), Some(etag.as_str()));
    let account = client::settled(&origin);
    assert_eq!((account.requests, account.bytes_sent), (3, 1), "heads send no bytes");
}

#[test]
fn conditions_guard_every_read() {
    let origin = origin().start().expect("an origin");
    let mut client = Client::new(&origin);
    let etag = client.get("/b/x", &["Range: bytes=0-0"]).header("etag").expect("a tag").to_owned();
    let matching = format!("If-Match: {etag}");
    assert_eq!(client.get("/b/x", &["Range: bytes=0-9", &matching]).status, 206);
    assert_eq!(client.get("/b/x", &["Range: bytes=0-9", "If-Match: \"other\""]).status, 412);
    assert_eq!(client.get("/b/x", &[&format!("If-None-Match: {etag}")]).status, 304);
    assert_eq!(client.get("/b/x", &["Range: bytes=0-9", "If-Range: \"other\""]).status, 200);
    origin.replace("b/x", vec![9; 10]);
    assert_eq!(client.get("/b/x", &["Range: bytes=0-9", &matching]).status, 412, "it is another object now");
    assert_eq!(client.get("/b/x", &[]).body, [9; 10]);
    assert_eq!(origin.log()[1].if_match.as_deref(), Some(etag.as_str()));
}

#[test]
fn files_are_served_byte_for_byte_and_their_tags_follow_their_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("m")).expect("a folder");
    let bytes = expected(0..LEN);
    std::fs::write(folder.path().join("m/a b.bin"), &bytes).expect("a file");
    let origin = Origin::builder().dir(folder.path()).start().expect("an origin");
    let mut client = Client::new(&origin);
    let whole = client.get("/m/a%20b.bin", &[]);
    assert_eq!((whole.status, whole.body == bytes), (200, true));
    assert_eq!(client.get("/m/a%20b.bin", &["Range: bytes=1000-"]).body, bytes[1000..]);
    std::fs::write(folder.path().join("m/a b.bin"), &bytes[1..]).expect("a file");
    assert_ne!(client.get("/m/a%20b.bin", &[]).header("etag"), whole.header("etag"));
    assert_eq!(client.get("/m", &[]).status, 404, "a folder is no object");
    assert_eq!(client.get("/../m/a%20b.bin", &[]).status, 404);
    assert!(Origin::builder().dir("/no/such/folder").start().is_err());
}

#[test]
fn the_books_are_exact_and_can_be_read_and_reset_over_http() {
    let origin = origin().object("y", vec![1; 100]).start().expect("an origin");
    let mut client = Client::new(&origin);
    client.get("/b/x", &["Range: bytes=0-99999"]);
    client.get("/b/x", &["Range: bytes=50000-149999"]);
    client.get("/y", &[]);
    client.get("/nothing", &[]);
    // The last piece is booked after the kernel took it, which the client may see first.
    let account = client::settled(&origin);
    assert_eq!((account.requests, account.bytes_sent, account.bytes_sent_twice), (4, 200_100, 50_000));
    assert_eq!(account.responses, [(200, 1), (206, 2), (404, 1)].into());
    let object = &account.objects["b/x"];
    assert_eq!((object.sent.as_slice(), object.sent_twice.as_slice()), (&[(0, 150_000)][..], &[(50_000, 100_000)][..]));
    let over_http: Account = serde_json::from_slice(&client.get("/__origin/account", &[]).body).expect("the account");
    assert_eq!(over_http, account);
    assert_eq!(client.ask("POST", "/__origin/reset", &[], b"").status, 200);
    assert_eq!(origin.account().requests, 0);
    assert_eq!(origin.account().connections_open, 1);
}

#[test]
fn connections_beyond_the_bound_are_refused_and_counted() {
    let origin = origin().connections_max(1).start().expect("an origin");
    let mut first = Client::new(&origin);
    assert_eq!(first.get("/b/x", &["Range: bytes=0-0"]).status, 206);
    assert_eq!(get(&origin, "/b/x", &[]).status, 503);
    assert_eq!(first.get("/b/x", &["Range: bytes=0-0"]).status, 206, "the first is not disturbed");
    let account = origin.account();
    assert_eq!((account.connections, account.connections_refused, account.connections_maximum), (1, 1, 1));
}

#[test]
fn stopping_ends_a_stall_for_ever() {
    let faults = Faults { stall: 1.0, ..Faults::default() };
    let origin = origin().faults(faults).start().expect("an origin");
    let reader = std::thread::spawn({
        let mut client = Client::new(&origin);
        move || client.get("/b/x", &[]).body.len()
    });
    client::until(|| origin.account().faults.contains_key("stall"));
    drop(origin);
    assert!(reader.join().expect("a reader") < 300_000);
}

#[test]
fn a_client_that_leaves_a_stall_frees_its_connection() {
    let faults = Faults { stall: 1.0, ..Faults::default() };
    let origin = origin().faults(faults).start().expect("an origin");
    let mut client = Client::new(&origin);
    client.send("GET", "/b/x", &[], b"");
    client::until(|| origin.account().faults.contains_key("stall"));
    assert_eq!(origin.account().in_flight, 1);
    drop(client);
    client::until(|| origin.account().connections_open == 0);
    assert_eq!(origin.account().in_flight, 0);
}

#[test]
fn a_real_cap_is_kept_and_reached() {
    // 40 MB at 100 MB/s over two connections: 0.4 s. Slow machines may take longer, never shorter.
    let faults = Faults { total_bytes_per_second: Some(100_000_000), ..Faults::default() };
    let origin = Origin::builder().generated("x", 20_000_000, 1).faults(faults).start().expect("an origin");
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(get(&origin, "/x", &[]).body.len(), 20_000_000));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    assert!(seconds >= 0.39, "40 MB in {seconds} s exceed 100 MB/s");
    assert!(seconds < 30.0, "the cap starves: {seconds} s");
}

#[test]
fn tls_serves_under_the_certificate_it_shows() {
    let origin = origin().tls().start().expect("an origin");
    assert!(origin.url().starts_with("https://127.0.0.1:"));
    let part = client::secure_get(&origin, "/b/x", &["Range: bytes=1000-200000"]);
    assert_eq!((part.status, part.body == expected(1000..200_001)), (206, true));
}
