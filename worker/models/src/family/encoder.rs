//! The families of encoders there are, as data: what sets one apart from the others, and the names of its tensors.
//!
//! It knows no tensor and no kernel.

use tensor::Activation;

use super::{AttentionBias, Defaults, Family, GELU, LLAMA, NormRule, Projections, WindowRule};

/// The embeddings of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionRule {
    /// None: heads are rotated.
    Rotated,
    /// A table whose first row is that of position 0.
    Learned,
    /// A table whose first rows are left free, up to that of `pad_token_id`.
    LearnedAfterPad,
    /// None, or a table where the config says so; attention reads embeddings of distances.
    Distances,
}

/// The head that scores classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassRule {
    /// The first matrix, beside the encoder or a part of it.
    pub dense: &'static str,
    /// The function of its result, where the config does not name one.
    pub activation: Activation,
    /// The norm of that function's result; empty if there is none.
    pub norm: &'static str,
    /// The second matrix.
    pub output: &'static str,
}

/// Facts of an encoder beside those of every family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderRule {
    /// The level that the names of all tensors but those of heads are at; files of the encoder alone leave it out.
    pub level: &'static str,
    /// The embedding table.
    pub embeddings: &'static str,
    /// The norm of embeddings.
    pub embedding_norm: &'static str,
    /// The embeddings of positions.
    pub positions: PositionRule,
    /// True if there are embeddings of token types.
    pub has_types: bool,
    /// The layers, before their number.
    pub layers: &'static str,
    /// Queries, keys and values, or the matrix that they are rows of.
    pub inputs: &'static [&'static str],
    /// The output of attention.
    pub output: &'static str,
    /// The norms of both branches.
    pub norms: [&'static str; 2],
    /// The first matrix of the feed-forward part; where there is a gate, its rows come first.
    pub up: &'static str,
    /// True if there is a gate.
    pub is_gated: bool,
    /// The second matrix.
    pub down: &'static str,
    /// The final norm; empty if there is none.
    pub norm: &'static str,
    /// True if all matrices and norms have biases, whatever the config says.
    pub is_biased: bool,
    /// The field with what is added to mean squares, and its value where it is absent.
    pub eps: (&'static str, f64),
    /// The field that names the function of the feed-forward part.
    pub activation: &'static str,
    /// The head that scores classes.
    pub classes: ClassRule,
    /// The beginnings of names of tensors for other ends than embeddings and classes.
    pub unread: &'static [&'static str],
}

