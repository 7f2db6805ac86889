//! Whole loads beside peers, over real sockets and mutual TLS: peers that serve, lie, die, crawl, boast, refuse and talk
//! nonsense, with storage and without. Whatever they do, no wrong byte is shown.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loader::fetch::SourceReport;
use loader::peers::{Member, Peers};
use loader::remote::Env;
use loader::{Load, LoadError, Loader, LoaderConfig, OpenOptions, Proof, Summary};
use telemetry::metrics::Registry;
use testkit::origin::{Generated, Origin};
use testkit::peer::{Conduct, Fleet, Peer, PeerWeights};
use wire::digest::Digest;
use wire::evidence::{Expected, Verdict};
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile};

const MODEL: &str = "model.safetensors";
const CONFIG: &[u8] = br#"{"model_type":"test"}"#;
const EXTENT: usize = 4 << 20;
/// Tensors, of 3 MB each: 12 extents together.
const TENSORS: usize = 16;
const TENSOR_BYTES: usize = 3_000_000;

fn safetensors() -> Vec<u8> {
    let tensor = |place: usize| {
        let (begin, end) = (place * TENSOR_BYTES, (place + 1) * TENSOR_BYTES);
        format!("\"layers.{place}\":{{\"dtype\":\"U8\",\"shape\":[{TENSOR_BYTES}],\"data_offsets\":[{begin},{end}]}}")
    };
    let header = format!("{{{}}}", (0..TENSORS).map(tensor).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(Generated::new((TENSORS * TENSOR_BYTES) as u64, 5).bytes(0..(TENSORS * TENSOR_BYTES) as u64));
    bytes
}

/// A published model, its fleet, and who is in it.
struct World {
    fleet: Fleet,
    files: Arc<BTreeMap<String, Vec<u8>>>,
    manifest: Manifest,
    origin: Option<Origin>,
    url: String,
    peers: Vec<Peer>,
    config: LoaderConfig,
}

impl World {
    fn new() -> Self {
        let files = BTreeMap::from([(MODEL.to_owned(), safetensors()), ("config.json".to_owned(), CONFIG.to_vec())]);
        let file = |(name, bytes): (&String, &Vec<u8>)| ManifestFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
            extents: bytes.chunks(EXTENT).map(|bytes| Digest(*blake3::hash(bytes).as_bytes())).collect(),
            tensors: Vec::new(),
        };
        let manifest = Manifest::new(files.iter().map(file).collect()).unwrap();
        let mut origin = Origin::builder().seed(7).object(&format!("m/{MANIFEST_NAME}"), manifest.to_json());
        for (name, bytes) in &files {
            origin = origin.object(&format!("m/{name}"), bytes.clone());
        }
        let origin = origin.start().unwrap();
        let url = format!("{}/m/", origin.url());
        let mut config = LoaderConfig::default();
        config.cache.enabled = false;
        let fleet = Fleet::new();
        Self { fleet, files: Arc::new(files), manifest, origin: Some(origin), url, peers: Vec::new(), config }
    }

    fn weights(&self) -> PeerWeights {
        PeerWeights::all(&self.manifest, &self.files)
    }

    async fn peer(&mut self, conduct: Conduct) -> usize {
        self.peer_with(self.weights(), conduct).await
    }

    async fn peer_with(&mut self, weights: PeerWeights, conduct: Conduct) -> usize {
        let id = format!("peer-{}.test", self.peers.len());
        self.peers.push(Peer::start(&self.fleet, &id, weights, conduct).await.unwrap());
        self.peers.len() - 1
    }

    fn member(peer: &Peer) -> Member {
        Member { id: peer.id.clone(), address: peer.address.to_string(), name: peer.id.clone(), is_near: true }
    }

    fn loader_of(&self, members: Vec<Member>) -> Loader {
        let tls = self.fleet.client("receiver.test");
        let peers = Peers {
            members: Arc::new(move || members.clone()),
            tls: Arc::new(move || Arc::clone(&tls)),
            own_id: Some("receiver.test".to_owned()),
            roots: vec![self.manifest.root()],
        };
        Loader::beside(Some(peers), &self.config, Env::default(), &Registry::new()).unwrap()
    }

    fn verdict(&self) -> Verdict {
        let expected = |file: &ManifestFile| (file.name.clone(), Expected::Extents(file.extents.clone()));
        let expected: BTreeMap<String, Expected> = self.manifest.files().iter().map(expected).collect();
        let root = Some(self.manifest.root());
        Verdict { proof: Proof::Proven, expected, is_exhaustive: true, root, reasons: Vec::new() }
    }

    async fn open(&self, members: Vec<Member>) -> Result<Load, LoadError> {
        let loader = self.loader_of(members);
        let probe = loader.probe(&self.url.parse().unwrap()).await?;
        let options =
            OpenOptions { order: (0..TENSORS).map(|at| format!("layers.{at}")).collect(), ..Default::default() };
        loader.open(probe, &self.verdict(), options).await
    }

    /// Loads beside all peers, and checks every byte.
    async fn load(&self) -> Summary {
        self.load_from(self.peers.iter().map(Self::member).collect()).await
    }

    async fn load_from(&self, members: Vec<Member>) -> Summary {
        let load = self.open(members).await.unwrap();
        let summary = load.finished().await.unwrap();
        let expected = Generated::new((TENSORS * TENSOR_BYTES) as u64, 5);
        for at in 0..TENSORS {
            let range = (at * TENSOR_BYTES) as u64..((at + 1) * TENSOR_BYTES) as u64;
            assert!(load.weights.get(&format!("layers.{at}")).unwrap().bytes() == expected.bytes(range), "layers.{at}");
        }
        assert_eq!(load.weights.proof(), Proof::Proven);
        summary
    }

    /// Bytes of weights that storage sent: at least a header, read twice.
    fn sent_by_origin(&self) -> u64 {
        let account = self.origin.as_ref().unwrap().account();
        account.objects.get("m/model.safetensors").map_or(0, |object| object.bytes_sent)
    }

    fn bytes(&self) -> u64 {
        self.files[MODEL].len() as u64
    }
}

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
    let mut world = World::new();
    for _ in 0..4 {
        world.peer(Conduct::Honest).await;
    }
    let summary = world.load().await;
    assert_eq!(world.sent_by_origin(), HEADER_READS);
    let from_peers: u64 = world.peers.iter().map(|peer| source(&summary, peer).bytes).sum();
    assert_eq!(from_peers, world.bytes());
    assert!(world.peers.iter().filter(|peer| peer.bytes_sent() > 0).count() >= 2, "{:?}", sources(&summary));
    assert!(sources(&summary).iter().all(|source| source.dismissed.is_none()));
    let waterfall = source(&summary, &world.peers[0]);
    assert!(waterfall.bytes == 0 || waterfall.first_extent_s <= waterfall.last_extent_s, "{waterfall:?}");
    let latest = world.peers[0].books.latest.lock().clone();
    assert_eq!(latest.0.as_deref(), Some("receiver.test"), "it says who asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_is_banned_at_its_first_extent() {
    let mut world = World::new();
    let liar = world.peer(Conduct::Lies).await;
    world.peer(Conduct::Honest).await;
    let summary = world.load().await;
    let lies = world.peers[liar].books.requests.load(Ordering::Relaxed);
    assert!((1..=2).contains(&lies), "what was in flight, and no more: {lies}");
    let report = source(&summary, &world.peers[liar]);
    assert_eq!((report.bytes, report.dismissed), (0, Some("banned")));
    assert!(summary.fetch.as_ref().unwrap().corrupt_extents >= 1);
    assert_eq!(world.sent_by_origin(), HEADER_READS, "the other peer has all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_liars_leaves_everything_to_storage() {
    let mut world = World::new();
    for _ in 0..5 {
        world.peer(Conduct::Lies).await;
    }
    let summary = world.load().await;
    assert!(world.sent_by_origin() >= world.bytes());
    assert!(world.peers.iter().all(|peer| source(&summary, peer).dismissed == Some("banned")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_costs_what_was_in_flight() {
    let mut world = World::new();
    world.peer(Conduct::DiesAfter(6 << 20)).await;
    world.peer(Conduct::Honest).await;
    let summary = world.load().await;
    assert_eq!(world.sent_by_origin(), HEADER_READS);
    assert!(source(&summary, &world.peers[1]).bytes >= world.bytes() - (6 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_crawls_loses_its_work_to_the_others() {
    let mut world = World::new();
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
    let mut world = World::new();
    // Extent 0 is `config.json`.
    let some = PeerWeights::some(&world.manifest, &world.files, 1..8);
    world.peer_with(some, Conduct::Honest).await;
    let summary = world.load().await;
    let from_peer = source(&summary, &world.peers[0]).bytes;
    assert!(from_peer > 0 && from_peer <= 7 * EXTENT as u64, "{:?}", sources(&summary));
    assert_eq!(from_peer + sources(&summary)[0].bytes, world.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_storage_gone_and_the_root_known_peers_suffice() {
    let mut world = World::new();
    world.config.http.connect_timeout_ms = 500;
    for conduct in [Conduct::Honest, Conduct::Lies, Conduct::Honest] {
        world.peer(conduct).await;
    }
    world.origin = None;
    let summary = world.load().await;
    assert!(sources(&summary).iter().all(|source| source.url.starts_with("peer://")), "{:?}", sources(&summary));
    let cache = tempfile::tempdir().unwrap();
    (world.config.cache.enabled, world.config.cache.root) = (true, Some(cache.path().to_owned()));
    world.config.cache.min_free_bytes = 0;
    let summary = world.load().await;
    assert!(summary.kept, "the cache keeps it as any other");
    assert!(kept(cache.path(), &world.manifest) == world.files[MODEL]);
}

fn kept(cache: &Path, manifest: &Manifest) -> Vec<u8> {
    std::fs::read(cache.join("v1/models").join(manifest.root().to_hex()).join(MODEL)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_storage_and_without_a_peer_the_load_says_so() {
    let mut world = World::new();
    world.config.http.connect_timeout_ms = 500;
    world.peer(Conduct::Unknown).await;
    world.origin = None;
    let error = world.open(world.peers.iter().map(World::member).collect()).await.err().unwrap();
    assert!(error.to_string().contains(world.url.trim_end_matches("m/")), "storage's own trouble: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_storage_gone_one_honest_peer_among_bad_ones_of_every_kind_suffices() {
    let mut world = World::new();
    world.config.http.connect_timeout_ms = 500;
    world.config.peers.connect_timeout_ms = 500;
    for conduct in bad() {
        world.peer(conduct).await;
    }
    let honest = world.peer(Conduct::Honest).await;
    world.origin = None;
    let summary = world.load().await;
    let others = world.peers[..honest].iter().filter_map(|peer| find(&summary, peer));
    let others: u64 = others.map(|source| source.bytes).sum();
    assert_eq!(source(&summary, &world.peers[honest]).bytes + others, world.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_peers_of_every_kind_cost_storage_its_bytes_and_nothing_else() {
    let mut world = World::new();
    for conduct in bad() {
        world.peer(conduct).await;
    }
    let summary = world.load().await;
    assert!(sources(&summary)[0].bytes > 0 && summary.fetch.as_ref().unwrap().bytes() == world.bytes());
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
    let mut world = World::new();
    let other = Fleet::new();
    let stranger = Peer::start(&other, "peer-0.test", world.weights(), Conduct::Honest).await.unwrap();
    world.peers.push(stranger);
    let summary = world.load().await;
    assert_eq!(world.peers[0].books.requests.load(Ordering::Relaxed), 0);
    assert!(find(&summary, &world.peers[0]).is_none(), "it never was a peer");
    // One of the fleet, but not the one that was meant.
    let mut member = World::member(&world.peers[0]);
    let known = world.peer(Conduct::Honest).await;
    member.address = world.peers[known].address.to_string();
    world.load_from(vec![member]).await;
    assert_eq!(world.peers[known].books.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_because_a_peer_names_him_or_leads_there() {
    let mut world = World::new();
    let outsider = world.peer(Conduct::Honest).await;
    let named = vec![world.peers[outsider].id.clone(), world.peers[outsider].address.to_string()];
    let busy = world.peer(Conduct::Busy(Duration::from_millis(20), named)).await;
    world.load_from(vec![World::member(&world.peers[busy])]).await;
    assert!(world.peers[busy].books.requests.load(Ordering::Relaxed) > 0);
    let to = format!("https://{}/weights", world.peers[outsider].address);
    let redirecting = world.peer(Conduct::Redirects(to)).await;
    world.load_from(vec![World::member(&world.peers[redirecting])]).await;
    assert!(world.peers[redirecting].books.requests.load(Ordering::Relaxed) > 0);
    let books = &world.peers[outsider].books;
    assert_eq!((books.requests.load(Ordering::Relaxed), books.streams.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_that_a_peer_gets_later_are_taken_from_it() {
    let mut world = World::new();
    world.config.peers.patience_ms = 60_000;
    // Of the whole model; so the honest half is asked for what comes later.
    let early = PeerWeights::some(&world.manifest, &world.files, 0..7);
    let late = PeerWeights::some(&world.manifest, &world.files, 0..0);
    world.peer_with(early, Conduct::Honest).await;
    world.peer_with(late, Conduct::Honest).await;
    world.origin = None;
    let members: Vec<Member> = world.peers.iter().map(World::member).collect();
    let load = world.open(members).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.peers[0].bytes_sent() < 5 * EXTENT as u64 {
        assert!(Instant::now() < deadline, "the first half comes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!load.weights.is_complete());
    world.peers[1].add(&(7..13).collect::<Vec<u32>>());
    load.finished().await.unwrap();
    assert!(world.peers[1].bytes_sent() >= 5 * EXTENT as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_cannot_be_reached_delay_nothing_for_long() {
    let mut world = World::new();
    let honest = world.peer(Conduct::Honest).await;
    let mut members = vec![World::member(&world.peers[honest])];
    // Addresses of this machine at which nobody listens, one that is none, and one that never answers (RFC 5737).
    for (at, address) in ["127.0.0.1:1", "[::1]:1", "nowhere", "192.0.2.1:8082", "192.0.2.2:8082"].iter().enumerate() {
        let id = format!("gone-{at}.test");
        members.push(Member { id: id.clone(), address: (*address).to_owned(), name: id, is_near: true });
    }
    let begun = Instant::now();
    let summary = world.load_from(members).await;
    assert_eq!(source(&summary, &world.peers[honest]).bytes, world.bytes());
    assert_eq!(sources(&summary).len(), 2, "storage and one peer: {:?}", sources(&summary));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_is_shown_to_peers() {
    let mut world = World::new();
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
    let mut world = World::new();
    world.config.peers.patience_ms = 60_000;
    world.peer(Conduct::Slow(100_000)).await;
    let load = world.open(vec![World::member(&world.peers[0])]).await.unwrap();
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
