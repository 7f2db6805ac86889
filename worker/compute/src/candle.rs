//! The `candle` backend: the portable f32 reference that every other backend is checked against.
//!
//! Interprets the decoder description with plain tensor operations, one segment at a time, and is
//! written to be obviously right. It copies the weights to f32 and allocates in every operation:
//! the bars on memory and speed are not for it. Its matrix products may round differently with the
//! number of rows, so the independence that [`Backend::launch`] promises holds here up to rounding.

pub(crate) mod blocks;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Result, Tensor};
use thiserror::Error;

use crate::backend::{
    Backend, Generation, Input, InstallError, Limits, Location, Logits, Makes, Part, Pooling, Prepared,
    QuantizationLoss, Segment, Step, StepError, Want, check,
};
use crate::kind::{BuildError, Built, Kind, Model, Rows, Sizes};
use crate::memory::{self, Need};
use crate::results::{self, Outbox, Results, StepTimes};
use crate::routing::Routing;
use crate::sampler::Scratch;
use tensor::{
    Activation, Added, Attention, Body, Branch, Classes, Decoder, Dense, Distances, Experts, Format, Head, Linear,
    Norm, Normed, Pairs, Positions, Rotation, Sees, Weight, Widths,
};

/// Duration of one wait for weights.
const PATIENCE: Duration = Duration::from_secs(1);
/// Positions in a KV block, as on the `cpu` backend.
const BLOCK_TOKENS: usize = 16;

/// The kind: backends that copy weights to f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candle;

/// Weights to be copied when a backend is built.
struct Source(Arc<Decoder>);

impl Kind for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn reads_weights(&self) -> bool {
        true
    }

    fn preparation(&self) -> &'static str {
        "stored"
    }

    fn kv_layout(&self, model: &Model) -> String {
        let widths =
            model.decoder.iter().flat_map(|decoder| decoder.attentions()).map(|body| body.key_width().to_string());
        format!("candle 1; {BLOCK_TOKENS} tokens; f32; {}", widths.collect::<Vec<_>>().join(" "))
    }

    fn device_bytes(&self) -> Option<u64> {
        None
    }

    fn need(&self, model: &Model, rows: Rows) -> Need {
        let Some(decoder) = &model.decoder else { return Need::default() };
        let (hidden, Widths { queries, keys: _, inner, experts: _ }) = (decoder.hidden_size, decoder.widths());
        let numbers: usize = decoder.tensors().iter().map(|weight| weight.shape().iter().product::<usize>()).sum();
        // Of a layer the feed-forward part is the widest, and of a step the logits; tensors live for an operation or two.
        let widest = 4 * (hidden + queries + inner);
        let activations = rows.max_rows.saturating_mul(widest);
        let logits = rows.max_logits_rows.saturating_mul(2 * decoder.logits_width());
        let f32s = |count: usize| (count as u64).saturating_mul(size_of::<f32>() as u64);
        Need {
            copies_bytes: f32s(numbers),
            activation_bytes: f32s(activations.saturating_add(logits)),
            kv_block_bytes: f32s(kv_block_numbers(decoder)),
            kv_block_tokens: BLOCK_TOKENS,
            positions: memory::positions(decoder, rows.max_rows),
            kv_blocks_max: memory::kv_blocks_max(decoder, rows.max_rows, rows.max_logits_rows, BLOCK_TOKENS),
        }
    }

    fn prepare(&self, model: &Model) -> std::result::Result<Arc<dyn Prepared>, BuildError> {
        let decoder = model.decoder.clone().ok_or_else(|| BuildError::other_weights("candle"))?;
        Ok(Arc::new(Source(decoder)))
    }

    fn build(&self, weights: &Arc<dyn Prepared>, sizes: &Sizes) -> std::result::Result<Built, BuildError> {
        let source = (&**weights as &dyn Any).downcast_ref::<Source>();
        let Source(decoder) = source.ok_or_else(|| BuildError::other_weights("candle"))?;
        let options = CandleOptions {
            max_rows: sizes.rows.max_rows,
            max_logits_rows: sizes.rows.max_logits_rows,
            kv_blocks: sizes.kv_blocks,
            max_position: Some(sizes.max_position),
        };
        let backend = CandleBackend::new(decoder, &options).map_err(BuildError::of)?;
        Ok(Built { backend: Box::new(backend), kv_pages: None })
    }
}

