"""A machine of a BitTorrent swarm, by libtorrent: TCP, no tracker, no DHT; everybody knows everybody's address.

usage: bittorrent.py TORRENT FOLDER --listen ADDRESS:PORT [--make FILE] [--super] [--peer ADDRESS:PORT]...

--make writes TORRENT for FILE, which lies in FOLDER, and gives it to the others; --super gives each piece to one of them
first, as far as it can. Prints the moments (monotonic clock) at which it began,
imports done, and at which everything was here, then goes on giving.
"""
import argparse
import os
import time
from pathlib import Path

import libtorrent

PIECE = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torrent", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--super", action="store_true")
    parser.add_argument("--peer", action="append", default=[])
    args = parser.parse_args()
    begun = time.monotonic()
    if args.make:
        make(args.make, args.torrent)
    session = libtorrent.session({
        "listen_interfaces": args.listen, "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "enable_outgoing_utp": False, "enable_incoming_utp": False, "alert_mask": 0, "unchoke_slots_limit": 8,
        "max_out_request_queue": 1500, "send_buffer_watermark": 4 << 20, "allow_multiple_connections_per_ip": True,
        "connection_speed": 100, "in_enc_policy": int(libtorrent.enc_policy.disabled),
        "out_enc_policy": int(libtorrent.enc_policy.disabled),
    })
    wanted = libtorrent.add_torrent_params()
    wanted.ti, wanted.save_path = libtorrent.torrent_info(str(args.torrent)), str(args.folder)
    wanted.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if args.make:
        wanted.flags |= libtorrent.torrent_flags.seed_mode
    if args.super:
        wanted.flags |= libtorrent.torrent_flags.super_seeding
    torrent = session.add_torrent(wanted)
    for peer in args.peer:
        address, port = peer.rsplit(":", 1)
        torrent.connect_peer((address, int(port)))
    while not torrent.status().is_seeding:
        time.sleep(0.02)
    print(begun, time.monotonic(), flush=True)
    time.sleep(3600)  # until it is told to end


def make(file, torrent):
    files = libtorrent.file_storage()
    libtorrent.add_files(files, os.fspath(file))
    made = libtorrent.create_torrent(files, piece_size=PIECE, flags=libtorrent.create_torrent.v1_only)
    libtorrent.set_piece_hashes(made, os.fspath(file.parent))
    torrent.write_bytes(libtorrent.bencode(made.generate()))


main()
