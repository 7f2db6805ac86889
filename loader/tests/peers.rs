//! Whole loads beside peers, over real sockets and mutual TLS: peers that serve, lie, die, crawl, boast, refuse and talk
//! nonsense, with storage and without. Whatever they do, no wrong byte is shown.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

#[path = "peers/attested.rs"]
mod attested;
#[path = "peers/world.rs"]
mod world;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loader::Summary;
use loader::fetch::SourceReport;
use loader::peers::Member;
use testkit::origin::Faults;
use testkit::peer::{Conduct, Fleet, Peer, PeerWeights, Published, member};
use wire::extent::EXTENT_BYTES;
use wire::manifest::Manifest;
use wire::status::PeerStanding;
use world::World;

/// Tensors of the model, of 3 MB each: 12 extents together.
const TENSORS: usize = 16;

const HEADER_READS: u64 = 2 * (256 << 10);

fn sources(summary: &Summary) -> &[SourceReport] {
    &summary.fetch.as_ref().unwrap().sources
}

fn source<'a>(summary: &'a Summary, peer: &Peer) -> &'a SourceReport {
    find(summary, peer).unwrap()
}

/// None of a peer that never answered.
fn find<'a>(summary: &'a Summary, peer: &Peer) -> Option<&'a SourceReport> {
    let url = format!("peer://{}", peer.id);
    sources(summary).iter().find(|source| source.url == url)
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_bring_all_weights_and_storage_sends_none() {
    let mut world = World::new(TENSORS);
    for _ in 0..4 {
        world.peer(Conduct::Honest).await;
    }
    let summary = world.load().await;
    assert_eq!(world.published.sent_by_origin(), HEADER_READS);
    let from_peers: u64 = world.peers.iter().map(|peer| source(&summary, peer).bytes).sum();
    assert_eq!(from_peers, world.published.bytes());
    assert!(world.peers.iter().filter(|peer| peer.bytes_sent() > 0).count() >= 2, "{:?}", sources(&summary));
    assert!(sources(&summary).iter().all(|source| source.dismissed.is_none()));
    let waterfall = source(&summary, &world.peers[0]);
    assert!(waterfall.bytes == 0 || waterfall.first_extent_s <= waterfall.last_extent_s, "{waterfall:?}");
    let latest = world.peers[0].books.latest.lock().clone();
    assert_eq!(latest.0.as_deref(), Some("receiver.test"), "it says who asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_is_banned_at_its_first_extent() {
    let mut world = World::new(TENSORS);
    let liar = world.peer(Conduct::Lies).await;
    world.peer(Conduct::Honest).await;
    let summary = world.load().await;
    let lies = world.peers[liar].books.requests.load(Ordering::Relaxed);
    assert!((1..=2).contains(&lies), "what was in flight, and no more: {lies}");
    let report = source(&summary, &world.peers[liar]);
    assert_eq!((report.bytes, report.dismissed), (0, Some("banned")));
    assert!(summary.fetch.as_ref().unwrap().corrupt_extents >= 1);
    assert_eq!(world.published.sent_by_origin(), HEADER_READS, "the other peer has all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_left_alone_by_later_loads_and_only_for_its_time() {
    for (ban_ms, is_asked_again) in [(600_000, false), (0, true)] {
        let mut world = World::new(TENSORS);
        world.config.peers.ban_ms = ban_ms;
        let liar = world.peer(Conduct::Lies).await;
        world.peer(Conduct::Honest).await;
        let loader = world.loader(world.peers.iter().map(Peer::member).collect());
        let requests = || world.peers[liar].books.requests.load(Ordering::Relaxed);
        let load = world.open_as(&loader, &world.published.verdict()).await.unwrap();
        world.published.arrived(&load).await;
        let before = requests();
        assert!(before > 0);
        // The load has ended before its last words were heard.
        let deadline = Instant::now() + Duration::from_secs(20);
        while loader.source_peers().iter().all(|peer| peer.standing == PeerStanding::Connected) {
            assert!(Instant::now() < deadline, "{:?}", loader.source_peers());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let load = world.open_as(&loader, &world.published.verdict()).await.unwrap();
        world.published.arrived(&load).await;
        assert_eq!(requests() > before, is_asked_again, "with a ban of {ban_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_liars_leaves_everything_to_storage() {
    let mut world = World::new(TENSORS);
    for _ in 0..5 {
        world.peer(Conduct::Lies).await;
    }
    let summary = world.load().await;
    assert!(world.published.sent_by_origin() >= world.published.bytes());
    assert!(world.peers.iter().all(|peer| source(&summary, peer).dismissed == Some("banned")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_costs_what_was_in_flight() {
    let mut world = World::new(TENSORS);
    world.peer(Conduct::DiesAfter(6 << 20)).await;
    world.peer(Conduct::Honest).await;
    let summary = world.load().await;
    assert_eq!(world.published.sent_by_origin(), HEADER_READS);
    assert!(source(&summary, &world.peers[1]).bytes >= world.published.bytes() - (6 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_crawls_loses_its_work_to_the_others() {
    let mut world = World::new(TENSORS);
    // 40 s an extent.
    world.peer(Conduct::Slow(100_000)).await;
    for _ in 0..2 {
        world.peer(Conduct::Honest).await;
    }
    let begun = Instant::now();
    let summary = world.load().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(source(&summary, &world.peers[0]).bytes, 0, "{:?}", sources(&summary));
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_brings_what_no_peer_has() {
    let mut world = World::new(TENSORS);
    // Extent 0 is `config.json`.
    let some = PeerWeights::some(&world.published.manifest, &world.published.files, 1..8);
    world.peer_with(some, Conduct::Honest).await;
    let summary = world.load().await;
    let from_peer = source(&summary, &world.peers[0]).bytes;
    assert!(from_peer > 0 && from_peer <= 7 * EXTENT_BYTES, "{:?}", sources(&summary));
    assert_eq!(from_peer + sources(&summary)[0].bytes, world.published.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_storage_gone_and_the_root_known_peers_suffice() {
    let mut world = World::new(TENSORS);
    world.config.http.connect_timeout_ms = 500;
    for conduct in [Conduct::Honest, Conduct::Lies, Conduct::Honest] {
        world.peer(conduct).await;
    }
    world.published.origin = None;
    let summary = world.load().await;
    assert!(sources(&summary).iter().all(|source| source.url.starts_with("peer://")), "{:?}", sources(&summary));
    let cache = tempfile::tempdir().unwrap();
    (world.config.cache.enabled, world.config.cache.root) = (true, Some(cache.path().to_owned()));
    world.config.cache.min_free_bytes = 0;
    let summary = world.load().await;
    assert!(summary.kept, "the cache keeps it as any other");
    assert!(kept(cache.path(), &world.published.manifest) == world.published.files[Published::WEIGHTS]);
}

fn kept(cache: &Path, manifest: &Manifest) -> Vec<u8> {
    std::fs::read(cache.join("v1/models").join(manifest.root().to_hex()).join(Published::WEIGHTS)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_storage_and_without_a_peer_the_load_says_so() {
    let mut world = World::new(TENSORS);
    world.config.http.connect_timeout_ms = 500;
    world.peer(Conduct::Unknown).await;
    world.published.origin = None;
    let error = world.open(world.peers.iter().map(Peer::member).collect()).await.err().unwrap();
    assert!(error.to_string().contains(world.published.url.trim_end_matches("m/")), "storage's own trouble: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_storage_gone_one_honest_peer_among_bad_ones_of_every_kind_suffices() {
    let mut world = World::new(TENSORS);
    world.config.http.connect_timeout_ms = 500;
    world.config.peers.connect_timeout_ms = 500;
    for conduct in bad() {
        world.peer(conduct).await;
    }
    let honest = world.peer(Conduct::Honest).await;
    world.published.origin = None;
    let summary = world.load().await;
    let others = world.peers[..honest].iter().filter_map(|peer| find(&summary, peer));
    let others: u64 = others.map(|source| source.bytes).sum();
    assert_eq!(source(&summary, &world.peers[honest]).bytes + others, world.published.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_peers_of_every_kind_cost_storage_its_bytes_and_nothing_else() {
    let mut world = World::new(TENSORS);
    for conduct in bad() {
        world.peer(conduct).await;
    }
    let summary = world.load().await;
    assert!(sources(&summary)[0].bytes > 0 && summary.fetch.as_ref().unwrap().bytes() == world.published.bytes());
}

/// Every way of being of no use.
fn bad() -> Vec<Conduct> {
    let endless_frame = [&[9, 0, 0, 0][..], &u32::MAX.to_le_bytes()].concat();
    let other_model = [&[1, 0, 0, 0][..], &2_u32.to_le_bytes(), &[0xff, 0xff]].concat();
    let beyond = [&[2, 0, 0, 0][..], &4_u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
    vec![
        Conduct::Lies,
        Conduct::Boasts,
        Conduct::Busy(Duration::from_millis(50), vec!["nobody.test".to_owned(), "peer-0.test".to_owned()]),
        Conduct::DiesAfter(1 << 20),
        Conduct::OtherRange,
        Conduct::TooMuch,
        Conduct::BadFrames(endless_frame),
        Conduct::BadFrames(other_model),
        Conduct::BadFrames(beyond),
        Conduct::BadFrames(vec![0; 100_000]),
        Conduct::Mute,
        Conduct::Unknown,
        Conduct::Redirects("https://peer-0.test/".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_fleets_certificate_is_not_believed_and_gets_nothing() {
    let mut world = World::new(TENSORS);
    let other = Fleet::new();
    let stranger = Peer::start(&other, "peer-0.test", world.published.weights(), Conduct::Honest).await.unwrap();
    world.peers.push(stranger);
    let summary = world.load().await;
    assert_eq!(world.peers[0].books.requests.load(Ordering::Relaxed), 0);
    assert!(find(&summary, &world.peers[0]).is_none(), "it never was a peer");
    // One of the fleet, but not the one that was meant.
    let mut member = world.peers[0].member();
    let known = world.peer(Conduct::Honest).await;
    member.address = world.peers[known].address.to_string();
    world.load_from(vec![member]).await;
    assert_eq!(world.peers[known].books.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_because_a_peer_names_him_or_leads_there() {
    let mut world = World::new(TENSORS);
    let outsider = world.peer(Conduct::Honest).await;
    let named = vec![world.peers[outsider].id.clone(), world.peers[outsider].address.to_string()];
    let busy = world.peer(Conduct::Busy(Duration::from_millis(20), named)).await;
    world.load_from(vec![world.peers[busy].member()]).await;
    assert!(world.peers[busy].books.requests.load(Ordering::Relaxed) > 0);
    let to = format!("https://{}/weights", world.peers[outsider].address);
    let redirecting = world.peer(Conduct::Redirects(to)).await;
    world.load_from(vec![world.peers[redirecting].member()]).await;
    assert!(world.peers[redirecting].books.requests.load(Ordering::Relaxed) > 0);
    let books = &world.peers[outsider].books;
    assert_eq!((books.requests.load(Ordering::Relaxed), books.streams.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_that_a_peer_gets_later_are_taken_from_it() {
    let mut world = World::new(TENSORS);
    world.config.peers.patience_ms = 60_000;
    // Of the whole model; so the honest half is asked for what comes later.
    let early = PeerWeights::some(&world.published.manifest, &world.published.files, 0..7);
    let late = PeerWeights::some(&world.published.manifest, &world.published.files, 0..0);
    world.peer_with(early, Conduct::Honest).await;
    world.peer_with(late, Conduct::Honest).await;
    world.published.origin = None;
    let members: Vec<Member> = world.peers.iter().map(Peer::member).collect();
    let load = world.open(members).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.peers[0].bytes_sent() < 5 * EXTENT_BYTES {
        assert!(Instant::now() < deadline, "the first half comes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!load.weights.is_complete());
    world.peers[1].add(&(7..13).collect::<Vec<u32>>());
    load.finished().await.unwrap();
    assert!(world.peers[1].bytes_sent() >= 5 * EXTENT_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_from_storage_is_claimed_until_it_is_here() {
    let mut world = World::new(TENSORS);
    let some = PeerWeights::some(&world.published.manifest, &world.published.files, 1..4);
    world.peer_with(some, Conduct::Honest).await;
    let slow = Faults { total_bytes_per_second: Some(20_000_000), ..Faults::default() };
    world.published.origin.as_ref().unwrap().set_faults(slow);
    let load = world.open(world.peers.iter().map(Peer::member).collect()).await.unwrap();
    let content = load.content().borrow().clone().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while content.claimed().is_empty() {
        assert!(Instant::now() < deadline, "the load claims what it asks storage for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(content.claimed().iter().all(|extent| (4..13).contains(extent)), "{:?}", content.claimed());
    load.finished().await.unwrap();
    assert!(content.claimed().is_empty(), "{:?}", content.claimed());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_cannot_be_reached_delay_nothing_for_long() {
    let mut world = World::new(TENSORS);
    let honest = world.peer(Conduct::Honest).await;
    let mut members = vec![world.peers[honest].member()];
    // Addresses of this machine at which nobody listens, one that is none, and one that never answers (RFC 5737).
    for (at, address) in ["127.0.0.1:1", "[::1]:1", "nowhere", "192.0.2.1:8082", "192.0.2.2:8082"].iter().enumerate() {
        let id = format!("gone-{at}.test");
        members.push(member(&id, address));
    }
    let begun = Instant::now();
    let summary = world.load_from(members).await;
    assert_eq!(source(&summary, &world.peers[honest]).bytes, world.published.bytes());
    assert_eq!(sources(&summary).len(), 2, "storage and one peer: {:?}", sources(&summary));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_is_shown_to_peers() {
    let mut world = World::new(TENSORS);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capability");
    std::fs::write(&path, "head.body.signature\n").unwrap();
    world.config.peers.capability_file = Some(path);
    world.peer(Conduct::Honest).await;
    world.load().await;
    assert_eq!(world.peers[0].books.latest.lock().1.as_deref(), Some("head.body.signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_dropped_leaves_its_peers() {
    let mut world = World::new(TENSORS);
    world.config.peers.patience_ms = 60_000;
    world.peer(Conduct::Slow(100_000)).await;
    let load = world.open(vec![world.peers[0].member()]).await.unwrap();
    let streams = || world.peers[0].books.streams.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while streams() == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(load);
    while streams() > 0 {
        assert!(Instant::now() < deadline, "its stream of news ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
