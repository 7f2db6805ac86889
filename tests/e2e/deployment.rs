//! Router and workers as processes of their own, with keys, limits and a deny list.

use crate::client::{chat, chat_body, get, joined, post_with, stream, try_get};
use crate::process::{Server, eventually, forebay};
use std::io::Write;
use std::process::Stdio;
use wire::headers::CACHE_SALT;

fn wait_ready(server: &Server) {
    eventually("ready", || try_get(&format!("{}/readyz", server.url)).is_ok_and(|answer| answer.status == 200));
}

#[test]
fn two_workers_share_the_load_and_one_may_die() {
    let (first, second) = (Server::start(&["worker", "demo"]), Server::start(&["worker", "demo"]));
    let router = Server::start(&["router", "--worker", &first.url, "--worker", &second.url]);
    let ready_workers = || {
        let text = get(&format!("{}/metrics", router.url)).text;
        text.lines().filter(|line| line.starts_with("forebay_router_worker_up") && line.ends_with(" 1")).count()
    };
    eventually("both workers are up", || ready_workers() == 2);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..40 {
        // Prompts that begin alike go to one worker.
        let answer = chat(&router.url, &format!("Hello {number}"), r#","max_tokens":1"#);
        assert_eq!(answer.status, 200, "{}", answer.text);
        seen.insert(answer.header("x-forebay-worker").to_owned());
    }
    assert_eq!(seen.len(), 2, "both workers answered: {seen:?}");
    second.signal("-KILL");
    for number in 0..20 {
        let answer = chat(&router.url, &format!("Hello {number}"), r#","max_tokens":1"#);
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    eventually("the dead worker is seen", || ready_workers() == 1);
}

/// The configuration of a tenant with this key.
fn tenant(name: &str, key: &str) -> String {
    let mut child =
        forebay().args(["policy", "hash-key"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    child.stdin.take().expect("piped").write_all(key.as_bytes()).expect("writes");
    let hash = String::from_utf8(child.wait_with_output().expect("ends").stdout).expect("text");
    format!("[[router.policy.tenants]]\nname = \"{name}\"\nkey_sha256 = [\"{}\"]\n", hash.trim())
}

#[test]
fn tenants_share_no_prefix_whatever_they_say_of_themselves() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("forebay.toml");
    std::fs::write(&path, tenant("one", "sk-one") + &tenant("two", "sk-two")).expect("writes");
    let worker = Server::start(&["worker", "demo"]);
    let router = Server::start(&["router", "--config", path.to_str().expect("text"), "--worker", &worker.url]);
    wait_ready(&router);
    let cached = |key: &str, body: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {key}");
        let headers: Vec<_> = more.iter().copied().chain([("authorization", bearer.as_str())]).collect();
        let answer = post_with(&format!("{}/v1/chat/completions", router.url), body, &headers);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("cached tokens")
    };
    let first = chat_body(&"What is a forebay? ".repeat(20), r#","max_tokens":1"#);
    assert_eq!(cached("sk-one", &first, &[]), 0);
    assert_eq!(cached("sk-two", &first, &[]), 0, "another tenant's prompt is nobody else's to find");
    assert!(cached("sk-one", &first, &[]) > 0);
    assert!(cached("sk-two", &first, &[]) > 0);
    // What the router calls its tenants is no secret: it does not help who says it himself.
    let one = policy::hash_key("one");
    let claims: [&[(&str, &str)]; 2] = [&[(CACHE_SALT, &one)], &[(CACHE_SALT, ""), (CACHE_SALT, &one)]];
    for (at, claim) in claims.into_iter().enumerate() {
        let body = chat_body(&format!("{at} {}", "And what is a penstock? ".repeat(20)), r#","max_tokens":1"#);
        assert_eq!(cached("sk-one", &body, &[]), 0);
        assert_eq!(cached("sk-two", &body, claim), 0, "{claim:?}");
        assert!(cached("sk-one", &body, &[(CACHE_SALT, "another")]) > 0);
    }
}

#[test]
fn keys_and_limits_are_enforced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("forebay.toml");
    std::fs::write(&path, tenant("one", "sk-one") + "requests_per_minute = 2\n").expect("writes");
    let server = Server::start(&["serve", "--config", path.to_str().expect("text")]);
    let url = format!("{}/v1/chat/completions", server.url);
    let body = chat_body("Hello", r#","max_tokens":1"#);
    for headers in [&[][..], &[("authorization", "Bearer sk-two")][..]] {
        let refused = post_with(&url, &body, headers);
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    let key = [("authorization", "Bearer sk-one")];
    let first = post_with(&url, &body, &key);
    assert_eq!((first.status, first.header("x-ratelimit-limit-requests")), (200, "2"), "{}", first.text);
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(post_with(&url, &body, &key).status, 200);
    let refused = post_with(&url, &body, &key);
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

/// As Kubernetes swaps a mounted ConfigMap: the file's directory is a symlink to another one.
#[test]
fn a_changed_file_changes_a_server_while_it_runs_and_a_wrong_one_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let current = dir.path().join("..data");
    let swap = |version: &str, text: &str| {
        let (place, link) = (dir.path().join(version), dir.path().join("next"));
        std::fs::create_dir(&place).expect("a directory");
        std::fs::write(place.join("forebay.toml"), text).expect("writes");
        std::os::unix::fs::symlink(&place, &link).expect("links");
        std::fs::rename(&link, &current).expect("swaps");
    };
    swap("1", &tenant("one", "sk-one"));
    let file = current.join("forebay.toml");
    let usage = dir.path().join("usage.jsonl");
    let setting = format!("router.usage.file={}", usage.display());
    let server = Server::start(&["serve", "--config", file.to_str().expect("text"), "--set", &setting]);
    let url = format!("{}/v1/chat/completions", server.url);
    let body = chat_body("Hello", r#","max_tokens":1"#);
    let status = |key: &str| post_with(&url, &body, &[("authorization", &format!("Bearer {key}"))]).status;
    assert_eq!((status("sk-one"), status("sk-two")), (200, 401));
    swap("2", &(tenant("one", "sk-one") + &tenant("two", "sk-two")));
    eventually("the second tenant", || status("sk-two") == 200);
    swap("3", "[router]\nin_flight_max = 7\n");
    let config = || get(&format!("{}/status", server.url)).json()["config"].clone();
    eventually("why the third is not in force", || {
        config()["problem"].as_str().is_some_and(|problem| problem.contains("in_flight_max"))
    });
    assert_eq!((status("sk-one"), status("sk-two")), (200, 200), "the second stays");
    swap("4", &tenant("two", "sk-two"));
    server.signal("-HUP");
    eventually("the second tenant alone", || status("sk-one") == 401);
    server.signal("-TERM");
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let records = std::fs::read_to_string(usage).expect("usage records");
    assert!(
        records.lines().count() >= 4 && records.lines().all(|line| line.starts_with('{') && line.ends_with('}')),
        "{records}"
    );
}

#[test]
fn a_deny_list_stops_prompts_and_output() {
    let open = Server::start(&["serve"]);
    let whole = chat(&open.url, "What is Forebay?", "").json();
    let text = whole["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    let phrase =
        text.split_whitespace().nth(3).expect("four words").trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let setting = format!(r#"router.policy.deny_list.phrases=["{phrase}"]"#);
    let screened = Server::start(&["serve", "--set", &setting]);
    let refused = chat(&screened.url, &format!("Tell me about {}", phrase.to_uppercase()), "");
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (400, Some("content_filter")),
        "{}",
        refused.text
    );
    let whole = chat(&screened.url, "What is Forebay?", "").json();
    assert_eq!(whole["choices"][0]["finish_reason"], "content_filter");
    let released = whole["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.starts_with(&released) && !released.contains(&phrase), "{released:?} of {text:?}");
    let (streamed, is_done) = joined(stream(&screened.url, "What is Forebay?", ""));
    assert_eq!((streamed, is_done), (released, true));
}

#[test]
fn a_worker_beyond_loopback_wants_a_key() {
    let output = forebay().args(["worker", "demo", "--listen", "0.0.0.0:0"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("api_key"), "{text}");
}

#[test]
fn a_router_says_503_while_its_workers_are_gone() {
    let router = Server::start(&["router", "--worker", "http://127.0.0.1:9"]);
    assert_eq!(get(&format!("{}/livez", router.url)).status, 200);
    assert_eq!(get(&format!("{}/readyz", router.url)).status, 503);
    let worker = Server::start(&["worker", "demo"]);
    let router = Server::start(&["router", "--worker", &worker.url]);
    wait_ready(&router);
    drop(worker);
    let refused = chat(&router.url, "Hello", "");
    assert!(refused.status == 503 || refused.status == 502, "{}", refused.text);
    eventually("503 with a retry time", || {
        let refused = chat(&router.url, "Hello", "");
        refused.status == 503 && !refused.header("retry-after").is_empty()
    });
}
