//! `config.json` as Hugging Face publishes it, read into numbers that fit together.
//!
//! A config is foreign bytes: every number here is bounded and consistent with the others, so that
//! no later product of sizes overflows and no later division is by zero. Both of today's and
//! yesterday's spellings are read (`rope_parameters` / `rope_theta` + `rope_scaling`, `dtype` /
//! `torch_dtype`); what we cannot compute is an error that names it. It knows no tensor.

mod encoder;

pub use encoder::{ClassHead, Encoder, LearnedPositions, RelativePositions};

use serde_json::{Map, Value};

use super::config_error::{CONFIG_BYTES_MAX, ConfigError};
use super::family::{self, AttentionBias, Ending, Family, NormRule, SEEING, WindowRule};
use super::fields::Fields;
use super::known::{self, ADJACENT, DIVISORS, STACKED, WHOLE_NORMS};
use tensor::{Activation, Format, Growth, HEAD_DIM_MAX, Rope, RopeScaling, Yarn};

const VOCAB_MAX: usize = 1 << 22;
const HIDDEN_MAX: usize = 1 << 17;
const INTERMEDIATE_MAX: usize = 1 << 19;
const LAYERS_MAX: usize = 1 << 10;
const HEADS_MAX: usize = 1 << 10;
/// Experts of a layer.
const EXPERTS_MAX: usize = 1 << 12;
/// Experts of all layers: three times those of the largest models.
const ALL_EXPERTS_MAX: usize = 1 << 16;
const POSITIONS_MAX: usize = 1 << 27;
const SCALE_MAX: f64 = 1e6;

/// Routed feed-forward parts.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedParts {
    /// Their number in a layer.
    pub count: usize,
    /// Number of those that a row goes to.
    pub chosen: usize,
    /// Their inner width.
    pub width: usize,
    /// True if the shares of a row's experts are scaled to a sum of one.
    pub normalized: bool,
    /// True if a tensor holds those of a layer one after the other.
    pub stacked: bool,
    /// Per layer: true if it has them, and not one feed-forward part.
    pub layers: Vec<bool>,
}

