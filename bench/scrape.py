"""Scrapes of a node with 100 peers, over HTTP on loopback as Prometheus does: each peer answers, and so has a latency.

All of them are one other node under 100 names, because it is the names that make the lines. The goal is for the median:
beside it the node asks all of its peers every ten seconds, and whoever measures shares the processors with it.
"""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench.report import Row, finish
from dwcp.testing.lab import Lab, LabNode

PEERS = int(os.environ.get("BENCH_PEERS", 100))
SCRAPES = int(os.environ.get("BENCH_ROUNDS", 500))
GOAL_MS = 5.0
PATIENCE = 60.0
LOOK = 0.1


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dwcp-bench-") as name, Lab.up(Path(name), 2) as lab:
        node = lab.nodes[0]
        give_peers(node, PEERS)
        if not await_peers(node, PEERS):
            return 1
        connection = http.client.HTTPConnection(node.http_url.removeprefix("http://"), timeout=PATIENCE)
        times = []
        for _ in range(SCRAPES):
            began = time.perf_counter()
            content = _scrape(connection)
            times.append((time.perf_counter() - began) * 1000)
        connection.close()
    ranks = statistics.quantiles(times, n=100)
    # a ratio of 1 and more meets the goal, as with all other rows
    row = Row(f"scrape, {PEERS} peers: goal / median", "goal", "ms", GOAL_MS, statistics.median(times), 1.0)
    notes = [
        f"median {statistics.median(times):.2f} ms, p90 {ranks[89]:.2f} ms, p99 {ranks[98]:.2f} ms, "
        f"fastest {min(times):.2f} ms; {SCRAPES} scrapes of {len(content)} bytes in {len(content.splitlines())} lines"
    ]
    return finish("scrape", [row], notes)


def _scrape(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def give_peers(node: LabNode, count: int) -> None:
    """Its one peer under so many names."""
    config = yaml.safe_load(node.config_file.read_text())
    (peer,) = config["peers"].values()
    config["peers"] = {f"peer{number}": peer for number in range(count)}
    node.config_file.write_text(yaml.safe_dump(config))
    os.kill(node.pid, signal.SIGHUP)


def await_peers(node: LabNode, count: int) -> bool:
    """Whether all of them have answered in time."""
    connection = http.client.HTTPConnection(node.http_url.removeprefix("http://"), timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while _scrape(connection).count(b"dwcp_transport_latency_milliseconds{") < count:
        if time.monotonic() > deadline:
            print(f"not all {count} peers have answered after {PATIENCE:g} s", file=sys.stderr)
            return False
        time.sleep(LOOK)
    connection.close()
    return True


if __name__ == "__main__":
    sys.exit(main())
