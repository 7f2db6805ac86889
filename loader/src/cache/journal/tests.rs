//! Whatever happens to a journal, nothing is believed that was not written.

use super::*;
use crate::source::Tag;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

const EXTENTS: u64 = 6;

fn object() -> Object {
    let tag = Tag { etag: Some("\"a\"".into()), ..Tag::default() };
    Object { name: "model.safetensors".into(), bytes: EXTENTS * extent::EXTENT_BYTES, tag, checksum: None }
}

fn identity() -> Identity {
    Identity::of(&object())
}

fn write(records: &[Record]) -> Vec<u8> {
    let (header, mut encoder) = Encoder::begin(&identity());
    let mut bytes = header.to_vec();
    records.iter().for_each(|record| bytes.extend(encoder.encode(record)));
    bytes
}

fn landed(extent: u64, seed: u8) -> Record {
    Record::Landed { extent, digest: blake3::hash(&[seed]) }
}

/// A history as a process writes it: a session first, marks that cover what came before.
fn history() -> impl Strategy<Value = Vec<Record>> {
    vec((0_u8..8, 0..EXTENTS, any::<u8>()), 0..40).prop_map(|steps| {
        let mut records = vec![Record::Session { inode: 7 }];
        for (kind, extent, seed) in steps {
            let index = records.len() as u64;
            records.push(match kind {
                0 => Record::Synced { through: index - u64::from(seed) % (index + 1) },
                1 => Record::Gone { extent },
                2 => Record::Session { inode: 7 + u64::from(seed % 2) },
                _ => landed(extent, seed),
            });
        }
        records
    })
}

fn believed(replay: &Replay) -> BTreeSet<(u64, [u8; 32])> {
    replay.durable().map(|(extent, digest)| (extent, *digest.as_bytes())).collect()
}

proptest! {
    #[test]
    fn a_whole_journal_is_read_to_its_end(records in history()) {
        let bytes = write(&records);
        let replay = replay(&bytes, &identity());
        prop_assert_eq!(replay.valid_bytes, bytes.len() as u64);
        prop_assert_eq!(replay.encoder.expect("a good header").records(), records.len() as u64);
    }

    #[test]
    fn a_damaged_journal_says_what_its_good_beginning_says(
        records in history(),
        damage in vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
        cut in any::<prop::sample::Index>(),
        tail in vec(any::<u8>(), 0..200),
    ) {
        let good = write(&records);
        let mut bytes = good[..cut.index(good.len() + 1)].to_vec();
        for (place, flip) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
            }
        }
        bytes.extend(tail);
        let same = good.chunks(RECORD_BYTES).zip(bytes.chunks(RECORD_BYTES)).take_while(|(a, b)| a == b).count();
        let expected = replay(&good[..same * RECORD_BYTES], &identity());
        let found = replay(&bytes, &identity());
        prop_assert_eq!(found.valid_bytes, (same * RECORD_BYTES) as u64);
        prop_assert_eq!(believed(&found), believed(&expected));
        prop_assert_eq!(found.inode, expected.inode);
    }

    #[test]
    fn reordered_records_end_the_journal(records in history(), first in 0_usize..40, second in 0_usize..40) {
        let bytes = write(&records);
        let count = records.len();
        let (first, second) = (first % count, second % count);
        let record = |index: usize| &bytes[(index + 1) * RECORD_BYTES..(index + 2) * RECORD_BYTES];
        prop_assume!(record(first) != record(second));
        let mut order: Vec<usize> = (0..count).collect();
        order.swap(first, second);
        let mut swapped = bytes[..RECORD_BYTES].to_vec();
        order.iter().for_each(|index| swapped.extend(record(*index)));
        let replay = replay(&swapped, &identity());
        prop_assert_eq!(replay.valid_bytes, ((first.min(second) + 1) * RECORD_BYTES) as u64);
    }

    #[test]
    fn foreign_bytes_are_never_believed(bytes in vec(any::<u8>(), 0..1000)) {
        let replay = replay(&bytes, &identity());
        prop_assert_eq!(replay.valid_bytes, 0);
        prop_assert!(replay.durable().next().is_none() && replay.doubtful().next().is_none());
    }
}

#[test]
fn only_what_a_mark_covers_is_durable() {
    let session = Record::Session { inode: 7 };
    let bytes = write(&[session, landed(0, 1), landed(1, 2), Record::Synced { through: 2 }, landed(2, 3)]);
    let replay = replay(&bytes, &identity());
    assert_eq!(replay.durable().map(|(extent, _)| extent).collect::<Vec<_>>(), [0]);
    assert_eq!(replay.doubtful().map(|(extent, _)| extent).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_extent_that_landed_again_needs_a_mark_again() {
    let bytes = write(&[Record::Session { inode: 7 }, landed(0, 1), Record::Synced { through: 2 }, landed(0, 2)]);
    let replay = replay(&bytes, &identity());
    assert_eq!(replay.durable().count(), 0);
    assert_eq!(replay.doubtful().collect::<Vec<_>>(), [(0, blake3::hash(&[2]))]);
}

#[test]
fn another_file_takes_all_durability_away() {
    let (first, second) = (Record::Session { inode: 7 }, Record::Session { inode: 8 });
    let mut records = vec![first, landed(0, 1), Record::Synced { through: 2 }, second];
    assert_eq!(replay(&write(&records), &identity()).durable().count(), 0);
    records.push(Record::Synced { through: 4 });
    assert_eq!(replay(&write(&records), &identity()).durable().count(), 1, "and a mark in the new file gives it back");
}

#[test]
fn what_is_gone_is_not_believed() {
    let bytes =
        write(&[Record::Session { inode: 7 }, landed(0, 1), Record::Synced { through: 2 }, Record::Gone { extent: 0 }]);
    let replay = replay(&bytes, &identity());
    assert_eq!(replay.durable().count() + replay.doubtful().count(), 0);
}

#[test]
fn impossible_records_end_the_journal() {
    let session = Record::Session { inode: 7 };
    for wrong in [landed(EXTENTS, 1), Record::Gone { extent: u64::MAX }, Record::Synced { through: 2 }] {
        assert_eq!(replay(&write(&[session, wrong]), &identity()).valid_bytes, 2 * RECORD_BYTES as u64, "{wrong:?}");
    }
    assert_eq!(replay(&write(&[landed(0, 1)]), &identity()).valid_bytes, RECORD_BYTES as u64, "no session");
}

#[test]
fn a_journal_is_of_one_version_of_one_object() {
    let bytes = write(&[Record::Session { inode: 7 }, landed(0, 1)]);
    let renamed = Object { name: "other".into(), ..object() };
    let longer = Object { bytes: object().bytes + 1, ..object() };
    let newer = Object { tag: Tag { etag: Some("\"b\"".into()), ..Tag::default() }, ..object() };
    for other in [renamed, longer, newer] {
        assert_eq!(replay(&bytes, &Identity::of(&other)).valid_bytes, 0, "{other:?}");
    }
    let touched = Object { tag: Tag { modified: Some("later".into()), ..object().tag }, ..object() };
    assert_ne!(replay(&bytes, &Identity::of(&touched)).valid_bytes, 0, "an ETag outweighs a time");
}
