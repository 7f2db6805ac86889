//! The weights of a fake peer: the files of a manifest, and which extents of them it says it has.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use wire::manifest::Manifest;
use wire::peers::{Bitmap, ExtentId, Layout, Role};

/// The weights of a fake peer.
#[derive(Debug)]
pub struct PeerWeights {
    pub(super) manifest: Manifest,
    pub(super) layout: Layout,
    files: Arc<BTreeMap<String, Vec<u8>>>,
    pub(super) role: Role,
    /// It attests its manifest to who asks by a key, whichever that is.
    pub(super) attests: bool,
    has: Mutex<Bitmap>,
    changes: watch::Sender<u64>,
}

impl PeerWeights {
    /// All of a manifest's files.
    ///
    /// # Panics
    /// A file is not there.
    #[must_use]
    pub fn all(manifest: &Manifest, files: &Arc<BTreeMap<String, Vec<u8>>>) -> Self {
        let layout = Layout::of(manifest).expect("a test's manifest is short");
        let mut has = Bitmap::new(layout.extents());
        (0..layout.extents()).for_each(|extent| assert!(has.insert(extent)));
        assert!(manifest.files().iter().all(|file| files.contains_key(&file.name)), "every file is there");
        Self {
            manifest: manifest.clone(),
            layout,
            files: Arc::clone(files),
            role: Role::Serving,
            attests: false,
            has: Mutex::new(has),
            changes: watch::Sender::new(0),
        }
    }

    /// Some of it, of a peer that is still loading.
    ///
    /// # Panics
    /// As [`PeerWeights::all`].
    #[must_use]
    pub fn some(manifest: &Manifest, files: &Arc<BTreeMap<String, Vec<u8>>>, extents: Range<u32>) -> Self {
        let mut weights = Self::all(manifest, files);
        let mut has = Bitmap::new(weights.layout.extents());
        extents.for_each(|extent| assert!(has.insert(extent)));
        (weights.role, weights.has) = (Role::Loading, Mutex::new(has));
        weights
    }

    /// The same of a peer that attests it.
    #[must_use]
    pub fn attesting(self) -> Self {
        Self { attests: true, ..self }
    }

    /// The same under another manifest of the same files.
    ///
    /// # Panics
    /// It has other files.
    #[must_use]
    pub fn claiming(self, manifest: Manifest) -> Self {
        assert!(Layout::of(&manifest).is_some_and(|layout| layout.extents() == self.layout.extents()), "other files");
        Self { manifest, ..self }
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn add(&self, extents: &[u32]) {
        extents.iter().for_each(|&extent| assert!(self.has.lock().insert(extent), "it is new"));
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn has(&self) -> Bitmap {
        self.has.lock().clone()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The bytes of a file of the manifest.
    pub(super) fn file(&self, place: usize) -> Option<&[u8]> {
        let name = &self.manifest.files().get(place)?.name;
        self.files.get(name).map(Vec::as_slice)
    }

    /// Returns true if it has all of these extents of a file.
    pub(super) fn has_all(&self, file: usize, extents: &Range<u64>) -> bool {
        let has = self.has.lock();
        extents
            .clone()
            .all(|index| self.layout.number(ExtentId { file, index }).is_some_and(|number| has.contains(number)))
    }
}
