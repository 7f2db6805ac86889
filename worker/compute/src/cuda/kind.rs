//! The `cuda` kind: what it needs of a device, and weights prepared for it.

use std::any::Any;
use std::sync::Arc;

use super::arena::{self, Arena};
use super::device::{Device, DeviceError};
use super::layout::Layout;
use super::weights::{Accelerator, Resident};
use super::{BLOCK_TOKENS, CudaBackend, CudaError};
use crate::backend::{Prepared, QuantizationLoss, StepError};
use crate::kind::{BuildError, Built, Kind, Model, Rows, Sizes};
use crate::memory::Need;

/// The kind, on a device.
pub(crate) struct Cuda {
    on: Arc<Accelerator>,
}

/// Weights on their way to a device.
struct Weights(Arc<Resident>);

/// The weights in what was prepared for this kind.
pub(super) fn resident(weights: &dyn Prepared) -> Option<Arc<Resident>> {
    (weights as &dyn Any).downcast_ref::<Weights>().map(|Weights(resident)| Arc::clone(resident))
}

impl Cuda {
    /// The kind on a device.
    pub(crate) fn on(device: Arc<dyn Device>) -> Result<Self, DeviceError> {
        Ok(Self { on: Arc::new(Accelerator::new(device)?) })
    }

    /// The same with a ring so small that every matrix goes through it in several pieces.
    #[cfg(test)]
    pub(super) fn on_small(device: Arc<dyn Device>) -> Self {
        Self { on: Arc::new(Accelerator::with_pieces(device, 3000).expect("a ring")) }
    }

    #[cfg(test)]
    pub(super) fn accelerator(&self) -> &Arc<Accelerator> {
        &self.on
    }
}

impl Kind for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn reads_weights(&self) -> bool {
        true
    }

    fn preparation(&self) -> &'static str {
        "stored"
    }

    fn kv_layout(&self, model: &Model) -> String {
        let bodies = model.decoder.iter().flat_map(|decoder| decoder.attentions());
        let heads = bodies.map(|body| format!("{}x{}", body.kv_heads, body.head_dim)).collect::<Vec<_>>().join(" ");
        format!("cuda 1; {BLOCK_TOKENS} tokens; bf16; {heads}")
    }

    fn device_bytes(&self) -> Option<u64> {
        // A device that does not say has nothing to give; building will name the failure.
        Some(self.on.device().free_bytes().unwrap_or(0))
    }

    fn need(&self, model: &Model, rows: Rows) -> Need {
        let Some(decoder) = &model.decoder else { return Need::default() };
        Need {
            // What it cannot compute is said when it is prepared.
            copies_bytes: Layout::of(decoder).map_or(0, |layout| layout.bytes),
            activation_bytes: Arena::of(&**decoder, rows).bytes.saturating_add(super::image_bytes(rows) as u64),
            kv_block_bytes: arena::kv_block_bytes(&**decoder, BLOCK_TOKENS),
            kv_block_tokens: BLOCK_TOKENS,
            positions: decoder.max_position,
            kv_blocks_max: None,
        }
    }

    fn prepare(&self, model: &Model) -> Result<Arc<dyn Prepared>, BuildError> {
        let decoder = model.decoder.clone().ok_or_else(|| BuildError::other_weights("cuda"))?;
        let layout = Layout::of(&decoder).map_err(BuildError::of)?;
        super::group(&decoder).map_err(BuildError::of)?;
        let resident =
            Resident::new(&self.on, decoder, layout).map_err(|error| BuildError::of(CudaError::from(error)))?;
        Ok(Arc::new(Weights(Arc::new(resident))))
    }

    fn build(&self, weights: &Arc<dyn Prepared>, sizes: &Sizes) -> Result<Built, BuildError> {
        let resident = resident(&**weights).ok_or_else(|| BuildError::other_weights("cuda"))?;
        let backend = CudaBackend::over(resident, &self.on, sizes).map_err(BuildError::of)?;
        Ok(Built { backend: Box::new(backend), kv_pages: None })
    }
}

impl Prepared for Weights {
    /// Copying them beside the steps.
    fn has_work(&self) -> bool {
        true
    }

    fn complete(&self, _base: Option<&dyn Prepared>, wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), StepError> {
        self.0.complete(wanted)
    }

    fn loss(&self) -> QuantizationLoss {
        QuantizationLoss::default()
    }
}
