//! An API server of Kubernetes that knows EndpointSlices and nothing else, on a real socket: pages, versions, watches,
//! bookmarks, 410, and every way to fail that a test wants. It speaks HTTP/1.1, one request at a time a connection.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The largest request head that is read.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The token that it knows.
const TOKEN: &str = "a-token-for-tests";

/// The way in which every request fails.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    /// None does.
    #[default]
    None,
    /// This status, with a body as the API has it.
    Status(u16),
    /// 200, and these bytes again and again, without an end.
    Endless(Vec<u8>),
    /// 200, and these bytes.
    Body(Vec<u8>),
    /// No answer, on an open connection.
    Stall,
    /// The connection is closed without a word.
    Cut,
}

/// The server.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells watches to look at the state.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// The oldest version that a watch may go on from.
    oldest: u64,
    slices: BTreeMap<String, Value>,
    changes: Vec<Change>,
    /// Lists that are being read page by page.
    lists: BTreeMap<u64, Vec<Value>>,
    fault: Fault,
    /// Grows when every watch is to end: in order, or amid a line.
    endings: (u64, u64),
    asked: Vec<String>,
    watches: usize,
}

#[derive(Debug, Clone)]
struct Change {
    version: u64,
    kind: &'static str,
    object: Value,
}

impl ApiServer {
    /// Starts a server without slices.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { version: 1, ..State::default() }),
            changed: watch::channel(0).0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, tasks }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a file with the token that it knows.
    #[must_use]
    pub fn token_file(&self, directory: &Path) -> PathBuf {
        let path = directory.join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).expect("writes");
        path
    }

    /// Adds or replaces the slice of this name.
    pub fn put(&self, name: &str, endpoints: Value) {
        self.change(|state| {
            let kind = if state.slices.contains_key(name) { "MODIFIED" } else { "ADDED" };
            let object = slice(name, state.version, endpoints);
            state.slices.insert(name.into(), object.clone());
            (kind, object)
        });
    }

    /// Removes a slice.
    pub fn remove(&self, name: &str) {
        self.change(|state| {
            let mut object = state.slices.remove(name).unwrap_or_else(|| slice(name, 0, json!([])));
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            ("DELETED", object)
        });
    }

    /// Sends every watch an event of this kind and object, which changes nothing here.
    pub fn send(&self, kind: &'static str, object: Value) {
        self.change(|_| (kind, object));
    }

    /// Sends every watch the present version.
    pub fn bookmark(&self) {
        self.change(|state| {
            let version = state.version.to_string();
            ("BOOKMARK", json!({"kind": "EndpointSlice", "metadata": {"resourceVersion": version}, "addressType": "", "endpoints": null}))
        });
    }

    /// Forgets the past: a watch from an older version, or the next page of a list, gets 410.
    pub fn compact(&self) {
        let mut state = self.shared.state.lock();
        state.oldest = state.version;
        state.lists.clear();
    }

    /// Ends every watch, in order.
    pub fn end_watches(&self) {
        self.shared.state.lock().endings.0 += 1;
        self.shared.tell();
    }

    /// Breaks every watch off, amid a line.
    pub fn cut_watches(&self) {
        self.shared.state.lock().endings.1 += 1;
        self.shared.tell();
    }

    /// Makes every request from now on fail in this way.
    pub fn fail(&self, fault: Fault) {
        self.shared.state.lock().fault = fault;
    }

    /// The paths and queries that were asked for, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.state.lock().asked.clone()
    }

    /// The watches that are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.shared.state.lock().watches
    }

    /// Goes away: every connection is closed, and new ones are refused.
    pub async fn die(&mut self) {
        self.tasks.shutdown().await;
        self.shared.state.lock().watches = 0;
    }

    /// Comes back at its old address, with what it has.
    pub async fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("its old port");
        self.tasks.spawn(accept(listener, Arc::clone(&self.shared)));
    }

    fn change(&self, change: impl FnOnce(&mut State) -> (&'static str, Value)) {
        let mut state = self.shared.state.lock();
        state.version += 1;
        let version = state.version;
        let (kind, object) = change(&mut state);
        state.changes.push(Change { version, kind, object });
        drop(state);
        self.shared.tell();
    }
}

impl Shared {
    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A slice as the API has it, with the ports 8081 `http` and 8082 `peers`.
fn slice(name: &str, version: u64, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": name, "namespace": "forebay", "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "workers"}},
        "ports": [{"name": "http", "port": 8081, "protocol": "TCP"}, {"name": "peers", "port": 8082, "protocol": "TCP"}]})
}

/// The endpoint of a pod that is ready.
#[must_use]
pub fn pod(name: &str, address: &str, zone: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
        "hostname": name, "zone": zone, "targetRef": {"kind": "Pod", "name": name, "namespace": "forebay"}})
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with the accept loop: no connection outlives the server.
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// A request: its path and query, and whether it brings the token.
struct Asked {
    path: String,
    is_known: bool,
}

