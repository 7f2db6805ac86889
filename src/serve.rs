//! Starting the roles, alone or together, and ending them in order.
//!
//! Everything that can be found wrong is found before a model is loaded: the configuration, tenants and a busy port.
//! From then on `/livez` answers, and `listening` is said when requests are.

use crate::config::Config;
use crate::fleet::{self, Own};
use crate::follow::Followed;
use crate::out;
use crate::progress;
use crate::signals::Signals;
use anyhow::{Context, bail};
use listen::{Drain, ListenConfig, Listener, TlsConfig};
use loader::ModelUrl;
use rand::Rng;
use router::{Router, RouterConfig};
use seeding::Seeder;
use std::net::SocketAddr;
use telemetry::metrics::Registry;
use tokio::task::{JoinHandle, JoinSet};
use worker::config::StorageConfig;
use worker::lifecycle::{ModelSource, Worker};

/// A role, or both, at work: sockets are served, models may still be loading.
pub(crate) struct Running {
    /// The URL that clients use.
    pub(crate) url: String,
    /// Its use, said once requests are answered.
    purpose: String,
    drain: Drain,
    task: JoinHandle<anyhow::Result<()>>,
    ready: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// An OpenAI server at work.
    fn serving(
        url: String,
        drain: Drain,
        task: JoinHandle<anyhow::Result<()>>,
        ready: JoinHandle<anyhow::Result<()>>,
    ) -> Self {
        let purpose = format!("OpenAI API at {url}/v1");
        Self { url, purpose, drain, task, ready }
    }

    /// A server that answers requests at once.
    pub(crate) fn at_once(url: String, purpose: String, drain: Drain, task: JoinHandle<anyhow::Result<()>>) -> Self {
        let ready = tokio::spawn(async { Ok(()) });
        Self { url, purpose, drain, task, ready }
    }

    /// Waits until requests are answered.
    ///
    /// # Errors
    /// A model cannot be served.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            result = &mut self.ready => result.context("joining the load")?,
            result = &mut self.task => {
                result.context("joining the server")??;
                bail!("the server ended while it was starting")
            }
        }
    }

    /// Drains and waits for the end.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.drain.start();
        self.task.await.context("joining the server")?
    }
}

/// Reads `MODEL` arguments; none means the demo where that is allowed.
///
/// # Errors
/// One that means nothing.
pub(crate) fn sources(models: &[String], default_demo: bool) -> anyhow::Result<Vec<ModelSource>> {
    if models.is_empty() && default_demo {
        return Ok(vec![ModelSource::Demo]);
    }
    models.iter().map(|text| check_hub_name(text).and_then(|()| Ok(text.parse()?))).collect()
}

/// Reads a model's URL.
///
/// # Errors
/// One that means nothing.
pub(crate) fn url(model: &str) -> anyhow::Result<ModelUrl> {
    if model == "demo" {
        bail!("`demo` is part of the program: there is nothing to read; give a directory or a URL");
    }
    check_hub_name(model)?;
    Ok(model.parse()?)
}

/// Refuses `ORG/NAME` where there is no such directory: other programs take it for a model of a hub.
fn check_hub_name(model: &str) -> anyhow::Result<()> {
    let (_, path) = ModelSource::split(model);
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let is_hub_name = path
        .split_once('/')
        .is_some_and(|(org, name)| is_name(org) && is_name(name) && !org.starts_with('.') && !name.ends_with(".gguf"));
    if is_hub_name && !std::path::Path::new(path).exists() {
        bail!("there is no directory `{path}` here; for the model of that name on Hugging Face write hf://{path}");
    }
    Ok(())
}

/// The front door alone.
///
/// # Errors
/// A wrong configuration or a busy port.
pub(crate) async fn router(config: &Config, followed: Followed) -> anyhow::Result<Running> {
    if config.router.workers.is_empty() && !config.router.discovery.is_on() {
        bail!(
            "a router needs workers: give --worker URL, router.workers or a source in router.discovery, e.g. \
             --set router.discovery.kubernetes=forebay/forebay-worker:http"
        );
    }
    let registry = Registry::new();
    let listener = Listener::bind(&config.router.listen).await?;
    let (url, drain) = (listener.url(), Drain::new());
    let router = Router::new(config.router.clone(), &registry, drain.clone())?;
    let looking = router.clone();
    let following = followed.follow(router.clone(), |config| config);
    let task = tokio::spawn(route(router, listener, registry, drain.clone(), following));
    let ready = tokio::spawn(async move {
        looking.look_around().await;
        Ok(())
    });
    Ok(Running::serving(url, drain, task, ready))
}

/// Serves a router, watches its workers and follows its configuration until the drain is over.
async fn route(
    router: Router,
    listener: Listener,
    registry: Registry,
    drain: Drain,
    following: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let _watches: JoinSet<()> = router.watch();
    // Each request may hold a connection to its worker besides.
    let listener = listener.with_metrics(&registry, "router").with_descriptors_per_connection(2);
    let result = tokio::select! {
        served = listener.serve(router.app(), drain) => served.map_err(anyhow::Error::from),
        followed = following => followed,
    };
    router.flush().await;
    result
}

/// A worker alone.
///
/// # Errors
/// A wrong configuration or a busy port.
pub(crate) async fn worker(config: &Config, models: Vec<ModelSource>) -> anyhow::Result<Running> {
    let registry = Registry::new();
    let listener = Listener::bind(&config.worker.listen).await?;
    start_worker(config, own(config), models, listener, registry).await
}

