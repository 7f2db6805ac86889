//! `eval load` against a server whose timings and faults are scripted.

use clap::Parser;
use evals::load::{Clock, LoadArgs, LoadReport, Outcome, RequestEvent, UsageError, run, run_until};
use std::time::Duration;
use testkit::openai_server::{Answer, Behaviour, Ending, MODEL, OpenAiServer};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    load: LoadArgs,
}

fn args(server: &OpenAiServer, words: &str) -> LoadArgs {
    let url = server.url();
    let words = ["load", url.as_str()].into_iter().chain(words.split_whitespace());
    Command::try_parse_from(words).expect("valid arguments").load
}

async fn load(server: &OpenAiServer, words: &str) -> LoadReport {
    run(args(server, words)).await.expect("the run ends")
}

const GAP: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_tokens_and_latencies_are_those_of_the_script() {
    let answer = Answer { first_token: Duration::from_millis(40), ..Answer::steady(5, GAP) };
    let server = OpenAiServer::start(move |_, _| Behaviour::Answer(answer)).await;
    let report = load(&server, "--rate 20 --arrivals constant --duration 1s --warm-up 2 --api-key k").await;
    let summary = &report.summary;
    assert_eq!(report.model, MODEL, "the first model listed");
    assert_eq!((summary.attempted, summary.ok), (20, 20));
    assert_eq!(server.requests(), 22, "two of them warm-up");
    assert_eq!((summary.completion_tokens, summary.prompt_tokens), (100, 100));
    assert_eq!(server.authorizations(), vec!["Bearer k"; 22]);
    let ttft = summary.ttft_scheduled_ms.expect("answers");
    // Truths from below are strict; from above a busy machine gets room.
    assert!(ttft.min >= 40.0 && ttft.p50 < 140.0, "{ttft:?}");
    let itl = summary.itl_ms.expect("gaps");
    assert_eq!(itl.count, 80);
    assert!(itl.mean > 9.0 && itl.mean < 100.0, "{itl:?}");
    let e2e = summary.e2e_ms.expect("answers");
    assert!(e2e.min >= 80.0 && e2e.p50 < 400.0, "{e2e:?}");
    assert!(summary.ttfc_ms.expect("answers").p50 < ttft.p50 - 20.0, "the empty first chunk is not the first token");
    assert!((summary.tpot_ms.expect("answers").mean - itl.mean).abs() < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_class_and_counts_against_the_run() {
    let end = |ending| Behaviour::Answer(Answer { ending, ..Answer::steady(2, Duration::from_millis(1)) });
    let script = move |number, _| match number {
        0 => Behaviour::Status(429),
        1 => Behaviour::Status(503),
        2 => Behaviour::Status(500),
        3 => Behaviour::Status(400),
        4 => Behaviour::Silent,
        5 => end(Ending::Broken),
        6 => end(Ending::Short),
        7 => end(Ending::NoDone),
        8 => end(Ending::Garbage),
        9 => end(Ending::Error),
        _ => end(Ending::Whole),
    };
    let server = OpenAiServer::start(script).await;
    let words =
        "--rate 24 --arrivals constant --duration 500ms --warm-up 0 --timeout 1s --slo ttft=1s --max-in-flight 99";
    let report = load(&server, words).await;
    let expected = [
        ("client_error", 1),
        ("invalid_body", 1),
        ("missing_done", 1),
        ("ok", 2),
        ("rate_limited", 1),
        ("server_error", 1),
        ("stream_error", 1),
        ("timeout", 1),
        ("truncated", 2),
        ("unavailable", 1),
    ];
    assert_eq!(report.summary.outcomes.clone().into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(report.summary.examples["rate_limited"], "HTTP 429: as scripted");
    let goodput = report.summary.goodput.expect("a limit was given");
    assert_eq!(goodput.good, 2);
    assert!((goodput.share - 2.0 / 12.0).abs() < 1e-9, "of all attempted requests");
    assert!(!report.passed && report.exit_code() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_up_to_the_allowed_share_pass_a_valid_run() {
    let server = OpenAiServer::start(|number, _| match number {
        0 => Behaviour::Status(500),
        _ => Behaviour::Answer(Answer::steady(1, GAP)),
    })
    .await;
    let words = "--rate 20 --arrivals constant --duration 500ms --warm-up 0 --max-error-rate 0.1";
    let report = load(&server, words).await;
    assert!((report.summary.error_rate - 0.1).abs() < 1e-9);
    // Whether the harness was on time depends on the machine; the rule that joins the two does not.
    assert_eq!(report.passed, report.valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_beyond_the_bound_is_dropped_and_invalidates_the_run() {
    let server = OpenAiServer::start(|_, _| Behaviour::Silent).await;
    let words =
        "--rate 40 --arrivals constant --duration 250ms --warm-up 0 --timeout 1s --max-in-flight 3 --max-error-rate 1";
    let report = load(&server, words).await;
    assert_eq!(report.summary.outcomes["dropped"], 7);
    assert_eq!(report.summary.outcomes["timeout"], 3);
    assert!(!report.valid && report.exit_code() == 1);
    assert!(report.to_string().contains("--max-in-flight"), "{report}");
}

/// The server freezes for a second. A client that waits for each answer before it asks again meets
/// the freeze once and reports a fine tail; users who arrive meanwhile all wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_shows_in_the_tail_where_a_waiting_client_would_hide_it() {
    let (freeze, thaw) = (Duration::from_millis(1000), Duration::from_millis(2000));
    let script = move |_, since: Duration| {
        let frozen = if since >= freeze { thaw.saturating_sub(since) } else { Duration::ZERO };
        Behaviour::Answer(Answer { first_chunk: frozen, ..Answer::steady(1, Duration::from_millis(5)) })
    };
    let server = OpenAiServer::start(script).await;
    let open = load(&server, "--rate 50 --arrivals poisson --duration 3s --warm-up 0").await;
    let open = open.summary.e2e_scheduled_ms.expect("answers");
    assert!(open.p90 > 400.0 && open.p99 > 700.0, "a third of the users met the freeze: {open:?}");

    // The same freeze, met by one user who waits.
    let server = OpenAiServer::start(script).await;
    let clock = Clock::start();
    let mut waits_ms = Vec::new();
    while clock.now_ns() < 3_000_000_000 {
        let before_ns = clock.now_ns();
        let report = load(&server, "--rate 1 --arrivals constant --duration 1ms --warm-up 0").await;
        assert_eq!(report.summary.ok, 1);
        waits_ms.push((clock.now_ns() - before_ns) as f64 / 1e6);
    }
    waits_ms.sort_unstable_by(f64::total_cmp);
    let closed_p90 = waits_ms[waits_ms.len() * 9 / 10];
    assert!(closed_p90 < open.p90 / 2.0, "closed loop p90 {closed_p90} ms, open loop {open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_gets_events_a_summary_and_a_page_that_fetches_nothing() {
    let server = OpenAiServer::start(|number, _| match number {
        3 => Behaviour::Status(503),
        _ => Behaviour::Answer(Answer::steady(3, GAP)),
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut args = args(&server, "--rate 20 --arrivals constant --duration 500ms --warm-up 0 --max-error-rate 1");
    args.out = Some(folder.path().join("new/report"));
    let report = run(args).await.expect("the run ends");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("new/report").join(name)).expect(name);
    let events: Vec<RequestEvent> =
        read("events.jsonl").lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    assert_eq!(events.len(), 10);
    assert_eq!(events.iter().filter(|event| event.outcome == Outcome::Ok).count(), 9);
    assert!(events.iter().all(|event| event.sent_ns >= Some(event.intended_ns)));
    let again = evals::load::summarise(&events, 20.0, None);
    assert_eq!(again, report.summary, "the report is a function of the event log");
    let summary: serde_json::Value = serde_json::from_str(&read("summary.json")).expect("JSON");
    assert_eq!(summary["outcomes"]["unavailable"], 1);
    assert!(summary["ttft_scheduled_ms"]["p99"].is_number());
    let page = read("report.html");
    assert!(page.contains("<svg") && page.contains("<polyline"));
    for outside in ["src=", "href=", "http-equiv", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_answers_are_measured_too() {
    let server = OpenAiServer::start(|_, _| Behaviour::Answer(Answer::steady(4, GAP))).await;
    let report = load(&server, "--rate 20 --arrivals constant --duration 250ms --no-stream --max-tokens 7").await;
    assert_eq!((report.summary.ok, report.summary.completion_tokens), (5, 20));
    assert_eq!(report.summary.itl_ms, None);
    let body = &server.bodies()[0];
    assert_eq!((&body["max_tokens"], body.get("stream")), (&serde_json::json!(7), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_said_once_and_helpfully() {
    let server = OpenAiServer::start(|_, _| Behaviour::Silent).await;
    let missing = args(&server, "--rate 5 --duration 1s");
    drop(server);
    let error = format!("{:#}", run(missing).await.expect_err("nobody answers"));
    assert!(error.contains("is the server up?"), "{error}");
}

#[tokio::test]
async fn a_prompt_file_that_is_none_is_a_usage_error() {
    let server = OpenAiServer::start(|_, _| Behaviour::Silent).await;
    let error = run(args(&server, "--prompt-file no/such/file")).await.expect_err("no file");
    assert!(error.is::<UsageError>(), "{error:#}");
    assert_eq!(server.requests(), 0, "refused before anything is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_broken_off_keeps_what_was_measured() {
    let server = OpenAiServer::start(|number, _| match number {
        0..4 => Behaviour::Answer(Answer::steady(2, Duration::from_millis(1))),
        _ => Behaviour::Silent,
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("report");
    let mut args = args(&server, "--rate 50 --arrivals constant --duration 60s --warm-up 0 --max-error-rate 1");
    args.out = Some(out.clone());
    // Broken off when the fifth request waits for an answer that never comes.
    let interrupted = async {
        while server.requests() < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let report = run_until(args, interrupted).await.expect("the run ends");
    assert!(report.interrupted && !report.valid && report.exit_code() == 1);
    assert_eq!(report.summary.ok, 4, "{report}");
    assert!(report.to_string().contains("interrupted"), "{report}");
    let events = std::fs::read_to_string(out.join("events.jsonl")).expect("events");
    assert!(events.lines().count() >= 4 && out.join("report.html").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_files_cannot_be_written_is_reported_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let rival = folder.path().join("summary.json");
    let write = rival.clone();
    // Another run takes the folder while this one measures.
    let server = OpenAiServer::start(move |_, _| {
        std::fs::write(&write, "{}").expect("writes");
        Behaviour::Answer(Answer::steady(2, Duration::from_millis(1)))
    })
    .await;
    let mut args = args(&server, "--rate 20 --arrivals constant --duration 250ms --warm-up 0");
    args.out = Some(folder.path().to_owned());
    let report = run(args).await.expect("what was measured is reported");
    assert_eq!((report.summary.ok, report.exit_code()), (5, 1), "{report}");
    assert!(report.to_string().contains("NOT WRITTEN: creating") && report.to_string().contains("E2E"), "{report}");
    assert_eq!(std::fs::read_to_string(rival).expect("is there"), "{}", "not written over");
}

#[tokio::test]
async fn a_run_that_is_there_is_not_written_over() {
    let server = OpenAiServer::start(|_, _| Behaviour::Silent).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("summary.json"), "{}").expect("writes");
    let mut args = args(&server, "--rate 5 --duration 1s");
    args.out = Some(folder.path().to_owned());
    let error = run(args).await.expect_err("refused");
    assert!(error.is::<UsageError>() && error.to_string().contains("holds a run"), "{error:#}");
    assert_eq!(server.requests(), 0, "before anything is sent");
    assert_eq!(std::fs::read_to_string(folder.path().join("summary.json")).expect("is there"), "{}");
}
