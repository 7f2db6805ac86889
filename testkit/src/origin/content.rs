//! The content of the origin: files of a directory, bytes in memory, and objects generated from a seed
//! that need neither. It knows names, lengths and entity tags; nothing of HTTP.

use super::draw::{mix, name_number};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Generated objects are made of chunks of this many bytes, each cut from the tile elsewhere.
const CHUNK_BYTES: usize = 64 << 10;
/// How much random data one seed has: small enough to stay in a core's cache.
const TILE_BYTES: usize = 1 << 20;

/// An object that is computed as it is read. No byte is zero, so memory nobody wrote is noticed, and
/// every 64 KiB chunk begins with its own stamp, so chunks that changed places are noticed too.
#[derive(Debug, Clone)]
pub struct Generated {
    seed: u64,
    len: u64,
    tile: Arc<[u8]>,
}

impl Generated {
    /// The object of `len` bytes that belongs to this seed.
    #[must_use]
    pub fn new(len: u64, seed: u64) -> Self {
        let words = (0..(TILE_BYTES + CHUNK_BYTES) / 8).map(|word| odd_bytes(mix(seed ^ mix(word as u64))));
        Self { seed, len, tile: words.flat_map(u64::to_le_bytes).collect() }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the bytes from `offset` on into all of `into`; the caller stays within the length.
    pub fn fill(&self, offset: u64, into: &mut [u8]) {
        let (mut at, mut done) = (offset, 0);
        while done < into.len() {
            let chunk = at / CHUNK_BYTES as u64;
            let within = usize::try_from(at % CHUNK_BYTES as u64).unwrap_or(0);
            let stamp = mix(self.seed.rotate_left(32) ^ chunk);
            let start = usize::try_from(stamp % TILE_BYTES as u64).unwrap_or(0) + within;
            let count = (CHUNK_BYTES - within).min(into.len() - done);
            let piece = &mut into[done..done + count];
            piece.copy_from_slice(&self.tile[start..start + count]);
            for (byte, mark) in piece.iter_mut().zip(odd_bytes(stamp).to_le_bytes().into_iter().skip(within)) {
                *byte = mark;
            }
            at += count as u64;
            done += count;
        }
    }

    /// The bytes of a range of it, clipped to its length.
    #[must_use]
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let end = range.end.min(self.len);
        let count = usize::try_from(end.saturating_sub(range.start)).unwrap_or(0);
        let mut bytes = vec![0; count];
        self.fill(range.start, &mut bytes);
        bytes
    }
}

/// Makes every byte odd, and thereby none zero.
const fn odd_bytes(word: u64) -> u64 {
    word | 0x0101_0101_0101_0101
}

/// Where an object's bytes are, ready to be read.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Memory(Bytes),
    Generated(Generated),
    File(Arc<File>),
}

impl Body {
    /// Reads `into.len()` bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = bytes.get(start..start.saturating_add(into.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
                into.copy_from_slice(part);
                Ok(())
            }
            Self::Generated(generated) => {
                generated.fill(offset, into);
                Ok(())
            }
            Self::File(file) => file.read_exact_at(into, offset),
        }
    }
}

/// An object as it is at this moment.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) body: Body,
    /// Bytes.
    pub(super) len: u64,
    /// The entity tag, quotes included; it changes when the bytes do.
    pub(super) etag: String,
    pub(super) modified: SystemTime,
}

/// All objects. What is held in memory hides a file of the same name.
#[derive(Debug)]
pub(super) struct Catalogue {
    root: Option<PathBuf>,
    held: RwLock<BTreeMap<String, Object>>,
    /// SHA-256 by name and entity tag, so that a big file is hashed once.
    sha256: Mutex<BTreeMap<(String, String), String>>,
}

