#!/usr/bin/env python3
"""Write a Hugging Face model directory as one GGUF file, weights as stored, for llama.cpp to be measured on.

Knows dense llama, mistral, qwen2 and qwen3 decoders, bf16, f16 or f32, with a byte-level BPE tokenizer.json. Needs
the `gguf` package (and numpy, which comes with it). For benchmarks: chat templates and the like are left out.

  to_gguf.py MODEL_DIR OUT.gguf [--q8_0]    with --q8_0, matrices become blocks of Q8_0
"""
import argparse
import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np

KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
         "qwen3": gguf.MODEL_ARCH.QWEN3}
DTYPES = {"BF16": (np.uint16, gguf.GGMLQuantizationType.BF16), "F16": (np.float16, gguf.GGMLQuantizationType.F16),
          "F32": (np.float32, gguf.GGMLQuantizationType.F32)}
FILE_TYPES = {"BF16": gguf.LlamaFileType.MOSTLY_BF16, "F16": gguf.LlamaFileType.MOSTLY_F16,
              "F32": gguf.LlamaFileType.ALL_F32, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def tensors(folder):
    """Yields (name, safetensors dtype, mapped array) of every shard; bf16 comes as uint16."""
    for path in sorted(folder.glob("*.safetensors")):
        raw = np.memmap(path, mode="r")
        head_len = int.from_bytes(raw[:8].tobytes(), "little")
        head = json.loads(raw[8:8 + head_len].tobytes())
        head.pop("__metadata__", None)
        for name, t in head.items():
            start, end = (8 + head_len + o for o in t["data_offsets"])
            if t["dtype"] not in DTYPES:
                sys.exit(f"{path.name}: {name} has dtype {t['dtype']}; only {', '.join(DTYPES)} are known")
            yield name, t["dtype"], raw[start:end].view(DTYPES[t["dtype"]][0]).reshape(t["shape"])


def as_f32(array, dtype):
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def interleave(rows, heads):
    """llama.cpp's llama rotates neighbouring pairs, Hugging Face's the two halves of a head: reorder q and k rows."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(rope, head_dim):
    """What llama.cpp divides each frequency by (the `rope_freqs` tensor) for RoPE scaling of type llama3."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    divisors = []
    for i in range(0, head_dim, 2):
        turns = context / (2 * math.pi * rope["rope_theta"] ** (i / head_dim))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def read_rope(config):
    """RoPE parameters in today's spelling."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def write_hyperparameters(out, config, head_dim):
    heads = config["num_attention_heads"]
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(config.get("num_key_value_heads") or heads)
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_rope_dimension_count(head_dim)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])


def write_rope(out, config, head_dim):
    rope = read_rope(config)
    out.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        out.add_rope_scaling_factor(rope["factor"])
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] == "llama3":
        out.add_tensor("rope_freqs.weight", llama3_divisors(rope, head_dim))
    elif rope["rope_type"] != "default":
        sys.exit(f"config.json: RoPE type {rope['rope_type']} has no counterpart here")


def write_tokenizer(out, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    if model["type"] != "BPE":
        sys.exit(f"tokenizer.json: a {model['type']} model; only byte-level BPE is known")
    words = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    kinds = [gguf.TokenType.UNUSED] * config["vocab_size"]
    for word, i in model["vocab"].items():
        words[i], kinds[i] = word, gguf.TokenType.NORMAL
    for added in tokenizer.get("added_tokens", []):
        words[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    split = json.dumps(tokenizer.get("pre_tokenizer"))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("llama-bpe" if "{1,3}" in split else "qwen2" if "p{N}" in split else "gpt-2")
    out.add_token_list(words)
    out.add_token_types(kinds)
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    first = lambda v: v[0] if isinstance(v, list) else v
    if config.get("bos_token_id") is not None:
        out.add_bos_token_id(first(config["bos_token_id"]))
    if config.get("eos_token_id") is not None:
        out.add_eos_token_id(first(config["eos_token_id"]))
    out.add_add_bos_token(False)


def write_weights(out, folder, config, arch, q8_0):
    """Adds every tensor: matrices as stored or as Q8_0, vectors as f32 (what llama.cpp expects). Returns the matrices'
    dtype."""
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    kv_heads, stored = config.get("num_key_value_heads") or heads, None
    for name, dtype, array in tensors(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            sys.exit(f"{name}: not a tensor of {config['model_type']}")
        if arch == gguf.MODEL_ARCH.LLAMA and ".self_attn.q_proj." in name:
            array = interleave(array, heads)
        elif arch == gguf.MODEL_ARCH.LLAMA and ".self_attn.k_proj." in name:
            array = interleave(array, kv_heads)
        if array.ndim == 1:
            out.add_tensor(new, as_f32(array, dtype))
        elif q8_0:
            stored, blocks = "Q8_0", gguf.GGMLQuantizationType.Q8_0
            out.add_tensor(new, gguf.quants.quantize(as_f32(array, dtype), blocks), raw_dtype=blocks)
        else:
            stored = dtype
            out.add_tensor(new, np.ascontiguousarray(array).view(np.uint8), raw_dtype=DTYPES[dtype][1])
    return stored


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--q8_0", action="store_true", help="matrices become blocks of Q8_0")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    if config["model_type"] not in KINDS:
        sys.exit(f"config.json: model_type {config['model_type']}; known are {', '.join(KINDS)}")
    arch = KINDS[config["model_type"]]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    partial = args.out.with_suffix(".partial")
    out = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[arch])
    out.add_name("benchmark")
    write_hyperparameters(out, config, head_dim)
    write_tokenizer(out, args.model, config)
    write_rope(out, config, head_dim)
    out.add_file_type(FILE_TYPES[write_weights(out, args.model, config, arch, args.q8_0)])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    partial.rename(args.out)


if __name__ == "__main__":
    main()