impl Prepared for Source {
    fn has_work(&self) -> bool {
        false
    }

    fn complete(
        &self,
        _base: Option<&dyn Prepared>,
        _wanted: &(dyn Fn() -> bool + Sync),
    ) -> std::result::Result<(), StepError> {
        Ok(())
    }

    fn loss(&self) -> QuantizationLoss {
        QuantizationLoss::default()
    }
}

/// Sizes of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandleOptions {
    /// The most rows in one step.
    pub max_rows: usize,
    /// The most rows of logits one step returns.
    pub max_logits_rows: usize,
    /// KV blocks of 16 positions.
    pub kv_blocks: usize,
    /// The longest sequence in tokens; what the config says if none.
    pub max_position: Option<usize>,
}

impl Default for CandleOptions {
    /// Enough to try a model: 512 rows, 16 rows of logits, 4096 positions.
    fn default() -> Self {
        Self { max_rows: 512, max_logits_rows: 16, kv_blocks: 256, max_position: None }
    }
}

/// Copying the weights failed.
#[derive(Debug, Error)]
#[error("building the candle backend: copying tensor `{name}`")]
pub struct CandleError {
    name: String,
    #[source]
    source: candle_core::Error,
}

/// One layer's keys and values as f32: (kv_blocks · 16, kv_heads · head_dim).
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One model, computed by candle on the CPU.
pub struct CandleBackend {
    decoder: Decoder<Tensor>,
    limits: Limits,
    caches: Vec<Cache>,
    /// Results of the picked rows: logits, or hidden states where those are wanted.
    rows: Vec<f32>,
    outbox: Outbox,
    scratch: Scratch,
}

impl CandleBackend {
    /// A backend for `decoder`; waits for all its weights and copies them to f32.
    ///
    /// # Errors
    /// A tensor could not be copied.
    pub fn new(decoder: &Arc<Decoder>, options: &CandleOptions) -> std::result::Result<Self, CandleError> {
        let copied = decoder
            .try_map(|weight| copy(weight).map_err(|source| CandleError { name: weight.name().to_owned(), source }))?;
        let cache = |attention: &Attention<Weight>| {
            let numbers = options.kv_blocks * BLOCK_TOKENS * attention.key_width();
            Cache { keys: vec![0.0; numbers], values: vec![0.0; numbers] }
        };
        let limits = Limits {
            vocab_size: decoder.vocab_size,
            max_position: options.max_position.unwrap_or(decoder.max_position),
            max_rows: options.max_rows,
            max_logits_rows: options.max_logits_rows,
            kv_block_tokens: BLOCK_TOKENS,
            kv_blocks: options.kv_blocks,
            kv_block_bytes: kv_block_numbers(decoder) * size_of::<f32>(),
            hidden_size: decoder.hidden_size,
            makes: Makes::of(decoder, |weight| weight.shape()[0]),
            is_whole: decoder.is_encoder(),
            sums: true,
            depth: 1,
        };
        let caches = decoder.attentions().map(cache).collect();
        let (outbox, scratch) = (Outbox::default(), Scratch::default());
        Ok(Self { decoder: copied, limits, caches, rows: Vec::new(), outbox, scratch })
    }

