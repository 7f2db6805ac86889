#!/usr/bin/env python3
"""Transformers on CPU as a peer of the engine benchmark: loads MODEL_DIR in bf16, then prefill, decode, peak memory.

Prints JSON lines: {"event": "loaded", …} as soon as the model could answer (the parent times process start to this
line, Python's and torch's own start included), then, unless --load-only, {"event": "measured", …}.
"""
import argparse
import json
import sys
import time


def say(**what):
    print(json.dumps(what), flush=True)


def peak_bytes():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=128, help="tokens in the cache before decode is timed")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the timed prefill")
    parser.add_argument("--load-only", action="store_true")
    args = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    say(event="loaded")
    if args.load_only:
        return

    def ids(n):
        return torch.randint(0, model.config.vocab_size, (1, n), generator=torch.Generator().manual_seed(n))

    with torch.inference_mode():
        out = model(input_ids=ids(args.depth), use_cache=True, logits_to_keep=1)
        out = step(model, out)  # warm, like llama-bench
        start = time.perf_counter()
        for _ in range(args.tokens):
            out = step(model, out)
        decode = args.tokens / (time.perf_counter() - start)
        peak = peak_bytes()
        start = time.perf_counter()
        model(input_ids=ids(args.prefill), use_cache=True, logits_to_keep=1)
        prefill = args.prefill / (time.perf_counter() - start)
    say(event="measured", decode_tokens_per_s=decode, prefill_tokens_per_s=prefill, peak_memory_bytes=peak)


def step(model, out):
    """One greedy token more."""
    return model(input_ids=out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)


if __name__ == "__main__":
    sys.exit(main())
