//! The families of models there are, as data: the facts that set one apart from the others.
//!
//! A family is a row of this table, not code of its own. It knows no tensor and no kernel.
//! Default sizes are those of the `transformers` configuration classes: a published `config.json`
//! may leave out whatever equals them.

pub mod encoder;

pub use encoder::EncoderRule;

use tensor::Activation;

/// The attention projections that have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None, whatever the config says.
    Never,
    /// Queries, keys and values always; the output never.
    QueryKeyValue,
    /// All four, where the config's `attention_bias` is true.
    Configured,
}

/// The norms of a branch of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormRule {
    /// Of its input.
    Before,
    /// Of its input and of its result; all are stored less one.
    Around,
    /// Of the sum that its result is added to.
    Joined,
    /// Of its input, but not of that of the first layer's attention: embeddings are normed.
    BeforeAllButFirst,
}

/// The matrices that queries, keys and values are rows of, and gates and ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One each.
    Apart,
    /// One for the three, one for the two.
    Fused,
}

/// The layers that see a sliding window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// None.
    Never,
    /// All, where the config's `sliding_window` is a number.
    Always,
    /// Where `use_sliding_window`: those that `layer_types` names, or from `max_window_layers` on.
    Switched,
    /// Those that `layer_types` names, or all but every so manieth, the last of so many.
    Alternating(usize),
    /// The same, the first of so many.
    AllButEvery(usize),
}

/// Values of fields that a family's `config.json` may leave out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Query heads.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Key and value heads; as many as query heads if none.
    pub kv_heads: Option<usize>,
    /// Width of a head; `hidden_size / heads` if none.
    pub head_dim: Option<usize>,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Positions a windowed layer sees, where the key is absent (null means no window).
    pub sliding_window: Option<usize>,
    /// The base of rotations.
    pub rope_theta: f64,
    /// The base of rotations in windowed layers, where it is another.
    pub sliding_rope_theta: Option<f64>,
    /// True if the head is the embedding table.
    pub tied: bool,
    /// The scores' factor is one over the root of this; of the head's width if none.
    pub query_scalar: Option<f64>,
    /// The soft cap of scores.
    pub attention_cap: Option<f64>,
    /// The soft cap of logits.
    pub logit_cap: Option<f64>,
}

/// How a family's config and checkpoint name experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertRule {
    /// The fields that may have their number; the first is that of today's configs.
    pub counts: &'static [&'static str],
    /// The field with their width.
    pub width: &'static str,
    /// The number, the number of those that a row goes to and the width where the config says nothing.
    pub defaults: [usize; 3],
    /// True if the shares of a row's experts are scaled to a sum of one; where none, `norm_topk_prob` says so.
    pub normalized: Option<bool>,
    /// The part of a layer that has them.
    pub stem: &'static str,
    /// Gate, up and down of one of them.
    pub names: [&'static str; 3],
}

/// One family of decoders or encoders.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// The name in the config's `architectures`: of decoders that with a head that makes logits, of encoders that of the
    /// encoder alone.
    pub architecture: &'static str,
    /// The name in the config's `model_type`.
    pub model_type: &'static str,
    /// Further facts of an encoder; none of decoders.
    pub encoder: Option<EncoderRule>,
    /// Biases of the attention projections.
    pub attention_bias: AttentionBias,
    /// True if the config's `mlp_bias` counts.
    pub mlp_bias: bool,
    /// True if queries and keys are normalised per head before they are rotated.
    pub query_key_norm: bool,
    /// Sliding windows.
    pub window: WindowRule,
    /// Norms of branches.
    pub norms: NormRule,
    /// Matrices of queries, keys, values, gates and ups.
    pub projections: Projections,
    /// The function of gates, and its names in a config.
    pub activation: (Activation, &'static [&'static str]),
    /// True if embeddings are scaled by the root of their width.
    pub scaled_embeddings: bool,
    /// True if the config's `partial_rotary_factor` counts.
    pub partial_rotary: bool,
    /// Routed feed-forward parts.
    pub experts: Option<ExpertRule>,
    /// One layer in so many is not rotated, where the config does not say which.
    pub unrotated_every: Option<usize>,
    /// True if queries grow with their position, as the rotation's parameters say.
    pub grows: bool,
    /// Fields of its config beyond those of every family.
    pub reads: &'static [&'static str],
    /// Values of fields that the config may leave out.
    pub defaults: Defaults,
}

