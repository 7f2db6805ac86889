//! The tensors of a geometry, spread over shard files and written one after the other.
//!
//! Shards are filled in the order of the layers, and within a file tensors are sorted by name, as
//! the libraries of Hugging Face do: a reader that wants layers in their order has to look them up,
//! as in published models.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::geometry::Geometry;
use super::random::Stream;
use super::{SynthError, SynthOptions, SynthSummary};

/// Numbers made and written at a time: a megabyte of them.
const CHUNK: usize = 1 << 18;

/// The deviation with which published models begin their training, and roughly that with which they end.
const DEVIATION: f32 = 0.02;

/// The format of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynthDtype {
    /// The upper half of an `f32`.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
}

impl SynthDtype {
    /// The name in `config.json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }

    /// The name in a safetensors header.
    fn tag(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl FromStr for SynthDtype {
    type Err = SynthError;

    fn from_str(text: &str) -> Result<Self, SynthError> {
        match text {
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(SynthError::UnknownDtype { dtype: text.to_owned() }),
        }
    }
}

/// One tensor to write.
pub(super) struct Plan {
    name: String,
    shape: Vec<usize>,
    mean: f32,
}

impl Plan {
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}

/// All tensors of a geometry, in the order of execution. Matrices are (outputs, inputs).
pub(super) fn tensors(geometry: &Geometry) -> Vec<Plan> {
    let &Geometry { arch, vocab, hidden, intermediate, head_dim, .. } = geometry;
    let (query, key) = (geometry.heads * head_dim, geometry.kv_heads * head_dim);
    let mut plans = Vec::new();
    let mut add = |name: String, shape: &[usize], mean| plans.push(Plan { name, shape: shape.to_vec(), mean });
    add("model.embed_tokens.weight".to_owned(), &[vocab, hidden], 0.0);
    for layer in 0..geometry.layers {
        let mut add = |name: &str, shape: &[usize], mean| add(format!("model.layers.{layer}.{name}"), shape, mean);
        add("input_layernorm.weight", &[hidden], 1.0);
        for (name, outputs) in [("q", query), ("k", key), ("v", key)] {
            add(&format!("self_attn.{name}_proj.weight"), &[outputs, hidden], 0.0);
            if arch.has_bias() {
                add(&format!("self_attn.{name}_proj.bias"), &[outputs], 0.0);
            }
        }
        if arch.has_head_norms() {
            add("self_attn.q_norm.weight", &[head_dim], 1.0);
            add("self_attn.k_norm.weight", &[head_dim], 1.0);
        }
        add("self_attn.o_proj.weight", &[hidden, query], 0.0);
        add("post_attention_layernorm.weight", &[hidden], 1.0);
        add("mlp.gate_proj.weight", &[intermediate, hidden], 0.0);
        add("mlp.up_proj.weight", &[intermediate, hidden], 0.0);
        add("mlp.down_proj.weight", &[hidden, intermediate], 0.0);
    }
    add("model.norm.weight".to_owned(), &[hidden], 1.0);
    if !geometry.is_tied {
        add("lm_head.weight".to_owned(), &[vocab, hidden], 0.0);
    }
    plans
}

/// Writes all shard files and, if there are several, their index.
pub(super) fn write(
    options: &SynthOptions,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthSummary, SynthError> {
    let plans = tensors(&options.geometry);
    let (parameters, tensors) = (plans.iter().map(Plan::elements).sum::<u64>(), plans.len());
    let shards = split(plans, options);
    let count = shards.len();
    let mut writer = Writer { options, progress, bytes_done: 0, bytes_total: parameters * options.dtype.bytes() };
    let mut summary = SynthSummary { parameters, tensors, bytes: 0, files: Vec::with_capacity(count) };
    let mut weight_map = Vec::with_capacity(tensors);
    for (number, mut shard) in (1..).zip(shards) {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        shard.sort_by(|a, b| a.name.cmp(&b.name));
        let path = out.join(&file);
        summary.bytes += writer.shard(&shard, &path).map_err(|source| SynthError::Write { path, source })?;
        weight_map.extend(shard.into_iter().map(|plan| (plan.name, Value::String(file.clone()))));
        summary.files.push(file);
    }
    if count > 1 {
        weight_map.sort_by(|a, b| a.0.cmp(&b.0));
        let metadata = json!({"total_parameters": parameters, "total_size": writer.bytes_total});
        let index = json!({"metadata": metadata, "weight_map": Map::from_iter(weight_map)});
        let path = out.join("model.safetensors.index.json");
        std::fs::write(&path, super::pretty(&index)).map_err(|source| SynthError::Write { path, source })?;
    }
    Ok(summary)
}

/// Fills shards in order; a tensor larger than a shard has one to itself.
fn split(plans: Vec<Plan>, options: &SynthOptions) -> Vec<Vec<Plan>> {
    let (mut shards, mut shard, mut shard_bytes) = (Vec::new(), Vec::new(), 0);
    for plan in plans {
        let bytes = plan.elements() * options.dtype.bytes();
        if !shard.is_empty() && shard_bytes + bytes > options.shard_bytes_max {
            shards.push(std::mem::take(&mut shard));
            shard_bytes = 0;
        }
        shard_bytes += bytes;
        shard.push(plan);
    }
    shards.push(shard);
    shards
}

struct Writer<'a> {
    options: &'a SynthOptions,
    progress: &'a mut dyn FnMut(u64, u64),
    bytes_done: u64,
    bytes_total: u64,
}

impl Writer<'_> {
    /// Writes one file and returns its size.
    fn shard(&mut self, shard: &[Plan], path: &Path) -> io::Result<u64> {
        let mut file = File::create_new(path)?;
        let header = self.header(shard);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut buffers = Buffers::new();
        for plan in shard {
            self.tensor(plan, &mut file, &mut buffers)?;
        }
        Ok(file.metadata()?.len())
    }

    /// The header's JSON, padded so that the data begin at a multiple of eight bytes.
    fn header(&self, shard: &[Plan]) -> String {
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let mut begin = 0;
        for plan in shard {
            let end = begin + plan.elements() * self.options.dtype.bytes();
            let (dtype, shape) = (self.options.dtype.tag(), &plan.shape);
            header.insert(plan.name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
            begin = end;
        }
        let mut text = Value::Object(header).to_string();
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        text
    }

    fn tensor(&mut self, plan: &Plan, file: &mut File, buffers: &mut Buffers) -> io::Result<()> {
        let stream = Stream::new(self.options.seed, &plan.name);
        let elements = plan.elements();
        for first in (0..elements).step_by(CHUNK) {
            let count = CHUNK.min((elements - first) as usize);
            stream.fill(first, plan.mean, DEVIATION, &mut buffers.values[..count]);
            let bytes = buffers.encode(count, self.options.dtype);
            file.write_all(bytes)?;
            self.bytes_done += bytes.len() as u64;
            (self.progress)(self.bytes_done, self.bytes_total);
        }
        Ok(())
    }
}

/// The memory that writing takes, whatever the model's size.
struct Buffers {
    values: Vec<f32>,
    halves: Vec<u16>,
    bytes: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        Self { values: vec![0.0; CHUNK], halves: vec![0; CHUNK], bytes: Vec::with_capacity(4 * CHUNK) }
    }

    /// The first `count` values as the file has them, little-endian.
    fn encode(&mut self, count: usize, dtype: SynthDtype) -> &[u8] {
        use half::slice::HalfBitsSliceExt;
        let (values, halves) = (&self.values[..count], &mut self.halves[..count]);
        self.bytes.clear();
        match dtype {
            SynthDtype::F32 => {
                self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                return &self.bytes;
            }
            SynthDtype::Bf16 => halves.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values),
            SynthDtype::F16 => halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values),
        }
        self.bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        &self.bytes
    }
}
