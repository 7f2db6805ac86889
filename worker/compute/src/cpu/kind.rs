//! The `cpu` kind: memory, preparation and building.

use super::options::{CpuOptions, KV_BLOCK_TOKENS, kv_float, stored, threads};
use super::prepared::{Operands, staged};
use super::staged::Staged;
use super::{CpuBackend, need};
use crate::backend::Prepared;
use crate::kernels::tier::Tier;
use crate::kind::{BuildError, Built, Kind, KvCacheDtype, Model, Quantization, Rows, Sizes};
use crate::memory::{self, Need};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The kind: our kernels over mapped weights.
#[derive(Debug, Clone)]
pub(crate) struct Cpu {
    threads: Option<NonZeroUsize>,
    kv_dtype: KvCacheDtype,
    quantization: Option<Quantization>,
}

impl Cpu {
    pub(crate) fn new(
        threads: Option<NonZeroUsize>,
        kv_dtype: KvCacheDtype,
        quantization: Option<Quantization>,
    ) -> Self {
        Self { threads, kv_dtype, quantization }
    }

    fn options(&self) -> CpuOptions {
        CpuOptions {
            threads: self.threads,
            kv_dtype: self.kv_dtype,
            quantization: self.quantization,
            ..CpuOptions::default()
        }
    }
}

impl Kind for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn reads_weights(&self) -> bool {
        true
    }

    fn preparation(&self) -> &'static str {
        self.quantization.map_or("stored", Quantization::name)
    }

    fn kv_layout(&self, model: &Model) -> String {
        let Some(decoder) = &model.decoder else { return String::new() };
        let float = kv_float(self.kv_dtype, stored(decoder), Tier::best());
        let heads = decoder.attentions().map(|body| format!("{}x{}", body.kv_heads, body.head_dim));
        let (tokens, heads) = (KV_BLOCK_TOKENS, heads.collect::<Vec<_>>().join(" "));
        format!("cpu pairs 1; {tokens} tokens; {float:?}; {heads}")
    }

    fn device_bytes(&self) -> Option<u64> {
        None
    }

    fn need(&self, model: &Model, rows: Rows) -> Need {
        let Some(decoder) = &model.decoder else { return Need::default() };
        let float = kv_float(self.kv_dtype, stored(decoder), Tier::best());
        Need {
            copies_bytes: need::copies_bytes(decoder, self.quantization),
            activation_bytes: need::activation_bytes(decoder, rows),
            kv_block_bytes: need::kv_block_bytes(decoder, float),
            kv_block_tokens: KV_BLOCK_TOKENS,
            positions: memory::positions(decoder, rows.max_rows),
            kv_blocks_max: memory::kv_blocks_max(decoder, rows.max_rows, rows.max_logits_rows, KV_BLOCK_TOKENS),
        }
    }

    fn prepare(&self, model: &Model) -> Result<Arc<dyn Prepared>, BuildError> {
        let decoder = model.decoder.clone().ok_or_else(|| BuildError::other_weights("cpu"))?;
        let staged = Staged::of(decoder, &self.options()).map_err(BuildError::of)?;
        let is_copied = self.quantization.is_some();
        Ok(Arc::new(Operands { staged: Arc::new(staged), threads: threads(&self.options()), is_copied }))
    }

    fn build(&self, weights: &Arc<dyn Prepared>, sizes: &Sizes) -> Result<Built, BuildError> {
        let staged = staged(&**weights).ok_or_else(|| BuildError::other_weights("cpu"))?;
        if !weights.has_work() {
            staged.build_arrived();
        }
        let options = CpuOptions {
            max_rows: sizes.rows.max_rows,
            max_logits_rows: sizes.rows.max_logits_rows,
            kv_blocks: sizes.kv_blocks,
            max_position: Some(sizes.max_position),
            ..self.options()
        };
        let backend = CpuBackend::over(staged, &options).map_err(BuildError::of)?;
        let kv_pages = Some(backend.kv_pages());
        Ok(Built { backend: Box::new(backend), kv_pages })
    }
}
