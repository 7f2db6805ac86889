//! Starting the roles, alone or together, and ending them in order.

use crate::config::Config;
use crate::progress;
use anyhow::{Context, bail};
use listen::{Drain, ListenConfig, Listener};
use rand::Rng;
use std::net::SocketAddr;
use telemetry::metrics::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use worker::config::StorageConfig;
use worker::lifecycle::{ModelSource, Worker};

/// A role, or both, at work.
pub(crate) struct Running {
    /// Where clients go.
    pub(crate) url: String,
    drain: Drain,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Drains and waits for the end.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.drain.start();
        self.task.await.context("joining the server")?
    }
}

/// What `MODEL` arguments mean; none means the demo where that is allowed.
pub(crate) fn sources(models: &[String], default_demo: bool) -> anyhow::Result<Vec<ModelSource>> {
    if models.is_empty() && default_demo {
        return Ok(vec![ModelSource::Demo]);
    }
    Ok(models.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// The front door alone.
pub(crate) async fn router(config: &Config) -> anyhow::Result<Running> {
    if config.router.workers.is_empty() {
        bail!("a router needs workers: give --worker URL, or router.workers in the configuration");
    }
    start_router(config.router.clone()).await
}

async fn start_router(config: router::RouterConfig) -> anyhow::Result<Running> {
    let registry = Registry::new();
    let listener = Listener::bind(&config.listen).await?.with_metrics(&registry, "router");
    let url = url_of(listener.local_addr());
    let drain = Drain::new();
    let serving = router::serve(config, registry, listener, drain.clone());
    let task = tokio::spawn(async move { Ok(serving.await?) });
    Ok(Running { url, drain, task })
}

/// A worker alone: every model loaded, or an error.
pub(crate) async fn worker(config: &Config, models: Vec<ModelSource>) -> anyhow::Result<Running> {
    let registry = Registry::new();
    let listener = Listener::bind(&config.worker.listen).await?.with_metrics(&registry, "worker");
    let url = url_of(listener.local_addr());
    let drain = Drain::new();
    let storage = StorageConfig { loader: config.loader.clone(), trust: config.trust.clone() };
    let worker = Worker::start(config.worker.clone(), &storage, models, registry, drain.clone())?;
    let loaded = worker.loaded();
    tokio::spawn(progress::show(worker.progress()));
    let task = tokio::spawn(async move { Ok(worker.serve(listener).await?) });
    loaded.await?;
    Ok(Running { url, drain, task })
}

/// Both in one process: the same two roles over a loopback port, with a random key between them,
/// so that the worker's unscreened port is of no use to others on this machine.
pub(crate) async fn both(config: &Config, models: Vec<ModelSource>) -> anyhow::Result<Running> {
    let key = format!("{:032x}", rand::rng().random::<u128>());
    let mut config = config.clone();
    config.worker.listen = ListenConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..config.worker.listen };
    config.worker.api_key = Some(policy::Secret::new(key.clone()));
    let inner = worker(&config, models).await?;
    config.router.workers = vec![inner.url.clone()];
    config.router.worker_api_key = Some(policy::Secret::new(key));
    let outer = start_router(config.router).await?;
    let task = tokio::spawn(async move {
        outer.task.await.context("joining the router")??;
        inner.stop().await
    });
    Ok(Running { url: outer.url, drain: outer.drain, task })
}

/// Serves until SIGTERM or Ctrl-C, then drains; a second signal ends at once.
pub(crate) async fn until_signal(running: Running) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for Ctrl-C")?;
    println!("listening on {}  (OpenAI API at {}/v1; Ctrl-C ends)", running.url, running.url);
    let Running { drain, mut task, .. } = running;
    tokio::select! {
        result = &mut task => return result.context("joining the server")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining: readiness says no, streams finish");
    drain.start();
    tokio::select! {
        result = &mut task => result.context("joining the server")?,
        _ = terminate.recv() => bail!("ended at once by a second signal"),
        _ = interrupt.recv() => bail!("ended at once by a second signal"),
    }
}

fn url_of(address: SocketAddr) -> String {
    format!("http://{address}")
}
