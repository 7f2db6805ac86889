//! The models whose extents others may have: those that a worker serves or loads, and those in a node's cache.
//!
//! It knows what is here, and by `policy` who may have it; it sends nothing.

mod cached;
mod entry;
mod right;
mod takers;

pub(crate) use entry::{Entry, numbers};
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
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The models that are here for others. Clones are of the same offer.
#[derive(Debug, Clone)]
pub struct Offer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tenant: String,
    entries: RwLock<Vec<Arc<Entry>>>,
}

/// A model that is offered until this is dropped. Bodies under way end when they are sent.
#[derive(Debug)]
pub struct Sharing {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

impl Offer {
    /// An empty offer of one tenant's weights.
    #[must_use]
    pub fn new(tenant: &str) -> Self {
        Self { shared: Arc::new(Shared { tenant: tenant.to_owned(), entries: RwLock::default() }) }
    }

    /// Offers a model whose extents may still be arriving.
    #[must_use = "dropped, it is not offered any more"]
    pub fn add(&self, content: Arc<Content>, role: Role) -> Sharing {
        self.enter(Entry::held(content, &self.shared.tenant, role))
    }

    /// Offers all finished models of a cache, as they come and go, until it is dropped. A model's files are open, and
    /// kept from eviction, only while they are asked for.
    pub async fn follow(self, cache: Cache) {
        let mut known: BTreeMap<Digest, (Arc<Cached>, Sharing)> = BTreeMap::new();
        loop {
            let listed = cache.clone();
            let roots = tokio::task::spawn_blocking(move || listed.models()).await.unwrap_or_default();
            let roots: Vec<Digest> = roots.iter().filter_map(|root| Digest::from_hex(root).ok()).collect();
            known.retain(|root, _| roots.contains(root));
            for root in roots.into_iter().take(MODELS_MAX) {
                if !known.contains_key(&root)
                    && let Some((cached, content)) = Cached::look(&cache, root).await
                {
                    let entry = Entry::cached(&content, Arc::clone(&cached), &self.shared.tenant);
                    known.insert(root, (cached, self.enter(entry)));
                }
            }
            known.values().for_each(|(cached, _)| cached.rest(Instant::now()));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The offered models, for people.
    #[must_use]
    pub fn roots(&self) -> Vec<SharedRoot> {
        self.entries().iter().map(|entry| entry.status()).collect()
    }

    fn enter(&self, entry: Entry) -> Sharing {
        let entry = Arc::new(entry);
        let mut entries = self.shared.entries.write();
        if entries.len() < MODELS_MAX {
            entries.push(Arc::clone(&entry));
        } else {
            tracing::warn!(root = %entry.root(), "more than {MODELS_MAX} models: this one is not offered to peers");
        }
        Sharing { shared: Arc::clone(&self.shared), entry }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.shared.entries.read().clone()
    }

    /// The model of this root, if the asker may have it. Looks at every model, whatever is asked for.
    pub(crate) fn find(&self, peers: &Peers, asker: &Asker, root: Digest, now_s: u64) -> Option<Arc<Entry>> {
        let entries = self.entries();
        let offered: Vec<_> = entries.iter().map(|entry| entry.offered()).collect();
        peers.decide(asker, root, &offered, now_s).and_then(|place| entries.get(place).cloned())
    }
}

impl Sharing {
    /// Says what its holder does with the model.
    pub fn set_role(&self, role: Role) {
        self.entry.set_role(role);
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        self.shared.entries.write().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
        self.entry.leave();
    }
}