    /// Logits of the picked rows of one segment, (picked, vocab), or their hidden states, (picked, hidden).
    fn segment(&mut self, segment: &Segment<'_>) -> Result<Option<Tensor>> {
        // At depth 1 every token is known.
        let Input::Tokens(tokens) = segment.input else { return Ok(None) };
        let Self { decoder, caches, .. } = self;
        let angles: Vec<Angles> =
            decoder.rotations.iter().map(|rotation| Angles::new(rotation, segment)).collect::<Result<_>>()?;
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let embedded = (decoder.embeddings.index_select(&tokens, 0)? * f64::from(decoder.embedding_scale))?;
        let mut stream = added(&decoder.added, segment, embedded)?;
        let distances = decoder.distances.as_ref().map(normed_distances).transpose()?;
        let mut caches = caches.iter_mut();
        for Branch { before, body, after, joined } in decoder.layers.iter().flat_map(|layer| &layer.branches) {
            let normed = normed(&stream, before.as_ref())?;
            let mut result = match body {
                Body::Attention(attention) => {
                    let cache = caches.next().expect("a cache for each");
                    let angles = attention.rotation.map(|rotation| &angles[rotation]);
                    let far = decoder.distances.as_ref().zip(distances.as_ref());
                    attend(attention, (angles, far), cache, segment, &normed)?
                }
                Body::Dense(dense) => feed_forward(dense, &normed)?,
                Body::Experts(experts) => routed(experts, &normed)?,
            };
            result = self::normed(&result, after.as_ref())?;
            stream = self::normed(&(stream + result)?, joined.as_ref())?;
        }
        match (segment.want, &decoder.head) {
            (Want::Hidden(Pooling::Sum), _) => {
                return normed(&stream, decoder.norm.as_ref())?.sum_keepdim(0).map(Some);
            }
            (Want::Classes, Head::Classes(classes)) => {
                return classify(classes, &normed(&stream, decoder.norm.as_ref())?).map(Some);
            }
            _ => {}
        }
        let picked = segment.picked();
        let rows: Vec<u32> =
            (0..).take(segment.rows()).filter(|row| picked.contains(*row as usize, segment.rows())).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let stream = stream.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        let normed = normed(&stream, decoder.norm.as_ref())?;
        let Some(head) = decoder.logits().filter(|_| !results::wants_hidden(segment)) else { return Ok(Some(normed)) };
        let logits = normed.matmul(&head.t()?)?;
        capped(logits, decoder.logit_cap).map(Some)
    }

    fn compute(&mut self, segments: &[Segment<'_>]) -> std::result::Result<(), StepError> {
        self.rows.clear();
        for segment in segments {
            let numbers = |rows: Tensor| rows.flatten_all()?.to_vec1::<f32>();
            let rows = self.segment(segment).and_then(|rows| rows.map_or(Ok(Vec::new()), numbers));
            self.rows.extend(rows.map_err(|source| StepError::Device { backend: "candle", source: Box::new(source) })?);
        }
        Ok(())
    }
}

impl Backend for CandleBackend {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Computes the whole step, and chooses. Its weights were waited for when it was built.
    fn launch(&mut self, step: &Step<'_>, _wanted: &mut dyn FnMut(Part) -> bool) -> std::result::Result<(), StepError> {
        check(&self.limits, self.outbox.len(), step.segments)?;
        if step.generation != Generation::default() {
            return Err(StepError::Contract(format!("there are no weights of {:?}", step.generation)));
        }
        if step.segments.iter().any(|segment| matches!(segment.input, Input::Previous(_))) {
            return Err(StepError::Contract("a token of a step before, at depth 1".into()));
        }
        let begun = Instant::now();
        self.compute(step.segments)?;
        let mut results = self.outbox.begin();
        let (mut rest, vocabulary) = (&self.rows[..], self.limits.vocab_size);
        for segment in step.segments {
            let (width, is_hidden) = match (segment.want, self.limits.makes) {
                (Want::Classes, Makes::Classes(classes)) => (classes, true),
                _ if results::wants_hidden(segment) => (self.limits.hidden_size, true),
                _ => (vocabulary, false),
            };
            let own;
            (own, rest) = rest.split_at(segment.picked().count() * width);
            results.outcomes.push(if is_hidden {
                results::hidden(own)
            } else {
                results::outcome(segment, None, own, vocabulary, &mut self.scratch)
            });
        }
        self.outbox.push(results, StepTimes { compute: begun.elapsed(), choose: Duration::ZERO });
        Ok(())
    }

    fn collect(&mut self, results: &mut Results) -> std::result::Result<StepTimes, StepError> {
        self.outbox.collect(results)
    }

    fn abandon(&mut self) {
        self.outbox.clear();
    }

    /// It does not say which part it is at.
    fn report_to(&mut self, _location: &Arc<Location>) {}

    /// It has one generation for its life.
    fn install(&mut self, _weights: &Arc<dyn Prepared>) -> std::result::Result<Generation, InstallError> {
        Err(InstallError::Unsupported { backend: "candle" })
    }

