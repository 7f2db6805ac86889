//! Names of tensors in a GGUF file, and in a checkpoint of Hugging Face.

/// Parts of a layer: GGUF's name, the checkpoint's.
const PARTS: [(&str, &str); 11] = [
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
];

/// The checkpoint's name of a GGUF file's tensor; `None` for one that no decoder of ours has, which
/// keeps its name and is refused by it.
pub fn name(gguf: &str) -> Option<String> {
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
    let (_, other) = PARTS.iter().find(|(own, _)| *own == part)?;
    let is_number = !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && ["weight", "bias"].contains(&ending)).then(|| format!("model.layers.{layer}.{other}.{ending}"))
}
