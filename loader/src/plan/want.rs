//! Which bytes of which file are wanted, in execution order, and which extents hold them.

use std::collections::HashMap;
use std::ops::Range;

use crate::header::TensorInfo;
use wire::EXTENT_BYTES;

use super::{PlanError, PlanFile, Slice, Slices};

/// The wanted parts of one tensor.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) file: usize,
    /// Ranges of the file that hold the slice, ascending. Gaps between the pieces of a column slice
    /// are left out only where a whole extent fits into them.
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) wanted_bytes: u64,
}

/// All tensors in execution order, those that `order` does not name last.
pub(super) fn in_order<'a>(
    files: &[PlanFile<'a>],
    order: &[&str],
    slices: &Slices,
) -> Result<Vec<Wanted<'a>>, PlanError> {
    let mut rank: HashMap<&str, usize> = HashMap::with_capacity(order.len());
    for (position, &name) in order.iter().enumerate() {
        rank.entry(name).or_insert(position);
    }
    let mut all: Vec<(usize, usize, &'a TensorInfo)> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let ranked = |tensor: &TensorInfo| rank.get(tensor.name.as_str()).copied().unwrap_or(order.len());
        all.extend(file.header.tensors.iter().map(|tensor| (ranked(tensor), number, tensor)));
    }
    // Stable: what has no rank stays in file order.
    all.sort_by_key(|&(rank, ..)| rank);
    all.into_iter().map(|(_, file, tensor)| wanted(file, tensor, slices.of(&tensor.name))).collect()
}

fn wanted<'a>(file: usize, tensor: &'a TensorInfo, slice: &Slice) -> Result<Wanted<'a>, PlanError> {
    let (ranges, wanted_bytes) = match slice {
        Slice::Whole => (vec![tensor.range.clone()], tensor.range.end - tensor.range.start),
        Slice::Skip => (Vec::new(), 0),
        Slice::Rows(rows) => {
            let range = rows_of(tensor, slice, rows)?;
            let bytes = range.end - range.start;
            (vec![range], bytes)
        }
        Slice::Columns(columns) => columns_of(tensor, slice, columns)?,
    };
    let ranges = ranges.into_iter().filter(|range| !range.is_empty()).collect();
    Ok(Wanted { name: &tensor.name, file, ranges, wanted_bytes })
}

fn rows_of(tensor: &TensorInfo, slice: &Slice, rows: &Range<usize>) -> Result<Range<u64>, PlanError> {
    let Some((&count, inner)) = tensor.shape.split_first() else { return Err(misfit(tensor, slice)) };
    if rows.start > rows.end || rows.end > count {
        return Err(misfit(tensor, slice));
    }
    if rows.is_empty() {
        return Ok(tensor.range.start..tensor.range.start);
    }
    let row: usize = inner.iter().product();
    let at = |number: usize| Ok(tensor.range.start + whole_blocks(tensor, slice, row * number)?);
    Ok(at(rows.start)?..at(rows.end)?)
}

/// A piece of every row. The header's parser has seen to it that sizes do not overflow.
fn columns_of(tensor: &TensorInfo, slice: &Slice, columns: &Range<usize>) -> Result<(Vec<Range<u64>>, u64), PlanError> {
    let Some((&width, outer)) = tensor.shape.split_last() else { return Err(misfit(tensor, slice)) };
    if columns.start > columns.end || columns.end > width {
        return Err(misfit(tensor, slice));
    }
    let row_count: u64 = outer.iter().map(|&dimension| dimension as u64).product();
    if row_count == 0 || columns.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let row = whole_blocks(tensor, slice, width)?;
    let before = whole_blocks(tensor, slice, columns.start)?;
    let begin = tensor.range.start + before;
    let piece = whole_blocks(tensor, slice, columns.end)? - before;
    if row - piece < EXTENT_BYTES {
        // No extent fits into a gap, so all of them are touched.
        let span = begin..begin + row * (row_count - 1) + piece;
        return Ok((Vec::from([span]), piece * row_count));
    }
    let pieces = (0..row_count).map(|number| begin + row * number).map(|at| at..at + piece).collect();
    Ok((pieces, piece * row_count))
}

/// The bytes of so many numbers, which must be whole blocks.
fn whole_blocks(tensor: &TensorInfo, slice: &Slice, numbers: usize) -> Result<u64, PlanError> {
    tensor.format.row_bytes(numbers).ok_or_else(|| PlanError::CutBlock {
        tensor: tensor.name.clone(),
        format: tensor.format,
        slice: slice.clone(),
    })
}

fn misfit(tensor: &TensorInfo, slice: &Slice) -> PlanError {
    PlanError::Slice { tensor: tensor.name.clone(), shape: tensor.shape.clone(), slice: slice.clone() }
}

/// The extents that hold a range of bytes.
pub(super) fn extents(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / EXTENT_BYTES..range.end.div_ceil(EXTENT_BYTES) }
}

/// An extent that somebody wants and nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) file: usize,
    pub(super) extent: u64,
    pub(super) first_tensor: usize,
}

#[derive(Clone, Copy)]
enum State {
    Unwanted,
    Had,
    /// Wanted; its place in the list.
    Wanted(usize),
}

/// The extents wanted so far, each once, the first wanted first.
pub(super) struct Wants<'a> {
    list: Vec<Want>,
    /// Per file and extent.
    states: Vec<Vec<State>>,
    file_bytes: Vec<u64>,
    touched_bytes: u64,
    have: &'a dyn Fn(usize, u64) -> bool,
}

impl<'a> Wants<'a> {
    pub(super) fn new(file_bytes: impl Iterator<Item = u64>, have: &'a dyn Fn(usize, u64) -> bool) -> Self {
        let file_bytes: Vec<u64> = file_bytes.collect();
        let count = |bytes: &u64| usize::try_from(bytes.div_ceil(EXTENT_BYTES)).expect("a file fits the address space");
        let states = file_bytes.iter().map(|bytes| vec![State::Unwanted; count(bytes)]).collect();
        Self { list: Vec::new(), states, file_bytes, touched_bytes: 0, have }
    }

    /// Wants these bytes on behalf of the tensor at `position`.
    pub(super) fn bytes(&mut self, file: usize, range: Range<u64>, position: usize) {
        for extent in extents(&range) {
            let state = &mut self.states[file][slot(extent)];
            if !matches!(state, State::Unwanted) {
                continue;
            }
            self.touched_bytes += EXTENT_BYTES.min(self.file_bytes[file] - extent * EXTENT_BYTES);
            if (self.have)(file, extent) {
                *state = State::Had;
                continue;
            }
            *state = State::Wanted(self.list.len());
            self.list.push(Want { file, extent, first_tensor: position });
        }
    }

    pub(super) fn list(&self) -> &[Want] {
        &self.list
    }

    /// The place in the list of an extent that is wanted and not had.
    pub(super) fn place(&self, file: usize, extent: u64) -> Option<usize> {
        match self.states[file].get(slot(extent)) {
            Some(&State::Wanted(place)) => Some(place),
            _ => None,
        }
    }

    /// The number of extents of each file.
    pub(super) fn extent_counts(&self) -> impl Iterator<Item = usize> {
        self.states.iter().map(Vec::len)
    }

    pub(super) fn touched_bytes(&self) -> u64 {
        self.touched_bytes
    }
}

/// An extent's place in a table.
pub(super) fn slot(extent: u64) -> usize {
    usize::try_from(extent).expect("a file fits the address space")
}
