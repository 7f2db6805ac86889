//! Files that finished models have already: linked into a load instead of fetched again, so that a
//! revision with the same weights costs its small files alone.
//!
//! A file is the same if its digests are: those of its extents, one that it met as a whole, or the
//! strong entity tag that the same URL had for it. It is linked, not copied: both models have it, and
//! it is gone when both are. Nobody writes to a file with two names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use wire::digest::Digest;
use wire::evidence::Expected;
use wire::manifest::{Manifest, ManifestFile};

use super::check;
use super::disk::{self, FileIdentity};
use super::facts::{FileRecord, ObjectFacts, Record, Reference};
use super::layout;
use super::lock::{Lock, Mode};
use super::shelf::Shelf;
use crate::source::Object;
use crate::verify::fingerprint;

/// A file of a load that another model has as well.
#[derive(Debug, Clone)]
pub struct Linked {
    /// The digest of every extent.
    pub extents: Vec<Digest>,
    /// Names of the expectations that it met as a whole.
    pub(super) met: BTreeSet<Digest>,
}

/// Links whatever of `objects` finished models have into the load's directory.
pub(super) fn link_all(
    shelf: &Shelf,
    url: &str,
    objects: &[Object],
    expected: &BTreeMap<String, Expected>,
    into: &Path,
) -> BTreeMap<String, Linked> {
    let mut linked = BTreeMap::new();
    let wanted: Vec<&Object> = objects.iter().filter(|object| expected.contains_key(&object.name)).collect();
    let before: Option<Reference> = disk::read_json(&shelf.layout.reference(url));
    for directory in disk::subdirectories(&shelf.layout.models()) {
        if linked.len() == wanted.len() {
            break;
        }
        let Some(donor) = Donor::open(shelf, &directory, before.as_ref()) else { continue };
        for object in &wanted {
            if linked.contains_key(&object.name) {
                continue;
            }
            if let Some((file, found)) = donor.find(object, &expected[&object.name])
                && link(&directory, file, into, &object.name).is_some()
            {
                linked.insert(object.name.clone(), found);
            }
        }
    }
    linked
}

/// Removes links again, if there is no room for the rest of the load.
pub(super) fn unlink_all(linked: &BTreeMap<String, Linked>, directory: &Path) {
    for name in linked.keys() {
        let _ = fs::remove_file(directory.join(name));
    }
}

/// A finished model, held as long as it is looked through.
struct Donor<'a> {
    record: Record,
    manifest: Manifest,
    /// The objects as the URL of the load had them, if this is the model that it was.
    objects: &'a [ObjectFacts],
    _lock: Option<Lock>,
}

impl<'a> Donor<'a> {
    fn open(shelf: &Shelf, directory: &Path, before: Option<&'a Reference>) -> Option<Self> {
        let root = Digest::from_hex(directory.file_name()?.to_str()?).ok()?;
        let lock = Lock::attempt(&shelf.layout.lock(root), Mode::Shared).ok()??;
        let (record, text) = check::describe(directory, root)?;
        let manifest = Manifest::parse(&text).ok()?;
        let objects = before.filter(|before| before.root == root).map_or(&[][..], |before| &before.objects);
        Some(Self { record, manifest, objects, _lock: Some(lock) })
    }

    /// The file that is what `object` must be.
    fn find(&self, object: &Object, expected: &Expected) -> Option<(&FileRecord, Linked)> {
        let listed = match expected {
            Expected::Extents(extents) => {
                let same = |file: &&ManifestFile| file.bytes == object.bytes && file.extents == *extents;
                self.manifest.files().iter().find(same)?
            }
            Expected::Whole(_) | Expected::Shards(_) => {
                let met = fingerprint(expected)?;
                let file = self.record.files.iter().find(|file| file.met.contains(&met))?;
                self.manifest.file(&file.name)?
            }
            Expected::Unknown => {
                let same = |before: &&ObjectFacts| is_same_version(&before.to_object(), object);
                self.manifest.file(&self.objects.iter().find(same)?.to_object().name)?
            }
            Expected::NotCovered => return None,
        };
        let file = self.record.files.iter().find(|file| file.name == listed.name)?;
        let is_right = listed.bytes == object.bytes && file.identity.bytes == object.bytes;
        is_right.then(|| (file, Linked { extents: listed.extents.clone(), met: file.met.clone() }))
    }
}

/// Returns true if a store says that two looks at a name were at the same bytes. A version may be that of the
/// whole repository, so the strong tag of the object itself decides.
fn is_same_version(before: &Object, now: &Object) -> bool {
    let is_strong = |etag: &&String| !etag.starts_with("W/");
    let etag = before.tag.etag.as_ref().filter(is_strong);
    before.name == now.name && before.bytes == now.bytes && etag.is_some() && etag == now.tag.etag.as_ref()
}

/// Gives a file of one model a second name in another's directory. `None` where it is not the file that
/// was finished, or the file system has no links.
fn link(from: &Path, file: &FileRecord, into: &Path, name: &str) -> Option<()> {
    let (old, new) = (from.join(&file.name), layout::file(into, name).ok()?);
    if FileIdentity::of(&fs::symlink_metadata(&old).ok()?) != file.identity {
        return None;
    }
    disk::create_directory(new.parent()?).ok()?;
    for stale in [&new, &layout::journal(into, name)] {
        let _ = fs::remove_file(stale);
    }
    let linked = fs::hard_link(&old, &new);
    linked.inspect_err(|cause| tracing::debug!(file = %old.display(), %cause, "cannot be linked")).ok()
}
