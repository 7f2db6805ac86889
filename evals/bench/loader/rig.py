"""What the loader benchmark stands on: what a child cost, the servers, cold and warm memory, peers installed once.

Knows nothing of what is measured. Processes are in ../process.py, of which this offers what the benchmark uses.
"""
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import process  # noqa: E402
from process import (CHILDREN, ROOT, call, environment, fail, free_port, install_torch, note, shown,  # noqa: E402,F401
                     start, stop, stop_children, virtual_environment)

PINS = {"peers": ["runai-model-streamer==0.17.0", "runai-model-streamer-s3==0.17.1", "boto3==1.44.5",
                  "hf_transfer==0.1.9", "fastsafetensors==0.5.0", "tensorizer==2.12.1", "safetensors==0.8.0",
                  "xxhash"]}
START_TIMEOUT_S = 60
RUN_TIMEOUT_S = 600


# -----------------------------------------------------------------------------------------------------------------
# Processes


class Ran:
    """What one finished child cost: wall seconds, CPU-seconds (its own children included), peak bytes, output."""

    def __init__(self, command, seconds, used, out):
        self.command, self.seconds, self.out = command, seconds, out
        self.cpu_seconds = used.ru_utime + used.ru_stime
        self.peak_bytes = used.ru_maxrss * 1024

    def json(self):
        try:
            return json.loads(self.out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            fail(f"{shown(self.command)} printed no JSON object last:\n{self.out[-1000:]}")


def run(command, env=None, input=None, timeout=RUN_TIMEOUT_S):
    """Runs a command to its end; a failure ends the benchmark with what it said."""
    env = environment(env or {})
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        child = start(command, stdout=out, stderr=err, env=env, stdin=subprocess.PIPE if input else subprocess.DEVNULL)
        watchdog = threading.Timer(timeout, stop, [child])
        watchdog.start()
        if input:
            child.stdin.write(input.encode())
            child.stdin.close()
        # os.wait4 and not child.wait: only it tells what this one child used.
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        watchdog.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        CHILDREN.remove(child)
        out.seek(0), err.seek(0)
        if child.returncode != 0:
            fail(f"{shown(command)} ended with {child.returncode}\n{(out.read() + err.read())[-2000:]}")
        return Ran(command, seconds, used, out.read())


# -----------------------------------------------------------------------------------------------------------------
# Servers


@contextmanager
def nginx(root, scratch):
    """nginx with sendfile over `root`: an HTTP server and, path-style, S3 enough for GET with Range. Yields its URL."""
    home, port = scratch / "nginx", free_port()
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (home / "nginx.conf").write_text(
        "worker_processes auto; daemon off; pid nginx.pid; error_log error.log;\n"
        "events { worker_connections 1024; }\n"
        "http {\n  access_log off; sendfile on; tcp_nopush on; sendfile_max_chunk 2m; keepalive_requests 1000000;\n"
        f"  {' '.join(f'{kind}_temp_path tmp;' for kind in kinds)}\n"
        f"  server {{ listen 127.0.0.1:{port}; root {root}; }}\n}}\n")
    log = open(home / "out.log", "w")
    child = start([tool("nginx"), "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"], stdout=log,
                  stderr=log)
    try:
        until(lambda: connects(port) or child.poll() is not None, f"nginx (see {home / 'out.log'})")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(child)
        log.close()


class Origin:
    """The fault origin of testkit, with what it says of itself."""

    def __init__(self, binary, root, *flags):
        self.command = [binary, "--listen", "127.0.0.1:0", "--dir", root, *flags]

    def __enter__(self):
        self.child = start(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.child.stdout.readline().strip().rstrip("/")
        if not self.url.startswith("http"):
            fail(f"{shown(self.command)} printed no URL first, but {self.url!r}")
        threading.Thread(target=self.child.stdout.read, daemon=True).start()  # a full pipe would stop it
        return self

    def __exit__(self, *_):
        stop(self.child)

    def account(self):
        status, body = request(self.url, "GET", "/__origin/account")
        if status != 200:
            fail(f"{self.url}/__origin/account gave {status}")
        return json.loads(body)


class Worker:
    """`forebay worker` on some port; `started` is the moment its process was."""

    def __init__(self, command, env):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command, self.env = [*command, "--listen", f"127.0.0.1:{self.port}"], environment(env)

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.started = time.monotonic()
        self.child = start(self.command, stdout=self.log, stderr=self.log, env=self.env)
        return self

    def __exit__(self, *_):
        stop(self.child)
        self.log.close()

    def ready(self):
        """Seconds from process start to the first 200 of /readyz."""
        self.until(lambda: request(self.url, "GET", "/readyz")[0] == 200)
        return time.monotonic() - self.started

    def until(self, what):
        while time.monotonic() - self.started < RUN_TIMEOUT_S and self.child.poll() is None:
            try:
                if got := what():
                    return got
            except OSError:
                pass
            time.sleep(0.002)
        self.log.seek(0)
        fail(f"{shown(self.command)} did not get there; it said:\n{self.log.read()[-2000:]}")

    def status(self):
        status, body = request(self.url, "GET", "/status")
        return json.loads(body) if status == 200 else {}

    def first_token(self, model, prompt):
        """Asks (again and again while it is refused) and returns the seconds from process start to the first token."""
        body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True,
                           "stream": True})

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=RUN_TIMEOUT_S)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                return None
            for line in response:
                if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                    return time.monotonic() - self.started
            return None

        return self.until(ask)

    def peak_bytes(self):
        return process.peak_bytes(self.child)


