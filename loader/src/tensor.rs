//! One tensor: a view into a region, with its format and shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tensor::{ArrivalError, Format, Storage, View};

use crate::header::TensorInfo;
use crate::{LoadError, Region};

/// A view of one tensor's bytes, which may still be on their way ([`Tensor::is_ready`]). Cloning it clones the hold on its region, never the bytes.
///
/// The bytes are as the file has them: little-endian, row-major, and at any alignment (the formats
/// promise none), so a reader must not assume that an `f32` begins at a multiple of four.
#[derive(Clone)]
pub struct Tensor {
    region: Arc<Region>,
    range: Range<usize>,
    /// The end of the header that says where the tensor lies: no view before that is verified too.
    header_end: u64,
    format: Format,
    shape: Box<[usize]>,
}

impl Tensor {
    /// A view of what `info` describes of `region`. Hidden contract: it lies within the region, as
    /// the header's check against the file's length has proven.
    pub(crate) fn new(region: Arc<Region>, info: &TensorInfo, header_end: u64) -> Self {
        assert!(
            info.range.start <= info.range.end && info.range.end <= region.len(),
            "a tensor lies within its region"
        );
        let range = info.range.start as usize..info.range.end as usize;
        Self { region, range, header_end, format: info.format, shape: info.shape.clone().into() }
    }

    /// How its numbers lie.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The dimensions in numbers, outermost first; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor's bytes, in place.
    ///
    /// # Panics
    /// They have not all arrived: see [`Tensor::wait`] and [`Tensor::ready`]. No reader is ever
    /// shown an unverified byte.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.arrived().unwrap_or_else(|| panic!("{self:?} is read before it is ready"))
    }

    fn arrived(&self) -> Option<&[u8]> {
        self.is_header_ready().then(|| self.region.view(self.range.clone())).flatten()
    }

    /// The tensor as those have it who know no region.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.format, &self.shape, Arc::new(self.clone()))
    }

    /// The number of its bytes, arrived or not.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.range.len() as u64
    }

    /// Returns true if its bytes have arrived and are verified.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_header_ready() && self.region.is_verified(self.extent())
    }

    /// Blocks until its bytes have arrived: for threads that compute.
    ///
    /// # Errors
    /// The load failed.
    pub fn wait(&self) -> Result<(), Arc<LoadError>> {
        self.region.wait(0..self.header_end)?;
        self.region.wait(self.extent())
    }

    /// Blocks until its bytes have arrived, but no longer than `patience`, at least once each for
    /// header and bytes. Returns true if they have: for threads that compute and must show life meanwhile.
    ///
    /// # Errors
    /// The load failed.
    pub fn wait_for(&self, patience: Duration) -> Result<bool, Arc<LoadError>> {
        Ok(self.region.wait_for(0..self.header_end, patience)? && self.region.wait_for(self.extent(), patience)?)
    }

    /// Waits until its bytes have arrived.
    ///
    /// # Errors
    /// The load failed.
    pub async fn ready(&self) -> Result<(), Arc<LoadError>> {
        self.region.ready(0..self.header_end).await?;
        self.region.ready(self.extent()).await
    }

    fn is_header_ready(&self) -> bool {
        self.region.is_verified(0..self.header_end)
    }

    fn extent(&self) -> Range<u64> {
        self.range.start as u64..self.range.end as u64
    }

    /// The number of elements: 1 for a scalar, 0 where a dimension is 0.
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

impl Storage for Tensor {
    fn object(&self) -> &str {
        self.region.name()
    }

    fn byte_count(&self) -> u64 {
        self.byte_count()
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.arrived()
    }

    fn wait_for(&self, patience: Duration) -> Result<bool, ArrivalError> {
        let error = |source| ArrivalError { object: self.region.name().to_owned(), source };
        self.wait_for(patience).map_err(|source: Arc<LoadError>| error(source))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{:?} in {}[{:?}]", self.format, self.shape, self.region.name(), self.range)
    }
}
