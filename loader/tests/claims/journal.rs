//! Claims about any bytes that pretend to be a cached file's journal. Searched here by proptest
//! and, with coverage, by the fuzz target: one list of claims for both.

use loader::cache::journal::{self, Encoder, Identity, RECORD_BYTES, Record, Replay};
use loader::{Object, Tag};
use wire::EXTENT_BYTES;

const EXTENTS: u64 = 5;

/// `script` writes a journal and damages it; `damage` says where, and with what.
///
/// The damaged journal says exactly what its undamaged beginning says, and what is appended where
/// it ends is read again.
pub(crate) fn check(script: &[u8], damage: &[u8]) {
    let object = Object {
        name: "model.safetensors".into(),
        bytes: EXTENTS * EXTENT_BYTES - 1,
        tag: Tag { etag: Some("\"1\"".into()), ..Tag::default() },
        checksum: None,
    };
    let identity = Identity::of(&object);
    nothing_of_a_stranger(damage, &identity);
    let good = write(script, &identity);
    let bad = spoil(&good, damage);
    let same = good.chunks(RECORD_BYTES).zip(bad.chunks(RECORD_BYTES)).take_while(|(a, b)| a == b).count();
    let (expected, found) = (replay(&good[..same * RECORD_BYTES], &identity), replay(&bad, &identity));
    assert_eq!(found.valid_bytes, (same * RECORD_BYTES) as u64);
    assert_eq!(believed(&found), believed(&expected));
    goes_on(&bad, found, &identity);
}

fn replay(bytes: &[u8], identity: &Identity) -> Replay {
    journal::replay(bytes, identity)
}

fn nothing_of_a_stranger(bytes: &[u8], identity: &Identity) {
    let (header, _) = Encoder::begin(identity);
    let found = replay(bytes, identity);
    if !bytes.starts_with(&header) {
        assert_eq!((found.valid_bytes, believed(&found)), (0, Vec::new()));
    }
}

fn write(script: &[u8], identity: &Identity) -> Vec<u8> {
    let (header, mut encoder) = Encoder::begin(identity);
    let mut bytes = header.to_vec();
    bytes.extend(encoder.encode(&Record::Session { inode: 1 }));
    for step in script {
        let extent = u64::from(step >> 3) % EXTENTS;
        let record = match step % 8 {
            0 => Record::Session { inode: u64::from(step >> 7) },
            1 => Record::Gone { extent },
            2 | 3 => Record::Synced { through: encoder.records().saturating_sub(extent) },
            _ => Record::Landed { extent, digest: blake3::hash(&[*step]) },
        };
        bytes.extend(encoder.encode(&record));
    }
    bytes
}

/// Cuts, flips, repeats or appends, as the bytes say.
fn spoil(good: &[u8], damage: &[u8]) -> Vec<u8> {
    let mut bad = good.to_vec();
    for step in damage.chunks_exact(4) {
        let place = usize::from(u16::from_le_bytes([step[1], step[2]]));
        match step[0] % 4 {
            0 => bad.truncate(place),
            1 if !bad.is_empty() => {
                let place = place % bad.len();
                bad[place] ^= step[3];
            }
            2 => bad.extend_from_within(bad.len().saturating_sub(usize::from(step[3]))..),
            _ => bad.push(step[3]),
        }
    }
    bad
}

fn goes_on(bad: &[u8], found: Replay, identity: &Identity) {
    let before = believed(&found);
    let Some(mut encoder) = found.encoder else { return };
    let mut journal = bad[..found.valid_bytes as usize].to_vec();
    journal.extend(encoder.encode(&Record::Session { inode: found.inode.unwrap_or(1) }));
    let again = replay(&journal, identity);
    assert_eq!(again.valid_bytes, journal.len() as u64);
    assert_eq!(believed(&again), before);
}

type Believed = Vec<(u64, blake3::Hash, bool)>;

fn believed(replay: &Replay) -> Believed {
    let durable = replay.durable().map(|(extent, digest)| (extent, digest, true));
    durable.chain(replay.doubtful().map(|(extent, digest)| (extent, digest, false))).collect()
}