const BERT_RULE: EncoderRule = EncoderRule {
    level: "bert.",
    embeddings: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    positions: PositionRule::Learned,
    has_types: true,
    layers: "encoder.layer",
    inputs: &["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    up: "intermediate.dense",
    is_gated: false,
    down: "output.dense",
    norm: "",
    is_biased: true,
    eps: ("layer_norm_eps", 1e-12),
    activation: "hidden_act",
    classes: ClassRule { dense: "bert.pooler.dense", activation: Activation::Tanh, norm: "", output: "classifier" },
    unread: &["pooler.", "cls.", "embeddings.position_ids"],
};

const ROBERTA_RULE: EncoderRule = EncoderRule {
    level: "roberta.",
    positions: PositionRule::LearnedAfterPad,
    classes: ClassRule {
        dense: "classifier.dense",
        activation: Activation::Tanh,
        norm: "",
        output: "classifier.out_proj",
    },
    unread: &["pooler.", "lm_head.", "embeddings.position_ids"],
    ..BERT_RULE
};

const BERT: Family = Family {
    architecture: "BertModel",
    model_type: "bert",
    attention_bias: AttentionBias::Never,
    norms: NormRule::Joined,
    activation: (Activation::Gelu, &["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"]),
    encoder: Some(BERT_RULE),
    reads: &[
        "attention_probs_dropout_prob",
        "directionality",
        "layer_norm_eps",
        "num_labels",
        "output_past",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "position_embedding_type",
        "sentence_transformers",
        "type_vocab_size",
    ],
    defaults: Defaults {
        heads: 12,
        layers: 12,
        vocab_size: 30_522,
        hidden_size: 768,
        intermediate_size: 3072,
        max_position_embeddings: 512,
        ..LLAMA.defaults
    },
    ..LLAMA
};

/// Every family of encoders, in the order error messages list them.
pub(crate) static ENCODERS: [Family; 5] = [
    BERT,
    Family {
        architecture: "RobertaModel",
        model_type: "roberta",
        encoder: Some(ROBERTA_RULE),
        defaults: Defaults { vocab_size: 50_265, ..BERT.defaults },
        ..BERT
    },
    Family { architecture: "XLMRobertaModel", model_type: "xlm-roberta", encoder: Some(ROBERTA_RULE), ..BERT },
    Family {
        architecture: "DebertaV2Model",
        model_type: "deberta-v2",
        encoder: Some(EncoderRule {
            level: "deberta.",
            positions: PositionRule::Distances,
            inputs: &["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
            eps: ("layer_norm_eps", 1e-7),
            classes: ClassRule { dense: "pooler.dense", activation: Activation::Gelu, norm: "", output: "classifier" },
            unread: &[
                "pooler.",
                "lm_predictions.",
                "mask_predictions.",
                "cls.",
                "embeddings.position_embeddings",
                "embeddings.position_ids",
            ],
            ..BERT_RULE
        }),
        reads: &[
            "attention_probs_dropout_prob",
            "layer_norm_eps",
            "legacy",
            "max_relative_positions",
            "norm_rel_ebd",
            "num_labels",
            "pooler_dropout",
            "pooler_hidden_act",
            "pooler_hidden_size",
            "pos_att_type",
            "position_biased_input",
            "position_buckets",
            "relative_attention",
            "share_att_key",
            "type_vocab_size",
        ],
        defaults: Defaults {
            heads: 24,
            layers: 24,
            vocab_size: 128_100,
            hidden_size: 1536,
            intermediate_size: 6144,
            ..BERT.defaults
        },
        ..BERT
    },
    Family {
        architecture: "ModernBertModel",
        model_type: "modernbert",
        attention_bias: AttentionBias::Configured,
        norms: NormRule::BeforeAllButFirst,
        window: WindowRule::AllButEvery(3),
        projections: Projections::Fused,
        activation: (Activation::Gelu, BERT.activation.1),
        encoder: Some(EncoderRule {
            level: "model.",
            embeddings: "embeddings.tok_embeddings",
            embedding_norm: "embeddings.norm",
            positions: PositionRule::Rotated,
            has_types: false,
            layers: "layers",
            inputs: &["attn.Wqkv"],
            output: "attn.Wo",
            norms: ["attn_norm", "mlp_norm"],
            up: "mlp.Wi",
            is_gated: true,
            down: "mlp.Wo",
            norm: "final_norm",
            is_biased: false,
            eps: ("norm_eps", 1e-5),
            activation: "hidden_activation",
            classes: ClassRule {
                dense: "head.dense",
                activation: Activation::Gelu,
                norm: "head.norm",
                output: "classifier",
            },
            unread: &["head.", "decoder."],
        }),
        reads: &[
            "classifier_activation",
            "classifier_bias",
            "classifier_pooling",
            "cls_token_id",
            "decoder_bias",
            "deterministic_flash_attn",
            "embedding_dropout",
            "global_attn_every_n_layers",
            "global_rope_theta",
            "hidden_activation",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "local_attention",
            "local_rope_theta",
            "norm_bias",
            "norm_eps",
            "num_labels",
            "position_embedding_type",
            "reference_compile",
            "repad_logits_with_grad",
            "sparse_pred_ignore_index",
            "sparse_prediction",
        ],
        defaults: Defaults {
            layers: 22,
            vocab_size: 50_368,
            intermediate_size: 1152,
            max_position_embeddings: 8192,
            sliding_window: Some(128),
            rope_theta: 160_000.0,
            sliding_rope_theta: Some(10_000.0),
            ..BERT.defaults
        },
        ..BERT
    },
];

/// The function of this name in a config.
pub(crate) fn activation_named(name: &str) -> Option<Activation> {
    match name {
        "gelu" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Some(GELU.0),
        "relu" => Some(Activation::Relu),
        "silu" | "swish" => Some(Activation::Silu),
        "tanh" => Some(Activation::Tanh),
        _ => None,
    }
}
