//! The plan of a load: a pure function from headers, the model's execution order and
//! this rank's slices to ranged reads of whole extents.
//!
//! Files hold tensors sorted by type and name (`layers.10` before `layers.2`); kernels want them
//! in execution order. The plan asks for extents as the kernels will want them, merges neighbours
//! that are wanted at about the same time, and never asks for an extent twice. It knows no source,
//! no network and no clock.

#![warn(clippy::disallowed_methods)]

mod cut;
mod print;
mod want;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;
use thiserror::Error;

use crate::header::Header;
use tensor::Format;
use wire::EXTENT_BYTES;

/// The bytes that one fetch asks for by default: large enough that a request's round trip is
/// small beside its body, small enough that a retry or a slow connection holds up little.
pub const FETCH_BYTES: u64 = 2 * EXTENT_BYTES;

/// The largest fetch. Azure and S3 both advise ranges of 8 to 16 MiB.
pub const FETCH_BYTES_MAX: u64 = 4 * EXTENT_BYTES;

/// The distance in execution order that a fetch may reach ahead to grow: about what is in flight at once
/// anyway, so that merging delays nobody by more than the fetches already under way.
pub const TOGETHER_BYTES: u64 = 8 * EXTENT_BYTES;

/// One shard file to plan for.
#[derive(Debug, Clone, Copy)]
pub struct PlanFile<'a> {
    /// The object's name.
    pub name: &'a str,
    /// Its size.
    pub bytes: u64,
    /// Its checked header.
    pub header: &'a Header,
}

/// Which part of a tensor this rank needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    #[default]
    Whole,
    /// These indices of the outermost dimension.
    Rows(Range<usize>),
    /// These indices of the innermost dimension: a piece of every row.
    Columns(Range<usize>),
    /// Nothing of it.
    Skip,
}

/// The slices of all tensors.
#[derive(Debug, Clone, Default)]
pub struct Slices {
    /// By tensor name.
    pub by_name: HashMap<String, Slice>,
    /// For tensors not named.
    pub otherwise: Slice,
}

impl Slices {
    fn of(&self, tensor: &str) -> &Slice {
        self.by_name.get(tensor).unwrap_or(&self.otherwise)
    }
}

/// Options of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// The most one fetch asks for, [`EXTENT_BYTES`] to [`FETCH_BYTES_MAX`]; rounded down to extents.
    pub fetch_bytes: u64,
    /// The distance in execution order that a fetch may reach ahead to grow.
    pub together_bytes: u64,
    /// Fetch every byte of every file, what no slice wants last: the cache's file is complete then.
    pub every_byte: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { fetch_bytes: FETCH_BYTES, together_bytes: TOGETHER_BYTES, every_byte: false }
    }
}

/// One ranged read of whole extents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fetch {
    /// Which of the plan's files.
    pub file: usize,
    /// Which extents of it.
    pub extents: Range<u64>,
    /// The position in execution order of the tensor that wants it first; 0 for a header's
    /// extents, the number of tensors for what no tensor wants.
    pub first_tensor: usize,
}

impl Fetch {
    /// The bytes of the object that the fetch reads; `file_bytes` is the object's size.
    #[must_use]
    pub fn range(&self, file_bytes: u64) -> Range<u64> {
        self.extents.start * EXTENT_BYTES..(self.extents.end * EXTENT_BYTES).min(file_bytes)
    }
}

/// A file as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedFile {
    /// The object's name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A tensor as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Which of the plan's files holds it.
    pub file: usize,
    /// The number of its bytes that the slice wants.
    pub wanted_bytes: u64,
    /// After how many of the plan's fetches all that is wanted of it has come.
    pub ready_after: usize,
}

/// A plan of fetches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The files, as given.
    pub files: Vec<PlannedFile>,
    /// The tensors in execution order.
    pub tensors: Vec<PlannedTensor>,
    /// The reads, most urgent first.
    pub fetches: Vec<Fetch>,
    /// Bytes that are wanted: slices and headers; all bytes where every byte is.
    pub wanted_bytes: u64,
    /// Bytes of all extents that hold something wanted, already had or not.
    pub touched_bytes: u64,
    /// Bytes that the fetches read.
    pub fetched_bytes: u64,
    #[serde(skip)]
    by_name: BTreeMap<String, usize>,
}

