//! One description of a decoder for the whole family: Llama, Mistral, Qwen2, Qwen3.
//!
//! A [`Decoder`] is data: which tensors there are, under which names, of which shapes, and the few
//! switches that differ. Interpreters (`backend::cpu`, `backend::candle`) compute it; nothing here
//! computes anything, and nothing here knows where the bytes came from.
//!
//! The arithmetic every interpreter performs, in order: embed; per layer: RMS norm, queries, keys
//! and values (with biases where there are any), per-head norms of queries and keys where there are
//! any, rotation (the halves of a head are the pairs' two coordinates), causal attention over the
//! layer's window, output projection added to the stream, RMS norm, `down(silu(gate) · up)` added
//! to the stream; then the final norm and the head.

use std::convert::Infallible;

use loader::Weights;

use crate::bind::{self, BindError};
use crate::config::Config;
use tensor::{Slot, Weight};

/// A matrix and, where there is one, its bias.
#[derive(Debug, Clone)]
pub struct Linear<W> {
    /// Shape (outputs, inputs): row-major, as stored.
    pub weight: W,
    /// Shape (outputs).
    pub bias: Option<W>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct Layer<W> {
    /// Shape (hidden): before attention.
    pub attention_norm: W,
    /// Shape (heads · head_dim, hidden).
    pub query: Linear<W>,
    /// Shape (kv_heads · head_dim, hidden).
    pub key: Linear<W>,
    /// Shape (kv_heads · head_dim, hidden).
    pub value: Linear<W>,
    /// Shape (head_dim): norm of every query head, where the family has one.
    pub query_norm: Option<W>,
    /// Shape (head_dim): norm of every key head, where the family has one.
    pub key_norm: Option<W>,
    /// Shape (hidden, heads · head_dim).
    pub output: Linear<W>,
    /// Shape (hidden): before the feed-forward part.
    pub feed_forward_norm: W,
    /// Shape (intermediate, hidden).
    pub gate: Linear<W>,
    /// Shape (intermediate, hidden).
    pub up: Linear<W>,
    /// Shape (hidden, intermediate).
    pub down: Linear<W>,
    /// How many positions a row sees, itself included; all if none.
    pub window: Option<usize>,
}

/// A decoder whose tensors are `W`: names and shapes ([`Slot`]), views of mapped memory
/// ([`Weight`]), or whatever an interpreter makes of them.
#[derive(Debug, Clone)]
pub struct Decoder<W = Weight> {
    /// Sizes and switches.
    pub config: Config,
    /// Shape (vocab, hidden).
    pub embeddings: W,
    /// The layers, first to last.
    pub layers: Vec<Layer<W>>,
    /// Shape (hidden): before the head.
    pub norm: W,
    /// Shape (vocab, hidden); none if the head is the embedding table.
    pub head: Option<W>,
}

impl Decoder<Slot> {
    /// Which tensors a model of this config has.
    #[must_use]
    pub fn describe(config: &Config) -> Self {
        let embedding = [config.vocab_size, config.hidden_size];
        Self {
            config: config.clone(),
            embeddings: Slot::new("model.embed_tokens.weight", &embedding),
            layers: (0..config.layers).map(|index| describe_layer(config, index)).collect(),
            norm: Slot::new("model.norm.weight", &[config.hidden_size]),
            head: (!config.tie_word_embeddings).then(|| Slot::new("lm_head.weight", &embedding)),
        }
    }
}

fn describe_layer(config: &Config, index: usize) -> Layer<Slot> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, kv) = (config.query_width(), config.kv_width());
    let norm = |name: &str, width| Slot::new(&format!("model.layers.{index}.{name}.weight"), &[width]);
    let linear = |name: &str, outputs, inputs, bias: bool| Linear {
        weight: Slot::new(&format!("model.layers.{index}.{name}.weight"), &[outputs, inputs]),
        bias: bias.then(|| Slot::new(&format!("model.layers.{index}.{name}.bias"), &[outputs])),
    };
    let head_norm = |name| config.family.query_key_norm.then(|| norm(name, config.head_dim));
    Layer {
        attention_norm: norm("input_layernorm", hidden),
        query: linear("self_attn.q_proj", query, hidden, config.query_key_value_bias),
        key: linear("self_attn.k_proj", kv, hidden, config.query_key_value_bias),
        value: linear("self_attn.v_proj", kv, hidden, config.query_key_value_bias),
        query_norm: head_norm("self_attn.q_norm"),
        key_norm: head_norm("self_attn.k_norm"),
        output: linear("self_attn.o_proj", hidden, query, config.output_bias),
        feed_forward_norm: norm("post_attention_layernorm", hidden),
        gate: linear("mlp.gate_proj", inner, hidden, config.mlp_bias),
        up: linear("mlp.up_proj", inner, hidden, config.mlp_bias),
        down: linear("mlp.down_proj", hidden, inner, config.mlp_bias),
        window: config.windows[index],
    }
}