/// A decoder's sizes and switches. Every size is at least 1 and bounded; `heads` is a multiple of
/// `kv_heads`, `head_dim` is even.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family: a row of the table of families.
    pub family: &'static Family,
    /// Rows of the embedding table; logits per position.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions the model was trained for, as the config says.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// True if the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// True if queries, keys and values have a bias.
    pub query_key_value_bias: bool,
    /// True if the attention's output has a bias.
    pub output_bias: bool,
    /// True if the feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// Per layer: how many positions it sees, itself included; all if none.
    pub windows: Vec<Option<usize>>,
    /// The function of gates.
    pub activation: Activation,
    /// The factor of embeddings.
    pub embedding_scale: f32,
    /// The factor of scores.
    pub attention_scale: f32,
    /// Queries that are longer the later they come.
    pub query_growth: Option<Growth>,
    /// The soft cap of scores.
    pub attention_cap: Option<f32>,
    /// The soft cap of logits.
    pub logit_cap: Option<f32>,
    /// True if norms are stored less one.
    pub norms_less_one: bool,
    /// The rotation.
    pub rope: Rope,
    /// The rotation of layers with a window, where it is another.
    pub sliding_rope: Option<Rope>,
    /// Numbers of a head that turn, the first ones.
    pub rotary_width: usize,
    /// Per layer: true if queries and keys are rotated.
    pub rotated: Vec<bool>,
    /// The tensor that has the divisors of the rotation's frequencies, if there is one.
    pub rope_divisors: Option<String>,
    /// Routed feed-forward parts.
    pub experts: Option<RoutedParts>,
    /// The level that the names of tensors are at, in a model that sees: empty, or ending in a dot.
    pub prefix: &'static str,
    /// The end of the model.
    pub ending: Ending,
    /// Further facts of an encoder; none of decoders.
    pub encoder: Option<Encoder>,
    /// True if the pairs of the rotation are neighbouring rows of queries and keys, as llama.cpp's converter orders those of
    /// Llama, rather than the two halves of a head.
    pub rope_adjacent_pairs: bool,
    /// The dtype the config declares, if it is one that kernels read. Tensors decide, not this.
    pub dtype: Option<Format>,
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// It is not JSON, a field is missing, of another type or out of bounds, or it names an
    /// architecture, activation, RoPE type or quantization that is not supported.
    pub fn parse(config_json: &[u8]) -> Result<Self, ConfigError> {
        if config_json.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge { bytes: config_json.len() });
        }
        let value: Value = serde_json::from_slice(config_json).map_err(ConfigError::Json)?;
        let Value::Object(map) = &value else { return Err(ConfigError::NotAnObject) };
        let fields = Fields::new("", map);
        match text_part(&fields, map)? {
            None => Self::of_fields(&fields, ""),
            Some(text) => Self::of_fields(&Fields::new("text_config", &text), "language_model."),
        }
    }

    fn of_fields(fields: &Fields<'_>, prefix: &'static str) -> Result<Self, ConfigError> {
        let (family, ending) = family(fields)?;
        refuse_what_we_cannot_compute(family, fields)?;
        known::refuse_unknown(fields, family.reads)?;
        match &family.encoder {
            None => Ok(Self { prefix, ending, ..Self::of_family(family, fields)? }),
            Some(rule) => encoder::config(family, rule, fields, ending),
        }
    }

    /// The first field in which two configs differ as far as a computation is concerned.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        // Named one by one: a field added to the config must be thought of here too.
        let Self { family, vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, .. } = self;
        let Self { max_position_embeddings, rms_norm_eps, tie_word_embeddings, query_key_value_bias, .. } = self;
        let Self { output_bias, mlp_bias, windows, rope, rope_adjacent_pairs, dtype: _, prefix: _, .. } = self;
        let Self { activation, embedding_scale, attention_scale, query_growth, attention_cap, logit_cap, .. } = self;
        let Self { norms_less_one: _, sliding_rope, rotary_width, rotated, rope_divisors, experts, .. } = self;
        let Self { ending, encoder, .. } = self;
        let fields = [
            ("architectures", family.architecture == other.family.architecture),
            ("vocab_size", *vocab_size == other.vocab_size),
            ("hidden_size", *hidden_size == other.hidden_size),
            ("intermediate_size", *intermediate_size == other.intermediate_size),
            ("num_hidden_layers", *layers == other.layers),
            ("num_attention_heads", *heads == other.heads),
            ("num_key_value_heads", *kv_heads == other.kv_heads),
            ("head_dim", *head_dim == other.head_dim),
            ("max_position_embeddings", *max_position_embeddings == other.max_position_embeddings),
            ("rms_norm_eps", rms_norm_eps.to_bits() == other.rms_norm_eps.to_bits()),
            ("tie_word_embeddings", *tie_word_embeddings == other.tie_word_embeddings),
            ("attention_bias", *query_key_value_bias == other.query_key_value_bias),
            ("attention_bias", *output_bias == other.output_bias),
            ("mlp_bias", *mlp_bias == other.mlp_bias),
            ("sliding_window", *windows == other.windows),
            ("hidden_act", *activation == other.activation),
            ("the factor of embeddings", *embedding_scale == other.embedding_scale),
            ("query_pre_attn_scalar", *attention_scale == other.attention_scale),
            (known::GROWTH, *query_growth == other.query_growth),
            ("attn_logit_softcapping", *attention_cap == other.attention_cap),
            ("final_logit_softcapping", *logit_cap == other.logit_cap),
            ("rope_parameters", (rope, sliding_rope) == (&other.rope, &other.sliding_rope)),
            ("partial_rotary_factor", *rotary_width == other.rotary_width),
            ("no_rope_layers", *rotated == other.rotated),
            ("num_experts", *experts == other.experts),
            ("rope_freqs", *rope_divisors == other.rope_divisors),
            ("architectures", (ending, encoder) == (&other.ending, &other.encoder)),
            ("the order of rotated pairs", *rope_adjacent_pairs == other.rope_adjacent_pairs),
        ];
        fields.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
    }

    fn of_family(family: &'static Family, fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let defaults = &family.defaults;
        let hidden_size = fields.size("hidden_size", HIDDEN_MAX, Some(defaults.hidden_size))?;
        let layers = fields.size("num_hidden_layers", LAYERS_MAX, Some(defaults.layers))?;
        let heads = fields.size("num_attention_heads", HEADS_MAX, Some(defaults.heads))?;
        let head_dim = head_dim(family, fields, hidden_size, heads)?;
        let max_position_embeddings =
            fields.size("max_position_embeddings", POSITIONS_MAX, Some(defaults.max_position_embeddings))?;
        let configured_bias = fields.flag("attention_bias", false)?;
        let windows = windows(family, fields, layers)?;
        let Ropes { full, sliding, width, growth } =
            ropes(family, fields, &windows, max_position_embeddings, head_dim)?;
        let cap = |name, absent| -> Result<Option<f32>, ConfigError> {
            Ok(of_family_alone(family, fields, name, [1e-3, SCALE_MAX], absent)?.map(|cap| cap as f32))
        };
        let scalar =
            of_family_alone(family, fields, "query_pre_attn_scalar", [1e-3, SCALE_MAX], defaults.query_scalar)?;
        let config = Self {
            family,
            vocab_size: fields.size("vocab_size", VOCAB_MAX, Some(defaults.vocab_size))?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", INTERMEDIATE_MAX, Some(defaults.intermediate_size))?,
            layers,
            heads,
            kv_heads: kv_heads(family, fields, heads)?,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: fields.number("rms_norm_eps", 0.0, 1.0, Some(1e-6))? as f32,
            tie_word_embeddings: fields.flag("tie_word_embeddings", defaults.tied)?,
            query_key_value_bias: match family.attention_bias {
                AttentionBias::Never => false,
                AttentionBias::QueryKeyValue => true,
                AttentionBias::Configured => configured_bias,
            },
            output_bias: family.attention_bias == AttentionBias::Configured && configured_bias,
            mlp_bias: family.mlp_bias && fields.flag("mlp_bias", false)?,
            activation: family.activation.0,
            embedding_scale: if family.scaled_embeddings { (hidden_size as f32).sqrt() } else { 1.0 },
            attention_scale: match scalar {
                Some(scalar) => scalar.powf(-0.5) as f32,
                None => 1.0 / (head_dim as f32).sqrt(),
            },
            query_growth: growth,
            attention_cap: cap("attn_logit_softcapping", defaults.attention_cap)?,
            logit_cap: cap("final_logit_softcapping", defaults.logit_cap)?,
            norms_less_one: family.norms == NormRule::Around && !fields.flag(WHOLE_NORMS, false)?,
            rope: full,
            sliding_rope: sliding,
            rotary_width: width,
            rotated: rotated(family, fields, layers)?,
            experts: experts(family, fields, layers)?,
            rope_divisors: fields.text(DIVISORS)?.map(super::fields::short),
            prefix: "",
            ending: Ending::Logits,
            encoder: None,
            windows,
            rope_adjacent_pairs: fields.flag(ADJACENT, false)?,
            dtype: dtype(fields),
        };
        Ok(config)
    }

    /// The longest sequence the model is made for, in tokens: what the config says, or what its
    /// RoPE scaling stretches it to (as vLLM derives it, for the kinds whose config names the
    /// unstretched length: linear, dynamic and yarn).
    #[must_use]
    pub fn max_position(&self) -> usize {
        let stretched = |tokens: usize, factor: f64| ((tokens as f64 * factor) as usize).min(POSITIONS_MAX);
        let declared = self.max_position_embeddings;
        match &self.rope.scaling {
            RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Divided { .. } => declared,
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                declared.max(stretched(declared, *factor))
            }
            RopeScaling::Yarn(yarn) => declared.max(stretched(yarn.original_max_position_embeddings, yarn.factor)),
        }
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Earlier positions that make a row cost as much again: the products of attention with those of a layer's
    /// matrices, at two thirds of their pace.
    #[must_use]
    pub fn positions_a_row(&self) -> usize {
        let projections = 2 * self.hidden_size * (self.query_width() + self.kv_width());
        let products = projections + 3 * self.hidden_size * self.intermediate_size;
        products / (3 * self.query_width()).max(1)
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The text part of a model that sees, with what its outer part says of texts; none of a model that reads only.
fn text_part(fields: &Fields<'_>, map: &Map<String, Value>) -> Result<Option<Map<String, Value>>, ConfigError> {
    let names = fields.get("architectures").and_then(Value::as_array);
    let is_named = |name: &str| names.is_some_and(|names| names.iter().any(|own| own.as_str() == Some(name)));
    let kind = if names.is_none() { fields.text("model_type")? } else { None };
    let seeing = SEEING.iter().find(|seeing| is_named(seeing.architecture) || kind == Some(seeing.model_type));
    let Some(seeing) = seeing else { return Ok(None) };
    known::refuse_unknown_beside(fields)?;
    let Some(Value::Object(text)) = fields.get("text_config") else {
        return Err(fields.wrong("text_config", "an object: the text part of the model"));
    };
    let mut text = text.clone();
    // The type alone says which family it is.
    text.remove("architectures");
    text.entry("model_type").or_insert_with(|| seeing.text_type.into());
    for name in ["tie_word_embeddings", "quantization_config", "dtype", "torch_dtype"] {
        // A null says nothing: it must not hide what is said beside the part.
        if let (None | Some(Value::Null), Some(outer)) = (text.get(name), map.get(name)) {
            text.insert(name.to_owned(), outer.clone());
        }
    }
    Ok(Some(text))
}

/// The family, from `architectures` or, where that is missing, from `model_type`.
fn family(fields: &Fields<'_>) -> Result<(&'static Family, Ending), ConfigError> {
    let unsupported = |what, name: String| ConfigError::Unsupported {
        what,
        name,
        supported: {
            let seeing = SEEING.iter().map(|seeing| seeing.architecture);
            family::all().map(|family| family.architecture).chain(seeing).collect::<Vec<_>>().join(", ")
        },
    };
    match fields.get("architectures") {
        Some(Value::Array(names)) if !names.is_empty() => {
            let known = |name: &Value| family::all().find_map(|family| Some((family, family.ending(name.as_str()?)?)));
            let shown = || names.iter().map(|name| name.as_str().unwrap_or("?")).collect::<Vec<_>>().join(", ");
            names.iter().find_map(known).ok_or_else(|| unsupported("architecture", super::fields::short(&shown())))
        }
        Some(Value::Array(_)) | None => {
            let name = fields.text("model_type")?.ok_or_else(|| fields.wrong("architectures", "a list of names"))?;
            let known = family::all().find(|family| family.model_type == name);
            let known = known.map(|family| (family, family.usual_ending()));
            known.ok_or_else(|| unsupported("model_type", super::fields::short(name)))
        }
        Some(_) => Err(fields.wrong("architectures", "a list of names")),
    }
}

/// Switches whose presence changes the arithmetic in ways that nothing here implements.
fn refuse_what_we_cannot_compute(family: &Family, fields: &Fields<'_>) -> Result<(), ConfigError> {
    if let Some(quantization) = fields.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("quantization_config");
        let supported = "weights stored as bfloat16, float16 or float32".into();
        return Err(ConfigError::Unsupported { what: "quantization", name: super::fields::short(method), supported });
    }
    let (_, supported) = family.activation;
    // Gemma's `hidden_activation` goes before its `hidden_act`, which early configs got wrong.
    let own = family.reads.iter().find(|name| **name == "hidden_activation" && fields.get(name).is_some());
    let what = own.copied().unwrap_or("hidden_act");
    match fields.text(what)? {
        Some(activation) if !supported.contains(&activation) => {
            let name = super::fields::short(activation);
            Err(ConfigError::Unsupported { what, name, supported: supported.join(", ") })
        }
        _ => Ok(()),
    }
}