    /// It has one generation.
    fn retire(&mut self, _generation: Generation) {}
}

impl Logits for CandleBackend {
    fn logits(
        &mut self,
        segments: &[Segment<'_>],
        _wanted: &mut dyn FnMut(Part) -> bool,
    ) -> std::result::Result<&[f32], StepError> {
        check(&self.limits, self.outbox.len(), segments)?;
        self.compute(segments)?;
        Ok(&self.rows)
    }
}

/// Numbers of one KV block over all layers, keys and values together.
fn kv_block_numbers(decoder: &Decoder) -> usize {
    2 * BLOCK_TOKENS * decoder.attentions().map(Attention::key_width).sum::<usize>()
}

fn copy(weight: &Weight) -> Result<Tensor> {
    while !weight.view().wait_for(PATIENCE).map_err(candle_core::Error::wrap)? {}
    let stored = |dtype| Tensor::from_raw_buffer(weight.bytes(), dtype, weight.shape(), &Device::Cpu);
    let numbers = match weight.format() {
        Format::F32 => stored(DType::F32)?,
        Format::F16 => stored(DType::F16)?.to_dtype(DType::F32)?,
        Format::Bf16 => stored(DType::BF16)?.to_dtype(DType::F32)?,
        other => {
            let numbers = blocks::numbers(other, weight.bytes());
            let numbers = numbers.ok_or_else(|| candle_core::Error::msg(format!("{other} is not read")))?;
            Tensor::from_vec(numbers, weight.shape(), &Device::Cpu)?
        }
    };
    if weight.slot().less_one { numbers + 1.0 } else { Ok(numbers) }
}

/// `cap · tanh(x / cap)` where there is a cap.
fn capped(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

fn feed_forward(dense: &Dense<Tensor>, x: &Tensor) -> Result<Tensor> {
    let Dense { width: _, activation, gate, up, down } = dense;
    let up = apply(up, x)?;
    let inner = match gate {
        Some(gate) => (activated(*activation, &apply(gate, x)?)? * up)?,
        None => activated(*activation, &up)?,
    };
    apply(down, &inner)
}

fn activated(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Tanh => x.tanh(),
    }
}

/// Embeddings of a segment's tokens, with what goes with them.
fn added(added: &Added<Tensor>, segment: &Segment<'_>, mut embedded: Tensor) -> Result<Tensor> {
    let Added { positions, types, norm } = added;
    if let Some(types) = types {
        embedded = embedded.broadcast_add(&types.narrow(0, 0, 1)?)?;
    }
    if let Some(Positions { table, first }) = positions {
        embedded = (embedded + table.narrow(0, first + segment.start, segment.rows())?)?;
    }
    normed(&embedded, norm.as_ref())
}

/// Scores of classes, (1, classes), of a sequence's rows.
fn classify(classes: &Classes<Tensor>, rows: &Tensor) -> Result<Tensor> {
    let Classes { of_mean, dense, activation, norm, output } = classes;
    let row = if *of_mean { rows.mean_keepdim(0)? } else { rows.narrow(0, 0, 1)? };
    let inner = activated(*activation, &apply(dense, &row)?)?;
    apply(output, &normed(&inner, norm.as_ref())?)
}

/// Every row through its own experts, one after the other.
fn routed(experts: &Experts<Tensor>, x: &Tensor) -> Result<Tensor> {
    let Experts { chosen, normalized, router, each } = experts;
    let scores = x.matmul(&router.t()?)?.to_vec2::<f32>()?;
    let rows = scores.iter().enumerate().map(|(row, scores)| {
        let x = x.narrow(0, row, 1)?;
        let mut sum = x.zeros_like()?;
        let mut shares = Vec::new();
        Routing::default().shares(scores, *chosen, *normalized, |expert, share| shares.push((expert, share)));
        for (expert, share) in shares {
            sum = (sum + (feed_forward(&each[expert], &x)? * f64::from(share))?)?;
        }
        Ok(sum)
    });
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
}

/// (rows, inputs) to (rows, outputs).
fn apply(linear: &Linear<Tensor>, x: &Tensor) -> Result<Tensor> {
    let out = x.matmul(&linear.weight.t()?)?;
    match &linear.bias {
        Some(bias) => out.broadcast_add(bias),
        None => Ok(out),
    }
}

/// Over the last dimension, where there is a norm.
fn normed(x: &Tensor, norm: Option<&Norm<Tensor>>) -> Result<Tensor> {
    let Some(Norm { of, weight, bias, eps }) = norm else { return Ok(x.clone()) };
    let x = match of {
        Normed::Row => x.clone(),
        Normed::Differences => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
    };
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x.broadcast_div(&(mean_square + f64::from(*eps))?.sqrt()?)?.broadcast_mul(weight)?;
    match bias {
        Some(bias) => normed.broadcast_add(bias),
        None => Ok(normed),
    }
}

/// Cosines and sines of a segment's rows: (rows, 1, width / 2).
struct Angles {
    cosines: Tensor,
    sines: Tensor,
}

impl Angles {
    fn new(Rotation { rope, width, divisors }: &Rotation<Tensor>, segment: &Segment<'_>) -> Result<Self> {
        let mut frequencies = vec![0f32; width / 2];
        let end = segment.end();
        rope.frequencies(&mut frequencies);
        let pairs = frequencies.len();
        let mut frequencies = Tensor::from_vec(frequencies, (1, pairs), &Device::Cpu)?;
        if let Some(divisors) = divisors {
            frequencies = frequencies.broadcast_div(divisors)?;
        }
        let positions: Vec<f32> = (segment.start..end).map(|position| position as f32).collect();
        let rows = positions.len();
        let positions = Tensor::from_vec(positions, (rows, 1), &Device::Cpu)?;
        let angles = positions.matmul(&frequencies)?.reshape((rows, 1, pairs))?;
        let factor = f64::from(rope.attention_factor());
        Ok(Self { cosines: (angles.cos()? * factor)?, sines: (angles.sin()? * factor)? })
    }

