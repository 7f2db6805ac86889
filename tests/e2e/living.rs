//! Starting and ending, and what is printed when something is in the way.

use crate::client::{get, try_get};
use crate::process::{LIMIT, Server, eventually, forebay, run};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An origin that takes requests and never answers: whoever loads from it waits.
fn silent_origin() -> (String, std::thread::JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}/model/", socket.local_addr().expect("bound"));
    let held = std::thread::spawn(move || {
        let _streams: Vec<_> = socket.incoming().map_while(Result::ok).take(64).collect();
    });
    (url, held)
}

fn kill(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

fn wait(mut child: Child) -> (ExitStatus, String) {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waits") {
            break status;
        }
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("still running");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let mut log = String::new();
    child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut log));
    (status, log)
}

/// A server that loads for ever; returns when its liveness answers.
fn start_loading(port: u16) -> (Child, String) {
    let (origin, _held) = silent_origin();
    let listen = format!("127.0.0.1:{port}");
    let child = forebay()
        .args(["serve", &origin, "--listen", &listen])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    (child, format!("http://{listen}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port()
}

#[test]
fn a_server_lives_while_it_loads_and_a_signal_ends_it_in_order() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, url) = start_loading(free_port());
        eventually("liveness", || try_get(&format!("{url}/livez")).is_ok_and(|answer| answer.status == 200));
        assert_eq!(get(&format!("{url}/readyz")).status, 503);
        assert!(child.try_wait().expect("waits").is_none());
        // Nothing is said of listening while no request would be answered.
        let stdout = child.stdout.take().expect("piped");
        kill(&child, signal);
        let (status, log) = wait(child);
        assert_eq!(status.code(), Some(0), "{log}");
        let said: Vec<String> = BufReader::new(stdout).lines().map_while(Result::ok).collect();
        assert_eq!(said, Vec::<String>::new());
    }
}

#[test]
fn a_busy_port_and_a_wrong_tenant_are_found_before_anything_is_loaded() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = busy.local_addr().expect("bound").to_string();
    let (origin, _held) = silent_origin();
    for args in [
        &["serve", &origin, "--listen", &address][..],
        &["worker", &origin, "--listen", &address],
        &["serve", &origin, "--listen", "0", "--set", "router.policy.tenants=[{name=\"a b\",key_sha256=[]}]"],
        &["serve", &origin, "--listen", "0", "--set", "worker.max_num_seqs=0"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stderr));
        assert!(!text(&output.stdout).contains("listening"), "{args:?}");
    }
}

