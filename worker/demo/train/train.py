#!/usr/bin/env python3
"""Trains Forebay's demo model and writes a model directory as Hugging Face publishes it.

A Qwen3-shaped decoder of 4.5 million parameters (5 layers, width 256, tied embeddings) and its byte-level BPE
of 2048 tokens learn the text of `corpus.py` from nothing. Data parallel: one single-threaded process per
core, gradients summed once a step (on small matrices that is far faster than sharing every matrix between
threads). Hidden matrices are trained with Muon, embeddings and norms with AdamW, in bf16 autocast over f32
masters. What is written is rounded to bf16; `evaluate.py` scores that.

    pip install torch transformers tokenizers safetensors     # a C++ compiler makes it about 3 times faster
    python worker/demo/train/train.py --minutes 60 --out worker/demo      # two cores
    python worker/demo/train/train.py --minutes 5 --out worker/demo --device cuda
    python worker/demo/train/evaluate.py --write-golden

`--steps N` instead of `--minutes` makes the run independent of the speed of the machine. The same seed,
steps and number of processes see the same text in the same order.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

# Big temporary tensors must not be mapped and unmapped at every step. Read by libc when a worker starts.
os.environ.setdefault(
    "GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.hugetlb=1"
)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from corpus import DEMO_DIR, Corpus

VOCAB_SIZE = 2048
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # the last three ids
# The split that Qwen publishes: contractions, words with their leading space, single digits, punctuation, space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
#: (rows, tokens a row) of one micro-batch; every fourth is long, so that positions to 512 are learnt
SHORT, LONG = (8, 256), (4, 512)
IGNORED_WEIGHT, QUESTION_WEIGHT, ANSWER_WEIGHT = 0.0, 0.08, 1.0


# ---------------------------------------------------------------- tokenizer


def train_tokenizer(seed: int, exchanges: int = 40_000) -> Tokenizer:
    """Byte-level BPE over a sample of the corpus; all 256 bytes are in the alphabet, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = Corpus(seed)

    def lines():
        for _ in range(exchanges):
            made = corpus.exchange()
            yield "user\n" + made.question
            yield "assistant\n" + made.answer
            yield "system\n"

    tokenizer.train_from_iterator(lines(), trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE - len(SPECIALS)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, out: Path, positions: int) -> None:
    tokenizer.save(str(out / "tokenizer.json"))
    added = {
        str(tokenizer.token_to_id(s)): {
            "content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True
        }
        for s in SPECIALS
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": positions,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    write_json(out / "tokenizer_config.json", config)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- batches


class Batches:
    """Micro-batches of conversations: token ids, next tokens and the loss weight of each next token."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer, self.corpus = tokenizer, Corpus(seed)
        self.start, self.end = (tokenizer.token_to_id(s) for s in ("<|im_start|>", "<|im_end|>"))
        self.newline = self.encode("\n")
        self.head = {role: self.encode(role + "\n") for role in ("system", "user", "assistant")}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def message(self, role: str, text: str, weight: float) -> tuple[list[int], list[float]]:
        body = self.encode(text)
        ids = [self.start, *self.head[role], *body, self.end, *self.newline]
        zeros = [IGNORED_WEIGHT] * (1 + len(self.head[role]))
        closing = weight if role == "assistant" else IGNORED_WEIGHT
        return ids, [*zeros, *([weight] * len(body)), closing, IGNORED_WEIGHT]

    def row(self, length: int) -> tuple[list[int], list[float]]:
        """One conversation cut to `length + 1` tokens."""
        ids: list[int] = []
        weights: list[float] = []

        def push(role: str, text: str, weight: float) -> None:
            more_ids, more_weights = self.message(role, text, weight)
            ids.extend(more_ids)
            weights.extend(more_weights)

        system, exchanges = self.corpus.conversation(turns=length // 12)
        if system:
            push("system", system, IGNORED_WEIGHT)
        for made in exchanges:
            push("user", made.question, QUESTION_WEIGHT)
            push("assistant", made.answer, ANSWER_WEIGHT)
            if len(ids) > length:
                break
        return ids[: length + 1], weights[: length + 1]

    def next(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = [self.row(length) for _ in range(rows)]
        ids = torch.tensor([r[0] for r in made])
        weights = torch.tensor([r[1] for r in made])
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()


# ---------------------------------------------------------------- model


def model_config(tokenizer: Tokenizer) -> dict:
    """`config.json` in the form that Qwen3 models are published with."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 768,
        "max_position_embeddings": 2048,
        "max_window_layers": 5,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def build_model(config: dict) -> Qwen3ForCausalLM:
    kept = {k: v for k, v in config.items() if k not in ("architectures", "transformers_version", "torch_dtype")}
    return Qwen3ForCausalLM(Qwen3Config(**kept, attn_implementation="sdpa"))


def write_model(model: Qwen3ForCausalLM, config: dict, tokenizer: Tokenizer, out: Path) -> None:
    """Writes the whole model directory; weights rounded to bf16, the tied head left out as usual."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    part = out / ".model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(out / "model.safetensors")
    write_json(out / "config.json", config)
    generation = {
        "bos_token_id": config["bos_token_id"],
        "do_sample": False,
        "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")],
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "transformers_version": config["transformers_version"],
    }
    write_json(out / "generation_config.json", generation)
    write_tokenizer(tokenizer, out, config["max_position_embeddings"])


# ---------------------------------------------------------------- training


def learning_rate(progress: float) -> float:
    """Share of the peak rate: 2 % warm-up, flat to 35 %, then a straight line to zero."""
    return min(1.0, progress / 0.02, max(0.0, 1.0 - progress) / 0.65)


def make_optimizers(model: Qwen3ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def sum_gradients(parameters: list[torch.nn.Parameter], ranks: int, extra: float) -> float:
    """Averages gradients over the ranks in place; returns the sum of `extra` over them."""
    if ranks == 1:
        return extra
    flat = torch.cat([p.grad.flatten() for p in parameters] + [torch.tensor([extra], device=parameters[0].device)])
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        p.grad.copy_(flat[at : at + p.numel()].view_as(p)).div_(ranks)
        at += p.numel()
    return float(flat[-1])


def train_rank(rank: int, args: argparse.Namespace, rendezvous: str) -> None:
    """One data-parallel process: a step is `--micro` micro-batches here and on every other rank."""
    if args.ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=args.ranks)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    config = model_config(tokenizer)
    model = build_model(config).to(args.device)
    if args.init:
        start = load_file(args.init / "model.safetensors")
        model.load_state_dict({k: v.float() for k, v in start.items()}, strict=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = make_optimizers(model, args.lr)
    batches = Batches(tokenizer, seed=args.seed * 1000 + rank)

    def loss_of(ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state)
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    compiled = torch.compile(loss_of, dynamic=False) if args.compile else loss_of
    began, saved, shown, step, progress, tokens, mean = time.time(), time.time(), time.time(), 0, 0.0, 0, 0.0
    scored = time.time()
    while progress < 1.0:
        loss_sum = 0.0
        for micro in range(args.micro):
            rows, length = LONG if (step * args.micro + micro) % 4 == 3 else SHORT
            ids, targets, weights = (t.to(args.device) for t in batches.next(rows, length))
            with torch.autocast(args.device, dtype=torch.bfloat16):
                loss = compiled(ids, targets, weights) / args.micro
            loss.backward()
            loss_sum += float(loss.detach())
            tokens += ids.numel() * args.ranks
        if step == 1:
            began = time.time()  # do not count compilation
        elapsed = time.time() - began
        mine = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        progress = sum_gradients(parameters, args.ranks, mine if rank == 0 else 0.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * learning_rate(progress)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        mean = loss_sum if step == 1 else 0.95 * mean + 0.05 * loss_sum
        if rank == 0 and time.time() - shown > 15:
            print(f"step {step} progress {progress:.3f} loss {mean:.4f} tokens {tokens / 1e6:.2f}M "
                  f"{tokens / max(1e-9, time.time() - began):.0f} tok/s {elapsed:.0f} s", flush=True)
            shown = time.time()
        if rank == 0 and time.time() - saved > 60 * args.save_minutes:
            write_model(model, config, tokenizer, args.out)
            saved = time.time()
        if rank == 0 and args.eval_minutes and time.time() - scored > 60 * args.eval_minutes:
            from evaluate import quick_scores
            print(f"step {step}", quick_scores(model, tokenizer), flush=True)
            scored = time.time()
    if rank == 0:
        write_model(model, config, tokenizer, args.out)
        print(f"done: {step} steps, {tokens / 1e6:.1f}M tokens, {time.time() - began:.0f} s, loss {mean:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEMO_DIR, help="model directory to write (default: worker/demo)")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time; the schedule follows the clock")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead of minutes")
    parser.add_argument("--micro", type=int, default=2, help="micro-batches of 2048 tokens a step and process")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=min(8, os.cpu_count() or 1), help="processes (1 on a GPU)")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="do not use torch.compile")
    parser.add_argument("--init", type=Path, help="start from the weights and tokenizer of this model directory")
    parser.add_argument("--save-minutes", type=float, default=4.0)
    parser.add_argument("--eval-minutes", type=float, default=10.0, help="score both lists so often; 0 for never")
    args = parser.parse_args()
    if args.device == "cuda":
        args.ranks, args.micro = 1, args.micro * 2
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.init / "tokenizer.json")) if args.init else train_tokenizer(args.seed)
    write_tokenizer(tokenizer, args.out, 2048)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        if args.ranks == 1:
            train_rank(0, args, rendezvous)
        else:
            mp.spawn(train_rank, (args, rendezvous), nprocs=args.ranks)


if __name__ == "__main__":
    main()
