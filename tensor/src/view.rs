//! A stored tensor as others read it: bytes that may still be on their way, with their format and shape.
//!
//! It does not know where the bytes come from: a [`Storage`] has them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::Format;

/// The bytes of one tensor, which may still be on their way: the loader's mapped regions, and copies of our own.
pub trait Storage: Send + Sync {
    /// The file or object that has them, for messages.
    fn object(&self) -> &str;

    /// Number of bytes, arrived or not.
    fn byte_count(&self) -> u64;

    /// All of them; `None` until they have arrived and are verified.
    fn bytes(&self) -> Option<&[u8]>;

    /// Blocks until they have arrived, but not much longer than `patience`; whether they have.
    ///
    /// # Errors
    /// They will not arrive.
    fn wait_for(&self, patience: Duration) -> Result<bool, ArrivalError>;
}

impl Storage for Vec<u8> {
    fn object(&self) -> &str {
        "memory"
    }

    fn byte_count(&self) -> u64 {
        self.len() as u64
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn wait_for(&self, _patience: Duration) -> Result<bool, ArrivalError> {
        Ok(true)
    }
}

/// Bytes that will not arrive: the load has failed.
#[derive(Debug, Clone, Error)]
#[error("the bytes of {object} will not arrive")]
pub struct ArrivalError {
    /// The file or object.
    pub object: String,
    /// The failure of the load.
    #[source]
    pub source: Arc<dyn Error + Send + Sync>,
}

/// One stored tensor. Cloning it clones the hold on its bytes, never the bytes.
///
/// They are as the file has them: little-endian, row-major, and at any alignment, so a reader must not assume that
/// an `f32` begins at a multiple of four.
#[derive(Clone)]
pub struct View {
    format: Format,
    shape: Arc<[usize]>,
    storage: Arc<dyn Storage>,
}

impl View {
    /// A view of a tensor's bytes.
    #[must_use]
    pub fn new(format: Format, shape: &[usize], storage: Arc<dyn Storage>) -> Self {
        Self { format, shape: shape.into(), storage }
    }

    /// The format of its numbers.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its dimensions in numbers, outermost first; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The file or object that it is in.
    #[must_use]
    pub fn object(&self) -> &str {
        self.storage.object()
    }

    /// Number of its bytes, arrived or not.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.storage.byte_count()
    }

    /// True if its bytes have arrived and are verified.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.storage.bytes().is_some()
    }

    /// Its bytes, in place.
    ///
    /// # Panics
    /// They have not all arrived: see [`View::wait_for`]. No reader is ever shown an unverified byte.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes().unwrap_or_else(|| panic!("{self:?} is read before it is ready"))
    }

    /// Blocks until its bytes have arrived, but not much longer than `patience`; whether they have.
    ///
    /// # Errors
    /// They will not arrive.
    pub fn wait_for(&self, patience: Duration) -> Result<bool, ArrivalError> {
        self.storage.wait_for(patience)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{:?} in {}", self.format, self.shape, self.object())
    }
}
