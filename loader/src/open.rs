//! From a first look and a verdict to weights: the cache first, then far storage.
//!
//! [`Loader`] is the room's front door, one for a process: it holds what all loads share (the HTTP
//! client, the cache, the budgets). It decides nothing about whom to believe and nothing about
//! what tensors are for: the verdict and the execution order are given to it.

mod far;
mod kept;
mod local;

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use telemetry::metrics::Registry;
use tokio::sync::watch;
use wire::digest::Digest;
use wire::evidence::{Expected, Pinned, PinnedObject, Verdict};
use wire::extent;
use wire::manifest::{Manifest, ManifestFile};
use wire::status::SourcePeer;

use crate::cache::{Cache, CacheConfig, Kept};
use crate::fetch::{self, Budgets, FetchConfig, FetchError, Progress, SmallReads};
use crate::peers::{Fleet, NeighboursConfig, Peers, PeersModel};
use crate::plan::{self, Plan, PlanFile, PlanOptions, Slices};
use crate::probe::{self, Look, Probe};
use crate::remote::http::{Client, HttpConfig};
use crate::remote::{self, Env};
use crate::source::Source;
use crate::{Content, LoadError, ModelUrl, Region, Weights, identity};
use kept::KeptSource;

/// The configuration of loads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Asks no storage: models come from the cache, as they were last loaded, and from directories.
    /// `HF_HUB_OFFLINE=1` does the same for `hf://`.
    pub offline: bool,
    /// Connections to storage.
    pub http: HttpConfig,
    /// Requests to storage.
    pub fetch: FetchConfig,
    /// The cache on this machine's disk.
    pub cache: CacheConfig,
    /// Loading from peers, where the process has some.
    pub peers: NeighboursConfig,
}

/// The state that all loads of a process share. Clones are of the same one.
#[derive(Clone)]
pub struct Loader {
    shared: Arc<Shared>,
    env: Arc<Env>,
}

pub(crate) struct Shared {
    pub(crate) config: LoaderConfig,
    pub(crate) cache: Option<Cache>,
    pub(crate) budgets: Budgets,
    pub(crate) metrics: fetch::Metrics,
    pub(crate) client: Client,
    pub(crate) fleet: Option<Fleet>,
}

/// Options of a load.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Tensor names in execution order; tensors not named come last.
    pub order: Vec<String>,
    /// Read every byte of a local directory before returning, rather than when it is touched.
    pub read_all: bool,
    /// Nobody is about to read the weights: they are to be brought into the cache alone, past the
    /// page cache where that can be.
    pub to_cache: bool,
    /// An older revision whose unchanged tensors are to be shared.
    pub base: Option<Weights>,
}

/// The cost of a load.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Bytes of weights, headers included.
    pub bytes: u64,
    /// Bytes of weights by where they came from: `cache`, `disk`, `shared`, or a source's URL.
    pub bytes_by_source: Vec<(String, u64)>,
    /// Seconds from the beginning of the load until every byte was verified in memory.
    pub seconds: f64,
    /// Seconds until everything was on disk as well; none where nothing is kept.
    pub durable_seconds: Option<f64>,
    /// True if the cache's disk could not be used.
    pub memory_only: bool,
    /// True if the cache holds the model now, so that the next load reads nothing from afar.
    pub kept: bool,
    /// The root of the model's manifest, published or computed.
    pub root: Option<String>,
    /// The peer whose digests told right extents from wrong ones, where only digests of whole files were known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attested_by: Option<String>,
    /// The cost of the requests; none where none were made.
    pub fetch: Option<fetch::Report>,
}

/// A load: weights whose views may still be on their way. Dropping it cancels what is in flight;
/// what has arrived stays valid.
#[derive(Debug)]
pub struct Load {
    /// The weights.
    pub weights: Weights,
    files: Vec<(String, Arc<Region>)>,
    progress: Progress,
    state: watch::Receiver<State>,
    content: watch::Receiver<Option<Arc<Content>>>,
    _task: Option<AbortOnDrop>,
}

