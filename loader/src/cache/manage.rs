//! The operator's commands: list, pin, remove, make room, verify.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use wire::digest::Digest;
use wire::manifest::Manifest;
use wire::proof::Proof;

use super::check;
use super::disk;
use super::error::CacheError;
use super::facts::{Origin, Record, Reference};
use super::finished::{absent_is_fine, take_back};
use super::layout;
use super::lock::{Lock, Mode};
use super::room::{self, Resident};
use super::shelf::Shelf;

/// The shortest beginning of an id that is taken for one.
const PREFIX_MIN: usize = 4;

/// A model, or a load that was broken off or is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The model's root, or the load's key, in hexadecimal.
    pub id: String,
    /// Not all of it is there.
    pub is_partial: bool,
    /// The URLs that it was loaded from, or found to be.
    pub urls: Vec<String>,
    /// The bytes that it takes of the disk. Of a load, all blocks are taken at the beginning.
    pub bytes: u64,
    /// The number of its files.
    pub files: usize,
    /// The proof of its bytes; none of a load.
    pub proof: Option<Proof>,
    /// Never evicted, nor removed before it is unpinned.
    pub is_pinned: bool,
    /// A process loads or serves it.
    pub is_in_use: bool,
    /// In seconds since the epoch.
    pub last_used: u64,
    /// Its directory.
    pub directory: PathBuf,
}

/// The result of `gc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The ids of what is gone, or would be.
    pub removed: Vec<String>,
    /// The bytes that they took of the disk.
    pub freed_bytes: u64,
    /// The bytes that the cache takes now, or would.
    pub kept_bytes: u64,
}

/// The result of reading every byte of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The model's root.
    pub id: String,
    /// The bytes that were read.
    pub bytes: u64,
    /// The wrong files; none if all are right.
    pub wrong: Vec<WrongFile>,
    /// True if what is wrong was given up, to be loaded again by the next pull. It is not while a
    /// process uses the model.
    pub is_taken_back: bool,
}

/// A file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WrongFile {
    /// Its name.
    pub file: String,
    /// Which of its extents are wrong.
    pub extents: Vec<u64>,
}

/// Marks the root as a cache for programs that make backups (the Cache Directory Tagging
/// Specification).
pub(super) fn tag(root: &Path) -> Result<(), CacheError> {
    let path = root.join("CACHEDIR.TAG");
    if path.exists() {
        return Ok(());
    }
    disk::write_whole(
        &path,
        b"Signature: 8a477f597d28d172789f06886806bc55\n# Models cached by forebay; see `forebay cache`.\n",
    )
}

pub(super) fn list(shelf: &Shelf) -> Vec<Listed> {
    let urls = urls(shelf);
    room::residents(shelf).iter().map(|resident| describe(resident, &urls)).collect()
}

fn describe(resident: &Resident, urls: &BTreeMap<Digest, Vec<String>>) -> Listed {
    let origin: Option<Origin> = disk::read_json(&layout::origin(&resident.directory));
    let record: Option<Record> = disk::read_json(&layout::record(&resident.directory)).filter(|_| !resident.is_partial);
    let mut urls = urls.get(&resident.name).filter(|_| !resident.is_partial).cloned().unwrap_or_default();
    if urls.is_empty() {
        urls.extend(origin.as_ref().map(|origin| origin.url.clone()));
    }
    let files = record.as_ref().map(|record| record.files.len());
    let seconds = resident.last_used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Listed {
        id: resident.name.to_hex(),
        is_partial: resident.is_partial,
        urls,
        bytes: resident.bytes,
        files: files.or(origin.map(|origin| origin.objects.len())).unwrap_or(0),
        proof: record.map(|record| record.proof),
        is_pinned: resident.is_pinned,
        is_in_use: resident.is_in_use,
        last_used: seconds.as_secs(),
        directory: resident.directory.clone(),
    }
}

