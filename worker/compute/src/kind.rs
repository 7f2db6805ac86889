//! Kinds of backends: memory, preparation and building, before there is a backend.
//!
//! It names no kind; `table` does.

use crate::backend::Backend;
use crate::kernels::buffer::Pages;
use crate::memory::Need;
use crate::prepared::Prepared;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::sync::Arc;
use tensor::{Decoder, Format};
use thiserror::Error;

/// A kind of backend, as configured.
///
/// Implementers: those of the table.
pub trait Kind: Send + Sync {
    /// Its name in configurations.
    fn name(&self) -> &'static str;

    /// True if it computes with weights at all.
    fn reads_weights(&self) -> bool;

    /// The preparation of matrices by name: a part of the identity of keys and values.
    fn preparation(&self) -> &'static str;

    /// The layout of a KV block's bytes, in words: equal exactly where blocks are laid out alike, so that one kind can read
    /// what another wrote. Pure, but for this machine's instruction set.
    fn kv_layout(&self, model: &Model) -> String;

    /// Free bytes of a device's own memory, where models lie in that rather than in the machine's.
    fn device_bytes(&self) -> Option<u64>;

    /// The memory that a model needs beside its mapped weights. Pure.
    fn need(&self, model: &Model, rows: Rows) -> Need;

    /// Begins to make of a model's weights what steps compute with; they may still be on their way.
    ///
    /// # Errors
    /// The kind cannot compute the model, or not on this machine.
    fn prepare(&self, model: &Model) -> Result<Arc<dyn Prepared>, BuildError>;

    /// Builds a backend over weights that it has prepared. Blocks where the kind copies them all.
    ///
    /// # Errors
    /// The weights are another kind's, a size is zero, or the system has no memory or threads to give.
    fn build(&self, weights: &Arc<dyn Prepared>, sizes: &Sizes) -> Result<Built, BuildError>;
}

/// A model, as kinds of backends see it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Logits per row.
    pub vocab_size: usize,
    /// Its weights; none where the kind reads none.
    pub decoder: Option<Arc<Decoder>>,
}

/// The largest step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The most rows.
    pub max_rows: usize,
    /// The most rows of logits.
    pub max_logits_rows: usize,
}

/// Sizes to build a backend with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The largest step.
    pub rows: Rows,
    /// KV blocks.
    pub kv_blocks: usize,
    /// The longest sequence in tokens.
    pub max_position: usize,
}

/// A new backend.
pub struct Built {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// The pages of its keys and values, where they can be made before they are needed.
    pub kv_pages: Option<Pages>,
}

/// Error of building a backend, in its own words.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct BuildError(Box<dyn Error + Send + Sync>);

impl BuildError {
    /// An error of a kind of its own.
    pub(crate) fn of(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The weights are not what this kind prepares.
    pub(crate) fn other_weights(kind: &'static str) -> Self {
        Self(format!("building the {kind} backend: the weights were not prepared for it").into())
    }
}

/// A format that matrices are converted to at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantization {
    /// GGUF's Q8_0.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// GGUF's Q4_K, pure: all matrices alike. Rows that are not whole blocks of it become Q8_0.
    #[serde(rename = "q4_k")]
    Q4K,
}

/// The format of keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// f32 for models stored in f32, bf16 for bf16 and Q8_0 models on CPUs that multiply bf16, f16 for others.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, saturating.
    F16,
    /// 16 bits, the upper half of a binary32.
    Bf16,
}

impl Quantization {
    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }

    /// Every format.
    pub const ALL: [Self; 2] = [Self::Q8_0, Self::Q4K];

    /// The format of a matrix whose rows have so many numbers; none if it stays as it is.
    #[must_use]
    pub fn of_rows(self, inputs: usize) -> Option<Format> {
        let whole = |format: Format| inputs.is_multiple_of(format.block().numbers);
        match self {
            Self::Q4K if whole(Format::Q4K) => Some(Format::Q4K),
            _ if whole(Format::Q8_0) => Some(Format::Q8_0),
            _ => None,
        }
    }
}
