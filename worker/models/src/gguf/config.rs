//! A GGUF file's sizes and switches as a `config.json`.

use serde_json::{Map, Value as Json, json};

use super::keys::{refuse_unknown_keys, shown};
use super::{GgufModelError, Metadata};
use crate::known::ADJACENT;
use loader::gguf::Gguf;
use tensor::Yarn;

/// GGUF's architectures and ours.
const ARCHITECTURES: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// The `config.json` that says the same. Its bounds are checked where every `config.json`'s are.
///
/// # Errors
/// Another architecture, a missing value, or a switch that nothing here computes.
pub fn config_json(gguf: &Gguf) -> Result<Vec<u8>, GgufModelError> {
    let metadata = Metadata::new(gguf)?;
    let known = ARCHITECTURES.iter().find(|(own, _)| *own == metadata.architecture);
    let (_, architecture) = known.ok_or_else(|| GgufModelError::Unsupported {
        key: "general.architecture".into(),
        found: metadata.architecture.chars().take(80).collect(),
        fix: "llama, qwen2 and qwen3 are",
    })?;
    let heads = metadata.need_number("attention.head_count")?;
    let hidden = metadata.need_number("embedding_length")?;
    let head_dim = match metadata.number("attention.key_length")? {
        Some(width) => width,
        None => hidden.checked_div(heads).unwrap_or_default(),
    };
    refuse_unknown_keys(&metadata)?;
    refuse(&metadata, head_dim)?;
    let vocabulary = metadata.tensor("token_embd.weight").and_then(|shape| shape.first().copied());
    let vocabulary = vocabulary.ok_or_else(|| GgufModelError::Missing { key: "token_embd.weight".into() })?;
    let mut config = Map::new();
    let mut put = |key: &str, value: Json| config.insert(key.into(), value);
    put("architectures", json!([architecture]));
    put("vocab_size", json!(vocabulary));
    put("hidden_size", json!(hidden));
    put("intermediate_size", json!(metadata.need_number("feed_forward_length")?));
    put("num_hidden_layers", json!(metadata.need_number("block_count")?));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(metadata.number("attention.head_count_kv")?.unwrap_or(heads)));
    put("head_dim", json!(head_dim));
    put("max_position_embeddings", json!(metadata.need_number("context_length")?));
    let epsilon = metadata.float("attention.layer_norm_rms_epsilon")?;
    let epsilon =
        epsilon.ok_or_else(|| GgufModelError::Missing { key: metadata.key("attention.layer_norm_rms_epsilon") })?;
    put("rms_norm_eps", json!(epsilon));
    put("tie_word_embeddings", json!(metadata.tensor("output.weight").is_none()));
    put("rope_theta", json!(metadata.float("rope.freq_base")?.unwrap_or(10_000.0)));
    if let Some(scaling) = scaling(&metadata)? {
        put("rope_scaling", scaling);
    }
    if metadata.architecture == "llama" {
        put("attention_bias", json!(metadata.tensor("blk.0.attn_q.bias").is_some()));
        put("mlp_bias", json!(metadata.tensor("blk.0.ffn_up.bias").is_some()));
        // Its converter has reordered the rows of queries and keys for this.
        put(ADJACENT, json!(true));
    }
    // A tree of JSON always serialises.
    Ok(serde_json::to_vec(&config).unwrap_or_default())
}

