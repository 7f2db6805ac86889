//! The extents that a reopened file is believed to hold, after a kill and after a power cut.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::os::unix::fs::FileExt;

use wire::extent;

use super::*;
use crate::source::Tag;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use wire::EXTENT_BYTES;

fn object(bytes: u64) -> Object {
    Object { name: "w.safetensors".into(), bytes, tag: Tag::default(), checksum: None }
}

/// Small extents do not exist: the last one is short, and the others are holes but for a byte.
fn content(bytes: u64, extent: u64) -> Vec<u8> {
    let range = extent::range(bytes, extent).unwrap();
    let mut content = vec![0; (range.end - range.start) as usize];
    content[0] = extent as u8 + 1;
    content
}

fn land(file: &Journaled, extent: u64) {
    let content = content(file.bytes(), extent);
    file.data().write_all_at(&content, extent * EXTENT_BYTES).unwrap();
    file.note(extent, blake3::hash(&content)).unwrap();
}

fn numbers(file: &Journaled) -> Vec<u64> {
    file.found().iter().map(|(extent, _)| *extent).collect()
}

#[test]
fn what_landed_is_found_again_and_stays_after_a_mark() {
    let directory = tempfile::tempdir().unwrap();
    let object = object(3 * EXTENT_BYTES + 5);
    let open = || Journaled::open(directory.path(), &object).unwrap();
    let file = open();
    assert!(numbers(&file).is_empty());
    land(&file, 3);
    file.sync().unwrap();
    land(&file, 1);
    drop(file);
    let file = open();
    assert_eq!(numbers(&file), [1, 3]);
    assert_eq!(file.found()[1].1, blake3::hash(&content(object.bytes, 3)));
    assert_eq!(fs::metadata(file.path()).unwrap().len(), object.bytes);
}

#[test]
fn unsynced_bytes_that_are_not_there_are_not_believed_even_after_a_later_mark() {
    let directory = tempfile::tempdir().unwrap();
    let object = object(3 * EXTENT_BYTES);
    let file = Journaled::open(directory.path(), &object).unwrap();
    land(&file, 0);
    land(&file, 1);
    file.data().write_all_at(&[9], EXTENT_BYTES).unwrap();
    drop(file);
    let file = Journaled::open(directory.path(), &object).unwrap();
    assert_eq!(numbers(&file), [0]);
    land(&file, 2);
    file.sync().unwrap();
    drop(file);
    assert_eq!(numbers(&Journaled::open(directory.path(), &object).unwrap()), [0, 2]);
}

#[test]
fn a_file_that_was_replaced_is_read_whole() {
    let directory = tempfile::tempdir().unwrap();
    let object = object(2 * EXTENT_BYTES);
    let file = Journaled::open(directory.path(), &object).unwrap();
    land(&file, 0);
    land(&file, 1);
    file.sync().unwrap();
    let path = file.path().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    bytes[EXTENT_BYTES as usize] ^= 1;
    // The old file is still open, so the new one has another inode.
    fs::write(path.with_extension("new"), bytes).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    assert_eq!(numbers(&Journaled::open(directory.path(), &object).unwrap()), [0]);
}

#[test]
fn what_was_condemned_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let object = object(2 * EXTENT_BYTES);
    let file = Journaled::open(directory.path(), &object).unwrap();
    land(&file, 0);
    land(&file, 1);
    file.sync().unwrap();
    drop(file);
    condemn(directory.path(), &object, &[1]).unwrap();
    assert_eq!(numbers(&Journaled::open(directory.path(), &object).unwrap()), [0]);
}

/// A power cut: of the data, extents without a mark may hold anything; of the journal, everything
/// after its last sync may be cut or garbage.
#[test]
fn after_a_power_cut_what_was_synced_is_found_and_nothing_wrong() {
    for seed in 0..24 {
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let object = object(5 * EXTENT_BYTES + 100);
        let mut durable = Vec::new();
        let mut journal_bytes = 0;
        // The journal may be cut anywhere behind its last sync in every one of some sessions.
        for _session in 0..3 {
            let file = Journaled::open(directory.path(), &object).unwrap();
            let found = numbers(&file);
            assert!(durable.iter().all(|extent| found.contains(extent)), "seed {seed}: lost {durable:?} of {found:?}");
            for (extent, digest) in file.found() {
                let right = blake3::hash(&content(object.bytes, *extent));
                let there = disk::holds(file.data(), object.bytes, *extent, &right, &mut Vec::new());
                assert!(*digest == right && there, "seed {seed}: extent {extent} is wrong");
            }
            for _ in 0..random.random_range(0..5) {
                land(&file, random.random_range(0..6));
                if random.random_bool(0.3) {
                    file.sync().unwrap();
                    durable = file.landed().into_keys().collect();
                    journal_bytes = fs::metadata(&file.journal_path).unwrap().len();
                }
            }
            for extent in (0..6).filter(|extent| !durable.contains(extent)) {
                if random.random_bool(0.5) {
                    file.data().write_all_at(&[0xee], extent * EXTENT_BYTES).unwrap();
                }
            }
            let path = file.journal_path.clone();
            drop(file);
            lose_tail(&path, journal_bytes, &mut random);
        }
    }
}

fn lose_tail(path: &Path, synced: u64, random: &mut StdRng) {
    let mut bytes = fs::read(path).unwrap();
    let keep = random.random_range(synced as usize..=bytes.len());
    if random.random_bool(0.5) {
        bytes.truncate(keep);
    } else {
        bytes[keep..].fill(0);
    }
    fs::write(path, bytes).unwrap();
}
