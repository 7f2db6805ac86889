//! A decoder's tensors: what is expected, and the view of mapped memory that is found.
//!
//! It knows safetensors' names and shapes through the loader, and no arithmetic.

use std::collections::HashSet;

use loader::{Dtype, Tensor, Weights};
use thiserror::Error;

use crate::model::Decoder;
use tensor::{Float, Format, Q8_0_NUMBERS};

/// A tensor that a decoder expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

impl Slot {
    pub(crate) fn new(name: &str, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec() }
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor that was found as expected: a view of mapped memory.
#[derive(Debug, Clone)]
pub struct Weight {
    slot: Slot,
    format: Format,
    tensor: Tensor,
}

/// Why tensors and config do not make a model.
#[derive(Debug, Error)]
pub enum BindError {
    /// The checkpoint lacks a tensor.
    #[error("binding weights: tensor `{name}` of shape {shape:?} is missing")]
    Missing {
        /// The tensor.
        name: String,
        /// What was expected.
        shape: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("binding weights: tensor `{name}` has shape {found:?}; config.json makes it {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// What the checkpoint holds.
        found: Vec<usize>,
        /// What was expected.
        expected: Vec<usize>,
    },
    /// A tensor's numbers are of a kind that no kernel reads.
    #[error("binding weights: tensor `{name}` is stored as {dtype}; BF16, F16 and F32 are supported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its format.
        dtype: String,
    },
    /// The checkpoint holds a tensor that the decoder would ignore.
    #[error("binding weights: tensor `{name}` is not part of this architecture ({architecture})")]
    Extra {
        /// The tensor.
        name: String,
        /// The architecture, as `config.json` names it.
        architecture: &'static str,
    },
}

impl Weight {
    pub(crate) fn bind(slot: &Slot, weights: &Weights) -> Result<Self, BindError> {
        let Some(tensor) = weights.get(&slot.name) else {
            return Err(BindError::Missing { name: slot.name.clone(), shape: slot.shape.clone() });
        };
        if is_q8_0(slot, tensor.dtype(), tensor.shape()) {
            return Ok(Self { slot: slot.clone(), format: Format::Q8_0, tensor: tensor.clone() });
        }
        if tensor.shape() != slot.shape {
            let (name, expected) = (slot.name.clone(), slot.shape.clone());
            return Err(BindError::Shape { name, found: tensor.shape().to_vec(), expected });
        }
        let Some(format) = plain(tensor.dtype()) else {
            return Err(BindError::Dtype { name: slot.name.clone(), dtype: format!("{:?}", tensor.dtype()) });
        };
        Ok(Self { slot: slot.clone(), format, tensor: tensor.clone() })
    }

    /// Its name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// Its shape, row-major.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.slot.shape
    }

    /// The format of its numbers.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The plain format that is closest: of the scales, where numbers are in blocks.
    #[must_use]
    pub fn float(&self) -> Float {
        match self.format {
            Format::F32 => Float::F32,
            Format::F16 | Format::Q8_0 => Float::F16,
            Format::Bf16 => Float::Bf16,
        }
    }

    /// Its view of a region, whose bytes may still be on their way.
    #[must_use]
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Its numbers as they lie in the mapping, at any alignment, little-endian.
    ///
    /// # Panics
    /// They have not arrived: see [`Tensor::wait`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.tensor.bytes()
    }
}

/// The format of plain numbers, if kernels read it.
fn plain(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::Bf16),
        _ => None,
    }
}

/// Whether a matrix lies in rows of Q8_0, which the loader gives as rows of bytes.
pub(crate) fn is_q8_0(slot: &Slot, dtype: Dtype, shape: &[usize]) -> bool {
    let &[outputs, inputs] = &slot.shape[..] else { return false };
    let is_whole = inputs.is_multiple_of(Q8_0_NUMBERS);
    is_whole && dtype == Dtype::U8 && *shape == [outputs, Format::Q8_0.row_bytes(inputs)]
}

/// Tensors that published checkpoints carry and that no computation reads: tables older releases
/// saved beside the weights, and a second copy of the embeddings where the head is tied.
#[must_use]
pub fn is_leftover(name: &str, tied: bool) -> bool {
    let tables = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.masked_bias"];
    tables.iter().any(|table| name.ends_with(table)) || (tied && name == "lm_head.weight")
}

/// Refuses a checkpoint with a tensor that is neither described nor a known leftover.
pub(crate) fn refuse_extras(described: &Decoder<Slot>, weights: &Weights) -> Result<(), BindError> {
    let known: HashSet<&str> = described.tensors().iter().map(|slot| slot.name.as_str()).collect();
    let tied = described.config.tie_word_embeddings;
    let mut extras: Vec<&str> =
        weights.names().filter(|name| !known.contains(name) && !is_leftover(name, tied)).collect();
    extras.sort_unstable();
    match extras.first() {
        None => Ok(()),
        Some(name) => Err(BindError::Extra {
            name: crate::fields::short(name),
            architecture: described.config.family.architecture,
        }),
    }
}
