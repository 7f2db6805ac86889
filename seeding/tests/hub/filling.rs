//! Misses: how the cache is filled, and what of it a client sees when.

use crate::harness::{
    CONFIG, REPOSITORY, WEIGHTS, eventually, file, hub, proven_hub, proven_hub_with, start, weights, weights_of,
};
use std::time::Duration;
use testkit::origin::{BitFlip, Faults};
use wire::EXTENT_BYTES;

const EXTENT: usize = EXTENT_BYTES as usize;

fn weights_name() -> String {
    format!("{REPOSITORY}/{WEIGHTS}")
}

/// Lets the file come slowly.
fn slow() -> Faults {
    Faults { total_bytes_per_second: Some(2_000_000), ..Faults::default() }
}

#[tokio::test]
async fn a_file_is_fetched_once_however_many_ask_for_it() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    let path = file(WEIGHTS);
    let answers = futures_util::future::join_all((0..8).map(|_| running.get(&path))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == weights()));
    assert!(running.get(&path).await.body == weights());
    let fetched = origin.account().objects[&weights_name()].bytes_sent;
    // The header is read twice, to be sure of it.
    assert!(fetched <= weights().len() as u64 + (512 << 10), "{fetched}");
    running.filled().await;
    assert_eq!(running.metric("forebay_node_fills_total{outcome=\"done\"}"), 1.0);
}

#[tokio::test]
async fn proven_bytes_are_sent_as_they_land() {
    let origin = proven_hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    origin.set_faults(slow());
    let mut conversation = running.open("GET", &file(WEIGHTS), &[]).await;
    let come = conversation.read_body(EXTENT).await;
    assert!(come == weights()[..come.len()] && come.len() < weights().len(), "{} bytes came", come.len());
    origin.set_faults(Faults::default());
    let answer = conversation.read().await;
    assert!(answer.body == weights(), "the rest comes");
}

#[tokio::test]
async fn of_a_file_that_is_known_as_a_whole_nothing_is_sent_before_it_is_proven() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    origin.set_faults(slow());
    let mut conversation = running.open("GET", &file(WEIGHTS), &[]).await;
    assert!(conversation.is_silent(Duration::from_millis(500)).await, "unproven bytes came");
    origin.set_faults(Faults::default());
    assert!(conversation.read().await.body == weights());
}

#[tokio::test]
async fn wrong_bytes_never_reach_a_client() {
    for hub in [hub(), proven_hub()] {
        let place = EXTENT_BYTES + 77;
        let flip = BitFlip { object: weights_name(), offset: place, bit: 3, times: None };
        let origin = hub.faults(Faults { flips: vec![flip], ..Faults::default() }).start().expect("a hub");
        let running = start(&origin.url(), |_| {}).await;
        let answer = running.get(&file(WEIGHTS)).await;
        let all = weights();
        assert!(answer.body.len() < all.len(), "an answer that looks whole");
        assert!(answer.status == 502 || all.starts_with(&answer.body), "wrong bytes");
        // Once the hub is right again, so is the answer.
        origin.set_faults(Faults::default());
        assert!(running.get(&file(WEIGHTS)).await.body == all);
    }
}

#[tokio::test]
async fn a_fill_goes_on_when_its_client_has_left() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |_| {}).await;
    origin.set_faults(slow());
    let mut conversation = running.open("GET", &file(WEIGHTS), &[]).await;
    assert!(conversation.is_silent(Duration::from_millis(200)).await);
    drop(conversation);
    eventually("the body is gone", || running.metric("forebay_node_bodies") == 0.0).await;
    origin.set_faults(Faults::default());
    eventually("the fill is done", || running.metric("forebay_node_fills_total{outcome=\"done\"}") == 1.0).await;
}

#[tokio::test]
async fn a_fill_that_nobody_comes_back_for_ends_and_is_resumed_later() {
    let all = weights_of(8);
    let origin = proven_hub_with(all.clone()).start().expect("a hub");
    let running = start(&origin.url(), |settings| {
        settings.node.abandoned_fill_ms = 100;
        let fetch = &mut settings.loader.fetch;
        (fetch.concurrency_min, fetch.concurrency_start, fetch.concurrency_max) = (1, 1, 1);
    })
    .await;
    origin.set_faults(Faults { total_bytes_per_second: Some(8_000_000), ..Faults::default() });
    let mut conversation = running.open("GET", &file(WEIGHTS), &[]).await;
    conversation.read_body(EXTENT).await;
    origin.set_faults(Faults { total_bytes_per_second: Some(10_000), ..Faults::default() });
    drop(conversation);
    let abandoned = "forebay_node_fills_total{outcome=\"abandoned\"}";
    eventually("the fill is given up", || running.metric(abandoned) == 1.0).await;
    eventually("its place is free", || running.metric("forebay_node_filling") == 0.0).await;
    origin.set_faults(Faults::default());
    origin.reset_account();
    assert!(running.get(&file(WEIGHTS)).await.body == all);
    let fetched = origin.account().objects[&weights_name()].bytes_sent;
    assert!(fetched < all.len() as u64, "{fetched}: what was here is not fetched again");
}

#[tokio::test]
async fn what_is_cached_waits_for_no_fill() {
    let origin = hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| {
        settings.node.fills_max = 1;
        settings.node.idle_open_ms = 1;
    })
    .await;
    assert_eq!(running.get(&file("config.json")).await.body, CONFIG);
    eventually("the file is closed", || running.metric("forebay_node_open") == 0.0).await;
    origin.set_faults(slow());
    let mut filling = running.open("GET", &file(WEIGHTS), &[]).await;
    assert!(filling.is_silent(Duration::from_millis(200)).await);
    assert_eq!(running.metric("forebay_node_filling"), 1.0);
    assert_eq!(running.get(&file("config.json")).await.body, CONFIG);
}

#[tokio::test]
async fn a_cache_without_room_is_no_reason_not_to_answer() {
    let origin = hub().start().expect("a hub");
    for quota in [true, false] {
        let running = start(&origin.url(), |settings| match quota {
            true => settings.loader.cache.quota_bytes = Some(1 << 20),
            false => settings.loader.cache.enabled = false,
        })
        .await;
        assert!(running.get(&file(WEIGHTS)).await.body == weights(), "quota: {quota}");
        assert_eq!(running.get(&file("README.md")).await.body, b"# tiny\n");
    }
}

#[tokio::test]
async fn small_files_of_a_cached_model_are_those_that_its_manifest_proved() {
    let origin = proven_hub().start().expect("a hub");
    let running = start(&origin.url(), |settings| settings.trust.require_proof = true).await;
    assert_eq!(running.get(&file("README.md")).await.status, 403, "nothing proves it");
    let config = running.get(&file("config.json")).await;
    assert_eq!((config.status, config.body.as_slice()), (200, CONFIG), "the model's manifest proves it");
}
