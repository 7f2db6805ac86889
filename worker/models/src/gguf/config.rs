//! A GGUF file's sizes and switches as a `config.json`.

use serde_json::{Map, Value as Json, json};

use super::keys::{refuse_unknown_keys, shown};
use super::{GgufModelError, Metadata};
use crate::known::{ADJACENT, DIVIDED, DIVISORS, STACKED, WHOLE_NORMS};
use loader::gguf::Gguf;
use tensor::Yarn;

/// One of GGUF's architectures.
struct Architecture {
    /// Its name there.
    name: &'static str,
    /// Ours.
    class: &'static str,
    /// True if the converter orders rows of queries and keys by rotated pairs.
    is_adjacent: bool,
    /// True if layers may have windows, and heads may be rotated in part.
    has_windows: bool,
    /// True if layers have experts.
    has_experts: bool,
    /// The number of layers of the one size whose scores are scaled by the width that heads have on average.
    by_average: Option<u64>,
    /// True if the converter stores norms whole that a checkpoint stores less one.
    whole_norms: bool,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    is_adjacent: true,
    has_windows: false,
    has_experts: false,
    by_average: None,
    whole_norms: false,
};
/// Its converter writes Mixtral's for Llama's, but for the experts.
const MIXTRAL: Architecture = Architecture { class: "MixtralForCausalLM", has_experts: true, ..LLAMA };
const QWEN: Architecture = Architecture { is_adjacent: false, ..LLAMA };
const GEMMA: Architecture = Architecture { has_windows: true, whole_norms: true, ..QWEN };

const ARCHITECTURES: [Architecture; 8] = [
    LLAMA,
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", ..QWEN },
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", ..QWEN },
    Architecture { name: "qwen3moe", class: "Qwen3MoeForCausalLM", has_experts: true, ..QWEN },
    Architecture { name: "gemma2", class: "Gemma2ForCausalLM", by_average: Some(46), ..GEMMA },
    Architecture { name: "gemma3", class: "Gemma3ForCausalLM", by_average: Some(62), ..GEMMA },
    Architecture { name: "phi3", class: "Phi3ForCausalLM", has_windows: true, ..QWEN },
    Architecture { name: "smollm3", class: "SmolLM3ForCausalLM", ..LLAMA },
];

/// The `config.json` that says the same. Its bounds are checked where every `config.json`'s are.
///
/// # Errors
/// Another architecture, a missing value, or a switch that nothing here computes.
pub fn config_json(gguf: &Gguf) -> Result<Vec<u8>, GgufModelError> {
    let metadata = Metadata::new(gguf)?;
    let known = ARCHITECTURES.iter().find(|known| known.name == metadata.architecture);
    let architecture = known.ok_or_else(|| GgufModelError::Unsupported {
        key: "general.architecture".into(),
        found: metadata.architecture.chars().take(80).collect(),
        fix: "llama, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3 and smollm3 are",
    })?;
    let has_experts = metadata.number("expert_count")?.is_some_and(|count| count > 0);
    let architecture = if architecture.name == "llama" && has_experts { &MIXTRAL } else { architecture };
    let heads = metadata.need_number("attention.head_count")?;
    let hidden = metadata.need_number("embedding_length")?;
    let head_dim = match metadata.number("attention.key_length")? {
        Some(width) => width,
        None => hidden.checked_div(heads).unwrap_or_default(),
    };
    refuse_unknown_keys(&metadata)?;
    refuse(architecture, &metadata, head_dim)?;
    let mut config = Map::new();
    sizes(&metadata, heads, hidden, head_dim, &mut config)?;
    rotation(architecture, &metadata, head_dim, &mut config)?;
    of_family(architecture, &metadata, heads, hidden, &mut config)?;
    config.insert("architectures".into(), json!([architecture.class]));
    // A tree of JSON always serialises.
    Ok(serde_json::to_vec(&config).unwrap_or_default())
}

/// The sizes that every architecture has.
fn sizes(
    metadata: &Metadata<'_>,
    heads: u64,
    hidden: u64,
    head_dim: u64,
    config: &mut Map<String, Json>,
) -> Result<(), GgufModelError> {
    let vocabulary = metadata.tensor("token_embd.weight").and_then(|shape| shape.first().copied());
    let vocabulary = vocabulary.ok_or_else(|| GgufModelError::Missing { key: "token_embd.weight".into() })?;
    let epsilon = metadata.float("attention.layer_norm_rms_epsilon")?;
    let epsilon =
        epsilon.ok_or_else(|| GgufModelError::Missing { key: metadata.key("attention.layer_norm_rms_epsilon") })?;
    let mut put = |key: &str, value: Json| config.insert(key.into(), value);
    put("vocab_size", json!(vocabulary));
    put("hidden_size", json!(hidden));
    put("intermediate_size", json!(metadata.need_number("feed_forward_length")?));
    put("num_hidden_layers", json!(metadata.need_number("block_count")?));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(metadata.number("attention.head_count_kv")?.unwrap_or(heads)));
    put("head_dim", json!(head_dim));
    put("max_position_embeddings", json!(metadata.need_number("context_length")?));
    put("rms_norm_eps", json!(epsilon));
    put("tie_word_embeddings", json!(metadata.tensor("output.weight").is_none()));
    Ok(())
}