impl Catalogue {
    /// The files under `root`, if given, and nothing else yet.
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root, held: RwLock::default(), sha256: Mutex::default() }
    }

    /// Puts bytes under a name; `version` tells replacements apart.
    pub(super) fn hold(&self, name: &str, body: Body, len: u64, version: u64) {
        let tag = mix(name_number(name) ^ mix(version ^ mix(len)));
        // A fixed day, so that the same seed gives the same headers; each version is a second younger.
        let modified = UNIX_EPOCH + Duration::from_secs(1_790_000_000 + version % 1_000_000);
        let object = Object { body, len, etag: format!("\"{tag:016x}\""), modified };
        self.held.write().insert(name.to_owned(), object);
    }

    /// Puts other bytes under a name that is held in memory, everything else as it was.
    pub(super) fn replace_unnoticed(&self, name: &str, bytes: Bytes) {
        let mut held = self.held.write();
        let object = held.get_mut(name).expect("the object is held in memory");
        assert_eq!(object.len, bytes.len() as u64, "the length stays what it was");
        object.body = Body::Memory(bytes);
    }

    /// The object of this name, or none.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<Object>> {
        if let Some(object) = self.held.read().get(name) {
            return Ok(Some(object.clone()));
        }
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        let Some(root) = self.root.as_ref().filter(|_| name.split('/').all(is_plain)) else {
            return Ok(None);
        };
        let file = match File::open(root.join(name)) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Ok(None);
        }
        let modified = facts.modified()?;
        let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let etag = format!("\"{age:x}-{:x}\"", facts.len());
        Ok(Some(Object { body: Body::File(Arc::new(file)), len: facts.len(), etag, modified }))
    }

    /// The names that begin with `prefix`, in order.
    pub(super) fn names(&self, prefix: &str) -> BTreeSet<String> {
        let mut names: BTreeSet<String> =
            self.held.read().keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        if let Some(root) = &self.root {
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            if folder.split('/').all(|part| part != "..") {
                walk(&root.join(folder), folder, &mut names);
            }
        }
        names.retain(|name| name.starts_with(prefix));
        names
    }

    /// The SHA-256 of an object, in hex.
    pub(super) fn sha256(&self, name: &str, object: &Object) -> io::Result<String> {
        let key = (name.to_owned(), object.etag.clone());
        if let Some(known) = self.sha256.lock().get(&key) {
            return Ok(known.clone());
        }
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut at = 0;
        while at < object.len {
            let count = usize::try_from((object.len - at).min(piece.len() as u64)).unwrap_or(0);
            object.body.read(at, &mut piece[..count])?;
            hasher.update(&piece[..count]);
            at += count as u64;
        }
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.sha256.lock().insert(key, hex.clone());
        Ok(hex)
    }
}

fn walk(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let part = entry.file_name().to_string_lossy().into_owned();
        let name = if prefix.is_empty() { part } else { format!("{prefix}/{part}") };
        if entry.path().is_dir() {
            walk(&entry.path(), &name, names);
        } else {
            names.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_bytes_are_the_same_however_they_are_cut_and_never_zero() {
        let object = Generated::new(300_000, 7);
        let whole = object.bytes(0..300_000);
        assert_eq!(whole.len(), 300_000);
        assert!(whole.iter().all(|byte| *byte != 0));
        for (start, end) in [(0, 1), (65_530, 65_550), (65_536, 65_540), (131_075, 299_999)] {
            assert_eq!(object.bytes(start..end), whole[start as usize..end as usize], "{start}..{end}");
        }
        assert_ne!(whole, Generated::new(300_000, 8).bytes(0..300_000));
        assert_ne!(whole[..65_536], whole[65_536..131_072], "chunks differ");
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("in")).expect("a folder in it");
        std::fs::write(folder.path().join("secret"), b"x").expect("a file");
        std::fs::write(folder.path().join("in/open"), b"y").expect("a file");
        let catalogue = Catalogue::new(Some(folder.path().join("in")));
        assert!(catalogue.find("open").expect("a look").is_some());
        for name in ["../secret", "a/../../secret", "", "/", "open/x", "."] {
            assert!(catalogue.find(name).expect("a look").is_none(), "{name:?}");
        }
        assert_eq!(catalogue.names("").into_iter().collect::<Vec<_>>(), ["open"]);
    }

    #[test]
    fn replacing_an_object_changes_its_tag() {
        let catalogue = Catalogue::new(None);
        let tag = |version| {
            catalogue.hold("a", Body::Memory(Bytes::from_static(b"abc")), 3, version);
            catalogue.find("a").expect("a look").expect("held").etag
        };
        assert_ne!(tag(0), tag(1));
    }
}
