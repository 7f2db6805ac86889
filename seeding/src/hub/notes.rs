//! Notes on repositories, kept in the cache: which commit a branch was, which files a commit has and lacks, and whether
//! everybody may read them. They are what the node answers by while the hub is away, and never outweigh the hub.
//!
//! A note is written some moments after it was learned; what a crash loses is learned again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use loader::{Object, is_commit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::digest::Sha256;
use wire::evidence::StoreChecksum;

/// The most commits of a repository that are noted; the one that was noted first goes first.
const COMMITS_MAX: usize = 4;
/// The most branches and tags.
const REVISIONS_MAX: usize = 64;
/// The most files of a commit, and the most names that it lacks.
const NAMES_MAX: usize = 16_384;
/// The largest note that is read or written.
const NOTE_BYTES_MAX: u64 = 64 << 20;
/// The most repositories held in memory.
const HELD_MAX: usize = 256;
/// The time after which it is asked again whether everybody may read a repository.
const PUBLIC_FOR: Duration = Duration::from_secs(600);

/// A file as the hub describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) bytes: u64,
    /// As the hub writes it, quotes and all.
    pub(super) etag: Option<String>,
    /// Of a large file.
    pub(super) sha256: Option<Sha256>,
}

impl Facts {
    /// The facts of an object that the loader knows.
    pub(super) fn of(object: &Object) -> Self {
        let sha256 = object.checksum.map(|StoreChecksum::Sha256(digest)| digest);
        Self { bytes: object.bytes, etag: object.tag.etag.clone(), sha256 }
    }
}

/// One commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Commit {
    pub(super) files: BTreeMap<String, Facts>,
    pub(super) absent: BTreeSet<String>,
    /// Its description.
    pub(super) info: Option<Value>,
    /// Its files, folders included.
    pub(super) tree: Option<Vec<Value>>,
}

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Repository {
    /// True if somebody without a token may read it.
    pub(super) is_public: bool,
    /// Branches and tags, with the commits that they were last.
    pub(super) revisions: BTreeMap<String, String>,
    commits: Vec<(String, Commit)>,
}

impl Repository {
    /// The commit that a revision is, or was last.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) { Some(revision.to_owned()) } else { self.revisions.get(revision).cloned() }
    }

    pub(super) fn commit(&self, commit: &str) -> Option<&Commit> {
        self.commits.iter().find(|(name, _)| name == commit).map(|(_, commit)| commit)
    }

    /// Notes which commit a revision is, and gives that commit to be noted more of.
    pub(super) fn learn(&mut self, revision: &str, commit: &str) -> &mut Commit {
        if !is_commit(revision) && (self.revisions.len() < REVISIONS_MAX || self.revisions.contains_key(revision)) {
            self.revisions.insert(revision.to_owned(), commit.to_owned());
        }
        let place = self.commits.iter().position(|(name, _)| name == commit).unwrap_or_else(|| {
            if self.commits.len() >= COMMITS_MAX {
                self.commits.remove(0);
            }
            self.commits.push((commit.to_owned(), Commit::default()));
            self.commits.len() - 1
        });
        &mut self.commits[place].1
    }
}

impl Commit {
    pub(super) fn has(&mut self, name: &str, facts: Facts) {
        self.absent.remove(name);
        if self.files.len() < NAMES_MAX {
            self.files.insert(name.to_owned(), facts);
        }
    }

    pub(super) fn lacks(&mut self, name: &str) {
        if self.absent.len() < NAMES_MAX {
            self.absent.insert(name.to_owned());
        }
    }

    /// Returns true if the commit has no file of this name, as far as is known.
    pub(super) fn is_known_to_lack(&self, name: &str) -> bool {
        let is_listed =
            |tree: &Vec<Value>| tree.iter().any(|entry| entry.get("path").and_then(Value::as_str) == Some(name));
        !self.files.contains_key(name)
            && (self.absent.contains(name) || self.tree.as_ref().is_some_and(|tree| !is_listed(tree)))
    }
}

/// The notes. Those in memory are written by [`Notes::write`].
#[derive(Debug)]
pub(super) struct Notes {
    directory: Option<PathBuf>,
    max: usize,
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    repository: Repository,
    is_new: bool,
    /// When it was last asked whether everybody may read it.
    public_asked: Option<Instant>,
    used: Option<Instant>,
}

impl Notes {
    /// The notes in a directory, at most `max` of them; without one they are kept in memory.
    pub(super) fn new(directory: Option<PathBuf>, max: usize) -> Self {
        Self { directory, max, held: Mutex::default() }
    }

    /// Reads what is noted of a repository.
    pub(super) fn read<T>(&self, repository: &str, now: Instant, read: impl FnOnce(&Repository) -> T) -> T {
        read(&self.hold(&mut self.held.lock(), repository, now).repository)
    }

    /// Notes something of a repository.
    pub(super) fn note(&self, repository: &str, now: Instant, change: impl FnOnce(&mut Repository)) {
        let mut held = self.held.lock();
        let held = self.hold(&mut held, repository, now);
        let before = held.repository.clone();
        change(&mut held.repository);
        held.is_new |= held.repository != before;
    }

