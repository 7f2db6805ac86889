//! The hub is away: what is cached and was allowed still answers.

use crate::harness::{CONFIG, REPOSITORY, Running, WEIGHTS, file, hub, proven_hub, start, weights};
use seeding::hub::Named;
use std::time::Duration;
use testkit::origin::{Access, Faults, Origin, Script};

const RIGHT: (&str, &str) = ("Authorization", "Bearer hf_right");

/// A node that has served the repository, with the hub gone.
async fn left_alone(origin: Origin, headers: &[(&str, &str)]) -> (Running, String) {
    let url = origin.url();
    let running = start(&url, |_| {}).await;
    let sha = warm(&running, headers).await;
    drop(origin);
    (running, sha)
}

async fn warm(running: &Running, headers: &[(&str, &str)]) -> String {
    let info = running.ask("GET", &format!("/api/models/{REPOSITORY}/revision/main"), headers).await.json();
    let sha = info["sha"].as_str().expect("a commit").to_owned();
    let tree = format!("/api/models/{REPOSITORY}/tree/{sha}?recursive=true&expand=false");
    assert_eq!(running.ask("GET", &tree, headers).await.status, 200);
    for name in ["config.json", WEIGHTS] {
        assert_eq!(running.ask("GET", &file(name), headers).await.status, 200, "{name}");
    }
    let lacking = running.ask("HEAD", &file("adapter_config.json"), headers).await;
    assert_eq!(lacking.status, 404);
    sha
}

/// Asks for everything that was asked for before.
async fn check_answers(running: &Running, sha: &str, headers: &[(&str, &str)]) {
    for revision in ["main", sha] {
        let path = |name: &str| format!("/{REPOSITORY}/resolve/{revision}/{name}");
        let head = running.ask("HEAD", &path("config.json"), headers).await;
        assert_eq!((head.status, head.header("x-repo-commit")), (200, sha), "{revision}: {head:?}");
        let config = running.ask("GET", &path("config.json"), headers).await;
        assert_eq!((config.status, config.body.as_slice()), (200, CONFIG), "{revision}");
        assert!(running.ask("GET", &path(WEIGHTS), headers).await.body == weights(), "{revision}");
        let lacking = running.ask("HEAD", &path("adapter_config.json"), headers).await;
        assert_eq!((lacking.status, lacking.header("x-error-code")), (404, "EntryNotFound"), "{revision}");
        let info = running.ask("GET", &format!("/api/models/{REPOSITORY}/revision/{revision}"), headers).await;
        assert_eq!((info.status, info.json()["sha"].as_str()), (200, Some(sha)), "{revision}");
    }
    let tree = format!("/api/models/{REPOSITORY}/tree/{sha}?recursive=true&expand=false");
    assert_eq!(running.ask("GET", &tree, headers).await.status, 200);
}

#[tokio::test]
async fn what_is_cached_still_answers_by_branch_and_by_commit() {
    let (running, sha) = left_alone(hub().start().expect("a hub"), &[]).await;
    check_answers(&running, &sha, &[]).await;
    // Neither known nor known to be absent.
    let unknown = running.get("/org/other/resolve/main/config.json").await;
    assert_eq!(unknown.status, 503);
    assert_ne!(unknown.header("retry-after"), "");
    // Known from the tree, and not cached.
    assert_eq!(running.get(&file("README.md")).await.status, 503);
    assert_eq!(running.get(&file("nowhere.json")).await.status, 404, "the tree does not list it");
}

#[tokio::test]
async fn a_restart_forgets_nothing_of_it() {
    let (running, sha) = left_alone(hub().start().expect("a hub"), &[]).await;
    let again = running.again("http://127.0.0.1:9", |_| {}).await;
    check_answers(&again, &sha, &[]).await;
    let offline = again.again("http://127.0.0.1:9", |settings| settings.loader.offline = true).await;
    check_answers(&offline, &sha, &[]).await;
}

#[tokio::test]
async fn a_closed_repository_answers_those_alone_that_the_hub_let_in() {
    let rule = vec![(REPOSITORY.to_owned(), "hf_right".to_owned())];
    for access in
        [Access { private: rule.clone(), ..Access::default() }, Access { gated: rule.clone(), ..Access::default() }]
    {
        let (running, sha) = left_alone(hub().access(access).start().expect("a hub"), &[RIGHT]).await;
        check_answers(&running, &sha, &[RIGHT]).await;
        for headers in [&[][..], &[("Authorization", "Bearer hf_wrong")]] {
            for path in [
                file("config.json"),
                file("adapter_config.json"),
                format!("/api/models/{REPOSITORY}"),
                format!("/{REPOSITORY}/resolve/{sha}/{WEIGHTS}"),
            ] {
                assert_eq!(running.ask("GET", &path, headers).await.status, 503, "{path} {headers:?}");
            }
        }
        // Who may read it is known to the process that asked, and to no other.
        let again = running.again("http://127.0.0.1:9", |_| {}).await;
        assert_eq!(again.ask("GET", &file("config.json"), &[RIGHT]).await.status, 503);
    }
}

#[tokio::test]
async fn a_token_does_not_make_an_open_repository_closed() {
    let (running, sha) = left_alone(hub().start().expect("a hub"), &[RIGHT]).await;
    let again = running.again("http://127.0.0.1:9", |_| {}).await;
    check_answers(&again, &sha, &[]).await;
}

#[tokio::test]
async fn a_hub_that_fails_or_stalls_is_away() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.node.hub_timeout_ms = 300).await;
    warm(&running, &[]).await;
    for faults in
        [Faults { unavailable: 1.0, ..Faults::default() }, Faults { first_byte_ms: 60_000.0, ..Faults::default() }]
    {
        origin.set_faults(faults);
        let head = running.head(&file("config.json")).await;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(running.get(&file("config.json")).await.body, CONFIG);
    }
    assert_eq!(running.head(&file("README.md")).await.status, 503);
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_not_an_outage() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.node.right_ms = 0).await;
    warm(&running, &[]).await;
    let refuse = |status| testkit::origin::Fault::Status { status, retry_after_seconds: None };
    for status in [401, 403] {
        let scripts = vec![Script::always(&format!("{REPOSITORY}/config.json"), refuse(status))];
        origin.set_faults(Faults { scripts, ..Faults::default() });
        assert_eq!(running.get(&file("config.json")).await.status, status);
    }
    drop(origin);
    assert_eq!(running.get(&file("config.json")).await.status, 503, "it was closed since");
}

#[tokio::test]
async fn a_model_that_the_operator_names_is_for_all_without_the_hub() {
    let origin = proven_hub().start().expect("a hub");
    let url = origin.url();
    let named = || Named { name: "tiny".into(), url: format!("hf://{REPOSITORY}").parse().expect("a URL") };
    let environment = vec![("HF_ENDPOINT", Box::leak(url.clone().into_boxed_str()) as &str)];
    let running = start(&url, |settings| {
        settings.models = vec![named()];
        settings.environment = environment;
    })
    .await;
    let is_ready = || async { running.get("/models").await.json()["models"][0]["state"] == "ready" };
    while !is_ready().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(origin);
    assert!(running.get("/models/tiny/model.safetensors").await.body == weights());
    let again = running
        .again("http://127.0.0.1:9", |settings| {
            settings.models = vec![named()];
            settings.loader.offline = true;
        })
        .await;
    assert_eq!(again.get(&file("config.json")).await.body, CONFIG);
    assert_eq!(again.get(&file("tokenizer.json")).await.status, 404, "a load looks for it");
    assert_eq!(again.get(&file("README.md")).await.status, 503, "and not for this");
}
