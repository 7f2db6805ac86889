//! Damage to a file's bytes on their way: some are others, and the end may be missing.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Damage to any file.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    edits: Vec<(Index, u8)>,
    cut: Option<Index>,
}

/// One to three bytes changed; every other file is cut off somewhere.
pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    (vec((any::<Index>(), any::<u8>()), 1..4), prop::option::of(any::<Index>()))
        .prop_map(|(edits, cut)| Damage { edits, cut })
}

impl Damage {
    /// The damaged rest of `bytes`, of which there is one at least.
    pub(crate) fn to(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (place, byte) in &self.edits {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}
