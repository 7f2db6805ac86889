//! A worker on a free port, with the scripted backend over the demo's tokenizer unless a test says otherwise.

use super::client::{self, Open, PATIENCE, Reply};
use listen::{Drain, Listener};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::metrics::Registry;
use tokio::task::JoinHandle;
use worker::config::{StorageConfig, WorkerConfig};
use worker::lifecycle::{ModelSource, StartError, Worker};

/// A running worker.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) registry: Registry,
    pub(crate) task: JoinHandle<()>,
    key: Option<String>,
}

/// Starts a worker with the bundled model; `settings` are laid over the test's own, key by key.
pub(crate) async fn start(settings: Value) -> Running {
    let (worker, loaded) = begin(settings, storage(), vec![ModelSource::Demo]).await;
    tokio::time::timeout(PATIENCE, loaded).await.expect("loads in time").expect("loads");
    worker
}

/// Models are loaded into memory: tests leave nothing behind.
pub(crate) fn storage() -> StorageConfig {
    let mut storage = StorageConfig::default();
    storage.loader.cache.enabled = false;
    storage
}

/// Starts a worker that may still be loading, and gives what waits for its models.
pub(crate) async fn begin(
    settings: Value,
    storage: StorageConfig,
    models: Vec<ModelSource>,
) -> (Running, impl Future<Output = Result<(), Arc<StartError>>>) {
    let mut config = json!({"listen": {"address": "127.0.0.1:0"}, "backend": "scripted", "scripted_step_ms": 0});
    for (key, value) in settings.as_object().expect("an object") {
        config[key.as_str()] = value.clone();
    }
    if config["listen"].get("address").is_none() {
        config["listen"]["address"] = json!("127.0.0.1:0");
    }
    let config: WorkerConfig = serde_json::from_value(config).expect("a valid configuration");
    let key = config.api_key.as_ref().map(|key| key.reveal().to_owned());
    let registry = Registry::new();
    let drain = Drain::new();
    let listener = Listener::bind(&config.listen).await.expect("binds");
    let address = listener.local_addr();
    let worker = Worker::start(config, &storage, models, registry.clone(), drain.clone()).expect("starts");
    let loaded = worker.loaded();
    let task = tokio::spawn(async move { worker.serve(listener).await.expect("serves") });
    (Running { address, drain, registry, task, key }, loaded)
}

impl Running {
    pub(crate) async fn open(&self, method: &str, path: &str, body: &[u8]) -> Open {
        let authorization = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        client::open(self.address, method, path, &headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.open("GET", path, b"").await.finish().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.open("POST", path, body.to_string().as_bytes()).await.finish().await
    }

    /// A successful chat answer to `fields` beside model and one message.
    pub(crate) async fn chat(&self, fields: Value) -> Value {
        let reply = self.post("/v1/chat/completions", &chat(fields)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    pub(crate) async fn complete(&self, fields: Value) -> Value {
        let reply = self.post("/v1/completions", &completion(fields)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// The sum over labels of a metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.registry.render();
        let samples =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric has a value, and says what it was when it does not.
    pub(crate) async fn until(&self, name: &str, value: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        while !value(self.metric(name)) {
            assert!(begun.elapsed() < PATIENCE, "{name} stays at {}", self.metric(name));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A chat request with one message; `fields` are added or replace.
pub(crate) fn chat(fields: Value) -> Value {
    merged(json!({"model": "demo", "messages": [{"role": "user", "content": "What is Forebay?"}]}), fields)
}

/// A completion request; `fields` are added or replace.
pub(crate) fn completion(fields: Value) -> Value {
    merged(json!({"model": "demo", "prompt": "The forebay holds"}), fields)
}

fn merged(mut base: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("an object") {
        base[key.as_str()] = value.clone();
    }
    base
}
