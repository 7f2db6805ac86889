//! Finished models: finding one, believing it, and taking it back when it is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::digest::Digest;
use wire::manifest::{MANIFEST_NAME, Manifest, SIGNATURE_NAME};
use wire::proof::Proof;

use super::check::{self, Wrong};
use super::disk;
use super::error::CacheError;
use super::facts::{ObjectFacts, Origin, Record, Reference};
use super::journaled;
use super::layout;
use super::lock::{Lock, Mode};
use super::shelf::{Shelf, off_thread};
use crate::source::Object;

/// The model that a load looks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model's URL, without secrets.
    pub url: &'a str,
    /// The objects that the load reads, as their store describes them now.
    pub objects: &'a [Object],
    /// The root that a manifest, believed by policy, says the model has.
    pub root: Option<Digest>,
}

/// A finished model of the cache. While it (or a clone) lives, nobody removes the model.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The model's directory: as published, and our folder `.forebay`.
    pub directory: PathBuf,
    /// The root of its manifest.
    pub root: Digest,
    /// The proof of its bytes when it was finished.
    pub proof: Proof,
    /// The manifest's text.
    pub manifest: Arc<[u8]>,
    /// Names of the expectations that each file met as a whole.
    pub(super) met: Arc<BTreeMap<String, BTreeSet<Digest>>>,
    /// None of a cache that is read-only.
    pub(super) _lock: Option<Arc<Lock>>,
}

impl Finished {
    /// Returns true if a file was found to meet an expectation about it as a whole.
    #[must_use]
    pub(crate) fn has_met(&self, file: &str, expectation: Digest) -> bool {
        self.met.get(file).is_some_and(|met| met.contains(&expectation))
    }

    /// The files that met an expectation as a whole, each with the first of them: with several, others may know it by
    /// another one, and ask in vain.
    #[must_use]
    pub(crate) fn wholes(&self) -> BTreeMap<String, Digest> {
        let first = |(file, met): (&String, &BTreeSet<Digest>)| Some((file.clone(), *met.first()?));
        self.met.iter().filter_map(first).collect()
    }
}

/// Notes that files of a model met expectations about them as wholes.
pub(super) fn note_met(directory: &Path, root: Digest, met: &BTreeMap<String, Digest>) -> Result<(), CacheError> {
    let Some((mut record, _)) = check::describe(directory, root) else { return Ok(()) };
    for file in &mut record.files {
        file.met.extend(met.get(&file.name));
    }
    disk::write_json(&layout::record(directory), &record)
}

/// A finished model as a URL was found to be, with its objects as the store described them then.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The model.
    pub finished: Finished,
    /// Every object that the load read.
    pub objects: Vec<Object>,
}

/// The finished model that this URL was when it was last loaded.
pub(super) async fn kept(shelf: &Arc<Shelf>, url: &str) -> Result<Option<Kept>, CacheError> {
    let Some(reference) = disk::read_json::<Reference>(&shelf.layout.reference(url)) else { return Ok(None) };
    let objects: Vec<Object> = reference.objects.iter().map(ObjectFacts::to_object).collect();
    let opened = open(shelf, reference.root, &objects).await?;
    Ok(opened.map(|(finished, _)| Kept { finished, objects }))
}

/// The finished model that this URL is now, or that has the wanted root.
pub(super) async fn find(shelf: &Arc<Shelf>, wanted: &Wanted<'_>) -> Result<Option<Finished>, CacheError> {
    let objects = facts(wanted.objects);
    let reference: Option<Reference> = disk::read_json(&shelf.layout.reference(wanted.url));
    let pinned = reference.filter(|reference| same_objects(&reference.objects, wanted.objects));
    let mut roots = vec![pinned.as_ref().map(|reference| reference.root)];
    // A manifest's root outweighs what the URL was: equal tags do not overrule a digest.
    if wanted.root.is_some() {
        roots = vec![wanted.root];
    }
    for root in roots.into_iter().flatten() {
        if let Some((finished, key)) = open(shelf, root, wanted.objects).await? {
            if pinned.as_ref().is_none_or(|reference| reference.root != root) {
                let (url, proof) = (wanted.url.to_owned(), finished.proof);
                refer(shelf, &Reference { url, key, root, proof, objects: objects.clone() })?;
            }
            return Ok(Some(finished));
        }
    }
    Ok(None)
}

/// The finished model with this root, whatever it was loaded from.
pub(super) async fn by_root(shelf: &Arc<Shelf>, root: Digest) -> Result<Option<Finished>, CacheError> {
    Ok(open(shelf, root, &[]).await?.map(|(finished, _)| finished))
}

/// Notes what a URL is.
pub(super) fn refer(shelf: &Shelf, reference: &Reference) -> Result<(), CacheError> {
    if shelf.is_read_only {
        return Ok(());
    }
    disk::write_json(&shelf.layout.reference(&reference.url), reference)?;
    disk::sync_directory(&shelf.layout.references())
}

pub(super) fn facts(objects: &[Object]) -> Vec<ObjectFacts> {
    objects.iter().map(ObjectFacts::from).collect()
}

/// Returns true if these are the same versions of the same objects.
fn same_objects(before: &[ObjectFacts], now: &[Object]) -> bool {
    let before: Vec<Object> = before.iter().map(ObjectFacts::to_object).collect();
    // The key is of all that pins objects, whatever their order.
    layout::key("", &before) == layout::key("", now)
}

