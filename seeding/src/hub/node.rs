//! A node: the hub behind it, the cache below it, and what is open.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use listen::Drain;
use loader::cache::Kept;
use loader::{LoadError, Loader, ModelUrl, Object};
use parking_lot::Mutex;
use policy::{KeyDigest, Secret, Trust};
use telemetry::metrics::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use wire::evidence::is_weights_name;
use wire::status::SeedingStatus;

use super::caller::Caller;
use super::config::NodeConfig;
use super::error::NodeError;
use super::fills::{File, Fills, Flight, OpenError, Wanted};
use super::granted::Granted;
use super::meters::{Counted, Meters};
use super::notes::Notes;
use super::path::DEFAULT_REVISION;
use super::plain::{self, Model, Named, Plain};
use super::refusal::Refusal;
use super::rights::{Question, Rights};
use super::upstream::Upstream;
use crate::seeder::Seeder;

/// The interval at which new notes are written.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A node.
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) loader: Loader,
    pub(super) upstream: Upstream,
    pub(super) rights: Mutex<Rights<Arc<Granted>>>,
    pub(super) notes: Notes,
    pub(super) fills: Fills,
    pub(super) plain: Plain,
    pub(super) meters: Meters,
    pub(super) registry: Registry,
    pub(super) drain: Drain,
    pub(super) api_key: Option<KeyDigest>,
    /// Gives peers what is here.
    pub(super) seeder: Option<Seeder>,
    bodies: Arc<Semaphore>,
    /// Questions are kept under a hash that nobody else can compute: they hold tokens.
    secret: [u8; 32],
}

/// The leave to send a file's bytes, and what keeps them there.
#[derive(Debug)]
pub(super) struct Sending {
    _flight: Arc<Flight>,
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Node {
    /// A node over a loader. `models` are those that the operator names; a `seeder` gives peers what is here.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn new(
        config: NodeConfig,
        loader: Loader,
        trust: Trust,
        models: Vec<Named>,
        (registry, drain): (&Registry, Drain),
        seeder: Option<Seeder>,
    ) -> Result<Arc<Self>, NodeError> {
        let meters = Meters::new(registry);
        let named = config.hub_endpoint.as_deref();
        let (places, patience) = (config.hub_requests_max, config.hub_timeout());
        let client = loader.client().clone();
        let upstream = Upstream::new(named, loader.env().get("HF_ENDPOINT"), client, places, patience)?;
        let notes = Notes::new(loader.cache().and_then(loader::cache::Cache::notes), config.notes_max);
        let rights = Mutex::new(Rights::new(config.rights_max, config.right_away().max(config.right())));
        Ok(Arc::new(Self {
            fills: Fills::new(trust, &config, meters.clone(), seeder.as_ref().map(|seeder| seeder.offer().clone())),
            seeder,
            plain: Plain::new(models)?,
            api_key: config.api_key.as_ref().map(|key| KeyDigest::of(Secret::reveal(key))),
            bodies: Arc::new(Semaphore::new(config.bodies_max)),
            secret: rand::random(),
            registry: registry.clone(),
            config,
            loader,
            upstream,
            rights,
            notes,
            meters,
            drain,
        }))
    }