impl Decoder {
    /// Joins a config with the tensors it describes. Copies nothing: the decoder shares the mapped
    /// regions.
    ///
    /// # Errors
    /// A tensor is missing, has another shape or a dtype that kernels do not read; or there is a
    /// tensor that the config does not describe (save for a few known leftovers, see
    /// [`crate::is_leftover`]). The error names it.
    pub fn bind(config: &Config, weights: &Weights) -> Result<Self, BindError> {
        let described = Decoder::<Slot>::describe(config);
        let decoder = described.try_map(|slot| bind::fill(slot, weights))?;
        bind::refuse_extras(&described, weights)?;
        Ok(decoder)
    }
}

impl<W> Decoder<W> {
    /// The decoder with every tensor replaced; the first error ends it. Visits in execution order.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<V, E>(&self, mut make: impl FnMut(&W) -> Result<V, E>) -> Result<Decoder<V>, E> {
        Ok(Decoder {
            config: self.config.clone(),
            embeddings: make(&self.embeddings)?,
            layers: self.layers.iter().map(|layer| layer.try_map(&mut make)).collect::<Result<_, E>>()?,
            norm: make(&self.norm)?,
            head: self.head.as_ref().map(&mut make).transpose()?,
        })
    }

    /// Every tensor, in execution order.
    #[must_use]
    pub fn tensors(&self) -> Vec<&W> {
        let layers = self.layers.iter().flat_map(Layer::tensors);
        [&self.embeddings].into_iter().chain(layers).chain([&self.norm]).chain(&self.head).collect()
    }

    /// The matrix that makes logits: (vocab, hidden).
    #[must_use]
    pub fn head(&self) -> &W {
        self.head.as_ref().unwrap_or(&self.embeddings)
    }
}

impl<W> Layer<W> {
    /// The layer with every tensor replaced.
    pub fn map<V>(&self, make: &mut impl FnMut(&W) -> V) -> Layer<V> {
        match self.try_map(&mut |tensor| Ok::<V, Infallible>(make(tensor))) {
            Ok(layer) => layer,
        }
    }

    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Layer<V>, E> {
        let attention_norm = make(&self.attention_norm)?;
        let query = self.query.try_map(make)?;
        let key = self.key.try_map(make)?;
        let value = self.value.try_map(make)?;
        Ok(Layer {
            attention_norm,
            query,
            key,
            value,
            query_norm: self.query_norm.as_ref().map(&mut *make).transpose()?,
            key_norm: self.key_norm.as_ref().map(&mut *make).transpose()?,
            output: self.output.try_map(make)?,
            feed_forward_norm: make(&self.feed_forward_norm)?,
            gate: self.gate.try_map(make)?,
            up: self.up.try_map(make)?,
            down: self.down.try_map(make)?,
            window: self.window,
        })
    }

    /// Every tensor of the layer.
    pub fn tensors(&self) -> Vec<&W> {
        let Self { attention_norm, query, key, value, query_norm, key_norm, .. } = self;
        let Self { output, feed_forward_norm, gate, up, down, .. } = self;
        let mut tensors = vec![attention_norm, feed_forward_norm];
        tensors.extend(query_norm.iter().chain(key_norm));
        for linear in [query, key, value, output, gate, up, down] {
            tensors.push(&linear.weight);
            tensors.extend(&linear.bias);
        }
        tensors
    }
}

impl<W> Linear<W> {
    fn try_map<V, E>(&self, make: &mut impl FnMut(&W) -> Result<V, E>) -> Result<Linear<V>, E> {
        Ok(Linear { weight: make(&self.weight)?, bias: self.bias.as_ref().map(make).transpose()? })
    }
}

#[cfg(test)]
mod tests;