/// Switches that change the arithmetic in ways that nothing here implements.
fn refuse(metadata: &Metadata<'_>, head_dim: u64) -> Result<(), GgufModelError> {
    for last in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = metadata.number(last)?.filter(|width| *width != head_dim) {
            let (key, found) = (metadata.key(last), format!("{width} where a head has {head_dim}"));
            return Err(GgufModelError::Unsupported { key, found, fix: "take a model whose heads are of one width" });
        }
    }
    for last in ["expert_count", "attention.sliding_window"] {
        if let Some(count) = metadata.number(last)?.filter(|count| *count != 0) {
            let (key, found) = (metadata.key(last), count.to_string());
            return Err(GgufModelError::Unsupported { key, found, fix: "take a dense model without windows" });
        }
    }
    let rows = metadata.tensor("token_embd.weight").and_then(|shape| shape.first().copied());
    if let Some(count) = metadata.number("vocab_size")?.filter(|count| usize::try_from(*count).ok() != rows) {
        let (key, found) = (metadata.key("vocab_size"), format!("{count}, not the rows of token_embd.weight"));
        return Err(GgufModelError::Unsupported { key, found, fix: "write the file again with today's converter" });
    }
    if metadata.tensor("rope_freqs.weight").is_some() {
        return Err(GgufModelError::Unsupported {
            key: "rope_freqs.weight".into(),
            found: "a table of RoPE divisors (Llama 3.1 and later)".into(),
            fix: "serve this model from its safetensors files",
        });
    }
    Ok(())
}

/// The stretching of the rotation, as llama.cpp understands the keys.
fn scaling(metadata: &Metadata<'_>) -> Result<Option<Json>, GgufModelError> {
    let last = "rope.scaling.type";
    let wrong = || GgufModelError::Wrong { key: metadata.key(last), expected: "a text" };
    let kind = metadata.get(last).map(|kind| kind.as_str().ok_or_else(wrong)).transpose()?;
    // The older key means the same; 0 means that there is none.
    let factor = match metadata.float("rope.scaling.factor")? {
        None => metadata.float("rope.scale_linear")?,
        factor => factor,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    match (kind, factor) {
        (None, None) | (Some("linear"), None) => no_yarn(metadata).map(|()| None),
        // A factor without a kind is a linear one.
        (None | Some("linear"), Some(factor)) => {
            no_yarn(metadata).map(|()| Some(json!({"rope_type": "linear", "factor": factor})))
        }
        (Some("none"), _) => no_yarn(metadata).map(|()| None),
        (Some("yarn"), Some(factor)) => yarn(metadata, factor).map(Some),
        (Some("yarn"), None) => Err(GgufModelError::Missing { key: metadata.key("rope.scaling.factor") }),
        (Some(other), _) => {
            let (key, found) = (metadata.key(last), other.chars().take(80).collect());
            Err(GgufModelError::Unsupported { key, found, fix: "none, linear and yarn are" })
        }
    }
}

const YARN: [&str; 5] = [
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
];

/// Refuses numbers of YaRN in a file whose rotation is another: llama.cpp would use some of them all the same.
fn no_yarn(metadata: &Metadata<'_>) -> Result<(), GgufModelError> {
    for last in YARN {
        if let Some(value) = metadata.get(last) {
            let (key, found) = (metadata.key(last), format!("{} without rope.scaling.type yarn", shown(value)));
            return Err(GgufModelError::Unsupported { key, found, fix: "serve this model from its safetensors files" });
        }
    }
    Ok(())
}

fn yarn(metadata: &Metadata<'_>, factor: f64) -> Result<Json, GgufModelError> {
    let original = metadata.need_number("rope.scaling.original_context_length")?;
    let mut scaling = json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
    for (last, name) in [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")] {
        if let Some(number) = metadata.float(last)? {
            scaling[name] = json!(number);
        }
    }
    if let Some(mix) = metadata.float("rope.scaling.yarn_ext_factor")?.filter(|mix| *mix != 1.0) {
        let (key, found) = (metadata.key("rope.scaling.yarn_ext_factor"), mix.to_string());
        return Err(GgufModelError::Unsupported { key, found, fix: "only 1 is" });
    }
    // These multiply what YaRN itself derives from the factor.
    let mut attention = None;
    for last in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"] {
        if let Some(number) = metadata.float(last)? {
            attention = Some(attention.unwrap_or(1.0) * number);
        }
    }
    if let Some(attention) = attention {
        scaling["attention_factor"] = json!(attention * Yarn::default_attention_factor(factor, None, None));
    }
    Ok(scaling)
}
