//! From a config to a description of its decoder: which tensors, under which names, of which shapes.
//!
//! It knows the names that `transformers` gives to the tensors of Llama, Mistral, Qwen2 and Qwen3, and no byte.

use tensor::{Attention, Body, Branch, Decoder, Dense, Layer, Linear, Norm, Pairs, Rotation, Sees, Slot};

use crate::config::Config;

/// The decoder of this config, each tensor a name and a shape.
#[must_use]
pub fn describe(config: &Config) -> Decoder<Slot> {
    let embedding = [config.vocab_size, config.hidden_size];
    Decoder {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_position: config.max_position(),
        embeddings: Slot::new("model.embed_tokens.weight", &embedding),
        rotations: vec![Rotation { rope: config.rope.clone(), width: config.head_dim }],
        layers: (0..config.layers).map(|index| layer(config, index)).collect(),
        norm: norm(config, "model.norm", config.hidden_size),
        head: (!config.tie_word_embeddings).then(|| Slot::new("lm_head.weight", &embedding)),
    }
}

fn layer(config: &Config, index: usize) -> Layer<Slot> {
    let stem = format!("model.layers.{index}");
    let branch =
        |name: &str, body| Branch { before: norm(config, &format!("{stem}.{name}"), config.hidden_size), body };
    let attention = Body::Attention(attention(config, &stem, config.windows[index]));
    let dense = Body::Dense(dense(config, &stem));
    Layer { branches: vec![branch("input_layernorm", attention), branch("post_attention_layernorm", dense)] }
}

fn attention(config: &Config, stem: &str, window: Option<usize>) -> Attention<Slot> {
    let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
    let inputs = |name: &str, outputs| linear(stem, name, [outputs, hidden], config.query_key_value_bias);
    let head_norm =
        |name: &str| config.family.query_key_norm.then(|| norm(config, &format!("{stem}.{name}"), config.head_dim));
    Attention {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        query: inputs("self_attn.q_proj", query),
        key: inputs("self_attn.k_proj", kv),
        value: inputs("self_attn.v_proj", kv),
        query_norm: head_norm("self_attn.q_norm"),
        key_norm: head_norm("self_attn.k_norm"),
        output: linear(stem, "self_attn.o_proj", [hidden, query], config.output_bias),
        rotation: 0,
        pairs: if config.rope_adjacent_pairs { Pairs::Neighbours } else { Pairs::Halves },
        scale: 1.0 / (config.head_dim as f32).sqrt(),
        sees: window.map_or(Sees::All, Sees::Window),
    }
}

fn dense(config: &Config, stem: &str) -> Dense<Slot> {
    let (hidden, width) = (config.hidden_size, config.intermediate_size);
    Dense {
        width,
        gate: linear(stem, "mlp.gate_proj", [width, hidden], config.mlp_bias),
        up: linear(stem, "mlp.up_proj", [width, hidden], config.mlp_bias),
        down: linear(stem, "mlp.down_proj", [hidden, width], config.mlp_bias),
    }
}

fn norm(config: &Config, stem: &str, width: usize) -> Norm<Slot> {
    Norm { weight: Slot::new(&format!("{stem}.weight"), &[width]), eps: config.rms_norm_eps }
}

fn linear(stem: &str, name: &str, [outputs, inputs]: [usize; 2], bias: bool) -> Linear<Slot> {
    Linear {
        weight: Slot::new(&format!("{stem}.{name}.weight"), &[outputs, inputs]),
        bias: bias.then(|| Slot::new(&format!("{stem}.{name}.bias"), &[outputs])),
    }
}