/// A number that only families have whose configs read it.
fn of_family_alone(
    family: &Family,
    fields: &Fields<'_>,
    name: &str,
    bounds: [f64; 2],
    absent: Option<f64>,
) -> Result<Option<f64>, ConfigError> {
    if family.reads.contains(&name) { fields.optional(name, bounds, absent) } else { Ok(None) }
}

fn experts(family: &Family, fields: &Fields<'_>, layers: usize) -> Result<Option<RoutedParts>, ConfigError> {
    let Some(rule) = family.experts else { return Ok(None) };
    let [count, chosen, width] = rule.defaults;
    let name = rule.counts.iter().find(|name| fields.get(name).is_some()).unwrap_or(&rule.counts[0]);
    let count = fields.size(name, EXPERTS_MAX, Some(count))?;
    if count.saturating_mul(layers) > ALL_EXPERTS_MAX {
        return Err(fields.wrong(name, &format!("at most {ALL_EXPERTS_MAX} experts in all layers together")));
    }
    let dense: Vec<usize> = match fields.get("mlp_only_layers") {
        None => Vec::new(),
        Some(Value::Array(list)) => {
            let numbers = list.iter().map(|layer| layer.as_u64().and_then(|layer| usize::try_from(layer).ok()));
            let numbers: Option<Vec<usize>> = numbers.collect();
            numbers.ok_or_else(|| fields.wrong("mlp_only_layers", "a list of the numbers of layers"))?
        }
        Some(_) => return Err(fields.wrong("mlp_only_layers", "a list of the numbers of layers")),
    };
    let step = fields.size("decoder_sparse_step", LAYERS_MAX, Some(1))?;
    Ok(Some(RoutedParts {
        count,
        chosen: fields.size("num_experts_per_tok", count, Some(chosen.min(count)))?,
        width: fields.size(rule.width, INTERMEDIATE_MAX, Some(width))?,
        normalized: match rule.normalized {
            Some(normalized) => normalized,
            None => fields.flag("norm_topk_prob", false)?,
        },
        stacked: fields.flag(STACKED, false)?,
        layers: (0..layers).map(|layer| !dense.contains(&layer) && (layer + 1).is_multiple_of(step)).collect(),
    }))
}

