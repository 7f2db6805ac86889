//! Checks that a finished model's files are what they were: by identity, and by reading every byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use wire::digest::Digest;
use wire::extent;
use wire::manifest::{JSON_BYTES_MAX, Manifest};

use super::disk::{self, FileIdentity};
use super::error::CacheError;
use super::facts::{FileRecord, Record};
use super::layout;

/// The wrong extents of each wrong file.
pub(super) type Wrong = BTreeMap<String, Vec<u64>>;

/// A finished model's own description of itself; none if it is damaged.
pub(super) fn describe(directory: &Path, root: Digest) -> Option<(Record, Vec<u8>)> {
    let record: Record = disk::read_json(&layout::record(directory))?;
    let manifest = disk::read_bounded(&layout::manifest(directory), JSON_BYTES_MAX as u64).ok()?;
    let names_are_safe = record.files.iter().all(|file| layout::file(directory, &file.name).is_ok());
    (record.root == root && names_are_safe).then_some((record, manifest))
}

/// The files that are not the ones that were finished, or may have been written since.
pub(super) fn suspects(directory: &Path, record: &Record) -> Vec<FileRecord> {
    let is_same = |file: &&FileRecord| match fs::metadata(directory.join(&file.name)) {
        Ok(facts) => facts.is_file() && FileIdentity::of(&facts) == file.identity,
        Err(_) => false,
    };
    record.files.iter().filter(|file| !is_same(file)).cloned().collect()
}

/// Reads every byte of these files; `progress` is told how many were read since it was told last.
pub(super) fn read_all(
    directory: &Path,
    files: &[FileRecord],
    manifest: &Manifest,
    progress: &mut dyn FnMut(u64),
) -> Wrong {
    let mut wrong = Wrong::new();
    for file in files {
        let extents = wrong_extents(directory, file, manifest, progress);
        if !extents.is_empty() {
            wrong.insert(file.name.clone(), extents);
        }
    }
    wrong
}

/// Every file's identity as it is now.
pub(super) fn identify(directory: &Path, record: &mut Record) -> Result<(), CacheError> {
    for file in &mut record.files {
        let path = directory.join(&file.name);
        file.identity = FileIdentity::of(&fs::metadata(&path).map_err(CacheError::io("looking at", &path))?);
    }
    Ok(())
}

fn wrong_extents(directory: &Path, file: &FileRecord, manifest: &Manifest, progress: &mut dyn FnMut(u64)) -> Vec<u64> {
    let path = directory.join(&file.name);
    let bytes = file.identity.bytes;
    let all = || (0..extent::count(bytes).max(1)).collect();
    let Ok(data) = File::open(&path) else { return all() };
    if data.metadata().map_or(true, |facts| facts.len() != bytes) {
        return all();
    }
    let Some(listed) = manifest.file(&file.name) else {
        let is_right = file.digest.is_some_and(|digest| digest_of(&data).is_some_and(|found| found == digest));
        progress(bytes);
        return if is_right { Vec::new() } else { all() };
    };
    let mut buffer = Vec::new();
    let digests = listed.extents.iter().map(|digest| blake3::Hash::from_bytes(digest.0));
    let mut wrong = Vec::new();
    for (index, digest) in (0_u64..).zip(digests) {
        if !disk::holds(&data, listed.bytes, index, &digest, &mut buffer) {
            wrong.push(index);
        }
        progress(buffer.len() as u64);
    }
    wrong
}

fn digest_of(mut data: &File) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return Some(Digest(*hasher.finalize().as_bytes())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(_) => return None,
        };
    }
}
