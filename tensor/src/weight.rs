//! Slots, which a model expects of its files, and the weights that it found there.

use std::ops::Range;

use crate::{Format, View};

/// A tensor that a model expects: all of a stored one, or some of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The name of the stored tensor.
    pub name: String,
    /// The shape the model computes with, outermost first.
    pub shape: Vec<usize>,
    /// Its rows in the stored tensor, where several slots share one.
    pub rows: Option<Rows>,
    /// True if a vector's numbers are stored less one, as some families store their norms.
    pub less_one: bool,
}

/// Consecutive rows of a stored matrix, or numbers of a stored vector, as of projections that a family stores as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first of them; the slot's shape says how many.
    pub first: usize,
    /// Number of rows of the stored tensor.
    pub of: usize,
}

impl Slot {
    /// All of the tensor `name`.
    #[must_use]
    pub fn new(name: &str, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), rows: None, less_one: false }
    }

    /// Rows of the tensor `name`, which has `rows.of`.
    #[must_use]
    pub fn rows(name: &str, shape: &[usize], rows: Rows) -> Self {
        Self { rows: Some(rows), ..Self::new(name, shape) }
    }

    /// Number of its elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of the stored tensor.
    #[must_use]
    pub fn stored_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let (Some(outermost), Some(rows)) = (shape.first_mut(), self.rows) {
            *outermost = rows.of;
        }
        shape
    }
}

/// The reading of a weight's numbers, beyond the format of the tensor they are in.
///
/// Scales and zero points of FP8, MXFP4, AWQ and GPTQ are tensors of their own; a variant that holds their views
/// comes with the interpreters that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// The tensor has everything: plain numbers, or GGML's blocks.
    Plain,
}

/// The numbers that fill a slot: those of a stored tensor, and how to read them.
#[derive(Debug, Clone)]
pub struct Weight {
    slot: Slot,
    numbers: View,
    packing: Packing,
    /// Where the slot's bytes are in the view.
    range: Range<usize>,
}

impl Weight {
    /// Fills `slot` with `numbers`; `None` where shapes do not fit, or rows are no whole blocks.
    #[must_use]
    pub fn new(slot: &Slot, numbers: View) -> Option<Self> {
        let (stored, expected) = (numbers.shape(), slot.stored_shape());
        // Rows may be of a stack of matrices: they lie as those of one.
        let is_stack = slot.rows.is_some() && stored.len() == 3 && expected.len() == 2;
        let is_stacked = is_stack && stored[0].checked_mul(stored[1]) == Some(expected[0]) && stored[2] == expected[1];
        if stored != expected && !is_stacked {
            return None;
        }
        // A part of a vector is rows of one number each; a whole one may be a row of blocks.
        let (outer, row) = match (slot.shape.as_slice(), slot.rows) {
            (&[numbers], Some(_)) => (numbers, 1),
            (shape, _) => (shape.iter().rev().skip(1).product(), shape.last().copied().unwrap_or(1)),
        };
        let of_rows = |rows: usize| usize::try_from(numbers.format().row_bytes(row)?).ok()?.checked_mul(rows);
        let range = match slot.rows {
            None => 0..of_rows(outer)?,
            Some(rows) => {
                let first = of_rows(rows.first)?;
                first..first.checked_add(of_rows(outer)?)?
            }
        };
        let fits = range.end as u64 <= numbers.byte_count();
        fits.then(|| Self { slot: slot.clone(), numbers, packing: Packing::Plain, range })
    }

    /// The name of the stored tensor.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// The slot that it fills.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Its shape, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.slot.shape
    }

    /// The format of its numbers.
    #[must_use]
    pub fn format(&self) -> Format {
        self.numbers.format()
    }

    /// The reading of its numbers.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The stored tensor, whose bytes may still be on their way.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.numbers
    }

    /// Its bytes as they lie in the mapping, at any alignment.
    ///
    /// # Panics
    /// They have not arrived: see [`View::wait_for`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.numbers.bytes()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn view(format: Format, shape: &[usize], bytes: usize) -> View {
        View::new(format, shape, Arc::new((0..bytes).map(|at| at as u8).collect::<Vec<u8>>()))
    }

    #[test]
    fn rows_of_a_stored_tensor_are_a_part_of_its_bytes() {
        let fused = view(Format::Bf16, &[6, 2], 24);
        let slot = |first, count| Slot::rows("qkv", &[count, 2], Rows { first, of: 6 });
        let bytes = |slot: &Slot| Weight::new(slot, fused.clone()).expect("it fits").bytes().to_vec();
        assert_eq!(bytes(&slot(0, 2)), (0..8).collect::<Vec<u8>>());
        assert_eq!(bytes(&slot(4, 2)), (16..24).collect::<Vec<u8>>());
        assert!(Weight::new(&slot(5, 2), fused.clone()).is_none(), "beyond the end");
        assert!(Weight::new(&slot(usize::MAX, 2), fused.clone()).is_none());
        assert!(Weight::new(&Slot::new("qkv", &[5, 2]), fused).is_none(), "another shape");
    }

    #[test]
    fn rows_of_a_stack_of_matrices_are_those_of_one() {
        let stack = view(Format::Bf16, &[3, 2, 2], 24);
        let matrix = |first| Weight::new(&Slot::rows("experts", &[2, 2], Rows { first, of: 6 }), stack.clone());
        assert_eq!(matrix(4).expect("it fits").bytes(), (16..24).collect::<Vec<u8>>());
        let other = Slot::rows("experts", &[2, 3], Rows { first: 0, of: 4 });
        assert!(Weight::new(&other, stack).is_none(), "as many numbers in other rows");
    }

    #[test]
    fn rows_of_a_stored_vector_are_its_numbers() {
        let fused = view(Format::F32, &[6], 24);
        let part = |first, count| Weight::new(&Slot::rows("bias", &[count], Rows { first, of: 6 }), fused.clone());
        assert_eq!(part(2, 3).expect("it fits").bytes(), (8..20).collect::<Vec<u8>>());
        assert!(part(4, 3).is_none(), "beyond the end");
    }

    #[test]
    fn rows_of_blocks_are_whole_blocks() {
        let stored = view(Format::Q8_0, &[4, 64], 4 * 68);
        let half = Slot::rows("up", &[2, 64], Rows { first: 2, of: 4 });
        assert_eq!(Weight::new(&half, stored).expect("it fits").bytes().len(), 2 * 68);
        assert!(Weight::new(&Slot::new("up", &[4, 48]), view(Format::Q8_0, &[4, 48], 4 * 51)).is_none());
    }
}