/// The phases of a load.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Loading,
    /// Every byte is verified in memory.
    Arrived(Summary),
    /// Everything is on disk as well, if it is to be.
    Finished(Summary),
    Failed(Arc<LoadError>),
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = self.shared.fleet.as_ref().map_or_else(|| "nobody".to_owned(), |fleet| format!("{fleet:?}"));
        write!(formatter, "a loader beside {beside}")
    }
}

impl Loader {
    /// Prepares for loads. Opens the cache; nothing else is touched.
    ///
    /// # Errors
    /// A configuration that cannot be honoured. A cache that cannot be opened is a warning: models
    /// are then loaded into memory only.
    pub fn new(config: &LoaderConfig, env: Env, registry: &Registry) -> Result<Self, LoadError> {
        Self::beside(None, config, env, registry)
    }

    /// [`Loader::new`] for a process that may have peers: models with a manifest are loaded from them first.
    ///
    /// # Errors
    /// As [`Loader::new`].
    pub fn beside(
        peers: Option<Peers>,
        config: &LoaderConfig,
        env: Env,
        registry: &Registry,
    ) -> Result<Self, LoadError> {
        let problem = |problem| FetchError::Config { problem: format!("`loader.peers`: {problem}") };
        config.peers.validate().map_err(problem)?;
        let client = Client::in_env(&config.http, &env, registry)?;
        let cache = config.cache.enabled.then(|| Cache::open(&config.cache, registry));
        let cache = cache.and_then(|opened| {
            opened.inspect_err(|error| warn("the cache cannot be used: models are loaded into memory only", error)).ok()
        });
        let (config, budgets) = (config.clone(), Budgets::new(&config.fetch));
        let metrics = fetch::Metrics::new(registry);
        let fleet = peers.map(|peers| Fleet::new(peers, &config.peers, (&client, &config.http), registry));
        let shared = Arc::new(Shared { config, cache, budgets, metrics, client, fleet });
        Ok(Self { shared, env: Arc::new(env) })
    }

    /// This loader with another environment: storage is asked with the credentials that it names. Cache, budgets and
    /// connections stay shared.
    #[must_use]
    pub fn with_env(&self, env: Env) -> Self {
        Self { shared: Arc::clone(&self.shared), env: Arc::new(env) }
    }