impl Plan {
    /// Bytes of touched extents over wanted bytes, at least 1: what whole extents cost where
    /// slices end inside them. 1 where nothing is wanted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    pub fn amplification(&self) -> f64 {
        if self.wanted_bytes == 0 { 1.0 } else { self.touched_bytes as f64 / self.wanted_bytes as f64 }
    }

    /// After how many of the plan's fetches the named tensor is complete: 0 where all was had.
    #[must_use]
    pub fn ready_after(&self, tensor: &str) -> Option<usize> {
        self.by_name.get(tensor).map(|&position| self.tensors[position].ready_after)
    }
}

/// Errors of a plan.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A slice is not within its tensor.
    #[error("planning `{tensor}` of shape {shape:?}: {slice:?} is not within it")]
    Slice {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The slice.
        slice: Slice,
    },
    /// A slice begins or ends within a block of numbers.
    #[error("planning `{tensor}` stored as {format}: {slice:?} cuts a block of {} numbers", .format.block().numbers)]
    CutBlock {
        /// The tensor.
        tensor: String,
        /// How its numbers lie.
        format: Format,
        /// The slice.
        slice: Slice,
    },
}

/// Plans the fetches for `files`.
///
/// `order` names tensors in execution order; names that no file has are passed over, tensors not
/// named come last, in file order. `have` says which extents of which file (by its position) need
/// not be fetched.
///
/// # Errors
/// A slice that does not fit its tensor, see [`PlanError`].
pub fn make(
    files: &[PlanFile<'_>],
    order: &[&str],
    slices: &Slices,
    have: &dyn Fn(usize, u64) -> bool,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    let tensors = want::in_order(files, order, slices)?;
    let mut wants = want::Wants::new(files.iter().map(|file| file.bytes), have);
    for (number, file) in files.iter().enumerate() {
        // Nothing may be used before its file's header is verified.
        wants.bytes(number, 0..file.header.data_start, 0);
    }
    for (position, tensor) in tensors.iter().enumerate() {
        for range in &tensor.ranges {
            wants.bytes(tensor.file, range.clone(), position);
        }
    }
    if options.every_byte {
        for (number, file) in files.iter().enumerate() {
            wants.bytes(number, 0..file.bytes, tensors.len());
        }
    }
    let cut = cut::into_fetches(&wants, options);
    let headers: u64 = files.iter().map(|file| file.header.data_start).sum();
    let wanted_bytes = if options.every_byte {
        files.iter().map(|file| file.bytes).sum()
    } else {
        headers + tensors.iter().map(|tensor| tensor.wanted_bytes).sum::<u64>()
    };
    let fetched_bytes =
        cut.fetches.iter().map(|fetch| fetch.range(files[fetch.file].bytes)).map(|r| r.end - r.start).sum();
    let tensors: Vec<PlannedTensor> = tensors.iter().map(|tensor| planned(tensor, files, &cut)).collect();
    Ok(Plan {
        files: files.iter().map(|file| PlannedFile { name: file.name.to_owned(), bytes: file.bytes }).collect(),
        by_name: tensors.iter().enumerate().rev().map(|(position, tensor)| (tensor.name.clone(), position)).collect(),
        tensors,
        fetches: cut.fetches,
        wanted_bytes,
        touched_bytes: wants.touched_bytes(),
        fetched_bytes,
    })
}

fn planned(tensor: &want::Wanted<'_>, files: &[PlanFile<'_>], cut: &cut::Cut) -> PlannedTensor {
    let header = 0..files[tensor.file].header.data_start;
    let ready_after = tensor
        .ranges
        .iter()
        .chain(std::iter::once(&header))
        .map(|range| cut.last_fetch(tensor.file, &want::extents(range)))
        .max()
        .unwrap_or(0);
    PlannedTensor { name: tensor.name.to_owned(), file: tensor.file, wanted_bytes: tensor.wanted_bytes, ready_after }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure")]
mod tests;
