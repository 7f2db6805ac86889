//! From a config to a description of its decoder or encoder: which tensors, under which names, of which shapes.
//!
//! It knows the names that `transformers` gives to the tensors of the families in `family`, and no byte.

mod encoder;

use tensor::{
    Added, Attention, Body, Branch, Decoder, Dense, Experts, Head, Layer, Linear, Norm, Normed, Pairs, Rotation, Rows,
    Sees, Slot,
};

use crate::config::{Config, RoutedParts};
use crate::family::{Ending, ExpertRule, NormRule, Projections};

/// The model of this config, each tensor a name and a shape.
#[must_use]
pub fn describe(config: &Config) -> Decoder<Slot> {
    if let (Some(rule), Some(encoder)) = (&config.family.encoder, &config.encoder) {
        return encoder::describe(config, rule, encoder);
    }
    let embedding = [config.vocab_size, config.hidden_size];
    let prefix = config.prefix;
    Decoder {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_position: config.max_position(),
        embeddings: Slot::new(&format!("{prefix}model.embed_tokens.weight"), &embedding),
        embedding_scale: config.embedding_scale,
        added: Added::default(),
        rotations: rotations(config),
        distances: None,
        layers: (0..config.layers).map(|index| layer(config, index)).collect(),
        norm: Some(norm(config, &format!("{prefix}model.norm"), config.hidden_size)),
        head: match config.ending {
            Ending::Logits if config.tie_word_embeddings => Head::Tied,
            Ending::Logits => Head::Own(Slot::new(&format!("{prefix}lm_head.weight"), &embedding)),
            Ending::States | Ending::Classes => Head::Nothing,
        },
        logit_cap: config.logit_cap,
    }
}

/// The rotation of layers that see everything, then that of layers with a window, where it is another.
fn rotations(config: &Config) -> Vec<Rotation<Slot>> {
    let width = config.rotary_width;
    let divisors = config.rope_divisors.as_ref().map(|name| Slot::new(name, &[width / 2]));
    let full = Rotation { rope: config.rope.clone(), width, divisors };
    let sliding = config.sliding_rope.iter().map(|rope| Rotation { rope: rope.clone(), width, divisors: None });
    [full].into_iter().chain(sliding).collect()
}

fn layer(config: &Config, index: usize) -> Layer<Slot> {
    let stem = format!("{}model.layers.{index}", config.prefix);
    let norm = |name: &str| norm(config, &format!("{stem}.{name}"), config.hidden_size);
    let attention = Body::Attention(attention(config, &stem, index));
    let dense = match (&config.experts, config.family.experts) {
        (Some(parts), Some(rule)) if parts.layers[index] => Body::Experts(experts(config, parts, &rule, &stem)),
        _ => Body::Dense(dense(config, &stem)),
    };
    let branch = |before: &str, body, after: Option<&str>| Branch {
        before: Some(norm(before)),
        body,
        after: after.map(norm),
        joined: None,
    };
    let branches = match config.family.norms {
        // The latter are of encoders.
        NormRule::Before | NormRule::Joined | NormRule::BeforeAllButFirst => {
            vec![branch("input_layernorm", attention, None), branch("post_attention_layernorm", dense, None)]
        }
        NormRule::Around => vec![
            branch("input_layernorm", attention, Some("post_attention_layernorm")),
            branch("pre_feedforward_layernorm", dense, Some("post_feedforward_layernorm")),
        ],
    };
    Layer { branches }
}

