//! Loads beside real seeders: the protocol's two ends against each other, over mutual TLS.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use listen::Drain;
use loader::peers::{Member, Peers};
use loader::remote::Env;
use loader::{Load, Loader, LoaderConfig, OpenOptions, Proof, Summary};
use policy::PeerRule;
use seeding::governor::Rate;
use seeding::{Role, Seeder, SeedingConfig, Sharing};
use telemetry::metrics::Registry;
use tempfile::TempDir;
use testkit::origin::{Generated, Origin};
use testkit::peer::{Conduct, Fleet, Peer, PeerWeights};
use wire::digest::Digest;
use wire::evidence::{Expected, Verdict};
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile};

const MODEL: &str = "model.safetensors";
const EXTENT: usize = 4 << 20;
const TENSORS: usize = 24;
const TENSOR_BYTES: usize = 3_000_000;

fn safetensors() -> Vec<u8> {
    let tensor = |place: usize| {
        let (begin, end) = (place * TENSOR_BYTES, (place + 1) * TENSOR_BYTES);
        format!("\"layers.{place}\":{{\"dtype\":\"U8\",\"shape\":[{TENSOR_BYTES}],\"data_offsets\":[{begin},{end}]}}")
    };
    let header = format!("{{{}}}", (0..TENSORS).map(tensor).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(Generated::new((TENSORS * TENSOR_BYTES) as u64, 3).bytes(0..(TENSORS * TENSOR_BYTES) as u64));
    bytes
}

/// A published model and the authority of its fleet.
struct World {
    fleet: Fleet,
    files: Arc<BTreeMap<String, Vec<u8>>>,
    manifest: Manifest,
    origin: Option<Origin>,
    url: String,
}

/// A process of the fleet: it loads, and gives what it has.
struct Process {
    seeder: Seeder,
    load: Load,
    _sharing: Sharing,
    _files: TempDir,
}

impl World {
    fn new() -> Self {
        let small = b"{\"model_type\":\"test\"}".to_vec();
        let files = BTreeMap::from([(MODEL.to_owned(), safetensors()), ("config.json".to_owned(), small)]);
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
        Self { fleet: Fleet::new(), files: Arc::new(files), manifest, origin: Some(origin), url }
    }

    fn verdict(&self) -> Verdict {
        let expected = |file: &ManifestFile| (file.name.clone(), Expected::Extents(file.extents.clone()));
        let expected = self.manifest.files().iter().map(expected).collect();
        let root = Some(self.manifest.root());
        Verdict { proof: Proof::Proven, expected, is_exhaustive: true, root, reasons: Vec::new() }
    }

    async fn load(&self, own: &str, members: Vec<Member>) -> Load {
        let tls = self.fleet.client(own);
        let peers = Peers {
            members: Arc::new(move || members.clone()),
            tls: Arc::new(move || Arc::clone(&tls)),
            own_id: Some(own.to_owned()),
            roots: vec![self.manifest.root()],
        };
        let mut config = LoaderConfig::default();
        config.cache.enabled = false;
        config.http.connect_timeout_ms = 1_000;
        let loader = Loader::beside(Some(peers), &config, Env::default(), &Registry::new()).unwrap();
        let probe = loader.probe(&self.url.parse().unwrap()).await.unwrap();
        let order = (0..TENSORS).map(|at| format!("layers.{at}")).collect();
        loader.open(probe, &self.verdict(), OpenOptions { order, ..OpenOptions::default() }).await.unwrap()
    }

    async fn seeder(&self, own: &str) -> (Seeder, TempDir) {
        let files = tempfile::tempdir().unwrap();
        let (certificate, key) = self.fleet.sign(own);
        for (name, text) in [("tls.crt", &*certificate), ("tls.key", &*key), ("ca.crt", self.fleet.authority())] {
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
        let seeder = Seeder::start(&config, &Registry::new(), Drain::new()).await.unwrap().unwrap();
        (seeder, files)
    }

    /// A process that loads beside others and offers what it has from the first extent on.
    async fn process(&self, own: &str, members: Vec<Member>) -> Process {
        let (seeder, files) = self.seeder(own).await;
        self.process_with(own, members, seeder, files).await
    }

    async fn process_with(&self, own: &str, members: Vec<Member>, seeder: Seeder, files: TempDir) -> Process {
        let load = self.load(own, members).await;
        let content = load.content().borrow().clone().expect("the root is known from the beginning");
        let sharing = seeder.offer().add(content, Role::Loading);
        Process { seeder, load, _sharing: sharing, _files: files }
    }

    /// A process that has everything.
    async fn warm(&self, own: &str) -> Process {
        let process = self.process(own, Vec::new()).await;
        process.load.finished().await.unwrap();
        process._sharing.set_role(Role::Serving);
        process
    }

    fn bytes(&self) -> u64 {
        self.files[MODEL].len() as u64
    }
}

fn member(own: &str, seeder: &Seeder) -> Member {
    Member { id: own.to_owned(), address: seeder.local_addr().to_string(), name: own.to_owned(), is_near: true }
}

async fn arrived(load: &Load) -> Summary {
    let summary = load.finished().await.unwrap();
    let expected = Generated::new((TENSORS * TENSOR_BYTES) as u64, 3);
    for at in 0..TENSORS {
        let range = (at * TENSOR_BYTES) as u64..((at + 1) * TENSOR_BYTES) as u64;
        assert!(load.weights.get(&format!("layers.{at}")).unwrap().bytes() == expected.bytes(range), "layers.{at}");
    }
    summary
}

fn from_peers(summary: &Summary) -> u64 {
    let sources = &summary.fetch.as_ref().unwrap().sources;
    sources.iter().filter(|source| source.url.starts_with("peer://")).map(|source| source.bytes).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_everything_from_those_that_serve() {
    let mut world = World::new();
    let (one, two) = (world.warm("one.test").await, world.warm("two.test").await);
    let members = vec![member("one.test", &one.seeder), member("two.test", &two.seeder)];
    let summary = arrived(&world.load("new.test", members.clone()).await).await;
    assert_eq!(from_peers(&summary), world.bytes());
    assert!([&one, &two].iter().all(|process| process.seeder.status().sent_bytes > 0), "striped");
    // Without storage: the manifest, headers and small files come from there, too.
    world.origin = None;
    let summary = arrived(&world.load("newer.test", members).await).await;
    assert_eq!(from_peers(&summary), world.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_the_right_loads_from_storage() {
    let world = World::new();
    let one = world.warm("one.test").await;
    let load = world.load("stranger.example", vec![member("one.test", &one.seeder)]).await;
    let summary = arrived(&load).await;
    assert_eq!((from_peers(&summary), one.seeder.status().sent_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_beside_a_real_seeder_are_banned_and_no_byte_of_theirs_is_shown() {
    let world = World::new();
    let one = world.warm("one.test").await;
    let weights = || PeerWeights::all(&world.manifest, &world.files);
    let liar = Peer::start(&world.fleet, "liar.test", weights(), Conduct::Lies).await.unwrap();
    let lying = Member { id: liar.id.clone(), address: liar.address.to_string(), name: liar.id.clone(), is_near: true };
    let summary = arrived(&world.load("new.test", vec![lying, member("one.test", &one.seeder)]).await).await;
    assert_eq!(from_peers(&summary), world.bytes());
    assert!(summary.fetch.unwrap().corrupt_extents >= 1);
}

/// Four new processes beside a warm one whose rate is the bottleneck: they give each other what they have.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_load_together_give_each_other_first_copies() {
    let world = World::new();
    let warm = world.warm("warm.test").await;
    warm.seeder.govern(Rate(40_000_000), Rate(40_000_000), None);
    let mut seeders = Vec::new();
    for at in 0..3 {
        let own = format!("new-{at}.test");
        let (seeder, files) = world.seeder(&own).await;
        seeders.push((own, seeder, files));
    }
    let mut members: Vec<Member> = seeders.iter().map(|(own, seeder, _)| member(own, seeder)).collect();
    members.push(member("warm.test", &warm.seeder));
    let mut processes = Vec::new();
    for (own, seeder, files) in seeders {
        processes.push(world.process_with(&own, members.clone(), seeder, files).await);
    }
    for process in &processes {
        let summary = tokio::time::timeout(Duration::from_secs(120), arrived(&process.load)).await.unwrap();
        assert_eq!(from_peers(&summary) + summary.fetch.unwrap().sources[0].bytes, world.bytes());
    }
    let swapped: u64 = processes.iter().map(|process| process.seeder.status().sent_bytes).sum();
    assert!(swapped > world.bytes() / 2, "of {} bytes three times, they swapped {swapped}", world.bytes());
}