/// Per layer: true if queries and keys are rotated.
fn rotated(family: &Family, fields: &Fields<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let Some(every) = family.unrotated_every else { return Ok(vec![true; layers]) };
    if fields.get("no_rope_layers").is_some() {
        // Of a layer that is rotated it says 1.
        let says = fields.numbers("no_rope_layers", [0.0, 1.0], layers)?;
        return Ok(says.into_iter().map(|says| says != 0.0).collect());
    }
    let every = fields.size("no_rope_layer_interval", LAYERS_MAX, Some(every))?;
    Ok((1..=layers).map(|layer| !layer.is_multiple_of(every)).collect())
}

fn kv_heads(family: &Family, fields: &Fields<'_>, heads: usize) -> Result<usize, ConfigError> {
    let name = "num_key_value_heads";
    let absent = if fields.is_null(name) { None } else { family.defaults.kv_heads };
    let kv_heads = fields.size(name, HEADS_MAX, Some(absent.unwrap_or(heads)))?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(fields.wrong(name, &format!("a divisor of the {heads} query heads (num_attention_heads)")));
    }
    Ok(kv_heads)
}

fn head_dim(family: &Family, fields: &Fields<'_>, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    let absent = if fields.is_null("head_dim") { None } else { family.defaults.head_dim };
    let derived = absent.or_else(|| hidden.is_multiple_of(heads).then_some(hidden / heads));
    let head_dim = fields.size("head_dim", HEAD_DIM_MAX, derived)?;
    if head_dim % 2 != 0 || head_dim > HEAD_DIM_MAX {
        return Err(fields.wrong("head_dim", &format!("an even number, at most {HEAD_DIM_MAX} (here {head_dim})")));
    }
    Ok(head_dim)
}

