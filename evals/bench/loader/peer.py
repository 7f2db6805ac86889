#!/usr/bin/env python3
"""One load by one peer of the loader benchmark; prints one JSON object: seconds, cpu_seconds, bytes, digest.

  peer.py NAME WHERE --files a.safetensors:SIZE … [--connections N] [--request-bytes N] [--to DIR]

WHERE is http://host:port/dir/ (curl, hf_transfer), s3://bucket/prefix/ (runai, runai_own, boto3) or a directory
(safetensors, fastsafetensors, tensorizer, expected). Every peer ends with all weights in memory or in a file of the
page cache, and has read and checksummed every byte with XXH3-64, the fastest checksum there is for Python (30 GB/s
here; the loader it is compared with pays for BLAKE3). The clock runs from the first call of the peer's library to the
last checksum: starting Python and importing is not counted. `digest` is over the checksums by tensor (readers of
tensors) or by part (readers of files), so two peers that read the same bytes the same way must print the same.
"""
import argparse
import contextlib
import json
import mmap
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART = 8 << 20  # bytes of one checksum where a file is read as a file


def main():
    args = read_args()
    import xxhash  # noqa: F401 (importing is not part of any peer's time)
    load = PEERS[args.peer](args)  # imports what the peer needs, and makes ready what is made once per machine
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        before, started = cpu(), time.monotonic()
        checksums, kept = load()
        seconds, spent = time.monotonic() - started, cpu() - before
    total = sum(size for _, size in args.files)
    say = {"peer": args.peer, "seconds": seconds, "cpu_seconds": spent, "bytes": total, "digest": digest(checksums),
           "peak_memory_bytes": peak_bytes()}
    print(json.dumps(say), flush=True)
    del kept
    os._exit(0)  # without waiting for clean-up in libraries


