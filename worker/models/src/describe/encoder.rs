//! From the config of an encoder to a description of it.

use tensor::{
    Added, Attention, Body, Branch, Classes, Decoder, Dense, Distances, Head, Layer, Linear, Norm, Normed, Pairs,
    Positions, Rows, Sees, Slot,
};

use super::rotations;
use crate::config::{Config, Encoder};
use crate::family::NormRule;
use crate::family::encoder::{EncoderRule, PositionRule};

/// The encoder of this config, each tensor a name and a shape.
pub(super) fn describe(config: &Config, rule: &EncoderRule, encoder: &Encoder) -> Decoder<Slot> {
    let writer = Writer { config, rule, encoder };
    let table = |name: &str, rows| Slot::new(&format!("{}{name}.weight", rule.level), &[rows, config.hidden_size]);
    let positions = encoder.positions.map(|positions| Positions {
        table: table("embeddings.position_embeddings", positions.rows),
        first: positions.first,
    });
    Decoder {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_position: config.max_position(),
        embeddings: table(rule.embeddings, config.vocab_size),
        embedding_scale: 1.0,
        added: Added {
            positions,
            types: (encoder.types > 0).then(|| table("embeddings.token_type_embeddings", encoder.types)),
            norm: Some(writer.norm(rule.level, rule.embedding_norm)),
        },
        rotations: if rule.positions == PositionRule::Rotated { rotations(config) } else { Vec::new() },
        distances: encoder.distances.map(|distances| Distances {
            table: table("encoder.rel_embeddings", 2 * distances.span),
            norm: distances.is_normed.then(|| writer.norm(rule.level, "encoder.LayerNorm")),
            span: distances.span,
            farthest: distances.farthest,
        }),
        layers: (0..config.layers).map(|index| writer.layer(index)).collect(),
        norm: (!rule.norm.is_empty()).then(|| writer.norm(rule.level, rule.norm)),
        head: writer.head(),
        logit_cap: None,
    }
}

struct Writer<'a> {
    config: &'a Config,
    rule: &'a EncoderRule,
    encoder: &'a Encoder,
}

impl Writer<'_> {
    fn layer(&self, index: usize) -> Layer<Slot> {
        let stem = format!("{}{}.{index}.", self.rule.level, self.rule.layers);
        let bodies = [Body::Attention(self.attention(&stem, index)), Body::Dense(self.dense(&stem))];
        let branches = bodies.into_iter().zip(self.rule.norms).enumerate().map(|(place, (body, name))| {
            let norm = Some(self.norm(&stem, name));
            let (before, joined) = match self.config.family.norms {
                NormRule::Joined => (None, norm),
                NormRule::BeforeAllButFirst if index == 0 && place == 0 => (None, None),
                NormRule::Before | NormRule::Around | NormRule::BeforeAllButFirst => (norm, None),
            };
            Branch { before, body, after: None, joined }
        });
        Layer { branches: branches.collect() }
    }

    fn attention(&self, stem: &str, index: usize) -> Attention<Slot> {
        let config = self.config;
        let (hidden, width, bias) = (config.hidden_size, config.query_width(), config.query_key_value_bias);
        let input = |place: usize| match self.rule.inputs {
            [fused] => rows(&format!("{stem}{fused}"), [width, hidden], place, 3 * width, bias),
            apart => linear(&format!("{stem}{}", apart[place]), [width, hidden], bias),
        };
        let own_rope = usize::from(config.sliding_rope.is_some() && config.windows[index].is_some());
        Attention {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            query: input(0),
            key: input(1),
            value: input(2),
            query_norm: None,
            key_norm: None,
            output: linear(&format!("{stem}{}", self.rule.output), [hidden, width], config.output_bias),
            rotation: config.rotated[index].then_some(own_rope),
            pairs: Pairs::Halves,
            scale: config.attention_scale,
            growth: config.query_growth,
            soft_cap: None,
            sees: config.windows[index].map_or(Sees::BothWays, Sees::Around),
        }
    }

    fn dense(&self, stem: &str) -> Dense<Slot> {
        let config = self.config;
        let (hidden, width, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let up = format!("{stem}{}", self.rule.up);
        let (gate, up) = if self.rule.is_gated {
            let part = |place| rows(&up, [width, hidden], place, 2 * width, bias);
            (Some(part(0)), part(1))
        } else {
            (None, linear(&up, [width, hidden], bias))
        };
        let down = linear(&format!("{stem}{}", self.rule.down), [hidden, width], bias);
        Dense { width, activation: config.activation, gate, up, down }
    }

    fn head(&self) -> Head<Slot> {
        let Some(classes) = &self.encoder.classes else { return Head::Nothing };
        let (hidden, rule) = (self.config.hidden_size, &self.rule.classes);
        Head::Classes(Box::new(Classes {
            of_mean: classes.of_mean,
            dense: linear(rule.dense, [hidden, hidden], classes.is_biased),
            activation: classes.activation,
            norm: (!rule.norm.is_empty()).then(|| self.norm("", rule.norm)),
            output: linear(rule.output, [classes.count, hidden], true),
        }))
    }

    fn norm(&self, stem: &str, name: &str) -> Norm<Slot> {
        let slot = |part: &str| Slot::new(&format!("{stem}{name}.{part}"), &[self.config.hidden_size]);
        Norm {
            of: Normed::Differences,
            weight: slot("weight"),
            bias: self.encoder.norm_bias.then(|| slot("bias")),
            eps: self.config.rms_norm_eps,
        }
    }
}

fn linear(name: &str, [outputs, inputs]: [usize; 2], bias: bool) -> Linear<Slot> {
    Linear {
        weight: Slot::new(&format!("{name}.weight"), &[outputs, inputs]),
        bias: bias.then(|| Slot::new(&format!("{name}.bias"), &[outputs])),
    }
}

/// One of several matrices that are rows of one, by its place among them.
fn rows(name: &str, [outputs, inputs]: [usize; 2], place: usize, of: usize, bias: bool) -> Linear<Slot> {
    let rows = Rows { first: place * outputs, of };
    Linear {
        weight: Slot::rows(&format!("{name}.weight"), &[outputs, inputs], rows),
        bias: bias.then(|| Slot::rows(&format!("{name}.bias"), &[outputs], rows)),
    }
}
