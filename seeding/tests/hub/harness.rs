//! A hub, a node before it, and a client that sees every byte.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::map_request;
use listen::{Drain, ListenConfig, Listener, Peer};
use loader::peers::Peers;
use loader::remote::Env;
use loader::{Loader, LoaderConfig};
use policy::{Trust, TrustConfig};
use seeding::Seeder;
use seeding::hub::{Named, Node, NodeConfig, app};
use telemetry::metrics::Registry;
use testkit::origin::{Builder, Origin, Shape};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use wire::EXTENT_BYTES;
use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, Manifest, ManifestFile};

/// The repository of most tests.
pub(crate) const REPOSITORY: &str = "org/tiny";
pub(crate) const CONFIG: &[u8] = b"{\"model_type\": \"tiny\"}";
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Long enough for a busy machine; a passing test never waits for it.
const LIMIT: Duration = Duration::from_secs(60);

/// A file of weights of three extents.
pub(crate) fn weights() -> Vec<u8> {
    weights_of(2)
}

/// A file of weights of so many extents and a little more.
pub(crate) fn weights_of(extents: u64) -> Vec<u8> {
    let numbers = (extents * EXTENT_BYTES + 1_000) / 4;
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{numbers}],"data_offsets":[0,{}]}}}}"#, numbers * 4);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(noise(numbers * 4));
    bytes
}

pub(crate) fn noise(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|place| (place % 251 + place / 65_536) as u8 | 1).collect()
}

/// A hub with the repository.
pub(crate) fn hub() -> Builder {
    hub_with(weights())
}

fn hub_with(weights: Vec<u8>) -> Builder {
    let name = |file: &str| format!("{REPOSITORY}/{file}");
    Origin::builder()
        .shape(Shape::Hub)
        .object(&name("config.json"), CONFIG)
        .object(&name("README.md"), &b"# tiny\n"[..])
        .object(&name("empty.txt"), &b""[..])
        .object(&name("onnx/model.onnx"), noise(70_000))
        .object(&name(WEIGHTS), weights)
}

/// The same with a published manifest.
pub(crate) fn proven_hub() -> Builder {
    proven_hub_with(weights())
}

pub(crate) fn proven_hub_with(weights: Vec<u8>) -> Builder {
    let file = |name: &str, bytes: &[u8]| ManifestFile {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        extents: bytes.chunks(EXTENT_BYTES as usize).map(|piece| Digest(blake3::hash(piece).into())).collect(),
        tensors: Vec::new(),
    };
    let files = vec![file("config.json", CONFIG), file(WEIGHTS, &weights)];
    let manifest = Manifest::new(files).expect("a manifest");
    hub_with(weights).object(&format!("{REPOSITORY}/{MANIFEST_NAME}"), manifest.to_json())
}

/// The settings of a node.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) node: NodeConfig,
    pub(crate) loader: LoaderConfig,
    pub(crate) trust: TrustConfig,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    pub(crate) models: Vec<Named>,
    /// Peers to fill from.
    pub(crate) peers: Option<Peers>,
    /// Where callers seem to be.
    pub(crate) caller: Option<IpAddr>,
}

/// A node at work.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// Where it gives peers what it has.
    pub(crate) peers: Option<SocketAddr>,
    pub(crate) node: Arc<Node>,
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    pub(crate) task: JoinHandle<()>,
    tending: JoinHandle<()>,
    cache: Arc<tempfile::TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tending.abort();
        self.task.abort();
    }
}

/// Starts a node with a cache of its own.
pub(crate) async fn start(hub: &str, change: impl FnOnce(&mut Settings)) -> Running {
    start_over(hub, Arc::new(tempfile::tempdir().expect("a directory")), change).await
}