/// Opens the model with this root if it is there, has the wanted objects and is what it was.
async fn open(shelf: &Arc<Shelf>, root: Digest, objects: &[Object]) -> Result<Option<(Finished, Digest)>, CacheError> {
    let directory = shelf.layout.model(root);
    if !directory.exists() {
        return Ok(None);
    }
    let is_read_only = shelf.is_read_only;
    let lock = match is_read_only {
        true => None,
        false => {
            let path = shelf.layout.lock(root);
            Some(Arc::new(Lock::acquire(&path, Mode::Shared, "removing this model").await?))
        }
    };
    let wanted: Vec<(String, u64)> = objects.iter().map(|object| (object.name.clone(), object.bytes)).collect();
    let (place, shelf) = (directory.clone(), Arc::clone(shelf));
    let examined = off_thread(move || {
        let found = examine(&place, root, &wanted, !is_read_only)?;
        if let Examined::Wrong(wrong) = found {
            // Ours is the only lock if nobody uses it; then what is right of it is kept.
            drop(lock);
            tracing::warn!(model = %root, files = ?wrong.keys(), "a cached model was changed; loading what is wrong again");
            if !is_read_only {
                take_back(&shelf, root, &wrong)?;
            }
            return Ok(None);
        }
        Ok(match found {
            Examined::Intact(record, manifest) => Some((record, manifest, lock)),
            Examined::Absent | Examined::Wrong(_) => None,
        })
    });
    let Some((record, manifest, lock)) = examined.await? else { return Ok(None) };
    let origin: Option<Origin> = disk::read_json(&layout::origin(&directory));
    let key = origin.map_or(root, |origin| origin.key);
    if !is_read_only {
        // Its age decides what is evicted; nothing else depends on it.
        let _ = disk::touch(&layout::used(&directory));
    }
    let met = record.files.into_iter().map(|file| (file.name, file.met)).collect();
    let (manifest, proof, met) = (manifest.into(), record.proof, Arc::new(met));
    Ok(Some((Finished { directory, root, proof, manifest, met, _lock: lock }, key)))
}

enum Examined {
    Absent,
    Intact(Record, Vec<u8>),
    Wrong(Wrong),
}

/// Believes files that are the ones that were finished; reads the others, and notes that they are right
/// if it may write.
fn examine(directory: &Path, root: Digest, wanted: &[(String, u64)], may_write: bool) -> Result<Examined, CacheError> {
    let Some((mut record, manifest)) = check::describe(directory, root) else { return Ok(Examined::Absent) };
    // What proves a model is no part of it: under another URL its text may be another.
    let is_proof = |name: &str| name == MANIFEST_NAME || name == SIGNATURE_NAME;
    let has = |(name, bytes): &(String, u64)| {
        is_proof(name) || record.files.iter().any(|file| file.name == *name && file.identity.bytes == *bytes)
    };
    if !wanted.iter().all(has) {
        return Ok(Examined::Absent);
    }
    let suspects = check::suspects(directory, &record);
    if suspects.is_empty() {
        return Ok(Examined::Intact(record, manifest));
    }
    let Some(parsed) = Manifest::parse(&manifest).ok().filter(|manifest| manifest.root() == root) else {
        return Ok(Examined::Absent);
    };
    let wrong = check::read_all(directory, &suspects, &parsed, &mut |_| {});
    if !wrong.is_empty() {
        return Ok(Examined::Wrong(wrong));
    }
    check::identify(directory, &mut record)?;
    if may_write {
        disk::write_json(&layout::record(directory), &record)?;
    }
    Ok(Examined::Intact(record, manifest))
}

/// Returns true if the model with this root is there and is what it was.
pub(super) fn is_intact(directory: &Path, root: Digest) -> Result<bool, CacheError> {
    Ok(matches!(examine(directory, root, &[], true)?, Examined::Intact(..)))
}

/// Makes a damaged model a load that was broken off, so that the next load of its URL reads only
/// what is wrong. Returns true if it was done: not if someone uses the model.
pub(super) fn take_back(shelf: &Shelf, root: Digest, wrong: &Wrong) -> Result<bool, CacheError> {
    let directory = shelf.layout.model(root);
    let Some(alone) = Lock::attempt(&shelf.layout.lock(root), Mode::Exclusive)? else { return Ok(false) };
    let Some(origin) = disk::read_json::<Origin>(&layout::origin(&directory)) else {
        disk::discard(&shelf.layout, &directory)?;
        alone.remove();
        return Ok(true);
    };
    let Some(_load) = Lock::attempt(&shelf.layout.lock(origin.key), Mode::Exclusive)? else { return Ok(false) };
    for object in origin.objects.iter().map(ObjectFacts::to_object) {
        let Some(extents) = wrong.get(&object.name) else { continue };
        if layout::file(&directory, &object.name).is_ok() {
            journaled::condemn(&directory, &object, extents)?;
        }
    }
    let record = layout::record(&directory);
    fs::remove_file(&record).or_else(absent_is_fine).map_err(CacheError::io("removing", &record))?;
    let partial = shelf.layout.partial(origin.key);
    if partial.exists() {
        disk::discard(&shelf.layout, &directory)?;
    } else {
        fs::rename(&directory, &partial).map_err(CacheError::io("taking back", &directory))?;
    }
    alone.remove();
    Ok(true)
}

pub(super) fn absent_is_fine(cause: std::io::Error) -> std::io::Result<()> {
    if cause.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(cause) }
}