const LLAMA_DEFAULTS: Defaults = Defaults {
    heads: 32,
    layers: 32,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    kv_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    sliding_window: None,
    rope_theta: 10_000.0,
    sliding_rope_theta: None,
    tied: false,
    query_scalar: None,
    attention_cap: None,
    logit_cap: None,
};

const SILU: (Activation, &[&str]) = (Activation::Silu, &["silu", "swish"]);
const GELU: (Activation, &[&str]) = (Activation::GeluTanh, &["gelu_pytorch_tanh"]);

const QWEN_DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22_016,
    kv_heads: Some(32),
    max_position_embeddings: 32_768,
    sliding_window: Some(4096),
    ..LLAMA_DEFAULTS
};

const GEMMA_DEFAULTS: Defaults = Defaults {
    heads: 8,
    layers: 26,
    vocab_size: 256_000,
    hidden_size: 2304,
    intermediate_size: 9216,
    kv_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    sliding_window: Some(4096),
    tied: true,
    query_scalar: Some(256.0),
    attention_cap: Some(50.0),
    logit_cap: Some(30.0),
    ..LLAMA_DEFAULTS
};

/// The traits of most families.
const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    encoder: None,
    attention_bias: AttentionBias::Configured,
    mlp_bias: true,
    query_key_norm: false,
    window: WindowRule::Never,
    norms: NormRule::Before,
    projections: Projections::Apart,
    activation: SILU,
    scaled_embeddings: false,
    partial_rotary: false,
    experts: None,
    unrotated_every: None,
    grows: false,
    reads: &[],
    defaults: LLAMA_DEFAULTS,
};

const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    mlp_bias: false,
    window: WindowRule::Alternating(2),
    norms: NormRule::Around,
    activation: GELU,
    scaled_embeddings: true,
    reads: &[
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_activation",
        "query_pre_attn_scalar",
        "rope_local_base_freq",
        "sliding_window_pattern",
        "_sliding_window_pattern",
    ],
    defaults: GEMMA_DEFAULTS,
    ..LLAMA
};