    /// (rows, heads, head_dim): of the first numbers element `i` of one half turns with element `i` of the other.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.cosines.dim(D::Minus1)?;
        let rest = x.dim(D::Minus1)? - 2 * half;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let turned_a = (a.broadcast_mul(&self.cosines)? - b.broadcast_mul(&self.sines)?)?;
        let turned_b = (b.broadcast_mul(&self.cosines)? + a.broadcast_mul(&self.sines)?)?;
        Tensor::cat(&[turned_a, turned_b, x.narrow(D::Minus1, 2 * half, rest)?], D::Minus1)
    }
}

/// (rows, heads, head_dim) with neighbouring pairs, reordered: their first elements, then their second.
fn halves(x: &Tensor) -> Result<Tensor> {
    let (rows, heads, head_dim) = x.dims3()?;
    x.reshape((rows, heads, head_dim / 2, 2))?.transpose(2, 3)?.contiguous()?.reshape((rows, heads, head_dim))
}

impl Cache {
    /// Stores a segment's keys and values, both (rows, kv_heads, head_dim).
    fn write(&mut self, segment: &Segment<'_>, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (stored, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            let width = new.elem_count() / segment.rows();
            for (row, numbers) in new.flatten_all()?.to_vec1::<f32>()?.chunks(width).enumerate() {
                let slot = slot(segment, segment.start + row);
                stored[slot * width..][..width].copy_from_slice(numbers);
            }
        }
        Ok(())
    }

    /// All keys and values up to the segment's end, both (kv_heads, positions, head_dim).
    fn read(&self, segment: &Segment<'_>, attention: &Attention<Tensor>) -> Result<(Tensor, Tensor)> {
        let (width, end) = (attention.key_width(), segment.end());
        let gather = |stored: &[f32]| {
            let rows = (0..end).flat_map(|position| &stored[slot(segment, position) * width..][..width]);
            let shape = (end, attention.kv_heads, attention.head_dim);
            Tensor::from_vec(rows.copied().collect(), shape, &Device::Cpu)?.transpose(0, 1)?.contiguous()
        };
        Ok((gather(&self.keys)?, gather(&self.values)?))
    }
}

