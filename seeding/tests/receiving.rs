//! Loads beside real seeders: the protocol's two ends against each other, over mutual TLS.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use listen::Drain;
use loader::peers::Member;
use loader::remote::Env;
use loader::{Load, Loader, LoaderConfig};
use policy::PeerRule;
use seeding::governor::Rate;
use seeding::{Role, Seeder, SeedingConfig, Sharing};
use telemetry::metrics::Registry;
use tempfile::TempDir;
use testkit::peer::{Conduct, Peer, Published, bytes_from_peers, member};
use wire::evidence::Verdict;

/// Tensors of the model, of 3 MB each.
const TENSORS: usize = 24;

/// A process of the fleet: it loads, and gives what it has.
struct Process {
    seeder: Seeder,
    load: Load,
    _sharing: Sharing,
    _files: TempDir,
}

async fn load_as(published: &Published, own: &str, members: Vec<Member>, verdict: &Verdict) -> Load {
    let mut config = LoaderConfig::default();
    config.cache.enabled = false;
    config.http.connect_timeout_ms = 1_000;
    let peers = published.peers(own, members);
    let loader = Loader::beside(Some(peers), &config, Env::default(), &Registry::new()).unwrap();
    let probe = loader.probe(&published.url.parse().unwrap()).await.unwrap();
    loader.open(probe, verdict, published.options()).await.unwrap()
}

async fn load(published: &Published, own: &str, members: Vec<Member>) -> Load {
    load_as(published, own, members, &published.verdict()).await
}

async fn seeder(published: &Published, own: &str, change: impl FnOnce(&mut SeedingConfig)) -> (Seeder, TempDir) {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = published.fleet.sign(own);
    for (name, text) in [("tls.crt", &*certificate), ("tls.key", &*key), ("ca.crt", published.fleet.authority())] {
        std::fs::write(files.path().join(name), text).unwrap();
    }
    let mut config = SeedingConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        tenant: "red".into(),
        ..SeedingConfig::default()
    };
    config.tls.certificate_file = Some(files.path().join("tls.crt"));
    config.tls.key_file = Some(files.path().join("tls.key"));
    config.tls.client_ca_file = Some(files.path().join("ca.crt"));
    config.rights.allow = vec![PeerRule { identities: vec!["*.test".into()], tenants: vec!["red".into()] }];
    change(&mut config);
    let seeder = Seeder::start(&config, &Registry::new(), Drain::new()).await.unwrap().unwrap();
    (seeder, files)
}

/// A process that loads beside others and offers what it has from the first extent on.
async fn process(
    published: &Published,
    own: &str,
    members: Vec<Member>,
    (seeder, files): (Seeder, TempDir),
) -> Process {
    let load = load(published, own, members).await;
    let content = load.content().borrow().clone().expect("the root is known from the beginning");
    let sharing = seeder.offer().add(content, Role::Loading);
    Process { seeder, load, _sharing: sharing, _files: files }
}

/// A process that has everything.
async fn warm(published: &Published, own: &str) -> Process {
    let process = process(published, own, Vec::new(), seeder(published, own, |_| ()).await).await;
    process.load.finished().await.unwrap();
    process._sharing.set_role(Role::Serving);
    process
}

/// A process that has everything as from a hub: proven by the digest of the whole alone.
async fn warm_by_whole(published: &Published, own: &str, change: impl FnOnce(&mut SeedingConfig)) -> Process {
    let (seeder, files) = seeder(published, own, change).await;
    let load = load_as(published, own, Vec::new(), &published.verdict_of_whole()).await;
    load.finished().await.unwrap();
    let content: Arc<_> = load.content().borrow().clone().expect("a manifest was computed");
    let sharing = seeder.offer().add(content, Role::Serving);
    Process { seeder, load, _sharing: sharing, _files: files }
}

