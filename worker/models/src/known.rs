//! The fields of `config.json` that may change what a model computes, each known or refused.
//!
//! A config is read by code that its makers changed for it: one multiplier more, one other norm. A field that nobody
//! here knows may be such a switch, so it is refused by name, unless it says nothing (null) or is off (false). A model
//! that is computed in another way than its makers did answers a little worse, and nobody sees why.

use super::config_error::ConfigError;
use super::fields::Fields;

/// A key of ours, which no published `config.json` has: pairs of a rotation are neighbours in a GGUF file of Llama.
pub(crate) const ADJACENT: &str = "rope_adjacent_pairs";
/// The same: the tensor in which a GGUF file has the divisors of its rotation's frequencies.
pub(crate) const DIVISORS: &str = "rope_divisors";
/// The same: the kind of a rotation whose divisors are in that tensor.
pub(crate) const DIVIDED: &str = "divided";
/// The same: a GGUF file stacks the matrices of experts.
pub(crate) const STACKED: &str = "stacked_experts";
/// The same: a GGUF file stores norms whole that a checkpoint stores less one.
pub(crate) const WHOLE_NORMS: &str = "whole_norms";

/// Fields that are read.
const READ: [&str; 35] = [
    ADJACENT,
    STACKED,
    DIVISORS,
    WHOLE_NORMS,
    "architectures",
    "attention_bias",
    "dtype",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "use_sliding_window",
    "vocab_size",
    // Read with the tokenizer's files.
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
];

/// Fields that change nothing here: of training, of how Python runs or stores a model, of tasks and of generation
/// (whose place is `generation_config.json`).
const HARMLESS: [&str; 89] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "add_cross_attention",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "is_matryoshka",
    "label2id",
    "length_penalty",
    "matryoshka_dimensions",
    "max_length",
    "max_new_tokens",
    "max_sequence_length",
    "min_length",
    "min_p",
    "mlp_dropout",
    "model_max_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "rope_interleaved",
    "sep_token_id",
    "seq_length",
    "summary_type",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tensor_parallel_size",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tokenizer_use_fast",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "vllm_version",
];

/// Fields of a rotation that every kind may have. A trained length is read by the kinds that need one.
const OF_ROTATION: [&str; 6] =
    ["rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "finetuned"];

/// Kinds of rotation, and the fields that each has beyond those.
const KINDS: [(&str, &[&str]); 7] = [
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor"]),
    (DIVIDED, &["attention_factor"]),
    ("longrope", &["factor", "attention_factor", "long_factor", "short_factor"]),
    ("yarn", &["factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"]),
];

/// Fields of a model that sees: its parts, and those about images, which are refused.
const OF_SEEING: [&str; 17] = [
    "text_config",
    "vision_config",
    "boi_token_index",
    "eoi_token_index",
    "image_seq_length",
    "image_token_id",
    "image_token_index",
    "mm_tokens_per_image",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "spatial_merge_size",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "boi_token_id",
    "eoi_token_id",
    "architectures",
    "model_type",
];

/// Refuses a field that is not known and says something; a family may have `more`.
pub(super) fn refuse_unknown(fields: &Fields<'_>, more: &[&str]) -> Result<(), ConfigError> {
    match fields.set().find(|name| ![&READ[..], &HARMLESS, more].iter().any(|known| known.contains(name))) {
        Some(name) => Err(fields.unknown(name)),
        None => Ok(()),
    }
}

/// The same beside the text part of a model that sees.
pub(super) fn refuse_unknown_beside(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match fields.set().find(|name| ![&READ[..], &HARMLESS, &OF_SEEING].iter().any(|known| known.contains(name))) {
        Some(name) => Err(fields.unknown(name)),
        None => Ok(()),
    }
}

/// The field of a rotation that says how queries grow.
pub(super) const GROWTH: &str = "llama_4_scaling_beta";

/// Fields of the rotation of a family whose queries grow; the length is that of the config itself.
const OF_GROWTH: [&str; 2] = [GROWTH, "max_position_embeddings"];

/// Refuses a field of a rotation that its kind does not have; in a family whose queries `grow`, it says how.
pub(super) fn refuse_unknown_of_rotation(rotation: &Fields<'_>, kind: &str, grow: bool) -> Result<(), ConfigError> {
    let own = KINDS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, own)| own);
    let is_known =
        |name: &str| OF_ROTATION.contains(&name) || own.contains(&name) || (grow && OF_GROWTH.contains(&name));
    match rotation.set().find(|name| !is_known(name)) {
        Some(name) => Err(ConfigError::OfRotation { field: rotation.named(name), kind: kind.to_owned() }),
        None => Ok(()),
    }
}
