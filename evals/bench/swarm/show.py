"""One load of many machines as a picture: the bytes that each of them has, by source, over time.

`Watch` reads the loaders' counters of workers that start; `draw` makes an SVG of what it saw. Knows nothing of networks'
rates: the caller says when the last machine could have been ready.
"""
import http.client
import re
import threading
import time

EVERY_S = 0.5
COUNTER = re.compile(r'^forebay_loader_bytes_total\{source="(\w+)"\} (\d+)', re.MULTILINE)
# Colours that keep apart in print and for the colour-blind, on light and on dark pages.
COLOURS = {"peers": "#3b82c4", "storage": "#e08a1e", "ink": "#808080"}
WIDTH, ROW, LEFT, TOP, RIGHT = 900, 22, 64, 56, 24


class Watch:
    """What every machine has had since it was made. `hosts` are network.Host; their workers listen at `port`."""

    def __init__(self, hosts, port):
        self.hosts, self.port, self.begun, self.ended = hosts, port, time.monotonic(), threading.Event()
        self.seen = {host.name: [(0.0, 0, 0)] for host in hosts}
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        connections = {}
        while not self.ended.wait(EVERY_S):
            for host in self.hosts:
                try:
                    if host.name not in connections:
                        connections[host.name] = http.client.HTTPConnection("127.0.0.1")
                        connections[host.name].sock = host.connect(self.port)
                    self.look(host.name, connections[host.name])
                except (OSError, http.client.HTTPException):
                    connections.pop(host.name, None)  # it starts only now

    def look(self, name, connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        by_source = {source: int(count) for source, count in COUNTER.findall(text)}
        peers = by_source.get("peer", 0)
        self.seen[name].append((time.monotonic() - self.begun, peers, sum(by_source.values()) - peers))


def draw(title, seen, ready, size, ideal_s):
    """An SVG: one row a machine, filled to its height when all `size` bytes are there. `ready` has the second at which each
    was ready, `ideal_s` is the second at which the last one could have been."""
    span = max([ideal_s, *ready.values()]) * 1.03
    plot = WIDTH - LEFT - RIGHT
    bottom = TOP + ROW * len(seen)

    def x(seconds):
        return round(LEFT + plot * min(seconds, span) / span, 1)

    def area(name, base, heights, colour):
        """The area between two lines over time."""
        up = [f"{x(at)},{round(base - (ROW - 4) * min(low / size, 1), 1)}" for at, low, _ in heights]
        down = [f"{x(at)},{round(base - (ROW - 4) * min(high / size, 1), 1)}" for at, _, high in heights]
        return f'<polygon fill="{colour}" points="{" ".join(up + down[::-1])}"><title>{name}</title></polygon>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}" font-family="sans-serif" font-size="11" '
           f'fill="{COLOURS["ink"]}">', f'<text x="{LEFT}" y="20" font-size="14">{title}</text>']
    for at, (label, colour) in enumerate((("from storage", "storage"), ("from other machines", "peers"))):
        left = LEFT + 130 * at
        out.append(f'<rect x="{left}" y="30" width="10" height="10" fill="{COLOURS[colour]}"/><text x="{left + 15}" y="39">{label}</text>')
    for row, (name, samples) in enumerate(seen.items()):
        base = TOP + ROW * (row + 1) - 2
        end = (ready[name], *samples[-1][1:])
        samples = [sample for sample in samples if sample[0] < ready[name]] + [end]
        out.append(f'<text x="{LEFT - 8}" y="{base - 4}" text-anchor="end">{name}</text>')
        out.append(f'<line x1="{LEFT}" x2="{x(span)}" y1="{base}" y2="{base}" stroke="{COLOURS["ink"]}" stroke-opacity="0.25"/>')
        out.append(area(f"{name}: from storage", base, [(at, 0, storage) for at, _, storage in samples], COLOURS["storage"]))
        both = [(at, storage, storage + peers) for at, peers, storage in samples]
        out.append(area(f"{name}: from other machines", base, both, COLOURS["peers"]))
        out.append(f'<line x1="{x(ready[name])}" x2="{x(ready[name])}" y1="{base - ROW + 4}" y2="{base}" stroke="{COLOURS["ink"]}" stroke-width="2"/>')
    out.append(f'<line x1="{x(ideal_s)}" x2="{x(ideal_s)}" y1="{TOP - 6}" y2="{bottom + 4}" stroke="{COLOURS["ink"]}" stroke-dasharray="4 3"/>')
    out.append(f'<text x="{x(ideal_s)}" y="{TOP - 9}" text-anchor="end">T* = {ideal_s:.1f} s</text>')
    for part in range(5):
        at = span * part / 4
        out.append(f'<text x="{x(at)}" y="{bottom + 20}" text-anchor="middle">{at:.0f} s</text>')
    return "\n".join([*out, "</svg>\n"])