/// The window of every layer.
fn windows(family: &Family, fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let on = match family.window {
        WindowRule::Never => false,
        WindowRule::Always => true,
        WindowRule::Switched => fields.flag("use_sliding_window", false)?,
        WindowRule::Alternating(_) | WindowRule::AllButEvery(_) => true,
    };
    let sliding = sliding_layers(fields, layers)?;
    let name = if let WindowRule::AllButEvery(_) = family.window { "local_attention" } else { "sliding_window" };
    if !on || fields.is_null(name) {
        let wants = family.window == WindowRule::Never && sliding.is_some_and(|sliding| sliding.contains(&true));
        return if wants { Err(wrong_layers(fields, family, false)) } else { Ok(vec![None; layers]) };
    }
    let window = match family.defaults.sliding_window {
        None if fields.get(name).is_none() => return Ok(vec![None; layers]),
        default => Some(fields.size(name, POSITIONS_MAX, default)?),
    };
    if let WindowRule::AllButEvery(every) = family.window {
        let every = fields.size("global_attn_every_n_layers", LAYERS_MAX, Some(every))?;
        let slides = |layer: usize| sliding.as_ref().map_or(!layer.is_multiple_of(every), |it| it[layer]);
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    }
    if let WindowRule::Alternating(every) = family.window {
        let written =
            ["sliding_window_pattern", "_sliding_window_pattern"].into_iter().find(|it| fields.get(it).is_some());
        let every = written.map_or(Ok(every), |name| fields.size(name, LAYERS_MAX, None))?;
        let slides = |layer: usize| sliding.as_ref().map_or(!(layer + 1).is_multiple_of(every), |it| it[layer]);
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    }
    if family.window == WindowRule::Always {
        let wants = sliding.is_some_and(|sliding| sliding.contains(&false));
        return if wants { Err(wrong_layers(fields, family, true)) } else { Ok(vec![window; layers]) };
    }
    let first = fields.count("max_window_layers", POSITIONS_MAX, Some(28))?;
    let slides = |layer: usize| sliding.as_ref().map_or(layer >= first, |sliding| sliding[layer]);
    Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
}

