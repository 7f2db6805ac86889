//! The config of an encoder: the fields of decoders by other names, and what an encoder has beside.

use serde_json::Value;
use tensor::Activation;

use super::{
    Config, HEADS_MAX, HIDDEN_MAX, INTERMEDIATE_MAX, LAYERS_MAX, POSITIONS_MAX, Ropes, VOCAB_MAX, dtype, head_dim,
    ropes, windows,
};
use crate::config_error::ConfigError;
use crate::family::encoder::{EncoderRule, PositionRule, activation_named};
use crate::family::{AttentionBias, Ending, Family};
use crate::fields::Fields;
use tensor::{Rope, RopeScaling};

/// Types of tokens.
const TYPES_MAX: usize = 1 << 10;
/// Classes that a head scores.
const CLASSES_MAX: usize = 1 << 16;

/// Facts of an encoder beside those of decoders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoder {
    /// The table of positions, if there is one.
    pub positions: Option<LearnedPositions>,
    /// Embeddings of distances, if there are any.
    pub distances: Option<RelativePositions>,
    /// Types of tokens; 0 if there are no embeddings of types.
    pub types: usize,
    /// True if norms have biases.
    pub norm_bias: bool,
    /// The head that scores classes, if there is one.
    pub classes: Option<ClassHead>,
}

/// Learned embeddings of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the table.
    pub rows: usize,
    /// The row of position 0.
    pub first: usize,
}

/// Embeddings of distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativePositions {
    /// Half of the table's rows.
    pub span: usize,
    /// The distance of the last row, where far ones share rows.
    pub farthest: Option<usize>,
    /// True if the table's rows are normed.
    pub is_normed: bool,
}

/// A head that scores classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassHead {
    /// Number of classes.
    pub count: usize,
    /// True if it reads the mean of all rows, rather than the first.
    pub of_mean: bool,
    /// True if its first matrix has a bias.
    pub is_biased: bool,
    /// The function of its first matrix' result.
    pub activation: Activation,
}

/// Reads the config of an encoder.
pub(super) fn config(
    family: &'static Family,
    rule: &EncoderRule,
    fields: &Fields<'_>,
    ending: Ending,
) -> Result<Config, ConfigError> {
    refuse_other_positions(fields)?;
    let defaults = &family.defaults;
    let hidden_size = fields.size("hidden_size", HIDDEN_MAX, Some(defaults.hidden_size))?;
    let layers = fields.size("num_hidden_layers", LAYERS_MAX, Some(defaults.layers))?;
    let heads = fields.size("num_attention_heads", HEADS_MAX, Some(defaults.heads))?;
    let head_dim = head_dim(family, fields, hidden_size, heads)?;
    let rows = fields.size("max_position_embeddings", POSITIONS_MAX, Some(defaults.max_position_embeddings))?;
    let first = match rule.positions {
        PositionRule::Rotated | PositionRule::Learned | PositionRule::Distances => 0,
        PositionRule::LearnedAfterPad => 1 + fields.count("pad_token_id", VOCAB_MAX, Some(1))?,
    };
    let Some(max_position_embeddings) = rows.checked_sub(first).filter(|positions| *positions > 0) else {
        return Err(fields.wrong("max_position_embeddings", &format!("more than {first}")));
    };
    let is_rotated = rule.positions == PositionRule::Rotated;
    let has_distances = rule.positions == PositionRule::Distances;
    let has_positions = !is_rotated && (!has_distances || fields.flag("position_biased_input", true)?);
    let distances = if has_distances { Some(distances(fields, rows)?) } else { None };
    let windows = windows(family, fields, layers)?;
    if windows.iter().flatten().any(|positions| *positions < 2) {
        return Err(fields.wrong("local_attention", "at least 2"));
    }
    let turns = if is_rotated { turns(family, fields, &windows, rows, head_dim)? } else { no_turns(head_dim) };
    let bias = |name| Ok::<bool, ConfigError>(rule.is_biased || fields.flag(name, false)?);
    let attention_bias =
        rule.is_biased || family.attention_bias == AttentionBias::Configured && fields.flag("attention_bias", false)?;
    let activation = activation(fields, rule.activation, family.activation.0)?;
    let (eps, default) = rule.eps;
    Ok(Config {
        family,
        vocab_size: fields.size("vocab_size", VOCAB_MAX, Some(defaults.vocab_size))?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", INTERMEDIATE_MAX, Some(defaults.intermediate_size))?,
        layers,
        heads,
        kv_heads: heads,
        head_dim,
        max_position_embeddings,
        rms_norm_eps: fields.number(eps, 0.0, 1.0, Some(default))? as f32,
        tie_word_embeddings: false,
        query_key_value_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: bias("mlp_bias")?,
        // A row sees half of a window to each side.
        windows: windows.into_iter().map(|window| window.map(|positions| positions / 2)).collect(),
        activation,
        embedding_scale: 1.0,
        // Of a score that is a sum of three.
        attention_scale: 1.0 / ((if has_distances { 3 * head_dim } else { head_dim }) as f32).sqrt(),
        query_growth: turns.growth,
        attention_cap: None,
        logit_cap: None,
        norms_less_one: false,
        rope: turns.full,
        sliding_rope: turns.sliding,
        rotary_width: turns.width,
        rotated: vec![is_rotated; layers],
        rope_divisors: None,
        experts: None,
        prefix: "",
        ending,
        encoder: Some(Encoder {
            positions: has_positions.then_some(LearnedPositions { rows, first }),
            distances,
            types: match rule.has_types {
                false => 0,
                true => fields.count("type_vocab_size", TYPES_MAX, Some(if has_distances { 0 } else { 2 }))?,
            },
            norm_bias: bias("norm_bias")?,
            classes: if ending == Ending::Classes { Some(classes(rule, fields)?) } else { None },
        }),
        rope_adjacent_pairs: false,
        dtype: dtype(fields),
    })
}

