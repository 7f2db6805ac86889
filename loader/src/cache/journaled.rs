//! One file of a load, with its journal: what is there, what landed, what is durable.
//!
//! It knows its bytes and their digests, not who writes them: that happens through a mapping.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blake3::Hash;
use parking_lot::Mutex;

use super::disk;
use super::error::CacheError;
use super::journal::{self, Encoder, Identity, RECORD_BYTES, Record, Replay};
use super::layout;
use crate::source::Object;

/// A file being filled, and its journal.
#[derive(Debug)]
pub(super) struct Journaled {
    path: PathBuf,
    journal_path: PathBuf,
    /// The directory above all that was created for it.
    top: PathBuf,
    bytes: u64,
    data: File,
    journal: File,
    found: Vec<(u64, Hash)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None once a record could not be written: nothing behind a torn record would be read.
    encoder: Option<Encoder>,
    landed: BTreeMap<u64, Hash>,
    /// True if something landed that no mark covers.
    is_dirty: bool,
    names_are_durable: bool,
    /// The error after which the data's durability is unknown for good.
    lost: Option<String>,
}

impl Journaled {
    /// Opens or creates the file of `object` in a load's directory, all blocks allocated, and
    /// finds out which of its extents are there. Blocks; hashes what is in doubt.
    pub(super) fn open(directory: &Path, object: &Object) -> Result<Self, CacheError> {
        let path = layout::file(directory, &object.name)?;
        let journal_path = layout::journal(directory, &object.name);
        for path in [&path, &journal_path] {
            disk::create_directory(path.parent().unwrap_or(directory))?;
        }
        disk::part_from_others(&path)?;
        let data = disk::open_allocated(&path, object.bytes).map_err(CacheError::io("allocating", &path))?;
        let inode = data.metadata().map_err(CacheError::io("looking at", &path))?.ino();
        let identity = Identity::of(object);
        let (journal, replay) = open_journal(&journal_path, &identity)?;
        let (landed, gone) = sift(&data, object.bytes, inode, &replay);
        let mut records = vec![Record::Session { inode }];
        records.extend(gone.into_iter().map(|extent| Record::Gone { extent }));
        let encoder = go_on(&journal, &identity, replay, &records).map_err(CacheError::io("writing", &journal_path))?;
        // What was found unsynced becomes durable with the next mark, so it is dirty now.
        let is_dirty = !landed.is_empty();
        let found = landed.iter().map(|(extent, digest)| (*extent, *digest)).collect();
        let top = directory.parent().unwrap_or(directory).to_owned();
        let state = State { encoder: Some(encoder), landed, is_dirty, names_are_durable: false, lost: None };
        Ok(Self { path, journal_path, top, bytes: object.bytes, data, journal, found, state: Mutex::new(state) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn data(&self) -> &File {
        &self.data
    }

    /// The extents that were there when it was opened, in order.
    pub(super) fn found(&self) -> &[(u64, Hash)] {
        &self.found
    }

    /// The digest of each extent that is there.
    pub(super) fn landed(&self) -> BTreeMap<u64, Hash> {
        self.state.lock().landed.clone()
    }

    /// Notes that an extent's bytes are in the file's pages.
    pub(super) fn note(&self, extent: u64, digest: Hash) -> Result<(), CacheError> {
        let mut state = self.state.lock();
        state.landed.insert(extent, digest);
        state.is_dirty = true;
        self.append(&mut state, &Record::Landed { extent, digest })
    }

    /// Makes all that landed so far durable, and then says so in the journal.
    pub(super) fn sync(&self) -> Result<(), CacheError> {
        self.sync_names()?;
        let through = {
            let mut state = self.state.lock();
            if let Some(problem) = &state.lost {
                return Err(CacheError::NotDurable { path: self.path.clone(), problem: problem.clone() });
            }
            if !std::mem::take(&mut state.is_dirty) {
                return Ok(());
            }
            state.encoder.as_ref().map(Encoder::records)
        };
        if let Err(source) = self.data.sync_data() {
            // The kernel forgets which pages it could not write: a later success would mean
            // nothing, so this file gets no mark any more.
            self.state.lock().lost = Some(source.to_string());
            return Err(CacheError::io("making durable", &self.path)(source));
        }
        if let Some(through) = through {
            self.append(&mut self.state.lock(), &Record::Synced { through })?;
            self.journal.sync_data().map_err(CacheError::io("making durable", &self.journal_path))?;
        }
        Ok(())
    }

    fn append(&self, state: &mut State, record: &Record) -> Result<(), CacheError> {
        let Some(encoder) = &mut state.encoder else { return Ok(()) };
        let bytes = encoder.encode(record);
        (&self.journal).write_all(&bytes).map_err(|source| {
            state.encoder = None;
            CacheError::io("writing", &self.journal_path)(source)
        })
    }

    /// Once: a durable file without a durable name is lost all the same.
    fn sync_names(&self) -> Result<(), CacheError> {
        if self.state.lock().names_are_durable {
            return Ok(());
        }
        for path in [&self.path, &self.journal_path] {
            for directory in path.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.top)) {
                disk::sync_directory(directory)?;
            }
        }
        self.state.lock().names_are_durable = true;
        Ok(())
    }
}

/// Notes in a closed file's journal that extents were found wrong, durably. Without a journal
/// there is nothing to believe, and nothing to note.
pub(super) fn condemn(directory: &Path, object: &Object, extents: &[u64]) -> Result<(), CacheError> {
    let path = layout::journal(directory, &object.name);
    if !path.exists() {
        return Ok(());
    }
    let identity = Identity::of(object);
    let (journal, replay) = open_journal(&path, &identity)?;
    if replay.inode.is_none() {
        return Ok(());
    }
    let records: Vec<Record> = extents.iter().map(|extent| Record::Gone { extent: *extent }).collect();
    go_on(&journal, &identity, replay, &records)
        .and_then(|_| journal.sync_all())
        .map_err(CacheError::io("writing", &path))
}

fn open_journal(path: &Path, identity: &Identity) -> Result<(File, Replay), CacheError> {
    let read = || {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let bytes = disk::read_bounded_file(&file, journal::bytes_max(identity))?;
        Ok((file, journal::replay(&bytes, identity)))
    };
    read().map_err(CacheError::io("reading", path))
}

/// Which extents to believe, and which of the journal's are wrong.
fn sift(data: &File, bytes: u64, inode: u64, replay: &Replay) -> (BTreeMap<u64, Hash>, Vec<u64>) {
    let is_same = replay.inode == Some(inode);
    let (durable, doubtful) = (replay.durable(), replay.doubtful());
    let mut landed: BTreeMap<u64, Hash> = if is_same { replay.durable().collect() } else { BTreeMap::new() };
    let again = durable.filter(|_| !is_same).chain(doubtful);
    let mut gone = Vec::new();
    let mut buffer = Vec::new();
    for (extent, digest) in again {
        if disk::holds(data, bytes, extent, &digest, &mut buffer) {
            landed.insert(extent, digest);
        } else {
            gone.push(extent);
        }
    }
    (landed, gone)
}

/// Cuts off what is bad of a journal and appends records to the rest.
fn go_on(journal: &File, identity: &Identity, replay: Replay, records: &[Record]) -> std::io::Result<Encoder> {
    journal.set_len(replay.valid_bytes)?;
    let mut bytes = Vec::new();
    let mut encoder = match replay.encoder {
        Some(encoder) => encoder,
        None => {
            let (header, encoder) = Encoder::begin(identity);
            bytes.extend(header);
            encoder
        }
    };
    records.iter().for_each(|record| bytes.extend(encoder.encode(record)));
    // Room for every extent and a mark for each, so that a full disk does not end the journal.
    disk::reserve(journal, replay.valid_bytes + bytes.len() as u64 + 2 * identity.extents() * RECORD_BYTES as u64);
    (&*journal).write_all(&bytes)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests;
