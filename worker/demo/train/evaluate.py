#!/usr/bin/env python3
"""Scores the demo model on the committed lists and writes its golden transcripts.

The bf16 weights are read from `model.safetensors`, widened to f32 and run greedily in f32, one prompt at a
time, with the single-turn chat template, no system message and at most 64 new tokens. An answer counts when
it equals an accepted answer after `normalise`. `margin` is the smallest distance between the best and the
second-best logit on the way: an engine that sums in another order must not come near it.

    python worker/demo/train/evaluate.py                  # all scores, failures, narrow margins
    python worker/demo/train/evaluate.py --write-golden   # also rewrites worker/demo/golden.jsonl
"""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from corpus import DEMO_DIR, read_jsonl

MAX_NEW_TOKENS = 64
NARROW = 0.1
LISTS = ("questions.jsonl", "paraphrases.jsonl", "paraphrases-blind.jsonl")


def normalise(text: str) -> str:
    """NFKC, trimmed, runs of white space as one space, lower case, trailing `.`, `!`, `?` and spaces removed."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).lower().rstrip(".!? ")


def render(messages: list[dict[str, str]]) -> str:
    """What `chat_template.jinja` renders with `add_generation_prompt`."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def single(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@dataclass
class Completion:
    """A greedy completion, its token ids (without the end) and the narrowest margin on the way."""

    text: str
    ids: list[int]
    margin: float


class Demo:
    """The published files, run in f32."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for key in ("architectures", "transformers_version", "torch_dtype"):
            config.pop(key)
        self.model = Qwen3ForCausalLM(Qwen3Config(**config, attn_implementation="eager")).float().eval()
        tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
        self.ends = set(json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"])

    @torch.no_grad()
    def complete(self, messages: list[dict[str, str]]) -> Completion:
        ids = self.tokenizer.encode(render(messages), add_special_tokens=False).ids
        made: list[int] = []
        margin, cache, feed = float("inf"), None, torch.tensor([ids])
        while len(made) < MAX_NEW_TOKENS:
            out = self.model(input_ids=feed, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = torch.topk(out.logits[0, -1], 2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            token = int(best.indices[0])
            if token in self.ends:
                break
            made.append(token)
            feed = torch.tensor([[token]])
        return Completion(self.tokenizer.decode(made), made, margin)


def passes(item: dict, text: str) -> bool:
    return normalise(text) in {normalise(a) for a in item["answers"]}


def score(demo: Demo, name: str) -> tuple[int, int, list[tuple[dict, Completion]]]:
    """Passed, total and every completion of one list."""
    done = [(item, demo.complete(single(item["question"]))) for item in read_jsonl(DEMO_DIR / name)]
    return sum(passes(item, made.text) for item, made in done), len(done), done


@torch.no_grad()
def quick_scores(model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> str:
    """Batched scores for a look during training: full forward passes, weights as they are, right padding."""
    model.eval()
    end, device, lines = tokenizer.token_to_id("<|im_end|>"), next(model.parameters()).device, []
    for name in ("questions.jsonl", "paraphrases.jsonl"):
        items = read_jsonl(DEMO_DIR / name)
        rows = [tokenizer.encode(render(single(i["question"])), add_special_tokens=False).ids for i in items]
        starts, open_rows = [len(r) for r in rows], set(range(len(rows)))
        for _ in range(40):
            order = sorted(open_rows)
            if not order:
                break
            width = max(len(rows[i]) for i in order)
            ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in order], device=device)
            last = torch.tensor([len(rows[i]) - 1 for i in order], device=device)
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            picked = model.lm_head(hidden[torch.arange(len(order), device=device), last]).argmax(-1).tolist()
            for i, token in zip(order, picked):
                if token == end:
                    open_rows.discard(i)
                else:
                    rows[i].append(token)
        good = Counter(
            item["kind"] for item, row, start in zip(items, rows, starts) if passes(item, tokenizer.decode(row[start:]))
        )
        lines.append(f"{name} {sum(good.values())}/{len(items)} {dict(good)}")
    model.train()
    return "; ".join(lines)


#: the prompts of `golden.jsonl`, beside every ninth question of `questions.jsonl`
GOLDEN_CHATS: list[list[dict[str, str]]] = [
    [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! I am the Forebay demo model. How can I help?"},
        {"role": "user", "content": "What is Forebay?"},
    ],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada."},
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": "3 + 4 = 7."},
        {"role": "user", "content": "What is my name?"},
    ],
    [
        {"role": "user", "content": "What is prefill?"},
        {"role": "assistant", "content": "Prefill is the phase that reads the whole prompt and fills the KV cache."},
        {"role": "user", "content": "Repeat after me: blue river"},
        {"role": "assistant", "content": "blue river"},
        {"role": "user", "content": "Make JSON with name Ada and age 36"},
    ],
]
GOLDEN_SINGLES = 21


def write_golden(demo: Demo) -> None:
    """24 transcripts: 21 single questions from all areas and three chats; narrow margins are passed over."""
    questions = read_jsonl(DEMO_DIR / "questions.jsonl")
    stride = len(questions) // GOLDEN_SINGLES
    lines = []
    for at in range(GOLDEN_SINGLES):
        for item in questions[at * stride : (at + 1) * stride]:
            made = demo.complete(single(item["question"]))
            if made.margin > 10 * NARROW and passes(item, made.text):
                break
        lines.append({"messages": single(item["question"]), "completion": made.text})
    lines += [{"messages": chat, "completion": demo.complete(chat).text} for chat in GOLDEN_CHATS]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (DEMO_DIR / "golden.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_DIR, help="model directory (default: worker/demo)")
    parser.add_argument("--ask", metavar="TEXT", help="only answer this question")
    parser.add_argument("--write-golden", action="store_true", help="rewrite golden.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    demo = Demo(args.model)
    if args.ask:
        made = demo.complete(single(args.ask))
        print(f"{made.text}\n(margin {made.margin:.2f})")
        return
    for name in LISTS:
        good, total, done = score(demo, name)
        kinds = Counter(item["kind"] for item, made in done if passes(item, made.text))
        of = Counter(item["kind"] for item, _ in done)
        print(f"{name}: {good}/{total} = {100 * good / total:.1f} %  " + ", ".join(f"{k} {kinds[k]}/{n}" for k, n in of.items()))
        margins = sorted(made.margin for item, made in done if passes(item, made.text))
        print(f"  margin of passed: least {margins[0]:.3f}, tenth {margins[len(margins) // 10]:.3f}" if margins else "")
        for item, made in done:
            if not passes(item, made.text):
                print(f"  FAIL {item['question']!r} -> {made.text!r}, expected {item['answers'][0]!r}")
            elif made.margin < NARROW:
                print(f"  narrow {made.margin:.3f} {item['question']!r}")
    if args.write_golden:
        write_golden(demo)
        print("golden.jsonl written")


if __name__ == "__main__":
    main()
