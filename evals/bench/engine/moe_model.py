"""Writes a mixture of experts in Qwen3's form, of random bf16 weights: eight layers of 32 experts, of which a token goes to four.

  moe_model.py OUT
"""
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, EXPERTS, CHOSEN, WIDTH, VOCAB = 1024, 8, 16, 8, 128, 32, 4, 768, 32000


def main():
    out = Path(sys.argv[1])
    generator = np.random.default_rng(1)
    tensors = {}

    def matrix(name, rows, columns):
        # The upper half of an f32 is a bf16; safetensors for numpy has no such type, so the header is mended below.
        numbers = generator.standard_normal((rows, columns), dtype=np.float32) * (columns ** -0.5)
        tensors[name] = (numbers.view(np.uint32) >> 16).astype(np.uint16)

    def norm(name, width):
        tensors[name] = np.full(width, 0x3F80, dtype=np.uint16)

    matrix("model.embed_tokens.weight", VOCAB, HIDDEN)
    norm("model.norm.weight", HIDDEN)
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        norm(f"{stem}.input_layernorm.weight", HIDDEN)
        norm(f"{stem}.post_attention_layernorm.weight", HIDDEN)
        for name, rows in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            matrix(f"{stem}.self_attn.{name}_proj.weight", rows * HEAD, HIDDEN)
        matrix(f"{stem}.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD)
        for name in "qk":
            norm(f"{stem}.self_attn.{name}_norm.weight", HEAD)
        matrix(f"{stem}.mlp.gate.weight", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name, shape in (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)), ("down", (HIDDEN, WIDTH))):
                matrix(f"{stem}.mlp.experts.{expert}.{name}_proj.weight", *shape)
    config = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": VOCAB, "hidden_size": HIDDEN,
              "intermediate_size": 2048, "moe_intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN,
              "norm_topk_prob": True, "max_position_embeddings": 8192, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
              "tie_word_embeddings": True, "dtype": "bfloat16"}
    path = out / "model.safetensors"
    save_file(tensors, path)
    name_bf16(path)
    (out / "config.json").write_text(json.dumps(config))


def name_bf16(path):
    """Says BF16 where the header says U16; both names and their places are as long as before."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length).replace(b'"U16"', b'"BF16"').rstrip(b" ")
        if len(header) > length:
            rest = file.read()
            header += b" " * (-len(header) % 8)
            file.seek(0)
            file.write(len(header).to_bytes(8, "little") + header + rest)
        else:
            file.seek(8)
            file.write(header.ljust(length))


main()
