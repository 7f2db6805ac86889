//! The sizes of published models, and the `config.json` that states them.
//!
//! Every number is the one in the model's own config on Hugging Face; each row names its model.

use serde_json::{Map, Value, json};

use super::SynthError;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Mistral,
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Mistral => "mistral",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Mistral => "MistralForCausalLM",
        }
    }

    /// True if queries, keys and values have a bias.
    pub(super) fn has_bias(self) -> bool {
        self == Self::Qwen2
    }

    /// True if queries and keys are normalised per head.
    pub(super) fn has_head_norms(self) -> bool {
        self == Self::Qwen3
    }

    fn is_qwen(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }
}

/// One model's sizes.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) arch: Arch,
    size: &'static str,
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) positions: usize,
    pub(super) is_tied: bool,
    /// Tokens that pairs of others merge into, and single bytes.
    pub(super) bpe_tokens: usize,
    /// Tokens that are matched whole: the three of ChatML, and reserved ones.
    pub(super) added_tokens: usize,
    norm_eps: f64,
    rope_theta: f64,
    /// The factor of Llama 3's stretching of 8192 positions.
    llama3_factor: Option<f64>,
}

/// Qwen 2.5: 151,643 tokens and 22 added ones; the embedding has some rows that no token uses.
const QWEN: Geometry = Geometry {
    arch: Arch::Qwen2,
    size: "",
    vocab: 151_936,
    hidden: 0,
    intermediate: 0,
    layers: 28,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    positions: 32_768,
    is_tied: true,
    bpe_tokens: 151_643,
    added_tokens: 22,
    norm_eps: 1e-6,
    rope_theta: 1e6,
    llama3_factor: None,
};

/// Qwen 3 adds four more tokens.
const QWEN3: Geometry = Geometry { arch: Arch::Qwen3, positions: 40_960, added_tokens: 26, ..QWEN };

/// Llama 3.1 and 3.2: 128,000 tokens and 256 added ones.
const LLAMA: Geometry = Geometry {
    arch: Arch::Llama,
    vocab: 128_256,
    heads: 32,
    positions: 131_072,
    bpe_tokens: 128_000,
    added_tokens: 256,
    norm_eps: 1e-5,
    rope_theta: 500_000.0,
    llama3_factor: Some(32.0),
    ..QWEN
};

/// Mistral 7B v0.3. Its own tokenizer has 770 control tokens before the others; ours come last.
const MISTRAL: Geometry = Geometry {
    arch: Arch::Mistral,
    vocab: 32_768,
    layers: 32,
    heads: 32,
    is_tied: false,
    bpe_tokens: 31_998,
    added_tokens: 770,
    norm_eps: 1e-5,
    rope_theta: 1e6,
    ..QWEN
};

#[rustfmt::skip]
const GEOMETRIES: [Geometry; 14] = [
    // Llama-3.2-1B, Llama-3.2-3B, Llama-3.1-8B
    Geometry { size: "1b", hidden: 2048, intermediate: 8192, layers: 16, head_dim: 64, ..LLAMA },
    Geometry { size: "3b", hidden: 3072, intermediate: 8192, layers: 28, heads: 24, ..LLAMA },
    Geometry { size: "8b", hidden: 4096, intermediate: 14_336, layers: 32, is_tied: false, llama3_factor: Some(8.0), ..LLAMA },
    // Qwen2.5-0.5B-Instruct, Qwen2.5-1.5B-Instruct
    Geometry { size: "0.5b", hidden: 896, intermediate: 4864, layers: 24, heads: 14, kv_heads: 2, head_dim: 64, ..QWEN },
    Geometry { size: "1.5b", hidden: 1536, intermediate: 8960, heads: 12, kv_heads: 2, ..QWEN },
    // Qwen3-0.6B, Qwen3-1.7B, Qwen3-4B, Qwen3-8B
    Geometry { size: "0.6b", hidden: 1024, intermediate: 3072, ..QWEN3 },
    Geometry { size: "1.7b", hidden: 2048, intermediate: 6144, ..QWEN3 },
    Geometry { size: "4b", hidden: 2560, intermediate: 9728, layers: 36, heads: 32, ..QWEN3 },
    Geometry { size: "8b", hidden: 4096, intermediate: 12_288, layers: 36, heads: 32, is_tied: false, ..QWEN3 },
    // Mistral-7B-v0.3
    Geometry { size: "7b", hidden: 4096, intermediate: 14_336, ..MISTRAL },
    // Of no real model: the smallest that has every part of its family.
    tiny(LLAMA), tiny(QWEN), tiny(QWEN3), tiny(MISTRAL),
];

const fn tiny(family: Geometry) -> Geometry {
    Geometry {
        size: "tiny",
        vocab: 520,
        hidden: 64,
        intermediate: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        positions: 512,
        bpe_tokens: 509,
        added_tokens: 3,
        ..family
    }
}

