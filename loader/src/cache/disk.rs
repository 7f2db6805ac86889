//! Small things asked of the disk: files that are there whole or not at all, room, and removal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::FallocateFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::extent;

use super::error::CacheError;
use super::layout::Layout;

/// The most bytes of a JSON file of ours that are read: some 100,000 objects.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// The ending of a file's name while the file is being written.
const LEFTOVER: &str = ".forebay-new";

/// The identity of a file: written anew, it differs in one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileIdentity {
    pub(super) inode: u64,
    pub(super) bytes: u64,
    /// Since the epoch.
    pub(super) modified_ns: i64,
}

impl FileIdentity {
    pub(super) fn of(facts: &fs::Metadata) -> Self {
        let modified_ns = facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec());
        Self { inode: facts.ino(), bytes: facts.len(), modified_ns }
    }
}

/// Creates a directory and those above it.
pub(super) fn create_directory(path: &Path) -> Result<(), CacheError> {
    fs::create_dir_all(path).map_err(CacheError::io("creating", path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), CacheError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(CacheError::io("making durable the names in", path))
}

/// Writes a file beside its place, makes it durable and moves it there: readers see all of it or
/// what was there before. Its name is durable once its directory is.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let parent = path.parent().unwrap_or(path);
    create_directory(parent)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let ours = (std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let beside = parent.join(format!(".{name}.{}.{}{LEFTOVER}", ours.0, ours.1));
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside);
        CacheError::io("writing", path)(source)
    })
}

/// Removes what writes that were broken off left in a directory that is ours alone.
pub(super) fn remove_leftovers(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(LEFTOVER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CacheError> {
    let json = serde_json::to_vec(value).map_err(|cause| CacheError::io("writing", path)(cause.into()))?;
    write_whole(path, &json)
}

/// Reads a JSON file of ours. One that is absent, damaged or of a newer version says nothing.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match read_bounded(path, JSON_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return None,
        Err(cause) => {
            tracing::warn!(path = %path.display(), %cause, "a file of the cache cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&bytes)
        .inspect_err(|cause| tracing::warn!(path = %path.display(), %cause, "a file of the cache is damaged; ignored"))
        .ok()
}

pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_bounded_file(&File::open(path)?, limit)
}

/// Reads an open file from where it is to its end.
pub(super) fn read_bounded_file(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a file of `bytes` bytes for reading and writing, all of its blocks allocated; what it
/// holds already stays.
pub(super) fn open_allocated(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
    }
    if bytes > 0 {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot allocate (NFS): sparse it is.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
            result => result?,
        }
    }
    Ok(file)
}

/// Sets aside blocks for a file that will grow to `bytes`, as far as the file system can.
pub(super) fn reserve(file: &File, bytes: u64) {
    let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1));
}

/// Bytes that the file system of `path` has left for us.
pub(super) fn available_bytes(path: &Path) -> Result<u64, CacheError> {
    let facts =
        rustix::fs::statvfs(path).map_err(|source| CacheError::io("asking the free space of", path)(source.into()))?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Bytes that a directory's files take on disk, a file with several names being shared evenly among
/// them; what vanishes meanwhile counts nothing.
pub(super) fn used_bytes(directory: &Path) -> u64 {
    sum_of_files(directory, &|bytes, names| bytes / names)
}

/// As [`used_bytes`], of files that have one name alone.
pub(super) fn unshared_bytes(directory: &Path) -> u64 {
    sum_of_files(directory, &|bytes, names| if names == 1 { bytes } else { 0 })
}

fn sum_of_files(directory: &Path, count: &dyn Fn(u64, u64) -> u64) -> u64 {
    let mut sum = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(facts) if facts.is_dir() => open.push(entry.path()),
                // st_blocks counts 512 bytes whatever the file system's block is (stat(2)).
                Ok(facts) => sum += count(facts.blocks() * 512, facts.nlink().max(1)),
                Err(_) => {}
            }
        }
    }
    sum
}

/// Sets a file's modification time to now, creating it.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?.set_modified(SystemTime::now())
}

pub(super) fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|facts| facts.modified()).ok()
}

/// The directories in a directory, by name.
pub(super) fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort_unstable();
    found
}

/// Removes a file that other models have as well, so that it can be written anew.
pub(super) fn part_from_others(path: &Path) -> Result<(), CacheError> {
    match fs::metadata(path) {
        Ok(facts) if facts.nlink() > 1 => fs::remove_file(path).map_err(CacheError::io("removing", path)),
        _ => Ok(()),
    }
}

/// Returns true if an extent of a file has this digest. What cannot be read has none.
pub(super) fn holds(data: &File, bytes: u64, extent: u64, digest: &blake3::Hash, buffer: &mut Vec<u8>) -> bool {
    let Some(range) = extent::range(bytes, extent) else { return false };
    // An extent has 4 MiB at most.
    buffer.resize((range.end - range.start) as usize, 0);
    data.read_exact_at(buffer, range.start).is_ok() && blake3::hash(buffer) == *digest
}

/// Removes a directory: at once for everyone who looks, then file by file.
pub(super) fn discard(layout: &Layout, directory: &Path) -> Result<(), CacheError> {
    let trash = layout.trash();
    create_directory(&trash)?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let place = (0_u64..)
        .map(|attempt| trash.join(format!("{name}.{}.{attempt}", std::process::id())))
        .find(|place| !place.exists())
        .unwrap_or_else(|| trash.join("full"));
    fs::rename(directory, &place).map_err(CacheError::io("removing", directory))?;
    match fs::remove_dir_all(&place) {
        // `gc` of another process empties the trash, too.
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(CacheError::io("removing", &place)(cause)),
        _ => Ok(()),
    }
}
