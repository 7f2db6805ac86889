//! The kinds of backends there are, by their names in configurations. Nothing else lists them.

use crate::candle::Candle;
use crate::cpu::Cpu;
use crate::kind::{Kind, KvCacheDtype, Quantization};
use crate::scripted::Scripted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Our kernels over mapped weights.
    Cpu,
    /// The portable f32 reference.
    Candle,
    /// No weights.
    Scripted,
}

/// What becomes of matrices, and of keys and values; how much of the machine computes.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindOptions {
    /// Threads that compute; all the machine offers if none.
    pub threads: Option<NonZeroUsize>,
    /// The format of keys and values.
    pub kv_cache_dtype: KvCacheDtype,
    /// What matrices become when they arrive; they are computed with as stored if none.
    pub quantization: Option<Quantization>,
    /// How long a step takes, where nothing is computed.
    pub scripted_step: Duration,
}

impl BackendKind {
    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Candle => "candle",
            Self::Scripted => "scripted",
        }
    }

    /// Whether it makes other matrices of those that a model is stored in.
    #[must_use]
    pub const fn quantizes(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Candle | Self::Scripted => false,
        }
    }

    /// The kind of this name, as configured.
    #[must_use]
    pub fn configured(self, options: &KindOptions) -> Arc<dyn Kind> {
        match self {
            Self::Cpu => Arc::new(Cpu::new(options.threads, options.kv_cache_dtype, options.quantization)),
            Self::Candle => Arc::new(Candle),
            Self::Scripted => Arc::new(Scripted::new(options.scripted_step)),
        }
    }
}