impl Process {
    fn member(&self, own: &str) -> Member {
        member(own, self.seeder.local_addr())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_everything_from_those_that_serve() {
    let mut published = Published::new(TENSORS);
    let (one, two) = (warm(&published, "one.test").await, warm(&published, "two.test").await);
    let members = vec![one.member("one.test"), two.member("two.test")];
    let summary = published.arrived(&load(&published, "new.test", members.clone()).await).await;
    assert_eq!(bytes_from_peers(&summary), published.bytes());
    assert!([&one, &two].iter().all(|process| process.seeder.status().sent_bytes > 0), "striped");
    // Without storage: the manifest, headers and small files come from there, too.
    published.origin = None;
    let summary = published.arrived(&load(&published, "newer.test", members).await).await;
    assert_eq!(bytes_from_peers(&summary), published.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_the_right_loads_from_storage() {
    let published = Published::new(TENSORS);
    let one = warm(&published, "one.test").await;
    let load = load(&published, "stranger.example", vec![one.member("one.test")]).await;
    let summary = published.arrived(&load).await;
    assert_eq!((bytes_from_peers(&summary), one.seeder.status().sent_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_proved_as_a_whole_another_takes_from_it() {
    let published = Published::new(TENSORS);
    let one = warm_by_whole(&published, "one.test", |_| ()).await;
    let silent = warm_by_whole(&published, "silent.test", |config| config.attest = false).await;
    let (members, whole) = (vec![one.member("one.test")], published.verdict_of_whole());
    let before = published.sent_by_origin();
    let load = load_as(&published, "new.test", members.clone(), &whole).await;
    let summary = published.arrived(&load).await;
    assert_eq!((bytes_from_peers(&summary), summary.attested_by.as_deref()), (published.bytes(), Some("one.test")));
    assert!(published.sent_by_origin() - before < 1 << 20, "headers, and nothing else");
    for (own, members) in [("stranger.example", members), ("other.test", vec![silent.member("silent.test")])] {
        let summary = published.arrived(&load_as(&published, own, members, &whole).await).await;
        assert_eq!((bytes_from_peers(&summary), summary.attested_by), (0, None), "{own}");
    }
    assert_eq!(silent.seeder.status().roots.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_beside_a_real_seeder_are_banned_and_no_byte_of_theirs_is_shown() {
    let published = Published::new(TENSORS);
    let one = warm(&published, "one.test").await;
    let liar = Peer::start(&published.fleet, "liar.test", published.weights(), Conduct::Lies).await.unwrap();
    let load = load(&published, "new.test", vec![liar.member(), one.member("one.test")]).await;
    let summary = published.arrived(&load).await;
    assert_eq!(bytes_from_peers(&summary), published.bytes());
    assert!(summary.fetch.unwrap().corrupt_extents >= 1);
}

/// Four new processes beside a warm one whose rate is the bottleneck: they give each other what they have.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_load_together_give_each_other_first_copies() {
    let published = Published::new(TENSORS);
    let warm = warm(&published, "warm.test").await;
    warm.seeder.govern(Rate(40_000_000), Rate(40_000_000), None);
    let mut seeders = Vec::new();
    for at in 0..3 {
        let own = format!("new-{at}.test");
        let seeder = seeder(&published, &own, |_| ()).await;
        seeders.push((own, seeder));
    }
    let mut members: Vec<Member> = seeders.iter().map(|(own, (seeder, _))| member(own, seeder.local_addr())).collect();
    members.push(warm.member("warm.test"));
    let mut processes = Vec::new();
    for (own, seeder) in seeders {
        processes.push(process(&published, &own, members.clone(), seeder).await);
    }
    for process in &processes {
        let arrived = published.arrived(&process.load);
        let summary = tokio::time::timeout(Duration::from_secs(120), arrived).await.unwrap();
        let bytes = bytes_from_peers(&summary) + summary.fetch.unwrap().sources[0].bytes;
        assert_eq!(bytes, published.bytes());
    }
    let swapped: u64 = processes.iter().map(|process| process.seeder.status().sent_bytes).sum();
    assert!(swapped > published.bytes() / 2, "of {} bytes three times, they swapped {swapped}", published.bytes());
}
