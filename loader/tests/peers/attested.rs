//! Files that are known by a digest of the whole alone: peers that attest the digests of extents, rightly or not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use loader::Summary;
use testkit::origin::{BitFlip, Faults};
use testkit::peer::{Conduct, Peer, PeerWeights, Published, bytes_from_peers};
use wire::digest::Digest;
use wire::extent::EXTENT_BYTES;
use wire::manifest::Manifest;
use wire::status::PeerStanding;

use super::world::World;
use super::{HEADER_READS, TENSORS};

/// Loads as from a hub, and checks every byte.
async fn load(world: &World) -> Summary {
    let loader = world.loader(world.peers.iter().map(Peer::member).collect());
    let load = world.open_as(&loader, &world.published.verdict_of_whole()).await.unwrap();
    world.published.arrived(&load).await
}

/// Bytes of weights that storage sent beside the headers.
fn from_storage(world: &World) -> u64 {
    world.published.sent_by_origin() - HEADER_READS
}

/// The weights with one wrong bit, attested as if they were right.
fn lies(world: &World) -> PeerWeights {
    world.published.attested(|files| {
        files.get_mut(Published::WEIGHTS).unwrap()[2 * EXTENT_BYTES as usize + 77] ^= 4;
    })
}

fn asked(peer: &Peer) -> u64 {
    peer.books.attested.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_known_as_a_whole_comes_from_peers_that_attest_it() {
    let mut world = World::new(TENSORS);
    for _ in 0..2 {
        world.peer_with(world.published.attested(|_| ()), Conduct::Honest).await;
    }
    let summary = load(&world).await;
    assert_eq!((bytes_from_peers(&summary), from_storage(&world)), (world.published.bytes(), 0));
    assert!(summary.attested_by.is_some_and(|by| by.starts_with("peer-")));
    assert!(world.peers.iter().all(|peer| peer.bytes_sent() > 0), "striped");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_one_that_attests_a_liar_is_banned_at_its_first_extent() {
    let mut world = World::new(TENSORS);
    world.peer_with(world.published.attested(|_| ()), Conduct::Honest).await;
    let honest = world.published.attested(|_| ()).manifest().clone();
    world.peer_with(PeerWeights::all(&honest, &world.published.files), Conduct::Lies).await;
    let summary = load(&world).await;
    assert_eq!((bytes_from_peers(&summary), from_storage(&world)), (world.published.bytes(), 0));
    assert!(summary.fetch.unwrap().corrupt_extents >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_that_are_attested_are_shown_to_nobody_and_cost_one_download() {
    let mut world = World::new(TENSORS);
    world.peer_with(lies(&world), Conduct::Honest).await;
    let loader = world.loader(world.peers.iter().map(Peer::member).collect());
    let load = world.open_as(&loader, &world.published.verdict_of_whole()).await.unwrap();
    let (_, region) = load.files().next().unwrap();
    while !load.weights.is_complete() {
        assert!((0..4).all(|extent| !region.is_verified(extent * EXTENT_BYTES..(extent + 1) * EXTENT_BYTES)));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.published.arrived(&load).await;
    assert!(world.peers[0].bytes_sent() <= world.published.bytes(), "no more than once");
    assert_eq!(from_storage(&world), world.published.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_are_attested_wrongly_cost_storage_nothing_twice() {
    let mut world = World::new(TENSORS);
    let honest = world.published.attested(|_| ());
    let mut files = honest.manifest().files().to_vec();
    files[0].extents[3] = Digest([9; 32]);
    let wrong = honest.claiming(Manifest::new(files).unwrap());
    world.peer_with(wrong, Conduct::Honest).await;
    let summary = load(&world).await;
    assert_eq!(bytes_from_peers(&summary) + from_storage(&world), world.published.bytes(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attests_other_files_or_none_is_not_heard() {
    let mut world = World::new(TENSORS);
    let shorter = world.published.attested(|files| {
        files.get_mut(Published::WEIGHTS).unwrap().pop();
    });
    let more = world.published.attested(|files| {
        files.insert("other.safetensors".to_owned(), vec![1]);
    });
    let other = world.published.attested(|files| {
        let weights = files.remove(Published::WEIGHTS).unwrap();
        files.insert("weights.safetensors".to_owned(), weights);
    });
    for weights in [shorter, more, other] {
        world.peer_with(weights, Conduct::Honest).await;
    }
    world.peer(Conduct::Unknown).await;
    world.peer(Conduct::Mute).await;
    let summary = load(&world).await;
    assert_eq!((bytes_from_peers(&summary), from_storage(&world)), (0, world.published.bytes()));
    assert_eq!(summary.attested_by, None);
    assert!(world.peers[..3].iter().all(|peer| asked(peer) == 1 && peer.bytes_sent() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_wrong_once_is_not_the_attesters_fault() {
    let mut world = World::new(TENSORS);
    let place = EXTENT_BYTES + 9;
    let object = format!("m/{}", Published::WEIGHTS);
    let flip = BitFlip { object, offset: place, bit: 2, times: Some(1) };
    let origin = world.published.origin.as_ref().unwrap();
    origin.set_faults(Faults { flips: vec![flip], ..Faults::default() });
    // Of the wrong extent, storage is the only source.
    let weights = world.published.attested(|_| ());
    let (manifest, files) = (weights.manifest().clone(), world.published.files.clone());
    world.peer_with(PeerWeights::some(&manifest, &files, 2..12).attesting(), Conduct::Honest).await;
    load(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_attest_where_that_is_off_or_a_manifest_decides() {
    let mut world = World::new(TENSORS);
    world.config.peers.attested = false;
    world.peer_with(world.published.attested(|_| ()), Conduct::Honest).await;
    let summary = load(&world).await;
    assert_eq!((bytes_from_peers(&summary), asked(&world.peers[0])), (0, 0));
    world.config.peers.attested = true;
    world.load().await;
    assert_eq!(asked(&world.peers[0]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attested_wrongly_or_lied_about_what_was_right_is_asked_nothing_by_the_next_load() {
    let mut world = World::new(TENSORS);
    world.peer_with(lies(&world), Conduct::Honest).await;
    let whole = world.published.verdict_of_whole();
    let loader = world.loader(world.peers.iter().map(Peer::member).collect());
    for _ in 0..2 {
        let load = world.open_as(&loader, &whole).await.unwrap();
        world.published.arrived(&load).await;
    }
    assert_eq!(asked(&world.peers[0]), 1);
    let standing = loader.source_peers().remove(0);
    assert_eq!((standing.standing, standing.reason.as_deref()), (PeerStanding::Banned, Some("attested wrong digests")));
    // The honest one's digests were right: so the other lied.
    let honest = world.published.attested(|_| ());
    let manifest = honest.manifest().clone();
    let giver = world.peer_with(honest, Conduct::Honest).await;
    let liar = world.peer_with(PeerWeights::all(&manifest, &world.published.files), Conduct::Lies).await;
    let loader = world.loader([giver, liar].map(|at| world.peers[at].member()).into());
    let load = world.open_as(&loader, &whole).await.unwrap();
    world.published.arrived(&load).await;
    let status = loader.source_peers();
    let found = |at: usize| status.iter().find(|peer| peer.id == world.peers[at].id).unwrap();
    assert_eq!((found(giver).standing, found(giver).bytes), (PeerStanding::Away, world.published.bytes()));
    assert_eq!((found(liar).standing, found(liar).bytes), (PeerStanding::Banned, 0));
}