    /// The environment that storage is asked with.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The HTTP client that all loads share.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Looks at a model: its small files and its weight files' headers. Objects that the cache holds
    /// in the version that the store has now are read from the cache.
    ///
    /// A URL that names a commit of a hub cannot change: once it is cached, nobody is asked. A store
    /// that cannot be reached is replaced by the cache, with a warning: what it holds was verified.
    ///
    /// # Errors
    /// There is no model, something cannot be read, or headers, index and manifest are malformed or
    /// at odds; see [`LoadError`].
    pub async fn probe(&self, url: &ModelUrl) -> Result<Probe, LoadError> {
        if url.is_local() {
            return self.look(url, self.source(url)?, &self.shared.config.fetch, false).await;
        }
        let kept = self.kept(url).await;
        if self.is_offline(url) || (url.is_immutable() && kept.is_some()) {
            let kept = kept.ok_or_else(|| LoadError::Offline { url: url.to_string() })?;
            return self.look_at_kept(url, kept).await;
        }
        let source = self.source(url)?;
        // What can do without the store gives up on it soon.
        let impatient = FetchConfig { tries_max: 3, retry_seconds_max: 10, ..self.shared.config.fetch.clone() };
        let Some(kept) = kept else {
            let Some((fleet, root)) = self.known_root() else {
                return self.look(url, source, &self.shared.config.fetch, false).await;
            };
            return match self.look(url, source, &impatient, false).await {
                Err(error) if error.is_unreachable() => self.look_at_peers(url, fleet, root, error).await,
                looked => looked,
            };
        };
        let layered = KeptSource::new(url.to_string(), kept.clone(), Some(Arc::clone(&source)));
        match self.look(url, Arc::new(layered), &impatient, false).await {
            Ok(mut probe) => {
                // The cached model may be evicted to make room for its successor.
                probe.source = source;
                Ok(probe)
            }
            Err(error) if error.is_unreachable() => {
                warn("the store cannot be reached: the model is the one that was last loaded from there", &error);
                self.look_at_kept(url, kept).await
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at one file of a folder, whatever it holds. A load of it brings its bytes into the cache and finds no
    /// tensors in them.
    ///
    /// # Errors
    /// The file is not there or cannot be looked at; see [`LoadError`].
    pub async fn probe_file(&self, folder: &ModelUrl, name: &str) -> Result<Probe, LoadError> {
        let url = ModelUrl::File { folder: Box::new(folder.clone()), name: name.to_owned() };
        let is_offline = self.is_offline(&url);
        let kept = if is_offline || url.is_immutable() { self.kept(&url).await } else { None };
        let source: Arc<dyn Source> = match kept {
            Some(kept) => Arc::new(KeptSource::new(url.to_string(), kept, None)),
            None if is_offline => return Err(LoadError::Offline { url: url.to_string() }),
            None => self.source(&url)?,
        };
        let Shared { config, budgets, metrics, .. } = &*self.shared;
        let object = SmallReads::new(Arc::clone(&source), budgets, &config.fetch, metrics).stat(name).await?;
        let pinned = self.pinned(&url);
        Ok(Probe::of_file(url, source, object, pinned))
    }

    /// Looks at the model that a URL was, asking nobody.
    async fn look_at_kept(&self, url: &ModelUrl, kept: Kept) -> Result<Probe, LoadError> {
        let source = Arc::new(KeptSource::new(url.to_string(), kept, None));
        self.look(url, source, &self.shared.config.fetch, true).await
    }

    /// The root that stands for every URL, and the peers to ask for it.
    fn known_root(&self) -> Option<(&Fleet, Digest)> {
        let fleet = self.shared.fleet.as_ref()?;
        match fleet.roots() {
            [root] => Some((fleet, *root)),
            _ => None,
        }
    }

    /// Looks at the model of a known root, asking peers alone; `unreachable` says why.
    async fn look_at_peers(
        &self,
        url: &ModelUrl,
        fleet: &Fleet,
        root: Digest,
        unreachable: LoadError,
    ) -> Result<Probe, LoadError> {
        let config = &self.shared.config;
        match PeersModel::find(url.to_string(), root, fleet).await {
            Ok(model) => {
                warn("the store cannot be reached: the model is read from peers", &unreachable);
                let mut probe = self.look(url, Arc::new(model), &config.fetch, true).await?;
                probe.is_from_peers = true;
                Ok(probe)
            }
            Err(error) => {
                warn("the store cannot be reached, and no peer has the model", &error);
                Err(unreachable)
            }
        }
    }

    fn source(&self, url: &ModelUrl) -> Result<Arc<dyn Source>, LoadError> {
        Ok(remote::open(url, &self.env, &self.shared.client)?)
    }

    /// Returns true if nobody is asked about a URL: its model comes from the cache or not at all.
    #[must_use]
    pub fn is_offline(&self, url: &ModelUrl) -> bool {
        self.shared.config.offline || (url.is_hub() && self.env.is_true("HF_HUB_OFFLINE"))
    }

    async fn look(
        &self,
        url: &ModelUrl,
        source: Arc<dyn Source>,
        bounds: &FetchConfig,
        is_offline: bool,
    ) -> Result<Probe, LoadError> {
        let Shared { budgets, metrics, .. } = &*self.shared;
        let reads = SmallReads::new(source, budgets, bounds, metrics);
        probe::look(Look { url, reads, pinned: self.pinned(url), is_offline }).await
    }

    /// The model that the URL was when it was last loaded, if the cache still has it.
    async fn kept(&self, url: &ModelUrl) -> Option<Kept> {
        let cache = self.shared.cache.as_ref()?;
        let kept = cache.kept(&url.to_string()).await;
        kept.inspect_err(|error| warn("the cache cannot be read", error)).ok().flatten()
    }

    /// Begins to load what was probed, as the verdict says. Returns as soon as the weights' views
    /// exist; the bytes follow in execution order.
    ///
    /// # Errors
    /// A small file is not what it must be; memory or files cannot be had. What goes wrong later
    /// reaches those who wait for tensors and [`Load::finished`].
    pub async fn open(&self, mut probe: Probe, verdict: &Verdict, options: OpenOptions) -> Result<Load, LoadError> {
        probe.leave_out_uncovered(verdict);
        for (name, file) in probe.files.iter().filter(|(name, _)| !probe::speaks_for_others(name)) {
            crate::verify::check_small(name, &file.bytes, verdict.expected(name), probe.source.url())?;
        }
        match probe.url().directory() {
            Some(directory) => local::open(&probe, directory, verdict, &options).await,
            None => far::open(Arc::clone(&self.shared), probe, verdict, options).await,
        }
    }

    /// The digests of one object of a model, read from its store: of what a manifest lists and a load
    /// does not read.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn digest(&self, url: &ModelUrl, name: &str) -> Result<ManifestFile, LoadError> {
        if !url.is_local() && self.is_offline(url) {
            return Err(LoadError::Offline { url: url.to_string() });
        }
        let Shared { config, budgets, metrics, .. } = &*self.shared;
        let reads = SmallReads::new(self.source(url)?, budgets, &config.fetch, metrics);
        let object = reads.stat(name).await?;
        let mut extents = Vec::new();
        while let Some(range) = extent::range(object.bytes, extents.len() as u64) {
            extents.push(Digest(*blake3::hash(&reads.read(&object, range).await?).as_bytes()));
        }
        Ok(ManifestFile { name: object.name, bytes: object.bytes, extents, tensors: Vec::new() })
    }

    /// The peers that loads of this process take weights from, or took, for people: the latest of them.
    #[must_use]
    pub fn source_peers(&self) -> Vec<SourcePeer> {
        self.shared.fleet.as_ref().map(Fleet::status).unwrap_or_default()
    }

    /// The cache, if there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.shared.cache.as_ref()
    }

    /// The digests that an earlier load from here found.
    fn pinned(&self, url: &ModelUrl) -> Option<Pinned> {
        let known = self.shared.cache.as_ref()?.last_known(&url.to_string())?;
        let manifest = Manifest::parse(&known.manifest).ok()?;
        let object = |object: &crate::Object| {
            let extents = manifest.file(&object.name)?.extents.clone();
            let (name, bytes, etag) = (object.name.clone(), object.bytes, object.tag.etag.clone());
            Some(PinnedObject { name, bytes, etag, extents })
        };
        Some(Pinned { root: known.root, objects: known.objects.iter().filter_map(object).collect() })
    }
}

impl Probe {
    /// Leaves out the files that a load keeps for other tools and that nothing vouches for.
    fn leave_out_uncovered(&mut self, verdict: &Verdict) {
        let is_covered = |name: &str| *verdict.expected(name) != Expected::NotCovered;
        let is_read = |name: &str| probe::role_of(name, &self.files).is_read();
        let kept = |name: &str| probe::speaks_for_others(name) || is_read(name) || is_covered(name);
        let left_out: Vec<String> = self.files.keys().filter(|name| !kept(name)).cloned().collect();
        left_out.iter().for_each(|name| drop(self.files.remove(name)));
    }

