//! The families of decoders there are, as data: what sets one apart from the others.
//!
//! A family is a row of this table, not code of its own. It knows no tensor and no kernel.
//! Default sizes are those of the `transformers` configuration classes: a published `config.json`
//! may leave out whatever equals them.

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

/// The layers that see a sliding window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// None.
    Never,
    /// All, where the config's `sliding_window` is a number.
    Always,
    /// Where `use_sliding_window`: those that `layer_types` names, or from `max_window_layers` on.
    Switched,
}

/// Values of fields that a family's `config.json` may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
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
}

/// One family of decoders.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name in the config's `architectures`.
    pub architecture: &'static str,
    /// The name in the config's `model_type`.
    pub model_type: &'static str,
    /// Biases of the attention projections.
    pub attention_bias: AttentionBias,
    /// True if the config's `mlp_bias` counts.
    pub mlp_bias: bool,
    /// True if queries and keys are normalised per head before they are rotated.
    pub query_key_norm: bool,
    /// Sliding windows.
    pub window: WindowRule,
    /// Values of fields that the config may leave out.
    pub defaults: Defaults,
}

const LLAMA_DEFAULTS: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    kv_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    sliding_window: None,
};

const QWEN_DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22_016,
    kv_heads: Some(32),
    head_dim: None,
    max_position_embeddings: 32_768,
    sliding_window: Some(4096),
};

/// Query heads and layers where a config names none: 32 in every family.
pub(crate) const DEFAULT_HEADS: usize = 32;

/// Every family, in the order error messages list them.
pub(crate) static FAMILIES: [Family; 4] = [
    Family {
        architecture: "LlamaForCausalLM",
        model_type: "llama",
        attention_bias: AttentionBias::Configured,
        mlp_bias: true,
        query_key_norm: false,
        window: WindowRule::Never,
        defaults: LLAMA_DEFAULTS,
    },
    Family {
        architecture: "MistralForCausalLM",
        model_type: "mistral",
        attention_bias: AttentionBias::Never,
        mlp_bias: false,
        query_key_norm: false,
        window: WindowRule::Always,
        defaults: Defaults {
            intermediate_size: 14_336,
            kv_heads: Some(8),
            max_position_embeddings: 131_072,
            sliding_window: Some(4096),
            ..LLAMA_DEFAULTS
        },
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        model_type: "qwen2",
        attention_bias: AttentionBias::QueryKeyValue,
        mlp_bias: false,
        query_key_norm: false,
        window: WindowRule::Switched,
        defaults: QWEN_DEFAULTS,
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        attention_bias: AttentionBias::Configured,
        mlp_bias: false,
        query_key_norm: true,
        window: WindowRule::Switched,
        defaults: Defaults { head_dim: Some(128), ..QWEN_DEFAULTS },
    },
];
