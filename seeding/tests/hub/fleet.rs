//! Nodes that fill from each other: the hub says who may read what, and a peer brings the bytes.

use std::net::IpAddr;

use loader::peers::Peers;
use policy::{PeerRule, Secret};
use testkit::origin::{Access, Builder, Origin};
use testkit::peer::{Fleet, fleet_of, member};

use crate::harness::{
    CONFIG, REPOSITORY, Running, Settings, WEIGHTS, eventually, file, hub, proven_hub, start, weights,
};

const RIGHT: (&str, &str) = ("Authorization", "Bearer hf_right");
/// A hub's bytes of a file whose header alone is read, twice.
const HEADERS: u64 = 2 * (256 << 10);

/// Gives peers of the fleet what the node has.
fn gives(settings: &mut Settings, fleet: &Fleet, own: &str, files: &tempfile::TempDir) {
    let (certificate, key) = fleet.sign(own);
    let write = |name: &str, text: &str| {
        let path = files.path().join(format!("{own}-{name}"));
        std::fs::write(&path, text).expect("writes");
        Some(path)
    };
    let peers = &mut settings.node.peers;
    peers.listen = Some(([127, 0, 0, 1], 0).into());
    peers.tls.certificate_file = write("tls.crt", &certificate);
    peers.tls.key_file = write("tls.key", &key);
    peers.tls.client_ca_file = write("ca.crt", fleet.authority());
    peers.rights.allow = vec![PeerRule { identities: vec!["*.test".into()], tenants: vec!["default".into()] }];
}

/// The peers of a node of this name: another one.
fn takes(fleet: &Fleet, own: &str, from: &str, giver: &Running) -> Peers {
    fleet_of(fleet, own, vec![member(from, giver.peers.expect("it gives"))])
}

/// A node that has the weights and offers them.
async fn warm(origin: &Origin, fleet: &Fleet, files: &tempfile::TempDir, headers: &[(&str, &str)]) -> Running {
    let running = start(&origin.url(), |settings| gives(settings, fleet, "a.test", files)).await;
    assert!(running.ask("GET", &file(WEIGHTS), headers).await.body == weights());
    running.filled().await;
    let offers = || running.node.seeding().is_some_and(|seeding| !seeding.roots.is_empty());
    eventually("it is offered", offers).await;
    origin.reset_account();
    running
}

/// Bytes of weights that the hub sent.
fn sent(origin: &Origin) -> u64 {
    origin.account().objects.get(&format!("{REPOSITORY}/{WEIGHTS}")).map_or(0, |object| object.bytes_sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_fills_from_another_whatever_the_hub_tells_of_the_bytes() {
    // With a manifest, and with nothing but the digest of the whole.
    let hubs: [fn() -> Builder; 2] = [proven_hub, hub];
    for hub in hubs {
        let (origin, fleet) = (hub().start().expect("a hub"), Fleet::new());
        let files = tempfile::tempdir().expect("a directory");
        let one = warm(&origin, &fleet, &files, &[]).await;
        let two = start(&origin.url(), |settings| settings.peers = Some(takes(&fleet, "b.test", "a.test", &one))).await;
        assert!(two.get(&file(WEIGHTS)).await.body == weights());
        assert!(sent(&origin) <= HEADERS, "the hub sent {} bytes", sent(&origin));
        let bytes = weights().len() as u64;
        let status = two.get("/status").await.json();
        let source = &status["sources"][0];
        assert_eq!((source["id"].as_str(), source["bytes"].as_u64()), (Some("a.test"), Some(bytes)), "{status}");
        let given = one.get("/status").await.json();
        assert_eq!(given["seeding"]["peers"][0]["bytes"].as_u64(), Some(bytes), "{given}");
        // The rest of the repository comes from the hub.
        assert_eq!(two.get(&file("config.json")).await.body, CONFIG);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_right_fills_from_the_hub() {
    let (origin, fleet) = (hub().start().expect("a hub"), Fleet::new());
    let files = tempfile::tempdir().expect("a directory");
    let one = warm(&origin, &fleet, &files, &[]).await;
    let peers = takes(&fleet, "stranger.example", "a.test", &one);
    let two = start(&origin.url(), |settings| settings.peers = Some(peers)).await;
    assert!(two.get(&file(WEIGHTS)).await.body == weights());
    assert!(sent(&origin) >= weights().len() as u64);
    assert_eq!(one.node.seeding().map(|seeding| seeding.sent_bytes), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_right_gets_nothing_that_a_peer_has() {
    let rule = vec![(REPOSITORY.to_owned(), "hf_right".to_owned())];
    let origin = hub().access(Access { private: rule, ..Access::default() }).start().expect("a hub");
    let (fleet, files) = (Fleet::new(), tempfile::tempdir().expect("a directory"));
    let one = warm(&origin, &fleet, &files, &[RIGHT]).await;
    let two = start(&origin.url(), |settings| settings.peers = Some(takes(&fleet, "b.test", "a.test", &one))).await;
    assert_eq!(two.get(&file(WEIGHTS)).await.status, 401);
    assert_eq!(two.ask("GET", &file(WEIGHTS), &[("Authorization", "Bearer hf_wrong")]).await.status, 404);
    assert_eq!(one.node.seeding().map(|seeding| seeding.sent_bytes), Some(0));
    assert!(two.ask("GET", &file(WEIGHTS), &[RIGHT]).await.body == weights());
    assert!(one.node.seeding().is_some_and(|seeding| seeding.sent_bytes > 0));
}

#[tokio::test]
async fn from_another_machine_the_nodes_own_pages_want_its_key() {
    let origin = hub().start().expect("a hub");
    let far: IpAddr = [10, 9, 8, 7].into();
    let key = "a key of some length";
    let running = start(&origin.url(), |settings| {
        settings.node.api_key = Some(Secret::new(key));
        settings.caller = Some(far);
    })
    .await;
    let bearer = |key: &str| format!("Bearer {key}");
    for path in ["/status", "/models", "/models/here"] {
        for wrong in [None, Some(bearer("another key of some length")), Some(key.to_owned()), Some(bearer(""))] {
            let header = wrong.as_deref().map(|value| ("Authorization", value));
            let answer = running.ask("GET", path, header.as_slice()).await;
            assert_eq!(answer.status, 403, "{path} {header:?}");
            assert!(answer.header("x-error-message").contains("node.api_key"), "{answer:?}");
        }
        let right = running.ask("GET", path, &[("Authorization", &bearer(key))]).await;
        assert_eq!(right.status, if path == "/models/here" { 404 } else { 200 }, "{path}");
    }
    // The hub's calls ask for no key of the node's, and take none for a token's right.
    assert_eq!(running.get(&file("config.json")).await.body, CONFIG);
    let without = start(&origin.url(), |settings| settings.caller = Some(far)).await;
    for header in [&[][..], &[("Authorization", "Bearer a key of some length")]] {
        assert_eq!(without.ask("GET", "/status", header).await.status, 403, "there is no key");
    }
    let near = start(&origin.url(), |settings| settings.node.api_key = Some(Secret::new(key))).await;
    assert_eq!(near.get("/status").await.status, 200, "on this machine none is asked for");
}
