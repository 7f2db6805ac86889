//! Weights prepared for the `cpu` kind, as the seam hands them around.

use super::staged::Staged;
use crate::backend::{Prepared, QuantizationLoss, StepError};
use std::any::Any;
use std::sync::Arc;

/// A model's operands, some of which may still have to be made.
pub(super) struct Operands {
    pub(super) staged: Arc<Staged>,
    /// Number of threads that make them where nothing else needs those.
    pub(super) threads: usize,
    /// True if matrices are copied rather than read in place.
    pub(super) is_copied: bool,
}

/// The operands in weights that were prepared for this kind.
pub(super) fn staged(weights: &dyn Prepared) -> Option<Arc<Staged>> {
    let operands = (weights as &dyn Any).downcast_ref::<Operands>();
    operands.map(|operands| Arc::clone(&operands.staged))
}

impl Prepared for Operands {
    fn has_work(&self) -> bool {
        self.is_copied
    }

    fn complete(&self, base: Option<&dyn Prepared>, wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), StepError> {
        if !self.is_copied {
            return Ok(());
        }
        let threads = if base.is_some() { 1 } else { self.threads };
        let base = base.and_then(staged);
        self.staged.complete(threads, base.as_deref(), wanted)
    }

    fn loss(&self) -> QuantizationLoss {
        self.staged.loss()
    }
}