fn wrong_layers(fields: &Fields<'_>, family: &Family, sliding: bool) -> ConfigError {
    let kind = if sliding { "sliding_attention" } else { "full_attention" };
    fields.wrong("layer_types", &format!("{kind} for every layer, as all layers of {} are", family.architecture))
}

/// Per layer, whether it slides a window over the text; none where `layer_types` is absent.
fn sliding_layers(fields: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let kinds = match fields.get("layer_types") {
        None => return Ok(None),
        Some(Value::Array(kinds)) if kinds.len() == layers => kinds,
        Some(_) => return Err(fields.wrong("layer_types", &format!("a list of {layers} names, one per layer"))),
    };
    let slides = |kind: &Value| match kind.as_str() {
        Some(FULL) => Ok(false),
        Some(SLIDING) => Ok(true),
        Some(other) => Err(ConfigError::Unsupported {
            what: "layer type",
            name: super::fields::short(other),
            supported: format!("{FULL}, {SLIDING}"),
        }),
        None => Err(fields.wrong("layer_types", "a list of names")),
    };
    kinds.iter().map(slides).collect::<Result<_, _>>().map(Some)
}

/// A layer's type in `layer_types`: every position sees all before it.
const FULL: &str = "full_attention";
/// The same: every position sees those of a window.
const SLIDING: &str = "sliding_attention";

/// The rotations of a model.
struct Ropes {
    full: Rope,
    /// Of layers with a window, where it is another.
    sliding: Option<Rope>,
    /// Numbers of a head that turn.
    width: usize,
    growth: Option<Growth>,
}