/// The URLs that were last found to be each root.
fn urls(shelf: &Shelf) -> BTreeMap<Digest, Vec<String>> {
    let mut urls: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for path in references(shelf) {
        if let Some(reference) = disk::read_json::<Reference>(&path) {
            urls.entry(reference.root).or_default().push(reference.url);
        }
    }
    urls.values_mut().for_each(|urls| urls.sort_unstable());
    urls
}

/// Resolves a root or key, a unique beginning of one, or a URL.
fn resolve(shelf: &Shelf, id: &str) -> Result<Resident, CacheError> {
    let urls = urls(shelf);
    let is_prefix = id.len() >= PREFIX_MIN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let names = |resident: &Resident| {
        (is_prefix && resident.name.to_hex().starts_with(&id.to_ascii_lowercase()))
            || describe(resident, &urls).urls.iter().any(|url| url.trim_end_matches('/') == id.trim_end_matches('/'))
    };
    let mut found: Vec<Resident> = room::residents(shelf).into_iter().filter(names).collect();
    // A URL with both a model and a broken-off load of a newer version means the model.
    if found.iter().any(|resident| !resident.is_partial) && !is_prefix {
        found.retain(|resident| !resident.is_partial);
    }
    let ids: Vec<String> = found.iter().map(|resident| resident.name.to_hex()).collect();
    match found.pop() {
        None => Err(CacheError::Unknown { id: id.to_owned() }),
        Some(resident) if found.is_empty() => Ok(resident),
        Some(_) => Err(CacheError::Ambiguous { id: id.to_owned(), matches: ids.join(", ") }),
    }
}

pub(super) fn remove(shelf: &Shelf, id: &str) -> Result<Collected, CacheError> {
    shelf.check_writable()?;
    let resident = resolve(shelf, id)?;
    if resident.is_pinned {
        return Err(CacheError::Pinned { id: id.to_owned() });
    }
    if !room::evict(shelf, &resident.directory, resident.name)? {
        return Err(CacheError::InUse { id: id.to_owned() });
    }
    forget(shelf);
    Ok(collected(shelf, &[resident]))
}

pub(super) fn pin(shelf: &Shelf, id: &str, is_pinned: bool) -> Result<String, CacheError> {
    shelf.check_writable()?;
    let resident = resolve(shelf, id)?;
    let path = layout::pinned(&resident.directory);
    let done = if is_pinned { disk::touch(&path) } else { fs::remove_file(&path).or_else(absent_is_fine) };
    done.map_err(CacheError::io("pinning", &path))?;
    Ok(resident.name.to_hex())
}

/// Removes leftovers, loads broken off long ago, and what is over the bounds (or `target_bytes`).
pub(super) fn collect(
    shelf: &Shelf,
    now: SystemTime,
    target_bytes: Option<u64>,
    is_dry: bool,
) -> Result<Collected, CacheError> {
    if !is_dry {
        shelf.check_writable()?;
    }
    let residents = room::residents(shelf);
    let bounds = room::bounds(shelf)?;
    let keep = Duration::from_millis(shelf.config.partial_keep_ms);
    let is_old = |resident: &Resident| now.duration_since(resident.last_used).is_ok_and(|age| age > keep);
    let (stale, rest): (Vec<Resident>, Vec<Resident>) =
        residents.into_iter().partition(|one| one.is_partial && !one.is_pinned && !one.is_in_use && is_old(one));
    let freed: u64 = stale.iter().map(|resident| resident.bytes).sum();
    let quota = target_bytes.or(bounds.quota);
    let available = bounds.available.saturating_add(freed);
    let excess = room::excess(&rest, 0, room::Bounds { quota, available, ..bounds });
    let mut going = stale;
    going.extend(room::choose_up_to(&rest, excess).into_iter().cloned());
    if is_dry {
        let mut would = collected(shelf, &going);
        would.kept_bytes = would.kept_bytes.saturating_sub(would.freed_bytes);
        return Ok(would);
    }
    let mut gone = Vec::new();
    for resident in going {
        if room::evict(shelf, &resident.directory, resident.name)? {
            gone.push(resident);
        }
    }
    forget(shelf);
    Ok(collected(shelf, &gone))
}

