//! The commands around serving.

use crate::process::{Server, forebay, run};
use std::io::Write;
use std::process::Stdio;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn chat_needs_nothing_but_itself() {
    let output = run(&["chat", "--temperature", "0", "What is Forebay?"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Forebay"), "{}", text(&output.stdout));
}

#[test]
fn chat_talks_to_a_running_server_line_by_line() {
    let server = Server::start(&["serve"]);
    let mut child = forebay()
        .args(["chat", "--url", &server.url, "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    child.stdin.take().expect("piped").write_all(b"Hello\nWhat is 2 + 3?\n").expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    assert!(text(&output.stdout).contains('5'), "{}", text(&output.stdout));
    let models = run(&["models", "--url", &server.url]);
    assert_eq!(text(&models.stdout).trim(), "demo");
}

#[test]
fn eval_load_reports_quantiles() {
    let server = Server::start(&["serve"]);
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let output = run(&[
        "eval",
        "load",
        &server.url,
        "--rate",
        "5",
        "--duration",
        "2s",
        "--max-tokens",
        "4",
        "--json",
        "--out",
        out.to_str().expect("text"),
    ]);
    let json = text(&output.stdout);
    assert!(json.contains("ttft") && json.contains("itl") && json.contains("e2e"), "{json}\n{}", text(&output.stderr));
    for name in ["events.jsonl", "summary.json", "report.html"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

#[test]
fn usage_errors_exit_with_two_and_failures_with_one() {
    assert_eq!(run(&["serve", "--novelty"]).status.code(), Some(2));
    assert_eq!(run(&["models", "--url", "http://127.0.0.1:9"]).status.code(), Some(1));
    let output = run(&["serve", "--set", "router.novelty=1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("novelty"), "{}", text(&output.stderr));
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        &["serve"][..],
        &["router"],
        &["worker"],
        &["chat"],
        &["models"],
        &["synth-model"],
        &["eval", "load"],
        &["completions"],
        &["cache", "ls"],
        &["cache", "rm"],
        &["cache", "pin"],
        &["cache", "unpin"],
        &["cache", "gc"],
        &["cache", "verify"],
        &["policy", "hash-key"],
    ] {
        let output = forebay().args(command).arg("--help").output().expect("runs");
        assert!(text(&output.stdout).contains("xample"), "{command:?}: {}", text(&output.stdout));
    }
}
