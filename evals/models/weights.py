"""A GGUF file as a directory in the layout of Hugging Face, by the `gguf` package alone: no code of ours, no torch."""
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

PARTS = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def value(reader, key, default=None):
    field = reader.get_field(key)
    return default if field is None else field.contents()


def name_of(name):
    if name in WHOLE:
        return WHOLE[name]
    _, layer, part, ending = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.{ending}"


def halves(matrix, heads):
    """Rows of queries and keys in the order of transformers: the converter has put the two of a pair side by side."""
    rows, inputs = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def dequantize(path, directory):
    """Writes config.json, tokenizer.json and model.safetensors of a Llama."""
    reader = gguf.GGUFReader(path)
    llama = lambda key: value(reader, f"llama.{key}")
    heads, kv_heads = llama("attention.head_count"), llama("attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        numbers = numbers.reshape([int(size) for size in reversed(tensor.shape)])
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in tensor.name:
                numbers = halves(numbers, count)
        tensors[name_of(tensor.name)] = np.ascontiguousarray(numbers)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tensors[WHOLE["token_embd.weight"]]),
              "hidden_size": llama("embedding_length"), "intermediate_size": llama("feed_forward_length"),
              "num_hidden_layers": llama("block_count"), "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "max_position_embeddings": llama("context_length"), "rope_theta": llama("rope.freq_base"),
              "rms_norm_eps": llama("attention.layer_norm_rms_epsilon"), "dtype": "float32",
              "eos_token_id": value(reader, "tokenizer.ggml.eos_token_id"),
              "tie_word_embeddings": "lm_head.weight" not in tensors}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer(reader), ensure_ascii=False), encoding="utf-8")


def tokenizer(reader):
    """Byte-level BPE with every digit by itself, as SmolLM has it."""
    assert (value(reader, "tokenizer.ggml.model"), value(reader, "tokenizer.ggml.pre")) == ("gpt2", "smollm")
    tokens, kinds = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for id, (token, kind) in enumerate(zip(tokens, kinds)) if kind == 3]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True}, level]},
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: id for id, token in enumerate(tokens)},
                      "merges": value(reader, "tokenizer.ggml.merges")}}


def root(package):
    """The folder of an installed package."""
    import importlib.util

    return Path(importlib.util.find_spec(package).origin).parent


def packaged(package):
    """The GGUF file that an installed package carries."""
    [path] = sorted(root(package).rglob("*.gguf"))
    return path


def directory(package):
    """The directory in the layout of Hugging Face that an installed package carries."""
    [path] = sorted(root(package).rglob("model.safetensors"))
    return path.parent
