//! The right to read: the hub's word to each caller, by its own token.

use crate::harness::{CONFIG, REPOSITORY, Running, file, hub, start};
use testkit::origin::{Access, Builder};

const RIGHT: (&str, &str) = ("Authorization", "Bearer hf_right");
const WRONG: (&str, &str) = ("Authorization", "Bearer hf_wrong");

fn closed(private: bool) -> Builder {
    let rule = vec![(REPOSITORY.to_owned(), "hf_right".to_owned())];
    let access = match private {
        true => Access { private: rule, ..Access::default() },
        false => Access { gated: rule, ..Access::default() },
    };
    hub().access(access)
}

async fn refused(running: &Running, headers: &[(&str, &str)]) -> (u16, String) {
    let answers = [
        running.ask("HEAD", &file("config.json"), headers).await,
        running.ask("GET", &file("config.json"), headers).await,
        running.ask("GET", &file("config.json"), &[headers, &[("Range", "bytes=0-1")]].concat()).await,
    ];
    let told = answers.map(|answer| {
        assert!(!answer.body.windows(CONFIG.len()).any(|part| part == CONFIG), "bytes in a refusal: {answer:?}");
        (answer.status, answer.header("x-error-code").to_owned())
    });
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    told[0].clone()
}

#[tokio::test]
async fn a_closed_repository_is_its_token_holders_alone_however_warm_the_cache_is() {
    for (is_private, anonymous, wrong) in
        [(true, (401, "RepoNotFound"), (404, "RepoNotFound")), (false, (401, "GatedRepo"), (403, "GatedRepo"))]
    {
        let origin = closed(is_private).start().expect("a hub");
        let running = start(&origin.url(), |_| {}).await;
        for _ in 0..2 {
            assert_eq!(refused(&running, &[]).await, (anonymous.0, anonymous.1.to_owned()));
            assert_eq!(refused(&running, &[WRONG]).await, (wrong.0, wrong.1.to_owned()));
            let answer = running.ask("GET", &file("config.json"), &[RIGHT]).await;
            assert_eq!((answer.status, answer.body.as_slice()), (200, CONFIG));
        }
        let info = format!("/api/models/{REPOSITORY}/revision/main");
        assert_eq!(running.get(&info).await.status, anonymous.0);
        assert_eq!(running.ask("GET", &info, &[RIGHT]).await.status, 200);
    }
}

#[tokio::test]
async fn the_nodes_own_token_opens_nothing_for_others() {
    let origin = closed(true).start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.environment = vec![("HF_TOKEN", "hf_right")]).await;
    assert_eq!(refused(&running, &[]).await.0, 401);
    assert_eq!(refused(&running, &[WRONG]).await.0, 404);
}

#[tokio::test]
async fn a_malformed_token_is_nobodys() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    for wrong in ["Basic aGk6aGk=", "Bearer", "hf_right"] {
        assert_eq!(refused(&running, &[("Authorization", wrong)]).await.0, 401, "{wrong}");
    }
    assert_eq!(origin.account().requests, 0, "the hub was not asked");
}

#[tokio::test]
async fn a_yes_is_kept_for_its_time_and_for_its_caller() {
    let origin = closed(true).start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let asked = || running.metric("forebay_node_hub_answers_total{outcome=\"allowed\"}");
    running.ask("HEAD", &file("config.json"), &[RIGHT]).await;
    assert_eq!(asked(), 1.0);
    running.ask("GET", &file("config.json"), &[RIGHT]).await;
    running.ask("GET", &file("config.json"), &[RIGHT]).await;
    assert_eq!(asked(), 1.0, "the yes to the head counts for what follows it");
    // Without a head before: nothing but the hub's own word makes it theirs.
    for headers in [&[][..], &[WRONG]] {
        let answer = running.ask("GET", &file("config.json"), headers).await;
        assert!(matches!(answer.status, 401 | 404) && answer.body != CONFIG, "{headers:?}: {answer:?}");
    }
    assert_eq!(asked(), 1.0);
    running.ask("HEAD", &file("config.json"), &[RIGHT]).await;
    assert_eq!(asked(), 2.0, "a branch is asked for again");
    let hasty = start(&origin.url(), |settings| settings.node.right_ms = 0).await;
    for count in 1..4 {
        hasty.ask("GET", &file("config.json"), &[RIGHT]).await;
        assert_eq!(hasty.metric("forebay_node_hub_answers_total{outcome=\"allowed\"}"), f64::from(count));
    }
}

#[tokio::test]
async fn the_memory_of_yeses_is_bounded() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.node.rights_max = 3).await;
    for number in 0..20 {
        let token = format!("Bearer hf_{number}");
        let answer = running.ask("HEAD", &file("config.json"), &[("Authorization", &token)]).await;
        assert_eq!(answer.status, 200);
        assert!(running.metric("forebay_node_rights") <= 3.0);
    }
}

#[tokio::test]
async fn a_page_in_a_browser_reads_nothing_under_any_name() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    for path in
        [file("config.json"), format!("/api/models/{REPOSITORY}"), "/status".into(), "/models".into(), "/".into()]
    {
        for header in [
            ("Host", "evil.example"),
            ("Host", "127.0.0.1.evil.example:8083"),
            ("Origin", "http://evil.example"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let answer = running.ask("GET", &path, &[header]).await;
            assert_eq!(answer.status, 403, "{path} {header:?}");
        }
    }
    let named = running.ask("GET", &file("config.json"), &[("Host", "localhost:8083")]).await;
    assert_eq!((named.status, named.body.as_slice()), (200, CONFIG));
}
