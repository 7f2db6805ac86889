"""Hosts on one switch, each behind a link of a given rate: network namespaces of this machine.

Knows nothing of what is sent. Needs root and iproute2; whatever is made here goes with the `with` that made it. Rates are
megabits a second, the same in both directions, and count what Ethernet carries (frames, not their payload).
"""
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from process import fail  # noqa: E402

NETWORK = "10.77.0"
OUTSIDE = 254  # this process's own address
# What a switch holds back before it drops: without it one burst of a sender costs retransmissions, and with much
# more of it a packet waits for ever.
QUEUE_MS = 50


def ip(*arguments, namespace=None):
    command = ["ip", *(["-n", namespace] if namespace else []), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(command)}: {done.stderr.strip() or done.returncode} (root and iproute2 are needed)")
    return done.stdout


class Network:
    """A switch; `host` adds a machine to it."""

    def __init__(self, mtu=1500):
        self.mtu = mtu
        self.prefix = f"fb{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.hosts = []

    def __enter__(self):
        ip("netns", "add", self.switch)
        ip("link", "add", "switch", "type", "bridge", namespace=self.switch)
        ip("link", "set", "switch", "up", namespace=self.switch)
        # This process is on it too, without a limit: it asks who is ready, and nothing else.
        outside = f"{self.prefix}o"[:15]
        ip("link", "add", outside, "type", "veth", "peer", "name", "outside", "netns", self.switch)
        ip("link", "set", "outside", "master", "switch", "up", namespace=self.switch)
        ip("address", "add", f"{NETWORK}.{OUTSIDE}/24", "dev", outside)
        ip("link", "set", outside, "up")
        self.outside = outside
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "link", "delete", self.outside], capture_output=True)
        for namespace in [host.namespace for host in self.hosts] + [self.switch]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

    def host(self, name, mbit=None):
        """A machine whose link carries `mbit` megabits a second either way; without it, all it can."""
        host = Host(self, name, len(self.hosts) + 1, mbit)
        self.hosts.append(host)
        return host


class Host:
    """A machine on the switch: an address, and a place to run commands at."""

    def __init__(self, network, name, number, mbit):
        self.name, self.address, self.port = name, f"{NETWORK}.{number}", f"port{number}"
        self.network, self.namespace = network, f"{network.prefix}-{name}"
        ip("netns", "add", self.namespace)
        ip("link", "add", "eth0", "netns", self.namespace, "type", "veth", "peer", "name", self.port, "netns",
           network.switch)
        ip("link", "set", "eth0", "mtu", network.mtu, namespace=self.namespace)
        ip("link", "set", self.port, "mtu", network.mtu, namespace=network.switch)
        ip("link", "set", "lo", "up", namespace=self.namespace)
        ip("address", "add", f"{self.address}/24", "dev", "eth0", namespace=self.namespace)
        ip("link", "set", "eth0", "up", namespace=self.namespace)
        ip("link", "set", self.port, "master", "switch", "up", namespace=network.switch)
        if mbit:
            self.limit(mbit)

    def limit(self, mbit):
        """Sets the link's rate, from now on."""
        for namespace, device in ((self.namespace, "eth0"), (self.network.switch, self.port)):
            # The bucket holds what comes in 4 ms, and never less than one large segment.
            burst = max(int(mbit * 1e6 / 8 * 0.004), 70_000)
            shape = ["tbf", "rate", f"{mbit}mbit", "burst", burst, "latency", f"{QUEUE_MS}ms"]
            command = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *map(str, shape)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                fail(f"{' '.join(command)}: {done.stderr.strip()}")

    def command(self, command):
        """`command` as it is run at this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    def connect(self, port):
        """A connection to a port of this host's own loopback."""
        made = []

        def enter():
            # A thread is moved into the namespace and ends there; its socket stays.
            with open(f"/run/netns/{self.namespace}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
                    return
            try:
                made.append(socket.create_connection(("127.0.0.1", port), timeout=2))
            except OSError:
                pass

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if not made:
            raise ConnectionRefusedError(f"{self.name} does not listen at {port}")
        return made[0]

    def received(self):
        """Bytes that the switch has sent to this host, counted at its interface."""
        return self._counted("tx")

    def sent(self):
        """Bytes that this host has sent, counted at the switch's interface."""
        return self._counted("rx")

    def _counted(self, direction):
        told = json.loads(ip("-json", "-statistics", "link", "show", self.port, namespace=self.network.switch))
        return told[0]["stats64"][direction]["bytes"]
