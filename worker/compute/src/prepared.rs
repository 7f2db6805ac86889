//! Weights prepared for a kind of backend: copies made beside the steps, and the precision they lose.

use crate::error::StepError;
use std::any::Any;

/// Weights as one kind of backend computes with them. Revisions of a model are installed as such.
pub trait Prepared: Any + Send + Sync {
    /// True if there is work to do beside the steps: see [`Prepared::complete`].
    fn has_work(&self) -> bool;

    /// Makes copies of matrices as they arrive, rather than in the steps that need them first. Copies that `base` has
    /// made of the same bytes are shared with it; `base` serves meanwhile and needs the threads, so beside it one
    /// thread works. `wanted` is asked some tens of times a second. Blocks until all is made.
    ///
    /// # Errors
    /// The weights will not come, or `wanted` said no.
    fn complete(&self, base: Option<&dyn Prepared>, wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), StepError>;

    /// Copies made by quantizing so far, and the precision they lost.
    fn loss(&self) -> QuantizationLoss;
}

/// Copies made by quantizing a model, and the precision they lost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantizationLoss {
    /// Matrices that were quantized; others stayed in place.
    pub matrices: usize,
    /// Bytes of the copies.
    pub bytes: u64,
    /// The mean over the matrices of √(Σ(w − q)² / Σw²), w being a matrix's numbers and q what became of them.
    pub mean: f64,
    /// The largest of them.
    pub max: f64,
    /// Whose it is; empty if none was quantized.
    pub worst: String,
}
