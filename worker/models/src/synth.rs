//! Models of a real geometry with random weights, for benchmarks and tests.
//!
//! The output is a directory as Hugging Face publishes it, so that everything that reads a
//! real model reads this one in the same way and at the same cost: the published sizes, a
//! tokenizer of the published vocabulary's size, shard files and their index. The text it
//! generates means nothing. The weights are never zero, because kernels, caches and file systems
//! may be quicker on zeros than on any real model.
//!
//! The same options give the same bytes. Tensors do not change when the shard size does.

mod error;
mod geometry;
mod random;
mod tokenizer;
mod weights;

use std::fs;
use std::path::Path;

use serde::Serialize;

pub use error::SynthError;
use geometry::Geometry;

pub use weights::SynthDtype;

/// The model to write.
#[derive(Debug, Clone)]
pub struct SynthOptions {
    geometry: Geometry,
    dtype: SynthDtype,
    shard_bytes_max: u64,
    seed: u64,
}

impl SynthOptions {
    /// Reads the options as the command line has them: the family and its size (`qwen3`, `0.6b`),
    /// the dtype (`bf16`, `f16`, `f32`) and the largest shard file (`5GB`, `200MB`, `1GiB`). The
    /// size `tiny` is of no real model and made for tests.
    ///
    /// # Errors
    /// A word that is not known; the error lists those that are.
    pub fn parse(arch: &str, size: &str, dtype: &str, max_shard_size: &str, seed: u64) -> Result<Self, SynthError> {
        let geometry = geometry::find(arch, size)?;
        let dtype = dtype.parse()?;
        Ok(Self { geometry, dtype, shard_bytes_max: parse_bytes(max_shard_size)?, seed })
    }
}

/// The model that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynthSummary {
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of the safetensors files, headers included.
    pub bytes: u64,
    /// The safetensors files' names.
    pub files: Vec<String>,
}

/// Writes a model into `out`, which must be empty or absent. Calls `progress` every few milliseconds with
/// the bytes of weights written so far and their total.
///
/// Memory stays within a few megabytes beside the tokenizer's vocabulary, whatever the size.
///
/// # Errors
/// The directory is not empty, or a file cannot be written.
pub fn write(
    options: &SynthOptions,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthSummary, SynthError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| SynthError::Write { path, source }
    };
    fs::create_dir_all(out).map_err(at(out))?;
    if fs::read_dir(out).map_err(at(out))?.next().is_some() {
        return Err(SynthError::NotEmpty { path: out.to_owned() });
    }
    let geometry = &options.geometry;
    let texts = [
        ("config.json", pretty(&geometry.config_json(options.dtype.name()))),
        ("generation_config.json", pretty(&geometry.generation_config_json())),
        ("tokenizer_config.json", pretty(&tokenizer::config_json(geometry))),
        ("tokenizer.json", tokenizer::tokenizer_json(geometry).to_string()),
    ];
    for (name, text) in texts {
        let path = out.join(name);
        fs::write(&path, text).map_err(at(&path))?;
    }
    weights::write(options, out, progress)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Bytes as people write them: decimal units as Hugging Face means them, binary ones with an `i`.
fn parse_bytes(text: &str) -> Result<u64, SynthError> {
    let error = || SynthError::ShardSize { text: text.to_owned() };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| error())?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(error()),
    };
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(error)
}

#[cfg(test)]
mod tests;
