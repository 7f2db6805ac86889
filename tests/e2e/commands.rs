//! The commands around serving.

use crate::process::{Server, eventually, forebay, run};
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
    assert_eq!(text(&output.stderr), "", "no progress, and no percentages in a pipe");
}

#[test]
fn a_pipe_is_one_prompt_and_one_answer() {
    let server = Server::start(&["serve"]);
    let ask = |prompt: &str| {
        let mut child = forebay()
            .args(["chat", "--url", &server.url, "--temperature", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        child.stdin.take().expect("piped").write_all(prompt.as_bytes()).expect("writes");
        child.wait_with_output().expect("ends")
    };
    let output = ask("What is 2 + 3?\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains('5'), "{}", text(&output.stdout));
    assert_eq!(text(&output.stderr), "", "a pipe gets the answer and nothing else");
    let requests = || {
        let metrics = crate::client::get(&format!("{}/metrics", server.url)).text;
        let line = metrics.lines().find(|line| line.starts_with("forebay_router_requests_total{")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
    };
    eventually("it is counted", || requests() == Some(1));
    assert!(ask("one\ntwo\n\nthree\n").status.success());
    eventually("it is one request, however many lines it has", || requests() == Some(2));
    let nothing = ask("\n");
    assert!(
        nothing.status.code() == Some(1) && text(&nothing.stderr).contains("no prompt"),
        "{}",
        text(&nothing.stderr)
    );
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
fn the_readmes_load_test_is_as_good_as_it_says() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("reads");
    let words = readme.lines().find_map(|line| line.strip_prefix("forebay eval load ")).expect("the README has one");
    let server = Server::start(&["serve"]);
    let dir = tempfile::tempdir().expect("a directory");
    let words = words.split_whitespace().map(|word| word.replace("http://127.0.0.1:8080", &server.url));
    let output = forebay().args(["eval", "load"]).args(words).current_dir(dir.path()).output().expect("runs");
    let told = text(&output.stdout);
    // On a machine full of other work the harness itself may be late; nothing else may be wrong.
    let is_late = told.contains("the harness sent late");
    assert!(output.status.success() || is_late, "{told}{}", text(&output.stderr));
    let read = |name: &str| std::fs::read(dir.path().join("report").join(name)).expect(name);
    let summary: serde_json::Value = serde_json::from_slice(&read("summary.json")).expect("JSON");
    assert!(summary["ok"].as_u64() > Some(10) && summary["ok"] == summary["attempted"], "{summary}");
    assert!(!read("report.html").is_empty());
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut todo = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(command) = todo.pop() {
        let output = forebay().args(&command).arg("--help").output().expect("runs");
        let help = text(&output.stdout);
        let (_, commands) = help.split_once("Commands:\n").unwrap_or_default();
        let names = commands.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
            // A name is indented by two; what it does may go on below it, further in.
            line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next()
        });
        let below: Vec<Vec<String>> = names
            .filter(|name| *name != "help")
            .map(|name| [command.clone(), vec![name.to_owned()]].concat())
            .collect();
        if below.is_empty() {
            seen += 1;
            assert!(help.contains("xample"), "{command:?}: {help}");
        }
        todo.extend(below);
    }
    assert!(seen >= 20, "{seen} commands have help");
}

#[test]
fn completions_know_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("support-bundle"), "{shell}");
    }
}

#[test]
fn a_support_bundle_holds_what_helps_and_nothing_that_was_said() {
    let secret = "xylophone quartz";
    let server = Server::start_with(&["serve"], &[]);
    let said = run(&["chat", "--url", &server.url, "--max-tokens", "20", "--temperature", "0", secret]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("bundle.tar");
    let key = "a-very-secret-key";
    let output = forebay()
        .args(["support-bundle", "--url", &server.url, "--json", "--out", out.to_str().expect("text")])
        .env("FOREBAY_WORKER__API_KEY", key)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let unpacked = std::process::Command::new("tar").arg("-xf").arg(&out).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar is on every machine").success(), "it is a tar file");
    let folder = std::fs::read_dir(dir.path()).expect("reads").map(|entry| entry.expect("one").path());
    let folder = folder.into_iter().find(|path| path.is_dir()).expect("one folder");
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|_| panic!("{name} is missing"));
    for name in ["status.json", "metrics.txt", "config.toml", "machine.json", "livez.txt"] {
        assert!(!file(name).is_empty(), "{name}");
    }
    assert!(file("config.toml").contains("[redacted]"));
    // The worker of `serve` listens where nobody knows; the router asks it.
    let workers: serde_json::Value = serde_json::from_str(&file("workers.json")).expect("JSON");
    let flight = &workers[0]["flight_recorder"]["models"][0];
    assert_eq!(flight["model"], "demo");
    assert!(flight["steps"].as_array().is_some_and(|steps| steps.len() >= 2), "{flight}");
    let manifest: serde_json::Value = serde_json::from_str(&file("manifest.json")).expect("JSON");
    let missing: Vec<&String> = manifest["missing"].as_object().expect("a map").keys().collect();
    assert!(missing.is_empty(), "a router has no flight recorder, and nothing else is missing: {missing:?}");
    assert!(text(&said.stdout).trim().len() > 3, "it said something");
    let all = std::fs::read(&out).expect("reads");
    let all = String::from_utf8_lossy(&all);
    for word in [secret, "xylophone", key, text(&said.stdout).trim()] {
        assert!(!all.contains(word), "{word:?} is in the bundle");
    }
}

#[test]
fn a_support_bundle_is_made_when_nothing_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("bundle.tar");
    let output = run(&["support-bundle", "--url", "http://127.0.0.1:9", "--out", out.to_str().expect("text")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("without /status"), "{}", text(&output.stdout));
    // What is there already is somebody's.
    let again = run(&["support-bundle", "--url", "http://127.0.0.1:9", "--out", out.to_str().expect("text")]);
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn the_doctor_knows_the_bundled_model_and_says_why_another_does_not_run() {
    let output = run(&["doctor", "demo", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["runs"], &answer["model"]), (&true.into(), &"demo".into()));
    assert!(answer["needs"]["weights_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{answer}");
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&["doctor", folder.path().to_str().expect("text")]);
    assert!(output.status.code() == Some(1) && !text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}
