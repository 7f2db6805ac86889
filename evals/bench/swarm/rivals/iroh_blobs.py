"""A machine that gets a file by iroh-blobs (QUIC, BLAKE3 verified streams): from the first of the named ones that has it.

usage: iroh_blobs.py FOLDER --listen ADDRESS:PORT [--add FILE] [--ticket FILE] [--from FILE]...

--add takes FILE in and writes its hash; --ticket is where this machine writes its address; --from names files with the hash
and addresses of machines to ask. Prints the moments (monotonic clock) at which it began,
imports done, and at which everything was here, then goes on giving.
"""
import argparse
import asyncio
import json
import time
from pathlib import Path

import iroh


class Heard(iroh.AddCallback):
    def __init__(self):
        self.hash = asyncio.get_running_loop().create_future()

    async def progress(self, progress):
        if progress.type() == iroh.AddProgressType.ALL_DONE:
            self.hash.set_result(progress.as_all_done().hash)
        elif progress.type() == iroh.AddProgressType.ABORT:
            self.hash.set_exception(SystemExit(progress.as_abort().error))


class Fetched(iroh.DownloadCallback):
    def __init__(self):
        self.is_done = asyncio.get_running_loop().create_future()

    async def progress(self, progress):
        if progress.type() == iroh.DownloadProgressType.ALL_DONE:
            self.is_done.set_result(True)
        elif progress.type() == iroh.DownloadProgressType.ABORT:
            self.is_done.set_exception(SystemExit(progress.as_abort().error))


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--add", type=Path)
    parser.add_argument("--ticket", type=Path)
    parser.add_argument("--from", dest="sources", action="append", default=[], type=Path)
    args = parser.parse_args()
    begun = time.monotonic()
    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    options = iroh.NodeOptions(ipv4_addr=args.listen, node_discovery=iroh.NodeDiscoveryConfig.NONE)
    node = await iroh.Iroh.persistent_with_options(args.folder, options)
    wanted = None
    if args.add:
        heard = Heard()
        await node.blobs().add_from_path(str(args.add.resolve()), True, iroh.SetTagOption.auto(), iroh.WrapOption.no_wrap(), heard)
        wanted = (await heard.hash).to_hex()
    if args.ticket:
        told = {"node": await node.net().node_id(), "address": args.listen, "hash": wanted}
        args.ticket.with_suffix(".partial").write_text(json.dumps(told))
        args.ticket.with_suffix(".partial").rename(args.ticket)
    if args.sources:
        told = [json.loads(source.read_text()) for source in args.sources]
        nodes = [iroh.NodeAddr(iroh.PublicKey.from_string(one["node"]), None, [one["address"]]) for one in told]
        fetched = Fetched()
        how = iroh.BlobDownloadOptions(iroh.BlobFormat.RAW, nodes, iroh.SetTagOption.auto())
        await node.blobs().download(iroh.Hash.from_string(told[0]["hash"]), how, fetched)
        await fetched.is_done
    print(begun, time.monotonic(), flush=True)
    await asyncio.sleep(3600)  # until it is told to end


asyncio.run(main())
