//! Weights for peers on real sockets: every status, and who gets what.

#[path = "peers/busy.rs"]
mod busy;
#[path = "peers/client.rs"]
mod client;
#[path = "peers/have.rs"]
mod have;
#[path = "peers/model.rs"]
mod model;
#[path = "peers/rights.rs"]
mod rights;

use client::{Authority, Client, Signed};
use listen::Drain;
use model::{Model, SMALL};
use policy::PeerRule;
use seeding::{Role, Seeder, SeedingConfig, Sharing};
use std::net::SocketAddr;
use telemetry::metrics::Registry;
use tempfile::TempDir;
use wire::manifest::Manifest;
use wire::peers::parse_content_range;

const PEER: &str = "spiffe://x/peer";

/// A process that gives its weights to peers.
struct Running {
    seeder: Seeder,
    authority: Authority,
    dir: TempDir,
    drain: Drain,
    registry: Registry,
}

/// Starts one whose rules let `PEER` have the weights of `red`.
async fn start(change: impl FnOnce(&mut SeedingConfig)) -> Running {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
    authority.sign("spiffe://x/server").write(dir.path());
    std::fs::write(dir.path().join("ca.crt"), &authority.pem).expect("writes");
    let mut config = SeedingConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        tenant: "red".into(),
        ..SeedingConfig::default()
    };
    config.tls.certificate_file = Some(dir.path().join("tls.crt"));
    config.tls.key_file = Some(dir.path().join("tls.key"));
    config.tls.client_ca_file = Some(dir.path().join("ca.crt"));
    config.tls.reload_interval_ms = 20;
    config.rights.allow = vec![PeerRule { identities: vec![PEER.into()], tenants: vec!["red".into()] }];
    change(&mut config);
    let (drain, registry) = (Drain::new(), Registry::new());
    let seeder = Seeder::start(&config, &registry, drain.clone()).await.expect("starts").expect("is on");
    Running { seeder, authority, dir, drain, registry }
}

impl Running {
    fn client(&self, shown: &Signed) -> Client {
        Client::new(self.seeder.local_addr(), &self.authority, Some(shown))
    }

    /// A client that may have everything.
    fn peer(&self) -> Client {
        self.client(&self.authority.sign(PEER))
    }

    async fn share(&self, model: &Model) -> Sharing {
        self.seeder.offer().add(model.arrived().await, Role::Serving)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_gets_the_manifest_and_every_extent_as_it_is() {
    let (running, model) = (start(|_| ()).await, Model::new(6));
    let _sharing = running.share(&model).await;
    let peer = running.peer();
    let answer = peer.get(&model.path("manifest"), &[]).await;
    assert_eq!((answer.status, answer.header("forebay-protocol")), (200, Some("1")));
    assert_eq!(Manifest::parse(&answer.body).expect("a manifest"), model.manifest);
    for extents in [0..1, 1..5, 5..6, 3..6] {
        let answer = peer.extents(&model.ask(extents.clone())).await;
        assert_eq!(answer.status, 206, "{extents:?}");
        let expected: Vec<u8> = extents.clone().flat_map(|extent| model.extent(extent)).copied().collect();
        assert!(answer.body == expected, "{extents:?}");
        let range = answer.header("content-range").expect("a range");
        assert_eq!(parse_content_range(range, model.weights.len() as u64), Some(extents));
        assert_eq!(answer.header("content-encoding"), None);
    }
    let small = peer.get(&model.path(&format!("files/{SMALL}")), &[("range", "bytes=0-20")]).await;
    assert_eq!((small.status, &small.body[..]), (206, &b"{\"model_type\":\"test\"}"[..]));
    assert_eq!(running.seeder.status().peers[0].peer, PEER);
    assert_eq!(running.seeder.status().sent_bytes, running.seeder.status().peers[0].bytes);
    let metrics = running.registry.render();
    assert!(metrics.contains("forebay_seeding_requests_total{code=\"206\"} 5"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_extent_is_not_satisfiable() {
    let (running, model) = (start(|_| ()).await, Model::new(6));
    let _sharing = running.share(&model).await;
    let (peer, (path, _)) = (running.peer(), model.ask(0..1));
    for range in ["bytes=0-4194302", "bytes=1-4194304", "bytes=0-20971519", "bytes=25165824-25165825", "bytes=0-", ""] {
        assert_eq!(peer.get(&path, &[("range", range)]).await.status, 416, "{range:?}");
    }
    assert_eq!(peer.get(&path, &[]).await.status, 416);
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_that_differ_by_one_understand_each_other() {
    let (running, model) = (start(|_| ()).await, Model::new(2));
    let _sharing = running.share(&model).await;
    let (peer, (path, range)) = (running.peer(), model.ask(0..1));
    for version in ["1", "2", "65535"] {
        let answer = peer.get(&path, &[("range", &range), ("forebay-protocol", version)]).await;
        assert_eq!((answer.status, answer.header("forebay-protocol")), (206, Some("1")), "{version}");
    }
    assert_eq!(peer.get(&path, &[("range", &range)]).await.status, 206, "the first release named no version");
    for version in ["0", "one", "-1", "65536"] {
        let answer = peer.get(&path, &[("range", &range), ("forebay-protocol", version)]).await;
        assert_eq!((answer.status, answer.header("forebay-protocol")), (426, Some("1")), "{version}");
    }
    let stranger = running.client(&running.authority.sign("spiffe://x/stranger"));
    assert_eq!(stranger.get(&path, &[("forebay-protocol", "0")]).await.status, 404, "the right comes first");
}
