//! One tensor: a view into a region, with its element type and shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;

use crate::Region;

/// A view of one tensor's bytes. Cloning it clones the hold on its region, never the bytes.
///
/// The bytes are as the file has them: little-endian, row-major, and at any alignment (the format
/// promises none), so a reader must not assume that an `f32` begins at a multiple of four.
#[derive(Clone)]
pub struct Tensor {
    region: Arc<Region>,
    range: Range<usize>,
    dtype: Dtype,
    shape: Box<[usize]>,
}

impl Tensor {
    /// A view of `range` of `region`. Hidden contract: the range lies within the region, as the
    /// header's check against the file's length has proven.
    pub(crate) fn new(region: Arc<Region>, range: Range<usize>, dtype: Dtype, shape: Box<[usize]>) -> Self {
        assert!(range.start <= range.end && range.end <= region.bytes().len(), "a tensor lies within its region");
        Self { region, range, dtype, shape }
    }

    /// The type of one element.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The dimensions, outermost first; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor's bytes, in place.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.region.bytes()[self.range.clone()]
    }

    /// How many elements the shape has: 1 for a scalar, 0 where a dimension is 0.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The region that holds the bytes.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}{:?} in {}[{:?}]", self.dtype, self.shape, self.region.name(), self.range)
    }
}