def read_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("where")
    parser.add_argument("--files", nargs="+", required=True, metavar="NAME:SIZE")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--request-bytes", type=int, default=0, help="the largest range asked for (0: the peer's own)")
    parser.add_argument("--to", type=Path, help="where peers that write files write them")
    args = parser.parse_args()
    args.files = [(name, int(size)) for name, size in (f.rsplit(":", 1) for f in args.files)]
    return args


def cpu():
    """CPU-seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_bytes():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


# -----------------------------------------------------------------------------------------------------------------
# Checksums


def checksum(data):
    import xxhash

    return xxhash.xxh3_64_intdigest(data)


def digest(checksums):
    import xxhash

    return xxhash.xxh3_64_hexdigest(json.dumps(sorted(checksums.items())).encode())


def checksum_tensor(tensor):
    """Of a torch tensor's bytes, where they lie."""
    import torch

    return checksum(memoryview(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()))


def checksum_file(path):
    """By parts, on two threads (hashing lets go of Python's lock), read through a mapping."""
    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    view, name = memoryview(mapped), Path(path).name
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(0, len(view), PART)
        sums = pool.map(lambda at: (f"{name}@{at}", checksum(view[at:at + PART])), starts)
        return dict(sums)


def checksum_files(folder, files):
    sums = {}
    for name, _ in files:
        sums |= checksum_file(Path(folder) / name)
    return sums


# -----------------------------------------------------------------------------------------------------------------
# Over HTTP and S3


def curl(args):
    """N curl processes, each with one connection, write a file each; then as hf_transfer."""
    lists = shares(args.files, args.connections)

    def load():
        children = [curl_share(args, parts, args.to / f"share{i}") for i, parts in enumerate(lists)]
        if any(child.wait() for child in children):
            sys.exit("curl: one of them failed")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sums = {}
            for some in pool.map(lambda i: checksum_share(lists[i], args.to / f"share{i}"), range(len(lists))):
                sums |= some
        return sums, None

    return load


def shares(files, count):
    """Parts of all files as (name, start, end), dealt into `count` runs of neighbours."""
    parts = [(name, at, min(at + PART, size)) for name, size in files for at in range(0, size, PART)]
    each = -(-len(parts) // count)
    return [parts[i:i + each] for i in range(0, len(parts), each)]


def curl_share(args, parts, path):
    """One curl fetches these parts over one connection: neighbours in one request, up to --request-bytes."""
    requests = []
    for name, start, end in parts:
        last = requests[-1] if requests else None
        if last and last[0] == name and last[2] == start and not 0 < args.request_bytes < end - last[1]:
            last[2] = end
        else:
            requests.append([name, start, end])
    options = "fail\nsilent\nretry = 5\n"
    told = "next\n".join(f'{options}url = "{args.where}{name}"\nrange = {start}-{end - 1}\noutput = "-"\n'
                         for name, start, end in requests)
    with open(path, "wb") as out:
        child = subprocess.Popen(["curl", "--config", "-"], stdin=subprocess.PIPE, stdout=out)
    child.stdin.write(told.encode())
    child.stdin.close()
    return child


def checksum_share(parts, path):
    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    view, at, sums = memoryview(mapped), 0, {}
    for name, start, end in parts:
        sums[f"{name}@{start}"] = checksum(view[at:at + end - start])
        at += end - start
    return sums


def hf_transfer(args):
    """Writes files (that is all it can), then they are read back from the page cache."""
    import hf_transfer as library

    def load():
        for name, _ in args.files:
            library.download(args.where + name, str(args.to / name), max_files=args.connections,
                             chunk_size=args.request_bytes or 10 << 20, parallel_failures=args.connections - 1,
                             max_retries=5)
        return checksum_files(args.to, args.files), None

    return load


def boto3(args):
    """download_file, boto3's own parallel download, with as many threads as connections; then as hf_transfer.

    Its other transfer client (CRT) speaks only TLS.
    """
    import boto3 as library
    from boto3.s3.transfer import TransferConfig

    bucket, prefix = args.where.removeprefix("s3://").split("/", 1)

    def load():
        client = library.client("s3")
        size = args.request_bytes or 8 << 20
        config = TransferConfig(max_concurrency=args.connections, multipart_chunksize=size, multipart_threshold=size)
        for name, _ in args.files:
            client.download_file(bucket, prefix + name, str(args.to / name), Config=config)
        return checksum_files(args.to, args.files), None

    return load


def runai(args, own=False):
    """SafetensorsStreamer; each tensor is kept, and checksummed as it is handed out.

    By itself it runs 8 clients with as many connections as each likes (`runai_own`); one client held to --connections,
    with nothing else held back, is the equal of the others.
    """
    equal = {"OBJ_CONCURRENCY": "1", "S3_MAX_CONNECTIONS": str(args.connections), "S3_TARGET_GBPS": "100"}
    for name, value in ({} if own else equal).items():
        os.environ.setdefault(f"RUNAI_STREAMER_{name}", value)
    os.environ.setdefault("RUNAI_STREAMER_LOG_LEVEL", "ERROR")
    from runai_model_streamer import SafetensorsStreamer

    def load():
        sums, kept = {}, []
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([args.where + name for name, _ in args.files])
            for name, tensor in streamer.get_tensors():
                sums[name] = checksum_tensor(tensor)
                kept.append(tensor)
        return sums, kept

    return load


# -----------------------------------------------------------------------------------------------------------------
# From disk


def safetensors(args):
    """safe_open: maps the file; the checksum is what reads it."""
    from safetensors import safe_open

    def load():
        sums, kept = {}, []
        for name, _ in args.files:
            with safe_open(Path(args.where) / name, framework="pt") as f:
                for key in f.keys():
                    tensor = f.get_tensor(key)
                    sums[key] = checksum_tensor(tensor)
                    kept.append(tensor)
        return sums, kept

    return load


def fastsafetensors(args):
    """SafeTensorsFileLoader without GDS into CPU memory."""
    import torch
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load():
        loader = SafeTensorsFileLoader(SingleGroup(), torch.device("cpu"), nogds=True)
        loader.add_filenames({0: [str(Path(args.where) / name) for name, _ in args.files]})
        kept = loader.copy_files_to_device()
        keys = loader.get_keys()
        return {key: checksum_tensor(kept.get_tensor(key)) for key in keys}, kept

    return load


def tensorizer(args):
    """Reads its own format; `tensorize` writes it beside, once."""
    from tensorizer import TensorDeserializer

    path = args.to / "model.tensors"

    def load():
        readers = min(args.connections, os.cpu_count())
        kept = TensorDeserializer(path, device="cpu", lazy_load=False, num_readers=readers)
        return {key: checksum_tensor(kept[key]) for key in kept.keys()}, kept

    return load


def tensorize(args):
    """Not a peer: converts the model to tensorizer's format in --to."""
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    def load():
        serializer = TensorSerializer(args.to / "model.tensors.partial")
        for name, _ in args.files:
            serializer.write_state_dict(load_file(Path(args.where) / name))
        serializer.close()
        os.replace(args.to / "model.tensors.partial", args.to / "model.tensors")
        return {}, None

    return load


def expected(args):
    """Not a peer: what readers of files must print."""
    return lambda: (checksum_files(args.where, args.files), None)


PEERS = {"curl": curl, "hf_transfer": hf_transfer, "boto3": boto3, "runai": runai,
         "runai_own": lambda args: runai(args, own=True), "safetensors": safetensors,
         "fastsafetensors": fastsafetensors, "tensorizer": tensorizer, "tensorize": tensorize, "expected": expected}

if __name__ == "__main__":
    main()