async fn start_over(hub: &str, cache: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings::default();
    settings.node.hub_endpoint = Some(hub.to_owned());
    settings.loader.cache.root = Some(cache.path().to_owned());
    settings.loader.cache.min_free_bytes = 0;
    settings.loader.fetch.retry_seconds_max = 5;
    change(&mut settings);
    settings.node.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (registry, drain) = (Registry::new(), Drain::new());
    let env = Env::from_pairs(settings.environment);
    let loader = Loader::beside(settings.peers, &settings.loader, env, &registry).expect("a loader");
    let trust = Trust::new(&settings.trust).expect("a trust");
    let listen: ListenConfig = settings.node.listen.clone();
    let seeder = Seeder::start(&settings.node.peers, &registry, drain.clone()).await.expect("a seeder");
    let peers = seeder.as_ref().map(Seeder::local_addr);
    let both = (&registry, drain.clone());
    let node = Node::new(settings.node, loader, trust, settings.models, both, seeder).expect("a node");
    let listener = Listener::bind(&listen).await.expect("a port").with_metrics(&registry, "node");
    let address = listener.local_addr();
    let (mut served, drained) = (app(Arc::clone(&node)), drain.clone());
    if let Some(caller) = settings.caller {
        served = served.layer(map_request(move |mut request: Request| async move {
            request.extensions_mut().insert(Peer((caller, 1).into()));
            request
        }));
    }
    let task = tokio::spawn(async move { drop(listener.serve(served, drained).await) });
    let tending = tokio::spawn(Arc::clone(&node).tend());
    Running { address, peers, node, registry, drain, task, tending, cache }
}

impl Running {
    /// Ends it once what was filled is kept, and starts another over its cache.
    pub(crate) async fn again(self, hub: &str, change: impl FnOnce(&mut Settings)) -> Self {
        self.filled().await;
        self.node.write_notes();
        start_over(hub, Arc::clone(&self.cache), change).await
    }

    /// Waits until all fills have ended and are counted: an answer's last byte comes before its fill's end.
    pub(crate) async fn filled(&self) {
        eventually("all fills have ended", || self.metric("forebay_node_filling") == 0.0).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.ask("HEAD", path, &[]).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        tokio::time::timeout(LIMIT, self.open(method, path, headers).await.read()).await.expect("answers in time")
    }

    /// Sends a request; its answer is read by the caller.
    pub(crate) async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Conversation {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("sends");
        Conversation { stream, come: Vec::new() }
    }

    /// The value of a metric, labels and all.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.registry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }
}

/// The URL of a file of the repository.
pub(crate) fn file(name: &str) -> String {
    format!("/{REPOSITORY}/resolve/main/{name}")
}

/// A request under way.
pub(crate) struct Conversation {
    pub(crate) stream: TcpStream,
    come: Vec<u8>,
}

impl Conversation {
    /// Reads until `bytes` of the body have come.
    pub(crate) async fn read_body(&mut self, bytes: usize) -> Vec<u8> {
        let reading = async {
            loop {
                if let Some(at) = end_of_head(&self.come)
                    && self.come.len() - at >= bytes
                {
                    return self.come[at..].to_vec();
                }
                let mut piece = vec![0; 64 << 10];
                let count = self.stream.read(&mut piece).await.expect("reads");
                assert!(count > 0, "the answer ends after {} bytes", self.come.len());
                self.come.extend(&piece[..count]);
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("comes in time")
    }

    /// Returns true if no byte of the body comes within `patience` after the head.
    pub(crate) async fn is_silent(&mut self, patience: Duration) -> bool {
        self.read_body(0).await;
        let end = tokio::time::Instant::now() + patience;
        let mut piece = vec![0; 64 << 10];
        while let Ok(count) = tokio::time::timeout_at(end, self.stream.read(&mut piece)).await {
            self.come.extend(&piece[..count.expect("reads")]);
        }
        end_of_head(&self.come) == Some(self.come.len())
    }

    /// Reads to the end.
    pub(crate) async fn read(mut self) -> Answer {
        // A connection that is cut is an end, too.
        let _ = self.stream.read_to_end(&mut self.come).await;
        let at = end_of_head(&self.come).unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(&self.come)));
        let head = String::from_utf8_lossy(&self.come[..at]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Answer { status, headers: lines.filter_map(field).collect(), body: self.come[at..].to_vec() }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