    /// The identity of the weights, where the verdict has the digests of all their extents.
    fn expected_identity(&self, verdict: &Verdict) -> Option<Digest> {
        let digests = |shard: &'_ probe::Shard| match verdict.expected(&shard.object.name) {
            Expected::Extents(extents) => Some(extents.clone()),
            _ => None,
        };
        self.identity(self.shards.iter().map(digests).collect::<Option<_>>()?)
    }

    /// The identity of weights whose files have these extents.
    fn identity(&self, extents: Vec<Vec<Digest>>) -> Option<Digest> {
        if extents.len() != self.shards.len() {
            return None;
        }
        let files = self.shards.iter().zip(&extents).map(|(shard, extents)| identity::FileDigests {
            name: &shard.object.name,
            bytes: shard.object.bytes,
            extents,
        });
        Some(identity::of(files.collect()))
    }

    /// The reads of a load, in their order.
    ///
    /// # Errors
    /// A slice that does not fit its tensor.
    pub fn plan(&self, order: &[String], slices: &Slices, options: &PlanOptions) -> Result<Plan, LoadError> {
        self.plan_without(order, slices, options, &|_, _| false)
    }

    pub(crate) fn plan_without(
        &self,
        order: &[String],
        slices: &Slices,
        options: &PlanOptions,
        have: &dyn Fn(usize, u64) -> bool,
    ) -> Result<Plan, LoadError> {
        let file = |shard: &'_ probe::Shard| (shard.object.name.clone(), shard.object.bytes);
        let named: Vec<(String, u64)> = self.shards.iter().map(file).collect();
        let files: Vec<PlanFile<'_>> = named
            .iter()
            .zip(&self.shards)
            .map(|((name, bytes), shard)| PlanFile { name, bytes: *bytes, header: &shard.header })
            .collect();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        Ok(plan::make(&files, &order, slices, have, options)?)
    }
}