    /// Returns true if it is time to ask whether everybody may read a repository; the next caller is told no.
    pub(super) fn is_public_due(&self, repository: &str, now: Instant) -> bool {
        let mut held = self.held.lock();
        let held = self.hold(&mut held, repository, now);
        let is_due = held.public_asked.is_none_or(|asked| now.saturating_duration_since(asked) >= PUBLIC_FOR);
        if is_due {
            held.public_asked = Some(now);
        }
        is_due
    }

    /// Writes what is new. Blocks.
    pub(super) fn write(&self) {
        let Some(directory) = &self.directory else { return };
        let new: Vec<(String, Repository)> = {
            let mut held = self.held.lock();
            let new = held.iter_mut().filter_map(|(name, held)| {
                std::mem::take(&mut held.is_new).then(|| (name.clone(), held.repository.clone()))
            });
            new.collect()
        };
        if new.is_empty() {
            return;
        }
        let written = new.iter().try_for_each(|(name, repository)| write(&path(directory, name), repository));
        if let Err(cause) = written.and_then(|()| remove_oldest(directory, self.max)) {
            tracing::warn!(directory = %directory.display(), %cause, "notes on repositories cannot be kept");
        }
    }

    fn hold<'a>(&self, held: &'a mut HashMap<String, Held>, name: &str, now: Instant) -> &'a mut Held {
        if !held.contains_key(name) {
            if held.len() >= HELD_MAX {
                // Only what is on disk as well may go.
                let written = held.iter().filter(|(_, held)| !held.is_new || self.directory.is_none());
                let oldest = written.min_by_key(|(_, held)| held.used).map(|(name, _)| name.clone());
                oldest.map(|oldest| held.remove(&oldest));
            }
            let path = self.directory.as_deref().map(|directory| path(directory, name));
            let repository = path.and_then(|path| read(&path)).unwrap_or_default();
            held.insert(name.to_owned(), Held { repository, ..Held::default() });
        }
        let held = held.entry(name.to_owned()).or_default();
        held.used = Some(now);
        held
    }
}

fn path(directory: &Path, repository: &str) -> PathBuf {
    directory.join(format!("{}.json", blake3::hash(repository.as_bytes()).to_hex()))
}

/// A note, if there is one that can be read.
fn read(path: &Path) -> Option<Repository> {
    let is_small = fs::metadata(path).ok()?.len() <= NOTE_BYTES_MAX;
    is_small.then(|| serde_json::from_slice(&fs::read(path).ok()?).ok()).flatten()
}

/// Replaces a note in one step.
fn write(path: &Path, repository: &Repository) -> std::io::Result<()> {
    let json = serde_json::to_vec(repository)?;
    if json.len() as u64 > NOTE_BYTES_MAX {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&aside, json)?;
    fs::rename(&aside, path)
}

/// Removes the notes that were written first, if there are too many.
fn remove_oldest(directory: &Path, max: usize) -> std::io::Result<()> {
    let mut notes: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        notes.push((entry.metadata()?.modified()?, entry.path()));
    }
    let excess = notes.len().saturating_sub(max);
    notes.sort();
    notes.into_iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn facts(bytes: u64) -> Facts {
        Facts { bytes, etag: Some("\"e\"".into()), sha256: None }
    }

    #[test]
    fn a_note_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let (notes, now) = (Notes::new(Some(directory.path().join("notes")), 8), Instant::now());
        notes.note("org/name", now, |repository| {
            repository.is_public = true;
            let commit = repository.learn("main", COMMIT);
            commit.has("config.json", facts(3));
            commit.lacks("adapter_config.json");
        });
        notes.write();
        let again = Notes::new(Some(directory.path().join("notes")), 8);
        again.read("org/name", now, |repository| {
            assert!(repository.is_public);
            assert_eq!(repository.commit_of("main").as_deref(), Some(COMMIT));
            let commit = repository.commit(COMMIT).unwrap();
            assert_eq!(commit.files["config.json"], facts(3));
            assert!(commit.is_known_to_lack("adapter_config.json") && !commit.is_known_to_lack("other.json"));
        });
        again.read("org/other", now, |repository| assert_eq!(*repository, Repository::default()));
    }

    #[test]
    fn notes_are_bounded_on_disk_and_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let (notes, now) = (Notes::new(Some(directory.path().to_owned()), 5), Instant::now());
        for number in 0..2 * HELD_MAX {
            notes.note(&format!("org/{number}"), now, |repository| repository.is_public = true);
            if number % 64 == 0 {
                notes.write();
            }
        }
        notes.write();
        assert!(notes.held.lock().len() <= HELD_MAX + 64);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 5);
    }

    #[test]
    fn of_a_repository_the_last_commits_are_known() {
        let mut repository = Repository::default();
        let name = |number: usize| format!("{number:040x}");
        (0..10).for_each(|number| repository.learn("main", &name(number)).lacks("x"));
        assert_eq!(repository.commits.len(), COMMITS_MAX);
        assert!(repository.commit(&name(9)).is_some() && repository.commit(&name(0)).is_none());
        assert_eq!(repository.commit_of("main"), Some(name(9)));
    }

    #[test]
    fn a_damaged_note_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Notes::new(Some(directory.path().to_owned()), 5);
        fs::write(path(directory.path(), "org/name"), b"{\"revisions\": 3").unwrap();
        notes.read("org/name", Instant::now(), |repository| assert_eq!(*repository, Repository::default()));
    }
}