    /// Checks that the hub is not this node, which is to listen on `address`.
    ///
    /// # Errors
    /// [`NodeError::Itself`]: engines' `HF_ENDPOINT` is in the node's own environment.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), NodeError> {
        let hub = self.upstream.url();
        let is_here = match hub.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(host)) => host.is_loopback() || address.ip() == host,
            Some(url::Host::Ipv6(host)) => host.is_loopback() || address.ip() == host,
            None => false,
        };
        if is_here && hub.port_or_known_default() == Some(address.port()) {
            return Err(NodeError::Itself { endpoint: self.upstream.endpoint().to_owned(), address });
        }
        Ok(())
    }

    /// Fills what the operator named and writes notes, until it is dropped.
    pub async fn tend(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        if let Some((seeder, cache)) = self.seeder.as_ref().zip(self.loader.cache()) {
            tasks.spawn(seeder.offer().clone().follow(cache.clone()));
        }
        for name in self.plain.names() {
            let node = Arc::clone(&self);
            tasks.spawn(async move { node.fill_named(&name).await });
        }
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            let node = Arc::clone(&self);
            // It logs what goes wrong.
            let _ = tokio::task::spawn_blocking(move || node.notes.write()).await;
        }
    }

    /// The offer to peers, and its books; none where there are no peers.
    #[must_use]
    pub fn seeding(&self) -> Option<SeedingStatus> {
        self.seeder.as_ref().map(Seeder::status)
    }

    /// Waits until peers have what was being sent, once the drain began.
    pub async fn seeded(&self) {
        if let Some(seeder) = &self.seeder {
            seeder.finished().await;
        }
    }

    /// Writes the notes that are not written yet. Blocks.
    pub fn write_notes(&self) {
        self.notes.write();
    }

    /// Fills a named model, again and again until it is here.
    async fn fill_named(&self, name: &str) {
        let Some(model) = self.plain.get(name) else { return };
        while let Err(error) = self.open_named(model).await {
            let problem = wire::Chain(&error).to_string();
            tracing::warn!(name, url = %model.url, cause = problem, "a model of this node cannot be filled; trying again");
            model.failed(problem);
            tokio::time::sleep(plain::AGAIN).await;
        }
        tracing::info!(name, url = %model.url, "a model of this node is here");
        model.is_here();
    }

    async fn open_named(&self, model: &Model) -> Result<(), OpenError> {
        let wanted = Wanted::Model { url: model.url.clone(), first: None };
        let flight = self.fills.open(&self.loader, &wanted).await?;
        model.opened(Arc::clone(&flight));
        flight.finished().await.map_err(|error| LoadError::Ended(error).into())
    }

    /// Opens a file that a caller may read. Its bytes may still be on their way.
    ///
    /// # Errors
    /// It cannot be read, kept or believed.
    pub(super) async fn open(&self, caller: &Caller, granted: &Granted) -> Result<(Arc<Flight>, File), Refusal> {
        let loader = self.loader_of(caller);
        if self.is_of_model(granted).await
            && let Some(opened) = self.open_model(&loader, granted).await?
        {
            return Ok(opened);
        }
        let wanted = Wanted::File { folder: granted.folder(), name: granted.name.clone() };
        let flight = match self.fills.open(&loader, &wanted).await {
            Ok(flight) => flight,
            // Nothing proves a small file but the manifest of its model.
            Err(error @ OpenError::Untrusted(_)) => {
                let opened = self.open_model(&loader, granted).await?;
                return opened.ok_or_else(|| refusal(&error, granted));
            }
            Err(error) => return Err(refusal(&error, granted)),
        };
        let file = flight.file(&granted.name).cloned();
        file.map(|file| (flight, file)).ok_or_else(|| Refusal::no_entry(&granted.name, &granted.commit))
    }

    /// Opens the model that a file belongs to. `None` where it is no file of a model.
    async fn open_model(&self, loader: &Loader, granted: &Granted) -> Result<Option<(Arc<Flight>, File)>, Refusal> {
        let (url, name) = (model_of(granted.folder(), &granted.name), &granted.name);
        if self.fills.is_barren(&url, name) {
            return Ok(None);
        }
        match self.fills.open(loader, &Wanted::Model { url: url.clone(), first: Some(name.clone()) }).await {
            Ok(flight) => {
                if let Some(file) = flight.file(name).cloned() {
                    return Ok(Some((flight, file)));
                }
            }
            Err(OpenError::Load(error)) if !is_about_source(&error) => {
                tracing::debug!(%url, cause = %wire::Chain(&error), "no model; its files are taken one by one");
            }
            Err(error) => return Err(refusal(&error, granted)),
        }
        self.fills.note_barren(&url, name);
        Ok(None)
    }

    /// Returns true if a file is read from its model: files of weights are fetched together and checked by their
    /// manifest; others are read from a model that is here anyway.
    async fn is_of_model(&self, granted: &Granted) -> bool {
        let (name, url) = (&granted.name, model_of(granted.folder(), &granted.name));
        let is_weights = is_weights_name(name) && !name.contains('/');
        // First, as it may spare the fetching of what a branch was.
        let is_cached = self.has_cached(&url, granted).await;
        is_weights || is_cached || self.fills.is_open(&Wanted::Model { url, first: None })
    }

    /// Returns true if the cache holds a model with this file, by its commit or by a branch that is the commit.
    async fn has_cached(&self, url: &ModelUrl, granted: &Granted) -> bool {
        let Some(cache) = self.loader.cache() else { return false };
        let kept = async |url: &ModelUrl| cache.kept(&url.to_string()).await.ok().flatten();
        let has = |kept: &Kept| kept.objects.iter().any(|object| object.name == granted.name);
        if let Some(kept) = kept(url).await {
            return has(&kept);
        }
        let is_commit = |object: &Object| object.tag.version.as_ref() == Some(&granted.commit);
        for revision in [granted.revision.as_str(), DEFAULT_REVISION] {
            let branch = model_of(granted.folder_at(revision), &granted.name);
            let Some(kept) = kept(&branch).await.filter(|kept| kept.objects.iter().all(is_commit)) else { continue };
            if let Err(error) = cache.name_also(&url.to_string(), &branch.to_string()).await {
                tracing::warn!(%url, cause = %wire::Chain(&error), "what a commit is cannot be noted");
            }
            return has(&kept);
        }
        false
    }

    /// The leave to send bytes.
    ///
    /// # Errors
    /// Too many answers are being sent.
    pub(super) fn sending(&self, flight: Arc<Flight>) -> Result<Sending, Refusal> {
        let place = Arc::clone(&self.bodies).try_acquire_owned().map_err(|_| {
            let bodies_max = self.config.bodies_max;
            Refusal::busy(format!("this node sends {bodies_max} files at a time, and no more; try again"))
        })?;
        Ok(Sending { _flight: flight, _place: place, _counted: Counted::new(&self.meters.bodies) })
    }

    /// The loader that asks the hub as the caller.
    pub(super) fn loader_of(&self, caller: &Caller) -> Loader {
        self.loader.with_env(caller.environment(self.loader.env(), self.upstream.endpoint()))
    }

    /// Returns true if the hub is not to be asked.
    pub(super) fn is_offline(&self) -> bool {
        let any = ModelUrl::Hub { repository: String::new(), revision: String::new() };
        self.loader.is_offline(&any)
    }

    /// Returns true if the operator named a model of this repository.
    pub(super) fn names(&self, repository: &str) -> bool {
        self.plain.has_repository(repository)
    }

    /// The hash of a caller's question.
    pub(super) fn question(&self, caller: &Caller, parts: [&str; 3]) -> Question {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&[u8::from(caller.is_anonymous())]);
        for part in [caller.secret()].into_iter().chain(parts.map(str::as_bytes)) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// The model that a file of a repository belongs to: a GGUF file is one.
fn model_of(folder: ModelUrl, name: &str) -> ModelUrl {
    match name.to_ascii_lowercase().ends_with(".gguf") {
        true => ModelUrl::File { folder: Box::new(folder), name: name.to_owned() },
        false => folder,
    }
}

/// Returns true if a load failed for want of an answer, and not because of what it found.
fn is_about_source(error: &LoadError) -> bool {
    use loader::SourceError::{Denied, NoCredentials, Throttled, Transient};
    matches!(error, LoadError::Source(Denied { .. } | NoCredentials { .. } | Throttled { .. } | Transient { .. }))
}

fn refusal(error: &OpenError, granted: &Granted) -> Refusal {
    match error {
        OpenError::Load(error) => Refusal::of_load(error, &granted.name, &granted.commit),
        OpenError::Untrusted(cause) => {
            let message = format!("this node does not believe the file: {}", wire::Chain(cause));
            Refusal::new(http::StatusCode::FORBIDDEN, message)
        }
        OpenError::TooMany { .. } => Refusal::busy(error.to_string()),
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a node before {}", self.upstream.endpoint())
    }
}