/// Removes what nobody can use any more: references to models that are gone, what a removal that
/// was broken off left, and locks of what is not there.
fn forget(shelf: &Shelf) {
    for path in references(shelf) {
        let reference: Option<Reference> = disk::read_json(&path);
        if reference.is_none_or(|reference| is_forgotten(shelf, &reference)) {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_dir_all(shelf.layout.trash());
    let names: Vec<PathBuf> = room::residents(shelf).iter().map(|one| shelf.layout.lock(one.name)).collect();
    for entry in fs::read_dir(shelf.layout.locks()).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = path != shelf.layout.space_lock() && !names.contains(&path);
        if is_ours && let Ok(Some(lock)) = Lock::attempt(&path, Mode::Exclusive) {
            lock.remove();
        }
    }
}

/// All references; what is just being written has another ending.
fn references(shelf: &Shelf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(shelf.layout.references()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "json"))
}

/// A load that is about to be published wrote its reference first.
fn is_forgotten(shelf: &Shelf, reference: &Reference) -> bool {
    !shelf.layout.model(reference.root).exists() && !shelf.layout.partial(reference.key).exists()
}

fn collected(shelf: &Shelf, gone: &[Resident]) -> Collected {
    let kept = room::residents(shelf).iter().map(|resident| resident.bytes).sum();
    room::show(shelf);
    Collected {
        removed: gone.iter().map(|resident| resident.name.to_hex()).collect(),
        freed_bytes: gone.iter().map(|resident| resident.bytes).sum(),
        kept_bytes: kept,
    }
}

/// Reads every byte of a model; `progress` is told bytes read and bytes in all.
pub(super) fn verify(shelf: &Shelf, id: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, CacheError> {
    let resident = resolve(shelf, id)?;
    if resident.is_partial {
        return Err(CacheError::Unknown { id: format!("{id} (a load that is not finished)") });
    }
    let (root, directory) = (resident.name, resident.directory);
    let in_use = || CacheError::InUse { id: id.to_owned() };
    let lock = match shelf.is_read_only {
        true => None,
        false => Some(Lock::attempt(&shelf.layout.lock(root), Mode::Shared)?.ok_or_else(in_use)?),
    };
    let described = check::describe(&directory, root);
    let parsed = described.and_then(|(record, text)| {
        Some((record, Manifest::parse(&text).ok().filter(|manifest| manifest.root() == root)?))
    });
    let Some((record, manifest)) = parsed else {
        // What its files should be is not known any more.
        drop(lock);
        let is_taken_back = !shelf.is_read_only && room::evict(shelf, &directory, root)?;
        let wrong = vec![WrongFile { file: wire::manifest::MANIFEST_NAME.into(), extents: Vec::new() }];
        return Ok(Verified { id: root.to_hex(), bytes: 0, wrong, is_taken_back });
    };
    let total = record.files.iter().map(|file| file.identity.bytes).sum();
    let mut read = 0;
    let wrong = check::read_all(&directory, &record.files, &manifest, &mut |bytes| {
        read += bytes;
        progress(read, total);
    });
    drop(lock);
    let is_taken_back = !wrong.is_empty() && !shelf.is_read_only && take_back(shelf, root, &wrong)?;
    let wrong = wrong.into_iter().map(|(file, extents)| WrongFile { file, extents }).collect();
    Ok(Verified { id: root.to_hex(), bytes: read, wrong, is_taken_back })
}

/// The ids of all finished models.
pub(super) fn models(shelf: &Shelf) -> Vec<String> {
    let directories = disk::subdirectories(&shelf.layout.models());
    let names = directories.iter().filter_map(|path| path.file_name()?.to_str());
    names.filter(|name| Digest::from_hex(name).is_ok()).map(str::to_owned).collect()
}
