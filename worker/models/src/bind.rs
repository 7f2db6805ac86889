//! Joins what a decoder expects with the tensors that a checkpoint has.
//!
//! It knows safetensors' names and shapes through the loader, and no arithmetic.

use std::collections::HashSet;

use loader::Weights;
use thiserror::Error;

use crate::config::Config;
use crate::describe::describe;
use tensor::{Decoder, Format, Slot, Weight};

/// Errors of joining tensors with a config.
#[derive(Debug, Error)]
pub enum BindError {
    /// The checkpoint lacks a tensor.
    #[error("binding weights: tensor `{name}` of shape {shape:?} is missing")]
    Missing {
        /// The tensor.
        name: String,
        /// The expected shape.
        shape: Vec<usize>,
    },
    /// A tensor has another shape.
    #[error("binding weights: tensor `{name}` has shape {found:?}; config.json makes it {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The checkpoint's shape.
        found: Vec<usize>,
        /// The expected shape.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a format that nothing here computes with.
    #[error(
        "binding weights: tensor `{tensor}` is stored as {found}; {wanted} are read here: convert it to one of these"
    )]
    Format {
        /// The tensor.
        tensor: String,
        /// Its format.
        found: Format,
        /// The formats that are read there, as a list.
        wanted: String,
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

/// Joins a config with the tensors it describes. Copies nothing: the decoder shares the mapped regions.
///
/// # Errors
/// A tensor is missing, has another shape or a format that nothing computes with; or there is a tensor that the
/// config does not describe (save for a few known leftovers). The error names it.
pub fn bind(config: &Config, weights: &Weights) -> Result<Decoder, BindError> {
    let described = describe(config);
    let decoder = described.try_map(|slot| fill(slot, weights))?;
    refuse_extras(config, &described, weights)?;
    Ok(decoder)
}

/// Fills a slot with the stored tensor of its name.
fn fill(slot: &Slot, weights: &Weights) -> Result<Weight, BindError> {
    let expected = slot.stored_shape();
    let Some(tensor) = weights.get(&slot.name) else {
        return Err(BindError::Missing { name: slot.name.clone(), shape: expected });
    };
    let wanted = if slot.shape.len() > 1 { &Format::MATRICES[..] } else { &Format::VECTORS[..] };
    if !wanted.contains(&tensor.format()) {
        let wanted = wanted.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        return Err(BindError::Format { tensor: slot.name.clone(), found: tensor.format(), wanted });
    }
    let misfit = || BindError::Shape { name: slot.name.clone(), found: tensor.shape().to_vec(), expected };
    Weight::new(slot, tensor.view()).ok_or_else(misfit)
}

/// Tensors that published checkpoints carry and that no computation reads: tables older releases
/// saved beside the weights, and a second copy of the embeddings where the head is tied.
fn is_leftover(name: &str, tied: bool) -> bool {
    let tables = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.masked_bias"];
    tables.iter().any(|table| name.ends_with(table)) || (tied && name == "lm_head.weight")
}

/// Refuses a checkpoint with a tensor that is neither described nor a known leftover.
fn refuse_extras(config: &Config, described: &Decoder<Slot>, weights: &Weights) -> Result<(), BindError> {
    let known: HashSet<&str> = described.tensors().iter().map(|slot| slot.name.as_str()).collect();
    let tied = config.tie_word_embeddings;
    let mut extras: Vec<&str> =
        weights.names().filter(|name| !known.contains(name) && !is_leftover(name, tied)).collect();
    extras.sort_unstable();
    match extras.first() {
        None => Ok(()),
        Some(name) => {
            Err(BindError::Extra { name: crate::fields::short(name), architecture: config.family.architecture })
        }
    }
}

#[cfg(test)]
mod tests;