/// The rotation: its base, its stretching, and the tensor that divides its frequencies.
fn rotation(
    architecture: &Architecture,
    metadata: &Metadata<'_>,
    head_dim: u64,
    config: &mut Map<String, Json>,
) -> Result<(), GgufModelError> {
    let mut put = |key: &str, value: Json| config.insert(key.into(), value);
    put("rope_theta", json!(metadata.float("rope.freq_base")?.unwrap_or(10_000.0)));
    if architecture.is_adjacent {
        put(ADJACENT, json!(true));
    }
    if let Some(width) = metadata.number("rope.dimension_count")?.filter(|width| *width != head_dim) {
        put("partial_rotary_factor", json!(width as f64 / head_dim.max(1) as f64));
    }
    let original = metadata.number("rope.scaling.original_context_length")?;
    let is_long = original.is_some_and(|original| metadata.number("context_length").ok().flatten() > Some(original));
    let longest = if is_long { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
    if metadata.tensor("rope_freqs.weight").is_some() {
        put(DIVISORS, json!("rope_freqs.weight"));
    } else if metadata.tensor(longest).is_some() {
        put(DIVISORS, json!(longest));
        // The divisors are in the tensor, and the factor of attention logits is written down.
        let factor = metadata.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
        put("rope_scaling", json!({"rope_type": DIVIDED, "attention_factor": factor}));
        return Ok(());
    }
    if let Some(scaling) = scaling(metadata)? {
        put("rope_scaling", scaling);
    }
    Ok(())
}

/// The facts that one architecture alone has, and those that its converter does not write.
fn of_family(
    architecture: &Architecture,
    metadata: &Metadata<'_>,
    heads: u64,
    hidden: u64,
    config: &mut Map<String, Json>,
) -> Result<(), GgufModelError> {
    let mut put = |key: &str, value: Json| config.insert(key.into(), value);
    if ["LlamaForCausalLM", "SmolLM3ForCausalLM"].contains(&architecture.class) {
        put("attention_bias", json!(metadata.tensor("blk.0.attn_q.bias").is_some()));
        put("mlp_bias", json!(metadata.tensor("blk.0.ffn_up.bias").is_some()));
    }
    if architecture.has_experts {
        let count = metadata.need_number("expert_count")?;
        let name = if architecture.name == "qwen3moe" { "num_experts" } else { "num_local_experts" };
        put(name, json!(count));
        put("num_experts_per_tok", json!(metadata.need_number("expert_used_count")?));
        put(STACKED, json!(true));
        if architecture.name == "qwen3moe" {
            put("moe_intermediate_size", json!(metadata.need_number("expert_feed_forward_length")?));
            put("norm_topk_prob", json!(true));
        }
    }
    if architecture.has_windows {
        let window = metadata.number("attention.sliding_window")?.filter(|window| *window != 0);
        put("sliding_window", window.map_or(Json::Null, Json::from));
    }
    if architecture.whole_norms {
        put(WHOLE_NORMS, json!(true));
        for (last, field) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            let cap = metadata.float(last)?.filter(|cap| *cap != 0.0);
            put(field, cap.map_or(Json::Null, Json::from));
        }
        let by_average = architecture.by_average == metadata.number("block_count")?;
        let average = hidden.checked_div(heads).unwrap_or_default();
        put(
            "query_pre_attn_scalar",
            if by_average { json!(average) } else { json!(metadata.number("attention.key_length")?) },
        );
        if let Some(theta) = metadata.float("rope.freq_base_swa")? {
            put("rope_local_base_freq", json!(theta));
        }
    }
    Ok(())
}

/// Switches that change the arithmetic in ways that nothing here implements.
fn refuse(architecture: &Architecture, metadata: &Metadata<'_>, head_dim: u64) -> Result<(), GgufModelError> {
    let widths = ["attention.value_length", "rope.dimension_count"];
    let widths = if architecture.name == "phi3" { &widths[..1] } else { &widths };
    for last in widths {
        if let Some(width) = metadata.number(last)?.filter(|width| *width != head_dim) {
            let (key, found) = (metadata.key(last), format!("{width} where a head has {head_dim}"));
            return Err(GgufModelError::Unsupported { key, found, fix: "take a model whose heads are of one width" });
        }
    }
    let refused = [("expert_count", architecture.has_experts), ("attention.sliding_window", architecture.has_windows)];
    for (last, _) in refused.into_iter().filter(|(_, has)| !has) {
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
