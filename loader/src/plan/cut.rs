//! Cuts the wanted extents into fetches.
//!
//! A fetch begins at the most urgent extent that no fetch has yet and grows forward only, over
//! neighbours wanted soon after: so the first thing each fetch brings is the most urgent one left,
//! and no extent is overtaken by more than [`PlanOptions::together_bytes`].

use std::ops::Range;

use wire::EXTENT_BYTES;

use super::want::{Wants, slot};
use super::{FETCH_BYTES_MAX, Fetch, PlanOptions};

/// The fetches, and which of them brings what.
pub(super) struct Cut {
    pub(super) fetches: Vec<Fetch>,
    /// Per file and extent: one more than the fetch's number; 0 where no fetch brings it.
    brought_by: Vec<Vec<usize>>,
}

impl Cut {
    /// After how many fetches these extents have come.
    pub(super) fn last_fetch(&self, file: usize, extents: &Range<u64>) -> usize {
        self.brought_by[file][slot(extents.start)..slot(extents.end)].iter().copied().max().unwrap_or(0)
    }
}

pub(super) fn into_fetches(wants: &Wants<'_>, options: &PlanOptions) -> Cut {
    let length_max = options.fetch_bytes.clamp(EXTENT_BYTES, FETCH_BYTES_MAX) / EXTENT_BYTES;
    let reach = slot(options.together_bytes / EXTENT_BYTES);
    let mut cut = Cut { fetches: Vec::new(), brought_by: wants.extent_counts().map(|count| vec![0; count]).collect() };
    for (place, want) in wants.list().iter().enumerate() {
        let taken = &mut cut.brought_by[want.file];
        if taken[slot(want.extent)] != 0 {
            continue;
        }
        let joins = |extent: u64, taken: &[usize]| {
            wants.place(want.file, extent).is_some_and(|other| other <= place + reach) && taken[slot(extent)] == 0
        };
        let mut end = want.extent + 1;
        while end - want.extent < length_max && joins(end, taken) {
            end += 1;
        }
        taken[slot(want.extent)..slot(end)].fill(cut.fetches.len() + 1);
        cut.fetches.push(Fetch { file: want.file, extents: want.extent..end, first_tensor: want.first_tensor });
    }
    cut
}
