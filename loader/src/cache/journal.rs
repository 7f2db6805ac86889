//! The journal of one cached file: which of its extents are there, and which survive a power cut.
//!
//! A journal is a header and records of 64 bytes each, only ever appended. Every record carries a
//! check over everything before it, so a torn, repeated or reordered tail ends the journal instead
//! of being believed. [`Record::Landed`] is written after an extent's bytes are in the file's
//! pages; [`Record::Synced`] after the data of the records it covers was made durable.
//! docs/cache.md gives the layout. This file is the format alone: it opens nothing.

use std::collections::BTreeMap;

use blake3::{Hash, Hasher};
use wire::extent;

use crate::source::Object;

/// The length of the header and of every record.
pub const RECORD_BYTES: usize = 64;

/// A journal's first bytes; the last one is the version.
const MAGIC: [u8; 8] = *b"FBJRNAL\x01";
/// The bytes of a record that its check covers, besides all that came before.
const BODY_BYTES: usize = 48;
const SESSION: u8 = 1;
const LANDED: u8 = 2;
const SYNCED: u8 = 3;
const GONE: u8 = 4;

/// The subject of a journal: one version of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    digest: [u8; 32],
    extents: u64,
}

impl Identity {
    /// Of the object as it was first seen: name, size and tag.
    #[must_use]
    pub fn of(object: &Object) -> Self {
        let mut hasher = Hasher::new_derive_key("forebay cache journal identity v1");
        hash_object(&mut hasher, object);
        Self { digest: *hasher.finalize().as_bytes(), extents: extent::count(object.bytes) }
    }

    /// The number of the object's extents.
    #[must_use]
    pub const fn extents(&self) -> u64 {
        self.extents
    }
}

/// Adds all that pins an object to a digest. The modification time counts only where there is
/// nothing better, as some stores change it without changing the object.
pub(super) fn hash_object(hasher: &mut Hasher, object: &Object) {
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let tag = &object.tag;
    let weak = if tag.etag.is_none() && tag.version.is_none() { tag.modified.as_deref() } else { None };
    field(object.name.as_bytes());
    field(&object.bytes.to_le_bytes());
    for part in [tag.etag.as_deref(), tag.version.as_deref(), weak] {
        field(&[u8::from(part.is_some())]);
        field(part.unwrap_or_default().as_bytes());
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A process opened the file; it was this one.
    Session {
        /// The data file's inode: another one means another file, of which nothing is known.
        inode: u64,
    },
    /// An extent's bytes are in the file's pages.
    Landed {
        /// Its number.
        extent: u64,
        /// BLAKE3 of its bytes.
        digest: Hash,
    },
    /// The data of the first `through` records was made durable.
    Synced {
        /// The number of records it covers, the journal's header not counted.
        through: u64,
    },
    /// An extent was found wrong.
    Gone {
        /// Its number.
        extent: u64,
    },
}

/// Writes records: it knows the check of all that was written before.
#[derive(Debug, Clone)]
pub struct Encoder {
    chain: Hash,
    records: u64,
}

impl Encoder {
    /// The beginning of a journal: its header, and what encodes the records behind it.
    #[must_use]
    pub fn begin(identity: &Identity) -> ([u8; RECORD_BYTES], Self) {
        let mut body = [0; BODY_BYTES];
        body[..8].copy_from_slice(&MAGIC);
        body[8..40].copy_from_slice(&identity.digest);
        body[40..].copy_from_slice(&identity.extents.to_le_bytes());
        let chain = blake3::hash(&body);
        (seal(&body, &chain), Self { chain, records: 0 })
    }

    /// The bytes of the next record.
    pub fn encode(&mut self, record: &Record) -> [u8; RECORD_BYTES] {
        let (kind, number) = match *record {
            Record::Session { inode } => (SESSION, inode),
            Record::Landed { extent, .. } => (LANDED, extent),
            Record::Synced { through } => (SYNCED, through),
            Record::Gone { extent } => (GONE, extent),
        };
        let mut body = [0; BODY_BYTES];
        body[0] = kind;
        body[8..16].copy_from_slice(&number.to_le_bytes());
        if let Record::Landed { digest, .. } = record {
            body[16..].copy_from_slice(digest.as_bytes());
        }
        self.chain = link(&self.chain, &body);
        self.records += 1;
        seal(&body, &self.chain)
    }

    /// The number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }
}

/// The contents of a journal.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The length of its good beginning; the rest is to be cut off before more is appended.
    pub valid_bytes: u64,
    /// Continues it; none if not even the header is good.
    pub encoder: Option<Encoder>,
    /// The inode of the data file in the last session.
    pub inode: Option<u64>,
    landed: BTreeMap<u64, (u64, Hash)>,
    through: u64,
}