/// The geometry of a family and size.
pub(super) fn find(arch: &str, size: &str) -> Result<Geometry, SynthError> {
    let wanted = |geometry: &&Geometry| geometry.arch.name() == arch && geometry.size.eq_ignore_ascii_case(size);
    GEOMETRIES.iter().find(wanted).cloned().ok_or_else(|| SynthError::UnknownGeometry {
        arch: arch.to_owned(),
        size: size.to_owned(),
        known: GEOMETRIES
            .iter()
            .map(|geometry| format!("{} {}", geometry.arch.name(), geometry.size))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

impl Geometry {
    /// `<|endoftext|>`, the first of the added tokens.
    fn end_of_text(&self) -> usize {
        self.bpe_tokens
    }

    /// `<|im_end|>`, the third.
    fn end_of_message(&self) -> usize {
        self.bpe_tokens + 2
    }

    /// `config.json` in the spelling of transformers 5.
    pub(super) fn config_json(&self, dtype: &str) -> Value {
        let mut config = json!({
            "architectures": [self.arch.class()],
            "attention_dropout": 0.0,
            "bos_token_id": self.end_of_text(),
            "dtype": dtype,
            "eos_token_id": self.end_of_message(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "model_type": self.arch.name(),
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": self.end_of_text(),
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": self.rope_json(),
            "tie_word_embeddings": self.is_tied,
            "transformers_version": "5.0.0",
            "use_cache": true,
            "vocab_size": self.vocab,
        });
        if let Value::Object(config) = &mut config {
            self.add_family_fields(config);
        }
        config
    }

    fn add_family_fields(&self, config: &mut Map<String, Value>) {
        match self.arch {
            Arch::Llama | Arch::Qwen3 => config.insert("attention_bias".to_owned(), false.into()),
            Arch::Mistral => config.insert("sliding_window".to_owned(), Value::Null),
            // Qwen 2 has its biases by definition and a head of hidden / heads, and says neither.
            Arch::Qwen2 => config.remove("head_dim"),
        };
        if self.arch == Arch::Llama {
            config.insert("mlp_bias".to_owned(), false.into());
        }
        if self.arch.is_qwen() {
            config.insert("layer_types".to_owned(), vec!["full_attention"; self.layers].into());
            config.insert("max_window_layers".to_owned(), self.layers.into());
            config.insert("sliding_window".to_owned(), Value::Null);
            config.insert("use_sliding_window".to_owned(), false.into());
        }
    }

    fn rope_json(&self) -> Value {
        match self.llama3_factor {
            None => json!({"rope_theta": self.rope_theta, "rope_type": "default"}),
            Some(factor) => json!({
                "factor": factor,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_theta": self.rope_theta,
                "rope_type": "llama3",
            }),
        }
    }

    /// `generation_config.json`, with both ends of a chat.
    pub(super) fn generation_config_json(&self) -> Value {
        json!({
            "bos_token_id": self.end_of_text(),
            "do_sample": true,
            "eos_token_id": [self.end_of_message(), self.end_of_text()],
            "pad_token_id": self.end_of_text(),
            "temperature": 0.7,
            "top_p": 0.8,
            "transformers_version": "5.0.0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters as counted on the models' pages.
    #[test]
    fn parameter_counts_are_those_published() {
        let published = [
            ("llama", "1b", 1_235_814_400),
            ("llama", "3b", 3_212_749_824),
            ("llama", "8b", 8_030_261_248),
            ("qwen2", "0.5b", 494_032_768),
            ("qwen2", "1.5b", 1_543_714_304),
            ("qwen3", "0.6b", 596_049_920),
            ("qwen3", "1.7b", 1_720_574_976),
            ("qwen3", "4b", 4_022_468_096),
            ("qwen3", "8b", 8_190_735_360),
            ("mistral", "7b", 7_248_023_552),
        ];
        for (arch, size, parameters) in published {
            let geometry = find(arch, size).expect("a known geometry");
            let counted: u64 = crate::synth::weights::tensors(&geometry).iter().map(|tensor| tensor.elements()).sum();
            assert_eq!(counted, parameters, "{arch} {size}");
        }
    }

    #[test]
    fn every_token_has_a_row_of_the_embedding() {
        for geometry in &GEOMETRIES {
            let tokens = geometry.bpe_tokens + geometry.added_tokens;
            assert!(tokens <= geometry.vocab, "{} {}", geometry.arch.name(), geometry.size);
        }
    }

    #[test]
    fn an_unknown_size_lists_the_known_ones() {
        let error = find("qwen3", "9b").expect_err("no such model").to_string();
        assert!(error.contains("qwen3 0.6b") && error.contains("mistral 7b"), "{error}");
    }
}
