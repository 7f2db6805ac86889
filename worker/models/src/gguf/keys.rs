//! The keys of a GGUF file that may change what a model computes, each known or refused.
//!
//! A file says in metadata what a config says in fields, and new converters say more. A key that nobody here knows may
//! be a switch of the arithmetic, so it is refused by name: a model that is computed in another way than its makers
//! did answers a little worse, and nobody sees why. Keys of other kinds (`general.name`, a quantizer's notes) change
//! nothing and are not looked at.

use loader::gguf::{Gguf, Value};

use super::{GgufModelError, Metadata};

/// Keys of Gemma that are read.
const OF_GEMMA: [&str; 3] = ["attn_logit_softcapping", "final_logit_softcapping", "rope.freq_base_swa"];

/// Keys of an architecture (their last parts) that are read.
const READ: [&str; 25] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "vocab_size",
];

/// Keys that change nothing here: notes, and sizes that other keys or the tensors say.
const HARMLESS: [&str; 2] = ["rope.scaling.finetuned", "tensor_data_layout"];

/// Switches that are known, at the value at which they change nothing.
const OFF: [(&str, f64); 15] = [
    ("attention.causal", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("attention.shared_kv_layers", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("expert_shared_count", 0.0),
    ("final_logit_softcapping", 0.0),
    ("leading_dense_block_count", 0.0),
    ("logit_scale", 1.0),
    ("nextn_predict_layers", 0.0),
    ("residual_scale", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("use_parallel_residual", 0.0),
];

/// Keys of the tokenizer that are read, or that say what others say.
const OF_TEXT: [&str; 28] = [
    "add_bos_token",
    "add_eos_token",
    "bos_token_id",
    "cls_token_id",
    "eom_token_id",
    "eos_token_id",
    "eos_token_ids",
    "eot_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_pre_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "fim_suf_token_id",
    "mask_token_id",
    "merges",
    "middle_token_id",
    "model",
    "padding_token_id",
    "pre",
    "prefix_token_id",
    "scores",
    "seperator_token_id",
    "suffix_token_id",
    "token_type",
    "token_type_count",
    "tokens",
    "unknown_token_id",
];

/// Switches of the tokenizer, at the value at which they change nothing.
const OF_TEXT_OFF: [(&str, bool); 4] = [
    ("add_mask_token", false),
    ("add_sep_token", false),
    ("escape_whitespaces", false),
    ("remove_extra_whitespaces", false),
];

const FIX: &str = "serve this model from its safetensors files";

/// Refuses keys of the architecture that are not known, and known switches that are on.
pub(super) fn refuse_unknown_keys(metadata: &Metadata<'_>) -> Result<(), GgufModelError> {
    let prefix = metadata.key("");
    for (key, value) in &metadata.gguf.metadata {
        let Some(last) = key.strip_prefix(&prefix) else { continue };
        let of_family = metadata.architecture.starts_with("gemma") && OF_GEMMA.contains(&last);
        if READ.contains(&last) || HARMLESS.contains(&last) || of_family {
            continue;
        }
        let off = OFF.iter().find(|(switch, _)| *switch == last).map(|(_, off)| *off);
        if off.is_none() || number(value) != off {
            return Err(GgufModelError::Unsupported { key: key.clone(), found: shown(value), fix: FIX });
        }
    }
    Ok(())
}

/// The same for the tokenizer's keys.
pub(super) fn refuse_unknown_text_keys(gguf: &Gguf) -> Result<(), GgufModelError> {
    for (key, value) in &gguf.metadata {
        let Some(last) = key.strip_prefix("tokenizer.ggml.") else { continue };
        let off = OF_TEXT_OFF.iter().find(|(switch, _)| *switch == last);
        // Of SentencePiece's it is read; byte-level BPE has none.
        let off = off.or((last == "add_space_prefix" && !is_of_pieces(gguf)).then_some(&("add_space_prefix", false)));
        let is_read = OF_TEXT.contains(&last) || (last == "add_space_prefix" && is_of_pieces(gguf));
        if is_read || off.is_some_and(|(_, off)| value.as_bool() == Some(*off)) {
            continue;
        }
        let fix = "serve this model from its safetensors files and its own tokenizer.json";
        return Err(GgufModelError::Unsupported { key: key.clone(), found: shown(value), fix });
    }
    Ok(())
}

/// True if the tokenizer is SentencePiece's.
pub(super) fn is_of_pieces(gguf: &Gguf) -> bool {
    gguf.metadata.get("tokenizer.ggml.model").and_then(Value::as_str) == Some("llama")
}

#[expect(clippy::cast_precision_loss, reason = "compared with 0 and 1")]
fn number(value: &Value) -> Option<f64> {
    let whole = || value.as_i64().map(|number| number as f64);
    value.as_f64().or_else(whole).or_else(|| value.as_bool().map(|flag| f64::from(u8::from(flag))))
}

/// A value as a message shows it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Unsigned(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Text(text) => text.chars().take(80).collect(),
        Value::List(values) => format!("a list of {}", values.len()),
    }
}