impl Load {
    fn done(probe: &Probe, weights: Weights, progress: Progress, summary: Summary, content: Option<Content>) -> Self {
        let (_, state) = watch::channel(State::Finished(summary));
        let (_, content) = watch::channel(content.map(Arc::new));
        let files = files_of(probe, &weights);
        Self { weights, files, progress, state, content, _task: None }
    }

    /// The files as others may have them: from the beginning where the root of the manifest is known, otherwise once a
    /// manifest was computed. None where there is no manifest.
    #[must_use]
    pub fn content(&self) -> watch::Receiver<Option<Arc<Content>>> {
        self.content.clone()
    }

    /// The files of weights by their names at the origin, with their memory, which may still be on its way.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Arc<Region>)> {
        self.files.iter().map(|(name, region)| (name.as_str(), region))
    }

    /// Its phase.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Waits until every byte is verified in memory.
    ///
    /// # Errors
    /// The load failed.
    pub fn arrived(&self) -> impl Future<Output = Result<Summary, Arc<LoadError>>> + Send + use<> {
        until(self.state.clone(), true)
    }

    /// Waits until every byte is verified and, where there is a cache, on disk.
    ///
    /// # Errors
    /// The load failed. A disk that fails after the bytes arrived is a warning.
    pub fn finished(&self) -> impl Future<Output = Result<Summary, Arc<LoadError>>> + Send + use<> {
        until(self.state.clone(), false)
    }
}

fn files_of(probe: &Probe, weights: &Weights) -> Vec<(String, Arc<Region>)> {
    let names = probe.shards.iter().map(|shard| shard.object.name.clone());
    names.zip(weights.regions()).collect()
}

async fn until(mut state: watch::Receiver<State>, arrival_is_enough: bool) -> Result<Summary, Arc<LoadError>> {
    loop {
        match &*state.borrow_and_update() {
            State::Finished(summary) => return Ok(summary.clone()),
            State::Arrived(summary) if arrival_is_enough => return Ok(summary.clone()),
            State::Failed(error) => return Err(Arc::clone(error)),
            State::Loading | State::Arrived(_) => {}
        }
        if state.changed().await.is_err() {
            // The last word may have come with the end.
            return match &*state.borrow() {
                State::Finished(summary) => Ok(summary.clone()),
                State::Failed(error) => Err(Arc::clone(error)),
                _ => Err(Arc::new(LoadError::Cancelled)),
            };
        }
    }
}

/// Warns with the whole chain of causes.
fn warn(message: &str, error: &(dyn std::error::Error + 'static)) {
    let causes: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    tracing::warn!(cause = causes.join(": "), "{message}");
}
