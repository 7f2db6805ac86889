//! A worker's process that is stopped, as a debugger or a frozen machine stops one: its sockets stay open, and nothing
//! comes of them.

use crate::client::{Answer, chat, stream, try_get};
use crate::process::{Server, eventually};
use std::time::{Duration, Instant};

/// The bound on silence, and health checks that notice well within it.
const SOON: [&str; 6] = [
    "--set",
    "router.stuck_after_ms=3000",
    "--set",
    "router.health.interval_ms=200",
    "--set",
    "router.health.timeout_ms=1000",
];
/// Far above that bound on a busy machine, and far below the minutes that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn router(workers: &[&Server]) -> Server {
    let mut args = vec!["router"];
    workers.iter().for_each(|worker| args.extend(["--worker", worker.url.as_str()]));
    args.extend(SOON);
    let router = Server::start(&args);
    eventually("every worker is up", || up(&router) == workers.len());
    router
}

/// The number of workers that take requests.
fn up(router: &Server) -> usize {
    let metrics = try_get(&format!("{}/metrics", router.url)).map(|answer| answer.text).unwrap_or_default();
    metrics.lines().filter(|line| line.starts_with("forebay_router_worker_up{") && line.ends_with(" 1")).count()
}

fn name(server: &Server) -> &str {
    server.url.trim_start_matches("http://")
}

#[test]
fn requests_at_a_stopped_worker_are_answered_elsewhere_and_it_is_used_again_once_it_goes_on() {
    let (stopped, other) = (Server::start(&["worker", "demo"]), Server::start(&["worker", "demo"]));
    let router = router(&[&stopped, &other]);
    stopped.signal("-STOP");
    let begun = Instant::now();
    let asked = (0..6).map(|number| {
        let url = router.url.clone();
        std::thread::spawn(move || chat(&url, &format!("What is {number}?"), r#","max_tokens":3"#))
    });
    let asked: Vec<_> = asked.collect();
    let answers: Vec<Answer> = asked.into_iter().map(|asked| asked.join().expect("an answer")).collect();
    for answer in &answers {
        assert_eq!((answer.status, answer.header("x-forebay-worker")), (200, name(&other)), "{}", answer.text);
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    eventually("it is down", || up(&router) == 1);
    stopped.signal("-CONT");
    eventually("it is up again", || up(&router) == 2);
    eventually("it answers again", || {
        // Prompts that begin alike go to one worker.
        let prompt = format!("Hello {:?}", begun.elapsed());
        chat(&router.url, &prompt, r#","max_tokens":1"#).header("x-forebay-worker") == name(&stopped)
    });
}

#[test]
fn a_stream_of_a_worker_that_stops_ends_with_an_error() {
    let worker = Server::start(&["worker", "demo"]);
    let router = router(&[&worker]);
    let mut events = stream(&router.url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":1500"#);
    events.next().expect("a first event");
    worker.signal("-STOP");
    let begun = Instant::now();
    let rest: Vec<String> = events.collect();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(rest.last().is_some_and(|event| event.contains("\"error\"")), "{:?}", rest.last());
    assert!(!rest.contains(&"[DONE]".to_owned()));
    worker.signal("-CONT");
    eventually("it answers again", || chat(&router.url, "Hello", r#","max_tokens":1"#).status == 200);
}