def request(url, method, path):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def connects(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def until(what, name):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not what():
        if time.monotonic() > deadline:
            fail(f"{name} did not start")
        time.sleep(0.01)


# -----------------------------------------------------------------------------------------------------------------
# Memory and disk


def warm_memory(wanted):
    """Touches and frees this much memory: a virtual machine's first touch of a page costs more than all that follow.

    In a child: what a process ever held would show in ru_maxrss of the children it starts.
    """
    amount = min(wanted, int(available_memory() * 0.8))
    note(f"touching {amount / 1e9:.0f} GB of memory")
    run([sys.executable, "-c", f"import mmap; mmap.mmap(-1, {amount}, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"])


def available_memory():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))


def settle():
    """Lets what was written before reach the disk, so that it is no load on what is timed next."""
    os.sync()


def drop_page_cache():
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as e:
        fail(f"cold runs drop the page cache, which needs root: {e}")


def read_files(folder):
    process.read_files(Path(folder).iterdir())


def same_bytes(a, b):
    """How many of the 1 MiB blocks of two files differ."""
    differing, step = 0, 1 << 20
    with open(a, "rb", buffering=0) as f, open(b, "rb", buffering=0) as g:
        while True:
            x, y = f.read(step), g.read(step)
            if x != y:
                differing += 1
            if not x and not y:
                return differing


def empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def free_disk(folder):
    return shutil.disk_usage(folder).free


# -----------------------------------------------------------------------------------------------------------------
# Peers: installed once


def tool(name):
    """Where a Debian tool is, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def install_tools(*packages):
    missing = [package for package in packages if not tool(package.split("-")[0])]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if not tool("apt-get") or os.geteuid() != 0:
        fail(f"needs {', '.join(missing)}: {shown(command)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call(["apt-get", "update", "--quiet=2"], env=env)
    call(command, env=env)


def peers_python(scratch, install):
    """The Python that has the peers: $FOREBAY_BENCH_PYTHON, or an environment of the scratch folder; None without."""
    if python := os.environ.get("FOREBAY_BENCH_PYTHON"):
        return Path(python)
    folder = scratch / "loader-peers"
    if not install:
        python = folder / "bin" / "python"
        return python if python.exists() else None
    # torch is not installed twice: its environment lends its packages.
    return virtual_environment(folder, PINS["peers"], lend=install_torch(scratch)) / "python"