/// The rotations, in either spelling. Where both are there, `rope_scaling` wins, as in the reference.
fn ropes(
    family: &Family,
    fields: &Fields<'_>,
    windows: &[Option<usize>],
    max_position: usize,
    head_dim: usize,
) -> Result<Ropes, ConfigError> {
    let old = fields.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let new = fields.object("rope_parameters")?;
    let (full, sliding) = match old.or(new) {
        Some(by_type) if by_type.objects().next().is_some() => by_layer_type(&by_type, windows)?,
        flat => (flat.unwrap_or_else(Fields::nothing), None),
    };
    let width = rotary_width(family, fields, &full, head_dim)?;
    let growth = family.grows.then(|| growth(&full)).transpose()?;
    let read = |parameters: &Fields<'_>, theta| {
        let rope = rope(fields, parameters, theta, max_position, width)?;
        known::refuse_unknown_of_rotation(parameters, kind(parameters)?, family.grows)?;
        Ok(rope)
    };
    let defaults = &family.defaults;
    let theta = fields.number("rope_theta", 1.0, 1e18, Some(defaults.rope_theta))?;
    let own = match (&sliding, defaults.sliding_rope_theta) {
        (Some(parameters), own) => Some(read(parameters, own.unwrap_or(theta))?),
        (None, Some(own)) => {
            let theta = fields.number("rope_local_base_freq", 1.0, 1e18, Some(own))?;
            Some(Rope { theta, scaling: RopeScaling::Default })
        }
        (None, None) => None,
    };
    let full = read(&full, theta)?;
    let sliding = own.filter(|own| *own != full && windows.iter().any(Option::is_some));
    Ok(Ropes { full, sliding, width, growth })
}

/// The growth of queries that a rotation's parameters ask for.
fn growth(parameters: &Fields<'_>) -> Result<Growth, ConfigError> {
    Ok(Growth {
        by: parameters.number(known::GROWTH, 0.0, SCALE_MAX, None)? as f32,
        every: parameters.size("original_max_position_embeddings", POSITIONS_MAX, None)?,
    })
}

/// The kind of a rotation, by its name of today.
fn kind<'a>(parameters: &Fields<'a>) -> Result<&'a str, ConfigError> {
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    // As the first configs of Phi-3 call it.
    Ok(if kind == "su" { "longrope" } else { kind })
}

/// Numbers of a head that turn.
fn rotary_width(
    family: &Family,
    fields: &Fields<'_>,
    parameters: &Fields<'_>,
    head_dim: usize,
) -> Result<usize, ConfigError> {
    let name = "partial_rotary_factor";
    let outer = fields.number(name, 0.0, 1.0, Some(1.0))?;
    let part = parameters.number(name, 0.0, 1.0, Some(outer))?;
    let width = (head_dim as f64 * part) as usize;
    let from = if parameters.get(name).is_some() { parameters } else { fields };
    match part {
        1.0 => Ok(head_dim),
        _ if !family.partial_rotary || outer != 1.0 && outer != part => {
            Err(from.wrong(name, "1 or nothing: other values are not supported"))
        }
        _ if width < 2 || !width.is_multiple_of(2) => {
            Err(from.wrong(name, &format!("an even part of {head_dim} numbers")))
        }
        _ => Ok(width),
    }
}

/// One rotation.
fn rope(
    fields: &Fields<'_>,
    parameters: &Fields<'_>,
    default_theta: f64,
    max_position: usize,
    width: usize,
) -> Result<Rope, ConfigError> {
    let theta = parameters.number("rope_theta", 1.0, 1e18, Some(default_theta))?;
    let original = || {
        let outer = fields.size("original_max_position_embeddings", POSITIONS_MAX, Some(max_position))?;
        parameters.size("original_max_position_embeddings", POSITIONS_MAX, Some(outer))
    };
    let factor = |default| parameters.number("factor", 1e-3, SCALE_MAX, default);
    let scaling = match kind(parameters)? {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: factor(None)? },
        "dynamic" => RopeScaling::Dynamic { factor: parameters.number("factor", 1.0, SCALE_MAX, None)? },
        "llama3" => RopeScaling::Llama3 {
            factor: factor(None)?,
            low_freq_factor: parameters.number("low_freq_factor", 1e-3, SCALE_MAX, None)?,
            high_freq_factor: parameters.number("high_freq_factor", 1e-3, SCALE_MAX, None)?,
            original_max_position_embeddings: original()?,
        },
        "yarn" => RopeScaling::Yarn(yarn(parameters, original()?, max_position)?),
        known::DIVIDED => RopeScaling::Divided {
            divisors: Vec::new(),
            attention_factor: parameters.number("attention_factor", 1e-3, SCALE_MAX, Some(1.0))?,
        },
        "longrope" => longrope(parameters, original()?, max_position, width)?,
        other => {
            let supported = "default, linear, dynamic, llama3, yarn, longrope".into();
            return Err(ConfigError::Unsupported { what: "rope_type", name: super::fields::short(other), supported });
        }
    };
    check_rope(fields, theta, &scaling)?;
    Ok(Rope { theta, scaling })
}

