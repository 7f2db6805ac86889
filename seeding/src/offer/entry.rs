//! One offered model: where its extents are, which of them are here, and who took them.

use super::cached::Cached;
use super::takers::Takers;
use loader::Content;
use parking_lot::Mutex;
use policy::Offered;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;
use wire::digest::Digest;
use wire::peers::{Bitmap, ExtentId, Role};
use wire::proof::Proof;
use wire::status::SharedRoot;

/// One offered model.
#[derive(Debug)]
pub(crate) struct Entry {
    root: Digest,
    /// The key of its files, where its digests are attested.
    key: Option<Digest>,
    tenant: String,
    proof: Proof,
    extents: u32,
    stock: Stock,
    role: watch::Sender<Role>,
    here: Mutex<Here>,
    takers: Mutex<Takers>,
    is_gone: watch::Sender<bool>,
}

/// The digest by which a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The root of its manifest.
    Root,
    /// The key of its files, which are known as wholes.
    Key,
}

#[derive(Debug)]
enum Stock {
    /// Somebody in this process uses it.
    Held(Arc<Content>),
    /// It lies in the cache.
    Cached(Arc<Cached>),
}

/// The extents that are here, in the order in which they came: what is here stays.
#[derive(Debug)]
struct Here {
    known: Bitmap,
    order: Vec<u32>,
    /// Their number when they were last looked for.
    looked: u64,
}

impl Here {
    fn look(&mut self, content: &Content) {
        let count = content.extents_here();
        if count != self.looked {
            self.order.extend(content.note_new(&mut self.known));
            self.looked = count;
        }
    }
}

impl Entry {
    /// A model that is in use.
    pub(super) fn held(content: Arc<Content>, tenant: &str, role: Role) -> Self {
        Self::new(&Arc::clone(&content), Stock::Held(content), tenant, role)
    }

    /// The same, found by the key of its files as well.
    pub(super) fn attested(self, key: Digest) -> Self {
        Self { key: Some(key), ..self }
    }

    /// A model of the cache, which `content` is at the moment.
    pub(super) fn cached(content: &Content, cached: Arc<Cached>, tenant: &str) -> Self {
        Self::new(content, Stock::Cached(cached), tenant, Role::Node)
    }

    fn new(content: &Content, stock: Stock, tenant: &str, role: Role) -> Self {
        let extents = content.layout().extents();
        let mut here = Here { known: Bitmap::new(extents), order: Vec::new(), looked: 0 };
        here.look(content);
        Self {
            root: content.root(),
            key: None,
            tenant: tenant.to_owned(),
            proof: content.proof(),
            extents,
            stock,
            role: watch::Sender::new(role),
            here: Mutex::new(here),
            takers: Mutex::new(Takers::new(extents)),
            is_gone: watch::Sender::new(false),
        }
    }

    pub(super) fn root(&self) -> Digest {
        self.root
    }

    /// As it is found by the root of its manifest, or by the key of its files. One without a key is compared as well, so
    /// that the work is the same.
    pub(super) fn offered(&self, by: By) -> Offered<'_> {
        let root = match by {
            By::Root => self.root,
            By::Key => self.key.unwrap_or(self.root),
        };
        Offered { root, tenant: &self.tenant, proof: self.proof }
    }

    pub(super) fn set_role(&self, role: Role) {
        self.role.send_replace(role);
    }

    pub(super) fn leave(&self) {
        self.is_gone.send_replace(true);
    }

    pub(super) fn status(&self) -> SharedRoot {
        SharedRoot {
            root: self.root.to_string(),
            proof: self.proof.to_string(),
            extents: self.extents,
            extents_here: u32::try_from(self.arrived()).unwrap_or(u32::MAX),
            is_loading: self.is_loading(),
        }
    }

    pub(crate) fn role(&self) -> Role {
        *self.role.borrow()
    }

    /// The files; none where the cache has them no more.
    pub(crate) async fn content(&self) -> Option<Arc<Content>> {
        match &self.stock {
            Stock::Held(content) => Some(Arc::clone(content)),
            Stock::Cached(cached) => cached.open().await,
        }
    }

    /// Looks for extents that came, and gives the number of all that are here.
    pub(crate) fn arrived(&self) -> usize {
        let mut here = self.here.lock();
        if let Stock::Held(content) = &self.stock {
            here.look(content);
        }
        here.order.len()
    }

    /// The extents that will soon be here.
    pub(crate) fn claimed(&self) -> BTreeSet<u32> {
        match &self.stock {
            Stock::Held(content) => content.claimed(),
            Stock::Cached(_) => BTreeSet::new(),
        }
    }

    /// Returns true if more extents may come. A model that is loaded may lack files of its manifest for good.
    pub(crate) fn is_loading(&self) -> bool {
        self.role() == Role::Loading && self.here.lock().order.len() < self.extents as usize
    }

    /// The first `count` extents that came.
    pub(crate) fn bitmap(&self, count: usize) -> Bitmap {
        let mut bitmap = Bitmap::new(self.extents);
        self.here.lock().order.iter().take(count).for_each(|extent| {
            bitmap.insert(*extent);
        });
        bitmap
    }

    /// The extents that came, by their places in the order.
    pub(crate) fn came(&self, places: Range<usize>) -> Vec<u32> {
        self.here.lock().order.get(places).unwrap_or_default().to_vec()
    }

    /// Returns true if one of the extents was not given to anybody yet.
    pub(crate) fn is_first(&self, extents: &[u32]) -> bool {
        self.takers.lock().is_first(extents)
    }

    /// Notes that extents are about to be given.
    pub(crate) fn give(&self, extents: &[u32]) {
        self.takers.lock().give(extents);
    }

    /// Notes who took extents.
    pub(crate) fn took(&self, extents: &[u32], member: &str) {
        self.takers.lock().took(extents, member);
    }

    /// The members that took one of the extents, the latest first.
    pub(crate) fn others(&self, extents: &[u32]) -> Vec<String> {
        self.takers.lock().of(extents)
    }

    /// Waits until it is offered no more.
    pub(crate) async fn gone(&self) {
        // The sender lives in `self`.
        let _ = self.is_gone.subscribe().wait_for(|is_gone| *is_gone).await;
    }
}

/// The numbers of some extents of one file.
pub(crate) fn numbers(content: &Content, file: usize, extents: Range<u64>) -> Vec<u32> {
    extents.filter_map(|index| content.layout().number(ExtentId { file, index })).collect()
}