async fn connection(mut socket: TcpStream, shared: Arc<Shared>) {
    while let Some(asked) = read_request(&mut socket).await {
        let fault = {
            let mut state = shared.state.lock();
            state.asked.push(asked.path.clone());
            state.fault.clone()
        };
        let stays = match fault {
            Fault::None if !asked.is_known => answer(&mut socket, 401, &status(401)).await,
            Fault::None => serve(&mut socket, &shared, &asked.path).await,
            Fault::Status(code) => answer(&mut socket, code, &status(code)).await,
            Fault::Body(bytes) => answer(&mut socket, 200, &bytes).await,
            Fault::Endless(bytes) => endless(&mut socket, &bytes).await,
            Fault::Stall => std::future::pending().await,
            Fault::Cut => None,
        };
        if stays.is_none() {
            return;
        }
    }
}

async fn read_request(socket: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || socket.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let path = text.split(' ').nth(1)?.to_owned();
    let is_known = text.lines().any(|line| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.eq_ignore_ascii_case("authorization") && value.trim() == format!("Bearer {TOKEN}")
    });
    Some(Asked { path, is_known })
}

async fn serve(socket: &mut TcpStream, shared: &Shared, path: &str) -> Option<()> {
    let query: BTreeMap<&str, &str> = path
        .split_once('?')
        .map_or_else(BTreeMap::new, |(_, query)| query.split('&').filter_map(|pair| pair.split_once('=')).collect());
    let is_service = query.get("labelSelector") == Some(&"kubernetes.io%2Fservice-name%3Dworkers");
    if !path.starts_with("/apis/discovery.k8s.io/v1/namespaces/forebay/endpointslices?") || !is_service {
        return answer(socket, 404, &status(404)).await;
    }
    if query.get("watch") == Some(&"true") {
        let version = query.get("resourceVersion").and_then(|version| version.parse().ok())?;
        let seconds = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok())?;
        shared.state.lock().watches += 1;
        let watched = tokio::time::timeout(Duration::from_secs(seconds), follow(socket, shared, version)).await;
        shared.state.lock().watches -= 1;
        return match watched {
            Ok(stays) => stays,
            Err(_) => socket.write_all(b"0\r\n\r\n").await.ok(),
        };
    }
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let list = page(&mut shared.state.lock(), limit, query.get("continue").copied());
    match list {
        Some(list) => answer(socket, 200, list.to_string().as_bytes()).await,
        None => answer(socket, 410, &status(410)).await,
    }
}

/// A page of a list; later pages show the same moment as the first. `None` if the token is forgotten.
fn page(state: &mut State, limit: usize, token: Option<&str>) -> Option<Value> {
    let (version, at) = match token {
        None => {
            let list = state.slices.values().cloned().collect();
            state.lists.insert(state.version, list);
            (state.version, 0)
        }
        Some(token) => {
            // The client escapes what is no letter and no digit.
            let (version, at) = token.split_once("%2D")?;
            (version.parse().ok()?, at.parse().ok()?)
        }
    };
    let list = state.lists.get(&version)?;
    let items: Vec<&Value> = list.iter().skip(at).take(limit).collect();
    let next = at + items.len();
    let token = if next < list.len() { format!("{version}-{next}") } else { String::new() };
    Some(json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": items}))
}

/// Sends the changes after a version, now and as they come.
async fn follow(socket: &mut TcpStream, shared: &Shared, version: u64) -> Option<()> {
    let mut changed = shared.changed.subscribe();
    let (endings, oldest) = {
        let state = shared.state.lock();
        (state.endings, state.oldest)
    };
    head(socket, 200, "transfer-encoding: chunked").await?;
    if version < oldest {
        let gone = json!({"type": "ERROR", "object": serde_json::from_slice::<Value>(&status(410)).ok()});
        chunk(socket, format!("{gone}\n").as_bytes()).await?;
        return socket.write_all(b"0\r\n\r\n").await.ok();
    }
    let mut sent = version;
    loop {
        let (later, now) = {
            let state = shared.state.lock();
            let later: Vec<Change> = state.changes.iter().filter(|change| change.version > sent).cloned().collect();
            (later, state.endings)
        };
        for Change { version, kind, object } in later {
            chunk(socket, format!("{}\n", json!({"type": kind, "object": object})).as_bytes()).await?;
            sent = version;
        }
        if now.0 != endings.0 {
            return socket.write_all(b"0\r\n\r\n").await.ok();
        }
        if now.1 != endings.1 {
            chunk(socket, b"{\"type\": \"MODI").await?;
            return None;
        }
        let mut gone = [0];
        tokio::select! {
            changed = changed.changed() => changed.ok()?,
            read = socket.read(&mut gone) => return read.ok().filter(|read| *read > 0).map(drop),
        }
    }
}

fn status(code: u16) -> Vec<u8> {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": "a test wants it"})
    .to_string()
    .into_bytes()
}

async fn head(socket: &mut TcpStream, code: u16, framing: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {code} X\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.ok()
}

async fn answer(socket: &mut TcpStream, code: u16, body: &[u8]) -> Option<()> {
    head(socket, code, &format!("content-length: {}", body.len())).await?;
    socket.write_all(body).await.ok()
}

async fn chunk(socket: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    socket.write_all(&chunk).await.ok()
}

async fn endless(socket: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    head(socket, 200, "transfer-encoding: chunked").await?;
    let many = bytes.repeat((64 << 10) / bytes.len().max(1) + 1);
    loop {
        chunk(socket, &many).await?;
    }
}
