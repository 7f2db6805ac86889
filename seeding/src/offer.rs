//! The models whose extents others may have: those that a worker serves or loads, and those in a node's cache.
//!
//! It knows what is here, and by `policy` who may have it; it sends nothing.

mod cached;
mod entry;
mod right;
mod takers;

pub(crate) use entry::{By, Entry, numbers};
pub(crate) use right::Right;

use cached::Cached;
use loader::Content;
use loader::cache::Cache;
use parking_lot::RwLock;
use policy::{Asker, Peers};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::digest::Digest;
use wire::peers::Role;
use wire::status::SharedRoot;

/// The most models that are offered at a time: a decision looks at each of them.
const MODELS_MAX: usize = 1_024;
/// The interval of looks at a cache.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The interval of looks at files that nobody asks for: while they are open, their model is not evicted.
const REST_EVERY: Duration = Duration::from_secs(1);

/// The models that are here for others. Clones are of the same offer.
#[derive(Debug, Clone)]
pub struct Offer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tenant: String,
    /// Files that were proven as wholes are found by their key as well.
    attests: bool,
    entries: RwLock<Vec<Arc<Entry>>>,
}

/// A model that is offered until this is dropped. Bodies under way end when they are sent.
#[derive(Debug)]
pub struct Sharing {
    shared: Arc<Shared>,
    /// The model, and those of its files that were proven as wholes.
    entries: Vec<Arc<Entry>>,
}

impl Offer {
    /// An empty offer of one tenant's weights. If it `attests`, the digests of files that were proven as wholes are
    /// offered to who knows the wholes.
    #[must_use]
    pub fn new(tenant: &str, attests: bool) -> Self {
        Self { shared: Arc::new(Shared { tenant: tenant.to_owned(), attests, entries: RwLock::default() }) }
    }

    /// Offers a model whose extents may still be arriving.
    #[must_use = "dropped, it is not offered any more"]
    pub fn add(&self, content: Arc<Content>, role: Role) -> Sharing {
        let entry = |content: &Arc<Content>| Entry::held(Arc::clone(content), &self.shared.tenant, role);
        self.enter(match self.attested(&content) {
            None => vec![entry(&content)],
            Some((key, None)) => vec![entry(&content).attested(key)],
            Some((key, Some(files))) => vec![entry(&content), entry(&files).attested(key)],
        })
    }

    /// The key of the files that were proven as wholes, and those files where they are not all there are.
    fn attested(&self, content: &Content) -> Option<(Digest, Option<Arc<Content>>)> {
        let (key, files) = content.attested().filter(|_| self.shared.attests)?;
        let is_all = files.root() == content.root();
        Some((key, (!is_all).then(|| Arc::new(files))))
    }

    /// Offers all finished models of a cache, as they come and go, until it is dropped. A model's files are open, and
    /// kept from eviction, only while they are asked for.
    pub async fn follow(self, cache: Cache) {
        let mut known: BTreeMap<Digest, (Vec<Arc<Cached>>, Sharing)> = BTreeMap::new();
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                self.look_at(&cache, &mut known).await;
                looked = Some(Instant::now());
            }
            tokio::time::sleep(REST_EVERY).await;
            known.values().flat_map(|(cached, _)| cached).for_each(|cached| cached.rest(Instant::now()));
        }
    }

    /// Enters the models that the cache has now, and takes out those that it has no more.
    async fn look_at(&self, cache: &Cache, known: &mut BTreeMap<Digest, (Vec<Arc<Cached>>, Sharing)>) {
        let listed = cache.clone();
        let roots = tokio::task::spawn_blocking(move || listed.models()).await.unwrap_or_default();
        let roots: Vec<Digest> = roots.iter().filter_map(|root| Digest::from_hex(root).ok()).collect();
        known.retain(|root, _| roots.contains(root));
        for root in roots.into_iter().take(MODELS_MAX) {
            if !known.contains_key(&root)
                && let Some((cached, content)) = Cached::look(cache, root).await
            {
                known.insert(root, self.enter_cached(&cached, &content));
            }
        }
    }

    fn enter_cached(&self, cached: &Arc<Cached>, content: &Content) -> (Vec<Arc<Cached>>, Sharing) {
        let entry = |cached: &Arc<Cached>, of: &Content| Entry::cached(of, Arc::clone(cached), &self.shared.tenant);
        let whole = (Arc::clone(cached), entry(cached, content));
        let entries = match self.attested(content) {
            None => vec![whole],
            Some((key, None)) => vec![(whole.0, whole.1.attested(key))],
            Some((key, Some(files))) => {
                let cached = cached.attested();
                let entry = entry(&cached, &files).attested(key);
                vec![whole, (cached, entry)]
            }
        };
        let (cached, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        (cached, self.enter(entries))
    }

    /// The offered models, for people.
    #[must_use]
    pub fn roots(&self) -> Vec<SharedRoot> {
        self.entries().iter().map(|entry| entry.status()).collect()
    }

    fn enter(&self, new: Vec<Entry>) -> Sharing {
        let new: Vec<Arc<Entry>> = new.into_iter().map(Arc::new).collect();
        let mut entries = self.shared.entries.write();
        for entry in &new {
            if entries.len() < MODELS_MAX {
                entries.push(Arc::clone(entry));
            } else {
                tracing::warn!(root = %entry.root(), "more than {MODELS_MAX} models: this one is not offered to peers");
            }
        }
        Sharing { shared: Arc::clone(&self.shared), entries: new }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.shared.entries.read().clone()
    }

    /// The model of this root or key, if the asker may have it. Looks at every model, whatever is asked for.
    pub(crate) fn find(
        &self,
        peers: &Peers,
        asker: &Asker,
        (root, by): (Digest, By),
        now_s: u64,
    ) -> Option<Arc<Entry>> {
        let entries = self.entries();
        let offered: Vec<_> = entries.iter().map(|entry| entry.offered(by)).collect();
        peers.decide(asker, root, &offered, now_s).and_then(|place| entries.get(place).cloned())
    }
}

impl Sharing {
    /// Says what its holder does with the model.
    pub fn set_role(&self, role: Role) {
        self.entries.iter().for_each(|entry| entry.set_role(role));
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        let is_own = |entry: &Arc<Entry>| self.entries.iter().any(|own| Arc::ptr_eq(entry, own));
        self.shared.entries.write().retain(|entry| !is_own(entry));
        self.entries.iter().for_each(|entry| entry.leave());
    }
}