#[test]
fn signals_by_which_others_open_new_logs_do_not_end_a_server() {
    let server = Server::start(&["serve"]);
    for signal in ["-HUP", "-USR1", "-USR2"] {
        server.signal(signal);
        assert_eq!(get(&format!("{}/livez", server.url)).status, 200, "{signal}");
    }
    server.signal("-TERM");
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn the_same_signal_at_once_is_one_and_a_later_one_ends_at_once() {
    use crate::client::stream;
    let server = Server::start(&["serve", "--set", "router.listen.drain_notice_ms=60000"]);
    let url = server.url.clone();
    let mut events = stream(&url, "What is Forebay?", r#","ignore_eos":true,"max_tokens":1500"#);
    events.next().expect("a first event");
    // `timeout` sends its signal to the process, and to its group.
    server.signal("-TERM");
    server.signal("-TERM");
    eventually("a drain", || try_get(&format!("{url}/readyz")).is_ok_and(|answer| answer.status == 503));
    assert!(events.next().is_some(), "streams go on");
    std::thread::sleep(std::time::Duration::from_millis(150));
    server.signal("-INT");
    let (status, log) = server.wait();
    assert!(status.code() == Some(1) && log.contains("second signal"), "{status:?}: {log}");
}

#[test]
fn a_command_that_a_signal_ends_says_so_by_its_code() {
    let (origin, _held) = silent_origin();
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let cache = tempfile::tempdir().expect("a directory");
        let child = forebay()
            .args(["pull", &origin])
            .env("FOREBAY_CACHE", cache.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        // The signal is watched for from the command's first moment within the runtime.
        let watches = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).map(str::to_owned);
            caught.and_then(|mask| u64::from_str_radix(&mask, 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
        };
        eventually("signals are watched for", watches);
        kill(&child, signal);
        let (status, log) = wait(child);
        assert_eq!(status.code(), Some(code), "{log}");
    }
}

/// Commands that print without needing a server.
const PRINTING: [&[&str]; 9] = [
    &["--help"],
    &["--version"],
    &["help", "serve"],
    &["config", "docs"],
    &["config", "schema"],
    &["config", "show"],
    &["completions", "bash"],
    &["cache", "ls"],
    &["cache", "ls", "--json"],
];

#[test]
fn nobody_panics_where_nobody_reads_or_nothing_can_be_written() {
    let cache = tempfile::tempdir().expect("a directory");
    for args in PRINTING {
        let command = || {
            let mut command = forebay();
            command.args(args).env("FOREBAY_CACHE", cache.path()).stdin(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command().stdout(writer).output().expect("runs");
        let log = text(&output.stderr);
        assert_eq!((output.status.code(), log.as_str()), (Some(0), ""), "{args:?} without a reader");

        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command().stdout(full).output().expect("runs");
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?} on a full disk: {log}");
        assert!(log.contains("standard output") && !log.contains("panicked"), "{args:?}: {log}");

        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let both = full.try_clone().expect("clones");
        let output = command().stdout(full).stderr(both).output().expect("runs");
        assert_eq!(output.status.code(), Some(1), "{args:?} where no error can be said either");
    }
}

#[test]
fn an_environment_that_is_no_text_is_no_panic() {
    let strange = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let output = forebay().args(["config", "show"]).env("STRANGE", strange).env(strange, "x").output().expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in ["FOREBAY_WORKER__API_KEY", "FOREBAY_LOG", "FOREBAY_URL"] {
        let output = forebay().args(["models"]).env(name, strange).output().expect("runs");
        let log = text(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code > 0) && !log.contains("panicked"), "{name}: {log}");
    }
}

#[test]
fn a_failure_is_json_where_json_was_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().to_str().expect("text");
    for (args, code) in [
        (&["models", "--url", "http://127.0.0.1:9", "--json"][..], 1),
        (&["pull", "http://127.0.0.1:9/m/", "--json"], 1),
        (&["plan", "./nowhere", "--json"], 1),
        (&["verify", "./nowhere", "--json"], 1),
        (&["cache", "rm", "nothing", "--json"], 1),
        (&["eval", "load", "http://127.0.0.1:9", "--json"], 1),
        (&["eval", "load", "no-address", "--json"], 2),
        (&["models", "--novelty", "--json"], 2),
    ] {
        let output = forebay().args(args).env("FOREBAY_CACHE", cache).stdin(Stdio::null()).output().expect("runs");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert!(json["error"]["message"].as_str().is_some_and(|message| message.len() > 8), "{args:?}: {json}");
        assert!(!output.stderr.is_empty(), "{args:?}: people read standard error");
    }
}

#[test]
fn a_wrong_flag_or_model_is_answered_with_the_right_one() {
    for (args, hint) in [
        (&["serve", "--port", "8000"][..], "--listen 127.0.0.1:8000"),
        (&["serve", "--host", "0.0.0.0"], "--listen 0.0.0.0:8080"),
        (&["serve", "--model", "x"], "forebay serve x"),
        (&["worker", "demo", "--port", "1"], "--listen"),
        (&["router", "--port", "1"], "--listen"),
        (&["models", "--port", "8000"], "--url http://127.0.0.1:8000"),
        (&["chat", "--port", "8000", "hi"], "--url http://127.0.0.1:8000"),
        (&["serve", "--listen", ":8080"], "0.0.0.0:8080"),
        (&["serve", "Qwen/Qwen3-0.6B"], "hf://Qwen/Qwen3-0.6B"),
        (&["serve", "mine=Qwen/Qwen3-0.6B"], "hf://Qwen/Qwen3-0.6B"),
        (&["chat", "--model", "Qwen/Qwen3-0.6B", "hi"], "hf://Qwen/Qwen3-0.6B"),
        (&["pull", "Qwen/Qwen3-0.6B"], "hf://Qwen/Qwen3-0.6B"),
        (&["plan", "Qwen/Qwen3-0.6B"], "hf://Qwen/Qwen3-0.6B"),
        (&["manifest", "Qwen/Qwen3-0.6B"], "hf://Qwen/Qwen3-0.6B"),
    ] {
        let output = run(args);
        assert!(!output.status.success(), "{args:?}");
        assert!(text(&output.stderr).contains(hint), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_port_alone_and_localhost_are_addresses() {
    for listen in ["0", "localhost:0"] {
        let server = Server::start_at(&["router", "--worker", "http://127.0.0.1:9"], listen, &[]);
        assert_eq!(get(&format!("{}/livez", server.url)).status, 200);
    }
}

#[test]
fn a_variable_with_one_underscore_is_named_with_its_right_name() {
    let output = forebay().args(["config", "show"]).env("FOREBAY_ROUTER_LISTEN", "x").output().expect("runs");
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("FOREBAY_ROUTER_LISTEN") && log.contains("FOREBAY_ROUTER__LISTEN__ADDRESS"), "{log}");
    let output = forebay().args(["config", "show"]).env("FOREBAY_CONFG", "x").output().expect("runs");
    assert!(output.status.success() && text(&output.stderr).contains("FOREBAY_CONFIG"), "{}", text(&output.stderr));
}

#[test]
fn the_configuration_is_shown_without_secrets_and_only_if_it_is_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("forebay.toml");
    let digest = policy::hash_key("canary");
    let config = format!(
        "[telemetry]\notlp_endpoint = \"http://u:canary@127.0.0.1:9\"\n[worker]\napi_key = \"canary\"\n\
         [router.policy.deny_list]\nphrases = [\"canary\"]\n\
         [[router.policy.tenants]]\nname = \"red\"\nkey_sha256 = [\"{digest}\"]\n"
    );
    File::create(&path).and_then(|mut file| file.write_all(config.as_bytes())).expect("writes");
    let shown = |more: &[&str]| {
        let file = path.to_str().expect("text");
        forebay().args(["config", "show", "--config", file]).args(more).output().expect("runs")
    };
    let output = shown(&[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(!all.contains("canary") && !all.contains(&digest) && all.contains("red"), "{all}");
    for (setting, named) in [
        ("router.policy.tenants=[{name=\"a b\",key_sha256=[]}]", "tenants[0].name"),
        ("worker.max_num_seqs=0", "max_num_seqs"),
        ("router.workers=[\"ftp://x\"]", "workers[0]"),
        ("trust.keys=[\"x\"]", "trust.keys[0]"),
        ("telemetry.log_filter=a=b=c", "log filter"),
    ] {
        let output = shown(&["--set", setting]);
        assert_eq!(output.status.code(), Some(1), "{setting}");
        assert!(text(&output.stderr).contains(named), "{setting}: {}", text(&output.stderr));
    }
}

#[test]
fn a_proxy_that_is_not_spoken_to_stops_only_what_would_go_through_it() {
    let proxied = [("ALL_PROXY", "socks5://127.0.0.1:9")];
    let server = Server::start_with(&["serve"], &proxied);
    assert_eq!(get(&format!("{}/readyz", server.url)).status, 200);
    let output = forebay().args(["pull", "https://models.invalid/x/"]).envs(proxied).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("ALL_PROXY") && told.contains("socks5"), "{told}");
}