/// Other kinds of positions than the family's own.
fn refuse_other_positions(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => Ok(()),
        Some(_) => Err(fields.wrong("position_embedding_type", "\"absolute\", or nothing")),
    }
}

/// The rotations, in either spelling.
fn turns(
    family: &Family,
    fields: &Fields<'_>,
    windows: &[Option<usize>],
    max_position: usize,
    head_dim: usize,
) -> Result<Ropes, ConfigError> {
    let mut turns = ropes(family, fields, windows, max_position, head_dim)?;
    let theta = |name, now| fields.number(name, 1.0, 1e18, Some(now));
    turns.full.theta = theta("global_rope_theta", turns.full.theta)?;
    if let Some(sliding) = &mut turns.sliding {
        sliding.theta = theta("local_rope_theta", sliding.theta)?;
    }
    Ok(turns)
}

/// The embeddings of distances, in the form that all published models of version 3 have.
fn distances(fields: &Fields<'_>, rows: usize) -> Result<RelativePositions, ConfigError> {
    for name in ["relative_attention", "share_att_key"] {
        if !fields.flag(name, false)? {
            return Err(fields.wrong(name, "true: other forms are not supported"));
        }
    }
    let kinds: Vec<&str> = match fields.get("pos_att_type") {
        Some(Value::String(text)) => text.split('|').map(str::trim).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if kinds.len() != 2 || !["c2p", "p2c"].iter().all(|kind| kinds.contains(kind)) {
        return Err(fields.wrong("pos_att_type", "c2p and p2c: other forms are not supported"));
    }
    // Not above 0: as many as positions.
    let above = |name| fields.number(name, -1.0, POSITIONS_MAX as f64, Some(-1.0)).map(|number| number as i64);
    let farthest = usize::try_from(above("max_relative_positions")?).ok().filter(|number| *number > 0).unwrap_or(rows);
    let buckets = usize::try_from(above("position_buckets")?).ok().filter(|number| *number > 0);
    let is_normed = match fields.text("norm_rel_ebd")? {
        None | Some("none") => false,
        Some("layer_norm") => true,
        Some(_) => return Err(fields.wrong("norm_rel_ebd", "layer_norm or none")),
    };
    match buckets {
        None => Ok(RelativePositions { span: farthest, farthest: None, is_normed }),
        // Logarithms of what is above one, and divisions by what is not zero.
        Some(span) if span >= 4 && farthest > span / 2 + 1 => {
            Ok(RelativePositions { span, farthest: Some(farthest), is_normed })
        }
        Some(_) => Err(fields.wrong("position_buckets", "at least 4, and less than twice max_relative_positions")),
    }
}

fn no_turns(head_dim: usize) -> Ropes {
    Ropes {
        full: Rope { theta: 10_000.0, scaling: RopeScaling::Default },
        sliding: None,
        width: head_dim,
        growth: None,
    }
}

fn activation(fields: &Fields<'_>, name: &str, default: Activation) -> Result<Activation, ConfigError> {
    let Some(named) = fields.text(name)? else { return Ok(default) };
    activation_named(named).ok_or_else(|| fields.wrong(name, "gelu, gelu_new, relu, silu or tanh"))
}

fn classes(rule: &EncoderRule, fields: &Fields<'_>) -> Result<ClassHead, ConfigError> {
    let named = fields.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let count = fields.size("num_labels", CLASSES_MAX, Some(named.unwrap_or(2)))?;
    if !(1..=CLASSES_MAX).contains(&count) {
        return Err(fields.wrong("id2label", &format!("from 1 to {CLASSES_MAX} names")));
    }
    let named = if fields.get("pooler_hidden_act").is_some() { "pooler_hidden_act" } else { "classifier_activation" };
    let of_mean = match fields.text("classifier_pooling")? {
        None | Some("cls") => false,
        Some("mean") => true,
        Some(_) => return Err(fields.wrong("classifier_pooling", "\"cls\" or \"mean\"")),
    };
    Ok(ClassHead {
        count,
        of_mean,
        is_biased: rule.is_biased || fields.flag("classifier_bias", false)?,
        activation: activation(fields, named, rule.classes.activation)?,
    })
}
