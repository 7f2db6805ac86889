"""A machine of a chain or a tree: takes a file from its parent, and passes every block on to its children at once.

usage: relay.py FILE [--listen ADDRESS:PORT] [--child ADDRESS:PORT]...

Without --listen it is the root, and sends FILE; else FILE is written. Prints the moments (monotonic clock) at which
it began, imports done, and at which everything was here. No block is checked, and whoever dies takes all below with it.
"""
import argparse
import socket
import time

BLOCK = 256 << 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--listen")
    parser.add_argument("--child", action="append", default=[])
    args = parser.parse_args()
    begun = time.monotonic()
    if args.listen:
        with socket.create_server(place(args.listen)) as server:
            parent, _ = server.accept()
        source, kept = parent.makefile("rb", buffering=BLOCK), open(args.file, "wb")
    else:
        source, kept = open(args.file, "rb", buffering=0), None
    children = [connect(place(child)) for child in args.child]
    while block := source.read(BLOCK):
        if kept:
            kept.write(block)
        for child in children:
            child.sendall(block)
    if kept:
        kept.close()
    for child in children:
        child.shutdown(socket.SHUT_WR)
    print(begun, time.monotonic(), flush=True)
    time.sleep(3600)  # until it is told to end


def place(text):
    address, port = text.rsplit(":", 1)
    return address, int(port)


def connect(to):
    """A connection to a machine that starts just now."""
    for _ in range(500):
        try:
            return socket.create_connection(to)
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise SystemExit(f"{to} takes no connection")


main()