fn attention(config: &Config, stem: &str, layer: usize) -> Attention<Slot> {
    let (hidden, query, kv) = (config.hidden_size, config.query_width(), config.kv_width());
    let inputs = |name: &str, outputs, first| {
        let fused = ("self_attn.qkv_proj", Rows { first, of: query + 2 * kv });
        linear(config, stem, (name, fused), [outputs, hidden], config.query_key_value_bias)
    };
    let head_norm =
        |name: &str| config.family.query_key_norm.then(|| norm(config, &format!("{stem}.{name}"), config.head_dim));
    let window = config.windows[layer];
    let own_rope = usize::from(config.sliding_rope.is_some() && window.is_some());
    Attention {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        query: inputs("self_attn.q_proj", query, 0),
        key: inputs("self_attn.k_proj", kv, query),
        value: inputs("self_attn.v_proj", kv, query + kv),
        query_norm: head_norm("self_attn.q_norm"),
        key_norm: head_norm("self_attn.k_norm"),
        output: apart(stem, "self_attn.o_proj", [hidden, query], config.output_bias),
        rotation: config.rotated[layer].then_some(own_rope),
        pairs: if config.rope_adjacent_pairs { Pairs::Neighbours } else { Pairs::Halves },
        scale: config.attention_scale,
        growth: config.query_growth,
        soft_cap: config.attention_cap,
        sees: window.map_or(Sees::All, Sees::Window),
    }
}

fn dense(config: &Config, stem: &str) -> Dense<Slot> {
    let (hidden, width) = (config.hidden_size, config.intermediate_size);
    let inner = |name: &str, first| {
        let fused = ("mlp.gate_up_proj", Rows { first, of: 2 * width });
        linear(config, stem, (name, fused), [width, hidden], config.mlp_bias)
    };
    Dense {
        width,
        activation: config.activation,
        gate: Some(inner("mlp.gate_proj", 0)),
        up: inner("mlp.up_proj", width),
        down: apart(stem, "mlp.down_proj", [hidden, width], config.mlp_bias),
    }
}

fn experts(config: &Config, parts: &RoutedParts, rule: &ExpertRule, stem: &str) -> Experts<Slot> {
    let &RoutedParts { count, chosen, width, normalized, stacked, .. } = parts;
    let hidden = config.hidden_size;
    // Files that stack them name all families' alike.
    let (stem, names) = if stacked {
        (format!("{stem}.mlp"), ["gate_proj", "up_proj", "down_proj"])
    } else {
        (format!("{stem}.{}", rule.stem), rule.names)
    };
    let one = |expert: usize| {
        let linear = |name: &str, shape: [usize; 2]| {
            let weight = if stacked {
                let rows = Rows { first: expert * shape[0], of: count * shape[0] };
                Slot::rows(&format!("{stem}.experts.{name}.weight"), &shape, rows)
            } else {
                Slot::new(&format!("{stem}.experts.{expert}.{name}.weight"), &shape)
            };
            Linear { weight, bias: None }
        };
        let [gate, up, down] = names;
        Dense {
            width,
            activation: config.activation,
            gate: Some(linear(gate, [width, hidden])),
            up: linear(up, [width, hidden]),
            down: linear(down, [hidden, width]),
        }
    };
    let router = Slot::new(&format!("{stem}.gate.weight"), &[count, hidden]);
    Experts { chosen, normalized, router, each: (0..count).map(one).collect() }
}

fn norm(config: &Config, stem: &str, width: usize) -> Norm<Slot> {
    let weight = Slot { less_one: config.norms_less_one, ..Slot::new(&format!("{stem}.weight"), &[width]) };
    Norm { of: Normed::Row, weight, bias: None, eps: config.rms_norm_eps }
}

/// A matrix of its own, or rows of one that the family stores for several.
fn linear(
    config: &Config,
    stem: &str,
    (name, (fused, rows)): (&str, (&str, Rows)),
    shape: [usize; 2],
    bias: bool,
) -> Linear<Slot> {
    match config.family.projections {
        Projections::Apart => apart(stem, name, shape, bias),
        Projections::Fused => Linear {
            weight: Slot::rows(&format!("{stem}.{fused}.weight"), &shape, rows),
            bias: bias.then(|| Slot::rows(&format!("{stem}.{fused}.bias"), &shape[..1], rows)),
        },
    }
}

fn apart(stem: &str, name: &str, [outputs, inputs]: [usize; 2], bias: bool) -> Linear<Slot> {
    Linear {
        weight: Slot::new(&format!("{stem}.{name}.weight"), &[outputs, inputs]),
        bias: bias.then(|| Slot::new(&format!("{stem}.{name}.bias"), &[outputs])),
    }
}