/// Every family of decoders, in the order error messages list them.
static FAMILIES: [Family; 11] = [
    LLAMA,
    Family {
        architecture: "MistralForCausalLM",
        model_type: "mistral",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        window: WindowRule::Always,
        defaults: Defaults {
            intermediate_size: 14_336,
            kv_heads: Some(8),
            max_position_embeddings: 131_072,
            sliding_window: Some(4096),
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
    Family {
        architecture: "Ministral3ForCausalLM",
        model_type: "ministral3",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        window: WindowRule::Always,
        grows: true,
        defaults: Defaults {
            vocab_size: 131_072,
            layers: 34,
            intermediate_size: 14_336,
            kv_heads: Some(8),
            head_dim: Some(128),
            max_position_embeddings: 262_144,
            rope_theta: 1_000_000.0,
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        model_type: "qwen2",
        attention_bias: AttentionBias::QueryKeyValue,
        mlp_bias: false,
        window: WindowRule::Switched,
        defaults: QWEN_DEFAULTS,
        ..LLAMA
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        mlp_bias: false,
        query_key_norm: true,
        window: WindowRule::Switched,
        defaults: Defaults { head_dim: Some(128), ..QWEN_DEFAULTS },
        ..LLAMA
    },
    Family {
        architecture: "Qwen3MoeForCausalLM",
        model_type: "qwen3_moe",
        mlp_bias: false,
        query_key_norm: true,
        window: WindowRule::Switched,
        experts: Some(ExpertRule {
            counts: &["num_local_experts", "num_experts"],
            width: "moe_intermediate_size",
            defaults: [128, 8, 768],
            normalized: None,
            stem: "mlp",
            names: ["gate_proj", "up_proj", "down_proj"],
        }),
        reads: &[
            "decoder_sparse_step",
            "mlp_only_layers",
            "moe_intermediate_size",
            "norm_topk_prob",
            "num_experts",
            "num_experts_per_tok",
            "num_local_experts",
            "router_aux_loss_coef",
        ],
        defaults: Defaults {
            layers: 24,
            hidden_size: 2048,
            intermediate_size: 6144,
            kv_heads: Some(4),
            ..QWEN_DEFAULTS
        },
        ..LLAMA
    },
    Family {
        architecture: "MixtralForCausalLM",
        model_type: "mixtral",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        window: WindowRule::Always,
        experts: Some(ExpertRule {
            counts: &["num_local_experts"],
            width: "intermediate_size",
            defaults: [8, 2, 14_336],
            normalized: Some(true),
            stem: "block_sparse_moe",
            names: ["w1", "w3", "w2"],
        }),
        reads: &["num_experts_per_tok", "num_local_experts", "router_aux_loss_coef", "router_jitter_noise"],
        defaults: Defaults {
            intermediate_size: 14_336,
            kv_heads: Some(8),
            max_position_embeddings: 131_072,
            rope_theta: 1_000_000.0,
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
    GEMMA2,
    Family {
        architecture: "Gemma3ForCausalLM",
        model_type: "gemma3_text",
        query_key_norm: true,
        window: WindowRule::Alternating(6),
        defaults: Defaults {
            vocab_size: 262_208,
            max_position_embeddings: 131_072,
            rope_theta: 1_000_000.0,
            sliding_rope_theta: Some(10_000.0),
            attention_cap: None,
            logit_cap: None,
            ..GEMMA_DEFAULTS
        },
        ..GEMMA2
    },
    Family {
        architecture: "Phi3ForCausalLM",
        model_type: "phi3",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        window: WindowRule::Always,
        projections: Projections::Fused,
        partial_rotary: true,
        defaults: Defaults {
            vocab_size: 32_064,
            hidden_size: 3072,
            intermediate_size: 8192,
            max_position_embeddings: 4096,
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
    Family {
        architecture: "SmolLM3ForCausalLM",
        model_type: "smollm3",
        window: WindowRule::Switched,
        unrotated_every: Some(4),
        reads: &["no_rope_layer_interval", "no_rope_layers"],
        defaults: Defaults {
            heads: 16,
            layers: 36,
            vocab_size: 128_256,
            hidden_size: 2048,
            intermediate_size: 11_008,
            kv_heads: Some(4),
            max_position_embeddings: 32_768,
            rope_theta: 2_000_000.0,
            tied: true,
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
];

/// The end of a model, by the ending of its architecture's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It makes logits.
    Logits,
    /// Hidden states are its result.
    States,
    /// It scores classes.
    Classes,
}

/// The endings of architectures' names.
const ENDINGS: [(&str, Ending); 4] = [
    ("ForCausalLM", Ending::Logits),
    ("ForMaskedLM", Ending::States),
    ("ForSequenceClassification", Ending::Classes),
    ("Model", Ending::States),
];

impl Family {
    /// Its name without an ending.
    fn stem(&self) -> &'static str {
        let ending = ENDINGS.iter().find_map(|(ending, _)| self.architecture.strip_suffix(ending));
        ending.unwrap_or(self.architecture)
    }

    /// Its ending, if this is one of its architectures.
    pub(crate) fn ending(&self, architecture: &str) -> Option<Ending> {
        let named = architecture.strip_prefix(self.stem())?;
        let (_, ending) = ENDINGS.iter().find(|(ending, _)| named == *ending)?;
        let is_known = match (ending, self.encoder) {
            (Ending::Logits, encoder) => encoder.is_none(),
            (Ending::States, encoder) => encoder.is_some() || named == "Model",
            (Ending::Classes, encoder) => encoder.is_some(),
        };
        is_known.then_some(*ending)
    }

    /// The ending where a config names no architecture.
    pub(crate) fn usual_ending(&self) -> Ending {
        if self.encoder.is_some() { Ending::States } else { Ending::Logits }
    }
}

/// Every family there is, decoders first.
pub(crate) fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(&encoder::ENCODERS)
}

/// A model that sees: the text part of its config, and its tensors' names, are one level down. Its images are refused.
#[derive(Debug)]
pub(crate) struct Seeing {
    /// The name in the config's `architectures`.
    pub(crate) architecture: &'static str,
    /// The name in the config's `model_type`.
    pub(crate) model_type: &'static str,
    /// The text part's `model_type` where it names none.
    pub(crate) text_type: &'static str,
}

/// The models that see.
pub(crate) static SEEING: [Seeing; 2] = [
    Seeing { architecture: "Mistral3ForConditionalGeneration", model_type: "mistral3", text_type: "mistral" },
    Seeing { architecture: "Gemma3ForConditionalGeneration", model_type: "gemma3", text_type: "gemma3_text" },
];
