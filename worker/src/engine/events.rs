//! Changes of the prefix cache, kept in a ring for readers that want to know which worker holds which prefix.

use super::blocks::Change;
use super::prefix::{BlockName, Identity};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Changes that are kept. A cache of 64 k tokens has 4096 blocks, so that a reader may miss about one whole
/// turnover of it before it must begin anew; 8192 changes take some 0.8 MB.
const CHANGES_MAX: usize = 8192;

/// A change of the prefix cache, by published names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvChange {
    /// A full block can be shared from now on.
    Stored {
        /// Its name.
        block: BlockName,
        /// The name of the one before; none for the first of a sequence.
        parent: Option<BlockName>,
    },
    /// It cannot any more.
    Removed {
        /// Its name.
        block: BlockName,
    },
}

impl KvChange {
    /// A change among the blocks of weights of this identity.
    pub(super) fn of(change: Change, weights: &Identity) -> Self {
        match change {
            Change::Stored(named) => Self::Stored {
                block: named.key.prefix.name(weights),
                parent: named.parent.map(|parent| parent.name(weights)),
            },
            Change::Removed(key) => Self::Removed { block: key.prefix.name(weights) },
        }
    }
}

/// The latest changes, numbered from 0.
#[derive(Debug, Default)]
pub(super) struct KvChanges {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<KvChange>,
    /// The number of the first one kept.
    first: u64,
}

/// Some of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvChangesRead {
    /// The number of the first change here. Where it is above the one asked for, those between were forgotten, and
    /// who follows must take the cache for empty and begin anew.
    pub first: u64,
    /// The changes, in order.
    pub changes: Vec<KvChange>,
}

impl KvChanges {
    /// Adds changes; the oldest are forgotten beyond [`CHANGES_MAX`].
    /// Returns how many are kept; none where nothing was added.
    pub(super) fn extend(&self, changes: impl Iterator<Item = KvChange>) -> Option<usize> {
        let mut changes = changes.peekable();
        changes.peek()?;
        let mut ring = self.ring.lock();
        for change in changes {
            if ring.changes.len() == CHANGES_MAX {
                ring.changes.pop_front();
                ring.first += 1;
            }
            ring.changes.push_back(change);
        }
        Some(ring.changes.len())
    }

    /// At most `most` changes from number `from` on.
    pub(super) fn read(&self, from: u64, most: usize) -> KvChangesRead {
        let ring = self.ring.lock();
        let first = from.clamp(ring.first, ring.first + ring.changes.len() as u64);
        let skip = usize::try_from(first - ring.first).unwrap_or(usize::MAX);
        KvChangesRead { first, changes: ring.changes.iter().skip(skip).take(most).copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefix::{CacheSalt, Prefix};
    use super::*;

    #[test]
    fn who_missed_changes_is_told() {
        let change = KvChange::Removed { block: Prefix::root(&CacheSalt::default()).name(&Identity::private([0; 32])) };
        let changes = KvChanges::default();
        assert_eq!(changes.extend(std::iter::empty()), None);
        assert_eq!(changes.extend(vec![change; CHANGES_MAX].into_iter()), Some(CHANGES_MAX));
        assert_eq!(changes.read(3, 2), KvChangesRead { first: 3, changes: vec![change; 2] });
        assert_eq!(changes.extend(vec![change; 5].into_iter()), Some(CHANGES_MAX), "it is bounded");
        assert_eq!(changes.read(3, 1).first, 5, "0 to 4 are gone");
        let end = CHANGES_MAX as u64 + 5;
        assert_eq!(changes.read(end, 9), KvChangesRead { first: end, changes: vec![] });
        assert_eq!(changes.read(u64::MAX, 9).first, end, "a reader of an earlier life begins where we are");
    }
}