impl Replay {
    /// Extents whose bytes are durable, with their digests: to be believed if the data file is
    /// still the one with [`Replay::inode`].
    pub fn durable(&self) -> impl Iterator<Item = (u64, Hash)> {
        self.landed
            .iter()
            .filter(|(_, (index, _))| *index < self.through)
            .map(|(extent, (_, digest))| (*extent, *digest))
    }

    /// Extents that landed and may have been lost with the power: to be hashed before they are
    /// believed.
    pub fn doubtful(&self) -> impl Iterator<Item = (u64, Hash)> {
        self.landed
            .iter()
            .filter(|(_, (index, _))| *index >= self.through)
            .map(|(extent, (_, digest))| (*extent, *digest))
    }

    fn apply(&mut self, index: u64, record: &Record) {
        match *record {
            Record::Session { inode } => {
                // What was durable was so in another file.
                if self.inode.is_some_and(|before| before != inode) {
                    self.through = 0;
                }
                self.inode = Some(inode);
            }
            Record::Landed { extent, digest } => {
                self.landed.insert(extent, (index, digest));
            }
            Record::Synced { through } => self.through = self.through.max(through),
            Record::Gone { extent } => {
                self.landed.remove(&extent);
            }
        }
    }
}

/// The longest journal that is read of an object: each extent landing eight times over, and some
/// thousand sessions.
#[must_use]
pub const fn bytes_max(identity: &Identity) -> u64 {
    (RECORD_BYTES as u64).saturating_mul(identity.extents.saturating_mul(16).saturating_add(4096))
}

/// Reads a journal up to its first bad record.
#[must_use]
pub fn replay(journal: &[u8], identity: &Identity) -> Replay {
    let mut replay = Replay { valid_bytes: 0, encoder: None, inode: None, landed: BTreeMap::new(), through: 0 };
    let (header, mut encoder) = Encoder::begin(identity);
    let Some(records) = journal.strip_prefix(&header) else { return replay };
    replay.valid_bytes = RECORD_BYTES as u64;
    let (records, _torn) = records.as_chunks::<RECORD_BYTES>();
    for bytes in records {
        let index = encoder.records;
        let mut next = encoder.clone();
        // Whatever encodes to other bytes than these is no record of ours: reserved bytes, check
        // and place in the chain are compared all at once.
        let Some(record) = decode(bytes).filter(|record| is_possible(record, index, identity)) else { break };
        if next.encode(&record) != *bytes {
            break;
        }
        replay.apply(index, &record);
        replay.valid_bytes += RECORD_BYTES as u64;
        encoder = next;
    }
    replay.encoder = Some(encoder);
    replay
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
    let number = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    let digest: [u8; 32] = bytes[16..BODY_BYTES].try_into().ok()?;
    match bytes[0] {
        SESSION => Some(Record::Session { inode: number }),
        LANDED => Some(Record::Landed { extent: number, digest: Hash::from_bytes(digest) }),
        SYNCED => Some(Record::Synced { through: number }),
        GONE => Some(Record::Gone { extent: number }),
        _ => None,
    }
}

fn is_possible(record: &Record, index: u64, identity: &Identity) -> bool {
    match *record {
        // The first record is a session's, or nobody knows whose data the others speak of.
        Record::Session { .. } => true,
        Record::Landed { extent, .. } | Record::Gone { extent } => index > 0 && extent < identity.extents,
        Record::Synced { through } => index > 0 && through <= index,
    }
}

fn link(chain: &Hash, body: &[u8; BODY_BYTES]) -> Hash {
    let mut hasher = Hasher::new_keyed(chain.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn seal(body: &[u8; BODY_BYTES], chain: &Hash) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..BODY_BYTES].copy_from_slice(body);
    record[BODY_BYTES..].copy_from_slice(&chain.as_bytes()[..RECORD_BYTES - BODY_BYTES]);
    record
}

#[cfg(test)]
mod tests;
