"""Child processes of the benchmarks, and what every benchmark says and installs alike.

Knows nothing of what is measured. Whatever is started here is ended by stop_children(), also on error or interrupt.
"""
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = ["torch==2.15.0", "transformers==5.23.0", "numpy"]  # one environment for the peers of all benchmarks

CHILDREN = []


def start(command, **how):
    """Starts a process in its own group; whatever happens, stop_children ends it."""
    child = subprocess.Popen([str(c) for c in command], start_new_session=True, **how)
    CHILDREN.append(child)
    return child


def stop_children():
    for child in CHILDREN:
        stop(child)


def stop(child):
    """Ends a process and its group: asked first, then made to."""
    for sig, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        if child.poll() is not None:
            return
        try:
            os.killpg(child.pid, sig)
            child.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def call(command, capture=False, **how):
    """Runs a step of the preparation, shown and with its output on stderr; or quietly, and returns what it printed."""
    if not capture:
        note(f"$ {shown(command)}")
    child = start(command, text=True, stdout=subprocess.PIPE if capture else sys.stderr,
                  stderr=subprocess.PIPE if capture else None, **how)
    out, err = child.communicate()
    if child.returncode != 0:
        fail(f"{shown(command)} ended with {child.returncode}\n{((out or '') + (err or ''))[-2000:]}")
    return out


def environment(more):
    """This process's environment with `more` in it."""
    return {**os.environ, **{k: str(v) for k, v in more.items()}}


def peak_bytes(child):
    """The most memory a running process has had, mapped files included."""
    with open(f"/proc/{child.pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def read_files(paths):
    """Reads files just before they are needed: unmapped page cache is dropped soon after its last use."""
    buffer = bytearray(1 << 22)
    for path in paths:
        if path.is_file():
            with open(path, "rb", buffering=0) as f:
                while f.readinto(buffer):
                    pass


def virtual_environment(folder, packages, lend=None):
    """A virtual environment with these packages; an existing one is taken as it is. Returns its bin folder.

    `lend` is the Python of another environment whose packages it sees, so that what is large is installed once.
    """
    if not (folder / "bin" / "python").exists():
        site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        try:
            call([sys.executable, "-m", "venv", folder])
            if lend:
                (folder / site / "lent.pth").write_text(f"{(lend.parent.parent / site).resolve()}\n")
            call([folder / "bin" / "pip", "install", "--quiet", *packages])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # half an environment would be taken as whole next time
            raise
    return folder / "bin"


def install_torch(scratch):
    """The Python that has torch and transformers."""
    return virtual_environment(scratch / "torch", TORCH) / "python"


def shown(command):
    return shlex.join(str(c) for c in command)


def note(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    """Ends the benchmark; its folder names it."""
    sys.exit(f"{Path(sys.argv[0]).resolve().parent.name} benchmark: {text}")
