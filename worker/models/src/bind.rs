//! Joins what a decoder expects with the tensors that a checkpoint has.
//!
//! It knows safetensors' names and shapes through the loader, and no arithmetic.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use loader::{Tensor, TensorInfo, Weights};
use thiserror::Error;

use crate::config::Config;
use crate::describe::describe;
use crate::split::spellings;
use tensor::{ArrivalError, Decoder, Format, Head, Slot, Storage, View, Weight};

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
    join(config, weights.names(), |name| weights.get(name).map(Tensor::view))
}

/// Joins a config with the headers of the tensors it describes, whose bytes nobody has: for questions about a model that
/// is not loaded.
///
/// # Errors
/// As [`bind`].
pub fn fit<'a>(config: &Config, headers: impl IntoIterator<Item = &'a TensorInfo>) -> Result<Decoder, BindError> {
    let headers: HashMap<&str, &TensorInfo> = headers.into_iter().map(|info| (info.name.as_str(), info)).collect();
    join(config, headers.keys().copied(), |name| {
        let info = headers.get(name)?;
        Some(View::new(info.format, &info.shape, Arc::new(Absent(info.range.end - info.range.start))))
    })
}

fn join<'a>(
    config: &Config,
    names: impl Iterator<Item = &'a str>,
    view: impl Fn(&str) -> Option<View>,
) -> Result<Decoder, BindError> {
    let names: HashSet<&str> = names.collect();
    let described = as_spelled(config, describe(config), &names);
    let decoder = described.try_map(|slot| fill(slot, view(&slot.name)))?;
    refuse_extras(config, &described, names.into_iter())?;
    Ok(decoder)
}

/// The same by the names that the files have; without a head where they are of a model without one.
fn as_spelled(config: &Config, mut described: Decoder<Slot>, names: &HashSet<&str>) -> Decoder<Slot> {
    let spelled = |slot: &Slot| {
        let found = spellings(config, &slot.name).into_iter().find(|name| names.contains(name.as_str()));
        Slot { name: found.unwrap_or_else(|| slot.name.clone()), ..slot.clone() }
    };
    let is_bare = !names.contains(described.embeddings.name.as_str());
    if let Head::Own(head) = &described.head
        && is_bare
        && !names.contains(head.name.as_str())
    {
        described.head = Head::Nothing;
    }
    match described.try_map(|slot| Ok::<_, Infallible>(spelled(slot))) {
        Ok(described) => described,
    }
}

/// So many bytes that are not there.
struct Absent(u64);

impl Storage for Absent {
    fn object(&self) -> &str {
        "a header"
    }

    fn byte_count(&self) -> u64 {
        self.0
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn wait_for(&self, _patience: Duration) -> Result<bool, ArrivalError> {
        Ok(false)
    }
}

/// Fills a slot with the stored tensor of its name.
fn fill(slot: &Slot, view: Option<View>) -> Result<Weight, BindError> {
    let expected = slot.stored_shape();
    let Some(view) = view else {
        return Err(BindError::Missing { name: slot.name.clone(), shape: expected });
    };
    let wanted = if slot.shape.len() > 1 { &Format::MATRICES[..] } else { &Format::VECTORS[..] };
    if !wanted.contains(&view.format()) {
        let wanted = wanted.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        return Err(BindError::Format { tensor: slot.name.clone(), found: view.format(), wanted });
    }
    let found = view.shape().to_vec();
    Weight::new(slot, view).ok_or_else(|| BindError::Shape { name: slot.name.clone(), found, expected })
}

/// Tensors that published checkpoints carry and that no computation reads: tables older releases
/// saved beside the weights, and a second copy of the embeddings where the head is tied.
fn is_leftover(name: &str, tied: bool) -> bool {
    let tables = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.masked_bias"];
    tables.iter().any(|table| name.ends_with(table))
        || (tied && (name == "lm_head.weight" || name.ends_with(".lm_head.weight")))
}

/// Tensors of the parts of a model that see.
fn is_of_images(name: &str) -> bool {
    let parts = ["vision_tower.", "multi_modal_projector."];
    parts
        .iter()
        .any(|part| name.starts_with(part) || name.strip_prefix("model.").is_some_and(|it| it.starts_with(part)))
}

/// Refuses a checkpoint with a tensor that is neither described nor a known leftover.
fn refuse_extras<'a>(
    config: &Config,
    described: &Decoder<Slot>,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), BindError> {
    let known: HashSet<&str> = described.tensors().iter().map(|slot| slot.name.as_str()).collect();
    let tied = config.tie_word_embeddings;
    // Divisors for shorter sequences than the model allows, or for longer ones.
    let is_other_divisor = |name: &str| config.rope_divisors.is_some() && name.starts_with("rope_factors_");
    let unread = config.family.encoder.map(|rule| (rule.level, rule.unread));
    let is_of_another_end = |name: &str| {
        unread.is_some_and(|(level, unread)| {
            let bare = name.strip_prefix(level).unwrap_or(name);
            unread.iter().any(|part| bare.starts_with(part))
        })
    };
    let is_left_out = |name: &str| {
        is_of_another_end(name)
            || is_leftover(name, tied)
            || is_other_divisor(name)
            || (!config.prefix.is_empty() && is_of_images(name))
    };
    let mut extras: Vec<&str> = names.filter(|name| !known.contains(name) && !is_left_out(name)).collect();
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
