//! The short queue: polite refusals, floods, slow readers, quiet hours, and eviction while a body is sent.

use super::client::{Client, Connection, LIMIT};
use super::model::{Model, content};
use super::{PEER, Running, start};
use seeding::Role;
use seeding::governor::Rate;
use std::time::{Duration, Instant};
use testkit::origin::Faults;

/// So slow that nothing that is asked for is ever sent whole.
const CRAWL: Option<u64> = Some(1_000);

fn second(running: &Running) -> Client {
    running.client(&running.authority.sign(PEER))
}

/// Asks for extents and reads nothing.
async fn hold(client: &Client, model: &Model, extents: std::ops::Range<u64>) -> Connection {
    let (path, range) = model.ask(extents);
    client.send("GET", &path, &[("range", &range)]).await.expect("sends")
}

/// Waits for a condition.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

/// Waits until so many extents are in the queue.
async fn queued(running: &Running, extents: u32) {
    eventually("the queue", async || running.seeder.status().queue_extents == extents).await;
}

/// Waits until weights are on their way to a peer.
async fn sending(running: &Running) {
    eventually("the first bytes", async || running.seeder.sent_bytes() > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_again_and_who_took_the_extent() {
    let running = start(|config| config.queue_extents_max = 2).await;
    let model = Model::new(8);
    let _sharing = running.share(&model).await;
    let (path, range) = model.ask(0..1);
    let taker = [("range", range.as_str()), ("forebay-member", "taker:8082")];
    assert_eq!(running.peer().get(&path, &taker).await.status, 206);
    running.seeder.govern(Rate(1_000), Rate(1_000), None);
    let (one, two) = (running.peer(), second(&running));
    let _first = hold(&one, &model, 4..5).await;
    queued(&running, 1).await;
    let _second = hold(&two, &model, 5..6).await;
    queued(&running, 2).await;
    let answer = second(&running).get(&path, &[("range", &range)]).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("forebay-peers"), Some("taker:8082"));
    let after_ms: u64 = answer.header("forebay-retry-after-ms").expect("a time").parse().expect("a number");
    assert!((10..=5_000).contains(&after_ms), "{after_ms}");
    assert_eq!(answer.header("retry-after"), Some("5"));
    let own = second(&running).get(&path, &taker).await;
    assert_eq!((own.status, own.header("forebay-peers")), (503, None), "nobody is sent to itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_copies_go_before_second_ones() {
    let running = start(|config| config.queue_extents_max = 4).await;
    let model = Model::new(8);
    let _sharing = running.share(&model).await;
    assert_eq!(running.peer().extents(&model.ask(0..1)).await.status, 206);
    running.seeder.govern(Rate(1_000), Rate(1_000), None);
    let _held = hold(&running.peer(), &model, 4..6).await;
    queued(&running, 2).await;
    assert_eq!(second(&running).extents(&model.ask(0..1)).await.status, 503, "a second copy of a busy sender");
    let _first = hold(&second(&running), &model, 1..2).await;
    queued(&running, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_peer_keeps_no_other_out() {
    let running = start(|config| (config.bytes_per_second_max, config.queue_extents_max) = (CRAWL, 4)).await;
    let model = Model::new(20);
    let _sharing = running.share(&model).await;
    let flood = running.peer();
    let mut held = Vec::new();
    for extent in 0..16 {
        held.push(hold(&flood, &model, extent..extent + 1).await);
    }
    queued(&running, 2).await;
    let _other = hold(&second(&running), &model, 16..17).await;
    queued(&running, 3).await;
    assert_eq!(flood.extents(&model.ask(17..18)).await.status, 503);
    assert!(running.registry.render().contains("forebay_seeding_queue_extents"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_its_places_and_others_are_served() {
    let running = start(|config| config.queue_extents_max = 1).await;
    let model = Model::new(10);
    let _sharing = running.share(&model).await;
    let _slow = hold(&running.peer(), &model, 0..4).await;
    let begun = Instant::now();
    eventually("served", async || second(&running).extents(&model.ask(5..6)).await.status == 206).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_quiet_hours_nothing_is_sent() {
    let running = start(|config| config.quiet_hours = vec!["00:00-24:00".into()]).await;
    let model = Model::new(1);
    let _sharing = running.share(&model).await;
    let answer = tokio::time::timeout(LIMIT, async {
        loop {
            let answer = running.peer().extents(&model.ask(0..1)).await;
            if answer.status == 503 {
                return answer;
            }
        }
    });
    let answer = answer.await.expect("the clock was looked at");
    assert_eq!(answer.header("forebay-retry-after-ms"), Some("500"));
    assert_eq!(running.peer().get(&model.path("manifest"), &[]).await.status, 200, "what is here may be known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_makes_peers_wait_and_sends_nobody_away() {
    let (running, model) = (start(|_| ()).await, Model::new(2));
    let _sharing = running.share(&model).await;
    running.seeder.govern(Rate::NONE, Rate(1 << 30), None);
    let (peer, ask) = (running.peer(), model.ask(0..1));
    let waiting = tokio::spawn(async move { peer.extents(&ask).await.status });
    queued(&running, 1).await;
    assert_eq!(running.seeder.sent_bytes(), 0);
    running.seeder.govern(Rate(1 << 30), Rate(1 << 30), None);
    assert_eq!(waiting.await.expect("ends"), 206);
    running.seeder.govern(Rate::NONE, Rate::NONE, None);
    assert_eq!(second(&running).extents(&model.ask(0..1)).await.status, 503, "that is no pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_kept() {
    let running = start(|config| config.bytes_per_second_max = Some(8 << 20)).await;
    let model = Model::new(3);
    let _sharing = running.share(&model).await;
    let begun = Instant::now();
    assert_eq!(running.peer().extents(&model.ask(0..2)).await.status, 206);
    // 8 MiB but for a first burst.
    assert!(begun.elapsed() > Duration::from_millis(800), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_the_cache_is_not_evicted_while_it_is_sent() {
    let (model, cache) = (Model::new(6), tempfile::tempdir().expect("a directory"));
    let origin = model.origin(Faults::default());
    let (loader, load) = model.load(&origin, Some(cache.path())).await;
    assert!(load.finished().await.expect("finishes").kept);
    drop(load);
    let running = start(|_| ()).await;
    let cached = loader.cache().expect("a cache").clone();
    let following = tokio::spawn(running.seeder.offer().clone().follow(cached.clone()));
    eventually("the model is found", async || !running.seeder.offer().roots().is_empty()).await;
    let root = model.root().to_hex();
    let peer = running.peer();
    let held = hold(&peer, &model, 0..4).await;
    sending(&running).await;
    // The offer is gone, the body is not.
    following.abort();
    let _ = following.await;
    assert!(cached.remove(&root).is_err(), "it is in use");
    let answer = held.answer().await.expect("an answer");
    let expected: Vec<u8> = (0..4).flat_map(|extent| model.extent(extent)).copied().collect();
    assert!(answer.status == 206 && answer.body == expected);
    eventually("it is nobody's any more", async || cached.remove(&root).is_ok()).await;
    assert_eq!(peer.extents(&model.ask(0..1)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_model_may_be_evicted_soon_after_its_last_request() {
    let (model, cache) = (Model::new(2), tempfile::tempdir().expect("a directory"));
    let origin = model.origin(Faults::default());
    let (loader, load) = model.load(&origin, Some(cache.path())).await;
    assert!(load.finished().await.expect("finishes").kept);
    drop(load);
    let running = start(|_| ()).await;
    let cached = loader.cache().expect("a cache").clone();
    let following = tokio::spawn(running.seeder.offer().clone().follow(cached.clone()));
    let (peer, ask) = (running.peer(), model.ask(0..1));
    eventually("the model is found", async || peer.extents(&ask).await.status == 206).await;
    let (root, begun) = (model.root().to_hex(), Instant::now());
    assert!(cached.remove(&root).is_err(), "it is in use");
    while cached.remove(&root).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody asks for it any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_let_go_is_sent_to_its_end() {
    let (running, model) = (start(|_| ()).await, Model::new(5));
    let origin = model.origin(Faults::default());
    let (_, load) = model.load(&origin, None).await;
    load.arrived().await.expect("arrives");
    let sharing = running.seeder.offer().add(content(&load), Role::Serving);
    let held = hold(&running.peer(), &model, 0..4).await;
    sending(&running).await;
    drop((sharing, load));
    let answer = held.answer().await.expect("an answer");
    let expected: Vec<u8> = (0..4).flat_map(|extent| model.extent(extent)).copied().collect();
    assert!(answer.status == 206 && answer.body == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_holds_connections_keeps_no_other_out() {
    let running = start(|config| config.connections_max = 8).await;
    let model = Model::new(1);
    let _sharing = running.share(&model).await;
    let (flood, mut held) = (running.peer(), Vec::new());
    for _ in 0..8 {
        held.extend(flood.connect().await);
    }
    let crowded = "forebay_listen_ended_connections_total{listener=\"peers\",reason=\"crowded\"} 4";
    eventually("half of them are ended", async || running.registry.render().contains(crowded)).await;
    assert_eq!(second(&running).get(&model.path("manifest"), &[]).await.status, 200);
    // Those that it keeps are of use to it.
    let kept = flood.send_on(held.remove(0), "GET", &model.path("manifest"), &[("connection", "close")]).await;
    assert_eq!(kept.expect("sends").answer().await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_used_ends() {
    let running = start(|config| config.idle_timeout_ms = 200).await;
    let model = Model::new(1);
    let _sharing = running.share(&model).await;
    let (peer, begun) = (running.peer(), Instant::now());
    let connection = peer.connect().await.expect("connects");
    let used = peer.send_on(connection, "GET", &model.path("manifest"), &[]).await.expect("sends");
    // It is read to the connection's end.
    assert_eq!(used.answer().await.expect("an answer").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