/// The rotations of a config that gives one for each type of layers: of layers that see everything, then of those with a
/// window. Where all layers are of one type, its own.
fn by_layer_type<'a>(
    by_type: &Fields<'a>,
    windows: &[Option<usize>],
) -> Result<(Fields<'a>, Option<Fields<'a>>), ConfigError> {
    let of = |name: &str| {
        let is_used = windows.iter().any(|window| window.is_some() == (name == SLIDING));
        let own = by_type.objects().find(|(own, _)| *own == name).map(|(_, own)| own);
        match (is_used, own) {
            (false, _) => Ok(None),
            (true, None) => Err(by_type.wrong(name, "the rotation of layers of this type")),
            (true, own) => Ok(own),
        }
    };
    Ok(match (of(FULL)?, of(SLIDING)?) {
        (Some(full), sliding) => (full, sliding),
        (None, Some(sliding)) => (sliding, None),
        (None, None) => (Fields::nothing(), None),
    })
}

/// Relations between the numbers of a rotation that the formulas divide by.
fn check_rope(fields: &Fields<'_>, theta: f64, scaling: &RopeScaling) -> Result<(), ConfigError> {
    match scaling {
        RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if low >= high => {
            Err(fields.wrong("rope_parameters", "high_freq_factor above low_freq_factor"))
        }
        RopeScaling::Yarn(_) if theta <= 1.0 => Err(fields.wrong("rope_parameters", "a rope_theta above 1")),
        _ => Ok(()),
    }
}

/// Divisors for the longest sequence that the model allows, as vLLM takes them, for the reason that `tensor::Rope` gives.
fn longrope(
    scaling: &Fields<'_>,
    original: usize,
    max_position: usize,
    width: usize,
) -> Result<RopeScaling, ConfigError> {
    let is_long = max_position > original;
    let factor = max_position as f64 / original as f64;
    let default = if is_long && original > 1 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
    let name = if is_long { "long_factor" } else { "short_factor" };
    Ok(RopeScaling::Divided {
        divisors: scaling.numbers(name, [1e-3, SCALE_MAX], width / 2)?,
        attention_factor: scaling.number("attention_factor", 1e-3, SCALE_MAX, Some(default))?,
    })
}

fn yarn(scaling: &Fields<'_>, original: usize, max_position: usize) -> Result<Yarn, ConfigError> {
    let factor = match scaling.get("factor") {
        Some(_) => scaling.number("factor", 1e-3, SCALE_MAX, None)?,
        None => max_position as f64 / original as f64,
    };
    let optional = |name| match scaling.get(name) {
        Some(_) => scaling.number(name, 0.0, SCALE_MAX, None).map(Some),
        None => Ok(None),
    };
    let default = Yarn::default_attention_factor(factor, optional("mscale")?, optional("mscale_all_dim")?);
    Ok(Yarn {
        factor,
        original_max_position_embeddings: original,
        attention_factor: scaling.number("attention_factor", 1e-3, SCALE_MAX, Some(default))?,
        beta_fast: scaling.number("beta_fast", 1e-3, SCALE_MAX, Some(32.0))?,
        beta_slow: scaling.number("beta_slow", 1e-3, SCALE_MAX, Some(1.0))?,
        truncate: scaling.flag("truncate", true)?,
    })
}

fn dtype(fields: &Fields<'_>) -> Option<Format> {
    let name = fields.get("dtype").or_else(|| fields.get("torch_dtype"))?.as_str()?;
    match name {
        "bfloat16" => Some(Format::Bf16),
        "float16" => Some(Format::F16),
        "float32" => Some(Format::F32),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