/// A worker of this configuration, as its fleet has to know it.
fn own(config: &Config) -> Own {
    Own {
        port: config.worker.peers.listen.map(|address| address.port()),
        key: config.worker.api_key.clone(),
        roots: config.trust.roots.clone(),
    }
}

async fn start_worker(
    config: &Config,
    own: Own,
    models: Vec<ModelSource>,
    listener: Listener,
    registry: Registry,
) -> anyhow::Result<Running> {
    let (url, drain) = (listener.url(), Drain::new());
    let listener = listener.with_metrics(&registry, "worker");
    let storage = StorageConfig {
        loader: config.loader.clone(),
        trust: config.trust.clone(),
        peers: fleet::peers(&config.peers, own, &registry)?,
    };
    let seeder = Seeder::start(&config.worker.peers, &registry, drain.clone()).await.context("worker.peers")?;
    let worker = Worker::start_seeding(config.worker.clone(), &storage, models, registry, drain.clone(), seeder)?;
    let loaded = worker.loaded();
    let shown = tokio::spawn(progress::show(worker.progress()));
    let task = tokio::spawn(async move { Ok(worker.serve(listener).await?) });
    let ready = tokio::spawn(async move {
        let result = loaded.await;
        // What is said next begins on a line of its own.
        shown.abort();
        let _ = shown.await;
        Ok(result?)
    });
    Ok(Running::serving(url, drain, task, ready))
}

/// Both in one process: the same two roles over a loopback port, with a random key between them, so that the worker's
/// unscreened port is of no use to others on this machine. They share one registry: `/metrics` shows both.
///
/// # Errors
/// A wrong configuration or a busy port.
pub(crate) async fn both(
    config: &Config,
    models: Vec<ModelSource>,
    followed: Option<Followed>,
) -> anyhow::Result<Running> {
    let registry = Registry::new();
    let listener = Listener::bind(&config.router.listen).await?;
    // The key between the two is of no use to a fleet, and no business of it.
    let own = own(config);
    let key = format!("{:032x}", rand::rng().random::<u128>());
    let mut config = config.clone();
    // What a process says to itself over loopback needs no TLS.
    let (address, tls) = (SocketAddr::from(([127, 0, 0, 1], 0)), TlsConfig::default());
    config.worker.listen = ListenConfig { address, tls, ..config.worker.listen };
    let inner = Listener::bind(&config.worker.listen).await?;
    config.worker.access_log = false;
    let (url, secret) = (inner.url(), policy::Secret::new(key.clone()));
    config.router = before(config.router, &url, &secret);
    let adapt = move |router: RouterConfig| before(router, &url, &secret);
    config.worker.api_key = Some(policy::Secret::new(key));
    let (url, drain) = (listener.url(), Drain::new());
    let router = Router::new(config.router.clone(), &registry, drain.clone())?;
    let inner = start_worker(&config, own, models, inner, registry.clone()).await?;
    let looking = router.clone();
    let following = {
        let router = router.clone();
        async move {
            match followed {
                Some(followed) => followed.follow(router, adapt).await,
                None => std::future::pending().await,
            }
        }
    };
    let outer = tokio::spawn(route(router, listener, registry, drain.clone(), following));
    let ready = tokio::spawn(async move {
        inner.ready.await.context("joining the load")??;
        looking.look_around().await;
        Ok(())
    });
    let task = tokio::spawn(async move {
        outer.await.context("joining the router")??;
        inner.drain.start();
        inner.task.await.context("joining the worker")?
    });
    Ok(Running::serving(url, drain, task, ready))
}

/// The router's configuration, once the one worker is that of this process.
fn before(mut router: RouterConfig, url: &str, key: &policy::Secret) -> RouterConfig {
    (router.workers, router.worker_api_key) = (vec![url.to_owned()], Some(key.clone()));
    router
}

/// Serves until SIGTERM or Ctrl-C, then drains; a second signal ends at once. `follows` says that SIGHUP is heard elsewhere.
///
/// # Errors
/// A model cannot be served, or a second signal came.
pub(crate) async fn until_signal(
    start: impl Future<Output = anyhow::Result<Running>>,
    follows: bool,
) -> anyhow::Result<()> {
    // Before anything else: the first process of a container has no signals but those that it watches for.
    let mut signals = Signals::of_server(follows)?;
    let starting = async {
        let mut running = start.await?;
        running.ready().await?;
        Ok::<_, anyhow::Error>(running)
    };
    let running = tokio::select! {
        running = starting => running?,
        wish = signals.next() => {
            tracing::info!("{} while starting; ending", wish.name());
            return Ok(());
        }
    };
    say_listening(&running);
    let Running { drain, mut task, .. } = running;
    tokio::select! {
        result = &mut task => return result.context("joining the server")?,
        _ = signals.next() => {}
    }
    tracing::info!("draining: readiness says no, streams finish");
    drain.start();
    tokio::select! {
        result = &mut task => result.context("joining the server")?,
        _ = signals.next() => bail!("ended at once by a second signal"),
    }
}

/// Says where the server is. It goes on where nobody can read that.
fn say_listening(Running { url, purpose, .. }: &Running) {
    if let Err(error) = out::line(format_args!("listening on {url}  ({purpose}; Ctrl-C ends)")) {
        tracing::warn!("listening on {url}, which could not be said: {}", wire::Chain(error.as_ref()));
    }
}