/// Where a position's keys and values are kept.
fn slot(segment: &Segment<'_>, position: usize) -> usize {
    segment.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

/// Attention over the normed stream (rows, hidden); the result is added to the stream.
fn attend(
    attention: &Attention<Tensor>,
    (angles, far): (Option<&Angles>, Option<(&Distances<Tensor>, &Tensor)>),
    cache: &mut Cache,
    segment: &Segment<'_>,
    x: &Tensor,
) -> Result<Tensor> {
    let heads = |x: &Tensor, count| x.reshape((segment.rows(), count, attention.head_dim));
    let mut queries = heads(&apply(&attention.query, x)?, attention.heads)?;
    let mut keys = heads(&apply(&attention.key, x)?, attention.kv_heads)?;
    let values = heads(&apply(&attention.value, x)?, attention.kv_heads)?;
    match attention.pairs {
        Pairs::Halves => {}
        Pairs::Neighbours => (queries, keys) = (halves(&queries)?, halves(&keys)?),
    }
    queries = normed(&queries, attention.query_norm.as_ref())?;
    keys = normed(&keys, attention.key_norm.as_ref())?;
    if let Some(angles) = angles {
        (queries, keys) = (angles.rotate(&queries)?, angles.rotate(&keys)?);
    }
    if let Some(growth) = attention.growth {
        let factors: Vec<f32> = (segment.start..segment.end()).map(|position| growth.at(position)).collect();
        queries = queries.broadcast_mul(&Tensor::from_vec(factors, (segment.rows(), 1, 1), &Device::Cpu)?)?;
    }
    let far = far.map(|(distances, table)| far_scores(attention, distances, table, &queries, &keys)).transpose()?;
    cache.write(segment, &keys, &values)?;
    let (keys, values) = cache.read(segment, attention)?;
    apply(&attention.output, &mix(attention, segment.start, &queries, &keys, &values, far)?)
}

/// The table of distances, normed.
fn normed_distances(distances: &Distances<Tensor>) -> Result<Tensor> {
    normed(&distances.table, distances.norm.as_ref())
}

/// The part of scores that depends on distances, (heads, rows, rows), of queries and keys (rows, heads, head_dim).
fn far_scores(
    attention: &Attention<Tensor>,
    distances: &Distances<Tensor>,
    table: &Tensor,
    queries: &Tensor,
    keys: &Tensor,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = queries.dims3()?;
    let of =
        |linear: &Linear<Tensor>| apply(linear, table)?.reshape((table.dim(0)?, heads, head_dim))?.to_vec3::<f32>();
    let (far_keys, far_queries) = (of(&attention.key)?, of(&attention.query)?);
    let (queries, keys) = (queries.to_vec3::<f32>()?, keys.to_vec3::<f32>()?);
    let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
    let mut scores = Vec::with_capacity(heads * rows * rows);
    for head in 0..heads {
        for (row, query) in queries.iter().enumerate() {
            for (column, key) in keys.iter().enumerate() {
                let far = distances.row(row, column);
                let score = dot(&query[head], &far_keys[far][head]);
                scores.push((score + dot(&key[head], &far_queries[far][head])) * attention.scale);
            }
        }
    }
    Tensor::from_vec(scores, (heads, rows, rows), &Device::Cpu)
}

/// Queries (rows, heads, head_dim) over keys and values (kv_heads, positions, head_dim) give
/// (rows, heads · head_dim).
fn mix(
    attention: &Attention<Tensor>,
    start: usize,
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    far: Option<Tensor>,
) -> Result<Tensor> {
    let (rows, positions) = (queries.dim(0)?, keys.dim(1)?);
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let group = heads / kv_heads;
    // Query heads that share a key head lie side by side: (kv_heads, group · rows, head_dim).
    let queries = queries.transpose(0, 1)?.reshape((kv_heads, group * rows, head_dim))?;
    let scores = (queries.matmul(&keys.transpose(1, 2)?.contiguous()?)? * f64::from(attention.scale))?;
    let mut scores = capped(scores, attention.soft_cap)?.reshape((kv_heads, group, rows, positions))?;
    if let Some(far) = far {
        scores = (scores + far.unsqueeze(1)?)?;
    }
    let scores = scores.broadcast_add(&mask(start, rows, positions, attention.sees)?)?;
    let shares = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
    let mixed = shares.reshape((kv_heads, group * rows, positions))?.matmul(values)?;
    let mixed = mixed.reshape((heads, rows, head_dim))?.transpose(0, 1)?;
    mixed.reshape((rows, attention.query_width()))
}

/// Zero where a row sees a position, minus infinity elsewhere: (rows, positions).
fn mask(start: usize, rows: usize, positions: usize, sees: Sees) -> Result<Tensor> {
    let visible = |row: usize, seen: usize| {
        let position = start + row;
        match sees {
            Sees::All => seen <= position,
            Sees::Window(window) => seen <= position && position < seen + window,
            Sees::BothWays => true,
            Sees::Around(away) => position.abs_diff(seen) <= away,
        }
    };
    let hidden = |row, seen| if visible(row, seen) { 0.0 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..rows).flat_map(|row| (0..positions).map(move |seen| hidden(row, seen))).collect();
    Tensor::from_vec(mask, (rows, positions), &Device::Cpu)
}
