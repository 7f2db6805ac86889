//! Names of tensors in a GGUF file, and in a checkpoint of Hugging Face.

/// Parts of a layer: GGUF's name, the checkpoint's.
const PARTS: [(&str, &str); 15] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.experts.gate_proj"),
    ("ffn_up_exps", "mlp.experts.up_proj"),
    ("ffn_down_exps", "mlp.experts.down_proj"),
];

/// The parts that an architecture names in a way of its own.
const OWN_PARTS: [(&str, &[(&str, &str)]); 3] = [
    ("gemma2", GEMMA),
    ("gemma3", GEMMA),
    ("phi3", &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")]),
];
const GEMMA: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The checkpoint's name of a tensor in a GGUF file of this architecture; `None` for one that no decoder of ours has,
/// which keeps its name and is refused by it.
pub(super) fn name(architecture: &str, gguf: &str) -> Option<String> {
    let known = match gguf {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(known) = known {
        return Some(known.to_owned());
    }
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let (part, ending) = rest.rsplit_once('.')?;
    let own = OWN_PARTS.iter().find(|(name, _)| *name == architecture).map_or(&[][..], |(_, own)| own);
    let (_, other) = own.iter().chain(&PARTS).find(|(own, _)| *own == part)?;
    let is_number = !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && ["weight", "bias"].contains(&ending)).then(|| format!("model.layers.{layer}.{other}.{ending}"))
}
